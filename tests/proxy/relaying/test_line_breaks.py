"""A line break in a header is not made into another header, or another request, by the HTTP/1.1 beyond."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from support import challenges
from support.http2 import H2Peer, H2Upstream, sell
from support.proxy import Proxy
from support.running import certs
from support.wire import TIMEOUT, Client, Peer, Upstream, request


def start(upstream: Upstream, home: Path, pem: Path) -> Proxy:
    return Proxy(upstream.url, *certs.trust(pem), home=home)


LENIENT = {"header_encoding": None, "validate_outbound_headers": False, "normalize_outbound_headers": False}


@pytest.mark.parametrize("is_trailer", [False, True], ids=["header", "trailer"])
@pytest.mark.parametrize(
    "field",
    [
        (b"x-a", b"b\r\nx-evil: c"),
        (b"x-a", b"b\r\n\r\nGET /v1/smuggled HTTP/1.1\r\nHost: x"),
        (b"x-a", b"b\nx-evil: c"),
        (b"x-a", b"b\rx-evil: c"),
        (b"x-a", b"b\0c"),
        (b"x-a\n", b"c"),
        (b"x-a\r\nx-evil", b"c"),
    ],
)
def test_a_line_break_in_a_request_goes_no_further(
    home: Path, pem: Path, field: tuple[bytes, bytes], is_trailer: bool
) -> None:
    """Newer versions of h2 refuse it, older ones do not; a request after it, on another connection, is served."""
    with H2Upstream(sell, certs.server_context(pem, "h2")) as upstream, start(upstream, home, pem) as proxy:
        with Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("h2")) as client:
            asks = h2.connection.H2Connection(h2.config.H2Configuration(**LENIENT))
            asks.initiate_connection()
            authority = b"127.0.0.1:%d" % proxy.port
            head = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", authority), (b":path", b"/v1/x")]
            asks.send_headers(1, head if is_trailer else [*head, field])
            asks.send_data(1, b"{}", end_stream=not is_trailer)
            if is_trailer:
                asks.send_headers(1, [field], end_stream=True)
            client.send(asks.data_to_send())
            seen: list[Any] = []
            ends = (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)
            while not any(isinstance(event, ends) for event in seen):
                seen += asks.receive_data(client.receive())
                client.send(asks.data_to_send())
        answered = [dict(event.headers)[b":status"] for event in seen if isinstance(event, h2.events.ResponseReceived)]
        assert answered in ([], [b"400"])
        assert upstream.seen == []


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
@pytest.mark.parametrize("path", ["/free", "/v1/paid"])
def test_a_line_break_in_an_answer_makes_no_header(home: Path, pem: Path, protocol: str, path: str) -> None:
    def script(peer: H2Peer, upstream: H2Upstream) -> None:
        peer.h2.config = h2.config.H2Configuration(client_side=False, **LENIENT)
        while True:
            stream, fields, _ = peer.next_request()
            if path == "/v1/paid" and b"payment-signature" not in fields:  # type: ignore[comparison-overlap]
                peer.challenge(stream, challenges.evm())
            else:
                fields = [("x-a", "b\r\nx-evil: c"), ("x-b\r\nx-evil", "c"), ("x-c", "d\r\n\r\nbody")]
                peer.answer(stream, 200, fields, b"goods", [("x-t", "e\r\nx-evil: c"), ("x-good", "f")])

    with H2Upstream(script, certs.server_context(pem, "h2")) as upstream, start(upstream, home, pem) as proxy:
        if protocol == "h2":
            tls, url = certs.blind_client_context("h2"), f"https://127.0.0.1:{proxy.port}"
            with httpx.Client(http2=True, verify=tls, base_url=url, timeout=TIMEOUT) as client:
                answer = client.post(path, content=b"{}")
            status, head, body = answer.status_code, dict(answer.headers.raw), answer.content
        else:
            with Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("http/1.1", "h2")) as peer:
                message = peer.ask(request(path=path))
            status, head, body = message.status, dict(message.fields), message.body
        assert b"x-evil" not in head
        if status == 200:  # newer versions of h2 refuse it all
            assert (body, head[b"x-a"]) == (b"goods", b"b x-evil: c")


@pytest.mark.parametrize("field", [b"X-A: b\rX-Evil: c", b"X-A: b\0c"])
def test_half_a_line_break_in_an_http1_request_is_refused(home: Path, field: bytes) -> None:
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, home=home) as proxy, proxy.client() as client:
        answer = client.ask(b"GET /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\n" + field + b"\r\n\r\n")
        assert answer.status == 400
        assert json.loads(answer.body)["error"]["code"] == "request_head_invalid"
        assert upstream.connections == 0


def test_a_folded_line_of_an_http1_request_is_unfolded(home: Path) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")

    with Upstream(script) as upstream, Proxy(upstream.url, home=home) as proxy, proxy.client() as client:
        head = b"GET /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b\r\n X-Evil: c\r\n\r\n"
        assert client.ask(head).body == b"fine"
        assert upstream.requests[0].get(b"x-a") == b"b X-Evil: c"
