"""Answers in the dialects that the sandbox does not speak, as a vendor sends them: recorded like all others."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Further(NamedTuple):
    """One exchange."""

    path: str
    request: dict[str, Any]
    kind: str
    """Content type of the answer."""
    pieces: list[bytes]
    """The answer, in the chunks in which it is sent."""


_QUESTION = [{"role": "user", "content": "Show me the weather."}]
_CONVERSED = {"messages": [{"role": "user", "content": [{"text": "Show me the weather."}]}]}
_ASKED: dict[str, tuple[str, dict[str, Any], str]] = {
    "converse": ("/model/sandbox-1/converse-stream", _CONVERSED, "application/vnd.amazon.eventstream"),
    "cohere-v1": ("/v1/chat", {"message": "Show me the weather.", "stream": True}, "application/stream+json"),
    "cohere-v2": ("/v2/chat", {"model": "command-a", "messages": _QUESTION, "stream": True}, "text/event-stream"),
    "ollama-chat": ("/api/chat", {"model": "llama", "messages": _QUESTION}, "application/x-ndjson"),
    "ollama-generate": ("/api/generate", {"model": "llama", "prompt": "Show me."}, "application/x-ndjson"),
    "interactions": (
        "/v1beta/interactions",
        {"model": "gemini-3-pro", "input": "Show me the weather.", "stream": True},
        "text/event-stream",
    ),
    "assistants": ("/v1/threads/th-1/runs", {"assistant_id": "as-1", "stream": True}, "text/event-stream"),
    "transcription": ("/v1/audio/transcriptions", {"model": "gpt-4o-transcribe"}, "text/event-stream"),
    "more-responses": ("/v1/responses", {"model": "gpt-5", "input": "Show me.", "stream": True}, "text/event-stream"),
    "complete": ("/v1/complete", {"model": "claude-2", "prompt": "Show me.", "stream": True}, "text/event-stream"),
    "seen-chat": ("/v1/chat/completions", {"model": "m", "messages": _QUESTION, "stream": True}, "text/event-stream"),
    "seen-messages": ("/v1/messages", {"model": "m", "messages": _QUESTION, "stream": True}, "text/event-stream"),
    "seen-gemini": (
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "Show me the weather."}]}]},
        "text/event-stream",
    ),
    "seen-responses": ("/v1/responses", {"model": "m", "input": "Show me.", "stream": True}, "text/event-stream"),
}
"""By the beginning of a stream's name: path, request, and the answer's content type."""


def further(streams: dict[str, bytes]) -> dict[str, Further]:
    """The exchanges for `streams`, by the names of their recordings."""
    found = {}
    for name, body in streams.items():
        dashed = name.replace(" ", "-")
        path, request, kind = next(asked for begin, asked in _ASKED.items() if dashed.startswith(begin))
        found[dashed] = Further(path, {**request, "user": dashed}, kind, _pieces(body, kind))
    return found


def _pieces(body: bytes, kind: str) -> list[bytes]:
    if kind.endswith("eventstream"):
        pieces = []
        while body:
            size = int.from_bytes(body[:4], "big")
            pieces.append(body[:size])
            body = body[size:]
        return pieces
    end = b"\n\n" if kind == "text/event-stream" else b"\n"
    return [piece + end for piece in body.split(end)[:-1]]


@contextmanager
def vendor(exchanges: dict[str, Further], pace: float) -> Iterator[str]:
    """A server that answers each request of `exchanges`, `pace` seconds between the chunks; gives its URL."""
    waiting = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            exchange = exchanges[asked["user"]]
            self.send_response(200)
            self.send_header("content-type", exchange.kind)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in exchange.pieces:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.flush()
                waiting.wait(pace)
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def date_time_string(self, timestamp: float | None = None) -> str:  # noqa: ARG002
            return "Thu, 01 Jan 2026 00:00:00 GMT"

        def version_string(self) -> str:
            return "vendor"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
