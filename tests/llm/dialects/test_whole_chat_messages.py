"""A whole message at the end of a chat stream is compared with its fragments, and shown once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_x402.llm import Other, Reading, Reasoning, StreamReader
from support.vendors import vendor_streams as v


def read(*chunks: Any) -> Reading:
    reader = StreamReader()
    reader.feed(v.chat(*chunks))
    reader.end()
    return reader.reading()


def _whole(message: dict[str, Any], index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    return {**v.chunk(), "object": "chat.completion", "choices": [choice]}


DIFFERS = "text: the whole is not what its fragments said, which are shown"


@pytest.mark.parametrize("content", ["hello", [{"type": "text", "text": "hello"}], "", None])
def test_a_text_that_comes_again_is_shown_once(content: Any) -> None:
    reading = read(v.chunk({"content": "he"}), v.chunk({"content": "llo"}), _whole({"content": content}))
    assert (reading.text, reading.irregular, reading.complete) == ("hello", (), True)


@pytest.mark.parametrize("content", ["hello", "<think>hm</think> hello\n"])
def test_a_whole_text_that_differs_is_shown_beside_the_fragments(content: str) -> None:
    reading = read(v.chunk({"content": " hello"}), v.chunk({"content": "\n"}), _whole({"content": content}))
    assert (reading.text, reading.irregular) == (" hello\n", (DIFFERS,))
    assert [one.other for one in reading.differing] == [content]


def test_a_whole_is_about_one_choice() -> None:
    reading = read(
        v.chunk({"content": "A"}), v.chunk({"content": "B"}, index=1), _whole({"content": "A"}),
        _whole({"content": "B"}, index=1),
    )  # fmt: skip
    assert ([item.text for item in reading.items if not isinstance(item, Other)], reading.irregular) == (["A", "B"], ())


def test_a_call_that_comes_again_under_another_id_is_one_call() -> None:
    call = {"id": "b", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    reading = read(v.chunk(v.call(0, '{"a":', "a", "f")), v.chunk(v.call(0, "1}")), _whole({"tool_calls": [call]}))
    assert [(one.id, one.arguments) for one in reading.tool_calls] == [("a", '{"a":1}')]
    assert reading.irregular == ("a tool call has another id in the whole at the end than in its fragments",)
    other = {**call, "function": {"name": "g", "arguments": "{}"}}
    reading = read(v.chunk(v.call(0, "{}", "a", "f")), _whole({"tool_calls": [call | {"id": "a"}, other]}))
    assert [one.name for one in reading.tool_calls] == ["f", "g"]


def test_a_function_call_and_a_transcript_that_come_again_are_shown_once() -> None:
    said = {"name": "f", "arguments": '{"a":1}'}
    reading = read(v.chunk({"function_call": said}), _whole({"function_call": said}))
    assert ([one.arguments for one in reading.tool_calls], reading.irregular) == (['{"a":1}'], ())
    reading = read(v.chunk({"audio": {"transcript": "hello"}}), _whole({"audio": {"transcript": "hello"}}))
    assert (reading.items, reading.irregular) == ((Other("audio", {"text": "hello"}),), ())


def test_messages_in_the_place_of_deltas_are_fragments() -> None:
    parts = ({**v.chunk(), "choices": [{"index": 0, "message": {"content": text}}]} for text in ("he", "llo"))
    assert read(*parts, v.chunk({}, "stop")).text == "hello"


def test_details_of_reasoning_beside_a_summary_of_it_are_shown() -> None:
    details = [{"type": "reasoning.summary", "summary": "sum"}, {"type": "reasoning.text", "text": "raw"}]
    reading = read(v.chunk({"reasoning": "sum", "reasoning_details": details}), v.chunk({"content": "x"}, "stop"))
    assert [item.text for item in reading.items if isinstance(item, Reasoning)] == ["sum", "raw"]
    reading = read(v.chunk({"reasoning": "sum", "reasoning_details": details[:1]}), v.chunk({"content": "x"}, "stop"))
    assert [item.text for item in reading.items if isinstance(item, Reasoning)] == ["sum"]


def test_calls_of_cohere_whose_indexes_begin_at_one_are_shown_once() -> None:
    whole = [{"name": name, "parameters": {"a": 1}} for name in ("f", "g")]
    deltas = ({"index": 1, "name": "f"}, {"index": 1, "parameters": '{"a":1}'})
    lines = [
        {"event_type": "stream-start", "is_finished": False, "generation_id": "g"},
        *({"event_type": "tool-calls-chunk", "is_finished": False, "tool_call_delta": delta} for delta in deltas),
        {"event_type": "tool-calls-generation", "is_finished": False, "tool_calls": whole[:1]},
        {
            **{"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE"},
            **{"response": {"text": "", "generation_id": "g", "tool_calls": whole, "finish_reason": "COMPLETE"}},
        },
    ]
    reader = StreamReader()
    reader.feed("".join(f"{json.dumps(one)}\n" for one in lines).encode())
    reader.end()
    reading = reader.reading()
    assert [(one.name, one.parsed) for one in reading.tool_calls] == [("f", {"a": 1}), ("g", {"a": 1})]
    assert reading.irregular == ()
