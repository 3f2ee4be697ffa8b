"""Streams that vendors send and earlier readers doubled, lost or completed by what nobody had said."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from mitmproxy_x402.llm import Other, Reading, Reasoning, Text, ToolCall, answer_text, read_answer, read_steps


def events(*values: Any) -> bytes:
    """Named after their type, if they have one."""
    names = [f"event: {one['type']}\n" if isinstance(one, dict) and "type" in one else "" for one in values]
    return "".join(f"{name}data: {json.dumps(one)}\n\n" for name, one in zip(names, values, strict=True)).encode()


def read(body: bytes) -> Reading:
    reading = read_answer("text/event-stream", body)
    assert reading is not None
    return reading


def interaction(start: dict[str, Any], *deltas: dict[str, Any], old: bool = False) -> bytes:
    family, what = ("content", "content") if old else ("step", "step")
    last = {"id": "i", "object": "interaction", "model": "g", "status": "completed"}
    return events(
        {"event_type": "interaction.created", "interaction": {**last, "status": "in_progress"}},
        {"event_type": f"{family}.start", "index": 0, what: start},
        *({"event_type": f"{family}.delta", "index": 0, "delta": delta} for delta in deltas),
        {"event_type": f"{family}.stop", "index": 0},
        {"event_type": "interaction.completed", "interaction": last},
    )


CALL = {"type": "function_call", "id": "c", "name": "f", "arguments": {"x": 1}}
PARTIAL = [{"type": "arguments_delta", "partial_arguments": one} for one in ('{"x"', ":1}")]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("start", "deltas"),
    [
        ({"type": "function_call"}, [CALL]),
        ({**CALL, "arguments": {}}, [CALL]),
        (CALL, [CALL]),
        (CALL, []),
        ({"type": "function_call", "id": "c", "name": "f"}, [{"type": "function_call", "arguments": {"x": 1}}]),
        ({"type": "function_call", "id": "c", "name": "f"}, PARTIAL),
        ({"type": "model_output"}, [CALL]),
    ],
)
def test_a_call_in_an_interaction_is_one_call(start: Any, deltas: list[Any], old: bool) -> None:
    reading = read(interaction(start, *deltas, old=old))
    assert [(one.id, one.name, one.arguments) for one in reading.tool_calls] == [("c", "f", '{"x":1}')]
    assert reading.irregular == ()


def test_calls_that_differ_stay_apart() -> None:
    calls = [CALL, {**CALL, "id": "d"}, {**CALL, "id": "e", "arguments": {"x": 2}}]
    for kind in ("model_output", "function_call"):
        reading = read(interaction({"type": kind}, *calls))
        assert [(one.id, one.parsed) for one in reading.tool_calls] == [
            ("c", {"x": 1}),
            ("d", {"x": 1}),
            ("e", {"x": 2}),
        ]


@pytest.mark.parametrize(
    ("start", "delta"),
    [
        ({"type": "google_search_call", "id": "s"}, {"type": "google_search_call", "arguments": {"queries": ["q"]}}),
        ({"type": "google_search_result", "call_id": "s"}, {"type": "google_search_result", "result": [{"url": "u"}]}),
        ({"type": "google_search_call", "id": "s", "arguments": {"queries": []}},
         {"type": "google_search_call", "arguments": {"queries": ["q"]}}),
        ({"type": "image"}, {"type": "image", "data": "AAAA"}),
    ],
)  # fmt: skip
def test_a_step_s_begin_and_its_delta_are_one_part(start: Any, delta: Any) -> None:
    assert read(interaction(start, delta)).items == (Other(start["type"], {**start, **delta}),)
    other = {**delta, "id": "another", "data": "BBBB"}
    both = read(interaction({**start, **delta, "id": "s", "data": "AAAA"}, other)).items
    assert [one.value["data"] for one in both if isinstance(one, Other)] == ["AAAA", "BBBB"]


@pytest.mark.parametrize("begun", [{}, {"arguments": {}}, {"arguments": {"d": 1}}])
def test_a_call_of_a_server_s_tool_in_an_interaction_is_a_tool_call(begun: Any) -> None:
    call = {"type": "mcp_server_tool_call", "id": "m", "name": "r"}
    delta = {"type": "mcp_server_tool_call", "name": "r", "arguments": {"d": 1}}
    (item,) = read(interaction({**call, **begun}, delta)).items
    assert isinstance(item, ToolCall)
    assert (item.id, item.name, item.arguments, item.kind) == ("m", "r", '{"d":1}', "mcp_server_tool_call")


def test_the_model_that_finishes_an_answer_is_the_model() -> None:
    handed_over = {"type": "fallback", "from": {"model": "first"}, "to": {"model": "second"}}
    reading = read(
        events(
            {"type": "message_start", "message": {"id": "m", "model": "first", "content": [], "usage": {}}},
            {"type": "content_block_start", "index": 0, "content_block": handed_over},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
            {"type": "message_stop"},
        )
    )
    assert (reading.model, reading.items, reading.irregular) == ("second", (Other("fallback", handed_over),), ())


@pytest.mark.parametrize(
    "thought",
    [
        {"type": "thought_summary", "text": "hm"},
        {"type": "thought_summary", "content": {"type": "text", "text": "hm"}},
        {"type": "thought_summary", "content": [{"type": "text", "text": "hm"}]},
        {"type": "thought", "summary": [{"type": "text", "text": "hm"}]},
        {"type": "thought", "thought": "hm"},
    ],
)
def test_a_thought_is_read_wherever_its_text_stands(thought: Any) -> None:
    signed = {"type": "thought_signature", "signature": "AA"}
    assert read(interaction({"type": "thought"}, thought, signed)).items == (Reasoning("hm", signature="AA"),)


def test_a_thought_without_text_is_shown_as_it_came() -> None:
    thought = {"type": "thought_summary", "content": {"type": "image", "data": "AAAA"}}
    assert read(interaction({"type": "thought"}, thought)).items == (Other("thought_summary", thought),)


def chunk(delta: Any, reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def test_what_a_vendor_adds_to_a_delta_is_shown() -> None:
    tools = [{"type": "search", "arguments": "{}", "output": None}], [{"type": "search", "output": "found"}]
    body = events(
        chunk({"content": "Hi", "executed_tools": tools[0], "empty": [], "trail": "a"}),
        chunk({"executed_tools": tools[0], "trail": "b"}),
        chunk({"executed_tools": tools[1]}),
        chunk({}, "stop"),
    )
    found = (Other("executed_tools", tools[0]), Other("trail", {"text": "ab"}), Other("executed_tools", tools[1]))
    assert read(body).items == (Text("Hi"), *found)
    message = {"role": "assistant", "content": "Hi", "executed_tools": tools[0]}
    whole = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    reading = read_answer("application/json", json.dumps(whole).encode())
    assert reading is not None
    assert reading.items == (Text("Hi"), found[0])


def test_what_gateways_say_twice_is_shown_once() -> None:
    twice = {"reasoning_content": "hm", "thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}
    assert read(events(chunk(twice), chunk({}, "stop"))).items == (Reasoning("hm"),)
    alone = {"thinking_blocks": twice["thinking_blocks"]}
    assert read(events(chunk(alone), chunk({}, "stop"))).items == (Other("thinking_blocks", alone["thinking_blocks"]),)


def complete(*texts: str, **more: Any) -> bytes:
    last = len(texts) - 1
    return events(
        *(
            {"completion": text, "stop_reason": "stop_sequence" if at == last else None, "model": "claude-2", **more}
            for at, text in enumerate(texts)
        )
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (complete(" Hel", " Hello", " Hello"), " Hello"),
        (complete(" ha", " ha", type="completion"), " ha ha"),
        (complete(" ha", " ha ha", "", type="completion"), " ha ha ha"),
        (complete(" ha", " ha ha", ""), " ha ha ha"),
        (complete(" a", " b", " c"), " a b c"),
    ],
)
def test_completions_that_repeat_all_and_those_that_do_not(body: bytes, text: str) -> None:
    assert read(body).items == (Text(text),)


def test_each_event_of_repeating_completions_adds_what_is_new() -> None:
    found = read_steps("text/event-stream", complete(" Hel", " Hello", " Hello"))
    assert found is not None
    assert [one.text for step in found[1] for one in step.added if one.what == "text"] == [" Hel", "lo"]


def test_an_error_in_a_line_of_its_own_is_read() -> None:
    body = events(chunk({"content": "Hi"})) + b'{"error": {"message": "boom", "type": "server_error"}}'
    for end in (b"", b"\n", b"\n\n"):
        reading = read(body + end)
        assert reading.error == "server_error: boom"
        assert "an error in a line of its own, which most clients ignore" in reading.irregular


def test_of_lines_that_are_no_fields_the_first_is_told() -> None:
    body = events(chunk({"content": "Hi"}, "stop")) + b"upstream connect error\nmore of it\n\n"
    [remark] = read(body).irregular
    assert remark == (
        "a line that is no field of an event, which clients ignore; the first one: upstream connect error (2 times)"
    )


def test_arguments_behind_a_byte_order_mark_are_no_json() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '\ufeff{"a":1}'}}
    reading = read(events(chunk({"tool_calls": [call]}), chunk({}, "tool_calls")))
    assert reading.tool_calls[0].parsed is None
    assert reading.irregular == ("tool call 1: its arguments are not JSON: it begins with a byte order mark",)


def test_what_is_no_text_is_told() -> None:
    long = {"a": "x" * 100}
    reading = read(events(chunk({"content": {"a": "b"}}), chunk({"content": long}), chunk({}, "stop")))
    assert reading.irregular[0] == 'content that is no text: {"a":"b"}'
    assert reading.irregular[1].endswith(" (108 characters of JSON)")


def test_fragments_of_arguments_that_are_json() -> None:
    body = events(
        {"type": "message_start", "message": {"id": "m", "model": "c", "content": []}},
        {"type": "content_block_start", "index": 0,
         "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": {"x": 1}}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    )  # fmt: skip
    assert read(body).tool_calls == (ToolCall("t", "f", '{"x":1}', {"x": 1}),)


def test_a_thread_that_is_created_is_in_the_dialect_of_its_run() -> None:
    first = b'event: thread.created\ndata: {"id":"thread_1","object":"thread","metadata":{}}\n\n'
    run = b'event: thread.run.completed\ndata: {"id":"run_1","object":"thread.run","status":"completed"}\n\n'
    reading = read(first + run)
    assert (reading.dialect, reading.irregular, reading.complete) == ("openai-assistants", (), True)


@pytest.mark.parametrize(
    "line",
    [
        'error: {"code":400,"message":"boom","type":"server_error"}',
        'data: error: {"code":400,"message":"boom","type":"server_error"}',
        'data: error: {"error":{"message":"boom","type":"server_error"}}',
        '{"error":{"message":"boom","type":"server_error"}}',
    ],
)
def test_an_error_s_words_are_told_however_it_is_written(line: str) -> None:
    reading = read(events(chunk({"content": "Hi"})) + line.encode() + b"\n\n")
    assert reading.error is not None
    assert reading.error.startswith("server_error")
    assert reading.error.endswith("boom")


def test_data_that_is_no_json_is_shown() -> None:
    reading = read(events(chunk({"content": "Hi"})) + b"data: out of memory\n\n")
    assert reading.unread == ('not JSON: "out of memory"',)


def test_arguments_of_an_item_that_are_json() -> None:
    item = {"type": "function_call", "id": "i", "call_id": "c", "name": "f", "arguments": {"x": 1}}
    whole = {"id": "r", "object": "response", "model": "m", "status": "completed", "output": [item]}
    reading = read_answer("application/json", json.dumps(whole).encode())
    assert reading is not None
    assert reading.tool_calls == (ToolCall("c", "f", '{"x":1}', {"x": 1}),)
    assert reading.irregular == ("arguments of a tool call that are JSON, not text with JSON in it",)


def test_empty_lines_take_no_memory() -> None:
    body = b"\n" * 2_000_000 + events(chunk({"content": "Hi"}, "stop"))
    tracemalloc.start()
    reading = read(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reading.items == (Text("Hi"),)
    assert peak < 16_000_000


def test_two_calls_with_one_id_are_told() -> None:
    calls = [{"index": n, "id": "a", "function": {"name": "f", "arguments": "{}"}} for n in range(2)]
    reading = read(events(chunk({"tool_calls": calls}), chunk({}, "tool_calls")))
    assert len(reading.tool_calls) == 2
    assert reading.irregular == ("tool call 2 has the id of one before it",)


SIGNED = {"google": {"thought_signature": "abc"}}


@pytest.mark.parametrize(
    "body",
    [
        events(
            {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}}]},
            {"choices": [{"delta": {"tool_calls": [{"index": 0, "extra_content": SIGNED, "function": {}}]}}]},
        ),
        events({"choices": [{"delta": {"tool_calls": [
            {"id": "c", "function": {"name": "f", "extra_content": SIGNED}}]}}]}),
        events({"type": "content_block_start", "index": 0, "content_block": {
            **{"type": "tool_use", "id": "c", "name": "f", "input": {}, "caller": {"type": "direct"}},
            "extra_content": SIGNED}}),
        events({"type": "response.output_item.added", "output_index": 0, "item": {
            "type": "function_call", "call_id": "c", "name": "f", "arguments": "", "extra_content": SIGNED}}),
        events({"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "extra_content": SIGNED}}]}}]}),
        events({"contentBlockStart": {"contentBlockIndex": 0, "start": {
            "toolUse": {"toolUseId": "c", "name": "f", "extra_content": SIGNED}}}}),
        b'{"model":"m","message":{"tool_calls":[{"function":{"name":"f"},"extra_content":%s}]},"done":false}\n{}\n'
        % json.dumps(SIGNED).encode(),
    ],
)  # fmt: skip
def test_what_a_vendor_says_of_a_call_under_other_keys_is_shown(body: bytes) -> None:
    reading = read(body)
    (call,) = reading.tool_calls
    assert [(detail.name, detail.value) for detail in call.further] == [("extra_content", SIGNED)]
    assert '"thought_signature": "abc"' in answer_text(reading)
    found = read_steps("text/event-stream", body)
    assert found is not None
    assert [added.what for step in found[1] for added in step.added].count("extra_content") == 1


def test_zero_values_and_usual_keys_of_a_call_are_not_shown() -> None:
    call = {
        "index": 0,
        "id": "c",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
        "custom": {},
        "x": None,
    }
    assert read(events({"choices": [{"delta": {"tool_calls": [call]}}]})).tool_calls[0].further == ()


@pytest.mark.parametrize(("begun", "told"), [({}, False), ({"a": 1}, True), ({"a": 2}, False)])
def test_a_block_that_begins_with_other_input_than_its_fragments_say(begun: dict[str, int], told: bool) -> None:
    reading = read(
        events(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "tool_use", "id": "c", "name": "f", "input": begun},
            },
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": one}}
                for one in ('{"a"', ":2}")
            ),
        )
    )
    assert reading.tool_calls[0].parsed == {"a": 2}
    remark = 'tool call 1 began with other arguments than its fragments say: {"a":1}'
    assert (remark in reading.irregular) == told


def test_an_item_is_one_where_the_last_list_leaves_others_out() -> None:
    call = {"id": "fc", "type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'}
    reading = read(
        events(
            {"type": "response.created", "response": {"object": "response", "status": "in_progress"}},
            {"type": "response.output_item.added", "output_index": 0, "item": {"id": "rs", "type": "reasoning"}},
            {"type": "response.output_item.added", "output_index": 1, "item": {**call, "arguments": ""}},
            {
                "type": "response.function_call_arguments.delta",
                "output_index": 1,
                "item_id": "fc",
                "delta": call["arguments"],
            },
            {"type": "response.output_item.done", "output_index": 1, "item": call},
            {"type": "response.completed", "response": {"object": "response", "status": "completed", "output": [call]}},
        )
    )
    fewer = "the whole response at the end has another number of items than its events"
    assert (len(reading.tool_calls), reading.irregular) == (1, (fewer,))


def test_events_in_no_known_dialect_are_shown_beside_an_error() -> None:
    reading = read(events({"foo": "words"}, {"foo": "more"}) + b'event: error\ndata: {"message": "boom"}\n\n')
    assert (reading.error, reading.unread) == ("boom", ('message (2 times): {"foo":"words"}',))


def test_tokens_within_a_choice_are_read() -> None:
    """As Moonshot sends them; of several choices, each says what was written for it."""

    def last(index: int, written: int) -> dict[str, Any]:
        tokens = {"prompt_tokens": 19, "completion_tokens": written, "total_tokens": 19 + written}
        value = chunk({}, "stop")
        value["choices"][0] |= {"index": index, "usage": tokens}
        return value

    one = read(events(chunk({"content": "A"}), last(0, 21))).usage
    assert (one.input, one.output, one.total) == (19, 21, 40)
    both = read(events(chunk({"content": "A"}), last(0, 21), last(1, 4))).usage
    assert (both.input, both.output, both.total) == (19, 25, 44)
    whole = {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50}
    for stream in ([last(0, 21) | {"usage": whole}], [last(0, 21), {**chunk({}), "choices": [], "usage": whole}]):
        told = read(events(chunk({"content": "A"}), *stream)).usage
        assert (told.input, told.output, told.total) == (20, 30, 50)


def test_data_with_too_long_a_number_is_not_called_no_json() -> None:
    reading = read(events(chunk({"content": "Hi"})) + b"data: " + b"9" * 5000 + b"\n\n")
    assert [one.partition(":")[0] for one in reading.unread] == ["not read"]
