"""Bodies of megabytes that say nothing, over and over: reading them ends soon, and says what was left out."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from mitmproxy_x402.fixtures.show import comparing, page
from mitmproxy_x402.fixtures.show.sources import Asked, Source
from mitmproxy_x402.llm import StreamReader, answer_text, differences, read_answer, read_request, request_text
from mitmproxy_x402.llm.framing import elements
from mitmproxy_x402.llm.stream import MAX_UNKNOWN
from support.running.work import lines_executed

SAID = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
ELEMENT = b'{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}'


@pytest.mark.parametrize(
    ("one", "head"), [(b"data: {}\n\n", b""), (b"{},", b"["), (b"{}\n", b""), (b"data: {}\n", b""), (b"0,", b"[")]
)
def test_events_that_nobody_knows_are_not_read_for_ever(one: bytes, head: bytes) -> None:
    def steps(times: int) -> int:
        reader = StreamReader()

        def read() -> None:
            reader.feed(head + one * times)
            reader.end()

        executed = lines_executed(read)
        assert reader.events <= MAX_UNKNOWN + 1
        assert f"only its first {MAX_UNKNOWN:,} events are read, and there are more" in reader.reading().irregular
        return executed

    assert steps(4 * MAX_UNKNOWN) < 2.5 * steps(MAX_UNKNOWN + 10)


@pytest.mark.parametrize("body", [SAID * 60, b"[" + b",".join([ELEMENT] * 60) + b"]"], ids=["events", "elements"])
def test_events_over_the_bound_are_left_out(body: bytes) -> None:
    reader = StreamReader(max_events=50)
    for at in range(0, len(body), 100):
        reader.feed(body[at : at + 100])
    reader.end()
    reading = reader.reading()
    assert (reading.text, reading.events, reading.partly) == ("a" * 50, 60, True)
    assert any("only its first 50 events are read, of 60" in remark for remark in reading.irregular)
    exact = StreamReader(max_events=60)
    exact.feed(body)
    exact.end()
    assert exact.reading().text == "a" * 60
    assert not any("only its first" in remark for remark in exact.reading().irregular)


LONG = {
    "chat": (
        SAID * 60 + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":7}}\n\n'
    )
    + b"data: [DONE]\n\n",
    "lines": b'{"model":"m","message":{"content":"a"},"done":false}\n' * 60
    + b'{"model":"m","message":{"content":""},"done":true,"done_reason":"stop","prompt_eval_count":7}\n',
    "elements": b"[" + b",".join([ELEMENT] * 60) + b',{"candidates":[{"content":{"parts":[{"text":""}]},'
    b'"finishReason":"stop"}],"usageMetadata":{"promptTokenCount":7}}]',
    "messages": b'data: {"type":"message_start","message":{"model":"m","id":"i","content":[],"usage":{}}}\n\n'
    b'data: {"type":"content_block_start","index":0,"content_block":'
    b'{"type":"tool_use","id":"t","name":"f","input":{}}}\n\n'
    + b'data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"[0,"}}\n\n'
    * 60
    + b'data: {"type":"content_block_stop","index":0}\n\n'
    b'data: {"type":"message_delta","delta":{"stop_reason":"stop"},"usage":{"input_tokens":7,"output_tokens":0}}\n\n'
    b'data: {"type":"message_stop"}\n\n',
}
LONG["messages"] = re.sub(rb'(?m)^data: \{"type":"(\w+)"', rb"event: \1\n\g<0>", LONG["messages"])


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("traced", [True, False])
def test_of_what_is_over_the_bound_the_end_is_read(name: str, traced: bool) -> None:
    reader = StreamReader(max_events=50, traced=traced)
    body = LONG[name]
    for at in range(0, len(body), 100):
        reader.feed(body[at : at + 100])
    reader.end()
    reading = reader.reading()
    assert (reading.stop_reason, reading.usage.input, reading.complete) == ("stop", 7, True)
    assert reading.partly
    (remark,) = reading.irregular  # and nothing about the gap
    assert "of the last ones, only why it ended, and its tokens" in remark
    whole = read_answer("", body)
    assert whole is not None
    assert reading.events == whole.events
    assert f", of {whole.events};" in remark
    for one, other in zip(reading.items, whole.items, strict=True):
        assert str(other).startswith(str(one)[:40])
    assert "finished: stop" in answer_text(reading)


def test_an_answer_over_the_bound_without_its_end_is_not_finished() -> None:
    reader = StreamReader(max_events=50)
    reader.feed(SAID * 60)
    assert "not read to its end" in answer_text(reader.reading())
    reader.end()
    assert not reader.reading().complete
    assert any("is not complete" in remark for remark in reader.reading().irregular)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[" * 5000, "nested too deeply"),
        (b"[[[" + b"[]," * 900, "too large"),
        (b"[" + b"," * 2000, "too large"),
        (b"[" + ELEMENT + b"," + b"[" * 2000, "nested too deeply"),
    ],
)
def test_an_array_of_brackets_is_not_read_to_its_end(body: bytes, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MAX_MARKS", 1500)
    reader = StreamReader()
    reader.feed(body)
    reader.end()
    assert f"the array is {why}: the rest of it is not read" in reader.reading().irregular


def test_of_an_array_of_very_many_choices_the_first_are_read() -> None:
    body = b'{"object":"chat.completion","choices":[{"text":"a"}' + b",{}" * 50_000 + b"]}"
    reading = read_answer("application/json", body)
    assert reading is not None
    assert "choices: only the first 50,000 of 50,001 are read" in reading.irregular


def test_two_answers_of_many_choices_are_compared_in_linear_work() -> None:
    def steps(choices: int) -> int:
        body = b"".join(
            b'data: {"choices":[{"index":%d,"delta":{"content":"a"}}]}\n\n' % number for number in range(choices)
        )
        one = read_answer("text/event-stream", body)
        assert one is not None
        return lines_executed(lambda: differences(one, one))

    assert steps(800) < 4.3 * steps(200)


def chat(**more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [], **more}).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (chat(messages=[{}] * 30_000), "only its first 20,000 messages and parts are read"),
        (chat(messages=[{"role": "user", "content": [{}] * 9000}] * 9), "only its first 20,000 messages"),
        (chat(messages=[{"role": "user", "content": [{}] * 5001}]), "left out: 1 more"),
        (chat(messages=[{"role": "assistant", "tool_calls": [{}] * 5001}]), "left out: 1 more"),
        (chat(tools=[{"type": "function", "function": {"name": "f"}}] * 6000), "only its first 5,000 tools are read"),
        (chat(tools=[{}] * 6000), "only its first 5,000 tools are read"),
        (chat(**{f"k{number}": 1 for number in range(600)}), "only its first 500 parameters are shown"),
    ],
)
def test_of_a_request_without_end_the_beginning_is_shown(body: bytes, said: str) -> None:
    asked = read_request("/v1/chat/completions", "application/json", body)
    assert asked is not None
    text = request_text(asked)
    assert said in text
    assert text.count("\n") < 200_000


def test_of_requests_that_differ_everywhere_the_first_differences_are_told() -> None:
    one, other = (
        Source("x", "application/json", b"{}", Asked("POST", "/", "application/json", json.dumps([n] * 3000).encode()))
        for n in (1, 2)
    )
    found = comparing.request_differences(one, other)
    assert (len(found), found[-1]) == (1001, "and more")


def test_a_page_shows_the_beginning_of_very_large_json() -> None:
    asked = Asked("POST", "/", "application/json", json.dumps([[1] * 300] * 300).encode())
    shown = page.page([Source("x", "application/json", b"{}", asked)], "t")
    assert "Only its first 20,000 values." in shown
    assert len(shown) < 1_500_000
