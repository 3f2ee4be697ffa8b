"""Wholes, fragments and repeated starts: what comes twice counts once, and what differs is shown and said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_x402.llm import Other, Reading, StreamReader, read_answer
from support.vendors import more_streams as m
from support.vendors import vendor_streams as v


def sse(*values: Any, named: str = "") -> bytes:
    """Events; `named`: the key whose value becomes the event's name and is taken out of the data."""
    said = ((one.get(named, ""), {key: of for key, of in one.items() if key != named}) for one in values)
    return "".join(f"{f'event: {name}' if name else ''}\ndata: {json.dumps(one)}\n\n" for name, one in said).encode()


def lines(*values: Any) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in values).encode()


def read(body: bytes, kind: str = "text/event-stream") -> Reading:
    reading = read_answer(kind, body)
    assert reading is not None
    return reading


def calls(reading: Reading) -> list[tuple[str, str, Any]]:
    return [(one.id, one.name, one.parsed) for one in reading.tool_calls]


def differing(reading: Reading) -> list[tuple[str, str]]:
    return [(one.what, one.other) for one in reading.differing]


def gemini(*parts: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, **({"finishReason": finish} if finish else {})}
    return {"candidates": [{"index": 0, **candidate}], "modelVersion": "g", "responseId": "r", **more}


def growing(**call: Any) -> dict[str, Any]:
    return {"functionCall": call}


def path(where: str, **value: Any) -> list[dict[str, Any]]:
    return [{"jsonPath": where, **value}]


# An array that breaks off.


def test_the_last_whole_element_of_an_array_that_breaks_off_is_read() -> None:
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 12}
    elements = gemini({"text": "he"}), gemini({"text": "llo"}, finish="STOP", usageMetadata=usage)
    reading = read(json.dumps(elements).removesuffix("]").encode(), "application/json")
    assert (reading.text, reading.stop_reason, reading.usage.total, reading.complete) == ("hello", "STOP", 12, False)
    assert reading.irregular == ("the array does not end",)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_array_that_grows_is_shown_as_far_as_it_has_come(size: int) -> None:
    reader, body = StreamReader(), json.dumps([gemini({"text": "he"})]).removesuffix("]").encode()
    for at in range(0, len(body), size):
        reader.feed(body[at : at + size])
    assert reader.reading().text == "he"


def test_elements_of_an_array_without_a_comma_are_read() -> None:
    one, other = (json.dumps(gemini({"text": text}, finish="STOP")) for text in ("he", "llo"))
    reading = read(f"[{one} {other}]".encode(), "application/json")
    assert (reading.text, reading.irregular) == ("hello", ("elements of the array without a comma between them",))


# Cohere's first version: the calls as a whole.

BEGIN = {"event_type": "stream-start", "is_finished": False, "generation_id": "g"}


def chunk(**delta: Any) -> dict[str, Any]:
    return {"event_type": "tool-calls-chunk", "is_finished": False, "tool_call_delta": {"index": 0, **delta}}


def v1(*events: Any, **response: Any) -> Reading:
    whole = {"generation_id": "g", "text": "", "finish_reason": "COMPLETE", **response}
    end = {"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE", "response": whole}
    return read(lines(BEGIN, *events, end), "application/stream+json")


def generated(*found: Any) -> dict[str, Any]:
    return {"event_type": "tool-calls-generation", "is_finished": False, "tool_calls": list(found)}


FRAGMENTS = (chunk(name="f"), chunk(parameters='{"a":'), chunk(parameters="1}"))


def test_calls_that_only_the_whole_brings_are_there() -> None:
    whole = generated({"name": "f", "parameters": {"a": 1}}, {"name": "g", "parameters": {"b": 2}})
    reading = v1(*FRAGMENTS, whole)
    assert (calls(reading), reading.irregular) == ([("", "f", {"a": 1}), ("", "g", {"b": 2})], ())


@pytest.mark.parametrize("within", [False, True])
def test_a_whole_call_with_other_arguments_is_shown(within: bool) -> None:
    other = [{"name": "f", "parameters": {"a": 2}}]
    reading = v1(*FRAGMENTS, tool_calls=other) if within else v1(*FRAGMENTS, generated(*other))
    assert (calls(reading), differing(reading)) == ([("", "f", {"a": 1})], [("call of f", '{"a":2}')])
    assert reading.irregular == ("call of f: the whole is not what its fragments said, which are shown",)


