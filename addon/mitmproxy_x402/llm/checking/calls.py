"""Looks up the tools that an answer calls, and checks what they are called with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from ..printing import line
from ..reading import Misfit, Reading, ToolCall
from ..request.asking import RequestReading, Tool
from ..request.tools import MAX_TOOLS, plain_schema
from .problems import listed
from .schemas import MAX_MISFITS, problems_of
from .work import MAX_UNCHECKED, Work

MAX_ARGUMENTS = 256 * 1024
"""Characters of arguments that are checked."""
MAX_ALL_STEPS = 100_000
"""Keywords of schemas that are looked at for all calls of an answer together."""
MAX_ALL_MISFITS = 1000
"""Misfits of one answer that are told."""
_UNKNOWN = 100
"""Steps that a search for a similar name counts as."""
_DOTS = (".", "__", "_", "")
"""What gateways, for models that know no namespaces, put between that and the name."""
_KEPT = (
    *("previous_response_id", "prompt.id", "assistant_id", "conversation", "previous_interaction_id"),
    *("cachedContent", "cached_content"),
)
"""Parameters of requests whose tools may be kept at the vendor's."""


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
        self._by_name: dict[str, dict[str, Tool]] = {}
        self._schemas: dict[tuple[str, str], Any] = {}
        for tool in asked.tools:
            for name in (tool.name, *(f"{tool.namespace}{dot}{tool.name}" for dot in _DOTS if tool.namespace)):
                self._by_name.setdefault(name, {}).setdefault(tool.namespace, tool)

    def of(self, call: ToolCall) -> list[Tool]:
        """The tools that `call` can mean: of each namespace the first one of that name, or that of its namespace."""
        named = self._by_name.get(call.name, {})
        spaces = (detail.value for detail in call.further if detail.name == "namespace")
        space = next((one for one in spaces if isinstance(one, str)), None)
        return [named[space]] if space is not None and space in named else list(named.values())

    def leave(self, name: str, why: str) -> None:
        """Note what of calls of the tool `name` was not checked, and why."""
        if len(self.unchecked) < MAX_UNCHECKED:
            self.unchecked[f"{line(name, 60)}: {why}"] = None

    def schema(self, tool: Tool) -> Any:
        """Its schema in JSON Schema's words; made once."""
        key = tool.namespace, tool.name
        if key not in self._schemas:
            self._schemas[key] = plain_schema(tool.schema)
        return self._schemas[key]


def _misfits(number: int, call: ToolCall, tools: _Tools) -> Iterator[Misfit]:
    meant = tools.of(call)
    if not meant:
        tools.steps += _UNKNOWN
        yield from _unknown(number, call, tools.asked)
        return
    tool = meant[0]
    if len(meant) > 1:
        tools.leave(call.name, f"{len(meant)} namespaces have such a tool, and the call does not say which it means")
        return
    if tool.schema is None or call.parsed is None:
        return
    if len(call.arguments) > MAX_ARGUMENTS:
        tools.leave(call.name, f"its arguments have more than {MAX_ARGUMENTS:,} characters")
        return
    work = Work()
    problems = problems_of(call.parsed, tools.schema(tool), work)
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
    hint = f'; is it "{line(near[0], 100)}"?' if near else f": it has {listed(names)}"
    yield Misfit(number, call.name, "", f"the request declares no such tool{hint}")


def _named(tools: Iterable[Tool]) -> list[str]:
    return [tool.full_name[:100] for tool in tools if tool.kind in ("function", "custom")][:200]
