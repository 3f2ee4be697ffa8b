"""Calls held against the tools that the request declares."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest

from mitmproxy_x402.llm import Reading, ToolCall, answer_text, checked, read_request
from mitmproxy_x402.llm.checking import calls as checking
from mitmproxy_x402.llm.checking.schemas import MAX_MISFITS

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["C", "K"]},
        "a/b": {
            "type": "array",
            "items": {"type": "object", "required": ["x"], "properties": {"x": {"type": "number"}}},
        },
        "either": {"anyOf": [{"type": "integer"}, {"type": "object", "required": ["y"]}]},
    },
    "required": ["city"],
    "additionalProperties": False,
}


def request(*tools: Any, path: str = "/v1/messages", **more: Any) -> Any:
    found = read_request(path, "application/json", json.dumps({"messages": [], "tools": tools, **more}).encode())
    assert found is not None
    return found


def of(arguments: Any, name: str = "weather", kind: str = "function") -> Reading:
    return Reading("openai-chat", items=(ToolCall("c", name, json.dumps(arguments), arguments, kind=kind),))


def misfits(arguments: Any, schema: Any = SCHEMA, name: str = "weather") -> list[tuple[str, str]]:
    asked = request({"name": "weather", "input_schema": schema})
    return [(one.pointer, one.problem) for one in checked(of(arguments, name), asked).misfits]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"city": "Bern", "days": 3, "unit": "C", "a/b": [{"x": 1.5}], "either": {"y": 1}}, []),
        ({}, [("/city", "is missing")]),
        ({"city": 5}, [("/city", "is 5 (a number), and must be string")]),
        ({"city": None}, [("/city", "is null, and must be string")]),
        ({"city": "x", "days": "3"}, [("/days", 'is "3" (text), and must be integer')]),
        ({"city": "x", "unit": "F"}, [("/unit", 'is "F" (text), and must be "C" or "K"')]),
        ({"city": "x", "a/b": [{}, {"x": True}]}, [
            ("/a~1b/0/x", "is missing"), ("/a~1b/1/x", "is true (true or false), and must be number")]),
        ({"city": "x", "dais": 1}, [("/dais", 'is not declared; is it "days"?')]),
        ({"city": "x", "zzz": 1}, [("/zzz", "is not declared: there are city, days, unit, a/b, either")]),
        ({"city": "x", "either": {}}, [("/either", "fits none of its alternatives"), ("/either/y", "is missing")]),
        ([], [("", "is a list, and must be object")]),
    ],
)  # fmt: skip
def test_what_does_not_fit(arguments: Any, found: list[tuple[str, str]]) -> None:
    assert misfits(arguments) == found


def test_gemini_s_schemas_have_their_types_in_capitals() -> None:
    schema = {"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": True}}, "required": ["a"]}
    body = json.dumps({"contents": [], "tools": [{"functionDeclarations": [{"name": "f", "parameters": schema}]}]})
    asked = read_request("/m:generateContent", "application/json", body.encode())
    assert checked(of({"a": None}, "f"), asked).misfits == ()
    assert [one.pointer for one in checked(of({"a": 1}, "f"), asked).misfits] == ["/a"]
    numbered = {"type_": 6, "properties": {"a": {"type": 1}}, "required": ["a"]}
    assert misfits({"a": "x"}, numbered) == []
    assert misfits({"a": 5}, numbered) == [("/a", "is 5 (a number), and must be string")]


def test_an_unknown_tool() -> None:
    assert misfits({}, name="wether") == [("", 'the request declares no such tool; is it "weather"?')]
    assert misfits({}, name="xyz") == [("", "the request declares no such tool: it has weather")]


def test_a_call_where_the_request_says_that_there_are_no_tools() -> None:
    (misfit,) = checked(of({}), request()).misfits
    assert misfit.problem == "the request declares no tools at all"
    assert checked(of({}, kind="web_search"), request()).misfits == ()


@pytest.mark.parametrize(
    ("pattern", "text", "why"),
    [
        ("(a+)+$", "aaa", "is not tried since it could take long"),
        ("a*a*a*a*$", "a" * 900, "is not tried on 900 characters, since that could take long"),
        ("^[a-z]+$", "ä", "is not tried on text with line ends, or beyond ASCII"),
    ],
)
def test_a_pattern_that_is_not_tried_is_named(pattern: str, text: str, why: str) -> None:
    asked = request({"name": "weather", "input_schema": {"properties": {"a": {"pattern": pattern}}}})
    reading = checked(of({"a": text}), asked)
    assert reading.misfits == ()
    (said,) = reading.unchecked
    assert said.startswith(f"weather: the pattern {pattern} {why}")
    assert said in answer_text(reading)


def test_a_keyword_that_binds_and_is_not_checked_is_named() -> None:
    schema = {"allOf": [{"properties": {"a": {"format": "date"}}}], "unevaluatedProperties": False}
    reading = checked(of({"a": "x", "b": 1}), request({"name": "weather", "input_schema": schema}))
    assert (reading.misfits, reading.unchecked) == (
        (),
        ("weather: unevaluatedProperties of its schema is not checked",),
    )


def test_arguments_that_are_too_long_to_be_checked_are_named() -> None:
    reading = checked(of({"city": "x" * 300_000}), request({"name": "weather", "input_schema": SCHEMA}))
    assert reading.unchecked == ("weather: its arguments have more than 262,144 characters",)


def test_without_the_package_that_checks_nothing_is_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "referencing", None)  # as where only recordings are read
    reading = checked(of({"city": 5}), request({"name": "weather", "input_schema": SCHEMA}))
    assert (reading.misfits, reading.unchecked) == ((), ("weather: the package referencing is not installed",))


@pytest.mark.parametrize(
    "asked",
    [
        None,
        read_request("/v1/messages", "application/json", b'{"messages": []}'),
        request(path="/v1/responses", input="x", previous_response_id="r"),
        request(path="/v1/responses", prompt={"id": "p"}),
        request({"type": "web_search_20250305", "name": "web_search"}),
    ],
)
def test_nothing_is_said_where_the_tools_are_not_known(asked: Any) -> None:
    assert checked(of({}), asked).misfits == ()


def test_calls_of_the_vendor_s_own_tools_are_left_alone() -> None:
    assert checked(of({}, "web_search", "server_tool_use"), request()).misfits == ()


def test_arguments_that_are_no_json_have_been_told_already() -> None:
    broken = Reading("openai-chat", items=(ToolCall("c", "weather", '{"a', None),))
    assert checked(broken, request({"name": "weather", "input_schema": SCHEMA})).misfits == ()


def test_it_reads_like_this() -> None:
    asked = request({"name": "weather", "input_schema": SCHEMA})
    text = answer_text(checked(of({"citi": "Bern"}), asked))
    assert text.endswith("""
