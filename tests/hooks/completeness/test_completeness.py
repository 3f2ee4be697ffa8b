"""Which answers are complete, however they are cut into pieces on their way."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from mitmproxy_x402.hooks.completeness import MAX_TAIL, Tail, expected
from mitmproxy_x402.hooks.completeness.dialects import DIALECTS
from mitmproxy_x402.hooks.completeness.outline import MAX_MARKS, Outline
from support import effort
from support.endings import COMPLETE, INCOMPLETE
from support.running.memory import held
from support.vendors.more_streams import event
from support.wire import Peer, read_message


class Bytes(Peer):
    """A connection on which everything has come already."""

    def __init__(self, data: bytes) -> None:
        self._buffer = data


def is_complete(raw: bytes, size: int | None) -> bool:
    """By the proxy's own reading of an answer; its body in pieces of `size`, None: as it was sent."""
    message = read_message(Bytes(raw), to_end=False)
    if size is None:
        pieces = message.chunks or [message.body]
    else:
        pieces = [message.body[at : at + size] for at in range(0, len(message.body), size)]
    kind, coding = ((message.get(name) or b"").decode() for name in (b"content-type", b"content-encoding"))
    tail = Tail(kind, coding)
    for piece in pieces:
        tail(piece)
    return message.status in (200, 204) and tail.is_complete


LARGE = 50_000
"""Bytes of an answer that takes long in pieces of seven."""


def cells(answers: Mapping[str, bytes], always: set[int | None], *more: int | None) -> list[Any]:
    """Names of answers and sizes of pieces; a quick run takes those of `always`, and larger pieces of what is large.

    None: all at once.
    """
    every = [(name, size) for name in answers for size in sorted({*always, *more, 1000}, key=str)]
    taken = [
        (name, size)
        for name, size in every
        if (size != 7 and size in always) or size == (7 if len(answers[name]) < LARGE else 1000)
    ]
    return effort.chosen(every, *taken)


SHORT = {name: raw for name, raw in INCOMPLETE.items() if len(raw) < 1_200_000}


@pytest.mark.parametrize(("name", "size"), cells(SHORT, {None, 7}, 1, 1 << 20))
def test_incomplete(name: str, size: int | None) -> None:
    assert not is_complete(INCOMPLETE[name], size)


@pytest.mark.parametrize(("name", "size"), cells(COMPLETE, {None, 7, 1000, 1 << 20}))
def test_complete(name: str, size: int | None) -> None:
    assert is_complete(COMPLETE[name], size)


def test_a_large_answer_takes_little_memory() -> None:
    tail = Tail("text/event-stream")
    event = b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": "a" * 50}}]}).encode()
    for _ in range(20_000):
        tail(event)
    assert held(tail) < 8 * MAX_TAIL
    assert not tail.is_complete


@pytest.mark.parametrize("seed", range(20))
def test_the_outline_is_what_decoding_would_say(seed: int) -> None:
    """Of any JSON, cut anywhere."""
    chance = random.Random(seed)

    def value(depth: int) -> object:
        kind = chance.randrange(7 if depth < 5 else 4)
        if kind < 4:
            return chance.choice((None, True, 0, -1.5e3, "", 'a"b\\', "x" * 300, "[{,", "\\", "\u00e4\n"))
        names = ("error", "a", "\\", '"', "status", "b" * 200)
        if kind < 6:
            return {chance.choice(names): value(depth + 1) for _ in range(chance.randrange(4))}
        return [value(depth + 1) for _ in range(chance.randrange(4))]

    for _ in range(200):
        said = value(0)
        if not isinstance(said, (dict, list)):
            continue
        told: list[Any] = []
        outline = Outline(lambda each, told=told: bool(told.append(each)), chance.choice((1, 2)))  # type: ignore[misc]
        text = json.dumps(said, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, 1))).encode()
        while text:
            size = chance.choice((1, 2, 7, 1000))
            outline.feed(text[:size])
            text = text[size:]
        assert outline.is_whole
        objects = [said] if isinstance(said, dict) else [each for each in said if isinstance(each, dict)]
        seen = [{key[:100]: bool(inner) for key, inner in each.items()} for each in told]
        expected_of_each = [
            {"long" if len(json.dumps(key)) > 102 else key: bool(inner) for key, inner in each.items()}
            for each in objects
        ]
        rest = iter(expected_of_each)
        assert all(each in rest for each in seen), "in their order"
        assert [each for each in seen if "error" in each] == [each for each in expected_of_each if "error" in each]
        if isinstance(said, dict) and any(isinstance(inner, dict) and inner for inner in said.values()):
            assert seen == expected_of_each


FLAT = b"[],", b'{"a":1},', b'{"a":1}\n'
DEEP = b'{"a": {"b": []}},'


