"""A scripted upstream that speaks HTTP/2."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events

from . import challenges
from .wire import Peer, Upstream

Headers = list[tuple[str, str]]


class H2Peer:
    """One HTTP/2 connection of the upstream's: collects requests whole, and answers as the script says."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.flush()
        self.requests: dict[int, tuple[dict[str, str], bytearray]] = {}

    def flush(self) -> None:
        self.peer.send(self.h2.data_to_send())

    def next_request(self) -> tuple[int, dict[str, str], bytes]:
        while True:
            data = self.peer.receive()
            if not data:
                raise EOFError("closed")
            done = None
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.requests[event.stream_id] = (dict(event.headers), bytearray())
                elif isinstance(event, h2.events.DataReceived):
                    self.requests[event.stream_id][1].extend(event.data)
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    done = event.stream_id
                elif isinstance(event, h2.events.ConnectionTerminated):
                    raise EOFError("terminated")
            self.flush()
            if done is not None:
                headers, body = self.requests.pop(done)
                return done, headers, bytes(body)

    def answer(self, stream: int, status: int, headers: Headers, body: bytes, trailers: Headers | None = None) -> None:
        self.h2.send_headers(stream, [(":status", str(status)), *headers])
        self.h2.send_data(stream, body, end_stream=trailers is None)
        if trailers is not None:
            self.h2.send_headers(stream, trailers, end_stream=True)
        self.flush()

    def challenge(self, stream: int, challenge: dict[str, Any]) -> None:
        name, _, value = challenges.header(challenge).decode().partition(": ")
        self.answer(stream, 402, [(name.lower(), value)], b"pay")


Script = Callable[[H2Peer, "H2Upstream"], None]


class H2Upstream(Upstream):
    def __init__(self, script: Script, tls: ssl.SSLContext) -> None:
        super().__init__(lambda peer, _: script(H2Peer(peer), self), tls=tls)
        self.seen: list[tuple[dict[str, str], bytes]] = []

    def take(self, peer: H2Peer) -> tuple[int, bool]:
        """Wait for a request; its stream and whether it carries a payment."""
        stream, headers, body = peer.next_request()
        self.seen.append((headers, body))
        return stream, "payment-signature" in headers


def sell(peer: H2Peer, upstream: H2Upstream) -> None:
    """A script for `H2Upstream`: what is paid for is delivered, with a header that comes twice."""
    while True:
        stream, paid = upstream.take(peer)
        if paid:
            peer.answer(stream, 200, [("x-a", "1"), ("x-a", "2")], b"goods")
        else:
            peer.challenge(stream, challenges.evm())
