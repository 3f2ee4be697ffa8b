"""What readers promise for any bytes: they never fail, invent nothing, double nothing, and say what they leave out.

Streams of every dialect are damaged as broken gateways and ill-meaning ones do, and read. To tell where text comes
from, each text in a stream is made one of its own kind: `«7»`.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_x402.fixtures.show.showing import plain
from mitmproxy_x402.llm import (
    Citation,
    Other,
    Reading,
    Reasoning,
    StreamReader,
    ToolCall,
    answer_text,
    read_answer,
    read_steps,
    reading_of,
)
from support import effort

TESTS = Path(__file__).parents[1]
BODIES = {
    path.parent.name: path.read_bytes()
    for folder in (TESTS / "llm/cases/streams", TESTS / "recordings")
    for path in sorted(folder.glob("*/response.*"))
    if path.suffix != ".py"
}
SAYING = {
    *("text", "content", "delta", "thinking", "partial_json", "arguments", "reasoning", "reasoning_content", "refusal"),
    *("completion", "response", "input", "parameters", "tool_plan", "transcript", "stringValue", "value"),
}
"""Keys under which vendors send what a model says."""
MARK = re.compile("«\\d+»")
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ODD = st.sampled_from(
    [None, 0, -1, True, [], {}, "", "x", 1.5, 10**30, 100_000, "\ud800", "\0", "\x1b]0;x\x07", [None], {"a": 1}, [{}]]
)
Event = tuple[bytes, Any]
"""The lines before its data, and its data: JSON, or text that is none."""


def events_of(body: bytes) -> list[Event]:
    """Of server-sent events, JSON lines, or one object."""
    found: list[Event] = []
    for block in re.split(rb"\n\n|\n(?=\{)", body):
        head, mark, data = block.rpartition(b"data: ")
        try:
            found.append((head + mark, json.loads(data)))
        except ValueError:
            found.append((head + mark, data.decode("utf-8", "replace")))
    return found


def body_of(events: list[Event]) -> bytes:
    def encoded(value: Any) -> bytes:
        return (value if isinstance(value, str) else json.dumps(value)).encode()

    return b"".join(head + encoded(value) + (b"\n\n" if head else b"\n") for head, value in events)


def marked(value: Any, number: Iterator[int], key: str = "") -> Any:
    """`value` with each text that a model says replaced by one that is nowhere else."""
    if isinstance(value, dict):
        return {name: marked(one, number, name) for name, one in value.items()}
    if isinstance(value, list):
        return [marked(one, number, key) for one in value]
    return f"«{next(number)}»" if isinstance(value, str) and value and key in SAYING else value


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in `value` with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def read(body: bytes) -> Reading | None:
    """The answer, read at once, event by event, and byte by byte, which must be the same; and shown."""
    reading, steps = read_answer("", body), read_steps("", body)
    assert (steps and steps[0]) == reading
    reader = StreamReader()
    for at in range(len(body)):
        reader.feed(body[at : at + 1])
    reader.reading()
    reader.end()
    assert reading_of(reader, "") == reading
    if reading is not None:
        assert not UNSAFE.search(answer_text(reading))
        json.dumps(plain(reading))
    return reading


@functools.cache
def read_body(name: str) -> Reading | None:
    return read(BODIES[name])


def shown(reading: Reading) -> Iterator[str]:
    for item in reading.items:
        if isinstance(item, ToolCall):
            yield f"{item.name} {item.arguments}"
        elif isinstance(item, Other):
            yield json.dumps(item.value, ensure_ascii=False)
        elif isinstance(item, Citation):
            yield f"{item.title} {item.source} {item.quote}"
        else:
            yield item.text
            yield item.signature if isinstance(item, Reasoning) else ""


def check_marks(body: bytes, reading: Reading | None) -> None:
    """Nothing is shown more often than it was sent, and nothing that was not."""
    sent = Counter(MARK.findall(body.decode().replace("\\u00ab", "«").replace("\\u00bb", "»")))
    found = Counter(mark for text in (shown(reading) if reading else ()) for mark in MARK.findall(text))
    assert found <= sent


@pytest.mark.more
@pytest.mark.parametrize("name", BODIES)
def test_a_stream_that_ends_anywhere(name: str) -> None:
    body = BODIES[name]
    whole = read_answer("", body)
    for end in range(0, len(body), 1 + len(body) // (60 if effort.thorough else 8)):
        part = read(body[:end])
        if whole is not None and part is not None and part.dialect == whole.dialect and whole.error is None:
            assert whole.text.startswith(part.text) or part.irregular


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b"\n", b"\r\n"),
        lambda body: body.replace(b"\n", b"\r"),
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: b"\n\n\r\n: a comment\n\n" + body,
        lambda body: body.replace(b"\n\n", b"\n\n\n\n: a comment\n\n"),
        lambda body: body.replace(b"\n\n", b"\nid: 7\nretry: 5\nunknown: x\n\n"),
        lambda body: body.replace(b"data: {", b"data:{"),
    ],
)
@pytest.mark.parametrize("name", [name for name, body in BODIES.items() if body.startswith((b"data:", b"event:"))])
def test_how_the_lines_of_a_stream_are_written_changes_nothing(name: str, change: Callable[[bytes], bytes]) -> None:
    changed, before = read(change(BODIES[name])), read_body(name)
    assert changed is not None
    assert before is not None
    assert replace(changed, irregular=()) == replace(before, irregular=())  # what SDKs lose is another test's


def keys_by_place(value: Any, place: tuple[object, ...], found: dict[tuple[object, ...], set[str]]) -> None:
    """Collect which keys objects have, by where they are."""
    if isinstance(value, dict):
        found.setdefault(place, set()).update(value)
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        keys_by_place(one, (*place, key if isinstance(value, dict) else ""), found)


def with_nulls(value: Any, place: tuple[object, ...], known: dict[tuple[object, ...], set[str]]) -> Any:
    """`value` with null under every key that another object at the same place has."""
    if isinstance(value, dict):
        full = {**dict.fromkeys(sorted(known[place])), **value} if "args" not in place else value  # the model's words
        return {key: with_nulls(one, (*place, key), known) for key, one in full.items()}
    return [with_nulls(one, (*place, ""), known) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("whole", [False, True], ids=["stream", "whole"])
def test_fields_that_are_null_say_nothing(whole: bool) -> None:
    """Gateways that read Google's API with its SDK send every field of its types."""
    bodies = {
        name: body
        for name, body in BODIES.items()
        if "gemini" in name and "interactions" not in name and body.startswith(b"data:")
    }
    known: dict[tuple[object, ...], set[str]] = {("candidates", "", "content", "parts", ""): {"inlineData", "fileData"}}
    for body in bodies.values():
        for _, value in events_of(body):
            keys_by_place(value, (), known)
    for body in bodies.values():
        values = [value for _, value in events_of(body)]
        if whole:
            forms = [json.dumps(one) for one in (values, [with_nulls(one, (), known) for one in values])]
        else:
            forms = ["".join(f"data: {json.dumps(one)}\n\n" for one in many)
                     for many in (values, [with_nulls(one, (), known) for one in values])]  # fmt: skip
        before, after = (read(form.encode()) for form in forms)
        assert after == before