@pytest.mark.parametrize("piece", effort.chosen([*FLAT, DEEP, b"[[]],", b'{"\\"": 1},'], *FLAT, DEEP))
def test_a_multitude_of_small_values_costs_little(piece: bytes) -> None:
    """Flat ones are passed over; others are looked at one by one, and there is an end to that."""
    judged: list[object] = []
    outline = Outline(lambda each: bool(judged.append(each)))
    lines = piece.endswith(b"\n")
    outline.feed(b"" if lines else b"[")
    for _ in range(40):
        outline.feed(piece * (3 * MAX_MARKS // 100))
    outline.feed(b"" if lines else b"1]")
    is_flat = piece in FLAT
    assert outline.is_whole == is_flat
    assert len(judged) <= (0 if is_flat else MAX_MARKS)


def test_a_failure_among_a_multitude_is_found() -> None:
    for said in (b'{"a": 1, "Error": "x"}', b'{"\\u0065rror": 1}', b'{"success": false}'):
        tail = Tail("application/json")
        tail(b"[" + b'{"a":1},' * 9000)
        tail(said[:9])
        tail(said[9:] + b',{"a":1}' * 9000 + b"]")
        assert not tail.is_complete


def test_any_bytes_are_read() -> None:
    chance = random.Random(1)
    parts = (
        *(b"data:", b"\n\n", b"event: error", b'{"error": ', b"[DONE]", b"\r\n", b"\xff", b'{"type": "', b"}", b"\0"),
        *(b'{"done": true}', b"\n", b"\x1e", b"error: {", b"[[", event("chunk", {"bytes": "e30"}), b"\0\0\0\x10"),
        *(b'{"choices": [{"index": {}, "finish_reason": 1}]}', b'{"event_type": [], "object": {}, "status": []}'),
    )
    kinds = ("text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream", "text/plain")
    for _ in range(800):
        tail = Tail(chance.choice(kinds), chance.choice(("", "", "", "gzip")))
        for _ in range(chance.randrange(40)):
            tail(b"".join(chance.choices(parts, k=chance.randrange(1, 5))) * chance.choice((*[1] * 20, 1000)))
        assert tail.has_ended(is_one=True) in (True, False)
        assert tail.is_complete in (True, False)


ODD = [None, True, 0, -1, 1.5, "", "failed", "error", "x" * 50, [], [1], [[]], {}, {"a": 1}, {"error": 1}, "completed"]
KEYS = sorted(
    {
        *("type", "event_type", "object", "status", "finish_reason", "delta", "response", "interaction", "error"),
        *("base_resp", "x_groq", "index", "promptFeedback", "messageStop"),
        *(key for dialect in DIALECTS.values() for key in dialect.keys),
    }
)


def test_anything_may_stand_under_the_keys_of_dialects() -> None:
    chance = random.Random(2)

    def value(depth: int) -> Any:
        kind = chance.randrange(6)
        if depth > 2 or kind < 3:
            return chance.choice(ODD)
        if kind == 3:
            return [value(depth + 1) for _ in range(chance.randrange(3))]
        return {key: value(depth + 1) for key in chance.sample(KEYS, chance.randrange(5))}

    for _ in range(3000):
        said = [value(0) for _ in range(3)]
        padding = "p" * chance.choice((0, 0, 20_000))
        for kind, form in (("text/event-stream", "data: %s\n\n"), ("application/x-ndjson", "%s\n")):
            tail = Tail(kind)
            text = "".join(form % json.dumps({**each, "p": padding} if type(each) is dict else each) for each in said)
            tail(text.encode())
            assert tail.has_ended(is_one=True) in (True, False)


def test_an_event_of_many_keys_takes_little_memory() -> None:
    """Of one that is longer than the tail."""
    tail = Tail("text/event-stream")
    tail(b"event: interaction.completed\ndata: {")
    for number in range(60_000):
        tail(b'"key %d": "%b",' % (number, b"v" * 90))
    assert held(tail) < 64 * MAX_TAIL
    tail(b'"event_type": "interaction.completed", "interaction": {"status": "completed"}}\n\n')
    assert tail.is_complete


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "stream_only"),
    [
        (b'{"stream": true}', "application/json", "*/*", True),
        (b'{"stream" :\ttrue}', "application/json; charset=utf-8", "", True),
        (b'{"stream": false}', "application/json", "application/json", False),
        (b'{"text": "\\"stream\\": true"}', "application/json", "", False),
        (b'{"text": "\\"stream\\": true", "like": "stream", "stream": true}', "application/json", "", True),
        (b'{"stream": false, "text": "\\"stream\\": true", "stream": "true"}', "application/json", "", False),
        (b'{"stream": true}', "text/plain", "", False),
        (b"", "", "text/event-stream", True),
        (b"", "", "text/event-stream, application/json", False),
    ],
)
def test_what_a_client_can_take(body: bytes, content_type: str, accept: str, stream_only: bool) -> None:
    assert expected("/v1/x", body, content_type, accept).stream_only == stream_only


@pytest.mark.parametrize("key", ["error", "Error", "errors", "Errors", "ERROR"])
def test_an_error_is_one_in_whatever_case_its_key_is_written(key: str) -> None:
    said = json.dumps({key: {"message": "overloaded"}}).encode()
    tail = Tail("application/json")
    tail(said)
    assert not tail.is_complete
    tail = Tail("text/event-stream")
    tail(b"data: " + said + b"\n\ndata: [DONE]\n\n")
    assert not tail.is_complete
