"""Requests in the four dialects, as the SDKs send them and as others do, read and shown."""

from __future__ import annotations

import base64
import json
import random
import re
import warnings
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
import vendor_streams as v
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stream_reader import KEYS, ODD, UNSAFE, VALUES, mutated
from vendor_server import Vendor

from mitmproxy_x402.llm import (
    Mark,
    Media,
    Message,
    Other,
    Reasoning,
    RequestReading,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    read_request,
    request_text,
)
from support import effort

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # google-genai's own, while it is imported
    from google import genai
    from google.genai import types

PIXEL = b"\x89PNG" + bytes(64)
PIXEL64 = base64.b64encode(PIXEL).decode()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "K"]}},
    "required": ["city"],
}
SHORT = 'city: string, days?: integer, unit?: "C" | "K"'
TOOL = Tool("weather", "Says how it is.", SHORT)
CALL = ToolCall("call_1", "weather", '{"city":"Zürich"}', {"city": "Zürich"})


def read(path: str, value: Any, kind: str = "application/json") -> RequestReading:
    found = read_request(path, kind, json.dumps(value).encode())
    assert found is not None
    return found


# As the SDKs send them.


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    running = Vendor()
    yield running
    running.close()


def last(vendor: Vendor) -> RequestReading:
    path, kind, body = vendor.asked[-1]
    found = read_request(path, kind, body)
    assert found is not None
    assert found.irregular == ()
    return found


def test_openai_chat(vendor: Vendor) -> None:
    vendor.body = v.CHAT["text"]
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Zürich"}'}}
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL64}"}}
    sound = {"type": "input_audio", "input_audio": {"data": PIXEL64, "format": "wav"}}
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PIXEL64}"}}
    messages: Any = [
        {"role": "developer", "content": "Sei kurz."},
        {"role": "user", "content": [{"type": "text", "text": "Was ist das?"}, picture, sound, file]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Regen"},
    ]
    described = {"name": "weather", "description": "Says how it is.", "parameters": SCHEMA}
    tools: Any = [{"type": "function", "function": described}]
    with openai.OpenAI(base_url=f"{vendor.url}/v1", api_key="none", max_retries=0) as client:
        list(
            client.chat.completions.create(model="gpt-5", messages=messages, tools=tools, stream=True, temperature=0.5)
        )
    asked = last(vendor)
    assert (asked.dialect, asked.model, asked.streamed) == ("openai-chat", "gpt-5", True)
    assert asked.messages == (
        Message("developer", (Text("Sei kurz."),)),
        Message("user", (
            Text("Was ist das?"), Media("image", "image/png", 68), Media("audio", "wav", 68),
            Media("file", "application/pdf", 68, "a.pdf"),
        )),
        Message("assistant", (CALL,)),
        Message("tool", (ToolResult("call_1", "", (Text("Regen"),)),)),
    )  # fmt: skip
    assert asked.tools == (TOOL,)
    assert asked.parameters == (("temperature", "0.5"),)


def test_openai_responses(vendor: Vendor) -> None:
    vendor.body = v.RESPONSES["search and text"]
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "Was?"},
                                     {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL64}"},
                                     {"type": "input_file", "file_id": "file-1"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}],
         "encrypted_content": "gAAA"},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Zürich"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "Regen"},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "apply", "input": "+x"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "ok"},
        {"type": "item_reference", "id": "msg_1"},
    ]  # fmt: skip
    tools: Any = [
        {
            "type": "function",
            "name": "weather",
            "description": "Says how it is.",
            "parameters": SCHEMA,
            "strict": False,
        },
        {"type": "web_search"},
        {"type": "custom", "name": "apply", "description": "Patches."},
        {"type": "mcp", "server_label": "docs", "server_url": "https://docs.example", "authorization": "s3cret"},
    ]
    with openai.OpenAI(base_url=f"{vendor.url}/v1", api_key="none", max_retries=0) as client:
        list(client.responses.create(model="gpt-5", instructions="Sei kurz.", input=items, tools=tools, stream=True,
                                     reasoning={"effort": "low"}, store=False))  # fmt: skip
    asked = last(vendor)
    assert (asked.dialect, asked.model, asked.streamed) == ("openai-responses", "gpt-5", True)
    assert asked.messages == (
        Message("system", (Text("Sei kurz."),)),
        Message("user", (Text("Was?"), Media("image", "image/png", 68), Media("file", source="file-1"))),
        Message("assistant", (Reasoning("Hm", signature="gAAA"),)),
        Message("assistant", (CALL,)),
        Message("tool", (ToolResult("call_1", "", (Text("Regen"),)),)),
        Message("assistant", (ToolCall("call_2", "apply", "+x", kind="custom"),)),
        Message("tool", (ToolResult("call_2", "", (Text("ok"),)),)),
        Message("assistant", (Other("item_reference", items[-1]),)),
    )
    assert asked.tools == (
        TOOL, Tool("web_search", kind="web_search"), Tool("apply", "Patches.", kind="custom"), Tool("docs", kind="mcp"),
    )  # fmt: skip
    assert dict(asked.parameters) == {"reasoning": '{"effort":"low"}', "store": "false"}
    assert "s3cret" not in request_text(asked) + repr(asked)


