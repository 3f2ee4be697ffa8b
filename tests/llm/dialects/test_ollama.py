"""Ollama's lines: between them may be blank ones, before them others; only a line feed parts them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_x402.llm import StreamReader, Text, answer_text, read_answer
from support.vendors.reading import read

MODEL = {"model": "llama3.2", "created_at": "2026-01-01T00:00:00Z"}
ODD = "l\u2028l\u2029o\u0085\x0b\x0c\x1c"
"""Python, but not JSON, parts lines at these."""


def line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def said(text: str, **more: Any) -> dict[str, Any]:
    return {**MODEL, "message": {"role": "assistant", "content": text}, "done": False, **more}


END = said("", done=True, done_reason="stop", prompt_eval_count=3, eval_count=4)
LINES = [line(said("He")), line(said(ODD)), line(END)]


def check(body: bytes) -> tuple[str, ...]:
    """Reads `body` at once and byte by byte; returns the remarks."""
    reading = read(body)
    assert (reading.dialect, reading.items, reading.stop_reason) == ("ollama", (Text(f"He{ODD}"),), "stop")
    assert (reading.complete, reading.usage.total) == (True, 7)
    reader = StreamReader()
    for at in range(len(body)):
        reader.feed(body[at : at + 1])
    reader.end()
    assert reader.reading() == reading
    return reading.irregular


@pytest.mark.parametrize("between", [b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\n \t\n\n", b"\n\x1e"])
@pytest.mark.parametrize("before", [b"", b"\n", b"\r\n\n"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\n\n"])
def test_blank_lines_say_nothing(before: bytes, between: bytes, after: bytes) -> None:
    assert check(before + between.join(LINES) + after) == ()


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/jsonl", "application/json", "text/plain", ""])
def test_whatever_content_type_they_come_with(kind: str) -> None:
    reading = read_answer(kind, b"\n\n".join(LINES))
    assert reading is not None
    assert (reading.text, reading.irregular) == (f"He{ODD}", ())


@pytest.mark.parametrize(
    ("first", "remarks"),
    [
        (b"{}", ()),
        (b'{"status":"loading"}', ()),
        (b'{"status":"loading"}\n{"status":"ready"}', ()),
        (b"null", ("line 1 is no JSON object",)),
        (b"1", ("line 1 is no JSON object",)),
        (b'"waiting"', ("line 1 is no JSON object",)),
        (b"true\nfalse", ("line 1 is no JSON object", "line 2 is no JSON object")),
        (b"loading", ("line 1 is not JSON: Expecting value: line 1 column 1 (char 0)",)),
        (b'{"status":', ("line 1 is not JSON: Expecting value: line 1 column 11 (char 10)",)),
    ],
)
def test_lines_before_the_answer_do_not_hide_it(first: bytes, remarks: tuple[str, ...]) -> None:
    assert check(b"\n".join([first, *LINES])) == remarks


def test_lines_that_leave_out_that_they_are_not_the_last() -> None:
    short = [{key: one for key, one in said(text).items() if key != "done"} for text in ("He", ODD)]
    assert check(b"\n".join([*map(line, short), line(END)])) == ()


def test_a_single_object_may_begin_on_its_own_line() -> None:
    whole = said("Hello", done=True, done_reason="stop")
    for body in (json.dumps(whole, indent=2), f"\n{json.dumps(whole)}\n\n", json.dumps(whole, indent=0)):
        reading = read(body.encode())
        assert (reading.text, reading.complete, reading.events, reading.irregular) == ("Hello", True, 1, ())


def test_what_is_neither_lines_nor_events_is_no_answer() -> None:
    for body in (b"loading\n{\n", b"<html>\n<p>{}\n", b"null\n1\n", b"{\n{\n"):
        assert read_answer("text/plain", body) is None


PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.mark.parametrize(
    "said",
    [
        {"response": "", "image": PICTURE},
        {"response": "", "images": [PICTURE]},
        {"message": {"role": "assistant", "content": "", "images": [PICTURE]}},
        {"message": {"role": "assistant", "content": "", "image": PICTURE}},
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_picture_is_told_wherever_it_is(said: Any, *, streamed: bool) -> None:
    told = {"model": "z-image", "created_at": "2025-01-01T00:00:00Z"}
    progress = {**told, "response": "", "completed": 1, "total": 9, "done": False}
    lines = [*([progress] if streamed else []), {**told, **said, "done": True, "done_reason": "stop"}]
    kind = "application/x-ndjson" if streamed else "application/json"
    found = read_answer(kind, "".join(json.dumps(one) + "\n" for one in lines).encode())
    assert found is not None
    assert "other: image\n  [image, 70 bytes]\n" in answer_text(found)


@pytest.mark.parametrize("size", [10, 990, 1100])
def test_how_far_an_answer_is_looked_for_does_not_depend_on_its_pieces(size: int) -> None:
    body = b"<p>\n" * (size // 4) + b"\n".join(LINES)
    readers = [StreamReader() for _ in range(3)]
    for reader, step in zip(readers, (1, 7, len(body)), strict=True):
        for at in range(0, len(body), step):
            reader.feed(body[at : at + step])
        reader.end()
    assert len({(one.form, one.reading()) for one in readers}) == 1
    assert readers[0].form == ("lines" if size < 1000 else "events")


def test_many_empty_lines_before_a_whole_answer() -> None:
    """DeepSeek sends them while a request that is not streamed waits."""
    reader = StreamReader()
    for _ in range(3000):
        reader.feed(b"\n")
    reader.feed(json.dumps(said("Hello", done=True, done_reason="stop")).encode())
    reader.end()
    assert (reader.form, reader.reading().text, reader.reading().complete) == ("object", "Hello", True)
    assert reader.reading().irregular == ()
