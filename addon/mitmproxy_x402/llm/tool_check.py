"""Checks the tool calls of an answer against the tools that its request declares.

Names are looked up, and arguments are held against the tools' JSON schemas, by jsonschema. Both come from strangers: no
schema is fetched from anywhere, a regular expression of theirs is run only where it cannot take long, and the work is
bounded.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from .printing import line
from .reading import Misfit, Reading, ToolCall
from .request.asking import RequestReading, Tool
from .request.tools import MAX_TOOLS, plain_schema
from .values import dump, mapping, sequence

MAX_MISFITS = 20
"""Misfits of one call that are told."""
MAX_ARGUMENTS = 256 * 1024
"""Characters of arguments that are checked."""
MAX_STEPS = 10_000
"""Keywords that are looked at for one call, each some ten microseconds."""
MAX_ALL_STEPS = 100_000
"""The same for all calls of an answer together."""
MAX_DEPTH = 160
"""Keywords within keywords of a schema; of $defs that refer to each other, each counts."""
MAX_UNCHECKED = 20
"""Reasons for which something was not checked that are told."""
MAX_ALL_MISFITS = 1000
"""Misfits of one answer that are told."""
_MAX_UNIQUE = 1000
_UNKNOWN = 100
"""Steps that a search for a similar name counts as."""
_SKIPPED = frozenset(("format", "unevaluatedProperties", "unevaluatedItems", "contentSchema"))
"""Keywords that are not checked: they say nothing that binds, or take too long."""
_MAX_PATTERN = 200_000
"""Most steps of one match of a regular expression, by the worst case; others are not checked."""
_STEPS_OF_PATTERN = 1000
"""Steps of a regular expression that count as one of a schema."""
_QUANTIFIER = re.compile(r"\*|\+|\?|\{(\d{1,3})(,(\d{1,3})?)?\}")
_KEPT = ("previous_response_id", "prompt.id", "assistant_id", "conversation", "previous_interaction_id")
"""Parameters of requests whose tools may be kept at the vendor's."""
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


def checked(reading: Reading, asked: RequestReading | None) -> Reading:
    """`reading` with what does not fit the tools that the request declares; as it is where none is known."""
    if asked is None or not reading.tool_calls:
        return reading
    found: list[Misfit] = []
    tools = _Tools(asked)
    for number, call in enumerate(reading.tool_calls, 1):
        if call.kind not in ("function", "custom"):
            continue
        if tools.steps > MAX_ALL_STEPS or len(found) > MAX_ALL_MISFITS:
            tools.leave(call.name, f"tool call {number} and those after it: it is too much")
            break
        found += _misfits(number, call, tools)
    return replace(reading, misfits=tuple(found), unchecked=(*reading.unchecked, *tools.unchecked))


class _Tools:
    """The tools of one request, and what checking calls of them has taken."""

    def __init__(self, asked: RequestReading) -> None:
        self.asked = asked
        self.steps = 0
        self.unchecked: dict[str, None] = {}
        self._by_name: dict[str, Tool] = {}
        self._schemas: dict[str, Any] = {}
        for tool in asked.tools:
            self._by_name.setdefault(tool.name, tool)

    def of(self, name: str) -> Tool | None:
        """The first tool of that name."""
        return self._by_name.get(name)

    def leave(self, name: str, why: str) -> None:
        """Note what of calls of the tool `name` was not checked, and why."""
        if len(self.unchecked) < MAX_UNCHECKED:
            self.unchecked[f"{line(name, 60)}: {why}"] = None

    def schema(self, tool: Tool) -> Any:
        """Its schema in JSON Schema's words; made once."""
        if tool.name not in self._schemas:
            self._schemas[tool.name] = plain_schema(tool.schema)
        return self._schemas[tool.name]


