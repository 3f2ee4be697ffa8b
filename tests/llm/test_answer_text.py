"""Answers as a person reads them, and two of them compared by meaning."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mitmproxy_x402.llm import (
    Other,
    Reading,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Usage,
    answer_text,
    differences,
    read_answer,
)
from support.vendors import vendor_streams as v


def reading(body: bytes) -> Reading:
    found = read_answer("text/event-stream", body)
    assert found is not None
    return found


def test_an_answer_reads_like_this() -> None:
    text = answer_text(reading(v.MESSAGES["thinking and a tool"]))
    assert (
        text
        == """\
model  claude-opus-4-6   finished: tool_use   tokens: 812 (in 700, cached 640, out 112, reasoning 64)

reasoning  signed, 4 characters
  Hm, 日本

text
  Let me look.

tool call 1: weather  id toolu_1
  {
    "city": "Zürich"
  }
"""
    )


def test_choices_and_what_is_odd_read_like_this() -> None:
    body = v.chat(
        v.chunk({"content": "Two\nlines"}),
        v.chunk(v.call(1, "{oops", "call_1", "a"), index=1),
        v.chunk({}, "stop"),
        v.chunk({}, "tool_calls", index=1),
    )
    assert (
        answer_text(reading(body))
        == """\
model  gpt-5-mini   finished: stop, tool_calls

choice 1, text
  Two
  lines

choice 2, tool call 1: a  id call_1
  {oops
   ^ Expecting property name enclosed in double quotes  (event 2)

irregular:
  - the index of a tool call jumps to 1, after 0 calls
  - tool call 1: its arguments are not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)
"""
    )


def test_a_failure_reads_like_this() -> None:
    assert (
        answer_text(reading(v.MESSAGES_ERROR))
        == """\
model  claude-opus-4-6   failed   tokens: 61 (in 60, out 1)
error  overloaded_error: Overloaded

text
  so f
