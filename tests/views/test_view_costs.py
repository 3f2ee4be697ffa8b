"""No view holds the proxy up: what the event loop reads is short, and the rest is read in a thread."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
from typing import Any

import pytest

from mitmproxy_x402.cli.sandbox import REQUEST
from mitmproxy_x402.llm import values
from mitmproxy_x402.protocol.strict_json import decode_json
from mitmproxy_x402.views import contentview, reading, views
from support.patience import eventually
from support.showing.looking import ARGUMENTS, EVENTS, JSON, STREAM, flow, look

CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "word %d"}, "finish_reason": null}]}\n\n'


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Whether each piece of an answer was read by the event loop's thread, and its size."""
    found: list[tuple[bool, int]] = []
    mine, feed = threading.current_thread(), reading.llm.StreamReader.feed

    def counted(self: Any, data: bytes) -> None:
        found.append((threading.current_thread() is mine, len(data)))
        feed(self, data)

    monkeypatch.setattr(reading.llm.StreamReader, "feed", counted)
    return found


def read_whole(answers: reading.Answers, *of: Any, **how: Any) -> str:
    eventually(lambda: "being read" not in answers.text(*of, **how))
    return answers.text(*of, **how)


@pytest.mark.parametrize("growing", [True, False])
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_long_stream_is_read_elsewhere_in_small_pieces(
    steps: list[tuple[bool, int]], growing: bool, coding: str
) -> None:
    body = b"".join(CHUNK % number for number in range(10_000))
    sent = gzip.compress(body) if coding else body
    assert "word 9999" in read_whole(reading.Answers(), EVENTS, sent, coding=coding, growing=growing)
    assert sum(size for _, size in steps) == len(body)
    assert not any(here for here, _ in steps)
    assert max(size for _, size in steps) <= reading.SLICE


def test_streams_that_begin_alike_are_told_apart_and_read_elsewhere(steps: list[tuple[bool, int]]) -> None:
    begin = CHUNK % 1 * 20
    one, other = begin + CHUNK % 2 * 500, begin + CHUNK % 3 * 400
    answers = reading.Answers()
    assert "word 2" in read_whole(answers, EVENTS, one, growing=True)
    assert "word 2" not in answers.text(EVENTS, other, growing=True)
    for _ in range(2):
        assert "word 3" in read_whole(answers, EVENTS, other, growing=True)
        assert "word 2" in read_whole(answers, EVENTS, one, growing=True)
    assert not any(here for here, _ in steps)


def test_the_text_of_a_long_stream_is_not_put_together_by_the_event_loop(steps: list[tuple[bool, int]]) -> None:
    answers = reading.Answers()
    body = CHUNK % 1 * 2000
    read_whole(answers, EVENTS, body, growing=True)
    for _ in range(5):
        body += CHUNK % 1
        assert "word 1" in answers.text(EVENTS, body, growing=True)
    assert not any(here for here, _ in steps)


def test_what_the_event_loop_reads_itself_is_short(steps: list[tuple[bool, int]]) -> None:
    answers = reading.Answers()
    for size in range(1, 60):
        read_whole(answers, EVENTS, CHUNK % size * size)
    assert any(here for here, _ in steps)
    assert max(size for here, size in steps if here) <= 2 << 10


@pytest.mark.parametrize("bound", ["MAX_READ", "MAX_EVENTS"])
def test_how_much_is_read_is_bounded_and_said(
    steps: list[tuple[bool, int]], monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(reading, bound, {"MAX_READ": 1 << 20, "MAX_EVENTS": 10_000}[bound])
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":71}}\n\n'
    body = b"".join(CHUNK % number for number in range(30_000)) + end + b"data: [DONE]\n\n"
    text = read_whole(reading.Answers(), EVENTS, body)
    what = {"MAX_READ": "1 MB of this answer is", "MAX_EVENTS": "10,000 events of this answer are"}[bound]
    assert f"only the first {what} read here" in " ".join(text.split())
    assert "word 9000" in text.replace("\n  ", " ")
    assert "finished: stop   tokens: in 71" in " ".join(text.split("\n  "))
    if bound == "MAX_READ":
        assert sum(size for _, size in steps) <= (1 << 20) + reading.SLICE


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (EVENTS, b"data: " + b'{"choices": [{"index": 0, "delta": {"content": "a"}}], "x": [%s0]}\n\n'),
        (JSON, b'{"choices": [{"index": 0, "message": {"content": "a"}}], "x": [%s0]}'),
        ("application/x-ndjson", b'{"message": {"content": "a"}, "done": false, "x": [%s0]}\n{"done": true}\n'),
        (JSON, b'[{"candidates": [{"content": {"parts": [{"text": "a"}]}}], "x": [%s0]}]'),
        (EVENTS, b'data: {"choices": [{"delta": {"content": "a"}}]}\n\nevent: x\ndata: [%s0]'),
    ],
)
def test_no_json_with_very_many_values_is_parsed(monkeypatch: pytest.MonkeyPatch, kind: str, body: bytes) -> None:
    """Python lets no other thread run while its parser does."""
    parsed: list[int] = []
    monkeypatch.setattr(values, "decode_json", lambda data: (parsed.append(len(data)), decode_json(data))[1])
    for unit in (b"0,", b'{"a":1},', b"[[[]]],", b'"\\"",'):
        dense = body % (unit * reading.MAX_VALUES)
        assert read_whole(reading.Answers(), kind, dense)
    assert not parsed or max(parsed) < 1000


