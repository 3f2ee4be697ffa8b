"""The dialects beside the four large ones: what is said in them, streamed and whole, in every form and gone wrong."""

from __future__ import annotations

import base64
import json
import struct
import warnings
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import openai
import pytest

from mitmproxy_x402.llm import (
    Citation,
    Detail,
    Other,
    Reading,
    Reasoning,
    StreamReader,
    Text,
    ToolCall,
    Usage,
    answer_text,
    differences,
    read_answer,
    text_of_frames,
)
from support.vendors import more_streams as m
from support.vendors import vendor_streams as v
from support.vendors.reading import read
from support.vendors.vendor_server import Vendor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # google-genai's own, while it is imported
    from google import genai
    from google.genai import types

THOUGHT, SAID = Reasoning("Hm, 日本"), Text("Grüße, 🦀")
WEATHER = '{"city":"Bern"}'


def call(identity: str = "t1", name: str = "weather", arguments: str = WEATHER) -> ToolCall:
    return ToolCall(identity, name, arguments, json.loads(arguments))


def whole(value: Any) -> Reading:
    found = read_answer("application/json", json.dumps(value).encode())
    assert found is not None
    return found


SIGNED = Reasoning("Hm, 日本", signature="EqQB")
BERN_CITED = Citation("citation", "two.txt", "", "cited words")
Wanted = tuple[bytes, str, str | None, tuple[Any, ...], Usage, str]
READINGS: dict[str, Wanted] = {
    "converse": (m.CONVERSE["all"], "bedrock-converse", None,
     (SIGNED, SAID, BERN_CITED, call(), call("t2", "now", "{}")), Usage(700, 12, None, 640, 712), "tool_use"),
    "cohere v2": (m.COHERE_V2["text"], "cohere-v2", None,
     (THOUGHT, SAID, Citation("citation", "", "t1:0", "Grüße")), Usage(700, 12, total=712), "COMPLETE"),
    "cohere v2 tools": (m.COHERE_V2["tools"], "cohere-v2", None,
     (Reasoning("First look."), call(), call("t2", "now", "{}")), Usage(700, 12, total=712), "TOOL_CALL"),
    "cohere v1": (m.COHERE_V1["text"], "cohere-v1", None,
     (SAID, Citation("citation", "", "d-1", "Grüße")), Usage(700, 12, total=712), "COMPLETE"),
    "cohere v1 tools": (m.COHERE_V1["tools"], "cohere-v1", None,
     (Text("First look."), call("")), Usage(700, 12, total=712), "COMPLETE"),
    "ollama chat": (m.OLLAMA["chat"], "ollama", "llama", (THOUGHT, SAID, call("")), Usage(13, 5, total=18), "stop"),
    "ollama generate": (m.OLLAMA["generate"], "ollama", "llama", (SAID,), Usage(13, 5, total=18), "length"),
    "interactions": (m.INTERACTIONS["text"], "gemini-interactions", "gemini-3-pro",
     (SIGNED, SAID, Citation("url_citation", "A page", "https://x.example/a")),
     Usage(7, 33, 21, 0, 40), "completed"),
    "interactions tool": (m.INTERACTIONS["tool"], "gemini-interactions", "gemini-3-pro", (call(),),
     Usage(7, 33, 21, 0, 40), "requires_action"),
    "assistants": (m.ASSISTANTS["text"], "openai-assistants", "gpt-5",
     (SAID, Citation("file_citation", "", "f-1")), Usage(17, 6, total=23), "completed"),
    "assistants tool": (m.ASSISTANTS["tool"], "openai-assistants", "gpt-5", (call(),), Usage(), "requires_action"),
    "transcription": (m.TRANSCRIPTION["text"], "openai-transcription", None, (SAID,), Usage(20, 9, total=29), ""),
    "complete": (m.COMPLETE["text"], "anthropic-complete", "claude-2", (Text(" Grüße, 🦀"),), Usage(), "stop_sequence"),
}  # fmt: skip


