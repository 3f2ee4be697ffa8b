"""What the vendors' own SDKs make of the streams is what the sandbox meant; and the bytes are what it says it sent."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.sandbox.answers import EMPTY, INTERLEAVED, PARALLEL, THINKING, Meaning, fragments, meaning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # google-genai's own, while it is imported
    from google import genai
    from google.genai import types

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 3},
        "units": {"enum": ["C", "K"]},
        "near": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "exact": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
        "place": {"$ref": "#/$defs/place"},
    },
    "$defs": {"place": {"type": "object", "properties": {"height": {"type": "number"}}}},
    "required": ["city"],
}
OTHER: dict[str, Any] = {"type": "object", "properties": {"question": {"type": "string"}}}
ASKED = [{"role": "user", "content": "Wie wird das Wetter? ☔"}]
CHAT_TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "ask", "parameters": OTHER}},
]
RESPONSE_TOOLS: list[Any] = [
    {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False},
    {"type": "function", "name": "ask", "parameters": OTHER, "strict": False},
]
MESSAGE_TOOLS: list[Any] = [{"name": "weather", "input_schema": SCHEMA}, {"name": "ask", "input_schema": OTHER}]
MODELS = pytest.mark.parametrize("model", ["sandbox-free", PARALLEL, INTERLEAVED])
STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
TOOLS = pytest.mark.parametrize("tools", [True, False], ids=["tools", "no tools"])
Calls = list[tuple[str, str, Any]]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Sandbox]:
    with Sandbox(SandboxConfig(free=True)).run_in_thread() as running:
        yield running


@pytest.fixture
def chatgpt(gateway: Sandbox) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(gateway: Sandbox) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
        yield client


def meant(gateway: Sandbox, prefix: str) -> tuple[Meaning, Calls]:
    """What the last answer meant, and its calls as id, name, arguments."""
    said = meaning(gateway.requests[-1].json)
    return said, [(call.id(prefix), call.name, call.parsed()) for call in said.tool_calls]


def test_the_models_say_what_the_tests_need() -> None:
    plain = meaning({"model": "sandbox-free"})
    assert not plain.tool_calls
    assert not plain.text.isascii()
    parallel = meaning({"model": PARALLEL, "tools": CHAT_TOOLS})
    assert [call.name for call in parallel.tool_calls] == ["weather", "ask"]
    assert parallel.text
    arguments = parallel.tool_calls[0].parsed()
    assert arguments.keys() == SCHEMA["properties"].keys()
    assert '"' in arguments["city"]
    assert "\n" in arguments["city"]
    assert "🦀" in arguments["city"]
    assert (arguments["days"], arguments["units"], arguments["exact"]) == (3, "K", True)
    assert arguments["place"] == {"height": 2.5}
    assert len(list(fragments(parallel.tool_calls[0].arguments))) > 20


def test_a_tool_s_result_ends_the_turn_in_every_dialect() -> None:
    tool = {"tools": CHAT_TOOLS}
    for ended in (
        {**tool, "messages": [*ASKED, {"role": "tool", "content": "rain"}]},
        {**tool, "messages": [*ASKED, {"role": "user", "content": [{"type": "tool_result", "content": "rain"}]}]},
        {**tool, "input": [{"type": "function_call_output", "call_id": "x", "output": "rain"}]},
        {**tool, "contents": [{"role": "user", "parts": [{"functionResponse": {"name": "weather"}}]}]},
        {**tool, "messages": ASKED, "tool_choice": "none"},
        {**tool, "messages": ASKED, "tool_choice": {"type": "none"}},
    ):
        assert not meaning(ended).tool_calls
        assert meaning(ended).text


@MODELS
@STREAMED
@TOOLS
def test_openai_chat(gateway: Sandbox, chatgpt: openai.OpenAI, model: str, stream: bool, tools: bool) -> None:
    asked: dict[str, Any] = {"model": model, "messages": ASKED, "tools": CHAT_TOOLS if tools else openai.NOT_GIVEN}
    if stream:
        with chatgpt.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
            completion: Any = events.get_final_completion()
    else:
        completion = chatgpt.chat.completions.create(**asked)
    said, calls = meant(gateway, "call_")
    [choice] = completion.choices
    got = [(c.id, c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls or []]
    assert got == calls
    assert (choice.message.content or "") == said.text
    assert choice.finish_reason == ("tool_calls" if tools else "stop")
    assert completion.usage.total_tokens == said.total_tokens


@MODELS
@STREAMED
@TOOLS
def test_openai_responses(gateway: Sandbox, chatgpt: openai.OpenAI, model: str, stream: bool, tools: bool) -> None:
    asked: dict[str, Any] = {"model": model, "input": "Wetter?", "tools": RESPONSE_TOOLS if tools else openai.NOT_GIVEN}
    if stream:
        with chatgpt.responses.stream(**asked) as events:
            numbers = [event.sequence_number for event in events if hasattr(event, "sequence_number")]
            response: Any = events.get_final_response()
        assert numbers == sorted(numbers)
    else:
        response = chatgpt.responses.create(**asked)
    said, calls = meant(gateway, "call_")
    got = [(i.call_id, i.name, json.loads(i.arguments)) for i in response.output if i.type == "function_call"]
    assert got == calls
    assert response.output_text == said.text
    assert response.status == "completed"
    assert response.usage.total_tokens == said.total_tokens


@MODELS
@STREAMED
@TOOLS
def test_anthropic_messages(
    gateway: Sandbox, claude: anthropic.Anthropic, model: str, stream: bool, tools: bool
) -> None:
    asked: dict[str, Any] = {"model": model, "messages": ASKED, "max_tokens": 100}
    if tools:
        asked["tools"] = MESSAGE_TOOLS
    if stream:
        with claude.messages.stream(**asked) as events:
            message: Any = events.get_final_message()
    else:
        message = claude.messages.create(**asked)
    said, calls = meant(gateway, "toolu_")
    assert [(b.id, b.name, b.input) for b in message.content if b.type == "tool_use"] == calls
    assert "".join(block.text for block in message.content if block.type == "text") == said.text
    assert message.stop_reason == ("tool_use" if tools else "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (said.input_tokens, said.output_tokens)


def test_anthropic_counts_tokens(gateway: Sandbox, claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model="sandbox-free", messages=[{"role": "user", "content": "hi"}])
    assert counted.input_tokens == meant(gateway, "")[0].input_tokens


@STREAMED
@TOOLS
def test_gemini(gateway: Sandbox, stream: bool, tools: bool) -> None:
    client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=gateway.url))
    declared = types.FunctionDeclaration(name="weather", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])] if tools else None)
    asked: dict[str, Any] = {"model": "sandbox-free", "contents": "Wetter?", "config": config}
    if stream:
        answers = list(client.models.generate_content_stream(**asked))
    else:
        answers = [client.models.generate_content(**asked)]
    client.close()
    said = meaning(gateway.requests[-1].json, "sandbox-free")
    calls = [(call.name, call.args) for answer in answers for call in answer.function_calls or []]
    assert calls == [(call.name, call.parsed()) for call in said.tool_calls]
    text = "".join(
        part.text
        for answer in answers
        for candidate in answer.candidates or []
        for part in (candidate.content and candidate.content.parts) or []
        if part.text
    )
    assert text == said.text
    assert bool(calls) == tools


def test_gemini_without_sse_is_an_array_that_grows(gateway: Sandbox) -> None:
    asked = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    url = f"{gateway.url}/v1beta/models/sandbox-free:streamGenerateContent"
    answers = httpx.post(url, json=asked, timeout=30).json()
    parts = [answer["candidates"][0]["content"]["parts"][0]["text"] for answer in answers]
    assert "".join(parts) == meaning(asked, "sandbox-free").text


def test_the_async_clients_assemble_the_same(gateway: Sandbox) -> None:
    strict = [{"type": "function", "function": {**tool["function"], "strict": True}} for tool in CHAT_TOOLS]
    chat: Any = {"model": "sandbox-free", "messages": ASKED, "tools": strict}
    messages: Any = {"model": "sandbox-free", "messages": ASKED, "tools": MESSAGE_TOOLS, "max_tokens": 9}

    async def both() -> tuple[Any, Any]:
        async with (
            openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as chatgpt,
            anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0) as claude,
            chatgpt.chat.completions.stream(**chat) as chunks,
            claude.messages.stream(**messages) as events,
        ):
            return await chunks.get_final_completion(), await events.get_final_message()

    completion, message = asyncio.run(both())
    wanted = meaning({"tools": CHAT_TOOLS}).tool_calls[0].parsed()
    assert json.loads(completion.choices[0].message.tool_calls[0].function.arguments) == wanted
    assert message.content[0].input == wanted


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/api/v1/chat/completions", "/v1/messages", "/api/v1/responses"]
)
def test_the_bytes_are_those_that_it_says_it_sent(gateway: Sandbox, path: str) -> None:
    asked = {"model": "sandbox-free", "messages": ASKED, "stream": True, "tools": CHAT_TOOLS}
    with httpx.stream("POST", gateway.url + path, json=asked, timeout=30) as response:
        body = b"".join(response.iter_raw())
    sent = gateway.sent[response.headers["x-request-id"]]
    assert sent.body == body
    assert sent.complete
    assert len(sent.chunks) > 20
    assert all(chunk.endswith(b"\n\n") and chunk.count(b"\n\n") == 1 for chunk in sent.chunks)


def test_openai_chat_sends_fragments_as_the_vendor_does(gateway: Sandbox) -> None:
    asked = {"model": INTERLEAVED, "messages": ASKED, "stream": True, "tools": CHAT_TOOLS}
    lines = httpx.post(f"{gateway.url}/v1/chat/completions", json=asked, timeout=30).text.split("\n\n")
    assert lines[0].startswith(": ")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line[6:]) for line in lines[1:] if line.startswith("data: {")]
    deltas = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    firsts = [delta for delta in deltas if "id" in delta]
    assert [(delta["index"], delta["function"]["arguments"]) for delta in firsts] == [(0, ""), (1, "")]
    rest = [delta for delta in deltas if "id" not in delta]
    assert all(delta.keys() == {"index", "function"} and delta["function"].keys() == {"arguments"} for delta in rest)
    indexes = [delta["index"] for delta in deltas]
    assert indexes[:6] == [0, 1, 0, 1, 0, 1]
    assert all("usage" not in chunk for chunk in chunks)


class TestThinking:
    def test_openai_chat(self, gateway: Sandbox, chatgpt: openai.OpenAI) -> None:
        asked: Any = {"model": THINKING, "messages": ASKED}
        with chatgpt.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
            streamed = events.get_final_completion()
        for completion in (streamed, chatgpt.chat.completions.create(**asked)):
            said, message = meant(gateway, "")[0], completion.choices[0].message
            assert (message.content, message.model_extra) == (said.text, {"reasoning_content": said.thought})
        assert streamed.usage is not None
        assert streamed.usage.completion_tokens_details is not None
        assert streamed.usage.completion_tokens_details.reasoning_tokens == said.reasoning_tokens > 0

    def test_openai_responses(self, gateway: Sandbox, chatgpt: openai.OpenAI) -> None:
        with chatgpt.responses.stream(model=THINKING, input="Wetter?") as events:
            streamed = events.get_final_response()
        for response in (streamed, chatgpt.responses.create(model=THINKING, input="Wetter?")):
            said, first = meant(gateway, "")[0], response.output[0]
            assert first.type == "reasoning"
            assert [part.text for part in first.summary] == [said.thought]
            assert response.output_text == said.text

    def test_anthropic_messages(self, gateway: Sandbox, claude: anthropic.Anthropic) -> None:
        asked: Any = {"model": THINKING, "messages": ASKED, "max_tokens": 100}
        with claude.messages.stream(**asked) as events:
            streamed = events.get_final_message()
        for message in (streamed, claude.messages.create(**asked)):
            said, [first, second] = meant(gateway, "")[0], message.content
            assert first.type == "thinking"
            assert second.type == "text"
            assert (first.thinking, bool(first.signature), second.text) == (said.thought, True, said.text)

    def test_gemini(self, gateway: Sandbox) -> None:
        with genai.Client(api_key="none", http_options=types.HttpOptions(base_url=gateway.url)) as client:
            answers = list(client.models.generate_content_stream(model=THINKING, contents="Wetter?"))
        said = meaning(gateway.requests[-1].json, THINKING)
        parts = [part for one in answers if one.parts for part in one.parts]
        assert "".join(part.text or "" for part in parts if part.thought) == said.thought
        assert "".join(part.text or "" for part in parts if not part.thought) == said.text
        usage = answers[-1].usage_metadata
        assert usage is not None
        assert (usage.thoughts_token_count, usage.total_token_count) == (said.reasoning_tokens, said.total_tokens)


def test_no_arguments_at_all(gateway: Sandbox, chatgpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    chat: Any = {"model": EMPTY, "messages": ASKED, "tools": CHAT_TOOLS}
    chunks = list(chatgpt.chat.completions.create(**chat, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.function.name, call.function.arguments) for call in calls if call.function] == [("weather", "")]
    whole = chatgpt.chat.completions.create(**chat).choices[0].message.tool_calls
    assert [call.function.arguments for call in whole or [] if call.type == "function"] == [""]
    with chatgpt.responses.stream(model=EMPTY, input="Wetter?", tools=RESPONSE_TOOLS) as events:
        [item] = events.get_final_response().output
    assert item.type == "function_call"
    assert item.arguments == ""
    with claude.messages.stream(model=EMPTY, messages=ASKED, tools=MESSAGE_TOOLS, max_tokens=9) as stream:  # type: ignore[arg-type]
        [block] = stream.get_final_message().content
    assert block.type == "tool_use"
    assert block.input == {}
    body = {"contents": ASKED, "tools": [{"functionDeclarations": [{"name": "weather"}]}]}
    url = f"{gateway.url}/v1beta/models/{EMPTY}:generateContent"
    [part] = httpx.post(url, json=body, timeout=30).json()["candidates"][0]["content"]["parts"]
    assert part == {"functionCall": {"name": "weather"}}