does not fit the tools of the request:
  - tool call 1, weather:  /city  is missing
  - tool call 1, weather:  /citi  is not declared; is it "city"?
""")


DEEP = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(60)} | {"a60": {"type": "object"}}


SLOW = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "(a+)+$"}
"""A schema that declares a draft, and a pattern that takes for ever."""


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, ""),
        ({"patternProperties": {"(a+)+$": {}}, "additionalProperties": False}, ""),
        ({"propertyNames": {"pattern": "(a+)+$"}}, ""),
        ({"$defs": DEEP, "$ref": "#/$defs/a0"}, ""),
        ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, ""),
        ({"exclusiveMinimum": True, "minimum": "x"}, ""),
        ({"items": [1, 2], "$schema": "http://json-schema.org/draft-04/schema#"}, ""),
        (False, "False schema does not allow"),
        (True, ""),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": SLOW}}, ""),
        ({"properties": {"a": SLOW}}, ""),
        ({"oneOf": [{}, {"properties": {"a": SLOW}}]}, ""),
    ],
)
def test_hostile_schemas_do_no_harm(schema: Any, said: str) -> None:
    begun = time.process_time()
    found = misfits({"a": "a" * 50 + "!", "a" * 50 + "!": 1}, schema)
    assert time.process_time() - begun < 10  # what is not bounded here takes for ever
    assert said in "".join(problem for _, problem in found)
    assert bool(found) == bool(said)
    assert "\x1b" not in str(found)


@pytest.mark.parametrize(
    ("schema", "arguments", "why"),
    [
        ({"$defs": DEEP, "$ref": "#/$defs/a0"}, {}, "too much for its schema to be checked"),
        ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, {}, "leads to itself"),
        (
            {"properties": {"a": {"items": {"type": "object", "required": ["b"]}}}},
            {"a": [{"b": 1}] * 8000},
            "too much for its schema to be checked",
        ),
    ],
)
def test_what_takes_too_long_is_not_called_wrong(schema: Any, arguments: Any, why: str) -> None:
    call = ToolCall("c", "weather", json.dumps(arguments), arguments)
    found = checked(Reading("openai-chat", items=(call,)), request({"name": "weather", "input_schema": schema}))
    assert not found.misfits
    assert any(why in one for one in found.unchecked)


def test_the_list_is_bounded() -> None:
    found = misfits({"city": "x", **{f"k{n}": n for n in range(500)}})
    assert (len(found), found[-1]) == (MAX_MISFITS + 1, ("", "and more"))
    schema = {"properties": {f"k{n}": {"type": "string"} for n in range(500)}}
    found = misfits({f"k{n}": n for n in range(500)}, schema)
    assert (len(found), found[-1]) == (MAX_MISFITS + 1, ("", "and more"))


def test_the_checks_of_all_calls_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: how often a schema is brought into JSON Schema's words, and which calls are checked."""
    made: list[Any] = []
    monkeypatch.setattr(checking, "plain_schema", lambda schema: (made.append(schema), schema)[1])
    asked = request({"name": "weather", "input_schema": {"allOf": [{"type": "object"}] * 1000}})
    calls = tuple(ToolCall(f"c{number}", "weather", "{}", {}) for number in range(5000))
    found = checked(Reading("openai-chat", items=calls), asked)
    assert len(made) == 1
    last = found.unchecked[-1]
    assert "and those after it: it is too much" in last
    number = int(last.partition("tool call ")[2].split()[0])
    assert (number - 2) * 1000 <= checking.MAX_ALL_STEPS  # the call before it was the last that was checked
    assert not found.misfits
    other = checked(Reading("openai-chat", items=tuple(ToolCall("c", "other", "{}", {}) for _ in calls)), asked).misfits
    assert len(other) <= checking.MAX_ALL_MISFITS + 2