def _misfits(number: int, call: ToolCall, tools: _Tools) -> Iterator[Misfit]:
    tool = tools.of(call.name)
    if tool is None:
        tools.steps += _UNKNOWN
        yield from _unknown(number, call, tools.asked)
        return
    if tool.schema is None or call.parsed is None:
        return
    if len(call.arguments) > MAX_ARGUMENTS:
        tools.leave(call.name, f"its arguments have more than {MAX_ARGUMENTS:,} characters")
        return
    work = _Work()
    problems = _problems(call.parsed, tools.schema(tool), work)
    tools.steps += work.steps
    for why in work.unchecked:
        tools.leave(call.name, why)
    for told, (pointer, problem) in enumerate(dict.fromkeys(problems)):
        if told == MAX_MISFITS:
            yield Misfit(number, call.name, "", "and more")
            return
        yield Misfit(number, call.name, pointer, problem)


def _unknown(number: int, call: ToolCall, asked: RequestReading) -> Iterator[Misfit]:
    """Yield a misfit for a call of an undeclared tool, unless the vendor may keep tools for the request."""
    names = _named(asked.tools)
    if not call.name or len(asked.tools) >= MAX_TOOLS or any(name in _KEPT for name, _ in asked.parameters):
        return
    if not names:
        if asked.without_tools:
            yield Misfit(number, call.name, "", "the request declares no tools at all")
        return
    near = get_close_matches(call.name[:100], names, 1)
    hint = f'; is it "{line(near[0], 100)}"?' if near else f": it has {_listed(names)}"
    yield Misfit(number, call.name, "", f"the request declares no such tool{hint}")


def _named(tools: Iterable[Tool]) -> list[str]:
    return [tool.name[:100] for tool in tools if tool.kind in ("function", "custom")][:200]


def _listed(names: Iterable[str]) -> str:
    listed = [line(name, 60) for name in names]
    return ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")


# Arguments against a schema.


@dataclass
class _Work:
    """What checking one call has taken so far."""

    steps: int = 0
    depth: int = 0
    """Keywords within keywords that are being checked now."""
    unchecked: dict[str, None] = field(default_factory=dict)
    """What was left out, and why."""


_work: ContextVar[_Work] = ContextVar("work")


class _TooMuch(Exception):
    """The schema takes too many steps."""


class _Unusable(Exception):
    """A keyword of the schema has an invalid value; the text says which."""


def _problems(value: Any, schema: Any, work: _Work) -> list[tuple[str, str]]:
    """Pointer and problem of each place in `value` that `schema` does not allow; `work` is what it took."""
    _work.set(work)
    found: list[tuple[str, str]] = []
    try:
        for error in _validator(schema).iter_errors(value):
            found += _told(error)
            if len(found) > MAX_MISFITS:
                break
    except _TooMuch:
        work.unchecked["the arguments are too much for its schema to be checked to their end"] = None
    except RecursionError:
        work.unchecked["its schema leads to itself, or is nested too deeply"] = None
    except ModuleNotFoundError as error:  # recordings are read without our dependencies, too
        work.unchecked[f"the package {error.name} is not installed"] = None
    except _Unusable as error:
        found.append(("", f"the schema cannot be used: {error}"))
    except Exception as error:
        found.append(("", f"the schema cannot be used: {line(f'{type(error).__name__}: {error}', 160)}"))
    return found


_DRAFTS = {"draft-04": "Draft4Validator", "draft-06": "Draft6Validator", "draft-07": "Draft7Validator"}


def _validator(schema: Any) -> Any:
    import referencing  # noqa: PLC0415  (a tenth of a second)

    declared = mapping(schema).get("$schema")
    known = (name for draft, name in _DRAFTS.items() if isinstance(declared, str) and draft in declared)
    return _bounded(next(known, "Draft202012Validator"))(schema, registry=referencing.Registry())