@pytest.mark.parametrize("name", READINGS)
def test_a_stream(name: str) -> None:
    body, dialect, model, items, usage, ended = READINGS[name]
    reading = read(body)
    assert (reading.dialect, reading.model, reading.items) == (dialect, model, items)
    assert (reading.usage, reading.stop_reason or "") == (usage, ended)
    assert (reading.complete, reading.irregular, reading.unread, reading.error) == (True, (), (), None)


@pytest.mark.parametrize(
    ("streamed", "at_once"),
    [
        (m.CONVERSE["all"], m.CONVERSE_WHOLE),
        (m.COHERE_V2["text"], m.COHERE_V2_WHOLE["text"]),
        (m.COHERE_V2["tools"], m.COHERE_V2_WHOLE["tools"]),
        (m.COHERE_V1["text"], m.COHERE_V1_WHOLE["text"]),
        (m.COHERE_V1["tools"], m.COHERE_V1_WHOLE["tools"]),
        (m.INTERACTIONS["text"], m.INTERACTION_WHOLE),
        (m.TRANSCRIPTION["text"], {"text": "Grüße, 🦀", "usage": m.TRANSCRIPT_USAGE}),
        (m.OLLAMA["chat"], {**m.said(True, content="Grüße, 🦀", thinking="Hm, 日本", tool_calls=[m.OLLAMA_CALL])}),
        (m.COMPLETE["text"], {"type": "completion", "id": "c", "completion": " Grüße, 🦀", "model": "claude-2",
                              "stop_reason": "stop_sequence", "stop": None}),
    ],
)  # fmt: skip
def test_the_same_at_once(streamed: bytes, at_once: Any) -> None:
    reading = whole(at_once)
    assert differences(read(streamed), reading) == []
    assert (reading.complete, reading.irregular, reading.events) == (True, (), 1)