def one(value: Any, schema: Any, **more: Any) -> list[tuple[str, str]]:
    return misfits({"a": value}, {"type": "object", "properties": {"a": schema}, **more})


@pytest.mark.parametrize(
    ("value", "multiple", "fits"),
    [
        (0.3, 0.1, True), (19.99, 0.01, True), (0.07, 0.01, True), (1e300, 0.01, True), (3, 1.5, True),
        (10**30, 10, True), (0.35, 0.1, False), (5, 2, False), (5, 0, True),
        (5, -1, True), (True, 2, True), ("5", 2, True),
    ],
)  # fmt: skip
def test_multiples_are_those_of_decimal_numbers(value: Any, multiple: Any, fits: bool) -> None:
    assert (one(value, {"multipleOf": multiple}) == []) is fits


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("^a+$", "aaa", True), ("^a+$", "ab", False), (r"^\d{4}-\d{2}-\d{2}$", "2026-11-28", True),
        (r"^\d{4}-\d{2}-\d{2}$", "2026-11", False), ("^(cat|dog)$", "cow", False), ("^(?:cat|dog)s?$", "dogs", True),
        ("[+*?{]", "a", False), (r"\{\}", "{}", True), (r"^[^@ ]+@[^@ ]+$", "nobody", False),
        # What is not checked is not told.
        ("^(a+)+$", "b", True), ("^a+$", "\u00e9", True), ("^a$", "a\n", True), ("(", "b", True), (r"(a)\1", "b", True),
        (r"^\p{L}+$", "1", True), ("(?=a)b", "b", True), ("a*" * 20 + "b", "a" * 5000, True), (7, "x", True),
    ],
)  # fmt: skip
def test_patterns_that_cannot_take_long_are_checked(pattern: Any, text: str, fits: bool) -> None:
    begun = time.process_time()
    assert one(text, {"type": "string", "pattern": pattern}) == (
        [] if fits else [("/a", f"is {json.dumps(text)} (text), and must match {pattern}")]
    )
    assert time.process_time() - begun < 10