@cache
def _bounded(name: str) -> Any:
    """A validator that counts its steps, and leaves out what is not checked here."""
    import jsonschema  # type: ignore[import-untyped]  # noqa: PLC0415

    base: Any = getattr(jsonschema, name)
    checks = {**base.VALIDATORS, "multipleOf": _multiple_of, "pattern": _pattern}
    checks |= {"patternProperties": _pattern_properties, "additionalProperties": _additional_properties}
    if name == "Draft202012Validator":  # many schemas have an older draft's lists, and do not say so
        checks |= {
            "items": _items(checks["items"]),
            "additionalItems": jsonschema.Draft7Validator.VALIDATORS["additionalItems"],
        }
    keywords: dict[str, Any] = {
        key: _left_out(key) if key in _SKIPPED else _counted(key, check) for key, check in checks.items()
    }
    checker = jsonschema.validators.extend(base, keywords)
    checker.descend = _descend(checker.descend)
    return checker


def _descend(within: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """The step from a schema to one within it. jsonschema does not say where it is if that one is `false`."""
    import jsonschema  # noqa: PLC0415

    def descend(self: Any, instance: Any, schema: Any, path: Any = None, schema_path: Any = None, **more: Any) -> Any:
        if schema is False:
            at, by = ([] if step is None else [step] for step in (path, schema_path))
            problem = f"is {_shown(instance)}, and its schema is false, which allows nothing"
            yield jsonschema.ValidationError(problem, path=at, schema_path=by, instance=instance, schema=schema)
        else:
            yield from within(self, instance, schema, path=path, schema_path=schema_path, **more)

    return descend


def _counted(key: str, check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        work = _work.get()
        work.steps += 1
        if work.steps > MAX_STEPS:
            raise _TooMuch
        if work.depth >= MAX_DEPTH:  # whatever the interpreter's own limit is
            raise RecursionError("it leads to itself, or is nested too deeply")
        if key == "uniqueItems" and len(sequence(instance)) > _MAX_UNIQUE:
            return
        work.depth += 1
        try:
            yield from check(validator, value, instance, schema) or ()
        except (TypeError, AttributeError):
            raise _Unusable(f"its {line(key, 40)} is {_shown(value)}") from None
        finally:
            work.depth -= 1

    return counted


def _items(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """`items` of a recent draft, which takes lists as the drafts before it did."""

    def items(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not isinstance(value, list):
            yield from check(validator, value, instance, schema) or ()
            return
        for number, (one, inner) in enumerate(zip(sequence(instance), value, strict=False)):
            yield from validator.descend(one, inner, path=number, schema_path=number)

    return items


def _multiple_of(_: Any, value: Any, instance: Any, __: Any) -> Iterator[Any]:
    """`multipleOf`, exact in decimal, not in binary floats."""
    import jsonschema  # noqa: PLC0415

    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (value, instance)) or value <= 0:
        return
    try:
        rest = Fraction(repr(instance)) % Fraction(repr(value))
    except ValueError:  # infinite
        return
    if rest:
        yield jsonschema.ValidationError(f"is {line(repr(instance), 40)}, and must be a multiple of {value}")


def _pattern(_: Any, value: Any, instance: Any, __: Any) -> Iterator[Any]:
    import jsonschema  # noqa: PLC0415

    if isinstance(instance, str) and isinstance(value, str) and _matches(value, instance) is False:
        yield jsonschema.ValidationError(f"is {_shown(instance)}, and must match {line(value, 60)}")


def _pattern_properties(validator: Any, value: Any, instance: Any, _: Any) -> Iterator[Any]:
    for pattern, inner in mapping(value).items():
        for name, one in mapping(instance).items():
            if _matches(pattern, name):
                yield from validator.descend(one, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    import jsonschema  # noqa: PLC0415

    declared, patterns = mapping(schema.get("properties")), mapping(schema.get("patternProperties"))
    for name, one in mapping(instance).items():
        if name in declared or any(_matches(pattern, name) is not False for pattern in patterns):
            continue
        if value is False:
            yield jsonschema.ValidationError("is not declared", path=[name])
        elif isinstance(value, dict):
            yield from validator.descend(one, value, path=name)


def _matches(pattern: str, text: str) -> bool | None:
    """Whether `text` matches a stranger's regular expression; None: that could take long, or mean something else here.

    Outside of ASCII, and at line ends, Python's classes and anchors are not those of JSON Schema.
    """
    if not text.isascii() or "\n" in text:
        _untried(pattern, "on text with line ends, or beyond ASCII, which engines match differently")
        return None
    compiled = _compiled(pattern)
    if compiled is None:
        _untried(pattern, "since it could take long, or is no expression that every engine knows")
        return None
    expression, factors = compiled
    cost = (len(text) + 1) * (len(pattern) + 1)
    for most in factors:
        cost *= min(most, len(text) + 1)
        if cost > _MAX_PATTERN:
            _untried(pattern, f"on {len(text):,} characters, since that could take long")
            return None
    _work.get().steps += cost // _STEPS_OF_PATTERN
    return expression.search(text) is not None


def _untried(pattern: str, why: str) -> None:
    unchecked = _work.get().unchecked
    if len(unchecked) < MAX_UNCHECKED:
        unchecked[f"the pattern {line(pattern, 60)} is not tried {why}"] = None


@lru_cache(64)
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[int, ...]] | None:
    """The compiled expression, and in how many ways each part can match; None: that is not easy to tell.

    Groups that are repeated, references back and looks around are what takes for ever, and is left out.
    """
    if len(pattern) > 200 or not pattern.isascii():
        return None
    plain = re.sub(r"\\[^0-9kpP]", "x", pattern)
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "x", plain)
    if "\\" in plain or re.search(r"\(\?(?!:)|\)[*+?{]", plain):
        return None
    factors = [2] * plain.count("|")
    for found in _QUANTIFIER.finditer(plain.replace("(?:", "(")):
        least, comma, most = found.groups()
        if comma or least is None:
            factors.append(2 if found[0] == "?" else int(most) - int(least) + 1 if most else 1_000_000)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern), tuple(factors)
    except (re.error, RecursionError, OverflowError):
        return None


def _left_out(key: str) -> Callable[..., Iterator[Any]]:
    """A check that does nothing; keywords that would bind are listed as not checked."""

    def left_out(_: Any, value: Any, *__: Any) -> Iterator[Any]:
        unchecked = _work.get().unchecked
        if key.startswith("unevaluated") and value not in (True, {}) and len(unchecked) < MAX_UNCHECKED:
            unchecked[f"{key} of its schema is not checked"] = None
        return iter(())

    return left_out


def _told(error: Any) -> Iterator[tuple[str, str]]:
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
        yield pointer, f"is {_shown(instance)}, and must be {' or '.join(line(str(kind), 40) for kind in kinds[:10])}"
    elif keyword in ("enum", "const"):
        allowed = [line(dump(one), 40) for one in (wanted if keyword == "enum" else [wanted])]
        yield pointer, f"is {_shown(instance)}, and must be {' or '.join(allowed[:10])}"
    elif keyword in ("anyOf", "oneOf") and error.context:
        yield pointer, "fits none of its alternatives"
        yield from _told(_nearest(error.context))
    else:
        yield pointer, line(error.message, 200)


def _hint(error: Any) -> str:
    """A hint at the declared name that is meant."""
    name, declared = str(error.path[-1]), mapping(mapping(error.schema).get("properties"))
    near = get_close_matches(name[:100], [key[:100] for key in declared][:200], 1)
    return f'; is it "{line(near[0], 100)}"?' if near else f": there are {_listed(declared)}" if declared else ""


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


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "a number beyond what computers count with"
    kind = "null" if value is None else _KINDS.get(type(value), "?")
    return kind if isinstance(value, (dict, list)) or value is None else f"{line(dump(value), 40)} ({kind})"