def test_a_call_is_not_held_against_tools_in_a_request_of_very_many_values() -> None:
    asked = flow(body := STREAM + b": of this test, since an answer is read once\n\n")
    asked.request.text = json.dumps({**REQUEST, "x": [0] * reading.MAX_VALUES})
    read_whole(reading.answers, EVENTS, body, reading.asked_by(asked.request))
    assert "check the calls against its tools here" in " ".join(look(asked).text.split())


def test_no_call_is_held_against_tools_by_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short schema with short arguments can take a tenth of a second."""
    threads: list[threading.Thread] = []
    check = reading.llm.checked
    monkeypatch.setattr(reading.llm, "checked", lambda *of: (threads.append(threading.current_thread()), check(*of))[1])
    asked = flow(body := STREAM + b": of this test, too\n\n")
    asked.request.text = json.dumps(REQUEST)
    read_whole(reading.Answers(), EVENTS, body, reading.asked_by(asked.request))
    assert threads
    assert threading.current_thread() not in threads


def test_of_a_very_long_argument_the_beginning_is_shown() -> None:
    arguments = json.dumps({"x": "begun" + "a" * 1_000_000})
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    body = json.dumps({"choices": [{"index": 0, "message": {"tool_calls": [call]}, "finish_reason": "stop"}]}).encode()
    text = read_whole(reading.Answers(), JSON, body)
    assert "tool call 1: f" in text
    assert '"begunaaa' in text
    assert "the rest is left out" in text


def test_a_long_answer_is_shown_with_its_beginning_and_its_end() -> None:
    begun = b'data: {"choices": [{"index": 0, "delta": {"content": "begun %s"}, "finish_reason": null}]}\n\n'
    body = begun % (b"x" * 500_000)
    answers = reading.Answers()
    eventually(lambda: "begun" in answers.text("text/event-stream", body))
    shown = answers.text("text/event-stream", body)
    assert "`fixtures show` prints them ...)" in " ".join(shown.split())
    assert "the answer is not complete" in shown
    assert len(shown) < reading.MAX_TEXT * 1.1


def test_what_was_read_in_a_thread_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = reading.Answers(kept=2)
    said, text, data = reading.read(EVENTS, "gzip", gzip.compress(STREAM))
    assert said is not None
    assert (len(said.tool_calls), data) == (1, STREAM)
    answers.remember(data, text)
    monkeypatch.delattr(reading.llm.StreamReader, "feed")
    assert ARGUMENTS in answers.text("text/event-stream", STREAM)


def test_views_of_a_stream_that_grows_to_twenty_megabytes_take_little_of_the_event_loop() -> None:
    """The processor's time of each call on the event loop's thread, whatever else the machine does."""
    shown, view, body = flow(b""), contentview.LlmView(), views.Body(64 << 20)
    assert shown.response is not None
    shown.live, shown.response.timestamp_end = True, None
    part = b"".join(CHUNK % number for number in range(5_000))
    longest = 0.0
    for _ in range(45):
        body.receive(part)
        for call in (
            lambda: body.show_news(shown),
            lambda: view.text(contentview.Shown(shown.response.raw_content or b"", EVENTS, shown.response, shown)),
        ):
            begun = time.thread_time()
            call()
            longest = max(longest, time.thread_time() - begun)
    assert (3 << 20) < len(shown.response.raw_content or b"") <= views.LIVE
    assert longest < 0.1  # a fifth of that where nothing else runs
    assert body.kept() == part * 45


def test_what_is_kept_is_what_came_in_whatever_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it streams, all but the last chunk is shown."""
    monkeypatch.setattr(views, "HELD", 1000)
    shown = flow(b"")
    assert shown.response is not None
    sizes = (1, 255 << 10, 1 << 10, 1, 700 << 10, *(9 << 10,) * 100)
    whole = random.Random(1).randbytes(sum(sizes))
    body, at = views.Body(len(whole) - 1000), 0
    for size in sizes:
        body.receive(whole[at : at + size])
        body.show_news(shown)
        assert shown.response.raw_content == whole[: min(at, len(whole) - 1000)]
        at += size
    assert body.kept() == whole[:-1000]
