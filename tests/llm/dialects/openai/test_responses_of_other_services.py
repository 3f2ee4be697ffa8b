"""Responses as services beside OpenAI stream them: without the begins of parts, numbered in odd ways, in sessions."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from mitmproxy_x402.llm import Other, Reasoning, Refusal, Text, read_answer
from support.vendors import vendor_streams as v
from support.vendors.reading import read
from support.vendors.vendor_server import Vendor

MESSAGE = {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}


def said(*texts: str) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {**MESSAGE, "status": "completed", "content": parts}


def fragment(text: str, place: int = 0) -> dict[str, Any]:
    return {**v.fragment("output_text", 0, text, content_index=place), "item_id": "msg_1"}


def whole(text: str, place: int = 0) -> dict[str, Any]:
    return {**v.whole("output_text", 0, text=text, content_index=place), "item_id": "msg_1"}


def numbered(numbers: Any, *events: dict[str, Any]) -> bytes:
    return v.events(*({**one, "sequence_number": numbers(at)} for at, one in enumerate(events)), named=True)


HELLO = [v.CREATED, v.item(0, MESSAGE), fragment("Hel"), fragment("lo"), whole("Hello"),
         v.item(0, said("Hello"), "done"), v.state("completed", [said("Hello")], usage=USAGE)]  # fmt: skip


def test_a_stream_without_the_begins_of_its_parts(vendor: Vendor) -> None:
    vendor.body = v.numbered(*HELLO)
    reading = read(vendor.body)
    assert (reading.text, reading.complete, reading.irregular, reading.unread) == ("Hello", True, (), ())
    assert (reading.usage.input, reading.usage.output) == (3, 2)
    with openai.OpenAI(base_url=f"{vendor.url}/v1", api_key="none", max_retries=0) as client:
        events = list(client.responses.create(model="gpt-5", input="?", stream=True))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == reading.text
    assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == reading.text


def test_several_parts_without_their_begins() -> None:
    fragments = [fragment("One."), fragment("Two", 1), fragment(".", 1)]
    end = [v.item(0, said("One.", "Two."), "done"), v.state("completed", [said("One.", "Two.")])]
    for wholes in ([whole("One."), whole("Two.", 1)], [], [whole("Two.", 1)]):
        reading = read(v.numbered(v.CREATED, v.item(0, MESSAGE), *fragments, *wholes, *end))
        assert ([one.text for one in reading.items if isinstance(one, Text)], reading.irregular) == (
            ["One.", "Two."],
            (),
        )


def test_reasoning_without_the_begins_of_its_parts() -> None:
    thought = {"id": "rs_1", "type": "reasoning", "summary": []}
    told = {
        **thought,
        "summary": [{"type": "summary_text", "text": "First."}, {"type": "summary_text", "text": "Then."}],
    }
    fragments = [v.fragment("reasoning_summary_text", 0, text, summary_index=at, item_id="rs_1")
                 for at, text in ((0, "Fi"), (0, "rst."), (1, "Then."))]  # fmt: skip
    reading = read(
        v.numbered(v.CREATED, v.item(0, thought), *fragments, v.item(0, told, "done"), v.state("completed", [told]))
    )
    assert [one.text for one in reading.items if isinstance(one, Reasoning)] == ["First.", "Then."]
    assert reading.irregular == ()


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "output_text", "text": "Hello", "annotations": []}, Text),
        ({"type": "refusal", "refusal": "Hello"}, Refusal),
        ({"type": "reasoning_text", "text": "Hello"}, Reasoning),
    ],
)
def test_a_text_that_only_the_end_of_its_part_says(part: dict[str, Any], kind: Any) -> None:
    end = {**v.content(0, part, "done"), "item_id": "msg_1"}
    item = MESSAGE if kind is not Reasoning else {"id": "msg_1", "type": "reasoning", "summary": []}
    for last in (v.state("completed", [item]), v.state("in_progress")):
        reading = read(v.numbered(v.CREATED, v.item(0, item), end, last))
        assert [one.text for one in reading.items if isinstance(one, kind)] == ["Hello"]
        assert not [one for one in reading.irregular if "not complete" not in one]


@pytest.mark.parametrize(
    "numbers", [lambda _: 0, lambda _: 7, lambda at: at // 2, lambda at: min(at, 3), lambda at: 3 * at]
)
@pytest.mark.parametrize("text", ["Hello", "haha"])
def test_numbers_that_come_again_neither_double_nor_lose_what_is_said(numbers: Any, text: str) -> None:
    events = json.loads(json.dumps(HELLO).replace("Hello", text).replace('"Hel"', f'"{text[:-2]}"').replace(
        '"lo"', f'"{text[-2:]}"'))  # fmt: skip
    reading = read(numbered(numbers, *events))
    assert (reading.text, reading.differing, reading.complete) == (text, (), True)
    assert "not what its fragments said" not in "".join(reading.irregular)


def test_events_that_are_all_numbered_alike_are_regular() -> None:
    assert read(numbered(lambda _: 0, *HELLO)).irregular == ()


def test_every_event_twice() -> None:
    twice = [one for at, event in enumerate(HELLO) for one in [{**event, "sequence_number": at}] * 2]
    reading = read(v.events(*twice, named=True))
    assert (reading.text, reading.usage.total) == ("Hello", 5)
    assert reading.irregular == ("the sequence_number 1 comes again; what comes twice counts once",)


SESSION_USAGE = {
    **{"total_tokens": 253, "input_tokens": 132, "output_tokens": 121},
    "input_token_details": {"text_tokens": 119, "audio_tokens": 13, "cached_tokens": 64},
    "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
}


def session(part: dict[str, Any], *fragments: dict[str, Any], status: str = "completed", **more: Any) -> bytes:
    """A response as OpenAI's realtime sessions have it, a JSON line for each event."""
    item = {"id": "item_1", "object": "realtime.item", "type": "message", "role": "assistant", "content": []}
    told = {**item, "status": "completed", "content": [part]}
    response = {"object": "realtime.response", "id": "resp_1", "status": "in_progress", "output": [], "usage": None}
    done = {**response, "status": status, "output": [told], "usage": SESSION_USAGE, **more}
    place = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
    events = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {
            "type": "response.content_part.added",
            **place,
            "part": {key: one if key == "type" else "" for key, one in part.items()},
        },
        *({**place, **one} for one in fragments),
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": told},
        {"type": "response.done", "response": done},
        {"type": "rate_limits.updated", "rate_limits": []},
    ]
    return "".join(f"{json.dumps({**one, 'event_id': f'e{at}'})}\n" for at, one in enumerate(events)).encode()


