"""What single vendors send that their documentation does not say, and how it is read."""

from __future__ import annotations

import json
from typing import Any

from mitmproxy_x402.llm import Citation, Other, Reasoning, Text, ToolCall
from support.vendors import vendor_streams as v
from support.vendors.reading import read

ROLE, STOP, CALLS = v.ROLE, v.chunk({}, "stop"), v.chunk({}, "tool_calls")
BEGIN = v.chunk(v.call(0, "", "a", "x"))
HELLO = v.block(0, "text", text="")
HELLOED = v.stop(0)
END = v.finish("end_turn")


def test_messages_among_chunks_are_not_said_twice() -> None:
    def said(delta: Any, message: str, finish: str | None = None) -> dict[str, Any]:
        one = v.chunk(delta or {}, finish)
        one["choices"][0] |= {"message": {"role": "assistant", "content": message}}
        return one if delta is not None else {**one, "choices": [{**one["choices"][0], "delta": None}]}

    beside = [said({"content": "al"}, "al"), said({"content": "pha"}, "alpha"), said({}, "alpha", "stop")]
    alone = [said(None, "al"), said(None, "alpha"), said(None, "alpha", "stop")]
    new = [said(None, "al"), said(None, "pha"), said(None, "", "stop")]
    for events in (beside, alone, new):
        assert (read(v.events(*events)).text, read(v.events(*events)).irregular) == ("alpha", ())


def test_what_code_assist_puts_around_an_answer_is_taken_off() -> None:
    inner = [v.part({"text": "al"}), v.part({"text": "pha"}, finish="STOP")]
    for body in (v.events(*({"response": one, "traceId": "t"} for one in inner)), json.dumps({"response": v.part(
        {"text": "alpha"}, finish="STOP")}).encode()):  # fmt: skip
        reading = read(body)
        assert (reading.dialect, reading.text, reading.complete) == ("gemini", "alpha", True)


def test_named_events_without_an_empty_line_between_them() -> None:
    body = v.messages(v.start(), HELLO, v.delta(0, "text", text="hi"), HELLOED, *END).replace(b"\n\n", b"\n")
    reading = read(body)
    assert (reading.text, reading.complete) == ("hi", True)
    assert reading.irregular == (
        "the last event has no empty line after it; it is read all the same",
        "events without an empty line between them",
    )


def test_calls_under_one_index_stay_two() -> None:
    both = v.chunk(v.call(0, '{"n":1}', "a", "x")), v.chunk(v.call(0, '{"n":2}', "b", "x"))
    calls = read(v.chat(ROLE, *both, CALLS)).tool_calls
    assert [(call.id, call.parsed) for call in calls] == [("a", {"n": 1}), ("b", {"n": 2})]


def test_calls_without_an_index_follow_each_other() -> None:
    deltas = [
        {"id": "a", "function": {"name": "x", "arguments": '{"n"'}},
        {"function": {"arguments": ":1}"}},
        {"id": "b", "function": {"name": "y", "arguments": "{}"}},
    ]
    calls = read(v.chat(ROLE, *(v.chunk({"tool_calls": [one]}) for one in deltas), CALLS)).tool_calls
    assert [(call.name, call.arguments) for call in calls] == [("x", '{"n":1}'), ("y", "{}")]


def test_nulls_in_later_fragments_mean_nothing() -> None:
    later = {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": "{}"}}
    reading = read(v.chat(ROLE, BEGIN, v.chunk({"tool_calls": [later]}), CALLS))
    assert (reading.tool_calls, reading.irregular) == ((ToolCall("a", "x", "{}", {}),), ())


def test_a_character_cut_in_two_is_joined() -> None:
    halves = [ROLE, v.chunk({"content": "<\ud83e"}), v.chunk({"content": "\udd80>"}), STOP]
    body = "".join(f"data: {json.dumps(one)}\n\n" for one in halves).encode() + b"data: [DONE]\n\n"
    reading = read(body)
    assert (reading.text, reading.irregular) == ("<🦀>", ())
    reading = read(body.replace(b"\\udd80", b""))
    assert (reading.text, reading.irregular) == ("<\ud83e>", ("half of a surrogate pair stands alone",))


def test_reasoning_under_three_names_is_told_once() -> None:
    sealed = {"type": "reasoning.text", "text": "Hm", "signature": "S"}
    for said in ({"reasoning": "Hm", "reasoning_details": [sealed]}, {"reasoning_details": [sealed]}):
        assert read(v.chat(v.chunk(said), STOP)).items == (Reasoning("Hm", signature="S"),)
    assert read(v.chat(v.chunk({"reasoning": "Hm"}), STOP)).items == (Reasoning("Hm"),)


def test_content_as_a_list_of_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    reading = read(v.chat(v.chunk({"content": [thinking, {"type": "text", "text": "Yes"}]}), STOP))
    assert reading.items == (Reasoning("Hm"), Text("Yes"))


def test_custom_tools_are_called_with_plain_text() -> None:
    first = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "apply", "input": "*** Be"}}
    rest = {"index": 0, "custom": {"input": "gin"}}
    reading = read(v.chat(v.chunk({"tool_calls": [first]}), v.chunk({"tool_calls": [rest]}), CALLS))
    assert reading.items == (ToolCall("a", "apply", "*** Begin", kind="custom"),)
    assert reading.irregular == ()


