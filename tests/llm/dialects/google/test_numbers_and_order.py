"""Google's reasons that come as numbers, and the steps of its interactions whose events come in any order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_x402.llm import Reasoning, Text, ToolCall, read_answer
from support.vendors import more_streams as m
from support.vendors import vendor_streams as v
from support.vendors.reading import read


@pytest.mark.parametrize(
    ("number", "name", "on_vertex"),
    [
        (1, "STOP", "STOP"),
        (2, "MAX_TOKENS", "MAX_TOKENS"),
        (3, "SAFETY", "SAFETY"),
        (4, "RECITATION", "RECITATION"),
        (5, "OTHER", "OTHER"),
        (6, "6 (LANGUAGE or BLOCKLIST)", "BLOCKLIST"),
        (9, "9 (SPII or MALFORMED_FUNCTION_CALL)", "MALFORMED_FUNCTION_CALL"),
        (11, "IMAGE_SAFETY", "IMAGE_SAFETY"),
        (16, "16 (NO_IMAGE)", "NO_IMAGE"),
        (99, "99", "99"),
        (-1, "-1", "-1"),
    ],
)
def test_a_finish_reason_that_is_a_number(number: int, name: str, on_vertex: str) -> None:
    parts = [v.part({"text": "a"}), v.part({"text": "b"}, finish=number)]  # type: ignore[arg-type]
    stamped = [{**one, "createTime": "2026-01-01T00:00:00Z"} for one in parts]
    for events, reason in ((parts, name), (stamped, on_vertex)):
        for body in (v.events(*events), v.array(events)):
            reading = read(body)
            assert (reading.text, reading.stop_reason, reading.complete) == ("ab", reason, True)
            assert reading.irregular == ()
        whole = read_answer("application/json", json.dumps(events[-1]).encode())
        assert whole is not None
        assert (whole.stop_reason, whole.irregular) == (reason, ())


def test_a_reason_that_says_nothing() -> None:
    events = [v.part({"text": "a"}, finish=0), v.part({"text": "b"}, finish=1)]  # type: ignore[arg-type]
    assert (read(v.events(*events)).stop_reason, read(v.events(*events)).irregular) == ("STOP", ())


@pytest.mark.parametrize(
    ("number", "said"), [(1, "SAFETY"), (3, "BLOCKLIST"), (5, "5 (IMAGE_SAFETY or MODEL_ARMOR)"), (7, "7 (JAILBREAK)")]
)
def test_why_a_prompt_was_blocked(number: int, said: str) -> None:
    reading = read(v.events({"promptFeedback": {"blockReason": number}, "modelVersion": "gemini-3-pro"}))
    assert (reading.stop_reason, reading.irregular) == (f"blocked: {said}", ())


BEGIN = m.interaction("created", "in_progress")


def end(*steps: dict[str, Any]) -> dict[str, Any]:
    return m.interaction("completed", "completed", steps=list(steps), usage=m.INTERACTION_USAGE)


def text(words: str) -> dict[str, Any]:
    return {"type": "model_output", "content": [{"type": "text", "text": words}]}


def called(identity: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function_call", "id": identity, "name": "f", "arguments": arguments}


def delta(index: Any, kind: str, **more: Any) -> dict[str, Any]:
    return m.step("delta", index, delta={"type": kind, **more})


THOUGHT = {"type": "thought", "signature": "SIG", "summary": [{"type": "text", "text": "Hm."}]}
STARTS = [m.step("start", 3, step={"type": "model_output"}), m.step("start", 0, step={"type": "thought"}),
          m.step("start", 2, step=called("b", {})), m.step("start", 1, step=called("a", {}))]  # fmt: skip
DELTAS = [
    delta(3, "text", text="Hel"),
    delta(2, "arguments_delta", arguments='{"n":'),
    delta(0, "thought_summary", content={"type": "text", "text": "H"}),
    delta(1, "arguments_delta", arguments='{"n":'),
    delta(3, "text", text="lo"),
    delta(1, "arguments_delta", arguments="1}"),
    delta(0, "thought_summary", content={"type": "text", "text": "m."}),
    delta(2, "arguments_delta", arguments="2}"),
    delta(0, "thought_signature", signature="SIG"),
]
STOPS = [m.step("stop", index) for index in (2, 3, 0, 1)]
CALLS = [ToolCall(identity, "f", f'{{"n":{n}}}', {"n": n}) for n, identity in enumerate("ab", 1)]
READ = (Reasoning("Hm.", signature="SIG"), *CALLS, Text("Hello"))


@pytest.mark.parametrize("last", [end(), end(THOUGHT, called("a", {"n": 1}), called("b", {"n": 2}), text("Hello"))])
@pytest.mark.parametrize("turned", [False, True])
def test_steps_whose_events_come_in_any_order(last: dict[str, Any], turned: bool) -> None:
    begins = STARTS[::-1] if turned else STARTS
    reading = read(v.events(BEGIN, *begins, *DELTAS, *STOPS, last))
    assert (reading.items, reading.irregular, reading.complete) == (READ, (), True)
    each = [*(one for begin in begins for one in (begin, *(d for d in DELTAS if d["index"] == begin["index"]))), *STOPS]
    reading = read(v.events(BEGIN, *each, last))
    assert (reading.items, reading.irregular) == (READ, ())


def test_texts_of_several_steps_by_turns() -> None:
    said = [
        delta(1, "text", text="Tw"),
        delta(0, "text", text="On"),
        delta(1, "text", text="o."),
        delta(0, "text", text="e."),
    ]
    for begins in ([], [m.step("start", index, step={"type": "model_output"}) for index in (1, 0)]):
        reading = read(v.events(BEGIN, *begins, *said, end(text("One."), text("Two."))))
        assert (reading.items, reading.irregular) == ((Text("One."), Text("Two.")), ())


def test_the_older_events_of_contents() -> None:
    events = [
        {"event_type": f"content.{step}", "index": index, **more}
        for step, index, more in (
            ("start", 1, {"content": {"type": "text"}}),
            ("start", 0, {"content": {"type": "thought"}}),
            ("delta", 1, {"delta": {"type": "text", "text": "Hel"}}),
            ("delta", 0, {"delta": {"type": "thought_summary", "content": {"type": "text", "text": "Hm."}}}),
            ("delta", 1, {"delta": {"type": "text", "text": "lo"}}),
            ("stop", 1, {}),
            ("stop", 0, {}),
        )
    ]
    reading = read(v.events(BEGIN, *events, end()))
    assert (reading.items, reading.irregular) == ((Reasoning("Hm."), Text("Hello")), ())


def test_an_index_that_is_text_is_one_all_the_same() -> None:
    said = [delta("1", "text", text="Two."), delta("0", "text", text="One.")]
    reading = read(v.events(BEGIN, *said, end()))
    assert reading.items == (Text("One."), Text("Two."))
    assert reading.irregular == ("a step with an index that is text (2 times)",)
