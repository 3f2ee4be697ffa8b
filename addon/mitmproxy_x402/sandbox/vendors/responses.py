"""Writes answers as OpenAI's Responses API does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..answers import Meaning, ToolCall, event, fragments


def answer(request: Mapping[str, Any], said: Meaning, now: int) -> dict[str, Any]:
    """A completed `response`."""
    head = _response(request, said, now)
    return {**head, "status": "completed", "output": _output(said), "usage": _usage(said)}


def stream(request: Mapping[str, Any], said: Meaning, now: int) -> Iterator[bytes]:
    """Typed events, numbered from zero: created, in_progress, each item's own, completed."""
    for number, (kind, data) in enumerate(_events(request, said, now)):
        yield event({"type": kind, "sequence_number": number, **data}, kind)


def _events(request: Mapping[str, Any], said: Meaning, now: int) -> Iterator[tuple[str, dict[str, Any]]]:
    begun = _response(request, said, now)
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    index = 0
    if said.thought:
        yield from _thought_events(said, index)
        index += 1
    if said.text:
        yield from _text_events(said, index)
        index += 1
    for call in said.tool_calls:
        yield from _call_events(call, index)
        index += 1
    yield "response.completed", {"response": answer(request, said, now)}


def failure(number: int) -> bytes:
    """What comes in the middle of a stream that fails, its `number`th event; nothing comes after it."""
    said = {"code": "server_error", "message": "The sandbox was told to fail.", "param": None}
    return event({"type": "error", "sequence_number": number, **said}, "error")


def _thought_events(said: Meaning, index: int) -> Iterator[tuple[str, dict[str, Any]]]:
    item = _thought(said)
    place = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    yield "response.output_item.added", {"output_index": index, "item": {**item, "summary": []}}
    yield "response.reasoning_summary_part.added", {**place, "part": {"type": "summary_text", "text": ""}}
    for piece in fragments(said.thought):
        yield "response.reasoning_summary_text.delta", {**place, "delta": piece}
    yield "response.reasoning_summary_text.done", {**place, "text": said.thought}
    yield "response.reasoning_summary_part.done", {**place, "part": item["summary"][0]}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _text_events(said: Meaning, index: int) -> Iterator[tuple[str, dict[str, Any]]]:
    item = _message(said, "completed")
    place = {"item_id": item["id"], "output_index": index}
    inside = {**place, "content_index": 0}
    yield (
        "response.output_item.added",
        {"output_index": index, "item": {**item, "status": "in_progress", "content": []}},
    )
    yield "response.content_part.added", {**inside, "part": _part("")}
    for piece in fragments(said.text):
        yield "response.output_text.delta", {**inside, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**inside, "text": said.text, "logprobs": []}
    yield "response.content_part.done", {**inside, "part": _part(said.text)}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _call_events(call: ToolCall, index: int) -> Iterator[tuple[str, dict[str, Any]]]:
    item = _function_call(call)
    place = {"item_id": item["id"], "output_index": index}
    yield (
        "response.output_item.added",
        {"output_index": index, "item": {**item, "status": "in_progress", "arguments": ""}},
    )
    for piece in fragments(call.arguments):
        yield "response.function_call_arguments.delta", {**place, "delta": piece}
    yield "response.function_call_arguments.done", {**place, "name": call.name, "arguments": call.arguments}
    yield "response.output_item.done", {"output_index": index, "item": item}


def _output(said: Meaning) -> list[dict[str, Any]]:
    calls = [_function_call(call) for call in said.tool_calls]
    thought = [_thought(said)] if said.thought else []
    text = [_message(said, "completed")] if said.text else []
    return [*thought, *text, *calls]


def _thought(said: Meaning) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": said.thought}]
    return {"id": f"rs_{said.seed}", "type": "reasoning", "summary": summary}


def _message(said: Meaning, status: str) -> dict[str, Any]:
    head = {"id": f"msg_{said.seed}", "type": "message", "status": status, "role": "assistant"}
    return {**head, "content": [_part(said.text)]}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _function_call(call: ToolCall) -> dict[str, Any]:
    head = {"id": call.id("fc_"), "type": "function_call", "status": "completed"}
    return {**head, "call_id": call.id("call_"), "name": call.name, "arguments": call.arguments}


def _response(request: Mapping[str, Any], said: Meaning, now: int) -> dict[str, Any]:
    """A response that has only begun."""
    return {
        "id": f"resp_{said.seed}",
        "object": "response",
        "created_at": now,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "model": said.model,
        "output": [],
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": request.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": request.get("tool_choice", "auto"),
        "tools": request.get("tools", []),
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


def _usage(said: Meaning) -> dict[str, Any]:
    return {
        "input_tokens": said.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": said.output_tokens,
        "output_tokens_details": {"reasoning_tokens": said.reasoning_tokens},
        "total_tokens": said.total_tokens,
    }