def test_other_parts_of_a_choice_are_kept_in_their_order() -> None:
    picture, cited = {"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "url_citation", "url": "x"}
    said = {"content": [picture, {"odd": 1}], "images": [picture], "annotations": [cited, 5]}
    reading = read(v.chat(v.chunk(said), STOP))
    assert reading.items == (
        Citation("url_citation", source="x"), Other("image_url", picture), Other("part", {"odd": 1}),
        Other("annotations", 5), Other("image_url", picture),
    )  # fmt: skip


def test_a_choice_can_fail_by_itself() -> None:
    failed = v.chunk({}, "error")
    failed["choices"][0]["error"] = {"message": "Broke.", "code": 502}
    reading = read(v.chat(ROLE, failed))
    assert (reading.error, reading.stop_reason, reading.complete) == ("502: Broke.", "error", False)


def test_a_response_that_fails_says_so_in_any_case() -> None:
    reading = read(v.numbered(v.CREATED, v.state("failed")))
    assert (reading.error, reading.stop_reason, reading.complete) == ("failed", "failed", False)


def test_reasoning_itself_follows_its_summary() -> None:
    content = [{"type": "reasoning_text", "text": "b"}]
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}], "content": content}
    streamed = [v.item(0, {"type": "reasoning", "summary": []}), v.fragment("reasoning_text", 0, "b", content_index=0)]
    for events in ([v.item(0, thought, "done")], [*streamed, v.item(0, thought, "done")]):
        reading = read(v.numbered(v.CREATED, *events, v.state("completed", [thought])))
        assert (reading.items, reading.irregular) == ((Reasoning("a"), Reasoning("b")), ())


def test_a_tool_of_the_vendor_s_may_fail() -> None:
    called = {"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "output": None, "error": "no"}
    reading = read(v.numbered(v.CREATED, v.item(0, called, "done"), v.state("completed", [called])))
    assert reading.items == (ToolCall("m", "f", "{}", {}, kind="mcp_call"), Other("mcp_call error", "no"))


def test_a_fragment_in_a_block_of_another_kind_stands_behind_it() -> None:
    body = v.messages(
        v.start(), HELLO, v.delta(0, "thinking", thinking="Hm"), v.delta(0, "text", text="x"), HELLOED, *END
    )
    assert read(body).items == (Text("x"), Reasoning("Hm"))


def test_a_block_that_begins_twice_is_two() -> None:
    said = v.delta(0, "text", text="x")
    assert read(v.messages(v.start(), HELLO, said, HELLO, said, HELLOED, *END)).items == (Text("x"), Text("x"))


def test_what_a_message_brings_from_the_start_counts() -> None:
    start = v.start(output_tokens=5)
    start["message"]["content"] = [{"type": "text", "text": "Al"}]
    blocks = [v.delta(0, "text", text="so"), v.block(1, "text", text="An"), v.delta(1, "text", text="d"), v.stop(1)]
    reading = read(v.messages(start, *blocks, v.stop(0), *END))
    assert (reading.items, reading.irregular) == ((Text("Also"), Text("And")), ())
    assert read(v.messages(start)).usage.output == 5


def test_sound_is_told_by_its_transcript() -> None:
    sounds = [{"id": "a", "transcript": "Hel"}, {"data": "UklG"}, {"transcript": "lo"}, {"expires_at": 1}]
    [item] = read(v.chat(*(v.chunk({"audio": sound}) for sound in sounds), STOP)).items
    assert item.value == {"text": "Hello", "characters_left_out": 4}  # type: ignore[union-attr]


def test_the_completions_before_chat() -> None:
    old = {"id": "cmpl-1", "object": "text_completion", "model": "davinci"}
    one, two = ({"text": text, "index": 0, "finish_reason": end} for text, end in (("It ", None), ("rains", "stop")))
    reading = read(v.chat({**old, "choices": [one]}, {**old, "choices": [two]}))
    assert (reading.dialect, reading.text, reading.complete) == ("openai-chat", "It rains", True)