@settings(max_examples=effort.examples(150), deadline=None)
@given(st.data())
def test_events_that_are_lost_doubled_moved_or_changed(data: st.DataObject) -> None:
    number = iter(range(10**6))
    names = st.sampled_from(sorted(name for name, body in BODIES.items() if body[:1] in b"{de"))
    events = [(head, marked(value, number)) for head, value in events_of(BODIES[data.draw(names)])]
    others = [(head, marked(value, number)) for head, value in events_of(BODIES[data.draw(names)])]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(events) - 1))
        match data.draw(st.sampled_from(["lost", "doubled", "moved", "mixed", "changed", "gone", "wrapped"])):
            case "lost" if len(events) > 1:
                del events[at]
            case "doubled":
                events.insert(at, copy.deepcopy(events[at]))
            case "moved":
                events.insert(data.draw(st.integers(0, len(events) - 1)), events.pop(at))
            case "mixed":
                events.insert(at, copy.deepcopy(data.draw(st.sampled_from(others))))
            case kind if spots := list(places(events[at][1])):
                inside, key = data.draw(st.sampled_from(spots))
                if kind == "changed":
                    inside[key] = data.draw(ODD)
                elif kind == "gone":
                    del inside[key]
                else:
                    inside[key] = data.draw(st.sampled_from([[inside[key]], {"text": inside[key]}]))
    body = body_of(events)
    check_marks(body, read(body))


