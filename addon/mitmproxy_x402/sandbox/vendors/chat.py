"""Writes answers as OpenAI's Chat Completions API does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from ..answers import Meaning, ToolCall, event, fragments


def answer(_request: Mapping[str, Any], said: Meaning, now: int) -> dict[str, Any]:
    """A `chat.completion`."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.thought:
        message["reasoning_content"] = said.thought
    if said.tool_calls:
        message["tool_calls"] = [{**_begin(call, call.arguments)} for call in said.tool_calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(said)}
    return {**_head(said, now, "chat.completion"), "choices": [choice], "usage": _usage(said)}


def stream(request: Mapping[str, Any], said: Meaning, now: int) -> Iterator[bytes]:
    """Chunks: the id and the name of a call come once, with empty arguments; then only its index and a fragment."""
    options = request.get("stream_options")
    usage = isinstance(options, Mapping) and options.get("include_usage") is True

    def chunk(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body = {**_head(said, now, "chat.completion.chunk"), "choices": [choice]}
        return event({**body, "usage": None} if usage else body)

    yield b": sandbox heartbeat\n\n"
    yield chunk({"role": "assistant", "content": "" if said.text else None, "refusal": None})
    for piece in fragments(said.thought):
        yield chunk({"reasoning_content": piece})
    for piece in fragments(said.text):
        yield chunk({"content": piece})
    for delta in _call_deltas(said):
        yield chunk({"tool_calls": [delta]})
    yield b": sandbox heartbeat\n\n"
    yield chunk({}, _finish(said))
    if usage:
        yield event({**_head(said, now, "chat.completion.chunk"), "choices": [], "usage": _usage(said)})
    yield b"data: [DONE]\n\n"


def failure(_number: int) -> bytes:
    """What comes in the middle of a stream that fails; nothing comes after it."""
    error = {"message": "The sandbox was told to fail.", "type": "server_error", "param": None, "code": None}
    return event({"error": error})


def _call_deltas(said: Meaning) -> Iterator[dict[str, Any]]:
    calls = [_one_call(index, call) for index, call in enumerate(said.tool_calls)]
    if said.interleaved:
        for row in zip_longest(*calls):
            yield from (delta for delta in row if delta is not None)
    else:
        for deltas in calls:
            yield from deltas


def _one_call(index: int, call: ToolCall) -> Iterator[dict[str, Any]]:
    yield {"index": index, **_begin(call, "")}
    for piece in fragments(call.arguments):
        yield {"index": index, "function": {"arguments": piece}}


def _begin(call: ToolCall, arguments: str) -> dict[str, Any]:
    return {"id": call.id("call_"), "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _head(said: Meaning, now: int, kind: str) -> dict[str, Any]:
    head = {"id": f"chatcmpl-{said.seed}", "object": kind, "created": now, "model": said.model}
    return {**head, "service_tier": "default", "system_fingerprint": "fp_sandbox"}


def _finish(said: Meaning) -> str:
    return "tool_calls" if said.tool_calls else "stop"


def _usage(said: Meaning) -> dict[str, Any]:
    return {
        "prompt_tokens": said.input_tokens,
        "completion_tokens": said.output_tokens,
        "total_tokens": said.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": said.reasoning_tokens, "audio_tokens": 0},
    }
