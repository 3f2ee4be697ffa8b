"""Reads a request to a language model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...limits.request_model import read_model
from ...protocol.strict_json import Undecodable, decode_json
from ..reading import Dialect, Reasoning, Refusal, Text
from ..sse import Notes
from ..values import dump, mapping, sequence, string
from .asking import Message, Part, RequestReading, ToolResult
from .parts import chat_call, either, part_of, parts_of, result_of
from .tools import tools_of

_PATHS: tuple[tuple[re.Pattern[str], Dialect], ...] = (
    (re.compile(r"/(chat/)?completions$"), "openai-chat"),
    (re.compile(r"/responses(/compact|/input_tokens)?$"), "openai-responses"),
    (re.compile(r"/messages(/count_tokens)?$"), "anthropic-messages"),
    (re.compile(r":(streamGenerateContent|generateContent|countTokens)$"), "gemini"),
)
_TURNS: dict[Dialect, tuple[str, ...]] = {
    "openai-chat": ("messages", "prompt"),
    "openai-responses": ("input",),
    "anthropic-messages": ("messages",),
    "gemini": ("contents",),
}
"""The keys one of which a request must have."""
_TOLD = {
    *("model", "messages", "prompt", "input", "contents", "system", "instructions", "stream", "tools", "functions"),
    *("systemInstruction", "system_instruction"),
}
"""Keys of a request that are told otherwise than as a parameter."""
_GROUPS = {"generationConfig", "generation_config"}
_SECRET = re.compile(r"authorization|api[-_]?key|secret|password|cookie|access[-_]?token|^token$|^key$", re.IGNORECASE)
_REDACTED = "[redacted]"
MAX_REQUEST = 64 * 1024 * 1024
"""Bytes of a request that is read: pictures travel in it."""
MAX_VALUE = 200
"""Characters of a parameter's value that are shown."""


def read_request(path: str, content_type: str, body: bytes) -> RequestReading | None:
    """What `body` asks for; None: it is no request to a language model.

    `path` may have a query. It says which dialect the request is in, where it is a vendor's usual one; otherwise the
    body does. Never raises.
    """
    media = content_type.partition(";")[0].strip().lower()
    if (media and not media.endswith("json")) or len(body) > MAX_REQUEST:
        return None
    try:
        value, faults = decode_json(body)
    except Undecodable:
        return None
    path, _, query = path.partition("?")
    asked = mapping(value)
    dialect = _dialect(path, asked)
    if dialect == "unknown":
        return None
    notes = Notes()
    for fault in faults:
        notes.add(fault)
    messages = tuple(_messages(dialect, asked, notes))
    model = string(asked.get("model")) or read_model(path, b"")
    streamed = asked.get("stream") is True or path.endswith(":streamGenerateContent")
    parameters = (*_parameters(asked), *_query(query))
    return RequestReading(dialect, model, streamed, messages, tuple(tools_of(asked)), parameters, tuple(notes.texts()))


def _dialect(path: str, asked: dict[str, Any]) -> Dialect:
    for pattern, dialect in _PATHS:
        if pattern.search(path):
            return dialect if any(key in asked for key in _TURNS[dialect]) else "unknown"
    if isinstance(asked.get("contents"), list):
        return "gemini"
    if isinstance(asked.get("messages"), list):
        return "anthropic-messages" if "system" in asked or _has_schema(asked) else "openai-chat"
    # Requests for embeddings have an input and a model too.
    if "input" in asked and any(key in asked for key in ("instructions", "tools", "max_output_tokens", "stream")):
        return "openai-responses"
    return "unknown"


def _has_schema(asked: dict[str, Any]) -> bool:
    return any("input_schema" in mapping(tool) for tool in sequence(asked.get("tools")))


def _messages(dialect: Dialect, asked: dict[str, Any], notes: Notes) -> Iterator[Message]:
    before = {"openai-responses": "instructions", "anthropic-messages": "system", "gemini": "systemInstruction"}
    system = either(asked, before.get(dialect, ""))
    if dialect == "gemini":
        system = mapping(system).get("parts", system)
    parts = tuple(parts_of(system))
    if parts:
        yield Message("system", parts)
    turns = next((asked[key] for key in _TURNS[dialect] if asked.get(key) is not None), None)
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
    else:
        notes.add("there are no messages")


def _turn(dialect: Dialect, turn: dict[str, Any]) -> Message:
    role = string(turn.get("role"))
    if dialect == "gemini":
        return Message(role or "user", tuple(parts_of(turn.get("parts"))))
    if dialect == "openai-chat":
        return Message(role or "(no role)", tuple(_chat_parts(role, turn)))
    if dialect == "openai-responses" and not role:
        part = part_of(turn)
        return Message("tool" if isinstance(part, ToolResult) else "assistant", (part,))
    return Message(role or "(no role)", tuple(parts_of(turn.get("content"))))


def _chat_parts(role: str, turn: dict[str, Any]) -> Iterator[Part]:
    if role in ("tool", "function"):
        yield result_of(turn.get("tool_call_id"), turn.get("name"), turn.get("content"))
        return
    reasoning = string(turn.get("reasoning_content")) or string(turn.get("reasoning"))
    if reasoning:
        yield Reasoning(reasoning)
    yield from parts_of(turn.get("content"))
    if string(turn.get("refusal")):
        yield Refusal(string(turn["refusal"]))
    for call in sequence(turn.get("tool_calls")):
        yield chat_call(mapping(call))
    if turn.get("function_call"):
        yield chat_call(mapping(turn["function_call"]))


def _parameters(asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in asked.items():
        if key in _GROUPS and isinstance(value, dict):
            yield from _parameters(value)
        elif key not in _TOLD:
            text = _REDACTED if _SECRET.search(key) else dump(_without_secrets(value))
            yield key[:100], text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"


def _query(query: str) -> Iterator[tuple[str, str]]:
    for pair in query.split("&")[:20]:
        key, _, value = pair.partition("=")
        if key:
            yield f"?{key[:100]}", _REDACTED if _SECRET.search(key) else value[:MAX_VALUE]


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _REDACTED if _SECRET.search(key) else _without_secrets(one) for key, one in value.items()}
    return [_without_secrets(one) for one in value] if isinstance(value, list) else value