@settings(max_examples=effort.examples(150), deadline=None)
@given(st.data())
def test_bytes_that_are_damaged(data: st.DataObject) -> None:
    names = st.sampled_from(sorted(BODIES))
    body = BODIES[data.draw(names)]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        other = BODIES[data.draw(names)]
        piece = data.draw(
            st.sampled_from(
                [b"\0", b"\xef\xbb\xbf", b"\r", b"\n\n", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"{", b"]", b'"',
                 b"data: [DONE]\n\n", b"event: error\n", b":", b"\xf0\x9f", other[at : at + 200], body[:at]]
            )
        )  # fmt: skip
        body = body[:at] + piece + body[at + data.draw(st.integers(0, 40)) :]
    read(body)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"choices": [{"message": "«1»", "finish_reason": "stop"}]}, "a message that is no object"),
        ({"choices": [{"delta": ["«1»"], "finish_reason": "stop"}]}, "a delta that is no object"),
        (
            {"choices": [{"delta": {"tool_calls": {"a": "«1»"}}, "finish_reason": "stop"}]},
            "tool calls that is no array",
        ),
        ({"choices": [{"text": "«1»", "delta": {"content": "«2»"}, "finish_reason": "stop"}]}, "has another text"),
        ({"candidates": [{"content": "«1»", "finishReason": "STOP"}]}, "the content that is no object"),
        ({"candidates": [{"content": {"parts": {"text": "«1»"}}, "finishReason": "STOP"}]}, "parts that is no array"),
        ({"type": "content_block_delta", "index": 0, "delta": "«1»"}, "a delta that is no object"),
        ({"type": "response.output_item.added", "output_index": 0, "item": "«1»"}, "an item that is no object"),
        ({"output": {"message": {"content": [["«1»"]]}}, "stopReason": "end_turn"}, "a block that is no object"),
        ({"model": "m", "message": "«1»", "done": True, "response": ""}, "a message that is no object"),
        ({"type": "content-delta", "index": 0, "delta": "«1»"}, "a delta that is no object"),
        ({"event_type": "step.delta", "index": 0, "delta": "«1»"}, "a delta that is no object"),
    ],
)
def test_what_stands_where_something_else_is_expected_is_not_lost_in_silence(sent: dict[str, Any], said: str) -> None:
    body = json.dumps(sent).encode()
    reading = read(body if "stopReason" in sent else b"data: " + body + b"\n\n")
    assert reading is not None
    [remark] = [remark for remark in reading.irregular if said in remark]
    assert "«1»" in remark or said == "has another text"


def test_text_that_comes_by_paths_in_very_many_parts() -> None:
    part = {"jsonPath": "$.a", "stringValue": "x" * 100, "willContinue": True}

    def event(call: dict[str, Any]) -> bytes:
        return (
            b"data: "
            + json.dumps({"candidates": [{"content": {"parts": [{"functionCall": call}]}}]}).encode()
            + b"\n\n"
        )

    body = event({"name": "f", "willContinue": True}) + event({"partialArgs": [part], "willContinue": True}) * 3000
    reading = read_answer("", body)
    assert reading is not None
    assert reading.tool_calls[0].parsed == {"a": "x" * 300_000}
