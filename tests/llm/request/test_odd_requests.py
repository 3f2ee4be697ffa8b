"""Requests in other spellings, or gone wrong: read as far as they go, and what is odd is said."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_x402.llm import (
    Mark,
    Media,
    Message,
    Other,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    read_request,
    request_text,
)
from support import effort
from support.vendors.mutations import KEYS, ODD, UNSAFE, VALUES, mutated
from support.vendors.requests import PIXEL64, SCHEMA, SHORT, read


@pytest.mark.parametrize(
    ("path", "value", "dialect"),
    [
        ("/v1/chat/completions", {"messages": []}, "openai-chat"),
        ("/api/v1/chat/completions", {"messages": []}, "openai-chat"),
        ("/v1/completions", {"prompt": "Once"}, "openai-chat"),
        ("/v1/responses", {"input": "Hi"}, "openai-responses"),
        ("/v1/messages", {"messages": []}, "anthropic-messages"),
        ("/v1/messages/count_tokens?beta=true", {"messages": []}, "anthropic-messages"),
        ("/v1beta/models/gemini-3-pro:generateContent", {"contents": []}, "gemini"),
        ("/x", {"contents": []}, "gemini"),
        ("/x", {"messages": []}, "openai-chat"),
        ("/x", {"messages": [], "system": "x"}, "anthropic-messages"),
        ("/x", {"messages": [], "tools": [{"name": "f", "input_schema": {}}]}, "anthropic-messages"),
        ("/x", {"input": "Hi", "stream": True}, "openai-responses"),
        ("/v1/responses", {"prompt": {"id": "p"}}, "openai-responses"),
        ("/v1beta/interactions", {"input": "Hi"}, "gemini-interactions"),
        ("/model/eu.x-1%3A0/converse", {"messages": []}, "bedrock-converse"),
        ("/model/eu.x-1%3A0/converse-stream", {"messages": []}, "bedrock-converse"),
        ("/model/eu.x-1%3A0/invoke", {"messages": [], "anthropic_version": "b"}, "anthropic-messages"),
        ("/model/amazon.nova/invoke", {"messages": [], "inferenceConfig": {}, "system": []}, "bedrock-converse"),
        ("/v1/complete", {"prompt": "Hi"}, "anthropic-complete"),
        ("/v1/chat", {"message": "Hi"}, "cohere-v1"),
        ("/v2/chat", {"messages": []}, "cohere-v2"),
        ("/api/chat", {"messages": []}, "ollama"),
        ("/api/generate", {"prompt": "Hi"}, "ollama"),
        ("/v1/threads/t-1/runs", {"assistant_id": "a"}, "openai-assistants"),
    ],
)
def test_the_dialect_is_found(path: str, value: Any, dialect: str) -> None:
    assert read(path, value).dialect == dialect


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/v1/embeddings", "application/json", b'{"model":"m","input":"x"}'),
        ("/v1/chat/completions", "application/json", b'{"model":"m"}'),
        ("/v1/chat/completions", "application/json", b'{"messages":'),
        ("/v1/chat/completions", "application/json", b"[]"),
        ("/v1/chat/completions", "application/json", b""),
        ("/v1/chat/completions", "multipart/form-data; boundary=x", b'{"messages":[]}'),
        ("/v1/images/generations", "application/json", b'{"model":"m","prompt":"x"}'),
        ("/", "application/json", b'{"jsonrpc":"2.0"}'),
    ],
)
def test_what_is_no_request_to_a_model(path: str, kind: str, body: bytes) -> None:
    assert read_request(path, kind, body) is None


@pytest.mark.parametrize(
    ("path", "value", "messages"),
    [
        ("/v1/completions", {"prompt": "Once"}, [Message("user", (Text("Once"),))]),
        ("/v1/completions", {"prompt": ["a", "b"]}, [Message("user", (Text("a"),)), Message("user", (Text("b"),))]),
        ("/v1/responses", {"input": "Hi"}, [Message("user", (Text("Hi"),))]),
        ("/v1/messages", {"system": "S", "messages": [{"role": "user", "content": "Hi"}]},
         [Message("system", (Text("S"),)), Message("user", (Text("Hi"),))]),
        ("/m:generateContent", {"contents": {"parts": [{"text": "Hi"}]}}, [Message("user", (Text("Hi"),))]),
        ("/m:generateContent", {"system_instruction": {"parts": {"text": "S"}}, "contents": [
            {"role": "model", "parts": [{"thought": True, "text": "Hm"}, {"inline_data": {"mime_type": "audio/mp3",
                                                                                         "data": PIXEL64}}]}]},
         [Message("system", (Text("S"),)), Message("model", (Reasoning("Hm"), Media("audio", "audio/mp3", 68)))]),
        ("/v1/chat/completions", {"messages": [
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"}]},
         [Message("assistant", (ToolCall("", "f", "{}", {}),)),
          Message("function", (ToolResult("", "f", (Text("1"),)),))]),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "b", "reasoning_details": [
            {"type": "reasoning.text", "text": "Hm", "signature": "S"},
            {"type": "reasoning.encrypted", "data": "T"}]}]},
         [Message("assistant", (Reasoning("Hm", signature="ST"), Text("b")))]),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "b"}]}]},
         [Message("assistant", (Reasoning("Hm"), Text("b")))]),
        ("/v1/responses", {"prompt": {"id": "p"}, "input": "Hi"}, [Message("user", (Text("Hi"),))]),
        ("/v1beta/interactions", {"system_instruction": "S", "input": [
            {"type": "user_input", "content": [{"type": "text", "text": "Hi"}]},
            {"type": "function_call", "id": "c", "name": "f", "arguments": {"a": 1}},
            {"type": "function_result", "call_id": "c", "name": "f", "result": "5"}]},
         [Message("system", (Text("S"),)), Message("user", (Text("Hi"),)),
          Message("assistant", (ToolCall("c", "f", '{"a":1}', {"a": 1}),)),
          Message("tool", (ToolResult("c", "f", (Text("5"),)),))]),
        ("/model/m/converse", {"system": [{"text": "S"}, {"cachePoint": {"type": "default"}}], "messages": [
            {"role": "user", "content": [{"text": "Hi"}, {"image": {"format": "png", "source": {"bytes": PIXEL64}}}]},
            {"role": "assistant", "content": [
                {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "S"}}},
                {"toolUse": {"toolUseId": "c", "name": "f", "input": {"a": 1}}}]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": "c", "status": "error", "content": [
                {"json": {"b": 2}}, {"text": "x"}]}}]}]},
         [Message("system", (Text("S"), Mark("cachePoint", "default"))),
          Message("user", (Text("Hi"), Media("image", "png", 68))),
          Message("assistant", (Reasoning("Hm", signature="S"), ToolCall("c", "f", '{"a":1}', {"a": 1}))),
          Message("user", (ToolResult("c", "", (Text('{"b":2}'), Text("x")), failed=True),))]),
        ("/v1/chat", {"message": "Hi", "preamble": "S", "chat_history": [
            {"role": "CHATBOT", "message": "b", "tool_calls": [{"name": "f", "parameters": {"a": 1}}]}]},
         [Message("system", (Text("S"),)),
          Message("CHATBOT", (Text("b"), ToolCall("", "f", '{"a":1}', {"a": 1}))), Message("USER", (Text("Hi"),))]),
        ("/api/chat", {"messages": [
            {"role": "user", "content": "Hi", "images": [PIXEL64[:8]]},
            {"role": "assistant", "thinking": "Hm", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "tool_name": "f", "content": "5"}]},
         [Message("user", (Text("Hi"), Media("image", size=6))),
          Message("assistant", (Reasoning("Hm"), ToolCall("", "f", '{"a":1}', {"a": 1}))),
          Message("tool", (ToolResult("", "f", (Text("5"),)),))]),
        ("/m:generateContent", {"contents": [{"role": "model", "parts": [
            {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "abc"}]}]},
         [Message("model", (ToolCall("", "f", "{}", {}), Mark("thoughtSignature", "3 characters")))]),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a", "cache_control": {"type": "ephemeral",
                                                                                          "ttl": "1h"}}]},
         [Message("user", (Text("a"), Mark("cache_control", "ephemeral, ttl 1h")))]),
        ("/v1/chat/completions", {"messages": [{"content": [{"type": "odd", "x": 1}]}]},
         [Message("(no role)", (Other("odd", {"type": "odd", "x": 1}),))]),
    ],
)  # fmt: skip
def test_other_ways_to_say_it(path: str, value: Any, messages: list[Message]) -> None:
    assert read(path, value).messages == tuple(messages)


def test_a_stored_prompt_is_shown() -> None:
    asked = read("/v1/responses", {"prompt": {"id": "p-1", "version": "2", "variables": {"word": "alpha"}}})
    assert asked.parameters == (
        ("prompt.id", '"p-1"'),
        ("prompt.version", '"2"'),
        ("prompt.variables", '{"word":"alpha"}'),
    )
    assert (asked.messages, asked.irregular) == ((), ())


def test_marks_and_schemas_of_tools() -> None:
    tools = [
        {"name": "a", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
        {"toolSpec": {"name": "b", "description": "B", "inputSchema": {"json": SCHEMA}}},
        {"type": "function", "function": {"name": "c", "parameters": SCHEMA}},
    ]
    found = read("/v1/messages", {"messages": [], "tools": tools}).tools
    assert [(tool.name, tool.parameters, tool.schema) for tool in found] == [(name, SHORT, SCHEMA) for name in "abc"]
    assert found[0].marks == (Mark("cache_control", "ephemeral"),)
    body = {"messages": [], "toolConfig": {"tools": tools[1:2]}}
    assert [tool.name for tool in read("/model/m/converse", body).tools] == ["b"]


def test_what_is_odd_is_said() -> None:
    assert read("/v1/chat/completions", {"messages": [5]}).irregular == ("a message that is no JSON object",)
    assert read("/v1/chat/completions", {"messages": 5}).irregular == ("there are no messages",)
    twice = read_request("/v1/chat/completions", "", b'{"model":"a","model":"b","messages":[]}')
    assert twice is not None
    assert twice.irregular == ('the key "model" is there twice',)
    assert request_text(twice).endswith('irregular:\n  - the key "model" is there twice\n')


@pytest.mark.parametrize(
    ("schema", "short"),
    [
        ({"type": "object", "properties": {"a": {"type": ["string", "null"]}}}, "a?: string | null"),
        ({"properties": {"a": {"anyOf": [{"type": "string"}, {}]}}, "required": ["a"]}, "a: string | any"),
        ({"properties": {"a": {"type": "array", "items": {"type": "integer"}}}}, "a?: integer[]"),
        ({"properties": {"a": {"type": "array", "items": {"enum": ["x", "y"]}}}}, 'a?: ("x" | "y")[]'),
        ({"properties": {"a": {"type": "array"}}}, "a?: any[]"),
        ({"properties": {"a": {"type": "object", "properties": {"b": {"type": "number"}}}}}, "a?: {b?: number}"),
        ({"properties": {"a": {"$ref": "#/$defs/Place"}}}, "a?: Place"),
        ({"properties": {"a": {"const": 1}, "b": {}, "c": True}}, "a?: 1, b?: any, c?: any"),
        ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}, "a?: string"),
        (None, ""),
        ([], ""),
        ({"properties": {"a": {"properties": {"b": {"properties": {"c": {"properties": {"d": {"properties": {
            "e": {"type": "string"}}}}}}}}}}}, "a?: {b?: {c?: {d?: {e?: …}}}}"),
    ],
)  # fmt: skip
def test_parameters_in_short(schema: Any, short: str) -> None:
    asked = read("/v1/messages", {"messages": [], "tools": [{"name": "f", "input_schema": schema}]})
    assert asked.tools[0].parameters == short


def test_a_huge_schema_is_cut() -> None:
    schema = {
        "properties": {f"key{n}": {"anyOf": [{"properties": {f"k{m}": {} for m in range(100)}}]} for n in range(100)}
    }
    asked = read("/v1/messages", {"messages": [], "tools": [{"name": "f", "input_schema": schema}]})
    assert len(asked.tools[0].parameters) <= 401


REQUESTS: list[tuple[str, Any]] = [
    ("/v1/chat/completions", {
        "model": "m", "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}], "stop": ["x"],
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}]},
            {"role": "tool", "tool_call_id": "c", "content": "x"}]}),
    ("/v1/responses", {
        "model": "m", "instructions": "x", "tools": [{"type": "mcp", "server_label": "x"}],
        "input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                  {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]},
                  {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}]}),
    ("/v1/messages", {
        "model": "m", "system": [{"type": "text", "text": "x"}], "tools": [{"name": "f", "input_schema": SCHEMA}],
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": [1]}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]}]}]}),
    ("/v1beta/models/m:streamGenerateContent?alt=sse", {
        "contents": [{"role": "user", "parts": [{"text": "x"}, {"inlineData": {"mimeType": "image/png", "data": "AA"}},
                                                {"functionCall": {"name": "f", "args": {}}},
                                                {"functionResponse": {"name": "f", "response": {"a": 1}}}]}],
        "tools": [{"functionDeclarations": [{"name": "f", "parameters": SCHEMA}]}],
        "generationConfig": {"temperature": 1, "generationConfig": {"x": 1}}}),
]  # fmt: skip


def check(path: str, value: Any) -> None:
    found = read_request(path, "application/json", json.dumps(value).encode())
    if found is not None:
        text = request_text(found)
        assert not UNSAFE.search(text)
        text.encode()


@pytest.mark.parametrize(("path", "value"), REQUESTS)
def test_the_requests_to_be_mutated_are_regular(path: str, value: Any) -> None:
    assert read(path, value).irregular == ()


@settings(deadline=None, max_examples=effort.examples(200))
@given(st.sampled_from(REQUESTS), st.integers(0, 2**32), st.sampled_from([0.02, 0.1, 0.3]))
def test_requests_gone_wrong_are_read(request: tuple[str, Any], seed: int, chance: float) -> None:
    check(request[0], mutated(request[1], random.Random(seed), chance))


@settings(deadline=None, max_examples=effort.examples(100))
@given(st.sampled_from([path for path, _ in REQUESTS]), st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_json_is_read(path: str, value: Any) -> None:
    check(path, value)
    check("/x", value)


@pytest.mark.parametrize("odd", ODD)
def test_odd_values_in_every_place(odd: Any) -> None:
    """Each value of each request, one after the other, is replaced."""

    def places(value: Any) -> Iterator[tuple[Any, Any]]:
        keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            yield value, key
            yield from places(value[key])

    for path, value in REQUESTS:
        for parent, key in list(places(value)):
            before, parent[key] = parent[key], odd
            check(path, value)
            parent[key] = before


def test_hostile_text_is_escaped_everywhere() -> None:
    for path, value in REQUESTS:
        text = json.dumps(value).replace('"x"', '"\\u001b[2J\\u202e\\ud800"').replace('"f"', '"\\u009b"')
        found = read_request(path, "", text.encode())
        assert found is not None
        shown = request_text(found)
        assert "\\u001b[2J\\u202e\\ud800" in shown or "\\u009b" in shown
        assert re.search(UNSAFE, shown) is None
