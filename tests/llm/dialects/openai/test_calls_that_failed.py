"""Calls in OpenAI's responses that failed or broke off: what was made of them, and that they did."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses.response_output_item import McpCall

from mitmproxy_x402.llm import Other, Reading, read_answer

CALL = {"id": "m", "type": "mcp_call", "name": "f", "server_label": "s", "arguments": "{}"}


def whole(item: dict[str, Any]) -> Reading:
    body = {"id": "r", "object": "response", "model": "m", "status": "completed", "output": [item]}
    found = read_answer("application/json", json.dumps(body).encode())
    assert found is not None
    return found


def streamed(item: dict[str, Any]) -> Reading:
    response = {"id": "r", "object": "response", "model": "m", "status": "in_progress", "output": []}
    begun = {**item, "status": "in_progress", "arguments": ""}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {**response, "status": "completed", "output": [item]}},
    ]
    body = "".join(f"data: {json.dumps({**one, 'sequence_number': at})}\n\n" for at, one in enumerate(events))
    found = read_answer("text/event-stream", body.encode())
    assert found is not None
    return found


@pytest.mark.parametrize("read", [whole, streamed])
@pytest.mark.parametrize("error", ["boom", {"type": "http_error", "code": 500, "message": "boom"}])
@pytest.mark.parametrize("output", [None, "half"])
def test_the_error_of_a_call_is_told_beside_its_output(read: Any, error: Any, output: Any) -> None:
    item = {**CALL, "status": "failed", "output": output, "error": error}
    assert {"output", "error", "status"} <= McpCall.model_fields.keys()  # the error is text in older versions
    reading = read(item)
    told = [(one.kind, one.value) for one in reading.items if isinstance(one, Other)]
    assert told == [*([("mcp_call output", output)] if output else []), ("mcp_call error", error)]
    assert [(one.name, one.value) for one in reading.tool_calls[0].further if one.name == "status"] == [
        ("status", "failed")
    ]


@pytest.mark.parametrize("read", [whole, streamed])
@pytest.mark.parametrize("status", ["completed", "in_progress", "incomplete", "failed"])
def test_a_call_says_that_it_broke_off(read: Any, status: str) -> None:
    item = {"id": "f", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": status}
    (call,) = read(item).tool_calls
    assert [one.value for one in call.further] == ([status] if status in ("incomplete", "failed") else [])


SEARCH = {"id": "w", "type": "web_search_call", "status": "in_progress"}


def cut(item: dict[str, Any], step: str) -> Reading:
    """A response that breaks off after an event about an item, which has no end then."""
    response = {"id": "r", "object": "response", "model": "m", "status": "in_progress", "output": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": f"response.{item['type']}.{step}", "output_index": 0, "item_id": item["id"]},
    ]
    body = "".join(f"data: {json.dumps({**one, 'sequence_number': at})}\n\n" for at, one in enumerate(events))
    found = read_answer("text/event-stream", body.encode())
    assert found is not None
    return found


@pytest.mark.parametrize("step", ["in_progress", "searching", "completed", "failed"])
def test_how_far_an_item_has_come_before_the_response_breaks_off(step: str) -> None:
    reading = cut(SEARCH, step)
    assert reading.items == (Other("web_search_call", {**SEARCH, "status": step}),)
    assert reading.unread == ()


def test_a_call_that_failed_before_the_response_breaks_off() -> None:
    (call,) = cut({**CALL, "status": "in_progress", "arguments": ""}, "failed").tool_calls
    assert [one.value for one in call.further if one.name == "status"] == ["failed"]
    (call,) = cut({**CALL, "status": "in_progress", "arguments": ""}, "in_progress").tool_calls
    assert [one.value for one in call.further if one.name == "status"] == []