def test_names_by_patterns() -> None:
    schema = {"patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    assert misfits({"x_1": 1, "y": "s"}, schema) == []
    assert misfits({"x_1": "a", "y": 2}, schema) == [
        ("/x_1", 'is "a" (text), and must be integer'),
        ("/y", "is 2 (a number), and must be string"),
    ]
    assert misfits({"x_1": 1, "y": 1}, {**schema, "additionalProperties": False}) == [("/y", "is not declared")]
    slow = {"patternProperties": {"^(x+)+_": {"type": "integer"}}, "additionalProperties": False}
    assert misfits({"x_1": "a", "y": 1}, slow) == []


@pytest.mark.parametrize("key", ["oneOf", "anyOf"])
@pytest.mark.parametrize("turned", [False, True])
def test_of_alternatives_the_one_that_is_meant_is_told(key: str, turned: bool) -> None:
    first = {"type": "object", "properties": {"k": {"const": "a"}, "w": {"type": "string"}}, "required": ["k", "w"]}
    other = {"type": "object", "properties": {"k": {"const": "b"}, "v": {"type": "integer"}}, "required": ["k", "v"]}
    found = misfits({"k": "b", "v": "x"}, {key: [other, first] if turned else [first, other]})
    assert found == [("", "fits none of its alternatives"), ("/v", 'is "x" (text), and must be integer')]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "http://127.0.0.1:9/x"}, "its schema refers to http://127.0.0.1:9/x, which is not fetched"),
        ({"$ref": "#/components/schemas/A"}, "its schema refers to #/components/schemas/A, which is not in it"),
        ({"$ref": 5}, "its schema cannot be used: its $ref is 5 (a number)"),
        ({"type": 99}, "its schema cannot be used: its type is 99 (a number)"),
        ({"type": "\x1b[2J"}, 'its schema cannot be used: its type is "\\u001b[2j" (text)'),
        ({"properties": 7}, "its schema cannot be used: its properties is 7 (a number)"),
        ({"required": 7}, "its schema cannot be used: its required is 7 (a number)"),
        ({"minProperties": "many"}, 'its schema cannot be used: its minProperties is "many" (text)'),
        ({"anyOf": [{"type": "integer"}, {"$ref": "b"}]}, "its schema refers to b, which is not in it"),
        ({"oneOf": [{}, {"$ref": "b"}]}, "its schema refers to b, which is not in it"),
        ({"not": {"$ref": "b"}}, "its schema refers to b, which is not in it"),
        ({"properties": {"a": 5}}, "its schema cannot be used: 5 (a number) stands where a schema should"),
        ({"properties": {"a": {"minimum": "x"}}}, 'its schema cannot be used: its minimum is "x" (text)'),
        ({"properties": {"a": {"exclusiveMaximum": []}}}, "its schema cannot be used: its exclusiveMaximum is a list"),
    ],
)
def test_what_of_a_schema_cannot_be_used_is_no_fault_of_the_call_s(schema: Any, why: str) -> None:
    asked = request({"name": "weather", "input_schema": {**schema, "allOf": [{"required": ["b"]}]}})
    found = checked(of({"a": 1}), asked)
    assert found.unchecked == (f"weather: {why}",)
    assert [(one.pointer, one.problem) for one in found.misfits] == [("/b", "is missing")]  # the rest is checked


