"""An upstream that takes too long: the client is told in the known shape, and the ledger keeps what may be spent."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from support import certs, challenges
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Client, Message, Peer, Upstream, request

LONG = {"connect": "30", "first_byte": "30", "idle": "30", "total": "30"}
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"8\r\ndata: 1\n\r\n"


def options(**short: str) -> list[str]:
    return [part for name, value in (LONG | short).items() for part in ("--set", f"x402_{name}_timeout={value}")]


@contextmanager
def rig(home: Path, script: Any, **short: str) -> Iterator[Rig]:
    with Upstream(script) as upstream, Proxy(upstream.url, *options(**short), home=home) as proxy:
        yield Rig(proxy, upstream)


def states(home: Path) -> list[str]:
    with closing(sqlite3.connect(home / ".local/state/mitmproxy-x402/ledger.sqlite3")) as db:
        return [state for (state,) in db.execute("SELECT state FROM payment ORDER BY id")]


def error(answer: Message) -> dict[str, str]:
    said = json.loads(answer.body)
    assert said["type"] == "error"
    return dict(said["error"])


def until_cut(peer: Peer) -> None:
    """As a gateway that hangs: until the other side has had enough."""
    assert peer.rest() == b""


def silent(peer: Peer, upstream: Upstream) -> None:
    upstream.read(peer)
    until_cut(peer)


def silent_when_paid(peer: Peer, upstream: Upstream) -> None:
    while upstream.read(peer).get(b"payment-signature") is None:
        peer.send(challenges.answer())
    until_cut(peer)


def test_no_answer_to_the_unpaid_request(home: Path) -> None:
    with rig(home, silent, first_byte="0.3") as it, it.client() as client:
        answer = client.ask(request())
        assert answer.status == 504
        assert error(answer)["code"] == "upstream_failed"
        assert "no answer within 0.3 s (option x402_first_byte_timeout)" in error(answer)["message"]
        assert "Nothing was paid" in error(answer)["message"]
    assert states(home) == []


def test_no_answer_to_the_payment(home: Path) -> None:
    with rig(home, silent_when_paid, first_byte="0.3") as it:
        with it.client() as client:
            answer = client.ask(request())
        assert answer.status == 504
        assert error(answer)["code"] == "payment_outcome_unknown"
        assert "x402_first_byte_timeout" in error(answer)["message"]
        assert states(home) == ["unknown"]
        # Who asks again sends the same payment, on a new connection.
        with it.client() as client:
            assert client.ask(request()).status == 504
        paid = [each.get(b"payment-signature") for each in it.upstream.requests if each.get(b"payment-signature")]
        assert len(paid) == 2
        assert len(set(paid)) == 1
    assert states(home) == ["unknown"]


def test_each_leg_has_its_own_time(home: Path) -> None:
    """Two legs that take most of it each are not too slow."""

    def slow(peer: Peer, upstream: Upstream) -> None:
        pause = threading.Event()
        while True:
            paid = upstream.read(peer).get(b"payment-signature")
            pause.wait(0.7)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npaid" if paid else challenges.answer())

    with rig(home, slow, first_byte="1.2") as it, it.client() as client:
        assert client.ask(request()).body == b"paid"


def test_a_stream_that_stops(home: Path) -> None:
    def stops(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(SSE + EVENT)
        until_cut(peer)

    with rig(home, stops, idle="0.3") as it, it.client() as client:
        client.send(request())
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        assert client.chunk() == b"data: 1\n"
        assert client.rest() == b""  # cut, and not ended: the last chunk is missing
        it.proxy.wait_for("unknown")
    assert states(home) == ["unknown"]


def test_a_402_that_stops_in_mid_body(home: Path) -> None:
    def stops(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        whole = challenges.answer()
        head, _, body = whole.partition(b"\r\n\r\n")
        peer.send(head + b"\r\n\r\n" + body[:1])
        until_cut(peer)

    with rig(home, stops, idle="0.3") as it, it.client() as client:
        answer = client.ask(request())
        assert answer.status == 504
        assert "x402_idle_timeout" in error(answer)["message"]
    assert states(home) == []


def test_a_stream_without_end(home: Path) -> None:
    """Every chunk is in time, the whole is not."""

    def drips(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(SSE)
        pause = threading.Event()
        while True:
            peer.send(EVENT)
            pause.wait(0.05)

    with rig(home, drips, total="1", idle="0.9", first_byte="0.9", connect="0.9") as it, it.client() as client:
        client.send(request())
        received = client.rest()
        assert received.count(b"data: 1\n") > 2
        assert not received.endswith(b"0\r\n\r\n")
        it.proxy.wait_for("unknown")
    assert states(home) == ["unknown"]


def test_a_fast_answer_resets_the_clock(home: Path) -> None:
    """One connection, used for much longer than any of its time-outs."""

    def quick(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    short = {"connect": "0.4", "first_byte": "0.4", "idle": "0.4", "total": "0.4"}
    with rig(home, quick, **short) as it, it.client() as client:
        pause = threading.Event()
        for _ in range(8):
            assert client.ask(request()).body == b"ok"
            pause.wait(0.15)
        assert it.upstream.connections == 1


def test_a_handshake_of_tls_that_never_ends(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        upstream = f"https://127.0.0.1:{server.getsockname()[1]}"
        with Proxy(upstream, *options(connect="0.3"), home=home) as proxy, proxy.client() as client:
            answer = client.ask(request())
    assert answer.status == 504
    assert "no connection within 0.3 s (option x402_connect_timeout)" in error(answer)["message"]


def test_a_connection_that_is_never_taken(home: Path) -> None:
    """The kernel drops what does not fit into the backlog, as a firewall would."""
    with socket.socket() as server, closing(socket.socket()) as first, closing(socket.socket()) as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        upstream = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Proxy(upstream, *options(connect="0.3"), home=home) as proxy, proxy.client() as client:
            answer = client.ask(request())
    assert answer.status == 504
    assert "x402_connect_timeout" in error(answer)["message"]


def test_two_clients_of_http2_share_a_connection_and_one_waits_too_long(home: Path, tmp_path: Path) -> None:
    """The other one's stream goes on."""
    pem = certs.make(tmp_path)
    resets: list[int] = []

    def script(peer: Peer, upstream: Upstream) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf8"))
        connection.initiate_connection()
        peer.send(connection.data_to_send())
        waiting: list[int] = []
        while data := peer.receive():
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    path = dict(event.headers)[":path"]
                    if path == "/slow":
                        waiting.append(event.stream_id)
                    else:
                        connection.send_headers(event.stream_id, [(":status", "200")])
                        connection.send_data(event.stream_id, b"a")
                        waiting.append(-event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    resets.append(event.stream_id)
                    for stream in [-each for each in waiting if each < 0]:
                        connection.send_data(stream, b"b", end_stream=True)
            peer.send(connection.data_to_send())

    async def ask(url: str) -> tuple[httpx.Response, httpx.Response]:
        tls = certs.blind_client_context("h2")
        async with httpx.AsyncClient(http2=True, verify=tls, base_url=url, timeout=20) as client:
            running = asyncio.create_task(client.get("/runs"))
            slow = await client.get("/slow")
            return slow, await running

    with Upstream(script, tls=certs.server_context(pem, "h2")) as upstream:
        trust = ("--set", f"ssl_verify_upstream_trusted_ca={pem}")
        with Proxy(upstream.url, *trust, *options(first_byte="0.5"), home=home) as proxy:
            slow, running = asyncio.run(ask(f"https://127.0.0.1:{proxy.port}"))
    assert slow.status_code == 504
    assert "x402_first_byte_timeout" in slow.text
    assert (running.status_code, running.text) == (200, "ab")
    assert len(resets) == 1
    assert upstream.connections == 1


@pytest.mark.parametrize("client_gone", [False, True])
def test_no_alarm_outlives_its_client(home: Path, client_gone: bool) -> None:
    """The time-outs of a client that has left cut nobody else's stream."""

    def answers(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        if client_gone and len(upstream.requests) == 1:
            until_cut(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with rig(home, answers, first_byte="0.4") as it:
        with Client(it.proxy.host, it.proxy.port) as client:
            client.send(request())
            if client_gone:
                it.proxy.wait_for("server connect")
                client.close(reset=True)
        with it.client() as client:
            assert client.ask(request()).body == b"ok"


def test_an_answer_without_a_length_that_stops_is_not_taken_for_whole(home: Path) -> None:
    """It ends with its connection, and that we close ourselves."""

    def stops(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nso far")
        if len(upstream.requests) == 2:
            until_cut(peer)
        peer.send(b", so good")
        raise EOFError

    with rig(home, stops, idle="0.3") as it:
        with it.client() as client:
            client.send(request())
            assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
            assert client.chunk() == b"so far"
            assert client.rest() == b""  # cut, and not ended: the last chunk is missing
            it.proxy.wait_for("unknown")
        with it.client() as client:
            assert client.ask(request()).body == b"so far, so good"
        paid = {each.get(b"payment-signature") for each in it.upstream.requests} - {None}
        assert len(paid) == 1
