"""What the vendors' own SDKs assemble from a stream is what our reading of it says."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from mitmproxy_x402.llm import (
    Citation,
    Other,
    Reading,
    Reasoning,
    Refusal,
    StreamReader,
    Text,
    ToolCall,
    differences,
    read_answer,
)
from mitmproxy_x402.sandbox.answers import MODELS, dump, meaning
from mitmproxy_x402.sandbox.vendors import chat, gemini, messages, responses
from support import effort
from support.vendors import random_streams
from support.vendors import vendor_streams as shapes
from support.vendors.vendor_server import Vendor

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
NAMES = ("weather", "ask")
ASKED: dict[Any, dict[str, Any]] = {
    chat: {
        "tools": [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES],
        "stream_options": {"include_usage": True},
    },
    responses: {"tools": [{"type": "function", "name": name, "parameters": SCHEMA} for name in NAMES]},
    messages: {"tools": [{"name": name, "input_schema": SCHEMA} for name in NAMES]},
    gemini: {"tools": [{"functionDeclarations": [{"name": name, "parameters": SCHEMA} for name in NAMES]}]},
}


@pytest.mark.parametrize("vendor", ASKED, ids=lambda room: room.__name__.rpartition(".")[2])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tools", [True, False], ids=["tools", "no tools"])
def test_the_sandbox_s_answers_say_what_it_meant(vendor: Any, model: str, tools: bool) -> None:
    asked = {"model": model, **({} if not tools else ASKED[vendor]), "stream_options": {"include_usage": True}}
    said = meaning(asked)
    forms = [b"".join(vendor.stream(asked, said, 1)), dump(vendor.answer(asked, said, 1)).encode()]
    if vendor is gemini:
        forms.append(b"".join(gemini.array(asked, said, 1)))
    readings = []
    for body in forms:
        kind = "text/event-stream" if body[:1] not in (b"{", b"[") else "application/json"
        reading = read_answer(kind, body)
        assert reading is not None
        assert reading.text == said.text
        assert [(one.name, one.parsed) for one in reading.tool_calls] == [
            (one.name, one.parsed()) for one in said.tool_calls
        ]
        assert "".join(one.text for one in reading.items if isinstance(one, Reasoning)) == said.thought
        usage = (reading.usage.input, reading.usage.output, reading.usage.total)
        assert usage == (said.input_tokens, said.output_tokens, said.total_tokens)
        assert (reading.model, reading.complete, reading.error) == (model, True, None)
        expected = 1 if "" in [one.arguments for one in said.tool_calls] and vendor in (chat, responses) else 0
        assert len(reading.irregular) == expected
        readings.append(reading)
    assert [differences(readings[0], one) for one in readings] == [[]] * len(readings)


@pytest.fixture
def chatgpt(vendor: Vendor) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{vendor.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(vendor: Vendor) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=vendor.url, api_key="none", max_retries=0) as client:
        yield client


def read(body: bytes) -> Reading:
    """One byte after the other."""
    reader = StreamReader()
    for at in range(len(body)):
        reader.feed(body[at : at + 1])
    reader.end()
    return reader.reading()


def same_whole(streamed: Reading, answer: Any) -> None:
    """The SDK's object, as the vendor would have sent it at once, says the same."""
    whole = read_answer("application/json", json.dumps(answer.to_dict()).encode())
    assert whole is not None
    assert differences(streamed, whole) == []
    assert [one.id for one in of(streamed, ToolCall)] == [one.id for one in of(whole, ToolCall)]
    assert [one.signature for one in of(streamed, Reasoning)] == [one.signature for one in of(whole, Reasoning)]
    assert (whole.id, whole.irregular, whole.events) == (streamed.id, (), 1)


def of(reading: Reading, kind: type[Any], choice: int = 0) -> list[Any]:
    return [item for item in reading.items if isinstance(item, kind) and item.choice == choice]


CHAT = {**shapes.CHAT, **random_streams.streams("chat")}
RESPONSES = {**shapes.RESPONSES, **random_streams.streams("responses")}
MESSAGES = {**shapes.MESSAGES, **random_streams.streams("messages")}
GEMINI = {**shapes.GEMINI, **{f"random {seed}": random_streams.gemini(seed) for seed in range(random_streams.NUMBER)}}


