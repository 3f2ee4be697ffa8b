"""Who asks a proxy for something that costs, with which settings, and what a refusal looks like."""

from __future__ import annotations

import json
from pathlib import Path

from mitmproxy_x402.hooks.guard import Caller
from mitmproxy_x402.settings.settings import Settings, read_settings
from support import challenges
from support.wire import Message, Peer, Upstream

TOKEN = "client-token-of-the-test"


def sell(peer: Peer, upstream: Upstream) -> None:
    while True:
        message = upstream.read(peer)
        if message.get(b"payment-signature") is None and message.get(b"x-payment") is None:
            peer.send(challenges.answer())
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def error_of(answer: Message) -> str:
    body = json.loads(answer.body)
    assert body["type"] == "error"
    assert body["error"]["message"]
    assert answer.get(b"x-should-retry") == b"false"
    return str(body["error"]["code"])


def caller(peer: str = "127.0.0.1", host: str | None = "127.0.0.1:4402") -> Caller:
    return Caller(peer, host, 4402)


def settings(**options: str) -> Settings:
    named = {f"x402_{key}": value for key, value in options.items()}
    return read_settings(named, {}, cwd=Path("/nonexistent"), home=Path("/nonexistent"))
