"""Checks the tool calls of an answer against the tools that its request declares.

Names are looked up, and arguments are held against the tools' JSON schemas, by jsonschema. Both come from strangers: no
schema is fetched from anywhere, no regular expression of theirs is run, and the work is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import Any

from .printing import line
from .reading import Misfit, Reading, ToolCall
from .request.asking import RequestReading, Tool
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
MAX_ALL_MISFITS = 1000
"""Misfits of one answer that are told."""
_MAX_UNIQUE = 1000
_UNKNOWN = 100
"""Steps that a search for a similar name counts as."""
_SKIPPED = frozenset(
    ("pattern", "patternProperties", "format", "unevaluatedProperties", "unevaluatedItems", "contentSchema")
)
"""Keywords that are not checked: strangers' regular expressions can run for ever, and so can some others."""
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
            found.append(Misfit(number, call.name, "", "this call and those after it are not checked: it is too much"))
            break
        found += _misfits(number, call, tools)
    return replace(reading, misfits=tuple(found))


class _Tools:
    """The tools of one request, and what checking calls of them has taken."""

    def __init__(self, asked: RequestReading) -> None:
        self.asked = asked
        self.steps = 0
        self._by_name: dict[str, Tool] = {}
        self._schemas: dict[str, Any] = {}
        for tool in asked.tools:
            self._by_name.setdefault(tool.name, tool)

    def of(self, name: str) -> Tool | None:
        """The first tool of that name."""
        return self._by_name.get(name)

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
    if tool.schema is None or call.parsed is None or len(call.arguments) > MAX_ARGUMENTS:
        return
    work = _Work()
    problems = _problems(call.parsed, tools.schema(tool), work)
    tools.steps += work.steps
    for told, (pointer, problem) in enumerate(dict.fromkeys(problems)):
        if told == MAX_MISFITS:
            yield Misfit(number, call.name, "", "and more")
            return
        yield Misfit(number, call.name, pointer, problem)


def _unknown(number: int, call: ToolCall, asked: RequestReading) -> Iterator[Misfit]:
    """A call of a tool that is not declared; where none is, the vendor's end may have some that nobody sees."""
    names = _named(asked.tools)
    if not call.name or not names or any(name in _KEPT for name, _ in asked.parameters):
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


_work: ContextVar[_Work] = ContextVar("work")


class _TooMuch(Exception):
    """The schema takes more work than anybody waits for."""


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
        found.append(("", "the schema is too large to be checked to its end"))
    except Exception as error:
        found.append(("", f"the schema cannot be used: {line(f'{type(error).__name__}: {error}', 160)}"))
    return found


def _validator(schema: Any) -> Any:
    import referencing  # noqa: PLC0415  (a tenth of a second)

    declared = mapping(schema).get("$schema")
    old = "Draft4Validator" if isinstance(declared, str) and "draft-04" in declared else "Draft202012Validator"
    return _bounded(old)(schema, registry=referencing.Registry())


@cache
def _bounded(name: str) -> Any:
    """A validator that counts its steps, and leaves out what is not checked here."""
    import jsonschema  # type: ignore[import-untyped]  # noqa: PLC0415

    base: Any = getattr(jsonschema, name)
    keywords: dict[str, Any] = {
        key: _nothing if key in _SKIPPED else _counted(key, check) for key, check in base.VALIDATORS.items()
    }
    return jsonschema.validators.extend(base, keywords)


def _counted(key: str, check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        work = _work.get()
        work.steps += 1
        if work.steps > MAX_STEPS:
            raise _TooMuch
        if work.depth >= MAX_DEPTH:  # whatever the interpreter's own limit is
            raise RecursionError("it leads to itself, or is nested too deeply")
        if key == "additionalProperties" and "patternProperties" in mapping(schema):
            return
        if key == "uniqueItems" and len(sequence(instance)) > _MAX_UNIQUE:
            return
        work.depth += 1
        try:
            yield from check(validator, value, instance, schema) or ()
        finally:
            work.depth -= 1

    return counted


def _nothing(*_: Any) -> Iterator[Any]:
    return iter(())


def _told(error: Any) -> Iterator[tuple[str, str]]:
    """A validator's error, for people."""
    pointer = _pointer(error.absolute_path)
    keyword, wanted, instance = error.validator, error.validator_value, error.instance
    if keyword == "required" and isinstance(instance, dict):
        for name in sequence(wanted):
            if name not in instance:
                yield f"{pointer}/{_escaped(name)}", "is missing"
    elif keyword == "additionalProperties" and isinstance(instance, dict):
        declared = mapping(mapping(error.schema).get("properties"))
        if wanted is not False:
            yield pointer, line(error.message, 200)
            return
        for name in [key for key in instance if key not in declared][:MAX_MISFITS]:
            near = get_close_matches(name[:100], [key[:100] for key in declared][:200], 1)
            hint = (
                f'; is it "{line(near[0], 100)}"?' if near else f": there are {_listed(declared)}" if declared else ""
            )
            yield f"{pointer}/{_escaped(name)}", f"is not declared{hint}"
    elif keyword == "type":
        kinds = wanted if isinstance(wanted, list) else [wanted]
        yield pointer, f"is {_shown(instance)}, and must be {' or '.join(line(str(kind), 40) for kind in kinds[:10])}"
    elif keyword in ("enum", "const"):
        allowed = [line(dump(one), 40) for one in (wanted if keyword == "enum" else [wanted])]
        yield pointer, f"is {_shown(instance)}, and must be {' or '.join(allowed[:10])}"
    elif keyword in ("anyOf", "oneOf") and error.context:
        yield pointer, "fits none of its alternatives"
        nearest = max(error.context, key=lambda one: (len(one.absolute_path), one.validator not in ("type", "const")))
        yield from _told(nearest)
    else:
        yield pointer, line(error.message, 200)


def _pointer(path: Iterable[Any]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{_escaped(step)}" for step in path)


def _escaped(step: Any) -> str:
    return line(str(step).replace("~", "~0").replace("/", "~1"), 100)


def _shown(value: Any) -> str:
    kind = "null" if value is None else _KINDS.get(type(value), "?")
    return kind if isinstance(value, (dict, list)) or value is None else f"{line(dump(value), 40)} ({kind})"


_GOOGLES = ("", "string", "number", "integer", "boolean", "array", "object", "null")
"""Google's types where they come as numbers (`enum-encoding=int`)."""


def plain_schema(schema: Any, depth: int = 0) -> Any:
    """`schema` in JSON Schema's words: Google's has its types in capitals, and `nullable`."""
    if isinstance(schema, list):
        return [plain_schema(one, depth + 1) for one in schema] if depth <= 64 else schema
    if not isinstance(schema, dict) or depth > 64:
        return schema
    plain = {key: plain_schema(one, depth + 1) if key not in ("enum", "const") else one for key, one in schema.items()}
    if "type_" in plain and "type" not in plain:
        plain["type"] = plain.pop("type_")
    kind = plain.get("type")
    if type(kind) is int and 0 < kind < len(_GOOGLES):
        plain["type"] = kind = _GOOGLES[kind]
    if isinstance(kind, str) and kind.isupper():
        plain["type"] = kind = kind.lower()
    if plain.get("nullable") is True and isinstance(kind, str):
        plain["type"] = [kind, "null"]
    return plain