@pytest.mark.parametrize("name", CHAT)
def test_openai_chat(vendor: Vendor, chatgpt: openai.OpenAI, name: str) -> None:
    vendor.body = CHAT[name]
    asked: Any = {"model": "gpt-5", "messages": [{"role": "user", "content": "?"}]}
    with chatgpt.chat.completions.stream(**asked) as events:
        for _ in events:
            pass
        completion: Any = events.current_completion_snapshot
    reading = read(vendor.body)
    assert (reading.dialect, reading.complete, reading.error) == ("openai-chat", True, None)
    assert reading.model == completion.model or name == "filtered"  # the SDK keeps an empty one
    reasons = [choice.finish_reason for choice in sorted(completion.choices, key=lambda one: int(one.index))]
    assert reading.stop_reason == ", ".join(reasons)
    for choice in completion.choices:
        message = choice.message
        assert "".join(one.text for one in of(reading, Text, choice.index)) == (message.content or "")
        assert "".join(one.text for one in of(reading, Refusal, choice.index)) == (message.refusal or "")
        thought = getattr(message, "reasoning_content", None) or ""
        assert "".join(one.text for one in of(reading, Reasoning, choice.index)) == thought
        calls = [(one.id, one.function.name, one.function.arguments) for one in message.tool_calls or []]
        if message.function_call:
            calls.append(("", message.function_call.name, message.function_call.arguments))
        assert [(one.id, one.name, one.arguments) for one in of(reading, ToolCall, choice.index)] == calls
    if completion.usage is not None:
        used = completion.usage
        assert (reading.usage.input, reading.usage.output) == (used.prompt_tokens, used.completion_tokens)
        assert reading.usage.total == used.total_tokens
        assert reading.usage.cached == used.prompt_tokens_details.cached_tokens
        assert reading.usage.reasoning == used.completion_tokens_details.reasoning_tokens
    if name != "filtered":
        same_whole(reading, completion)


@pytest.mark.parametrize("name", RESPONSES)
def test_openai_responses(vendor: Vendor, chatgpt: openai.OpenAI, name: str) -> None:
    vendor.body = RESPONSES[name]
    final: Any = None
    for event in chatgpt.responses.create(model="gpt-5", input="?", stream=True):
        if event.type in ("response.completed", "response.incomplete"):
            final = event.response
    reading = read(vendor.body)
    assert (reading.dialect, reading.complete, reading.irregular) == ("openai-responses", True, ())
    assert (reading.model, reading.id) == (final.model, final.id)
    assert reading.text == final.output_text
    if final.status == "incomplete":
        assert reading.stop_reason == final.incomplete_details.reason
    else:
        assert reading.stop_reason == final.status
    calls, thoughts, refusals, others = [], [], [], []
    for item in final.output:
        if item.type == "function_call":
            calls.append((item.call_id, item.name, item.arguments, "function"))
        elif item.type == "custom_tool_call":
            calls.append((item.call_id, item.name, item.input, "custom"))
        elif item.type == "mcp_call":
            calls.append((item.id, item.name, item.arguments, "mcp_call"))
            others.append(item.output)
        elif item.type == "reasoning":
            thoughts += [summary.text for summary in item.summary]
        elif item.type == "message":
            refusals += [one.refusal for one in item.content if one.type == "refusal"]
        else:
            others.append(item.to_dict())
    assert [(one.id, one.name, one.arguments, one.kind) for one in of(reading, ToolCall)] == calls
    assert [one.text for one in of(reading, Reasoning)] == thoughts
    assert [one.text for one in of(reading, Refusal)] == refusals
    assert [one.value for one in of(reading, Other)] == others
    if final.usage is not None:
        assert (reading.usage.input, reading.usage.total) == (final.usage.input_tokens, final.usage.total_tokens)
        assert reading.usage.reasoning == final.usage.output_tokens_details.reasoning_tokens
    same_whole(reading, final)


@pytest.mark.parametrize("name", MESSAGES)
def test_anthropic_messages(vendor: Vendor, claude: anthropic.Anthropic, name: str) -> None:
    vendor.body = MESSAGES[name]
    asked: Any = {"model": "claude-opus-4-6", "messages": [{"role": "user", "content": "?"}], "max_tokens": 9}
    with claude.messages.stream(**asked) as events:
        message: Any = events.get_final_message()
    reading = read(vendor.body)
    assert (reading.dialect, reading.complete, reading.irregular) == ("anthropic-messages", True, ())
    assert (reading.model, reading.id, reading.stop_reason) == (message.model, message.id, message.stop_reason)
    used = message.usage
    cached = used.cache_read_input_tokens or 0
    assert reading.usage.input == used.input_tokens + cached + (used.cache_creation_input_tokens or 0)
    assert (reading.usage.output, reading.usage.cached or 0) == (used.output_tokens, cached)
    items = [item for item in reading.items if not isinstance(item, Citation)]
    cited = [one for block in message.content if block.type == "text" for one in block.citations or []]
    assert [item.quote for item in of(reading, Citation)] == [one.cited_text for one in cited]
    assert len(items) == len(message.content)
    for item, block in zip(items, message.content, strict=True):
        if block.type == "text":
            assert item == Text(block.text)
        elif block.type == "thinking":
            assert item == Reasoning(block.thinking, signature=block.signature)
        elif block.type == "redacted_thinking":
            assert item == Reasoning("", signature=block.data)
        elif block.type in ("tool_use", "server_tool_use"):
            assert isinstance(item, ToolCall)
            assert (item.id, item.name, item.parsed) == (block.id, block.name, block.input)
        else:
            assert isinstance(item, Other)
            assert item.kind == block.type
    same_whole(reading, message)


