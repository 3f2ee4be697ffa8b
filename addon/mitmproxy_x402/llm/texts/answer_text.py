"""Formats an answer as text for a person, in a terminal or in mitmweb."""

from __future__ import annotations

from ..printing import columns, indented, irregular, line, pretty, pretty_arguments, printable, section, shortened
from ..reading import (
    Broken,
    Citation,
    Detail,
    Differing,
    Item,
    Misfit,
    Other,
    Reading,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Usage,
)
from ..values import dump
from .other_text import other_lines

MAX_BESIDE = 100
"""Characters of a detail that fits its name's line."""
MAX_CONTEXT = 34
"""Characters on either side of the place where arguments break."""


def answer_text(reading: Reading) -> str:
    """`reading` as plain text: a line about the whole, then what was said, thought and called, then what is odd.

    What the model wrote is indented; lines at the margin are ours. Control characters are escaped.
    """
    lines = [head(reading)]
    if reading.error is not None:
        lines.append(f"error  {line(reading.error, 1000)}")
    for detail in reading.details:
        lines += _detail(detail)
    several = len({item.choice for item in reading.items}) > 1
    calls, cited = 0, False
    for item in reading.items:
        calls += isinstance(item, ToolCall)
        where = f"choice {item.choice + 1}, " if several else ""
        if isinstance(item, Citation):
            lines += [] if cited else section(f"{where}cited", [])
            lines.append(_citation(item))
        else:
            lines += _item(item, where, calls)
        cited = isinstance(item, Citation)
    if reading.unread:
        lines += section("events of unknown types:", [f"  - {line(one, 300)}" for one in reading.unread])
    if reading.misfits:
        lines += section("does not fit the tools of the request:", map(_misfit, reading.misfits))
    if reading.unchecked:
        lines += section("not checked:", [f"  - {line(one, 300)}" for one in reading.unchecked])
    if reading.differing:
        lines += section("said in fragments and as a whole, and not alike:", [])
        for one in reading.differing:
            lines += _differing(one)
    return "\n".join([*lines, *irregular(reading.irregular)]) + "\n"


def head(reading: Reading) -> str:
    """One line: model, how it ended, tokens."""
    parts = [f"model  {line(reading.model)}" if reading.model else "model  not said", _end(reading)]
    tokens = usage_text(reading.usage)
    return "   ".join([*parts, tokens] if tokens else parts)


def usage_text(usage: Usage) -> str:
    """The numbers of tokens, empty where none is known."""
    named = (
        *(("in", usage.input), ("cached", usage.cached), ("written into the cache", usage.cache_write)),
        *(("from tools", usage.tool_use), ("out", usage.output), ("reasoning", usage.reasoning)),
    )
    # A part of nothing says nothing: no cache, no reasoning.
    parts = [f"{name} {number:,}" for name, number in named if number or (number == 0 and name in ("in", "out"))]
    total = "" if usage.total is None else f"{usage.total:,}"
    if total and parts:
        parts = [f"{total} ({', '.join(parts)})"]
    tokens = ", ".join(parts) or total
    cost = f"cost: {usage.cost} USD by the vendor" if usage.cost is not None else ""
    return "   ".join(filter(None, (f"tokens: {tokens}" if tokens else "", cost)))


def _end(reading: Reading) -> str:
    if reading.error is not None:
        return end_of(reading)
    reason = f": {line(reading.stop_reason)}" if reading.stop_reason else ""
    return end_of(reading) + reason


def end_of(reading: Reading) -> str:
    """Whether the answer came to its end."""
    if reading.error is not None:
        return "failed"
    return "finished" if reading.complete else "not read to its end" if reading.partly else "not finished"


