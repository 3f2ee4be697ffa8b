"""Reads the turns of a request, in all dialects: messages with their roles and parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..reading import Dialect, Reasoning, Refusal, Text
from ..sse import Notes
from ..values import mapping, sequence, string
from .asking import Media, Message, Part, ToolResult
from .parts import MAX_PARTS, chat_call, either, left_out, marks_of, part_of, parts_of, result_of

TURNS: dict[Dialect, tuple[str, ...]] = {
    "openai-chat": ("messages", "prompt"),
    "openai-responses": ("input", "prompt"),
    "openai-assistants": ("assistant_id", "thread", "additional_messages"),
    "anthropic-messages": ("messages",),
    "anthropic-complete": ("prompt",),
    "gemini": ("contents",),
    "gemini-interactions": ("input",),
    "bedrock-converse": ("messages", "prompt"),
    "bedrock-invoke": ("inputText", "prompt"),
    "cohere-v1": ("message", "chat_history"),
    "cohere-v2": ("messages",),
    "ollama": ("messages", "prompt"),
}
"""The keys one of which a request must have."""
_SYSTEM: dict[Dialect, str] = {
    "openai-responses": "instructions",
    "openai-assistants": "instructions",
    "anthropic-messages": "system",
    "gemini": "systemInstruction",
    "gemini-interactions": "systemInstruction",
    "bedrock-converse": "system",
    "cohere-v1": "preamble",
    "ollama": "system",
}
_LIKE_CHAT = ("openai-chat", "cohere-v2", "ollama")
_STORED = ("openai-responses", "openai-assistants", "bedrock-converse")
"""Dialects in which what is asked may all be kept at the vendor's."""


def messages_of(dialect: Dialect, asked: dict[str, Any], notes: Notes) -> Iterator[Message]:
    """The messages of a request, instructions first."""
    system = either(asked, _SYSTEM.get(dialect, ""))
    if dialect in ("gemini", "gemini-interactions"):
        system = mapping(system).get("parts", system)
    parts = tuple(parts_of(system))
    if parts:
        yield Message("system", parts)
    turns = _turns(dialect, asked)
    if isinstance(turns, str):
        yield Message("user", (Text(turns),))
    elif isinstance(turns, (list, dict)):
        for turn in turns if isinstance(turns, list) else [turns]:
            if isinstance(turn, dict):
                yield _turn(dialect, turn)
            elif isinstance(turn, str):
                yield Message("user", (Text(turn),))
            else:
                notes.add("a message that is no JSON object")
    elif dialect not in _STORED or not any(asked.get(key) for key in TURNS[dialect]):
        notes.add("there are no messages")


def _turns(dialect: Dialect, asked: dict[str, Any]) -> Any:
    if dialect == "openai-assistants":
        return mapping(asked.get("thread")).get("messages") or asked.get("additional_messages")
    if dialect == "cohere-v1":
        results = (
            [{"role": "TOOL", "message": "", "tool_results": asked["tool_results"]}]
            if asked.get("tool_results")
            else []
        )
        now = [{"role": "USER", "message": asked["message"]}] if asked.get("message") else []
        return [*sequence(asked.get("chat_history")), *now, *results]
    turns = next((asked[key] for key in TURNS[dialect] if asked.get(key) is not None), None)
    return None if dialect in _STORED and isinstance(turns, dict) and turns is asked.get("prompt") else turns


def _turn(dialect: Dialect, turn: dict[str, Any]) -> Message:
    role = string(turn.get("role"))
    if dialect == "gemini":
        return Message(role or "user", tuple(parts_of(turn.get("parts"))))
    if dialect in _LIKE_CHAT:
        return Message(role or "(no role)", tuple(_chat_parts(role, turn)))
    if dialect == "cohere-v1":
        return Message(role or "(no role)", tuple(_cohere_parts(turn)))
    if dialect in ("openai-responses", "gemini-interactions") and not role:
        return _item(turn)
    return Message(role or "(no role)", (*parts_of(turn.get("content")), *marks_of(turn)))


def _item(item: dict[str, Any]) -> Message:
    """An item, or a step, of an input that is no message."""
    kind = string(item.get("type"))
    if kind in ("user_input", "model_output"):
        return Message("user" if kind == "user_input" else "assistant", tuple(parts_of(item.get("content"))))
    part = part_of(item)
    if isinstance(part, ToolResult):
        return Message("tool", (part, *marks_of(item)))
    role = "user" if isinstance(part, (Text, Media)) and kind in ("text", "image", "audio", "document") else "assistant"
    return Message(role, (part, *marks_of(item)))


def _chat_parts(role: str, turn: dict[str, Any]) -> Iterator[Part]:
    if role in ("tool", "function"):
        yield result_of(turn.get("tool_call_id"), turn.get("name") or turn.get("tool_name"), turn.get("content"))
        yield from marks_of(turn)
        return
    yield from _chat_reasoning(turn)
    yield from parts_of(turn.get("content"))
    for image in sequence(turn.get("images"))[:MAX_PARTS]:
        yield Media("image", size=len(image) * 3 // 4 if isinstance(image, str) else None)
    if string(turn.get("refusal")):
        yield Refusal(string(turn["refusal"]))
    calls = sequence(turn.get("tool_calls"))
    for call in calls[:MAX_PARTS]:
        yield chat_call(mapping(call))
    yield from left_out(calls)
    if turn.get("function_call"):
        yield chat_call(mapping(turn["function_call"]))
    yield from marks_of(turn)


def _chat_reasoning(turn: dict[str, Any]) -> Iterator[Reasoning]:
    """Reasoning in a message, under any of its names; two of them repeat each other."""
    named = ("reasoning_content", "reasoning", "thinking", "tool_plan")
    said = next((string(turn[key]) for key in named if string(turn.get(key))), "")
    details = [mapping(detail) for detail in sequence(turn.get("reasoning_details"))]
    texts = [string(detail.get("text")) or string(detail.get("summary")) for detail in details]
    seal = "".join(string(detail.get("signature")) or string(detail.get("data")) for detail in details)
    said = said or "".join(texts)
    if said or seal:
        yield Reasoning(said, signature=seal)


def _cohere_parts(turn: dict[str, Any]) -> Iterator[Part]:
    if string(turn.get("message")):
        yield Text(string(turn["message"]))
    calls, results = sequence(turn.get("tool_calls")), sequence(turn.get("tool_results"))
    for call in map(mapping, calls[:MAX_PARTS]):
        yield chat_call({"name": call.get("name"), "arguments": call.get("parameters")})
    for one in map(mapping, results[:MAX_PARTS]):
        yield result_of("", mapping(one.get("call")).get("name"), one.get("outputs"))
    yield from left_out(calls)
    yield from left_out(results)
