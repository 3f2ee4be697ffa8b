"""What a client is told when the gateway cannot be reached or broke off, before anything was paid."""

from __future__ import annotations

import json

import pytest
from mitmproxy import flow as mitmproxy_flow
from mitmproxy.test import tflow

from mitmproxy_x402.hooks import answers
from mitmproxy_x402.proxy.exchange import Exchange


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("[Errno 111] Connect call failed ('127.0.0.1', 1)", "could not be reached: connection refused"),
        (
            "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect call failed "
            "('127.0.0.1', 1)",
            "could not be reached: connection refused",
        ),
        ("[Errno -2] Name or service not known", "could not be reached: its name cannot be looked up"),
        ("[Errno 104] Connection reset by peer", "could not answer: [Errno 104] Connection reset by peer"),
        ("server closed connection", "could not answer: server closed connection"),
    ],
)
def test_why_there_is_no_answer(message: str, said: str) -> None:
    flow = tflow.tflow()
    flow.error = mitmproxy_flow.Error(message)
    told = json.loads(answers.upstream_error(flow, Exchange(), None))["error"]
    assert told["code"] == "upstream_failed"
    assert told["message"].startswith(f"The upstream address:22 {said}. Nothing was paid.")
    assert told["message"].endswith("mitmproxy-x402 check.") == ("could not be reached" in said)