def test_all_results_of_searches_are_there() -> None:
    found = [{"event_type": "search-results", "is_finished": False, "documents": [{"id": one}]} for one in "ab"]
    kept = [one.value["documents"] for one in v1(*found).items if isinstance(one, Other)]
    assert kept == [[{"id": "a"}], [{"id": "b"}]]


# OpenAI's assistants.


def event(name: str, **value: Any) -> dict[str, Any]:
    return {"name": name, "object": name, **value}


def assistants(*events: Any, status: str = "completed", **run: Any) -> Reading:
    begun = {"name": "thread.run.created", "object": "thread.run", "id": "r", "status": "created", "model": "m"}
    ended = {"name": f"thread.run.{status}", "object": "thread.run", "id": "r", "status": status, "model": "m", **run}
    return read(sse(begun, *events, ended, named="name"))


def step(*found: Any) -> dict[str, Any]:
    return event("thread.run.step.delta", id="s", delta={"step_details": {"type": "tool_calls", "tool_calls": found}})


def interpreter(**said: Any) -> dict[str, Any]:
    return step({"index": 0, "id": "c", "type": "code_interpreter", "code_interpreter": said})


def test_code_that_an_assistant_runs_is_put_together_with_its_outputs() -> None:
    outputs = [{"index": 0, "type": "logs", "logs": "ou"}], [{"index": 0, "type": "logs", "logs": "t"}]
    image = [{"index": 1, "type": "image", "image": {"file_id": "f"}}]
    parts: list[dict[str, Any]] = [{"input": one} for one in ("pri", "nt")]
    parts += [{"outputs": one} for one in (*outputs, image)]
    reading = assistants(*(interpreter(**part) for part in parts))
    (code,) = (one for one in reading.items if isinstance(one, Other))
    logs, picture = {"index": 0, "type": "logs", "logs": "out"}, image[0]
    assert code.value == {"input": "print", "outputs": [logs, picture]}
    assert reading.irregular == ()


def test_code_that_is_another_at_the_end_is_shown() -> None:
    call = {"id": "c", "type": "code_interpreter", "code_interpreter": {"input": "print(1)", "outputs": []}}
    done = {"object": "thread.run.step", "id": "s", "step_details": {"type": "tool_calls", "tool_calls": [call]}}
    reading = assistants(interpreter(input="print"), {"name": "thread.run.step.completed", **done})
    (code,) = (one for one in reading.items if isinstance(one, Other))
    assert code.value["input"] == "print(1)"
    assert differing(reading) == [("other code_interpreter", "print")]


def test_a_whole_message_and_a_whole_call_that_differ_are_shown() -> None:
    said = {"index": 0, "type": "text", "text": {"value": "he"}}
    text = event("thread.message.delta", id="m", delta={"content": [said]})
    whole: dict[str, Any] = {"object": "thread.message", "id": "m", "role": "assistant"}
    whole["content"] = [{"type": "text", "text": {"value": "hello"}}]
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = {"tool_calls": [{**call, "function": {"name": "f", "arguments": '{"a":1}'}}]}
    needed = {"required_action": {"type": "submit_tool_outputs", "submit_tool_outputs": asked}}
    events = text, {"name": "thread.message.completed", **whole}, step(call)
    reading = assistants(*events, status="requires_action", **needed)
    assert differing(reading) == [("text", "hello"), ("call of f, id c", '{"a":1}')]


def test_an_assistant_whose_objects_only_the_names_tell_is_read() -> None:
    text: dict[str, Any] = {"name": "thread.message.delta", "id": "m"}
    text["delta"] = {"content": [{"index": 0, "type": "text", "text": {"value": "he"}}]}
    begun = {"name": "thread.run.created", "id": "r", "status": "created", "model": "m"}
    reading = read(sse(begun, text, {**begun, "name": "thread.run.completed", "status": "completed"}, named="name"))
    assert (reading.dialect, reading.text, reading.complete) == ("openai-assistants", "he", True)


# Arguments by paths.


def test_whole_arguments_beside_parts_are_shown_with_them() -> None:
    call = growing(name="f", args={"z": 1}, partialArgs=path("$.a", stringValue="x"))
    reading = read(sse(gemini(call, finish="STOP")))
    assert (calls(reading), reading.irregular) == ([("", "f", {"z": 1, "a": "x"})], ())


