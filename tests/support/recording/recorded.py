"""A recording as the recorder writes it, and as a test spoils it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mitmproxy_x402.recording.format import RecordedPayment, RecordedRequest, RecordedResponse, Recording
from mitmproxy_x402.recording.head import to_text

BODY = b"data: 1\n\ndata: 2\n\n"


def recording(folder: Path, **changes: Any) -> Recording:
    whole = Recording(
        folder=folder,
        id="an-id",
        started="2025-07-08T09:15:00.123Z",
        state="complete",
        error=None,
        request=RecordedRequest(
            "POST",
            "/v1/chat?alt=sse&key=[redacted]",
            "HTTP/1.1",
            (("Host", "h"), ("Authorization", "[redacted]"), ("X-Latin", "\xff\x00\x85")),
            upstream="https://h:443",
            body="request.json",
            size=2,
            sha256="ab",
        ),
        response=RecordedResponse(
            200,
            "OK",
            "HTTP/1.1",
            (("Content-Type", "text/event-stream"), ("A", "1"), ("A", "2")),
            trailers=(("T", "3"),),
            body="response.sse",
            decoded=None,
            size=18,
            sha256="cd",
        ),
        first_byte=0.5,
        end=1.25,
        payment=RecordedPayment("settled", "0.0131", "base", "0xaa", "0xbb"),
        legs=2,
        notes=("a note",),
    )
    return replace(whole, **changes)


def write(folder: Path, what: Recording, chunks: str = "[0.5, 9]\n[1.0, 9]\n", body: bytes = BODY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "flow.json").write_text(to_text(what))
    (folder / "chunks.jsonl").write_text(chunks)
    (folder / "request.json").write_bytes(b"{}")
    (folder / "response.sse").write_bytes(body)
    return folder
