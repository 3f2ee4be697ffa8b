"""What it costs to read a long answer, and to look at it: CPU time for 4 MB of events in each of the large dialects."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from mitmproxy_x402.llm import StreamReader, answer_text
from mitmproxy_x402.views.reading import Answers

SIZE = 4 << 20
"""Bytes of a stream."""
PIECE = 64 << 10
"""Bytes that are fed at once, as they come from a connection."""
_WORDS = (" the", " weather", " in", " Zürich", " is", ' "fine"', "\n", " and", " 17")


def reading(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of CPU, by dialect, of `rounds` times: from the bytes to the text that a person reads."""
    return {name: [_measure(stream) for _ in range(rounds)] for name, stream in streams().items()}


def _measure(stream: bytes) -> float:
    begun = time.process_time()
    reader = StreamReader()
    for at in range(0, len(stream), PIECE):
        reader.feed(stream[at : at + PIECE])
    reader.end()
    found = reader.reading()
    assert found.complete, found.irregular
    answer_text(found)
    return (time.process_time() - begun) * 1000


def views(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of CPU that the event loop itself spends at once on the view of each stream, at most."""
    return {name: [_look(stream) for _ in range(rounds)] for name, stream in streams().items()}


def _look(stream: bytes) -> float:
    """Look again until all of it is read, as a screen does."""
    answers, longest, text = Answers(), 0.0, "being read"
    while "being read" in text[:100]:
        begun = time.thread_time()
        text = answers.text("text/event-stream", stream)
        longest = max(longest, time.thread_time() - begun)
    return longest * 1000


def streams() -> dict[str, bytes]:
    """A stream of ordinary events in each dialect: one with text, of chat also one with a call's arguments."""
    return {
        "chat, text": _fill(lambda n: _chat({"content": _word(n)}), [], [_chat({}, "stop"), b"data: [DONE]\n\n"]),
        "chat, a call": _fill(
            lambda _: _chat({"tool_calls": [{"index": 0, "function": {"arguments": '"ab",'}}]}),
            [_chat({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"x":['}}]})],
            [_chat({"tool_calls": [{"index": 0, "function": {"arguments": "0]}"}}]}), _chat({}, "tool_calls")],
        ),
        "responses": _fill(
            lambda n: _named({"type": "response.output_text.delta", "item_id": "msg_" + "0" * 48, "output_index": 0,
                              "content_index": 0, "delta": _word(n), "logprobs": [], "obfuscation": "aBcDeFgHiJ"}),
            [_named({"type": "response.created", "response": _RESPONSE}),
             _named({"type": "response.output_item.added", "output_index": 0,
                     "item": {"type": "message", "content": []}})],
            [_named({"type": "response.completed", "response": {**_RESPONSE, "status": "completed"}})],
        ),
        "messages": _fill(
            lambda n: _named({"type": "content_block_delta", "index": 0,
                              "delta": {"type": "text_delta", "text": _word(n)}}),
            [_named({"type": "message_start", "message": {"id": "m", "model": "claude", "usage": {"input_tokens": 3}}}),
             _named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})],
            [_named({"type": "content_block_stop", "index": 0}),
             _named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
             _named({"type": "message_stop"})],
        ),
        "gemini": _fill(lambda n: _gemini(n, _word(n)), [], [_gemini(0, "", finishReason="STOP")]),
    }  # fmt: skip


_RESPONSE = {"id": "r", "object": "response", "status": "in_progress", "model": "gpt-5", "output": []}


def _fill(event: Callable[[int], bytes], first: list[bytes], last: list[bytes]) -> bytes:
    size, events = 0, [*first]
    while size < SIZE:
        events.append(event(len(events)))
        size += len(events[-1])
    return b"".join([*events, *last])


def _word(number: int) -> str:
    return _WORDS[number % len(_WORDS)]


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def _named(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\n".encode() + _event(value)


def _chat(delta: Any, finish: str | None = None) -> bytes:
    head = {"id": "chatcmpl-" + "0" * 29, "object": "chat.completion.chunk", "created": 1767225600}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _event({**head, "model": "gpt-5-mini-2025-08-07", "system_fingerprint": None, "choices": [choice]})


def _gemini(number: int, text: str, **more: Any) -> bytes:
    usage = {"promptTokenCount": 8, "candidatesTokenCount": number, "totalTokenCount": 8 + number}
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}
    return _event(
        {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-3", "responseId": "r" * 16}
    )
