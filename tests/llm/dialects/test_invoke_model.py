"""Bedrock's InvokeModel: answers of Titan, Llama, Mistral, Cohere's Command and Jurassic, in frames and whole."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mitmproxy_x402.llm import Reading, Usage, answer_text, differences, read_answer, read_request, request_text
from support.vendors import more_streams as m

METRICS = {"inputTokenCount": 7, "outputTokenCount": 3, "invocationLatency": 900, "firstByteLatency": 200}
LAST = {"amazon-bedrock-invocationMetrics": METRICS}
TITAN: list[dict[str, Any]] = [
    {"outputText": "Grüße, ", "index": 0, "totalOutputTextTokenCount": None, "completionReason": None,
     "inputTextTokenCount": 7},
    {"outputText": "🦀", "index": 1, "totalOutputTextTokenCount": 3, "completionReason": "FINISH",
     "inputTextTokenCount": None, **LAST},
]  # fmt: skip
LLAMA: list[dict[str, Any]] = [
    {"generation": "Grüße, ", "prompt_token_count": 7, "generation_token_count": 1, "stop_reason": None},
    {"generation": "🦀", "prompt_token_count": None, "generation_token_count": 3, "stop_reason": "stop", **LAST},
]
MISTRAL: list[dict[str, Any]] = [
    {"outputs": [{"text": "Grüße, ", "stop_reason": None}]},
    {"outputs": [{"text": "🦀", "stop_reason": "length"}], **LAST},
]
COMMAND: list[dict[str, Any]] = [
    {"text": "Grüße, ", "is_finished": False},
    {"text": "🦀", "is_finished": False},
    {"is_finished": True, "finish_reason": "COMPLETE", "index": 0, **LAST},
]
STREAMS = {"titan": (TITAN, "FINISH"), "llama": (LLAMA, "stop"), "mistral": (MISTRAL, "length"),
           "command": (COMMAND, "COMPLETE")}  # fmt: skip
WHOLES: dict[str, dict[str, Any]] = {
    "titan": {"inputTextTokenCount": 7, "results": [
        {"tokenCount": 3, "outputText": "Grüße, 🦀", "completionReason": "FINISH"}]},
    "llama": {"generation": "Grüße, 🦀", "prompt_token_count": 7, "generation_token_count": 3, "stop_reason": "stop"},
    "mistral": {"outputs": [{"text": "Grüße, 🦀", "stop_reason": "length"}], **LAST},
    "command": {"id": "c", "prompt": "p", **LAST,
                "generations": [{"id": "g", "text": "Grüße, 🦀", "finish_reason": "COMPLETE"}]},
}  # fmt: skip


def frames(said: list[dict[str, Any]]) -> bytes:
    return b"".join(m.event("chunk", {"bytes": base64.b64encode(json.dumps(one).encode()).decode()}) for one in said)


def read(body: bytes, kind: str = "application/vnd.amazon.eventstream") -> Reading:
    reading = read_answer(kind, body)
    assert reading is not None
    return reading


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream(name: str) -> None:
    said, reason = STREAMS[name]
    reading = read(frames(said))
    assert (reading.dialect, reading.text, reading.stop_reason) == ("bedrock-invoke", "Grüße, 🦀", reason)
    assert (reading.complete, reading.irregular, reading.unread) == (True, (), ())
    assert reading.usage == Usage(7, 3, total=10)
    assert answer_text(reading).startswith(f"model  not said   finished: {reason}   tokens: 10 (in 7, out 3)")


@pytest.mark.parametrize("name", WHOLES)
def test_the_same_at_once(name: str) -> None:
    reading = read(json.dumps(WHOLES[name]).encode(), "application/json")
    assert differences(read(frames(STREAMS[name][0])), reading) == []
    assert (reading.complete, reading.irregular) == (True, ())


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_is_cut_is_not_complete(name: str) -> None:
    reading = read(frames(STREAMS[name][0][:-1]))
    assert reading.text.startswith("Grüße, ")
    assert not reading.complete
    assert reading.irregular == ("the answer is not complete: there is no reason why it ended",)


def test_jurassic() -> None:
    said = {"id": 1, "prompt": {"text": "p", "tokens": []}, "completions": [
        {"data": {"text": "a", "tokens": []}, "finishReason": {"reason": "endoftext"}},
        {"data": {"text": "b", "tokens": []}, "finishReason": {"reason": "length", "length": 5}}]}  # fmt: skip
    reading = read(json.dumps(said).encode(), "application/json")
    assert [(item.choice, item.text) for item in reading.items if hasattr(item, "text")] == [(0, "a"), (1, "b")]
    assert (reading.stop_reason, reading.complete) == ("endoftext, length", True)


def test_mistral_s_chat_has_choices_that_say_why_they_stopped() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    reading = read(frames([{"choices": [{"index": 0, "message": message, "stop_reason": "tool_calls"}], **LAST}]))
    assert (reading.stop_reason, reading.complete, reading.tool_calls[0].name) == ("tool_calls", True, "f")
    assert reading.usage == Usage(7, 3, total=10)


@pytest.mark.parametrize(
    "other",
    [
        {"outputs": [{"text": "x"}]},
        {"results": [{"text": "x"}]},
        {"generation": "x"},
        {"text": "x"},
        {"completions": [{"text": "x"}]},
        {"embedding": [0.5], "inputTextTokenCount": 3},
        {"images": ["eA=="], "error": None},
    ],
)
def test_other_json_is_none_of_these(other: dict[str, Any]) -> None:
    reading = read_answer("application/json", json.dumps(other).encode())
    assert reading is None or reading.dialect != "bedrock-invoke"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"inputText": "Hi", "textGenerationConfig": {"maxTokenCount": 5}}, "maxTokenCount: 5"),
        ({"prompt": "Hi", "max_gen_len": 5}, "max_gen_len: 5"),
    ],
)
def test_requests(body: dict[str, Any], shown: str) -> None:
    path = "/model/us.meta.llama3-1-8b/invoke-with-response-stream"
    asked = read_request(path, "application/json", json.dumps(body).encode())
    assert asked is not None
    assert (asked.dialect, asked.model, asked.streamed) == ("bedrock-invoke", "us.meta.llama3-1-8b", True)
    text = request_text(asked)
    assert shown in text
    assert text.endswith("1  user\n  Hi\n")


def test_titan_s_events_behind_a_guardrail() -> None:
    """Those but the last have neither a reason nor a number of its own."""
    did = {"index": 0.0, "amazon-bedrock-guardrailAction": "INTERVENED"}
    trace = {"amazon-bedrock-trace": {"guardrail": {"actionReason": "Guardrail masked."}}}
    first = {"outputText": "Grüße, ", "inputTextTokenCount": 7.0, **did}
    last = {"outputText": "{Name}", "totalOutputTextTokenCount": 3.0, "completionReason": "FINISH", **did, **trace}
    reading = read(frames([first, {"outputText": "an ", **did}, last]))
    assert (reading.text, reading.stop_reason, reading.complete) == ("Grüße, an {Name}", "FINISH", True)
    assert (reading.unread, reading.irregular, reading.usage.total) == ((), (), 10)
    assert "Guardrail masked." in answer_text(reading)


def test_a_prompt_that_a_guardrail_blocks() -> None:
    blocked = {"outputText": "Input blocked", "index": 0.0, "totalOutputTextTokenCount": 3.0,
               "inputTextTokenCount": 6.0, "amazon-bedrock-guardrailAction": "INTERVENED"}  # fmt: skip
    reading = read(frames([blocked]))
    assert (reading.text, reading.stop_reason, reading.complete) == ("Input blocked", "INTERVENED", True)
    assert reading.irregular == ()