def test_what_is_no_schema_at_all_allows_everything() -> None:
    found = checked(of({"a": 1}), request({"name": "weather", "input_schema": 5}))
    assert found.misfits == ()
    assert found.unchecked == ("weather: its schema cannot be used: 5 (a number) stands where a schema should",)


def test_numbers_of_a_schema_may_be_text() -> None:
    assert one([], {"minItems": "1"}) == [("/a", "[] should be non-empty")]
    assert one([1], {"minItems": "1"}) == []


@pytest.mark.parametrize(
    "draft", [None, "http://json-schema.org/draft-07/schema#", "http://json-schema.org/draft-04/schema#"]
)
def test_lists_of_the_older_drafts(draft: str | None) -> None:
    more = {"$schema": draft} if draft else {}
    schema = {"items": [{"type": "integer"}, {"type": "integer"}], "additionalItems": {"type": "string"}}
    assert one([1, 2, "x"], schema, **more) == []
    assert one([1, "x", 3], schema, **more) == [
        ("/a/1", 'is "x" (text), and must be integer'),
        ("/a/2", "is 3 (a number), and must be string"),
    ]


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "f", "parameters": PARAMETERS}


@pytest.mark.parametrize("turns", [{}, {"messages": []}])
@pytest.mark.parametrize(
    ("path", "tools"),
    [
        ("/api/chat", {"tools": [{"type": "function", "function": FUNCTION}]}),
        (
            "/model/m/converse",
            {"toolConfig": {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": PARAMETERS}}}]}},
        ),
        ("/v1/chat/completions", {"functions": [FUNCTION]}),
    ],
)
def test_tools_are_found_wherever_a_dialect_has_them(path: str, tools: Any, turns: Any) -> None:
    asked = read_request(path, "application/json", json.dumps({**turns, **tools}).encode())
    assert asked is not None
    assert [one.pointer for one in checked(of({}, "f"), asked).misfits] == ["/city"]


def test_cohere_s_first_version_has_python_s_types() -> None:
    parameters = {"city": {"type": "str", "required": True}, "n": {"type": "int"}, "l": {"type": "List[str]"}, "z": {}}
    body = {"message": "x", "tools": [{"name": "f", "parameter_definitions": parameters}]}
    asked = read_request("/v1/chat", "application/json", json.dumps(body).encode())
    assert asked is not None
    assert checked(of({"city": "x", "n": 1, "l": [], "z": None}, "f"), asked).misfits == ()
    found = checked(of({"n": "x", "l": {}}, "f"), asked).misfits
    assert sorted(one.pointer for one in found) == ["/city", "/l", "/n"]


def test_a_number_beyond_any_float_is_called_one() -> None:
    arguments = '{"city": 1e400}'
    call = ToolCall("c", "weather", arguments, json.loads(arguments))
    asked = request({"name": "weather", "input_schema": {"properties": {"city": {"type": "integer"}}}})
    (misfit,) = checked(Reading("openai-chat", items=(call,)), asked).misfits
    assert "a number beyond what computers count with" in misfit.problem


@pytest.mark.parametrize(
    ("schema", "arguments", "pointer"),
    [
        ({"properties": {"b": False}}, {"b": 1}, "/b"),
        ({"properties": {"c": {"properties": {"b": False}}}}, {"c": {"b": 1}}, "/c/b"),
        ({"properties": {"b": {"prefixItems": [True, False]}}}, {"b": [2, 1]}, "/b/1"),
        ({"properties": {"b": {"anyOf": [False, {"type": "string"}]}}}, {"b": 1}, "/b"),
        ({"patternProperties": {"^b": False}}, {"b": 1}, "/b"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"b": False}}, {"b": 1}, "/b"),
    ],
)
def test_what_a_schema_allows_nowhere_is_pointed_at(schema: Any, arguments: Any, pointer: str) -> None:
    (*_, found) = misfits(arguments, schema)
    assert found == (pointer, "is 1 (a number), and its schema is false, which allows nothing")
