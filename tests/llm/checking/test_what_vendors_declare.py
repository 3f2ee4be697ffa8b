"""Tools as vendors declare them: types that JSON Schema does not know, namespaces, tools that were found meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import NamespaceTool, ResponseFunctionToolCall

from mitmproxy_x402.llm import Reading, ToolCall, checked, read_answer, read_request, request_text
from mitmproxy_x402.llm.reading import Detail

TEXT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def asked(*tools: Any, **more: Any) -> Any:
    body = {"model": "m", "input": "x", "tools": list(tools), **more}
    return read_request("/v1/responses", "application/json", json.dumps(body).encode())


def function(schema: Any, name: str = "f") -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": schema}


def of(arguments: Any, name: str = "f", *further: Detail) -> Reading:
    call = ToolCall("c", name, json.dumps(arguments), arguments, further=further)
    return Reading("openai-responses", items=(call,))


def a(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}}


@pytest.mark.parametrize("kind", ["any", "Any", "TYPE_UNSPECIFIED", 0, "", None, ["any", "null"], ["string", "any"]])
@pytest.mark.parametrize("where", [lambda one: one, lambda one: {"anyOf": [one, {"type": "null"}]},
                                   lambda one: {"oneOf": [one, {"type": "integer"}]}, lambda one: {"not": one},
                                   lambda one: {"if": one, "then": {"type": "string"}}])  # fmt: skip
def test_what_means_any_type_takes_any_value(kind: Any, where: Any) -> None:
    found = checked(of({"a": 1}), asked(function(a(where({"type": kind})))))
    assert (found.misfits, found.unchecked) == ((), ())


@pytest.mark.parametrize("kind", ["float", "int", "str", "dict", "date", "file", ["int", "string"]])
def test_a_type_that_json_schema_does_not_know_is_said_to_be_unchecked(kind: Any) -> None:
    schema = {**a({"type": kind}), "required": ["b"]}
    found = checked(of({"a": 1.5}), asked(function(schema)))
    unknown = kind if isinstance(kind, str) else kind[0]
    assert found.unchecked == (f"f: the type {unknown} of its schema is none of JSON Schema's",)
    assert [(one.pointer, one.problem) for one in found.misfits] == [("/b", "is missing")]


def test_a_type_among_unknown_ones_that_fits_is_enough() -> None:
    found = checked(of({"a": "x"}), asked(function(a({"type": ["float", "string"]}))))
    assert (found.misfits, found.unchecked) == ((), ())


CRM = {"type": "namespace", "name": "crm", "description": "Customers", "tools": [function(TEXT, "get")]}
SHOP = {
    "type": "namespace",
    "name": "shop",
    "description": "Orders",
    "tools": [function(a({"type": "integer"}), "get")],
}
IN_CRM = Detail("namespace", "crm")


@pytest.mark.parametrize("name", ["get", "crm.get", "crm__get"])
def test_a_tool_in_a_namespace_is_known(name: str) -> None:
    assert checked(of({"a": "x"}, name), asked(CRM)).misfits == ()
    (misfit,) = checked(of({"a": 1}, name), asked(CRM)).misfits
    assert (misfit.pointer, misfit.problem) == ("/a", "is 1 (a number), and must be string")


def test_a_tool_that_no_namespace_has_is_not() -> None:
    (misfit,) = checked(of({}, "got"), asked(CRM)).misfits
    assert misfit.problem == "the request declares no such tool: it has crm.get"


def test_the_call_says_which_namespace_it_means() -> None:
    assert checked(of({"a": "x"}, "get", IN_CRM), asked(SHOP, CRM)).misfits == ()
    assert len(checked(of({"a": 1}, "get", IN_CRM), asked(SHOP, CRM)).misfits) == 1
    unsure = checked(of({"a": 1}, "get"), asked(SHOP, CRM))
    assert unsure.misfits == ()
    assert unsure.unchecked == ("get: 2 namespaces have such a tool, and the call does not say which it means",)


def test_the_request_s_text_lists_what_a_namespace_holds() -> None:
    text = request_text(asked(CRM))
    assert "  crm  (namespace)  Customers\n  crm.get(a: string)" in text


def test_openai_s_sdk_takes_the_same() -> None:
    tool = NamespaceTool.model_validate(CRM)
    call = ResponseFunctionToolCall.model_validate(
        {"type": "function_call", "call_id": "c", "name": "get", "namespace": "crm", "arguments": '{"a": 1}'}
    )
    response = {"object": "response", "id": "r", "status": "completed", "output": [call.to_dict()]}
    reading = read_answer("application/json", json.dumps(response).encode())
    assert reading is not None
    (misfit,) = checked(reading, asked(SHOP, tool.to_dict())).misfits
    assert (misfit.name, misfit.pointer) == ("get", "/a")


@pytest.mark.parametrize("kind", ["tool_search_output", "additional_tools"])
def test_tools_that_an_item_of_the_conversation_brings_are_known(kind: str) -> None:
    found = {"type": kind, "tools": [CRM, function(TEXT, "put")]}
    request = asked(function(TEXT), input=[{"role": "user", "content": "x"}, found])
    assert [tool.full_name for tool in request.tools] == ["f", "crm", "crm.get", "put"]
    assert checked(of({"a": "x"}, "put"), request).misfits == ()


DRAFT_4 = {"$schema": "http://json-schema.org/draft-04/schema#"}


@pytest.mark.parametrize("more", [{}, DRAFT_4, {"$schema": "http://json-schema.org/draft-07/schema#"}])
@pytest.mark.parametrize(
    ("schema", "fitting", "problem"),
    [
        ({"minimum": 0, "exclusiveMinimum": True}, 1, "0 is less than or equal to the minimum of 0"),
        ({"maximum": 0, "exclusiveMaximum": True}, -0.5, "0 is greater than or equal to the maximum of 0"),
        ({"minimum": 1, "exclusiveMinimum": False}, 1, "0 is less than the minimum of 1"),
        ({"exclusiveMinimum": 0}, 0.5, "0 is less than or equal to the minimum of 0"),
        ({"exclusiveMaximum": 0, "maximum": 5}, -1, "0 is greater than or equal to the maximum of 0"),
    ],
)
def test_bounds_in_the_spelling_of_any_draft(more: Any, schema: Any, fitting: Any, problem: str) -> None:
    request = asked(function({**a({"type": "number", **schema}), **more}))
    assert checked(of({"a": fitting}), request).misfits == ()
    (misfit,) = checked(of({"a": 0}), request).misfits
    assert (misfit.pointer, misfit.problem) == ("/a", problem)


@pytest.mark.parametrize("schema", [{"exclusiveMinimum": True}, {"exclusiveMaximum": False}])
def test_a_bound_s_strictness_without_the_bound_says_nothing(schema: Any) -> None:
    found = checked(of({"a": 0}), asked(function(a({"type": "integer", **schema}))))
    assert (found.misfits, found.unchecked) == ((), ())


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/definitions/A", "nullable": True},
        {"type": "string", "enum": ["x"], "nullable": True},
        {"anyOf": [{"type": "string"}, {"type": "integer"}], "nullable": True},
        {"allOf": [{"$ref": "#/definitions/A"}], "nullable": True},
        {"enum": ["x"], "nullable": True},
    ],
)
def test_openapi_s_nullable_takes_null_and_nothing_else(schema: Any) -> None:
    request = asked(function({**a(schema), "definitions": {"A": {"type": "string"}}}))
    assert checked(of({"a": None}), request).misfits == ()
    assert checked(of({"a": "x"}), request).misfits == ()
    assert checked(of({"a": []}), request).misfits


def test_google_s_lists_of_numbers_are_text() -> None:
    """https://cloud.google.com/vertex-ai/docs: {type: INTEGER, format: enum, enum: ["101", "201", "301"]}"""
    request = asked(function(a({"type": "INTEGER", "format": "enum", "enum": ["101", "201"]})))
    assert checked(of({"a": 101}), request).misfits == ()
    assert [one.pointer for one in checked(of({"a": 102}), request).misfits] == ["/a"]