"""
    )


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (Reading("unknown"), "model  not said   not finished\n"),
        (Reading("gemini", "m", stop_reason="STOP"), "model  m   not finished: STOP\n"),
        (Reading("gemini", "m", usage=Usage(input=1234)), "model  m   not finished   tokens: in 1,234\n"),
        (Reading("gemini", "m", usage=Usage(0, 0, 0, 0, 0)), "model  m   not finished   tokens: 0 (in 0, out 0)\n"),
        (Reading("gemini", "m", complete=True, items=(Refusal("No."),)), "model  m   finished\n\nrefusal\n  No.\n"),
        (
            Reading("gemini", "m", complete=True, items=(Reasoning("", signature="x" * 1200),)),
            "model  m   finished\n\nreasoning  encrypted, 1,200 characters\n",
        ),
        (
            Reading("gemini", "m", complete=True, items=(ToolCall("", "", "a\nb", kind="custom"),)),
            "model  m   finished\n\ntool call 1: (no name)  (custom)\n  a\n  b\n",
        ),
        (
            Reading("gemini", "m", complete=True, items=(ToolCall("1", "f", '{"a":1,"a":2}', {"a": 2}),)),
            'model  m   finished\n\ntool call 1: f  id 1\n  {"a":1,"a":2}\n',
        ),
        (
            Reading("gemini", "m", complete=True, items=(Other("picture", {"data": "x" * 5000}),)),
            'model  m   finished\n\nother: picture\n  {\n    "data": "' + "x" * 40 + '… (5,000 characters)"\n  }\n',
        ),
    ],
)
def test_the_parts_read_like_this(given: Reading, wanted: str) -> None:
    assert answer_text(given) == wanted


HOSTILE = "a\x1b[2J\x07\r\x9bb\x7f\u202ec\u2066\u200e\ufeff\ud800\U000e0041z\x00\u2028"
HARMLESS = "a\\u001b[2J\\u0007\\r\\u009bb\\u007f\\u202ec\\u2066\\u200e\\ufeff\\ud800\\U000e0041z\\u0000\\u2028"


@pytest.mark.parametrize(
    "given",
    [
        Reading("gemini", HOSTILE),
        Reading("gemini", stop_reason=HOSTILE),
        Reading("gemini", items=(Text(HOSTILE),)),
        Reading("gemini", items=(Reasoning(HOSTILE),)),
        Reading("gemini", items=(Refusal(HOSTILE),)),
        Reading("gemini", items=(ToolCall(HOSTILE, "x", "{}"),)),
        Reading("gemini", items=(ToolCall("x", HOSTILE, "{}"),)),
        Reading("gemini", items=(ToolCall("x", "x", HOSTILE),)),
        Reading("gemini", items=(ToolCall("x", "x", "{}", kind=HOSTILE),)),
        Reading("gemini", items=(Other(HOSTILE, 1),)),
        Reading("gemini", error=HOSTILE),
        Reading("gemini", irregular=(HOSTILE,)),
    ],
)
def test_nothing_in_it_reaches_a_terminal(given: Reading) -> None:
    text = answer_text(given)
    assert HARMLESS in text
    text.encode()


def test_json_in_it_stays_json() -> None:
    value = {"ü\x1b": "日本\u202e\x9b\n\t🦀"}
    text = answer_text(Reading("gemini", items=(ToolCall("x", "x", json.dumps(value)), Other("o", value))))
    first, _, second = text.partition("other: o")
    assert '"ü\\u001b": "日本\\u202e\\u009b\\n\\t🦀"' in first
    assert json.loads(first[first.index("{") :]) == value
    assert json.loads(second) == value


def test_a_model_cannot_write_our_lines() -> None:
    """What stands at the margin is ours, whatever it says."""
    text = answer_text(Reading("gemini", items=(Text("x\ntool call 1: rm\rirregular:\nmodel  y"),)))
    ours = [line for line in text.split("\n") if line and not line.startswith("  ")]
    assert ours == ["model  not said   not finished", "text"]
    heading = answer_text(Reading("gemini", items=(ToolCall("i\nj", "n\nirregular:", "{}"),)))
    assert "tool call 1: n\\nirregular:  id i\\nj\n" in heading


# Differences.

BASE = Reading(
    "openai-chat",
    "gpt-5",
    "chatcmpl-1",
    (Reasoning("Hm", signature="S"), Text("The weather in Zürich is fine."), ToolCall("c1", "f", '{"a": 1}', {"a": 1})),
    Usage(1, 2, 0, 0, 3),
    "stop",
    events=7,
    complete=True,
)


def changed(**fields: Any) -> Reading:
    return dataclasses.replace(BASE, **fields)


def with_item(number: int, item: Any) -> Reading:
    return changed(items=(*BASE.items[:number], item, *BASE.items[number + 1 :]))


@pytest.mark.parametrize(
    "other",
    [
        BASE,
        changed(id="chatcmpl-2", events=99),
        changed(irregular=("an event called x",)),
        with_item(0, Reasoning("Hm", signature="T")),
        with_item(2, ToolCall("c2", "f", '{ "a":1.0 }', {"a": 1.0})),
        changed(items=(BASE.items[0], Text("The weather in "), Text("Zürich is fine."), BASE.items[2])),
        changed(items=(BASE.items[0], Text(""), *BASE.items[1:])),
    ],
)
def test_what_is_no_difference(other: Reading) -> None:
    assert differences(BASE, other) == []
    assert differences(other, BASE) == []


CALL = ToolCall("c1", "f", "", {"a": [1, {"b": "Bern, Switzerland"}], "c": True, "d": None, "id": 1})


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (changed(model="gpt-6"), ['model: "gpt-5" / "gpt-6"']),
        (changed(stop_reason=None), ['stop_reason: "stop" / none']),
        (changed(complete=False), ["complete: true / false"]),
        (changed(error="x: y"), ['error: none / "x: y"']),
        (changed(dialect="gemini"), ['dialect: "openai-chat" / "gemini"']),
        (changed(usage=Usage(1, 3, 0, 0, 4)), ["output tokens: 2 / 3", "total tokens: 3 / 4"]),
        (changed(usage=Usage()), [f"{n} tokens: {c} / none" for n, c in
                                  (("input", 1), ("output", 2), ("reasoning", 0), ("cached", 0), ("total", 3))]),
        (with_item(1, Text("The weather in Bern is fine.")),
         ['text: from character 16 on: "The weather in Zürich is fine." / "The weather in Bern is fine."']),
        (with_item(1, Text("The weather in Zürich is fine. It is warm, and will be so for all of the week.")),
         ['text: from character 31 on: …"r in Zürich is fine." / …"r in Zürich is fine. It is warm, and wil"…']),
        (with_item(2, ToolCall("c1", "f", '{"a": 2}', {"a": 2})), ["tool call 1: arguments.a: 1 / 2"]),
        (with_item(2, ToolCall("c1", "f", '{"a": true}', {"a": True})), ["tool call 1: arguments.a: 1 / true"]),
        (with_item(2, ToolCall("c1", "g", '{"a": 1}', {"a": 1})), ['tool call 1: name: "f" / "g"']),
        (with_item(2, ToolCall("c1", "f", '{"a": 1', None)),
         ['tool call 1: arguments: from character 8 on: "{\\"a\\": 1}" / "{\\"a\\": 1"']),
        (changed(items=BASE.items[:2]), ['tool call 1: only in the first: f {"a": 1}']),
        (changed(items=(*BASE.items, ToolCall("c3", "g", "{}", {}))), ["tool call 2: only in the second: g {}"]),
        (changed(items=BASE.items[1:]), ['reasoning: only in the first: "Hm"']),
        (changed(items=(BASE.items[0], BASE.items[2], BASE.items[1])),
         ["order of the parts: Reasoning, Text, call of f / Reasoning, call of f, Text"]),
        (changed(items=(*BASE.items, Text("No", 1))), ['choice 2, text: only in the second: "No"']),
        (changed(items=(*BASE.items, Refusal("No"))), ['refusal: only in the second: "No"']),
    ],
)  # fmt: skip
def test_what_is_a_difference(other: Reading, found: list[str]) -> None:
    assert differences(BASE, other) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": [1, {"b": "Bern, Switzerland"}], "c": True, "d": None, "id": 2}, ["arguments.id: 1 / 2"]),
        ({"a": [1, {"b": "Basel, Switzerland"}], "c": True, "d": None, "id": 1},
         ['arguments.a[1].b: from character 2 on: "Bern, Switzerland" / "Basel, Switzerland"']),
        ({"a": [1], "c": 1, "d": 0, "id": 1},
         ["arguments.a: 2 elements / 1 elements", "arguments.c: true / 1", "arguments.d: none / 0"]),
        ({"a": {}, "c": True, "id": 1, "e\n": 1},
         ['arguments.a: [1,{"b":"Bern, Switzerland"}] / {}', "arguments.d: only in the first",
          "arguments.e\\n: only in the second"]),
    ],
)  # fmt: skip
def test_arguments_are_compared_as_values(value: Any, found: list[str]) -> None:
    one, other = (Reading("gemini", items=(dataclasses.replace(CALL, parsed=it),)) for it in (CALL.parsed, value))
    assert differences(one, other) == [f"tool call 1: {text}" for text in found]


def test_other_parts_are_compared_without_their_ids() -> None:
    def of(**value: Any) -> Reading:
        return Reading("gemini", items=(Other("web_search_call", value),))

    one = of(id="ws_1", action={"query": "x", "encrypted_content": "a"})
    assert differences(one, of(id="ws_2", action={"query": "x", "encrypted_content": "b"})) == []
    assert differences(one, of(id="ws_2", action={"query": "y"})) == [
        'other part.value.action.query: from character 1 on: "x" / "y"'
    ]


def test_the_list_is_bounded_and_fit_for_a_terminal() -> None:
    many = {str(number): HOSTILE for number in range(500)}
    one, other = (Reading("gemini", items=(ToolCall("", "f", "", it),)) for it in (many, {}))
    found = differences(one, other)
    assert (len(found), found[-1]) == (101, "and more")
    hostile = differences(Reading("gemini", HOSTILE, error=HOSTILE), Reading("gemini"))
    assert "\x1b" not in "".join(hostile)
    "".join(hostile).encode()


@pytest.mark.parametrize("name", v.GEMINI)
def test_the_same_answer_in_another_form_is_no_difference(name: str) -> None:
    streamed, array = reading(v.events(*v.GEMINI[name])), read_answer("application/json", v.array(v.GEMINI[name]))
    assert array is not None
    assert differences(streamed, array) == []


B64 = "iVBORw0KGgo" * 20


@pytest.mark.parametrize(
    ("kind", "value", "lines"),
    [
        ("inlineData", {"mimeType": "image/png", "data": B64}, ["[image, image/png, 165 bytes]"]),
        ("image_url", {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{B64}"}},
         ["[image, image/png, 165 bytes]"]),
        ("image", {"format": "png", "source": {"bytes": B64}}, ["[image, png, 165 bytes]"]),
        ("image", {"type": "image", "mime_type": "image/png", "uri": "gs://a/b.png"},
         ["[image, image/png, gs://a/b.png]"]),
        ("image_generation_call", {"type": "image_generation_call", "id": "x", "status": "completed", "result": B64,
                                   "output_format": "png", "revised_prompt": "a cat"},
         ["[image, png, 165 bytes]", "{", '  "revised_prompt": "a cat"', "}"]),
        ("audio", {"text": "Hello", "characters_left_out": 400}, ["[audio, 300 bytes]  Hello"]),
        ("web_search_tool_result", {"type": "web_search_tool_result", "tool_use_id": "t", "content": [
            {"type": "web_search_result", "url": "https://x.example", "title": "A\x1b page"}]},
         ["A\\u001b page  https://x.example"]),
        ("codeExecutionResult", {"outcome": "OK", "output": "1\n2\n"},
         ["{", '  "outcome": "OK",', '  "output": "(3 lines, below)"', "}", "output:", "  1", "  2"]),
        ("odd", {"data": "short"}, ["{", '  "data": "short"', "}"]),
        ("odd", None, ["null"]),
        ("odd", [5], ["[", "  5", "]"]),
    ],
)  # fmt: skip
def test_other_parts_read_like_this(kind: str, value: Any, lines: list[str]) -> None:
    text = answer_text(Reading("gemini", items=(Other(kind, value),)))
    assert text.split("\n")[3:-1] == [f"  {one}" for one in lines]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ('{"a": x}', ['  {"a": x}', "        ^ Expecting value  (event 1)"]),
        ('{"日本": x}', ['  {"日本": x}', "           ^ Expecting value  (event 1)"]),
        ('{"a": [1,', ['  {"a": [1,', "           ^ Expecting value  (they end here, after event 1)"]),
        ('{\n "a": x,\n "b": 1}',
         ["  {", '   "a": x,', "        ^ Expecting value  (event 1)", '   "b": 1}']),
        ('{"a": "' + "y" * 80 + '", "b": x, "c": "' + "z" * 80 + '"}', [
            '  {"a": "' + "y" * 80 + '", "b": x, "c": "' + "z" * 80 + '"}', "",
            "  …" + "y" * 26 + '", "b": x, "c": "' + "z" * 25 + "…",
            "  " + " " * 35 + "^ Expecting value  (event 1)"]),
    ],
)  # fmt: skip
def test_a_caret_stands_under_the_place_where_arguments_break(arguments: str, lines: list[str]) -> None:
    text = answer_text(reading(v.chat(v.chunk(v.call(0, arguments, "c", "f")), v.chunk({}, "tool_calls"))))
    assert text.split("\n\nirregular:")[0].split("\n")[3:] == lines