@pytest.mark.parametrize("name", m.every_stream())
def test_without_its_last_third_it_is_not_complete(name: str) -> None:
    body = m.every_stream()[name]
    if name == "converse nothing":
        return
    reading = read(body[: len(body) * 2 // 3])
    # In these two, only numbers follow the reason of the end.
    assert reading.complete == (reading.dialect in ("openai-chat", "gemini") and reading.stop_reason is not None)
    assert reading.irregular
    assert answer_text(reading).startswith("model ")


# Forms.


@pytest.mark.parametrize("name", ["chat text", "messages text", "responses text", "gemini text", "messages error"])
@pytest.mark.parametrize("form", ["lines", "crlf", "no blank lines", "objects", "array", "records"])
def test_one_stream_in_other_forms(name: str, form: str) -> None:
    """What servers make of a stream, and what people save of one."""
    streams = v.every_stream()
    body = streams.get(name) or next(body for key, body in streams.items() if key.startswith(name.split(maxsplit=1)[0]))
    datas = [line[6:] for line in body.decode().split("\n") if line.startswith("data: {")]
    done = ["[DONE]"] if b"[DONE]" in body else []
    forms = {
        "lines": "\n".join([*datas, *done, ""]),
        "crlf": "".join(f"data: {data}\r\n\r\n" for data in [*datas, *done]),
        "no blank lines": "".join(f"data: {data}\n" for data in [*datas, *done]),
        "objects": "".join(datas),
        "array": "[" + ",".join(datas) + "]",
        "records": "".join(f"\x1e{data}\n" for data in datas),
    }
    reading = read(forms[form].encode())
    assert differences(read(body), reading) == []


def test_one_line_is_a_whole_answer_and_two_are_a_stream() -> None:
    one = m.lines(m.said(content="a"))
    reader = StreamReader()
    reader.feed(one)
    assert (reader.form, reader.reading().items) == ("object", ())
    reader.feed(m.lines(m.said(content="b")))
    assert (reader.form, reader.reading().text) == ("lines", "ab")
    assert read(one).text == "a"
    assert read(json.dumps(m.said(True, content="a"), indent=1).encode()).text == "a"


def test_bedrock_hands_on_other_dialects_in_its_frames() -> None:
    datas = [line[6:] for line in v.MESSAGES["thinking and a tool"].split(b"\n") if line.startswith(b"data: ")]
    frames = [m.event("chunk", {"bytes": base64.b64encode(data).decode(), "p": "abc"}) for data in datas]
    reading = read(b"".join(frames))
    assert differences(read(v.MESSAGES["thinking and a tool"]), reading) == []
    assert reading.irregular == ()


def test_converse_as_boto3_keeps_it() -> None:
    block = {"contentBlockIndex": 0, "delta": {"text": "a"}}
    said = {"messageStart": {"role": "assistant"}}, {"contentBlockDelta": block}, {"messageStop": {"stopReason": "x"}}
    reading = read(m.lines(*said))
    assert (reading.dialect, reading.text, reading.complete) == ("bedrock-converse", "a", True)


def test_nova_s_events_in_other_frames() -> None:
    said: list[dict[str, Any]] = [
        {"messageStart": {"role": "assistant"}},
        {
            "contentBlockDelta": {"delta": {"text": "a"}, "contentBlockIndex": 0},
            "amazon-bedrock-invocationMetrics": {"x": 1},
        },
        {"messageStop": {"stopReason": "end_turn"}},
        {"metadata": {"usage": {"inputTokens": 12, "outputTokens": 3, "cacheReadInputTokenCount": 0}}},
    ]
    frames = [m.event("chunk", {"bytes": base64.b64encode(json.dumps(one).encode()).decode()}) for one in said]
    reading = read(b"".join(frames))
    assert (reading.text, reading.usage.input, reading.complete, reading.unread) == ("a", 12, True, ())


@pytest.mark.parametrize(
    "value",
    [
        {"object": "thread.run", "id": "r", "status": "in_progress", "model": "m"},
        {"object": "interaction", "id": "i", "status": "in_progress", "agent": "m"},
        {"object": "response", "id": "r", "status": "queued", "model": "m", "output": []},
    ],
)
def test_what_is_asked_for_while_it_runs_is_neither_complete_nor_odd(value: Any) -> None:
    reading = whole(value)
    assert (reading.model, reading.complete, reading.irregular) == ("m", False, ())


def test_frames_in_no_known_dialect_are_shown_as_text() -> None:
    packed = base64.b64encode("Grüße".encode()).decode()
    frames = m.event("chunk", {"bytes": packed}) + m.event("trace", {"agentId": "A"}) + b"\0\0"
    assert text_of_frames(frames).splitlines() == [
        f'chunk: Grüße  {{"bytes":"{packed}"}}',
        'trace: {"agentId":"A"}',
        "(the stream ends in the middle of a frame, which is discarded)",
    ]
    assert text_of_frames(b"{}") == ""


def test_a_frame_with_a_wrong_checksum_is_told() -> None:
    frames = bytearray(m.STARTED + m.delta(0, text="alpha") + m.CONVERSE["nothing"])
    at = frames.index(b"alpha")
    frames[at] = ord("b")
    reading = read(bytes(frames))
    assert (reading.text, reading.complete) == ("blpha", True)
    assert "frame 2 has a wrong checksum; it is read all the same" in reading.irregular


def test_nothing_is_read_behind_a_frame_whose_length_is_in_doubt() -> None:
    frames = m.STARTED + m.delta(0, text="alpha")
    broken = frames + b"\0\0\1\0" + m.delta(0, text="beta")[4:]
    reading = read(broken)
    assert reading.text == "alpha"
    assert "the beginning of a frame has a wrong checksum: what follows is not read" in reading.irregular
    reading = read(frames[:-3])
    assert "the stream ends in the middle of a frame, which is discarded" in reading.irregular


@pytest.mark.parametrize("size", [1, 5, 12, 13, 100])
def test_a_frame_over_the_bound_is_dropped(size: int) -> None:
    body = (
        m.STARTED
        + m.delta(0, text="x" * 5000)
        + m.delta(0, text="y")
        + m.event("messageStop", {"stopReason": "end_turn"})
    )
    reader = StreamReader(max_event=1000)
    for at in range(0, len(body), size):
        reader.feed(body[at : at + size])
    reader.end()
    reading = reader.reading()
    assert (reading.text, reading.complete) == ("y", True)
    assert reading.irregular == ("a frame is larger than 1000 bytes and is dropped",)


@pytest.mark.parametrize("headers", [b"\xff", b"\x05:even", b"\x01a\x63", b"\x01a\x07\xff\xff", b"\x01a"])
def test_headers_that_cannot_be_read(headers: bytes) -> None:
    prelude = struct.pack(">II", 16 + len(headers) + 2, len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + b"{}"
    reading = read(m.CONVERSE["nothing"] + message + struct.pack(">I", crc32(message)))
    assert "the headers of frame 3 cannot be read" in reading.irregular


# Errors.


@pytest.mark.parametrize(
    ("body", "dialect", "error", "text"),
    [
        (m.CONVERSE_ERROR, "bedrock-converse", "throttlingException: Slow down.", "so f"),
        (m.lines(m.said(content="so f"), {"error": "out of memory"}), "ollama", "out of memory", "so f"),
        (v.events(v.chunk({"content": "so f"})) + b'error: {"error":{"message":"no room","code":5}}\n\n', "openai-chat",
         "5: no room", "so f"),
        (m.COHERE_V2["text"].replace(b'"COMPLETE"', b'"ERROR","error":"broke"'), "cohere-v2", "broke", "Grüße, 🦀"),
        (m.lines(m.v1("text-generation", text="so f"), m.v1("stream-end", finish_reason="ERROR_TOXIC", error="no")),
         "cohere-v1", "ERROR_TOXIC: no", "so f"),
        (v.events(m.interaction("created", "in_progress"), {"event_type": "error", "error": {
            "code": "quota", "message": "Slow down."}}), "gemini-interactions", "quota: Slow down.", ""),
        (m.run("created").encode() + m.run("failed", last_error={"code": "rate_limit", "message": "No."}).encode(),
         "openai-assistants", "rate_limit: No.", ""),
        (v.events({"type": "completion", "completion": "so f", "stop_reason": None},
                  {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, named=True),
         "anthropic-complete", "overloaded_error: Overloaded", "so f"),
        (v.events({"type": "transcript.text.delta", "delta": "so f"}, {"error": {"message": "No.", "code": "x"}}),
         "openai-transcription", "x: No.", "so f"),
    ],
)  # fmt: skip
def test_errors(body: bytes, dialect: str, error: str, text: str) -> None:
    reading = read(body)
    assert (reading.dialect, reading.error, reading.text, reading.complete) == (dialect, error, text, False)


def test_all_that_a_vendor_says_of_an_error_is_kept() -> None:
    error = {"message": "no", "type": "bad", "code": "tool_use_failed", "param": None, "failed_generation": '{"a": 1}',
             "metadata": {"raw": "the queue is full"}}  # fmt: skip
    reading = whole({"error": error})
    assert reading.details == (
        Detail("code", "tool_use_failed"),
        Detail("failed_generation", '{"a": 1}'),
        Detail("metadata", {"raw": "the queue is full"}),
    )
    assert (
        answer_text(reading)
        == """\
model  not said   failed
error  bad: no
  code: tool_use_failed
  failed_generation:
    {
      "a": 1
    }
  metadata:
    {
      "raw": "the queue is full"
    }
"""
    )


def test_details_are_bounded() -> None:
    reading = whole({"error": {"message": "no", **{f"k{n}": "x" * 100 for n in range(5000)}}})
    assert len(reading.details) == 50


# What is no answer.


@pytest.mark.parametrize(
    "value",
    [
        {"embeddings": [{"values": [0.1]}], "usageMetadata": {"promptTokenCount": 3}},
        {"object": "list", "data": [{"object": "embedding", "embedding": [0.1]}], "model": "m", "usage": {}},
        {"name": "cachedContents/one", "model": "m", "usageMetadata": {"totalTokenCount": 4}},
        {"totalTokens": 31, "promptTokensDetails": []},
        {"object": "conversation.item", "type": "message", "role": "user", "content": []},
        {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": []},
        {"candidates": [{"name": "a place", "geometry": {}}], "status": "OK"},
        {"choices": ["red", "green"]},
        {"choices": []},
        {"object": "response.deleted", "id": "r", "deleted": True},
        {"input_tokens": 14},
        {"id": "x", "object": "thread.message", "role": "assistant", "content": []},
        {"object": "thread", "id": "t"},
        {"models": [{"name": "llama", "size": 5}]},
        {"embedding": [0.1], "done": True},
        {"text": "a page"},
        {"id": "c", "embeddings": {"float": [[0.1]]}, "meta": {"billed_units": {"input_tokens": 1}}},
        {"message": "no route", "finish_reason": None},
        {"output": {"message": {"x": 1}}},
        {"status": "ok", "steps": 5},
        {"id": "j", "status": "SUCCESS", "model": "m", "outputs": [{"x": 1}], "errors": []},
        {"error": "Payment required", "x402Version": 2, "accepts": []},
    ],
)
def test_other_json_is_no_answer(value: Any) -> None:
    assert read_answer("application/json", json.dumps(value).encode()) is None


# The vendors' SDKs make the same of it.


@pytest.fixture
def chatgpt(vendor: Vendor) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{vendor.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", m.RESPONSES)
def test_openai_responses(vendor: Vendor, chatgpt: openai.OpenAI, name: str) -> None:
    vendor.body = m.RESPONSES[name]
    *_, last = chatgpt.responses.create(model="gpt-5", input="?", stream=True)
    final: Any = last
    reading = read(vendor.body)
    assert (reading.complete, reading.irregular, reading.unread) == (True, (), ())
    assert [item.value for item in reading.items if isinstance(item, Other)] == [
        item.to_dict() for item in final.response.output
    ]


@pytest.mark.parametrize("name", m.ASSISTANTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openai_assistants(vendor: Vendor, chatgpt: openai.OpenAI, name: str) -> None:
    vendor.body = m.ASSISTANTS[name]
    text, calls, last = "", [], None
    with chatgpt.beta.threads.runs.stream(thread_id="th", assistant_id="as") as events:
        for event in events:
            given: Any = event
            if event.event == "thread.message.delta":
                text += given.data.delta.content[0].text.value
            if event.event.startswith("thread.run.") and "step" not in event.event:
                last = given.data
    assert last is not None
    reading = read(vendor.body)
    assert (reading.model, reading.id, reading.stop_reason) == (last.model, last.id, last.status)
    assert reading.text == text
    if last.required_action:
        calls = [(one.id, one.function.name, one.function.arguments)
                 for one in last.required_action.submit_tool_outputs.tool_calls]  # fmt: skip
    assert [(one.id, one.name, one.arguments) for one in reading.tool_calls] == calls
    if last.usage:
        assert (reading.usage.input, reading.usage.output) == (last.usage.prompt_tokens, last.usage.completion_tokens)


def test_openai_transcription(vendor: Vendor, chatgpt: openai.OpenAI) -> None:
    vendor.body = m.TRANSCRIPTION["text"]
    stream = chatgpt.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", b"RIFF"), stream=True)
    *deltas, done = list(stream)
    last: Any = done
    reading = read(vendor.body)
    assert reading.text == last.text == "".join(getattr(one, "delta", "") for one in deltas)
    assert (reading.usage.input, reading.usage.total) == (last.usage.input_tokens, last.usage.total_tokens)


@pytest.mark.parametrize("name", m.INTERACTIONS)
@pytest.mark.filterwarnings("ignore")  # the SDK says that this part of it is experimental
def test_google_interactions(vendor: Vendor, name: str) -> None:
    vendor.body = m.INTERACTIONS[name]
    client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=vendor.url))
    events: list[Any] = list(client.interactions.create(model="gemini-3-pro", input="?", stream=True))
    client.close()
    reading = read(vendor.body)
    deltas = [event.delta for event in events if event.event_type == "step.delta"]
    assert reading.text == "".join(one.text for one in deltas if one.type == "text")
    arguments = "".join(one.arguments or "" for one in deltas if one.type == "arguments_delta")
    assert "".join(one.arguments for one in reading.tool_calls) == arguments
    final = events[-1].interaction
    assert (reading.model, reading.id, reading.stop_reason) == (final.model, final.id, final.status)
    assert (reading.usage.input, reading.usage.total) == (final.usage.total_input_tokens, final.usage.total_tokens)
    assert reading.usage.reasoning == final.usage.total_thought_tokens