def test_parts_of_two_calls_go_to_the_call_with_their_id() -> None:
    parts = (
        *(growing(name=name, id=identity, willContinue=True) for name, identity in (("f", "1"), ("g", "2"))),
        growing(id="1", partialArgs=path("$.a", stringValue="x", willContinue=True), willContinue=True),
        growing(id="2", partialArgs=path("$.b", stringValue="y")),
        growing(id="1", name="f", partialArgs=path("$.a", stringValue="z")),
    )
    reading = read(sse(*map(gemini, parts), gemini(finish="STOP")))
    assert (calls(reading), reading.irregular) == ([("1", "f", {"a": "xz"}), ("2", "g", {"b": "y"})], ())


def test_an_id_that_comes_late_is_that_of_the_open_call() -> None:
    late = growing(id="1", partialArgs=path("$.a", numberValue=2))
    reading = read(sse(gemini(growing(name="f", willContinue=True)), gemini(late, finish="STOP")))
    assert (calls(reading), reading.irregular) == ([("1", "f", {"a": 2})], ())


def test_null_beside_what_is_said_says_nothing() -> None:
    nulls = {"name": None, "args": None, "id": None, "partialArgs": None, "willContinue": None}
    values = {"stringValue": None, "boolValue": None, "nullValue": None, "willContinue": None}
    parts = (
        growing(**{**nulls, "name": "f", "willContinue": True}),
        growing(**{**nulls, "partialArgs": path("$.a", **values, numberValue=3), "willContinue": True}),
        growing(**nulls),
    )
    reading = read(sse(*map(gemini, parts), gemini(finish="STOP")))
    assert (calls(reading), reading.irregular) == ([("", "f", {"a": 3})], ())


@pytest.mark.parametrize("reason", ["BLOCKED_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED", 0, None])
def test_a_prompt_that_is_blocked_for_no_reason_is_not_blocked(reason: Any) -> None:
    reading = read(sse(gemini({"text": "x"}, finish="STOP", promptFeedback={"blockReason": reason})))
    assert (reading.stop_reason, reading.irregular) == ("STOP", ())


# Starts that come again, and names.


def v2(*events: Any, named: str = "") -> Reading:
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}
    start = {"type": "message-start", "id": "c", "delta": {"message": {"role": "assistant"}}}
    return read(sse(start, *events, end, named=named))


V2_CALL = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
V2_START = {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": V2_CALL}}}
V2_TEXT = {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "he"}}}}
AGAIN = "the name of a tool call comes again"


def test_a_call_that_starts_twice_has_its_name_once() -> None:
    empty = json.loads(json.dumps(V2_START).replace('"{}"', '""'))
    reading = v2(V2_START, empty)
    assert calls(reading) == [("t", "f", {})]
    assert reading.irregular == (AGAIN,)


def test_a_name_of_the_first_version_that_comes_again_is_not_doubled() -> None:
    reading = v1(chunk(name="f"), chunk(name="f"), chunk(parameters="{}"))
    assert (calls(reading), reading.irregular) == ([("", "f", {})], (AGAIN,))


def test_a_name_that_changes_is_said() -> None:
    reading = v1(*FRAGMENTS, generated({"name": "g", "parameters": {"a": 1}}))
    assert (calls(reading)[0][1], reading.irregular) == ("f", ('the name of a tool call changes from "f" to "g"',))


def test_a_block_of_converse_that_begins_twice_has_its_name_once() -> None:
    start = {"contentBlockStart": {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "a", "name": "f"}}}}
    stop, end = {"contentBlockStop": {"contentBlockIndex": 0}}, {"messageStop": {"stopReason": "tool_use"}}
    late = {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"text": "x"}}}
    reading = read(lines(start, start, stop, end), "application/x-ndjson")
    assert (calls(reading), reading.irregular) == ([("a", "f", {})], (AGAIN,))
    assert read(lines(start, stop, end, late), "application/x-ndjson").irregular == ("an event after messageStop",)


# Types that only the event's name says, and what comes after the end.


def test_types_that_only_the_names_say_are_read() -> None:
    reading = v2(V2_TEXT, V2_START, named="type")
    assert (reading.dialect, reading.text, calls(reading)) == ("cohere-v2", "he", [("t", "f", {})])
    assert (reading.complete, reading.irregular) == (True, ())


