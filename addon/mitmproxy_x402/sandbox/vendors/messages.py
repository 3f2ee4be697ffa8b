"""Writes answers as Anthropic's Messages API does."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from ..answers import Meaning, event, fragments


def answer(_request: Mapping[str, Any], said: Meaning, _now: int) -> dict[str, Any]:
    """A `message` with all its blocks."""
    blocks: list[dict[str, Any]] = []
    if said.thought:
        blocks.append({"type": "thinking", "thinking": said.thought, "signature": _signature(said)})
    if said.text:
        blocks.append({"type": "text", "text": said.text, "citations": None})
    blocks += [
        {"type": "tool_use", "id": call.id("toolu_"), "name": call.name, "input": call.parsed()}
        for call in said.tool_calls
    ]
    return {**_head(said), "content": blocks, "stop_reason": _stop(said), "usage": _usage(said, said.output_tokens)}


def count(said: Meaning) -> dict[str, Any]:
    """The answer of `count_tokens`."""
    return {"input_tokens": said.input_tokens}


def stream(_request: Mapping[str, Any], said: Meaning, _now: int) -> Iterator[bytes]:
    """Named events; a tool's arguments are `input_json_delta`s, the first of them empty, as the vendor sends them."""
    message = {**_head(said), "content": [], "stop_reason": None, "usage": _usage(said, 1)}
    yield _event("message_start", message=message)
    index = 0
    if said.thought:
        yield from _thinking(said)
        index += 1
    if said.text:
        yield _event("content_block_start", index=index, content_block={"type": "text", "text": ""})
        yield _event("ping")
        for piece in fragments(said.text):
            yield _event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece})
        yield _event("content_block_stop", index=index)
        index += 1
    for call in said.tool_calls:
        block = {"type": "tool_use", "id": call.id("toolu_"), "name": call.name, "input": {}}
        yield _event("content_block_start", index=index, content_block=block)
        yield _event("ping")
        for piece in ("", *fragments(call.arguments)):
            yield _event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": piece})
        yield _event("content_block_stop", index=index)
        index += 1
    delta = {"stop_reason": _stop(said), "stop_sequence": None}
    yield _event("message_delta", delta=delta, usage={"output_tokens": said.output_tokens})
    yield _event("message_stop")


def failure(_number: int) -> bytes:
    """What comes in the middle of a stream that fails; nothing comes after it."""
    return _event("error", error={"type": "overloaded_error", "message": "The sandbox was told to fail."})


def _thinking(said: Meaning) -> Iterator[bytes]:
    block = {"type": "thinking", "thinking": "", "signature": ""}
    yield _event("content_block_start", index=0, content_block=block)
    for piece in fragments(said.thought):
        yield _event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": piece})
    yield _event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": _signature(said)})
    yield _event("content_block_stop", index=0)


def _signature(said: Meaning) -> str:
    """The vendor's seal on a thought, which clients send back as it is."""
    return base64.b64encode(said.seed.encode()).decode()


def _event(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, kind)


def _head(said: Meaning) -> dict[str, Any]:
    head = {"id": f"msg_{said.seed}", "type": "message", "role": "assistant", "model": said.model}
    return {**head, "stop_sequence": None}


def _stop(said: Meaning) -> str:
    return "tool_use" if said.tool_calls else "end_turn"


def _usage(said: Meaning, output_tokens: int) -> dict[str, Any]:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": said.input_tokens, **cache, "output_tokens": output_tokens}
