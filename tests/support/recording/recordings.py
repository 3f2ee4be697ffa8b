"""Recordings made by hand, for what is tested without a proxy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mitmproxy_x402.recording.format import CHUNKS, HEAD, RecordedRequest, RecordedResponse, Recording
from mitmproxy_x402.recording.head import to_document

SSE = (("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked"))
JSON = (("Content-Type", "application/json"),)
Pairs = Sequence[tuple[str, str]]


def write_recording(
    folder: Path,
    body: Any = b"{}",
    chunks: Sequence[tuple[float, bytes]] = (),
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    status: int | None = 200,
    reason: str = "OK",
    headers: Pairs = SSE,
    trailers: Pairs = (),
    state: str = "complete",
    end: float | None = None,
) -> Path:
    """The folder of a recording: `body` (bytes, or what becomes JSON) asked, `chunks` (seconds, bytes) answered."""
    asked = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = b"".join(data for _, data in chunks)
    folder.mkdir(parents=True)
    (folder / "request.json").write_bytes(asked)
    (folder / "response.sse").write_bytes(answer)
    (folder / CHUNKS).write_text("".join(f"[{seconds}, {len(data)}]\n" for seconds, data in chunks))
    request = RecordedRequest(
        method,
        path,
        "HTTP/1.1",
        (("Host", "127.0.0.1"), *JSON),
        body="request.json",
        size=len(asked),
        sha256=hashlib.sha256(asked).hexdigest(),
    )
    response = None
    if status is not None:
        response = RecordedResponse(
            status, reason, "HTTP/1.1", tuple(headers), tuple(trailers), body="response.sse", size=len(answer)
        )
    first = chunks[0][0] if chunks else None
    recording = Recording(
        folder,
        folder.name,
        "2026-01-01T00:00:00.000Z",
        state,
        None if state == "complete" else "cut",
        request,
        response,
        first_byte=first,
        end=end if end is not None else (chunks[-1][0] if chunks else None),
    )
    (folder / HEAD).write_text(json.dumps(to_document(recording)))
    return folder
