"""An answer as a person reads it, in a terminal or in mitmweb."""

from __future__ import annotations

from .printing import indented, irregular, line, pretty, pretty_arguments, section, shortened
from .reading import Item, Other, Reading, Reasoning, Refusal, Text, ToolCall, Usage


def answer_text(reading: Reading) -> str:
    """`reading` as plain text: a line about the whole, then what was said, thought and called, then what is odd.

    What the model wrote is indented; lines at the margin are ours. Control characters are escaped.
    """
    lines = [head(reading)]
    if reading.error is not None:
        lines.append(f"error  {line(reading.error, 1000)}")
    several = len({item.choice for item in reading.items}) > 1
    calls = 0
    for item in reading.items:
        calls += isinstance(item, ToolCall)
        where = f"choice {item.choice + 1}, " if several else ""
        lines += _item(item, where, calls)
    return "\n".join([*lines, *irregular(reading.irregular)]) + "\n"


def head(reading: Reading) -> str:
    """One line: model, how it ended, tokens."""
    parts = [f"model  {line(reading.model)}" if reading.model else "model  not said", _end(reading)]
    tokens = usage_text(reading.usage)
    return "   ".join([*parts, tokens] if tokens else parts)


def usage_text(usage: Usage) -> str:
    """The numbers of tokens, empty where none is known."""
    named = (("in", usage.input), ("cached", usage.cached), ("out", usage.output), ("reasoning", usage.reasoning))
    # A part of nothing says nothing: no cache, no reasoning.
    parts = [f"{name} {number:,}" for name, number in named if number or (number == 0 and name in ("in", "out"))]
    if usage.total is None:
        return f"tokens: {', '.join(parts)}" if parts else ""
    return f"tokens: {usage.total:,}" + (f" ({', '.join(parts)})" if parts else "")


def _end(reading: Reading) -> str:
    if reading.error is not None:
        return "failed"
    reason = f": {line(reading.stop_reason)}" if reading.stop_reason else ""
    return ("finished" if reading.complete else "not finished") + reason


def _item(item: Item, where: str, number: int) -> list[str]:
    if isinstance(item, Text):
        return section(f"{where}text", indented(item.text))
    if isinstance(item, Refusal):
        return section(f"{where}refusal", indented(item.text))
    if isinstance(item, Reasoning):
        return section(where + reasoning_heading(item), indented(item.text) if item.text else [])
    if isinstance(item, ToolCall):
        return section(f"{where}tool call {number}: {call_heading(item)}", call_body(item))
    return section(f"{where}other: {line(item.kind)}", other_body(item))


def reasoning_heading(item: Reasoning) -> str:
    """What the reasoning is."""
    if item.text or not item.signature:
        return "reasoning"
    return f"reasoning  encrypted, {len(item.signature):,} characters"


def call_heading(call: ToolCall) -> str:
    """The tool's name, the call's id, and what kind it is where it is no function."""
    name = line(call.name) if call.name else "(no name)"
    identity = f"  id {line(call.id)}" if call.id else ""
    return name + identity + ("" if call.kind == "function" else f"  ({line(call.kind)})")


def call_body(call: ToolCall) -> list[str]:
    """What the tool is called with."""
    return indented(call.arguments if call.kind == "custom" else pretty_arguments(call.arguments))


def other_body(item: Other) -> list[str]:
    """A part of another kind, without its pictures."""
    return indented(pretty(shortened(item.value)))
