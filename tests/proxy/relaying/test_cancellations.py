"""A request that its client has cancelled is not paid, however early the cancellation comes."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from support import challenges
from support.ledger.ledgers import query
from support.patience import eventually
from support.proxy import Proxy
from support.running import certs
from support.wire import TIMEOUT, Client, Peer, Upstream, request

CANCEL = 8


class Seller(Upstream):
    """Answers what is asked for `/v1/held` only when `go` is set."""

    def __init__(self) -> None:
        super().__init__(self._sell)
        self.go = threading.Event()

    def _sell(self, peer: Peer, _: Upstream) -> None:
        while True:
            asked = self.read(peer)
            if asked.get(b"payment-signature"):
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngoods")
                continue
            if asked.start.startswith(b"POST /v1/held"):
                assert self.go.wait(TIMEOUT)
            peer.send(challenges.answer())

    def paid(self) -> list[bytes]:
        return [asked.start for asked in self.requests if asked.get(b"payment-signature")]

    def sells_from_now_on_only(self, proxy: Proxy) -> None:
        """Let what is held go, and buy something else: nothing else is paid."""
        self.go.set()
        with proxy.client() as other:
            assert other.ask(request(path="/v1/last")).body == b"goods"
        assert self.paid() == [b"POST /v1/last HTTP/1.1"]
        assert len(query(proxy.ledger, "state")) == 1


class Buyer:
    """An HTTP/2 client that writes when the test says so."""

    def __init__(self, client: Client, port: int) -> None:
        self.client, self.port = client, port
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf8"))
        self.h2.initiate_connection()
        self.events: list[Any] = []

    def head(self, path: str = "/v1/held") -> int:
        stream = self.h2.get_next_available_stream_id()
        authority = f"127.0.0.1:{self.port}"
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", authority), (":path", path)]
        self.h2.send_headers(stream, fields)
        return stream

    def body(self, stream: int) -> None:
        self.h2.send_data(stream, b"{}", end_stream=True)

    def write(self) -> None:
        """All that was made, in one piece."""
        self.client.send(self.h2.data_to_send())

    def read(self, kind: type) -> None:
        """Until an event of that kind arrives."""
        while not any(isinstance(event, kind) for event in self.events):
            data = self.client.receive()
            assert data
            self.events += self.h2.receive_data(data)
            self.client.send(self.h2.data_to_send())
        self.events = [event for event in self.events if not isinstance(event, kind)]

    def wait_until_all_is_read(self) -> None:
        self.h2.ping(b"12345678")
        self.write()
        self.read(h2.events.PingAckReceived)

    def buys(self, path: str) -> bool:
        self.body(self.head(path))
        self.write()
        self.read(h2.events.StreamEnded)
        return b"goods" in [event.data for event in self.events if isinstance(event, h2.events.DataReceived)]


def with_its_request(buyer: Buyer, _: Seller) -> None:
    streams = [buyer.head() for _ in range(4)]
    for stream in streams:
        buyer.body(stream)
    for stream in streams:
        buyer.h2.reset_stream(stream, CANCEL)
    buyer.write()


def with_its_body(buyer: Buyer, _: Seller) -> None:
    stream = buyer.head()
    buyer.wait_until_all_is_read()
    buyer.body(stream)
    buyer.h2.reset_stream(stream, CANCEL)
    buyer.write()


def after_its_request(buyer: Buyer, seller: Seller) -> None:
    stream = buyer.head()
    buyer.body(stream)
    buyer.write()
    eventually(lambda: seller.requests)
    buyer.h2.reset_stream(stream, CANCEL)
    buyer.write()


@contextmanager
def over_http2(proxy: Proxy) -> Iterator[Buyer]:
    with Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("h2")) as client:
        yield Buyer(client, proxy.port)


@pytest.mark.parametrize("is_warm", [False, True], ids=["new", "warm"])
@pytest.mark.parametrize("cancel", [with_its_request, with_its_body, after_its_request])
def test_a_reset_comes_before_the_payment(home: Path, cancel: Callable[[Buyer, Seller], None], is_warm: bool) -> None:
    """The same request on another connection then pays once."""
    with Seller() as seller, Proxy(seller.url, home=home) as proxy:
        with over_http2(proxy) as buyer, over_http2(proxy) as other:
            if is_warm:
                assert buyer.buys("/v1/warm")
                seller.requests.clear()
            cancel(buyer, seller)
            buyer.wait_until_all_is_read()
            seller.go.set()
            assert other.buys("/v1/held")
            assert buyer.buys("/v1/last")
        assert seller.paid() == [b"POST /v1/held HTTP/1.1", b"POST /v1/last HTTP/1.1"]
        assert len(query(proxy.ledger, "state")) == 2 + is_warm


@pytest.mark.parametrize("follows", ["its request", "a while"])
@pytest.mark.parametrize("end", ["GOAWAY", "FIN", "RST"])
def test_the_end_of_the_connection_comes_before_the_payment(home: Path, end: str, follows: str) -> None:
    with Seller() as seller, Proxy(seller.url, home=home) as proxy:
        with Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("h2")) as client:
            buyer = Buyer(client, proxy.port)
            buyer.body(buyer.head())
            if follows == "a while":
                buyer.write()
                eventually(lambda: seller.requests)
            if end == "GOAWAY":
                buyer.h2.close_connection()
            buyer.write()
            if end == "GOAWAY":
                client.rest()
            client.close(reset=end == "RST")
        if follows == "a while":
            proxy.wait_for("client disconnect")
        seller.sells_from_now_on_only(proxy)


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
def test_an_http1_client_that_closes_behind_its_request_pays_nothing(home: Path, reset: bool) -> None:
    with Seller() as seller, Proxy(seller.url, home=home) as proxy:
        client = proxy.client()
        client.send(request(path="/v1/held") * 2)
        client.close(reset=reset)
        proxy.wait_for("client disconnect")
        seller.sells_from_now_on_only(proxy)


def test_a_request_that_is_cancelled_while_we_connect_is_not_sent(home: Path, tmp_path: Path) -> None:
    pem = certs.make(tmp_path)
    go, greeted = threading.Event(), threading.Event()
    tls = certs.server_context(pem)

    def script(peer: Peer, upstream: Upstream) -> None:
        greeted.set()
        assert go.wait(TIMEOUT)
        with tls.wrap_socket(peer.sock, server_side=True) as sock:
            secured = Peer(sock)
            while True:
                paid = upstream.read(secured).get(b"payment-signature")
                secured.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngoods" if paid else challenges.answer())

    with Upstream(script) as upstream:
        with (
            Proxy(f"https://127.0.0.1:{upstream.port}", *certs.trust(pem), home=home) as proxy,
            over_http2(proxy) as buyer,
        ):
            stream = buyer.head("/v1/first")
            buyer.body(stream)
            buyer.write()
            assert greeted.wait(TIMEOUT)
            buyer.wait_until_all_is_read()
            buyer.h2.reset_stream(stream, CANCEL)
            buyer.wait_until_all_is_read()
            go.set()
            assert buyer.buys("/v1/last")
        assert {asked.start for asked in upstream.requests} == {b"POST /v1/last HTTP/1.1"}


DEATHS = {
    "a fatal alert": b"\x15\x03\x03\0\x02\x02\x00",
    "a record that cannot be decrypted": b"\x17\x03\x03\0\x40" + b"x" * 64,
}


def write_raw(sock: ssl.SSLSocket, data: bytes) -> None:
    """Write `data` below the TLS of `sock`."""
    with socket.socket(fileno=os.dup(sock.fileno())) as raw:
        raw.setblocking(True)
        raw.sendall(data)


def blind(protocol: str) -> ssl.SSLContext:
    """A context for a client that speaks `protocol`."""
    return certs.blind_client_context(*(("h2",) if protocol == "HTTP/2" else ()))


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("death", DEATHS)
def test_the_end_of_a_tls_session_comes_before_the_payment(home: Path, death: str, protocol: str) -> None:
    """Its connection is still open, but nothing can be delivered on it."""
    with Seller() as seller, Proxy(seller.url, home=home) as proxy:
        with Client("127.0.0.1", proxy.port, tls=blind(protocol)) as client:
            if protocol == "HTTP/2":
                buyer = Buyer(client, proxy.port)
                buyer.body(buyer.head())
                buyer.write()
            else:
                client.send(request(path="/v1/held"))
            eventually(lambda: seller.requests)
            assert isinstance(client.sock, ssl.SSLSocket)
            write_raw(client.sock, DEATHS[death])
            proxy.wait_for("TLS Error")
            proxy.wait_for("client disconnect")
            seller.sells_from_now_on_only(proxy)
        assert "Traceback" not in proxy.log


@pytest.mark.parametrize("is_paid", [False, True], ids=["unpaid", "paid"])
@pytest.mark.parametrize("death", DEATHS)
def test_an_upstream_whose_tls_session_dies_is_a_lost_one(
    home: Path, tmp_path: Path, death: str, is_paid: bool
) -> None:
    pem = certs.make(tmp_path)

    def script(peer: Peer, upstream: Upstream) -> None:
        while bool(upstream.read(peer).get(b"payment-signature")) != is_paid:
            peer.send(challenges.answer())
        assert isinstance(peer.sock, ssl.SSLSocket)
        write_raw(peer.sock, DEATHS[death])
        with contextlib.suppress(OSError):
            peer.rest()

    with Upstream(script, tls=certs.server_context(pem)) as upstream:
        with Proxy(upstream.url, *certs.trust(pem), home=home) as proxy, proxy.client() as client:
            answer = client.ask(request())
            assert b"502" in answer.start
            assert (b"payment_outcome_unknown" in answer.body) is is_paid
        assert query(proxy.ledger, "state") == ([("unknown",)] if is_paid else [])
        assert "Traceback" not in proxy.log