def _item(item: Item, where: str, number: int) -> list[str]:
    if isinstance(item, Text):
        return section(f"{where}text", indented(item.text))
    if isinstance(item, Refusal):
        return section(f"{where}refusal", indented(item.text))
    if isinstance(item, Reasoning):
        return section(where + reasoning_heading(item), indented(item.text) if item.text else [])
    if isinstance(item, ToolCall):
        return section(f"{where}tool call {number}: {call_heading(item)}", call_body(item))
    if isinstance(item, Citation):
        return [_citation(item)]
    return section(f"{where}other: {line(item.kind)}", other_body(item))


def reasoning_heading(item: Reasoning) -> str:
    """What the reasoning is."""
    if not item.signature:
        return "reasoning"
    return f"reasoning  {'signed' if item.text else 'encrypted'}, {len(item.signature):,} characters"


def call_heading(call: ToolCall) -> str:
    """The tool's name, the call's id, and what kind it is where it is no function."""
    name = line(call.name) if call.name else "(no name)"
    identity = f"  id {line(call.id)}" if call.id else ""
    return name + identity + ("" if call.kind == "function" else f"  ({line(call.kind)})")


def call_body(call: ToolCall) -> list[str]:
    """The arguments, with a caret under the place where they stop being JSON, then the call's other details."""
    if call.broken is not None:
        lines = _broken(call.arguments, call.broken)
    else:
        lines = indented(call.arguments if call.kind == "custom" else pretty_arguments(call.arguments))
    for detail in call.further:
        lines += _detail(detail)
    return lines


def _broken(arguments: str, broken: Broken) -> list[str]:
    """The arguments as they came, with a caret under the place at which they stop being JSON."""
    position = min(broken.position, len(arguments))
    begin = arguments.rfind("\n", 0, position) + 1
    end = arguments.find("\n", position)
    end = len(arguments) if end < 0 else end
    where = f"event {broken.event}" if broken.event is not None else ""
    if position == len(arguments):
        where = f"they end here, after {where}" if where else "they end here"
    mark = f"^ {line(broken.problem)}" + (f"  ({where})" if where else "")
    cut_left, cut_right = max(begin, position - MAX_CONTEXT), min(end, position + MAX_CONTEXT)
    left = ("…" if cut_left > begin else "") + printable(arguments[cut_left:position])
    right = printable(arguments[position:cut_right]) + ("…" if cut_right < end else "")
    around = [f"  {left}{right}", f"  {' ' * columns(left)}{mark}"]
    if (cut_left, cut_right) != (begin, end):
        return [*indented(arguments), "", *around]
    before, after = arguments[:begin], arguments[end:]
    lines = indented(before[:-1]) if before else []
    return lines + around + (indented(after[1:]) if after else [])


def _detail(detail: Detail) -> list[str]:
    """The lines of one detail; JSON in text is laid out."""
    value = detail.value
    if isinstance(value, str):
        shown = pretty_arguments(value) if value[:1] in ("{", "[") else value
    else:
        shown = pretty(shortened(value)) if isinstance(value, (dict, list)) else dump(value)
    if "\n" not in shown and len(shown) <= MAX_BESIDE:
        return [f"  {line(detail.name)}: {line(shown)}"]
    return [f"  {line(detail.name)}:", *indented(shown, "    ")]


def _differing(one: Differing) -> list[str]:
    other = "the whole" if one.shown == "fragments" else "the fragments"
    return [f"  - {line(one.what)}: {other}, by event {one.event}:", *indented(one.other, "      ")]


def _misfit(misfit: Misfit) -> str:
    place = f"  {line(misfit.pointer)}" if misfit.pointer else ""
    return f"  - tool call {misfit.call}, {line(misfit.name)}:{place}  {line(misfit.problem, 400)}"


def _citation(item: Citation) -> str:
    quote = f'"{line(item.quote, 300)}"' if item.quote else ""
    return "  " + "  ".join(part for part in (line(item.title), line(item.source, 500), quote) if part)


def other_body(item: Other) -> list[str]:
    """A part of another kind, without its pictures."""
    return other_lines(item)
