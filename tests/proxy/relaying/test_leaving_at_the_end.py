"""Clients that close their connection when they have what they want, as OpenAI's SDK does at `[DONE]`."""

from __future__ import annotations

import json

import pytest

from support import challenges
from support.patience import eventually
from support.rig import Rig
from support.vendors import dialect_ends as dialects
from support.wire import Peer, Upstream, read_message, request

CHAT, MESSAGES, OTHER = "/v1/chat/completions", "/v1/messages", "/v1/other"
BEGUN = {
    CHAT: b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n',
    MESSAGES: b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n',
    OTHER: b'data: {"some":"event"}\n\n',
}
OF_TWO = b'data: {"choices":[{"index":%d,"delta":{"content":"hi"},"finish_reason":%b}]}\n\n'
FINISHED = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
ENDS = {
    "[DONE]": (CHAT, FINISHED + b"data: [DONE]\n\n"),
    "the finish reason": (CHAT, FINISHED),
    "[DONE] after two": (CHAT, OF_TWO % (0, b'"stop"') + OF_TWO % (1, b'"stop"') + b"data: [DONE]\n\n"),
    "message_stop": (MESSAGES, b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
}
FAILED = b'data: {"error":{"message":"overloaded"}}\n\ndata: [DONE]\n\n'


def leave_twice(
    rig: Rig, path: str, sent: bytes, kind: str = "text/event-stream", **asked: object
) -> list[bytes | None]:
    """Ask the same twice, and leave when `sent` has come. Returns the payments that were sent."""

    def script(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind.encode())
        peer.send(b"%x\r\n%b\r\n" % (len(sent), sent))
        peer.rest()

    def ended() -> int:
        return rig.proxy.log.count("sent, not confirmed yet")

    rig.script(script)
    for _ in range(2):
        before = ended()
        with rig.client() as client:
            client.send(request("POST", path, json.dumps({"messages": sent.hex(), **asked}).encode()))
            client.until(b"\r\n\r\n")
            got = b""
            while len(got) < len(sent):
                got += client.chunk()
            assert got == sent
        eventually(lambda before=before: ended() > before)  # type: ignore[misc]
    return [each.get(b"payment-signature") for each in rig.upstream.requests if each.get(b"payment-signature")]


@pytest.mark.parametrize("end", ENDS)
def test_at_the_end_of_a_stream_it_has_what_was_paid_for(rig: Rig, end: str) -> None:
    """So the same prompt is another purchase, as often as it comes."""
    path, last = ENDS[end]
    first, second = leave_twice(rig, path, BEGUN[path] + last)
    assert first != second


TEXT, GEMINI = "/v1/completions", "/v1beta/models/g:streamGenerateContent"
SEVERAL: dict[str, tuple[str, bytes, dict[str, object]]] = {
    "n": (CHAT, BEGUN[CHAT] + FINISHED, {"n": 2}),
    "another has begun": (CHAT, OF_TWO % (1, b"null") + OF_TWO % (0, b'"stop"'), {}),
    "prompts": (
        TEXT,
        b'data: {"choices":[{"text":"a","finish_reason":"stop"}]}\n\n',
        {"prompt": ["a", "b"]},
    ),
    "a reason that each chunk may have": (
        GEMINI,
        b'data: {"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}\n\n',
        {},
    ),
    "candidates": (
        GEMINI,
        b'data: {"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}\n\n',
        {"generationConfig": {"candidateCount": 2}},
    ),
}


@pytest.mark.parametrize("which", SEVERAL)
def test_the_end_of_one_of_several_answers_is_not_the_end(rig: Rig, which: str) -> None:
    path, sent, asked = SEVERAL[which]
    first, second = leave_twice(rig, path, sent, **asked)
    assert first == second


@pytest.mark.parametrize(
    ("path", "sent"),
    [*BEGUN.items(), (CHAT, BEGUN[CHAT] + FAILED), (MESSAGES, BEGUN[MESSAGES] + b"data: [DONE]\n\n")],
    ids=["chat", "messages", "unknown", "failed", "another's end"],
)
def test_before_it_or_after_an_error_the_same_payment_is_sent_again(rig: Rig, path: str, sent: bytes) -> None:
    first, second = leave_twice(rig, path, sent)
    assert first == second


OF_DIALECTS = {
    "cohere 2": dialects.ENDED["cohere 2: without names"],
    "cohere 1": dialects.ENDED["cohere 1 as application/stream+json"],
    "ollama": dialects.ENDED["ollama as application/x-ndjson"],
    "ollama, long": dialects.ENDED["ollama: a long end as application/x-ndjson"],
    "interactions": dialects.ENDED["interactions"],
    "assistants": dialects.ENDED["assistants: without [DONE]"],
    "transcription": dialects.ENDED["transcription"],
    "images": dialects.ENDED["images"],
    "complete": dialects.ENDED["anthropic complete"],
    "converse": dialects.ENDED["converse: no usage"],
    "invoke": dialects.ENDED["invoke: llama"],
}
OTHERS = {
    "cohere 2": dialects.CUT["cohere 2"],
    "cohere 2, failed": dialects.FAILED["cohere 2: ERROR"],
    "cohere 1": dialects.CUT["cohere 1 as application/stream+json"],
    "ollama": dialects.CUT["ollama as application/x-ndjson"],
    "unknown lines": dialects.ENDED["lines of an unknown kind"],
    "interactions": dialects.CUT["interactions"],
    "interactions, failed": dialects.FAILED["interactions: cancelled"],
    "assistants": dialects.CUT["assistants: without names"],
    "converse": dialects.CUT["converse"],
    "unknown frames": dialects.ENDED["frames of an unknown kind"],
    "JSON": dialects.http(200, b'{"choices": []}'),
}


def body_of(raw: bytes) -> tuple[bytes, str]:
    """What an answer says, and its type."""
    message = read_message(Sent(raw), to_end=False)
    return message.body, (message.get(b"content-type") or b"").decode()


class Sent(Peer):
    """A connection on which everything has come already."""

    def __init__(self, data: bytes) -> None:
        self._buffer = data


@pytest.mark.parametrize("which", OF_DIALECTS)
def test_each_dialect_has_its_end(rig: Rig, which: str) -> None:
    body, kind = body_of(OF_DIALECTS[which])
    first, second = leave_twice(rig, OTHER, body, kind)
    assert first != second


@pytest.mark.parametrize("which", OTHERS)
def test_before_the_end_of_its_dialect_the_same_payment_is_sent_again(rig: Rig, which: str) -> None:
    body, kind = body_of(OTHERS[which])
    first, second = leave_twice(rig, OTHER, body, kind)
    assert first == second
