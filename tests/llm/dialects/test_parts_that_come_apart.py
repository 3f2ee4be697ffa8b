"""What vendors say in several events, at several places or without a field is put together, or what is odd is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_x402.llm import Other, Reading, StreamReader, read_answer
from support.vendors import vendor_streams as v
from support.vendors.reading import read


def parted(
    name: str | None, *args: str, identity: str | None = None, more: bool = True, **extra: Any
) -> dict[str, Any]:
    """A part of a Gemini call whose arguments `path=value` come by paths."""
    paths = [
        {"jsonPath": f"$.{path}", "numberValue": int(value)} for path, _, value in (a.partition("=") for a in args)
    ]
    return {"functionCall": {"name": name, "id": identity, "partialArgs": paths, "willContinue": more, **extra}}


def calls(reading: Reading) -> list[tuple[str, Any]]:
    return [(call.name, call.parsed) for call in reading.tool_calls]


@pytest.mark.parametrize("nothing", ["", None])
def test_a_call_beside_text_that_says_nothing(nothing: str | None) -> None:
    part = {"text": nothing, "thought": None, "inlineData": None, "functionCall": {"name": "f", "args": {"x": 1}}}
    reading = read(v.events(v.part(part, finish="STOP")))
    assert (calls(reading), reading.irregular, len(reading.items)) == ([("f", {"x": 1})], (), 1)


def test_a_part_with_several_fields() -> None:
    data = {"mimeType": "image/png", "data": "aGk="}
    reading = read(v.events(v.part({"text": "a", "functionCall": {"name": "f"}, "inlineData": data}, finish="STOP")))
    assert (reading.text, calls(reading)) == ("a", [("f", {})])
    assert [one.kind for one in reading.items if isinstance(one, Other)] == ["inlineData"]


def test_arguments_at_once_and_by_paths() -> None:
    reading = read(v.events(v.part(parted("f", "a=1", args={"z": 1})), v.part(parted(None, more=False), finish="STOP")))
    assert (calls(reading), reading.irregular) == ([("f", {"z": 1, "a": 1})], ())


def test_two_calls_by_turns() -> None:
    said = [
        parted("f", "a=1", identity="1"),
        parted("g", "b=2", identity="2"),
        parted(None, "c=3", identity="1", more=False),
    ]
    reading = read(v.events(*map(v.part, said), v.part(parted(None, identity="2", more=False), finish="STOP")))
    assert (calls(reading), reading.irregular) == ([("f", {"a": 1, "c": 3}), ("g", {"b": 2})], ())


def test_nothing_was_blocked() -> None:
    feedback = {"promptFeedback": {"blockReason": "BLOCKED_REASON_UNSPECIFIED"}}
    assert read(v.events({**v.part({"text": "a"}, finish="STOP"), **feedback})).stop_reason == "STOP"


def test_what_else_is_said_of_a_candidate() -> None:
    urls = {"urlMetadata": [{"retrievedUrl": "https://bern.example"}]}
    value = v.part({"text": "a"}, finish="STOP")
    value["candidates"][0]["urlContextMetadata"] = urls
    assert Other("urlContextMetadata", urls) in read(v.events(value, value)).items


def test_the_last_element_of_an_array_that_goes_on() -> None:
    reader = StreamReader()
    for piece in (
        b"[",
        json.dumps(v.part({"text": "he"})).encode(),
        b",\n",
        json.dumps(v.part({"text": "llo"})).encode(),
    ):
        reader.feed(piece)
    assert reader.reading().text == "hello"
    reader.feed(b" \n]")
    reader.end()
    assert [remark for remark in reader.reading().irregular if "element" in remark] == []


@pytest.mark.parametrize("unknown", [{"type": "status", "x": 1}, {"foo": 1}])
@pytest.mark.parametrize("first", [True, False])
def test_an_event_that_says_nothing_known_is_listed(unknown: dict[str, Any], first: bool) -> None:
    for events in (
        [v.chunk({"content": "a"}), v.chunk({}, "stop")],
        [v.part({"text": "a"}), v.part({"text": "b"}, finish="STOP")],
    ):
        reading = read(v.events(*([unknown] if first else []), *events, *([] if first else [unknown])))
        assert (reading.irregular, len(reading.unread), reading.complete) == ((), 1, True)


def test_a_message_beside_its_delta_with_another_text() -> None:
    value = v.chunk({"content": "a"})
    value["choices"][0]["message"] = {"role": "assistant", "content": "other"}
    reading = read(v.chat(value, v.chunk({}, "stop")))
    assert (reading.text, len(reading.irregular)) == ("a", 1)


def test_one_of_two_choices_without_its_end() -> None:
    reading = read(v.chat(v.chunk({"content": "a"}), v.chunk({"content": "b"}, index=1), v.chunk({}, "stop")))
    assert reading.irregular == ("[DONE] before every choice had its finish_reason",)


# Cohere, Bedrock, Assistants, transcriptions, Anthropic.


def cohere(kind: str, *, typed: bool = True, **delta: Any) -> bytes:
    said = {**({"type": kind} if typed else {}), "index": 0, "delta": delta}
    return f"event: {kind}\ndata: {json.dumps(said)}\n\n".encode()


@pytest.mark.parametrize("typed", [True, False])
def test_events_of_cohere_are_named_by_either(typed: bool) -> None:
    body = b"".join([
        cohere("content-start", typed=typed, message={"content": {"type": "text", "text": ""}}),
        cohere("content-delta", typed=typed, message={"content": {"text": "hi"}}),
        cohere("message-end", typed=typed, finish_reason="COMPLETE"),
    ])  # fmt: skip
    reading = read(body)
    assert (reading.dialect, reading.text, reading.complete, reading.irregular) == ("cohere-v2", "hi", True, ())


def test_a_call_of_cohere_that_begins_twice() -> None:
    begun = cohere("tool-call-start", message={"tool_calls": {"id": "a", "function": {"name": "f", "arguments": ""}}})
    reading = read(begun * 2 + cohere("message-end", finish_reason="TOOL_CALL"))
    assert ([call.name for call in reading.tool_calls], len(reading.irregular)) == (["f"], 1)


def test_an_event_of_cohere_after_its_end() -> None:
    end = cohere("message-end", finish_reason="COMPLETE")
    late = cohere("content-delta", message={"content": {"text": "hi"}})
    assert read(end + late).irregular == ("an event after message-end",)


def test_a_whole_call_of_cohere_that_no_fragment_has_brought() -> None:
    lines = [
        {"event_type": "tool-calls-chunk", "tool_call_delta": {"index": 0, "name": "f"}},
        {"event_type": "tool-calls-chunk", "tool_call_delta": {"index": 0, "parameters": '{"a": 1}'}},
        {"event_type": "tool-calls-generation",
         "tool_calls": [{"name": "f", "parameters": {"a": 2}}, {"name": "g", "parameters": {}}]},
        {"event_type": "stream-end", "finish_reason": "COMPLETE", "response": {}},
    ]  # fmt: skip
    reading = read("\n".join(json.dumps({"is_finished": False, **one}) for one in lines).encode())
    assert calls(reading) == [("f", {"a": 1}), ("g", {})]
    assert [one.other for one in reading.differing] == ['{"a":2}']


def assistants(*calls: dict[str, Any]) -> bytes:
    steps = [
        {"object": "thread.run.step.delta", "id": "s",
         "delta": {"step_details": {"type": "tool_calls", "tool_calls": [one]}}} for one in calls
    ]  # fmt: skip
    run = {"object": "thread.run", "id": "r", "status": "completed"}
    names = ["thread.run.step.delta"] * len(steps) + ["thread.run.completed"]
    return "".join(
        f"event: {name}\ndata: {json.dumps(one)}\n\n" for name, one in zip(names, [*steps, run], strict=True)
    ).encode()


def test_what_an_assistant_runs_comes_in_fragments() -> None:
    def ran(code: str, **more: Any) -> dict[str, Any]:
        return {"index": 0, "id": "c", "type": "code_interpreter", "code_interpreter": {"input": code, **more}}

    logs = [{"index": 0, "type": "logs", "logs": text} for text in ("ou", "t")]
    reading = read(assistants(ran("pri", outputs=[]), ran("nt"), ran("", outputs=logs[:1]), ran("", outputs=logs[1:])))
    (item,) = reading.items
    assert isinstance(item, Other)
    assert (item.value["input"], [one["logs"] for one in item.value["outputs"]]) == ("print", ["out"])


def test_segments_of_speech_are_parted_as_the_whole_says() -> None:
    segments = [{"type": "transcript.text.segment", "text": text} for text in ("seg one", "seg two")]
    done = {"type": "transcript.text.done", "text": "seg one seg two"}
    reading = read(v.events(*segments, done))
    assert (reading.text, reading.irregular) == ("seg one seg two", ())


def test_fragments_of_anthropic_that_its_sdks_leave_out() -> None:
    body = v.messages(
        v.start(), v.block(0, "text", text=""), v.delta(0, "text", text="a"), v.stop(0), *v.finish("end_turn")
    )
    bare = body.replace(b'"type":"content_block_delta",', b"")
    assert (read(bare).text, len(read(bare).irregular)) == ("a", 1)
    empty = body.replace(b'"text":"a"', b'"text":null')
    assert read(empty).irregular == ("a text_delta without text, at which Anthropic's SDKs fail",)


def first_cohere(*events: dict[str, Any]) -> bytes:
    end = {"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE", "response": {"text": ""}}
    return "".join(json.dumps({"is_finished": False, **one}) + "\n" for one in (*events, end)).encode()


def lines(body: bytes) -> Reading:
    reading = read_answer("application/x-ndjson", body)
    assert reading is not None
    return reading


def test_all_results_of_searches_are_there() -> None:
    found = [{"event_type": "search-results", "documents": [{"id": one}]} for one in "ab"]
    reading = lines(first_cohere(*found))
    assert [one.value["documents"][0]["id"] for one in reading.items if isinstance(one, Other)] == ["a", "b"]


def test_a_name_of_the_first_version_that_comes_again_is_not_doubled() -> None:
    deltas: list[dict[str, Any]] = [{"name": "f"}, {"name": "f"}, {"parameters": "{}"}]
    parts = [{"event_type": "tool-calls-chunk", "tool_call_delta": {"index": 0, **one}} for one in deltas]
    reading = lines(first_cohere(*parts))
    assert [one.name for one in reading.tool_calls] == ["f"]
    assert reading.irregular == ("the name of a tool call comes again",)


def test_null_beside_a_value_of_gemini_says_nothing() -> None:
    part = {"jsonPath": "$.a", "stringValue": None, "numberValue": 3, "boolValue": None, "nullValue": None}
    call = {"functionCall": {"name": "f", "partialArgs": [part], "willContinue": None}}
    chunk = {"candidates": [{"index": 0, "content": {"role": "model", "parts": [call]}, "finishReason": "STOP"}]}
    reading = read(f"data: {json.dumps(chunk)}\n\n".encode())
    assert [one.parsed for one in reading.tool_calls] == [{"a": 3}]


def test_a_kind_of_object_that_is_no_text() -> None:
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {}}]}
    said = {**chunk, "choices": [{"index": 0, "delta": {"content": "x"}}]}
    odd = {"id": "c", "object": [[]], "created": 1}
    assert lines("".join(json.dumps(one) + "\n" for one in (said, odd, chunk)).encode()).text == "x"
