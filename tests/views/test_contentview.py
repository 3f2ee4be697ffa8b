"""The content views, as both lines of mitmproxy ask for them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import brotli
import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from mitmproxy_x402.cli.sandbox import REQUEST
from mitmproxy_x402.llm import values
from mitmproxy_x402.protocol.strict_json import decode_json
from mitmproxy_x402.sandbox.answers import meaning
from mitmproxy_x402.sandbox.vendors import chat, messages
from mitmproxy_x402.views import contentview, flow_metadata, reading
from support import challenges, zstd
from support.console import io
from support.contentviews import Shown, names, priority, show
from support.patience import eventually

EVENTS = "text/event-stream; charset=utf-8"
JSON = "application/json"
STREAM = b"".join(chat.stream(REQUEST, meaning(REQUEST), 0))
ARGUMENTS = '"city": "Oslo"'
"""What no single event of STREAM has in it."""

contentview.register()


def flow(body: bytes = STREAM, kind: str = EVENTS, path: str = "/v1/chat/completions", **headers: str) -> http.HTTPFlow:
    made = tflow.tflow(
        req=tutils.treq(method=b"POST", path=path.encode(), content=json.dumps(REQUEST).encode()),
        resp=tutils.tresp(content=body, headers=http.Headers(content_type=kind, **headers)),
    )
    made.request.headers["content-type"] = JSON
    return made


def look(at: http.HTTPFlow, view: str = "auto") -> Shown:
    async def run() -> Shown:
        return show(at.response, at, view)

    seen: list[Shown] = []
    eventually(lambda: (seen.append(asyncio.run(run())), "are being read" not in seen[-1].text)[1])
    return seen[-1]


def lines_of(text: str) -> list[str]:
    return reading.wrapped(text).split("\n")


def test_the_answers_fragments_are_put_together() -> None:
    shown = look(flow())
    assert shown.name == "LLM stream"
    assert ARGUMENTS.encode() not in STREAM
    assert ARGUMENTS in shown.text
    assert "tool call 1: forecast" in shown.text


def test_it_can_be_asked_for_by_its_name() -> None:
    assert {"llm stream", "x402"} <= set(names())
    assert ARGUMENTS in look(flow(kind="text/plain"), "LLM stream").text


def test_registering_again_changes_nothing() -> None:
    before = names()
    contentview.register()
    assert names() == before


@pytest.mark.parametrize("size", [1, 17, 400, len(STREAM) // 2])
def test_the_first_part_of_a_stream(size: int) -> None:
    text = look(flow(STREAM[:size])).text
    assert "not finished" in text or size < 400


def test_a_stream_that_grows_is_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    answers = reading.Answers()
    feed = reading.llm.StreamReader.feed
    monkeypatch.setattr(
        reading.llm.StreamReader, "feed", lambda self, data: (fed.append(len(data)), feed(self, data))[1]
    )
    for end in range(2000, len(STREAM), 500):
        answers.text("text/event-stream", STREAM[:end], growing=True)
    whole = answers.text("text/event-stream", STREAM, growing=True)
    assert sum(fed) == len(STREAM)
    assert ARGUMENTS in whole
    assert ARGUMENTS in answers.text("text/event-stream", STREAM + b": more\n\n", growing=True)
    other = STREAM[: STREAM.index(b"\n\n", 1500) + 2] + b'data: {"error": {"message": "hello"}}\n\n'
    assert "hello" in answers.text("text/event-stream", other, growing=True)


@pytest.mark.parametrize("growing", [True, False])
def test_no_look_takes_long(monkeypatch: pytest.MonkeyPatch, growing: bool) -> None:
    """What is not read in time is read in a thread, and there at another look."""
    go_on = threading.Event()
    feed = reading.llm.StreamReader.feed
    monkeypatch.setattr(reading.llm.StreamReader, "feed", lambda self, data: (go_on.wait(60), feed(self, data))[1])
    answers = reading.Answers()
    long = STREAM * (1 + 300_000 // len(STREAM))
    first = answers.text("text/event-stream", long, growing=growing)
    assert first == f"(the {len(long):,} bytes of it are being read: open this view again in a moment)"
    go_on.set()
    eventually(lambda: ARGUMENTS in answers.text("text/event-stream", long, growing=growing))


def test_an_answer_is_shown_with_its_end_also_after_many_others() -> None:
    broken = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}\n\n'
    first = look(flow(broken))
    assert "the answer is not complete" in first.text
    for number in range(100):
        look(flow(STREAM.replace(b"chatcmpl", b"chat%d" % number)))
    assert look(flow(broken)).text == first.text


def test_nothing_is_said_of_the_end_of_what_still_grows_or_was_cut() -> None:
    broken = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}\n\n'
    cut = flow(broken)
    cut.metadata["x402.cut"] = "cut at 4 MB of 12 MB"
    live = flow(broken)
    assert live.response is not None
    live.live, live.response.timestamp_end = True, None
    for one in (cut, live):
        assert "not complete" not in look(one).text


@pytest.mark.parametrize(
    "text", ["word " * 100, "x" * 1000, "  " + "word " * 100, " " * 200 + "x", "a" * 119 + " b", "é " * 300, "a" * 121]
)
def test_long_lines_are_broken_and_nothing_of_them_is_lost(text: str) -> None:
    lines = lines_of(text)
    indent = min(len(text) - len(text.lstrip(" ")), reading.WIDTH // 2)
    assert all(len(line) <= reading.WIDTH for line in lines)
    assert all(line.startswith(" " * indent) for line in lines)
    assert "".join(line.strip() for line in lines).replace(" ", "") == text.replace(" ", "")
    assert lines_of("a\n\nb") == ["a", " ", "b"]
    transaction = "0x" + "5" * 64
    assert lines_of(f"transaction {transaction}") == ["transaction", transaction]


def test_a_large_picture_is_a_line() -> None:
    data = {"mimeType": "image/png", "data": "A" * 6_000_000}
    body = json.dumps({"candidates": [{"content": {"parts": [{"inlineData": data}]}, "finishReason": "STOP"}]}).encode()
    answers = reading.Answers()
    eventually(lambda: "[image, image/png, 4,500,000 bytes]" in answers.text(JSON, body))


def test_one_json_text_with_very_many_values_is_not_parsed_here() -> None:
    body = b'{"choices": [' + b"0," * reading.MAX_VALUES + b"0]}"
    eventually(lambda: "`fixtures show` reads it" in look(flow(body, JSON)).text)


# A view never holds the proxy up: the work that the event loop does, and that between two of its turns, is counted.

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


def test_what_the_event_loop_reads_itself_is_short(steps: list[tuple[bool, int]]) -> None:
    answers = reading.Answers()
    for size in range(1, 60):
        read_whole(answers, EVENTS, CHUNK % size * size)
    assert any(here for here, _ in steps)
    assert max(size for here, size in steps if here) <= 8 << 10


@pytest.mark.parametrize("bound", ["MAX_READ", "MAX_EVENTS"])
def test_how_much_is_read_is_bounded_and_said(
    steps: list[tuple[bool, int]], monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(reading, bound, {"MAX_READ": 1 << 20, "MAX_EVENTS": 10_000}[bound])
    body = b"".join(CHUNK % number for number in range(30_000))
    text = read_whole(reading.Answers(), EVENTS, body)
    what = {"MAX_READ": "1 MB of this answer is", "MAX_EVENTS": "10,000 events of this answer are"}[bound]
    assert f"only the first {what} read here" in " ".join(text.split())
    assert "word 9000" in text.replace("\n  ", " ")
    assert "not complete" not in text
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
    asked = flow()
    asked.request.text = json.dumps({**REQUEST, "x": [0] * reading.MAX_VALUES})
    read_whole(reading.answers, EVENTS, STREAM, reading.asked_by(asked.request))
    assert "hold the calls against its tools here" in " ".join(look(asked).text.split())


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


def packed(coding: str) -> bytes:
    """STREAM as a gateway compresses it: flushed after each event."""
    events = [event + b"\n\n" for event in STREAM.split(b"\n\n")[:-1]]
    if coding == "gzip":
        gzipped = zlib.compressobj(wbits=31)
        return b"".join([*(gzipped.compress(e) + gzipped.flush(zlib.Z_SYNC_FLUSH) for e in events), gzipped.flush()])
    if coding == "br":
        brotlied = brotli.Compressor()
        return b"".join([*(brotlied.process(e) + brotlied.flush() for e in events), brotlied.finish()])
    packer = zstd.ZstdCompressor()
    return b"".join([*(packer.compress(e) + packer.flush(packer.FLUSH_BLOCK) for e in events), packer.flush()])


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("part", [1.0, 0.6])
def test_compressed_bodies_also_in_part(coding: str, part: float) -> None:
    body = packed(coding)
    text = look(flow(body[: int(len(body) * part)], content_encoding=coding)).text
    assert "tool call 1: forecast" in text
    assert (ARGUMENTS in text) == (part == 1)


@pytest.mark.parametrize(
    ("coding", "body"), [("gzip", b"no gzip at all"), ("x-none", STREAM), ("br", b"\xff" * 9), ("", b"\xff\x00")]
)
def test_what_cannot_be_decoded_does_no_harm(coding: str, body: bytes) -> None:
    assert isinstance(look(flow(body, content_encoding=coding)).text, str)


def test_a_whole_answer_in_json() -> None:
    answer = {**REQUEST, "stream": False}
    body = json.dumps(chat.answer(answer, meaning(answer), 0)).encode()
    shown = look(flow(body, JSON))
    assert shown.name == "LLM stream"
    assert ARGUMENTS in shown.text


@pytest.mark.parametrize("path", ["/v1/models", "/v1/messages/count_tokens", "/v1/echo", "/v1/chat/completions/x"])
def test_other_json_is_left_to_mitmproxy(path: str) -> None:
    assert look(flow(b'{"a": 1}', JSON, path)).name == "JSON"


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/api/chat", "application/x-ndjson",
         b'{"message":{"content":"al"},"done":false}\n{"message":{"content":"pha"},"done":true}\n'),
        ("/v1/chat", "application/stream+json",
         b'{"is_finished":false,"event_type":"text-generation","text":"al"}\n'
         b'{"is_finished":false,"event_type":"text-generation","text":"pha"}\n'),
        ("/model/m/converse", JSON, b'{"output":{"message":{"content":[{"text":"alpha"}]}},"stopReason":"end_turn"}'),
        ("/model/m/converse-stream", "application/vnd.amazon.eventstream",
         (Path(__file__).parents[1] / "llm/cases/streams/bedrock-event-stream/response.bin").read_bytes()),
    ],
)  # fmt: skip
def test_answers_of_other_vendors(path: str, kind: str, body: bytes) -> None:
    shown = look(flow(body, kind, path))
    assert shown.name == "LLM stream"
    assert "text\n  alpha" in shown.text


def test_a_call_is_held_against_the_tools_of_its_request() -> None:
    asked = flow(STREAM.replace(b"Oslo", b"Bergen").replace(b'"forecast"', b'"forecats"'))
    text = look(asked).text
    assert 'the request declares no such tool; is it "forecast"?' in " ".join(text.split())


def test_an_error_in_json_is_left_to_mitmproxy() -> None:
    failed = flow(b'{"error": {"message": "no"}}', JSON)
    assert failed.response is not None
    failed.response.status_code = 500
    assert look(failed).name == "JSON"


def test_json_of_a_chat_endpoint_that_no_model_wrote() -> None:
    assert json.loads(look(flow(b'{"a":[1,"\xc3\xbc"]}', JSON)).text) == {"a": [1, "ü"]}


def test_events_that_no_model_wrote() -> None:
    assert look(flow(b"data: tick\n\nevent: x\ndata: tock\n\n")).text == "data: tick\n \nevent: x\ndata: tock\n \n "


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/api/v1/messages?beta=true",
        "/v1/responses",
        "/v1beta/models/g-2:streamGenerateContent?alt=sse",
        "/model/eu.a-1%3A0/converse-stream",
        "/v1/chat",
        "/v2/chat",
        "/api/chat",
        "/v1beta/interactions",
        "/v1/threads/t-1/runs",
        "/v1/complete",
    ],
)
def test_requests_of_chat_endpoints(path: str) -> None:
    asked = flow(path=path)
    assert priority("llm stream", asked.request.content or b"", asked.request, asked) > 2


def test_a_request() -> None:
    asked = flow()

    async def run() -> Shown:
        return show(asked.request, asked)

    shown = asyncio.run(run())
    assert shown.name == "LLM stream"
    assert "Do I need an umbrella in Oslo this week?" in shown.text
    assert "forecast" in shown.text


@pytest.mark.parametrize("data", [b"", STREAM])
def test_priorities_elsewhere(data: bytes) -> None:
    picture = flow(data, "image/png")
    assert priority("llm stream", data, picture.response, picture) < 0
    assert priority("x402", data, picture.response, picture) < 0


# The payment.


def paid(**facts: Any) -> http.HTTPFlow:
    made = flow()
    challenge = challenges.evm()
    encoded = base64.b64encode(json.dumps(challenge).encode()).decode()
    made.metadata = {
        "x402.state": "settled",
        "x402.amount": "0.013081",
        "x402.network": "base-sepolia",
        "x402.pay_to": challenges.PAY_TO,
        "x402.transaction": "0xabcdef0123456789",
        "x402.legs": "2",
        "x402.challenge": {
            "status": 402,
            "headers": [["PAYMENT-REQUIRED", encoded], ["X-Odd", "\x1b[2J"]],
            "body": b'{"price":{"amount":"0.02"}}',
        },
        **{f"x402.{key}": value for key, value in facts.items()},
    }
    return made


def test_the_answer_begins_with_the_payment() -> None:
    lines = look(paid(cut="cut at 4 MB of 12 MB")).text.splitlines()
    assert lines[:5] == [
        "0.013081 USDC on base-sepolia: paid",
        f"to {challenges.PAY_TO}",
        "transaction 0xabcdef0123456789",
        "The body is cut at 4 MB of 12 MB: x402_view_limit.",
        " ",
    ]


def test_the_handshake() -> None:
    text = look(paid(), "x402").text
    assert "requests sent upstream: 2" in text
    assert f"-> exact on base-sepolia: 0.013081 USDC, within 300 s\n       to {challenges.PAY_TO}\n" in text
    assert '"maxTimeoutSeconds": 300' in text
    assert '"amount": "0.02"' in text
    assert "X-Odd: \\u001b[2J" in text


def test_the_handshake_survives_a_flow_file(tmp_path: Any) -> None:
    file = tmp_path / "flows"
    with file.open("wb") as stream:
        io.FlowWriter(stream).add(paid())
    with file.open("rb") as stream:
        (loaded,) = io.FlowReader(stream).stream()
    assert isinstance(loaded, http.HTTPFlow)
    assert look(loaded, "x402").text == look(paid(), "x402").text


@pytest.mark.parametrize("how", ["live", "copied", "loaded"])
def test_a_challenge_does_not_bury_the_tab_detail(how: str) -> None:
    """mitmproxy prints the `repr` of all metadata there."""
    asked = flow()
    asked.response = http.Response.make(402, b"x" * 4000, {"PAYMENT-REQUIRED": "a" * 3000})
    flow_metadata.challenged(asked)
    if how == "copied":
        asked = asked.copy()
    elif how == "loaded":
        file = BytesIO()
        io.FlowWriter(file).add(asked)
        file.seek(0)
        (loaded,) = io.FlowReader(file).stream()
        assert isinstance(loaded, http.HTTPFlow)
        flow_metadata.loaded(loaded)
        asked = loaded
    assert repr(asked.metadata["x402.challenge"]).startswith("<402, 7,")
    assert len(repr(asked.metadata)) < 100
    assert "Its body:\n  xxxx" in look(asked, "x402").text


@pytest.mark.parametrize("value", [None, 7, "x", b"x", [], [1], [[1]], {}, {"a": 1}, [["a", "b", "c"]], "\ud800"])
@pytest.mark.parametrize("key", ["status", "headers", "body", ""])
def test_metadata_that_others_wrote_does_no_harm(key: str, value: Any) -> None:
    challenge = {"status": 402, "headers": [["a", "b"]], "body": b"x", key: value} if key else value
    made = paid(challenge=challenge, state=value, cut=value, refused=value)
    flow_metadata.loaded(made)
    assert len(repr(made.metadata)) < 1000
    for view in ("x402", "LLM stream"):
        assert isinstance(look(made, view).text, str)


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        ({"status": 402, "headers": [], "body": b"no challenge"}, "no challenge"),
        ({"status": 402, "headers": [], "body": b'{"x402Version": 9, "accepts": [{}]}'}, "speaks x402 version 9"),
        ({"status": 402, "headers": [], "body": json.dumps(challenges.evm(network="eip155:1", asset="0xab")).encode()},
         "exact on eip155:1: 13081 of 0xab"),
        ({"status": 402, "headers": [["content-encoding", "gzip"]], "body": gzip.compress(b'{"accepts": []}')}, "402"),
        ({}, "402"),
    ],
)  # fmt: skip
def test_any_402(challenge: dict[str, Any], expected: str) -> None:
    assert expected in look(paid(challenge=challenge), "x402").text


def test_nothing_to_pay() -> None:
    assert look(flow(), "x402").text == "Nothing was asked to be paid."


def test_a_refusal_shows_the_handshake_by_itself() -> None:
    refused = paid(state="refused", refused="over_request_limit", asked="0.013081 USDC on base-sepolia")
    refused.response = http.Response.make(
        400, b'{"error": {"message": "The gateway asks too much."}}', {"content-type": JSON}
    )
    shown = look(refused)
    assert shown.name == "x402"
    assert shown.text.startswith("refused over_request_limit: asked 0.013081 USDC on base-sepolia\n")
    assert "The client got 400:\n  The gateway asks too much." in shown.text


def test_a_refusal_after_a_payment() -> None:
    text = look(paid(state="unknown", refused="over_repurchase_limit"), "x402").text
    assert text.startswith(
        "0.013081 USDC on base-sepolia: sent, not confirmed yet, then refused\nover_repurchase_limit\n"
    )


def test_another_dialect() -> None:
    request = {**REQUEST, "tools": [{"name": "forecast", "input_schema": {"type": "object"}}]}
    body = b"".join(messages.stream(request, meaning(request), 0))
    assert "tool call 1: forecast" in look(flow(body, path="/v1/messages")).text
