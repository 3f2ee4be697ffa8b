"""What is known of a flow is written as text and as an object, and both say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from mitmproxy_x402.recording.format import Chunk, read_recording
from mitmproxy_x402.recording.head import Files, head_text, to_document, to_text
from mitmproxy_x402.recording.redact import MAX_FIELDS, Redactor
from mitmproxy_x402.recording.snapshot import Snapshot

REDACTOR = Redactor("a-token")
FILES = Files("request.json", 3, "ab", "response.sse", None, 18, "cd", (Chunk(0.1234567, 9), Chunk(12.0, 9)), ("a",))
HEADERS = [
    [(b"Host", b"h"), (b"Authorization", b"Bearer s"), (b"X-Latin", b"\xff\x00\x85"), (b"X-Api-Key", b"k")],
    [(b"Referer", b"http://h/?key=k"), (b"A", b"1"), (b"A", b"2"), (b"X", b"a-token"), (b"authorization", b"other")],
    [(b"A", str(number).encode()) for number in range(MAX_FIELDS + 2)],
    [],
]


@pytest.mark.parametrize("headers", HEADERS)
@pytest.mark.parametrize("times", [(0.5, 1.25), (0.0, 5e-6), (1 / 3, 99.9999999), (None, 1e-7), (0.1, 12345.000001)])
def test_the_text_and_the_object_are_the_same(
    tmp_path: Path, headers: list[tuple[bytes, bytes]], times: tuple[float | None, float]
) -> None:
    for answered in (True, False):
        flow = tflow.tflow()
        flow.request.headers = http.Headers(headers)
        flow.request.path = "/a?key=secret&b=1"
        flow.metadata |= {"x402.state": "settled", "x402.amount": "0.1"} if answered else {}
        if answered:
            flow.response = http.Response.make(200, b"", HEADERS[1])
            flow.response.trailers = http.Headers(headers)
            first, _ = times
            flow.response.timestamp_start = None if first is None else flow.request.timestamp_start + first
        for _ in range(2):  # the second time, headers are known
            known = Snapshot(flow, REDACTOR)
            known.state, known.end = "complete", times[1]
            text = head_text(known.head(), FILES)
            (tmp_path / "flow.json").write_text(text)
            recording = read_recording(tmp_path)
            assert text == to_text(recording)
            assert "secret" not in text
            assert "a-token" not in text
            assert "Bearer" not in text
            assert recording.request.headers == REDACTOR.texts(tuple(headers))
            assert to_document(recording)["timing"]["end"] == pytest.approx(times[1], abs=1e-6)