@pytest.mark.parametrize("name", GEMINI)
def test_gemini(vendor: Vendor, name: str) -> None:
    with warnings.catch_warnings():  # not above: its import takes each process of the tests a second
        warnings.simplefilter("ignore", DeprecationWarning)  # google-genai's own, while it is imported
        from google import genai  # noqa: PLC0415
        from google.genai import types  # noqa: PLC0415

    vendor.body = shapes.events(*GEMINI[name])
    client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=vendor.url))
    answers = list(client.models.generate_content_stream(model="gemini-3-pro", contents="?"))
    client.close()
    reading = read(vendor.body)
    assert (reading.dialect, reading.complete, reading.irregular) == ("gemini", True, ())
    assert differences(reading, read(shapes.array(GEMINI[name]))) == []
    for index in {item.choice for item in reading.items}:
        candidates = [one for answer in answers for one in answer.candidates or [] if (one.index or 0) == index]
        parts = [part for one in candidates for part in (one.content and one.content.parts) or []]
        text = "".join(part.text or "" for part in parts if not part.thought)
        thought = "".join(part.text or "" for part in parts if part.thought)
        calls = [(part.function_call.name, part.function_call.args or {}) for part in parts if part.function_call]
        assert "".join(one.text for one in of(reading, Text, index)) == text
        assert "".join(one.text for one in of(reading, Reasoning, index)) == thought
        assert [(one.name, one.parsed) for one in of(reading, ToolCall, index)] == calls
        others = sum(1 for part in parts if part.executable_code or part.code_execution_result or part.inline_data)
        assert len(of(reading, Other, index)) == others
    used = answers[-1].usage_metadata
    if used is not None:
        assert (reading.usage.input, reading.usage.total) == (used.prompt_token_count, used.total_token_count)
        assert reading.usage.reasoning == used.thoughts_token_count


@pytest.mark.parametrize("seed", effort.chosen(range(random_streams.NUMBER), *range(6)))
@pytest.mark.parametrize("dialect", random_streams.EVENTS)
def test_of_a_stream_that_is_cut_what_came_is_read(dialect: str, seed: int) -> None:
    """Of each part its beginning, and nothing else; only whole ones are complete."""
    events = random_streams.EVENTS[dialect](seed)
    whole = read(random_streams.body(dialect, events))
    for number in range(1 + seed % 3, len(events), 5):
        reading = read(random_streams.body(dialect, events[:number], done=False))
        assert reading.error is None
        for kind in (Text, Reasoning, Refusal):
            for choice in range(3):
                said, full = ("".join(one.text for one in of(each, kind, choice)) for each in (reading, whole))
                assert full.startswith(said) or dialect == "responses"  # whose items may come at the same time
        for choice in range(3):
            calls, all_calls = of(reading, ToolCall, choice), of(whole, ToolCall, choice)
            ids = [(one.id, one.name) for one in all_calls]
            assert all((one.id, one.name) in ids for one in calls)
            begins = {(one.id, one.name): one.arguments for one in all_calls}
            if dialect != "gemini":  # whose calls have no ids
                assert all(begins[one.id, one.name].startswith(one.arguments) for one in calls)


@pytest.mark.parametrize("seed", effort.chosen(range(random_streams.NUMBER), *range(6)))
def test_a_stream_that_is_resumed_is_read_once(seed: int) -> None:
    events = random_streams.responses(seed)
    whole = read(random_streams.body("responses", events))
    broken, again = 2 + seed % (len(events) - 2), seed % 7
    resumed = [*events[:broken], *({**event, "obfuscation": "x"} for event in events[max(0, broken - again) :])]
    reading = read(random_streams.body("responses", resumed))
    assert differences(whole, reading) == []
    assert all("what comes twice counts once" in remark for remark in reading.irregular)


def test_errors_in_mid_stream(vendor: Vendor, chatgpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    """The SDKs raise, or hand on, what our reading calls an error."""
    asked: Any = {"model": "gpt-5", "messages": [{"role": "user", "content": "?"}]}
    vendor.body = shapes.CHAT_ERROR
    with pytest.raises(openai.APIError, match="Überlast"):
        list(chatgpt.chat.completions.create(**asked, stream=True))
    vendor.body = shapes.RESPONSES_ERROR
    *_, last = chatgpt.responses.create(model="gpt-5", input="?", stream=True)
    assert (last.type, last.message) == ("error", "Slow down.")  # this one, the SDK hands on
    vendor.body = shapes.MESSAGES_ERROR
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        list(claude.messages.create(**asked, max_tokens=9, stream=True))
    for body, error, text in (
        (shapes.CHAT_ERROR, "server_error: Überlast", "so f"),
        (shapes.RESPONSES_ERROR, "rate_limit_exceeded: Slow down.", ""),
        (shapes.RESPONSES_FAILED, "server_error: The model broke.", "It r"),
        (shapes.MESSAGES_ERROR, "overloaded_error: Overloaded", "so f"),
        (shapes.GEMINI_ERROR, "UNAVAILABLE: The model is overloaded.", "x"),
    ):
        reading = read(body)
        assert (reading.error, reading.text, reading.complete) == (error, text, False)


def test_the_shapes_are_what_json_says() -> None:
    """A slip in the shapes themselves would prove nothing."""
    for body in shapes.every_stream().values():
        for line in body.decode().split("\n"):
            if line.startswith("data: {"):
                json.loads(line[6:])
