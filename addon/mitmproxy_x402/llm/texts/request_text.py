"""Formats a request as text for a person, in a terminal or in mitmweb."""

from __future__ import annotations

from ..printing import indented, irregular, line, section
from ..reading import Reasoning, Refusal, Text, ToolCall
from ..request.asking import Mark, Media, Message, Part, RequestReading, Tool, ToolResult
from .answer_text import call_body, call_heading, other_body, reasoning_heading


def request_text(asked: RequestReading) -> str:
    """`asked` as plain text: a line about the whole, the settings, the tools, then message after message.

    What the client wrote is indented; lines at the margin are ours. Control characters are escaped.
    """
    counts = [_count(len(asked.messages), "message"), _count(len(asked.tools), "tool")]
    how = "streamed" if asked.streamed else "not streamed"
    lines = ["   ".join((f"model  {line(asked.model or 'not said')}", asked.dialect, how, *counts))]
    if asked.parameters:
        lines += section("parameters", [f"  {line(key)}: {line(value, 300)}" for key, value in asked.parameters])
    if asked.tools:
        lines += section("tools", map(_tool, asked.tools))
    for number, message in enumerate(asked.messages, 1):
        lines += _message(number, message)
    return "\n".join([*lines, *irregular(asked.irregular)]) + "\n"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _tool(tool: Tool) -> str:
    name = line(tool.full_name) or "(no name)"
    head = f"{name}({line(tool.parameters, 500)})" if tool.kind == "function" else f"{name}  ({line(tool.kind)})"
    marks = "".join(f"  [{line(mark.name)}: {line(mark.value)}]" for mark in tool.marks)
    return f"  {head}" + (f"  {line(tool.description)}" if tool.description else "") + marks


def _message(number: int, message: Message) -> list[str]:
    lines = section(f"{number}  {line(message.role)}", [])
    for part in message.parts:
        lines += _part(part)
    return lines


def _part(part: Part) -> list[str]:
    if isinstance(part, Text):
        return indented(part.text)
    if isinstance(part, Media):
        return [f"  {_media(part)}"]
    if isinstance(part, ToolCall):
        return [f"  tool call: {call_heading(part)}", *_deeper(call_body(part))]
    if isinstance(part, ToolResult):
        return _result(part)
    if isinstance(part, Reasoning):
        return [f"  {reasoning_heading(part)}", *(_deeper(indented(part.text)) if part.text else [])]
    if isinstance(part, Mark):
        return [f"  ^ {line(part.name)}: {line(part.value)}"]
    if isinstance(part, Refusal):
        return ["  refusal", *_deeper(indented(part.text))]
    return [f"  {line(part.kind)}", *_deeper(other_body(part))]


def _result(result: ToolResult) -> list[str]:
    name = f" of {line(result.name)}" if result.name else ""
    identity = f"  id {line(result.id)}" if result.id else ""
    lines = [f"  tool result{name}{identity}" + ("  (an error)" if result.failed else "")]
    for part in result.parts:
        lines += _deeper(_part(part))
    return lines


def _media(media: Media) -> str:
    size = f"{media.size:,} bytes" if media.size is not None else ""
    return f"[{', '.join(line(part) for part in (media.kind, media.type, size, media.source) if part)}]"


def _deeper(lines: list[str]) -> list[str]:
    return [f"  {one}" if one else "" for one in lines]
