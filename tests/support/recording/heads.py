"""Heads of recordings, for what writes them."""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.test import tflow

from mitmproxy_x402.recording.head import Head
from mitmproxy_x402.recording.redact import Redactor
from mitmproxy_x402.recording.snapshot import Snapshot

REDACTOR = Redactor("a-token")


def head(coding: str = "", state: str = "open", *, answered: bool = True) -> Head:
    flow = tflow.tflow()
    if answered:
        flow.response = http.Response.make(200, b"", {"Content-Type": "text/event-stream", "X-Key": "k-1"})
        flow.response.timestamp_start = flow.request.timestamp_start + 0.5
        if coding:
            flow.response.headers["Content-Encoding"] = coding
    found = Snapshot(flow, REDACTOR)
    found.state = state
    return found.head()
