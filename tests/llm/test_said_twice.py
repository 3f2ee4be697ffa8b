"""What is said in fragments and again as a whole is shown once; where both differ, both are shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.fixtures.__main__ import main
from mitmproxy_x402.llm import Other, Reading, Reasoning, answer_text, read_answer
from support.vendors import vendor_streams as v


def chunk(**choice: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, **choice}]}


def call(arguments: str, name: str | None = "f", identity: str = "t1") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": 0, "id": identity, "type": "function", "function": function}]}


def read(*events: Any) -> Reading:
    named = (f"event: {event['type']}\n" if isinstance(event.get("type"), str) else "" for event in events)
    body = "".join(f"{name}data: {json.dumps(event)}\n\n" for name, event in zip(named, events, strict=True))
    reading = read_answer("text/event-stream", f"{body}data: [DONE]\n\n".encode())
    assert reading is not None
    return reading


END = chunk(delta={}, finish_reason="tool_calls")


def test_a_message_among_chunks_repeats_its_call() -> None:
    whole = chunk(message={"role": "assistant", "content": "", **call('{"a":1}')}, finish_reason="tool_calls")
    for said in (whole, json.loads(json.dumps(whole).replace('"index": 0, "id"', '"id"'))):
        reading = read(chunk(delta=call('{"a"')), chunk(delta={"tool_calls": [{"index": 0, **TAIL}]}), END, said)
        (found,) = reading.tool_calls
        assert (found.name, found.arguments, reading.irregular) == ("f", '{"a":1}', ())


TAIL = {"function": {"arguments": ":1}"}}


def test_a_message_among_chunks_says_another_call_otherwise() -> None:
    reading = read(chunk(delta=call('{"a":1}')), END, chunk(message=call('{"a":2}'), finish_reason="tool_calls"))
    (found,) = reading.tool_calls
    assert found.arguments == '{"a":1}'
    (differing,) = reading.differing
    assert (differing.what, differing.other, differing.event) == ("call of f, id t1", '{"a":2}', 3)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_a_message_among_chunks_repeats_its_reasoning(key: str) -> None:
    reading = read(
        *(chunk(delta={key: text}) for text in ("Thi", "nk")),
        chunk(delta={"content": "Hello"}),
        chunk(message={"role": "assistant", "content": "Hello", key: "Think"}, finish_reason="stop"),
    )
    assert [item.text for item in reading.items if isinstance(item, Reasoning)] == ["Think"]
    assert reading.text == "Hello"


def test_an_id_that_changes_with_each_fragment_tears_no_call_apart() -> None:
    parts = (("f", '{"a"'), (None, ":1"), ("", "}"))
    reading = read(*(chunk(delta=call(text, name, f"t{n}")) for n, (name, text) in enumerate(parts)), END)
    (found,) = reading.tool_calls
    assert (found.id, found.name, found.arguments) == ("t0", "f", '{"a":1}')
    apart = read(chunk(delta=call("{}", "f", "t0")), chunk(delta=call("{}", "g", "t1")), END)
    assert [(one.id, one.name) for one in apart.tool_calls] == [("t0", "f"), ("t1", "g")]


def test_an_error_beside_a_chunk_is_one() -> None:
    reading = read(chunk(delta={"content": "Hi"}), {**chunk(delta={}), "x_groq": {"id": "r", "error": "over capacity"}})
    assert reading.error == "over capacity"


def test_a_first_chunk_with_nothing_but_filters_is_known() -> None:
    reading = read(
        {"choices": [], "created": 0, "id": "", "prompt_filter_results": [{"prompt_index": 0}]},
        chunk(delta={"content": "Hi"}),
        chunk(delta={}, finish_reason="stop"),
    )
    assert (reading.text, reading.irregular) == ("Hi", ())


def test_events_that_come_again_after_a_break_count_once() -> None:
    message = {"type": "message", "id": "msg", "role": "assistant", "content": []}
    whole = {**message, "content": [{"type": "output_text", "text": "Hello"}], "status": "completed"}
    events = [
        v.CREATED,
        v.item(0, message),
        v.fragment("output_text", 0, "Hel", content_index=0),
        v.fragment("output_text", 0, "lo", content_index=0),
        v.item(0, whole, "done"),
        v.state("completed", [whole]),
    ]
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    reading = read(*numbered[:4], *numbered[2:])
    assert reading.text == "Hello"
    (remark,) = reading.irregular
    assert remark == "the sequence_number goes back to 2; what comes twice counts once"
    again = [{**event, "obfuscation": "x7"} for event in numbered[2:]]
    assert (read(*numbered[:4], *again).text, read(*numbered[:4], *numbered[3:]).text) == ("Hello", "Hello")


def test_events_that_are_all_numbered_alike_are_all_read() -> None:
    message = {"type": "message", "id": "msg", "role": "assistant", "content": []}
    events = [v.CREATED, v.item(0, message), *[v.fragment("output_text", 0, "ha", content_index=0)] * 3]
    assert read(*({**event, "sequence_number": 0} for event in events)).text == "hahaha"


def test_what_anthropic_says_beside_the_answer_is_shown() -> None:
    usage = {"input_tokens": 3.0, "output_tokens": 2, "server_tool_use": {"web_search_requests": 71}}
    reading = read(
        {"type": "message_start", "message": {"model": "m", "id": "i", "content": [], "usage": {}}},
        {
            **{"type": "message_delta", "delta": {"stop_reason": "end_turn", "container": {"id": "box-72"}}},
            **{"usage": usage, "context_management": {"applied_edits": [{"cleared_input_tokens": 73}]}},
        },
        {"type": "message_stop"},
    )
    assert (reading.usage.input, reading.irregular) == (3, ())
    for shown in ("71", "box-72", "73"):
        assert shown in answer_text(reading)


def test_who_speaks_is_shown() -> None:
    segment = {
        "type": "transcript.text.segment",
        "id": "s",
        "start": 0.0,
        "end": 1.0,
        "text": "Hello",
        "speaker": "Ada",
    }
    reading = read(
        {"type": "transcript.text.delta", "delta": "Hi"}, segment, {"type": "transcript.text.done", "text": "Hi"}
    )
    assert reading.text == "Hi"
    assert any(isinstance(item, Other) and item.value["speaker"] == "Ada" for item in reading.items)
    assert "Ada" in answer_text(reading)


def test_tokens_that_bedrock_adds_are_read_in_every_dialect() -> None:
    metrics = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 3, "outputTokenCount": 2}}
    command = [
        {"is_finished": False, "event_type": "text-generation", "text": "Hi"},
        {"is_finished": True, "event_type": "stream-end", "finish_reason": "COMPLETE", **metrics},
    ]
    packed = [{"bytes": base64.b64encode(json.dumps(one).encode()).decode()} for one in command]
    for events in (command, packed):
        reading = read(*events)
        assert (reading.text, reading.usage.input, reading.usage.output) == ("Hi", 3, 2)


def test_both_are_shown_where_they_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    function = {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f", "arguments": ""}
    whole = {**function, "arguments": '{"snow": 1}', "status": "completed"}
    body = v.numbered(
        v.CREATED,
        v.item(0, function),
        v.fragment("function_call_arguments", 0, '{"rain": 1}'),
        v.item(0, whole, "done"),
        v.state("completed", [whole]),
    )
    file = tmp_path / "answer.sse"
    file.write_bytes(body)
    for option in ((), ("--json",), ("--html=-",)):
        assert main(["show", str(file), *option]) == 0
        out = capsys.readouterr().out
        assert "rain" in out, option
        assert "snow" in out, option
        assert "event 4" in out or '"event": 4' in out