@pytest.mark.parametrize("kind", ["text", "output_text"])
def test_a_text_in_a_session(kind: str) -> None:
    fragments = [{"type": f"response.{kind}.delta", "delta": one} for one in ("Hel", "lo")]
    reading = read_answer("application/jsonl", session({"type": kind, "text": "Hello"}, *fragments))
    assert reading is not None
    assert (reading.items, reading.complete, reading.stop_reason) == ((Text("Hello"),), True, "completed")
    used = reading.usage
    assert (used.input, used.cached, used.output, used.total, reading.irregular) == (132, 64, 121, 253, ())


@pytest.mark.parametrize("kind", ["audio", "output_audio"])
def test_a_voice_in_a_session(kind: str) -> None:
    fragments = [
        {"type": f"response.{kind}_transcript.delta", "delta": "Hel"},
        {"type": f"response.{kind}.delta", "delta": "UklG"},
        {"type": f"response.{kind}_transcript.delta", "delta": "lo"},
    ]
    reading = read_answer("application/jsonl", session({"type": kind, "transcript": "Hello"}, *fragments))
    assert reading is not None
    assert reading.items == (Other("audio", {"text": "Hello", "characters_left_out": 4}),)
    assert reading.irregular == ()


@pytest.mark.parametrize(
    ("status", "details", "stop", "error"),
    [
        ("incomplete", {"type": "incomplete", "reason": "max_output_tokens"}, "max_output_tokens", None),
        ("cancelled", {"type": "cancelled", "reason": "turn_detected"}, "cancelled", None),
        ("failed", {"type": "failed", "error": {"type": "server_error", "code": "x"}}, "failed", "server_error"),
    ],
)
def test_how_a_response_in_a_session_ends(status: str, details: Any, stop: str, error: str | None) -> None:
    body = session({"type": "text", "text": "Hello"}, status=status, status_details=details)
    reading = read_answer("application/jsonl", body)
    assert reading is not None
    assert (reading.text, reading.stop_reason, reading.error) == ("Hello", stop, error)


def test_a_done_in_the_place_of_the_last_state_or_after_it() -> None:
    done = {**HELLO[-1], "type": "response.done"}
    for events in ([*HELLO[:-1], done], [*HELLO, done]):
        reading = read(v.numbered(*events))
        assert (reading.text, reading.usage.total, reading.complete, reading.irregular) == ("Hello", 5, True, ())
