"""Says in words for people what a validator found, and where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from ..printing import line
from ..values import dump, mapping, sequence

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


def told(error: Any) -> Iterator[tuple[str, str]]:
    """A validator's error, for people."""
    pointer = _pointer(error.absolute_path)
    keyword, wanted, instance = error.validator, error.validator_value, error.instance
    if keyword == "required" and isinstance(instance, dict):
        for name in sequence(wanted):
            if name not in instance:
                yield f"{pointer}/{_escaped(name)}", "is missing"
    elif keyword == "additionalProperties":
        yield pointer, f"is not declared{_hint(error)}"
    elif keyword == "type":
        kinds = wanted if isinstance(wanted, list) else [wanted]
        allowed = [line(str(kind), 40) for kind in kinds]
        yield pointer, f"is {shown_value(instance)}, and must be {' or '.join(allowed[:10])}"
    elif keyword in ("enum", "const"):
        allowed = [line(dump(one), 40) for one in (wanted if keyword == "enum" else [wanted])]
        yield pointer, f"is {shown_value(instance)}, and must be {' or '.join(allowed[:10])}"
    elif keyword in ("anyOf", "oneOf") and error.context:
        yield pointer, "fits none of its alternatives"
        yield from told(_nearest(error.context))
    else:
        yield pointer, line(error.message, 200)


def listed(names: Iterable[str]) -> str:
    """The first of `names`."""
    shown = [line(name, 60) for name in names]
    return ", ".join(shown[:10]) + (", ..." if len(shown) > 10 else "")


def _hint(error: Any) -> str:
    """A hint at the declared name that is meant."""
    name, declared = str(error.path[-1]), mapping(mapping(error.schema).get("properties"))
    near = get_close_matches(name[:100], [key[:100] for key in declared][:200], 1)
    return f'; is it "{line(near[0], 100)}"?' if near else f": there are {listed(declared)}" if declared else ""


def _nearest(errors: Iterable[Any]) -> Any:
    """The first error of the alternative that fits best: by type, then by `const` and `enum`, then by errors."""
    branches: dict[Any, list[Any]] = {}
    for error in errors:
        branches.setdefault(error.schema_path[0], []).append(error)

    def misses(branch: list[Any]) -> tuple[int, int, int]:
        kinds = sum(not one.path and one.validator == "type" for one in branch)
        marks = sum(one.validator in ("const", "enum") for one in branch)
        return kinds, marks, len(branch)

    return min(branches.values(), key=misses)[0]


def _pointer(path: Iterable[Any]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{_escaped(step)}" for step in path)


def _escaped(step: Any) -> str:
    return line(str(step).replace("~", "~0").replace("/", "~1"), 100)


def shown_value(value: Any) -> str:
    """`value` in short, and what it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a number beyond what computers count with"
    kind = "null" if value is None else _KINDS.get(type(value), "?")
    return kind if isinstance(value, (dict, list)) or value is None else f"{line(dump(value), 40)} ({kind})"