def test_an_event_of_cohere_that_says_no_type_is_said() -> None:
    reading = v2(V2_TEXT, {key: one for key, one in V2_TEXT.items() if key != "type"})
    assert reading.irregular == ("an event that does not say its type, which is not read",)
    assert len(reading.unread) == 1


def test_what_comes_after_the_end_is_said() -> None:
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}
    assert v2(end).irregular == ("an event after message-end",)
    late = {"event_type": "text-generation", "is_finished": False, "text": "x"}
    finished = {"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE", "response": {}}
    assert read(lines(BEGIN, finished, late), "application/stream+json").irregular == ("an event after stream-end",)


# Names that change, and types that are missing.


def test_a_name_that_comes_in_fragments_is_said() -> None:
    reading = read(
        v.chat(v.chunk(v.call(0, "{", "a", "f")), v.chunk(v.call(0, "}", "a", "g")), v.chunk({}, "tool_calls"))
    )
    assert (calls(reading), reading.irregular) == (
        [("a", "fg", {})],  # as OpenAI's SDK has it
        ('the name of a tool call comes in fragments, "f" and "g", which are joined',),
    )
    parts = [{"index": 0, "id": "c", "type": "function", "function": {"name": name, "arguments": text}}
             for name, text in (("f", "{"), ("g", "}"))]  # fmt: skip
    assert assistants(*map(step, parts)).irregular == reading.irregular


def test_a_name_that_an_item_of_responses_has_only_at_first_is_said() -> None:
    begun = {**v.CALLED, "name": "f", "arguments": ""}
    body = v.numbered(v.CREATED, v.item(0, begun), v.item(0, v.CALLED, "done"), v.state("completed", [v.CALLED]))
    assert read(body).irregular[0].startswith('the name of a tool call changes from "f" to "weather"')


@pytest.mark.parametrize("kind", ["converse", "cohere"])
def test_a_block_that_begins_again_with_another_name_is_said(kind: str) -> None:
    def begin(name: str) -> dict[str, Any]:
        use = {"toolUseId": "a", "name": name}
        if kind == "converse":
            return {"contentBlockStart": {"contentBlockIndex": 0, "start": {"toolUse": use}}}
        call: dict[str, Any] = {**V2_CALL, "function": {"name": name, "arguments": ""}}
        return {**V2_START, "delta": {"message": {"tool_calls": call}}}

    end = [{"contentBlockStop": {"contentBlockIndex": 0}}, {"messageStop": {"stopReason": "tool_use"}}]
    both = begin("f"), begin("g")
    reading = v2(*both) if kind == "cohere" else read(lines(*both, *end), "application/x-ndjson")
    assert [one[1] for one in calls(reading)] == ["f"]
    assert reading.irregular[0] == 'the name of a tool call changes from "f" to "g"'


UNTYPED: dict[str, tuple[bytes, bytes, str]] = {
    "responses": (
        v.RESPONSES["search and text"],
        b'"type":"response.output_text.delta",',
        "an event whose data does not say its type, which OpenAI's SDK takes for another",
    ),
    "interactions": (
        m.INTERACTIONS["text"], b'"event_type":"step.delta",',
        "an event whose data does not say its type, which Google's SDK takes for an error",
    ),
    "transcription": (
        m.TRANSCRIPTION["text"], b'"type":"transcript.text.delta",',
        "an event whose data does not say its type, which is not read",
    ),
    "cohere-v1": (
        m.COHERE_V1["text"], b'"event_type":"text-generation",',
        "an event that does not say its type, which is not read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("dialect", UNTYPED)
def test_an_event_that_does_not_say_its_type_is_said(dialect: str) -> None:
    body, kind, remark = UNTYPED[dialect]
    assert kind in body
    first, _, rest = body.partition(kind)
    body = first + kind + rest.replace(kind, b"", 1)
    remarks = read(body, "application/json" if body[:1] == b"{" else "text/event-stream").irregular
    assert any(one.startswith(remark) for one in remarks)


def test_an_event_of_assistants_without_a_name_is_said() -> None:
    body = m.ASSISTANTS["text"]
    name = b"event: thread.message.delta\n"
    assert name in body
    reading = read(body.replace(name, b"", 1))
    assert reading.irregular == ("an event without its name in a line `event:`, which OpenAI's SDK skips",)
    assert read(body).irregular == ()
