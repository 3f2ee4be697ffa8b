"""Answers in the dialects beside the four large ones: those that come to their end, are cut short, or fail."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from support.attacker import http, sse

from .more_streams import event, exception, lines

LINES = "application/x-ndjson"
FRAMES = "application/vnd.amazon.eventstream"
DONE = "data: [DONE]\n\n"
LINE_TYPES = (
    *(LINES, "application/stream+json", "application/jsonl", "application/json-seq", "application/jsonlines"),
    *("text/plain", "text/plain; charset=utf-8", "application/json", "application/octet-stream"),
)
LONG = "y" * 60_000


def plain(*events: dict[str, Any], done: bool = False) -> bytes:
    """Events without names."""
    return sse(*(f"data: {json.dumps(each)}\n\n" for each in events), *([DONE] if done else []))


def named(*events: tuple[str, dict[str, Any]], done: bool = False) -> bytes:
    end = [f"event: done\n{DONE}"] if done else []
    return sse(*(f"event: {name}\ndata: {json.dumps(said)}\n\n" for name, said in events), *end)


def frames(*parts: bytes) -> bytes:
    return http(200, b"".join(parts), content_type=FRAMES)


def chunk(said: dict[str, Any]) -> bytes:
    """A frame of InvokeModel."""
    return event("chunk", {"bytes": b64encode(json.dumps(said).encode()).decode(), "p": "abc"})


def text(body: bytes, kind: str = LINES) -> bytes:
    return http(200, body, content_type=kind)


# Cohere, version 2 and version 1.
V2 = [
    ("message-start", {"type": "message-start", "id": "x", "delta": {"message": {"role": "assistant"}}}),
    ("content-delta", {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hi"}}}}),
]
TOOL = {"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": {"function": {"arguments": "{"}}}}}


def v2_end(reason: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "message-end", {"type": "message-end", "delta": {"finish_reason": reason, **more}}


V1 = [
    {"is_finished": False, "event_type": "stream-start", "generation_id": "x"},
    {"is_finished": False, "event_type": "text-generation", "text": "Hi"},
]


def v1_end(reason: str, answer: str = "Hi") -> dict[str, Any]:
    return {"is_finished": True, "event_type": "stream-end", "finish_reason": reason, "response": {"text": answer}}


OLLAMA = {"model": "m", "created_at": "x", "message": {"role": "assistant", "content": "Hi"}, "done": False}
OLLAMA_END = {"model": "m", "created_at": "x", "response": "", "done": True, "done_reason": "stop"}

# Google's interactions.
STEP = {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": "Hi"}}
CREATED = {"event_type": "interaction.created", "interaction": {"id": "i", "status": "in_progress"}}


def interaction(status: str, **more: Any) -> dict[str, Any]:
    """Its type comes last."""
    return {"interaction": {"id": "i", **more, "status": status}, "event_type": "interaction.completed"}


def status_update(status: str) -> dict[str, Any]:
    return {"event_type": "interaction.status_update", "interaction_id": "i", "status": status}


# OpenAI's assistants, transcriptions, speech and images.
FRAGMENT = {"object": "thread.message.delta", "delta": {"content": [{"index": 0, "text": {"value": "Hi"}}]}}
RUNNING = ("thread.run.created", {"id": "run", "object": "thread.run", "status": "queued"})
SAYING = ("thread.message.delta", FRAGMENT)


def run(status: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return f"thread.run.{status}", {"id": "run", "object": "thread.run", **more, "status": status}


HEARD = {"type": "transcript.text.delta", "delta": "x"}
SPOKEN = {"type": "speech.audio.delta", "audio": "AAAA"}
PICTURE = {"type": "image_generation.partial_image", "b64_json": "A" * 40_000, "partial_image_index": 0}
CHOICE = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}


def choice(index: int, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": "x"}, "finish_reason": reason}]}


def candidate(index: int, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"index": index, "content": {"parts": [{"text": "x"}]}, **more}]}


COMPLETION = {"type": "completion", "completion": "Hi", "stop_reason": None, "model": "m"}

# Bedrock.
STARTED = event("messageStart", {"role": "assistant"})
DELTA = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hi"}})
STOPPED = event("messageStop", {"stopReason": "end_turn"})
METADATA = event("metadata", {"usage": {"inputTokens": 1}, "metrics": {"latencyMs": 9}})
LLAMA = {"generation": "Hi", "prompt_token_count": None, "generation_token_count": 1, "stop_reason": None}
NOVA = {"contentBlockDelta": {"delta": {"text": "Hi"}, "contentBlockIndex": 0}}
CLAUDE = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
THROTTLED = exception("throttlingException", {"message": "Too many requests"})

LAST_LINE = {**OLLAMA_END, "context": [12345] * 30_000}

ENDED: dict[str, bytes] = {
    "cohere 2": named(*V2, v2_end("COMPLETE")),
    "cohere 2: at its limit, and [DONE]": sse(*(each for _, each in [*V2, v2_end("MAX_TOKENS")]), DONE),
    "cohere 2: without names": plain(*(each for _, each in [*V2, v2_end("TOOL_CALL")])),
    **{f"cohere 1 as {kind}": text(lines(*V1, v1_end("COMPLETE")), kind) for kind in LINE_TYPES},
    "cohere 1: a long end": text(lines(*V1, v1_end("COMPLETE", LONG)), "application/stream+json"),
    "cohere 1: records": text(b"".join(b"\x1e" + lines(each) for each in [*V1, v1_end("MAX_TOKENS")]), LINE_TYPES[3]),
    "cohere 1: events": plain(*V1, v1_end("COMPLETE")),
    **{f"ollama as {kind}": text(lines(OLLAMA, OLLAMA_END), kind) for kind in LINE_TYPES},
    **{f"ollama: a long end as {kind}": text(lines(OLLAMA, LAST_LINE), kind) for kind in LINE_TYPES},
    "ollama: a long end without a line's end": text(lines(OLLAMA, LAST_LINE)[:-1]),
    "ollama: all in one long line": text(lines(LAST_LINE)),
    "ollama: many, and a long end": text(lines(*[OLLAMA] * 500, LAST_LINE)),
    "interactions": plain(CREATED, STEP, interaction("completed")),
    "interactions: with names": named(
        ("interaction.created", CREATED),
        ("step.delta", STEP),
        ("interaction.completed", interaction("requires_action")),
        done=True,
    ),
    "interactions: by a status": plain(CREATED, STEP, status_update("completed")),
    "interactions: a long end": plain(CREATED, STEP, interaction("completed", steps=[{"content": [{"text": LONG}]}])),
    "interactions: out of budget": plain(CREATED, STEP, interaction("budget_exceeded")),
    "assistants": named(RUNNING, SAYING, run("completed"), done=True),
    "assistants: without [DONE]": named(RUNNING, SAYING, run("requires_action")),
    "assistants: without names": plain(RUNNING[1], FRAGMENT, run("incomplete")[1]),
    "assistants: a long end": named(RUNNING, SAYING, run("completed", instructions=LONG)),
    "assistants: a long end without names": plain(RUNNING[1], FRAGMENT, run("completed", instructions=LONG)[1]),
    "assistants: a step that failed": named(
        RUNNING, ("thread.run.step.failed", {"object": "thread.run.step", "status": "failed"}), run("completed")
    ),
    "transcription": sse(HEARD, {"type": "transcript.text.done", "text": "x"}),
    "transcription: a long end": sse(HEARD, {"type": "transcript.text.done", "text": LONG}),
    "speech": sse(SPOKEN, {"type": "speech.audio.done", "usage": {}}),
    "images": sse(PICTURE, {"type": "image_generation.completed", "b64_json": "A" * 40_000}),
    "images: edited, without names": plain(
        {**PICTURE, "type": "image_edit.partial_image"}, {"b64_json": LONG, "type": "image_edit.completed"}
    ),
    "anthropic complete": sse(COMPLETION, {**COMPLETION, "stop_reason": "stop_sequence"}),
    "converse": frames(STARTED, DELTA, STOPPED, METADATA),
    "converse: long": frames(STARTED, DELTA * 500, STOPPED, METADATA),
    "converse: no usage": frames(STARTED, DELTA, STOPPED),
    "invoke: llama": frames(chunk(LLAMA), chunk({**LLAMA, "generation": "", "stop_reason": "stop"})),
    "invoke: titan": frames(
        chunk({"outputText": "Hi", "index": 0, "totalOutputTextTokenCount": None, "completionReason": None}),
        chunk({"outputText": "", "index": 0, "totalOutputTextTokenCount": 3, "completionReason": "FINISH"}),
    ),
    "invoke: mistral": frames(
        chunk({"outputs": [{"text": "Hi", "stop_reason": None}]}),
        chunk({"outputs": [{"text": "", "stop_reason": "stop"}]}),
    ),
    "invoke: nova": frames(chunk(NOVA), chunk({"messageStop": {"stopReason": "end_turn"}}), chunk({"metadata": {}})),
    "invoke: claude": frames(chunk(CLAUDE), chunk({"type": "message_stop"})),
    "frames of an unknown kind": frames(event("TranscriptEvent", {"Transcript": {}}) * 3),
    "frames that are none": text(b"some bytes", FRAMES),
    "gemini: a reason as a number": plain({"candidates": [{"content": {"parts": []}, "finishReason": 1}]}),
    "gemini: wrapped by Code Assist": plain({"response": {"candidates": [{"finishReason": "STOP"}]}, "traceId": "t"}),
    "chat: two": plain(choice(0), choice(1), choice(1, "stop"), choice(0, "stop"), {"choices": [], "usage": {}}),
    "chat: two, one after the other": plain(choice(0, "stop"), *[choice(1)] * 100, choice(1, "stop")),
    "chat: more after the reason": plain(choice(0), choice(0, "stop"), choice(0)),
    "chat: two in one": plain({"choices": [*choice(0, "stop")["choices"], *choice(1, "length")["choices"]]}),
    "gemini: two": plain(candidate(0), candidate(1, finishReason="STOP"), candidate(0, finishReason="MAX_TOKENS")),
    "gemini: blocked on the way": plain(candidate(0), {"promptFeedback": {"blockReason": "OTHER"}}),
    "minimax": plain({**CHOICE, "base_resp": {"status_code": 0, "status_msg": ""}}, done=True),
    "lines of an unknown kind": text(lines({"a": 1}, {"b": [2]})),
    "a file of text whose last line is JSON": text(b'{"level": "info"\nboom\n' + lines({"error": "x"}), "text/plain"),
    "tool calls of another vendor": plain({"type": "tool-call-delta", "argsTextDelta": "{"}, {"type": "finish"}),
}

CUT: dict[str, bytes] = {
    "cohere 2": named(*V2),
    "cohere 2: [DONE] without the end": sse(*(each for _, each in V2), DONE),
    "cohere 2: without names": plain(*(each for _, each in V2)),
    "cohere 2: in the middle of a call": plain(*(each for _, each in V2), *[TOOL] * 100),
    **{f"cohere 1 as {kind}": text(lines(*V1), kind) for kind in LINE_TYPES},
    "cohere 1: in the middle of the end": text(lines(*V1, v1_end("COMPLETE"))[:-9], "application/stream+json"),
    "cohere 1: in the middle of a long end": text(lines(*V1, v1_end("COMPLETE", LONG))[:-9], "application/stream+json"),
    **{f"ollama as {kind}": text(lines(OLLAMA, OLLAMA), kind) for kind in LINE_TYPES},
    "ollama: in the middle of a long end": text(lines(OLLAMA, LAST_LINE)[:-9]),
    "ollama: a long line": text(lines(OLLAMA, {**OLLAMA, "response": LONG, "logprobs": [{"a": [1]}] * 9000})),
    "interactions": plain(CREATED, STEP),
    "interactions: long": plain(CREATED, *[STEP] * 500),
    "interactions: [DONE] without the end": plain(CREATED, STEP, done=True),
    "interactions: by a status": plain(CREATED, STEP, status_update("in_progress")),
    "interactions: a long event": plain(CREATED, {"delta": {"data": [LONG]}, "event_type": "step.delta"}),
    "assistants": named(RUNNING, SAYING, done=True),
    "assistants: without names": plain(RUNNING[1], FRAGMENT),
    "assistants: a long event": named(RUNNING, ("thread.run.in_progress", {"instructions": LONG})),
    "transcription": sse(HEARD, HEARD),
    "speech": sse(SPOKEN),
    "images": sse(PICTURE),
    "anthropic complete": sse(COMPLETION, COMPLETION),
    "converse": frames(STARTED, DELTA),
    "converse: long": frames(STARTED, DELTA * 500),
    "converse: in the middle of a frame": frames(STARTED, DELTA, STOPPED, METADATA[:-3]),
    "converse: in the middle of the first frame": frames(STARTED[:-3]),
    "frames of an unknown kind": frames(event("TranscriptEvent", {"Transcript": {}}) * 3 + STARTED[:20]),
    "invoke: llama": frames(chunk(LLAMA), chunk(LLAMA)),
    "invoke: nova": frames(chunk(NOVA)),
    "invoke: claude": frames(chunk(CLAUDE)),
    "lines of an unknown kind": text(lines({"a": 1}) + b'{"b": ['),
    "chat: one of two": plain(choice(0), choice(1), choice(0, "stop")),
    "chat: one of two in one": plain({"choices": [*choice(0, "stop")["choices"], *choice(1)["choices"]]}),
    "gemini: one of two": plain(candidate(0), candidate(1), candidate(1, finishReason="STOP")),
    "gemini: wrapped by Code Assist": plain({"response": {"candidates": [{"content": {}}]}, "traceId": "t"}),
}

FAILED: dict[str, bytes] = {
    **{
        f"cohere 2: {reason}": named(*V2, v2_end(reason, **more))
        for reason, more in (("ERROR", {"error": "boom"}), ("TIMEOUT", {}), ("COMPLETE", {"error": "boom"}))
    },
    "cohere 2: ERROR and [DONE]": sse(*(each for _, each in [*V2, v2_end("ERROR")]), DONE),
    **{f"cohere 1: {reason}": text(lines(*V1, v1_end(reason))) for reason in ("ERROR", "ERROR_LIMIT", "ERROR_TOXIC")},
    "cohere 1: a long end": text(lines(*V1, v1_end("ERROR", LONG)), "application/stream+json"),
    "ollama": text(lines(OLLAMA, {"error": "boom"})),
    "ollama as text/plain": text(lines(OLLAMA, {"error": "boom"}), "text/plain"),
    "interactions": plain(CREATED, STEP, interaction("failed"), done=True),
    "interactions: cancelled": plain(CREATED, STEP, interaction("cancelled")),
    "interactions: by a status": plain(CREATED, STEP, status_update("failed"), interaction("completed")),
    "interactions: an error": plain(CREATED, {"event_type": "error", "error": {"code": "x"}}, interaction("completed")),
    "interactions: a long end": plain(CREATED, interaction("failed", steps=[{"content": [{"text": LONG}]}])),
    **{f"assistants: {status}": named(RUNNING, SAYING, run(status), done=True) for status in ("failed", "expired")},
    "assistants: cancelled, without names": plain(RUNNING[1], run("cancelled")[1], done=True),
    "assistants: an error": named(RUNNING, ("error", {"message": "boom"}), run("completed"), done=True),
    "assistants: failed, long": named(RUNNING, SAYING, run("failed", instructions=LONG), done=True),
    "groq": plain(CHOICE, {"choices": [], "x_groq": {"error": "over capacity"}}, done=True),
    "groq, long before the end": plain({"choices": [], "x_groq": {"error": "x"}}, *[CHOICE] * 500, done=True),
    "vllm": plain(CHOICE, {"object": "error", "message": "boom", "code": 500}, done=True),
    "vllm, long before the end": plain({"object": "error", "message": "boom"}, *[CHOICE] * 500, done=True),
    "vllm, not streamed": http(200, b'{"object": "error", "message": "boom", "code": 400}'),
    "minimax": plain(CHOICE, {"base_resp": {"status_code": 1001}, "choices": None}, done=True),
    "minimax, not streamed": http(200, b'{"base_resp": {"status_code": 1004, "status_msg": "no"}}'),
    "a choice with an error": plain({"choices": [{"index": 0, "delta": {}, "error": {"code": 502}}]}, done=True),
    "an error in a list": sse(f"data: {json.dumps(CHOICE)}\n\n", 'data: [{"error": {"code": 503}}]\n\n', DONE),
    "an error in a field of its own": sse(f"data: {json.dumps(CHOICE)}\n\n", 'error: {"message": "boom"}\n\n', DONE),
    "converse": frames(STARTED, DELTA, THROTTLED),
    "converse: after its end": frames(STARTED, DELTA, STOPPED, THROTTLED),
    "invoke": frames(chunk(LLAMA), THROTTLED),
    "frames of an unknown kind": frames(event("TranscriptEvent", {}), THROTTLED),
    "an interaction, not streamed": http(200, b'{"object": "interaction", "status": "failed"}'),
    "cohere 2, not streamed": http(200, b'{"id": "x", "finish_reason": "ERROR", "message": {"role": "assistant"}}'),
}
