"""The content views, as both lines of mitmproxy ask for them."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from pathlib import Path

import brotli
import pytest

from mitmproxy_x402.cli.sandbox import REQUEST
from mitmproxy_x402.sandbox.answers import meaning
from mitmproxy_x402.sandbox.vendors import chat, messages
from mitmproxy_x402.views import contentview, reading
from support.patience import eventually
from support.recording import zstd
from support.showing.contentviews import Shown, names, priority, show
from support.showing.looking import ARGUMENTS, JSON, STREAM, flow, lines_of, look


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


def test_a_list_s_items_and_the_facts_of_a_line_stay_together() -> None:
    facts = ["model  " + "m" * 30, "finished: tool_calls", "tokens: 245 (in 213, out 32)"]
    assert lines_of("   ".join(facts)) == ["   ".join(facts[:2]), facts[2]]
    assert lines_of("  - " + "word " * 20)[1].startswith("    word")


def test_a_large_picture_is_a_line() -> None:
    data = {"mimeType": "image/png", "data": "A" * 6_000_000}
    body = json.dumps({"candidates": [{"content": {"parts": [{"inlineData": data}]}, "finishReason": "STOP"}]}).encode()
    answers = reading.Answers()
    eventually(lambda: "[image, image/png, 4,500,000 bytes]" in answers.text(JSON, body))


def test_one_json_text_with_very_many_values_is_not_parsed_here() -> None:
    body = b'{"choices": [' + b"0," * reading.MAX_VALUES + b"0]}"
    eventually(lambda: "`fixtures show` reads it" in look(flow(body, JSON)).text)


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


def test_another_dialect() -> None:
    request = {**REQUEST, "tools": [{"name": "forecast", "input_schema": {"type": "object"}}]}
    body = b"".join(messages.stream(request, meaning(request), 0))
    assert "tool call 1: forecast" in look(flow(body, path="/v1/messages")).text


@pytest.mark.parametrize(("size", "found"), [(0, 2), (contentview.MAX_QUERY, 0)])
def test_mitmproxy_s_view_of_graphql_decodes_no_large_body_that_nobody_wants_it_for(size: int, found: int) -> None:
    """Which view fits is asked of every view, on the event loop."""
    body = json.dumps({"query": f"query {{\n a }} #{'x' * size}"}).encode()
    asked = flow(body, JSON)
    assert priority("graphql", body, asked.response, asked) == found

    async def run() -> Shown:  # mitmproxy 11's view makes a loop where none runs, and leaves it open
        return show(asked.response, asked, "graphql")

    assert asyncio.run(run()).name == "GraphQL"


def test_mitmproxy_s_view_of_graphql_is_bounded_once() -> None:
    contentview.register()
    body = b'{"query": "query {\\n a }"}'
    asked = flow(body, JSON)
    assert priority("graphql", body, asked.response, asked) == 2