def test_anthropic_messages(vendor: Vendor) -> None:
    vendor.body = v.MESSAGES["nothing"]
    messages: Any = [
        {"role": "user", "content": [
            {"type": "text", "text": "Was?", "cache_control": {"type": "ephemeral"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL64}},
            {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "EqQB"},
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Zürich"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "Regen"}]},
            {"type": "tool_result", "tool_use_id": "call_2", "content": "broke", "is_error": True}]},
    ]  # fmt: skip
    tools: Any = [
        {"name": "weather", "description": "Says how it is.", "input_schema": SCHEMA},
        {"type": "web_search_20250305", "name": "web_search"},
    ]
    with anthropic.Anthropic(base_url=vendor.url, api_key="none", max_retries=0) as client:
        list(client.messages.create(model="claude-opus-4-6", max_tokens=9, system=[{"type": "text", "text": "Kurz."}],
                                    messages=messages, tools=tools, stream=True))  # fmt: skip
    asked = last(vendor)
    assert (asked.dialect, asked.model, asked.streamed) == ("anthropic-messages", "claude-opus-4-6", True)
    assert asked.messages == (
        Message("system", (Text("Kurz."),)),
        Message("user", (
            Text("Was?"), Mark("cache_control", "ephemeral"),
            Media("image", "image/png", 68), Media("file", source="https://x.example/a.pdf"),
        )),
        Message("assistant", (Reasoning("Hm", signature="EqQB"), CALL)),
        Message("user", (
            ToolResult("call_1", "", (Text("Regen"),)), ToolResult("call_2", "", (Text("broke"),), failed=True),
        )),
    )  # fmt: skip
    assert asked.tools == (TOOL, Tool("web_search", kind="web_search_20250305"))
    assert asked.parameters == (("max_tokens", "9"),)


def test_gemini(vendor: Vendor) -> None:
    vendor.body = v.events(*v.GEMINI["code"])
    declared = types.FunctionDeclaration(name="weather", description="Says how it is.", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[declared]), types.Tool(google_search=types.GoogleSearch())],
        system_instruction="Kurz.",
        temperature=0.5,
    )
    contents: Any = [
        types.Content(role="user", parts=[types.Part.from_text(text="Was?"),
                                          types.Part.from_bytes(data=PIXEL, mime_type="image/png"),
                                          types.Part.from_uri(file_uri="gs://a/b.mp4", mime_type="video/mp4")]),
        types.Content(role="model", parts=[types.Part.from_function_call(name="weather", args={"city": "Zürich"})]),
        types.Content(role="user", parts=[types.Part.from_function_response(name="weather", response={"is": "wet"})]),
    ]  # fmt: skip
    client = genai.Client(api_key="s3cret", http_options=types.HttpOptions(base_url=vendor.url))
    list(client.models.generate_content_stream(model="gemini-3-pro", contents=contents, config=config))
    client.close()
    asked = last(vendor)
    assert (asked.dialect, asked.model, asked.streamed) == ("gemini", "gemini-3-pro", True)
    call = ToolCall("", "weather", '{"city":"Zürich"}', {"city": "Zürich"})
    assert asked.messages == (
        Message("system", (Text("Kurz."),)),
        Message("user", (
            Text("Was?"), Media("image", "image/png", 68), Media("video", "video/mp4", source="gs://a/b.mp4"),
        )),
        Message("model", (call,)),
        Message("user", (ToolResult("", "weather", (Text('{"is":"wet"}'),)),)),
    )  # fmt: skip
    assert set(asked.tools) == {TOOL, Tool("googleSearch", kind="built in")}
    assert dict(asked.parameters) == {"temperature": "0.5", "?alt": "sse"}
    assert "s3cret" not in repr(asked)


# As they read.


def test_a_request_reads_like_this() -> None:
    value = {
        "model": "gpt-5",
        "stream": True,
        "temperature": 0.2,
        "tools": [{"type": "function", "function": {"name": "weather", "description": "Says\nhow.",
                                                    "parameters": SCHEMA}}],
        "messages": [
            {"role": "system", "content": "Sei kurz.\nUnd klar."},
            {"role": "user", "content": [{"type": "text", "text": "Was ist das?"},
                                         {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]},
            {"role": "assistant", "reasoning_content": "Hm", "content": "Moment.", "refusal": "Nein.", "tool_calls": [
                {"id": "call_1", "type": "function",
                 "function": {"name": "weather", "arguments": '{"city":"Zürich"}'}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Regen"}]},
        ],
    }  # fmt: skip
    assert (
        request_text(read("/v1/chat/completions", value))
        == """\
model  gpt-5   openai-chat   streamed   4 messages   1 tool

parameters
  temperature: 0.2

tools
  weather(city: string, days?: integer, unit?: "C" | "K")  Says\\nhow.

1  system
  Sei kurz.
  Und klar.

2  user
  Was ist das?
  [image, https://x.example/a.png]

3  assistant
  reasoning
    Hm
  Moment.
  refusal
    Nein.
  tool call: weather  id call_1
    {
      "city": "Zürich"
    }

4  tool
  tool result  id call_1
    Regen
"""
    )


def test_secrets_are_not_shown() -> None:
    value = {
        "model": "m",
        "messages": [],
        "api_key": "s3cret",
        "extra_headers": {"Authorization": "Bearer s3cret", "x": 1},
        "token": "s3cret",
        "metadata": {"list": [{"password": "s3cret"}]},
    }
    asked = read("/v1/chat/completions?key=s3cret&alt=sse&access_token=s3cret", value)
    assert "s3cret" not in repr(asked) + request_text(asked)
    assert dict(asked.parameters) == {
        **{"api_key": "[redacted]", "token": "[redacted]", "metadata": '{"list":[{"password":"[redacted]"}]}'},
        **{"extra_headers": '{"Authorization":"[redacted]","x":1}'},
        **{"?key": "[redacted]", "?alt": "sse", "?access_token": "[redacted]"},
    }
    assert asked.messages == ()


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


# Strange input.

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
