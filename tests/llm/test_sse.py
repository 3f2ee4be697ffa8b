"""The event-stream parser: the cases of the web platform tests, a simple reference, and what it costs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_x402.llm.sse import Event, Notes, Parser
from support import effort
from support.running.work import allocated, lines_executed

BOM = b"\xef\xbb\xbf"
TOKENS = [
    *(b"data", b"event", b"id", b"retry", b"Data", b":", b" ", b"  ", b"\t", b"x", b"7", b"\0", b"\n", b"\n\n"),
    *(b"\r", b"\r\n", b"\n\r", BOM, BOM[:2], "é".encode(), "🦀".encode(), "🦀".encode()[:3], b"\xa9", b"\xff"),
    *(b"data: ", b"\ndata:", b"\n:", b"event: ping\n", b"id: 1\n", b"id\n", b"retry: 250\n"),
]
UNFINISHED = "the stream ends in the middle of an event, which is discarded"
STREAMS = st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join) | st.binary(max_size=60)


def parsed(chunks: Iterable[bytes], max_event: int | None = None) -> tuple[list[Event], Parser]:
    parser = Parser() if max_event is None else Parser(max_event)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    parser.end()
    return events, parser


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def simple(*data: str, id: str = "") -> list[Event]:  # noqa: A002
    return [Event("message", one, id) for one in data]


# What the web platform tests' eventsource/format-* and event-data send, and what they want to see; each file's stream
# is ended by an empty line there, where it does not say otherwise.
LONG = b"x" * 2048
CASES: dict[str, tuple[bytes, list[Event]]] = {
    "bom": (BOM + b"data:1\n\n" + BOM + b"data:2\n\ndata:3\n\n", simple("1", "3")),
    "bom-2": (BOM + BOM + b"data:1\n\ndata:2\n\ndata:3\n\n", simple("2", "3")),
    "comments": (
        b"data:1\r:\0\n:\r\ndata:2\n:" + LONG + b"\rdata:3\n:data:fail\r:" + LONG + b"\ndata:4\n\n",
        simple("1\n2\n3\n4"),
    ),
    "data-before-final-empty-line": (b"retry:1000\ndata:test1\n\nid:test\ndata:test2", simple("test1")),
    "field-data": (b"data:\n\ndata\ndata\n\ndata:test\n\n", simple("", "\n", "test")),
    "field-event": (b"event:test\ndata:x\n\ndata:x\n\n", [Event("test", "x", ""), *simple("x")]),
    "field-event-empty": (b"event: \ndata:data\n\n", simple("data")),
    "field-id": ("id: …\nretry: 200\ndata: hello\n\n".encode(), simple("hello", id="…")),
    "field-id-2": ("id: …\ndata: hello\n\ndata: …\n\ndata: …\n\n".encode(), simple("hello", "…", "…", id="…")),
    "field-id-3 persists": (
        b"id: 1\ndata: 1\n\ndata: 2\n\nid: 2\ndata: 3\n\ndata: 4\n\n",
        [*simple("1", "2", id="1"), *simple("3", "4", id="2")],
    ),
    "field-id-3 resets": (b"id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n", [*simple("1", id="1"), *simple("2", "3")]),
    "field-id-3 no colon": (b"id: 1\ndata: 1\n\nid\ndata:2\n\ndata:3\n\n", [*simple("1", id="1"), *simple("2", "3")]),
    **{
        f"field-id-null {value!r}": (b"id: " + value + b"\nretry: 200\ndata: hello\n\n", simple("hello"))
        for value in (b"\0\0", b"x\0", b"\0x", b"x\0x", b" \0")
    },
    "field-parsing": (
        b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\n"
        b"da-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
        simple("\0\n 2\n1\n3\n\n4"),
    ),
    "field-retry": (b"retry:03000\ndata:x\n\n", simple("x")),
    "field-retry-bogus": (b"retry:3000\nretry:1000x\ndata:x\n\n", simple("x")),
    "field-retry-empty": (b"retry\ndata:test\n\n", simple("test")),
    "field-unknown": (
        b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
        simple("test\n\ntest"),
    ),
    "leading-space": (b"data:\ttest\rdata: \ndata:test\n\n", simple("\ttest\n\ntest")),
    "newlines": (b"data:test\r\ndata\ndata:test\r\n\r", simple("test\n\ntest")),
    "null-character": (b"data:\0\n\n\n\n", simple("\0")),
    "utf-8": ("data:ok…\n\n".encode(), simple("ok…")),
    "event-data": (
        b"data:msg\ndata: msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\ndata\n\ndata:end\n\n",
        simple("msg\nmsg", "", "end"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_web_platform_case(name: str) -> None:
    stream, wanted = CASES[name]
    for chunks in ([stream], bytewise(stream), [stream[:7], b"", stream[7:]]):
        assert parsed(chunks)[0] == wanted


@pytest.mark.parametrize(
    ("stream", "retry"),
    [
        (b"retry:03000\n", 3000),
        (b"retry:3000\nretry:1000x\n", 3000),
        (b"retry\ndata:test\n\n", None),
        (b"retry: 5\n", 5),
        (b"retry:  5\n", None),
        ("retry:٣\n".encode(), None),
        (b"retry:" + b"9" * 5000 + b"\n", None),
    ],
)
def test_retry_is_a_number_of_ascii_digits(stream: bytes, retry: int | None) -> None:
    assert parsed([stream])[1].retry == retry


@pytest.mark.parametrize(
    ("stream", "remark"),
    [
        (b"data: x\n", UNFINISHED),
        (b"data: x\n\nda", UNFINISHED),
        (b"event: message_stop\n", UNFINISHED),
        (BOM[:2], UNFINISHED),
        (b"data: 1\n\n" + BOM + b"data: 2\n\n", "a byte order mark in the middle of the stream hides a field"),
        (b"data: \xf0\x9f\xa6\n\n", "invalid UTF-8, shown as \N{REPLACEMENT CHARACTER}"),
        (b"id: a\0b\n\n", "an id with a NUL in it is ignored"),
    ],
)
def test_what_is_irregular_is_noted(stream: bytes, remark: str) -> None:
    assert parsed([stream])[1].irregular == [remark]


@pytest.mark.parametrize("stream", [b"", b"\n\r\n", b": bye\n", b": bye", b"data: x\r\r", b"id: 4\n", BOM])
def test_what_is_regular_is_not(stream: bytes) -> None:
    assert parsed(bytewise(stream))[1].irregular == []


def test_an_event_is_there_as_soon_as_its_empty_line_has_begun() -> None:
    parser = Parser()
    assert parser.feed(b"data: x\r\n\r") == simple("x")
    assert parser.feed(b"\ndata: y\n") == []
    assert parser.feed(b"\n") == simple("y")


def test_comments_are_counted_and_not_kept() -> None:
    assert parsed([b": ping\n\n:\r:x"])[1].comments == 2
    parser = Parser(max_event=10)
    for _ in range(1000):
        parser.feed(b": heartbeat that goes on ")
    assert parser.feed(b"\ndata: 1\n\n") == simple("1")
    assert parser.irregular == []


# A slow and simple reading of the standard, to compare with.


def reference(stream: bytes) -> tuple[list[Event], int | None, int]:
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _unfinished = re.split("\r\n|\r|\n", text)
    events: list[Event] = []
    data, kind, identity = "", "", ""
    retry, comments = None, 0
    for line in lines:
        if line == "":
            if data != "":
                events.append(Event(kind or "message", data[:-1], identity))
            data, kind = "", ""
        elif line[0] == ":":
            comments += 1
        else:
            name, colon, value = line.partition(":")
            value = value[1:] if colon and value[:1] == " " else value
            if name == "data":
                data += value + "\n"
            elif name == "event":
                kind = value
            elif name == "id" and "\0" not in value:
                identity = value
            elif name == "retry" and value and all(one in "0123456789" for one in value):
                retry = int(value)
    return events, retry, comments


@settings(deadline=None, max_examples=effort.examples(400))
@given(STREAMS)
def test_it_reads_what_the_simple_reference_reads(stream: bytes) -> None:
    events, parser = parsed([stream])
    assert (events, parser.retry, parser.comments) == reference(stream)


@settings(deadline=None, max_examples=effort.examples(300))
@given(STREAMS, st.integers(0, 2**32), st.sampled_from([None, 8, 20]))
def test_any_chunking_gives_the_same(stream: bytes, seed: int, max_event: int | None) -> None:
    cuts = sorted(random.Random(seed).choices(range(len(stream) + 1), k=seed % 9))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole_events, whole = parsed([stream], max_event)
    for chunks in (pieces, bytewise(stream)):
        events, parser = parsed(chunks, max_event)
        assert events == whole_events
        assert (parser.retry, parser.comments, parser.irregular) == (whole.retry, whole.comments, whole.irregular)


# Bounds.


def test_an_event_over_the_bound_is_dropped_and_the_stream_goes_on() -> None:
    stream = b"data: 1\n\nid: 2\ndata: " + b"y" * 100 + b"\nid: 3\ndata: z\n\ndata: 4\n\n"
    for chunks in ([stream], bytewise(stream)):
        events, parser = parsed(chunks, max_event=50)
        assert events == [*simple("1"), *simple("4", id="2")]
        assert parser.irregular == ["an event is larger than 50 bytes and is dropped"]


@pytest.mark.parametrize("line", [b"data: 345678", b"unknown 9012"])
def test_the_bound_is_exact(line: bytes) -> None:
    for chunks in ([line + b"\n\n"], bytewise(line + b"\n\n")):
        assert parsed(chunks, max_event=len(line))[1].irregular == []
        assert parsed(chunks, max_event=len(line) - 1)[1].irregular != []


def test_many_small_lines_are_bounded_too() -> None:
    events, parser = parsed([b"data\n" * 100, b"\n", b"data: x\n\n"], max_event=50)
    assert events == simple("x")
    assert len(parser.irregular) == 1


def test_notes_are_bounded_and_count() -> None:
    notes = Notes(limit=2)
    for remark in ("a", "b", "a", "c", "d", "a"):
        notes.add(remark)
    assert notes.texts() == ["a (3 times)", "b", "and 2 further irregularities"]


# What it costs: work is counted, not timed.


@pytest.mark.parametrize("stream", [b"data: hello\n\n", b"data: x\n", b": x\r\n", b"x", b"\r\n", b"data"])
def test_the_steps_grow_with_the_length(stream: bytes) -> None:
    small, large = bytewise(stream * 100), bytewise(stream * 400)
    assert lines_executed(lambda: parsed(large)) < 4.1 * lines_executed(lambda: parsed(small)) + 100
    assert lines_executed(lambda: parsed([stream * 400])) < 4.1 * lines_executed(lambda: parsed([stream * 100])) + 100


@pytest.mark.parametrize("begun", [b"data: ", b"data: x\ndata: "])
def test_a_byte_more_does_not_copy_what_is_there(begun: bytes) -> None:
    parser = Parser()
    size = 1 << 20
    parser.feed(begun + b"y" * size)
    assert allocated(lambda: parser.feed(b"z"), 200) < 10 * size  # it grows once or twice
    parser.feed(b"\n" + b"data: y\n" * 1000)
    assert allocated(lambda: parser.feed(b"data: z\n"), 200) < 10 * size


def test_memory_stays_flat() -> None:
    parser = Parser(max_event=100_000)
    chunk = b"data: " + b"x" * 65536
    parser.feed(chunk)
    assert allocated(lambda: [parser.feed(chunk) for _ in range(100)], 1) < 1_000_000
