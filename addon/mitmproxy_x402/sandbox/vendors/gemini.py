"""Writes answers as Google's generateContent: whole, as server-sent events (`alt=sse`), or as a growing JSON array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..answers import Meaning, ToolCall, dump, event, fragments


def answer(_request: Mapping[str, Any], said: Meaning, _now: int) -> dict[str, Any]:
    """One response with all parts."""
    thought = [{"text": said.thought, "thought": True}] if said.thought else []
    text = [{"text": said.text}] if said.text else []
    return _response(said, [*thought, *text, *_calls(said)], "STOP")


def stream(_request: Mapping[str, Any], said: Meaning, _now: int) -> Iterator[bytes]:
    """Events without names; a function call comes whole, as this vendor sends it."""
    for one in _responses(said):
        yield event(one)


def array(_request: Mapping[str, Any], said: Meaning, _now: int) -> Iterator[bytes]:
    """The same without `alt=sse`: an array, one element at a time."""
    opened = b"["
    for one in _responses(said):
        yield opened + dump(one).encode()
        opened = b",\r\n"
    yield b"]"


def failure(_number: int) -> bytes:
    """What comes in the middle of a stream of events that fails; nothing comes after it."""
    return event({"error": _FAILURE})


def array_failure(_number: int) -> bytes:
    """The same in an array."""
    return b",\r\n" + dump({"error": _FAILURE}).encode() + b"]"


_FAILURE = {"code": 503, "message": "The sandbox was told to fail.", "status": "UNAVAILABLE"}


def _responses(said: Meaning) -> Iterator[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"text": piece, "thought": True} for piece in fragments(said.thought)]
    parts += [*({"text": piece} for piece in fragments(said.text)), *_calls(said)]
    for number, part in enumerate(parts, 1):
        yield _response(said, [part], "STOP" if number == len(parts) else None)


def _calls(said: Meaning) -> list[dict[str, Any]]:
    return [{"functionCall": _call(call)} for call in said.tool_calls]


def _call(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, **({"args": call.parsed()} if call.arguments else {})}


def _response(said: Meaning, parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    spoken = said.output_tokens - said.reasoning_tokens  # this vendor counts thoughts apart
    usage = {"promptTokenCount": said.input_tokens, "candidatesTokenCount": spoken}
    if said.reasoning_tokens:
        usage["thoughtsTokenCount"] = said.reasoning_tokens
    usage["totalTokenCount"] = said.total_tokens
    head = {"candidates": [candidate], "usageMetadata": usage}
    return {**head, "modelVersion": said.model, "responseId": said.seed}
