"""A JSON-RPC server on a scripted upstream, for single calls and batches."""

from __future__ import annotations

import json
from typing import Any

from ..wire import Peer, Upstream


class Answering(Upstream):
    """Answers each call with what `answer` says to it."""

    def __init__(self) -> None:
        super().__init__(_answer_all)

    def before(self) -> None:
        """Called when a question has come."""

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        """The JSON-RPC answer to one call."""
        raise NotImplementedError


def _answer_all(peer: Peer, upstream: Upstream) -> None:
    assert isinstance(upstream, Answering)
    while True:
        said = json.loads(upstream.read(peer).body)
        upstream.before()
        send_json(peer, [upstream.answer(call) for call in said] if isinstance(said, list) else upstream.answer(said))


def send_json(peer: Peer, value: object) -> None:
    """Send an answer with `value` as its body."""
    body = json.dumps(value).encode()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
    peer.send(body)
