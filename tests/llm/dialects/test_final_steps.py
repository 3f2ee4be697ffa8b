"""The steps of a finished interaction beside its fragments, and numbers of tokens that are text, in every dialect."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from mitmproxy_x402.llm import Reading, Reasoning, Usage
from support.vendors import more_streams as m
from support.vendors import vendor_streams as v
from support.vendors.reading import read


def calls(reading: Reading) -> list[tuple[str, str, Any]]:
    return [(one.id, one.name, one.parsed) for one in reading.tool_calls]


def differing(reading: Reading) -> list[tuple[str, str]]:
    return [(one.what, one.other) for one in reading.differing]


# A finished interaction says all of its steps again.


def interaction(*events: Any, steps: Any = None, status: str = "completed") -> Reading:
    begun = {"id": "i", "object": "interaction", "model": "g", "status": "in_progress"}
    ended = {**begun, "status": status, **({} if steps is None else {"steps": steps})}
    return read(v.events(
        {"event_type": "interaction.created", "interaction": begun}, *events,
        {"event_type": "interaction.completed", "interaction": ended},
    ))  # fmt: skip


def started(number: int, **step: Any) -> list[dict[str, Any]]:
    return [
        {"event_type": "step.start", "index": number, "step": step},
        {"event_type": "step.stop", "index": number},
    ]


SPOKEN = [
    {"event_type": "step.start", "index": 0, "step": {"type": "model_output"}},
    *({"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": text}} for text in ("he", "llo")),
    {"event_type": "step.stop", "index": 0},
]
WHOLE = {"type": "model_output", "content": [{"type": "text", "text": "hello"}]}
ASKED = {"type": "user_input", "content": [{"type": "text", "text": "?"}]}
CALLED = {"type": "function_call", "id": "c", "name": "f", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    "steps",
    [
        None, [], [WHOLE], [ASKED, WHOLE],
        [{"type": "model_output", "content": [{"type": "text", "text": text} for text in ("hel", "lo")]}],
    ],
)  # fmt: skip
def test_steps_that_are_said_again_are_shown_once(steps: Any) -> None:
    reading = interaction(*SPOKEN, steps=steps)
    assert (reading.text, reading.irregular, differing(reading)) == ("hello", (), [])


def test_steps_that_differ_are_shown_and_said() -> None:
    other = json.loads(json.dumps(WHOLE).replace("hello", "hello!"))
    late = {**CALLED, "id": "d", "name": "g"}
    thought = {"type": "thought", "summary": [{"type": "text", "text": "Hm."}], "signature": "S"}
    events = (*SPOKEN, *started(1, **CALLED))
    reading = interaction(*events, steps=[thought, other, {**CALLED, "arguments": {"a": 2}}, late])
    assert calls(reading) == [("c", "f", {"a": 1}), ("d", "g", {"a": 1})]
    assert [(one.text, one.signature) for one in reading.items if isinstance(one, Reasoning)] == [("Hm.", "S")]
    assert differing(reading) == [("text", "hello!"), ("call of f, id c", '{"a":2}')]
    assert len(reading.irregular) == 2


def test_calls_that_a_finished_interaction_lacks_are_said() -> None:
    events = (*SPOKEN, *started(1, **CALLED), *started(2, **{**CALLED, "id": "d"}))
    reading = interaction(*events, steps=[WHOLE, CALLED])
    assert [one[0] for one in calls(reading)] == ["c", "d"]
    assert reading.irregular == ("the whole at the end has fewer tool calls than its fragments, which are shown",)
    renamed = interaction(*SPOKEN, *started(1, **CALLED), steps=[WHOLE, {**CALLED, "name": "g"}])
    assert renamed.irregular == ('the name of a tool call changes from "f" to "g"',)


def test_an_interaction_that_was_resumed_is_shown_from_its_begin() -> None:
    ended = {"id": "i", "object": "interaction", "model": "g", "status": "completed", "steps": [CALLED, WHOLE]}
    reading = read(v.events(*SPOKEN[2:], {"event_type": "interaction.completed", "interaction": ended}))
    assert (reading.text, calls(reading), reading.irregular) == ("hello", [("c", "f", {"a": 1})], ())


# Numbers of tokens that are text, which SDKs in Python read.

_COUNT = re.compile(rb'("[A-Za-z_-]*(?:tokens|Tokens|Count|_count)": ?)([0-9]+)(?:\.0)?(?=[,}])')
STREAMS = {
    **m.every_stream(),
    **{f"{name} {key}": body for name in ("CHAT", "MESSAGES", "RESPONSES") for key, body in getattr(v, name).items()},
    **{f"GEMINI {key}": v.events(*values) for key, values in v.GEMINI.items()},
}
COUNTED = [name for name, body in STREAMS.items() if body[:1] != b"\0" and _COUNT.search(body)]


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("form", [rb'\1"\2"', rb'\1"\2.0"', rb"\1\2.0"])
def test_numbers_of_tokens_that_are_text_are_read(name: str, form: bytes) -> None:
    body = STREAMS[name]
    before, after = read(body), read(_COUNT.sub(form, body))
    assert (before.usage, before.usage == Usage()) == (after.usage, False)


def test_numbers_of_tokens_of_converse_that_are_text_are_read() -> None:
    text = json.loads(json.dumps(m.CONVERSE_WHOLE))
    text["usage"] = {key: str(number) for key, number in text["usage"].items()}
    reading, before = (read(json.dumps(one).encode()) for one in (text, m.CONVERSE_WHOLE))
    assert reading.usage == before.usage
    assert all(one.startswith("a number of tokens that is text") for one in reading.irregular)
    assert reading.irregular
