"""Answers in one JSON text, and errors, whatever content type they come with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_x402.llm import Reading, read_answer
from support.vendors import vendor_streams as v
from support.vendors.reading import read


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        ({"error": {"message": "Broke.", "type": "server_error", "code": 500}}, "server_error: Broke."),
        ({"error": {"message": "Broke.", "code": 500}}, "500: Broke."),
        ({"error": "Broke."}, "Broke."),
        ({"error": {"odd": [1]}}, '{"odd":[1]}'),
        ({"error": {"message": "a\nb\x1b[2J\u202e" + "x" * 600}}, "a\\nb\\u001b[2J\\u202e" + "x" * 492 + "…"),
    ],
)
def test_errors_are_one_line(error: Any, wanted: str) -> None:
    body = v.chat(v.ROLE, {**v.chunk(), **error} if isinstance(error["error"], str) else error)
    reading = read(body)
    assert (reading.error, reading.complete) == (wanted, False)


@pytest.mark.parametrize(
    "begun", [v.ROLE, v.start(), v.CREATED, v.part({"text": "x"})], ids=["chat", "messages", "responses", "gemini"]
)
@pytest.mark.parametrize(
    "broken",
    [
        b'data: {"error":{"message":"upstream timed out","type":"bad_gateway"}}\n\n',
        b'event: error\ndata: {"error":{"message":"upstream timed out","type":"bad_gateway"}}\n\n',
        b'event: error\ndata: {"type":"error","error":{"message":"upstream timed out","type":"bad_gateway"}}\n\n',
        b'event: error\ndata: {"message":"upstream timed out","code":"bad_gateway"}\n\n',
        b"event: error\ndata: bad_gateway: upstream timed out\n\n",
    ],
)
def test_a_gateway_s_error_is_known_in_every_dialect(begun: Any, broken: bytes) -> None:
    reading = read(v.events(begun) + broken)
    assert reading.error == "bad_gateway: upstream timed out"
    assert reading.complete is False


def test_a_second_error_is_kept_in_mind() -> None:
    reading = read(v.CHAT_ERROR + v.events({"error": {"message": "Again."}}))
    assert (reading.error, reading.irregular) == ("server_error: Überlast", ("a further error: Again.",))


WHOLE = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes"}, "finish_reason": "stop"}]}


def whole(value: Any, kind: str = "application/json") -> Reading | None:
    return read_answer(kind, value if isinstance(value, bytes) else json.dumps(value).encode())


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "", "Application/JSON",
                                  "application/vnd.x+json", "text/plain"])  # fmt: skip
def test_a_whole_answer_by_any_name(kind: str) -> None:
    reading = whole(WHOLE, kind)
    assert reading is not None
    assert (reading.text, reading.events, reading.complete, reading.irregular) == ("Yes", 1, True, ())


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", json.dumps(WHOLE).encode()),
        ("image/png", b"\x89PNG"),
        ("application/json", b'{"object":"list","data":[]}'),
        ("application/json", b'{"x402Version":2,"error":"Payment required","accepts":[]}'),
        ("application/json", b'{"type":"message","content":"no list"}'),
        ("application/json", b'{"error":{"code":7}}'[:-1]),
        ("application/json", b"[1,2]"),
        ("application/json", b"[]"),
        ("application/json", b"12"),
        ("application/json", b""),
        ("application/json", b'{"choices":'),
        ("text/event-stream", b"data: tick\n\ndata: tock\n\n"),
        ("text/event-stream", b'data: {"tick": 1}\n\n'),
        ("text/event-stream", b""),
        ("text/event-stream", b" \n" * 5000),
    ],
)
def test_what_is_none_of_a_language_model(kind: str, body: bytes) -> None:
    assert read_answer(kind, body) is None


def test_errors_as_whole_answers() -> None:
    for value in (
        {"error": {"message": "No.", "type": "bad"}},
        {"type": "error", "error": {"message": "No.", "type": "bad"}},
    ):
        reading = whole(value)
        assert reading is not None
        assert (reading.error, reading.complete) == ("bad: No.", False)
    reading = whole(v.GEMINI_FAULT)
    assert reading is not None
    assert (reading.dialect, reading.error) == ("gemini", "UNAVAILABLE: The model is overloaded.")


def test_a_content_type_that_is_wrong_is_told() -> None:
    reading = whole(WHOLE, "text/event-stream")
    assert reading is not None
    assert reading.irregular == ("the content type says text/event-stream, and the body is not that",)
    reading = whole(v.CHAT["text"])
    assert reading is not None
    assert reading.text == "Grüße, 🦀"
    assert reading.irregular == ("the content type says application/json, and the body is not that",)


def test_a_response_that_works_in_the_background_is_not_complete() -> None:
    value = {**v.state("completed")["response"], "status": "queued"}
    reading = whole(value)
    assert reading is not None
    assert (reading.dialect, reading.complete, reading.stop_reason) == ("openai-responses", False, None)