@pytest.mark.parametrize("name", ["type_", "enum", "const", "nullable", "minItems", "default"])
def test_a_property_may_be_called_as_a_keyword_is(name: str) -> None:
    schema = {"type": "OBJECT", "properties": {name: {"type": "STRING"}}, "required": [name]}
    assert checked(of({name: "x"}), asked(function(schema))).misfits == ()
    (misfit,) = checked(of({name: 5}), asked(function(schema))).misfits
    assert misfit.pointer == f"/{name}"


def test_the_older_drafts_dependencies() -> None:
    request = asked(function({"dependencies": {"a": ["b"], "c": {"required": ["d"]}}}))
    assert checked(of({"a": 1, "b": 1}), request).misfits == ()
    assert len(checked(of({"a": 1, "c": 1}), request).misfits) == 2


@pytest.mark.parametrize("key", ["cachedContent", "cached_content"])
def test_google_s_cached_content_may_have_tools(key: str) -> None:
    body: dict[str, Any] = {"contents": [{"parts": [{"text": "x"}]}], "tools": []}
    path = "/v1beta/models/g:generateContent"
    without = read_request(path, "application/json", json.dumps(body).encode())
    cached = read_request(path, "application/json", json.dumps({**body, key: "cachedContents/x"}).encode())
    assert [len(checked(of({}), one).misfits) for one in (without, cached)] == [1, 0]


@pytest.mark.parametrize(
    ("one", "other", "unchecked"),
    [
        ({"pattern": "(a+)+"}, {"pattern": "(b+)+"}, 2),
        ({"pattern": "(?=a)"}, {"type": "string"}, 1),
        ({"format": "date"}, {"format": "uuid"}, 0),
        ({"format": "date"}, {"type": "string"}, 0),
    ],
)
def test_of_alternatives_that_cannot_be_told_apart_none_is_called_wrong(one: Any, other: Any, unchecked: int) -> None:
    found = checked(of({"a": "x"}), asked(function(a({"oneOf": [one, other]}))))
    assert (found.misfits, len(found.unchecked)) == ((), unchecked)
    assert checked(of({"a": "x"}), asked(function(a({"not": {"format": "date"}})))).misfits == ()


def test_what_only_an_unchecked_keyword_tells_apart() -> None:
    closed = {"properties": {"a": {}}, "unevaluatedProperties": False}
    found = checked(of({"b": 1}), asked(function({"oneOf": [closed, {"properties": {"b": {}}}]})))
    assert found.misfits == ()
    assert found.unchecked == ("f: unevaluatedProperties of its schema is not checked",)


def test_a_long_list_is_not_searched_for_equal_items() -> None:
    found = checked(of({"a": list(range(1001))}), asked(function(a({"uniqueItems": True}))))
    assert found.unchecked == ("f: lists of more than 1,000 items are not searched for equal ones",)
    assert checked(of({"a": [1] * 1001}), asked(function(a({"uniqueItems": False})))).unchecked == ()


def test_google_s_types_may_be_several() -> None:
    request = asked(function(a({"type": ["STRING", "NULL"]})))
    assert checked(of({"a": None}), request).misfits == ()
    assert len(checked(of({"a": 1}), request).misfits) == 1
