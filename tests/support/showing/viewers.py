"""A mitmweb that shows streams while an upstream plays them piece by piece."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx

from mitmproxy_x402.cli.sandbox import REQUEST
from support.showing.mitmweb import Web
from support.wire import Peer, Upstream, request

SHOWN = "1k"
"""x402_view_limit of the screen that most tests look at."""


class Stage:
    """An upstream that sends the pieces of `play` one by one, each when the test says `go`."""

    def __init__(self) -> None:
        self.upstream = Upstream(self._script)
        self._pieces: list[bytes] = []
        self._may = threading.Semaphore(0)
        self._reset = False

    def play(self, *pieces: bytes, reset: bool = False) -> None:
        self._pieces, self._reset = list(pieces), reset
        self._may = threading.Semaphore(0)

    def go(self, count: int = 1) -> None:
        for _ in range(count):
            self._may.release()

    def _script(self, peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        may = self._may
        for piece in self._pieces:
            assert may.acquire(timeout=20)
            peer.send(piece)
        if self._reset:
            peer.close(reset=True)


ASK = request("POST", "/v1/chat/completions", json.dumps(REQUEST).encode(), "Connection: close")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
USAGE = {**REQUEST, "stream_options": {"include_usage": True}}


def ask(web: Web, body: dict[str, Any], fault: str = "", path: str = "/v1/chat/completions") -> httpx.Response:
    headers = {"x-sandbox-fault": fault} if fault else {}
    return httpx.post(web.url + path, json=body, headers=headers, timeout=20)
