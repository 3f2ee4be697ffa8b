"""Requests in the four dialects, as the SDKs send them and as others do, read and shown."""

from __future__ import annotations

import warnings
from typing import Any

import anthropic
import openai

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
from support.vendors import vendor_streams as v
from support.vendors.requests import CALL, PIXEL, PIXEL64, SCHEMA, TOOL, read
from support.vendors.vendor_server import Vendor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # google-genai's own, while it is imported
    from google import genai
    from google.genai import types


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
