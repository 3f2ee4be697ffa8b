"""An upstream that takes too long: the client is told in the known shape, and the ledger keeps what may be spent."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from support import challenges, changer
from support.changer import set_options
from support.ledger.ledgers import query
from support.patience import eventually
from support.proxy import Proxy
from support.rig import Rig
from support.running import certs
from support.wire import Client, Message, Peer, Script, Upstream, request

LONG = {"connect": "30", "first_byte": "30", "idle": "30", "total": "30"}
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"8\r\ndata: 1\n\r\n"


def settings(**short: str) -> list[str]:
    return [f"x402_{name}_timeout={value}" for name, value in (LONG | short).items()]


def options(**short: str) -> list[str]:
    return [part for setting in settings(**short) for part in ("--set", setting)]


numbers = itertools.count()


class Timed(Rig):
    """One proxy for all tests whose upstream is a script; its time-outs are set for each of them."""

    def begin(self, script: Script, **short: str) -> None:
        self.script(_ok)
        # Until they are set, those of the last test hold, for this too.
        eventually(lambda: set_options(self.proxy, *settings(**short)) == "taken")
        self._since = len(self._states())
        self.request = request("POST", f"/v1/{next(numbers)}")
        self.script(script)

    def expect(self, *states: str) -> None:
        """What became of the payments since the test began."""
        eventually(lambda: self._states()[self._since :] == list(states), self._states)

    def _states(self) -> list[str]:
        return [state for (state,) in query(self.proxy.ledger, "state")]


def _ok(peer: Peer, upstream: Upstream) -> None:
    upstream.read(peer)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Timed]:
    home = tmp_path_factory.mktemp("home")
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, *changer.script(home), home=home) as proxy:
        yield Timed(proxy, upstream)


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


def test_no_answer_to_the_unpaid_request(it: Timed) -> None:
    it.begin(silent, first_byte="0.3")
    with it.client() as client:
        answer = client.ask(it.request)
        assert answer.status == 504
        assert error(answer)["code"] == "upstream_failed"
        assert "no answer within 0.3 s (option x402_first_byte_timeout)" in error(answer)["message"]
        assert "Nothing was paid" in error(answer)["message"]
    it.expect()


def test_no_answer_to_the_payment(it: Timed) -> None:
    it.begin(silent_when_paid, first_byte="0.3")
    with it.client() as client:
        answer = client.ask(it.request)
    assert answer.status == 504
    assert error(answer)["code"] == "payment_outcome_unknown"
    assert "x402_first_byte_timeout" in error(answer)["message"]
    it.expect("unknown")
    # Who asks again sends the same payment, on a new connection.
    with it.client() as client:
        assert client.ask(it.request).status == 504
    paid = [each.get(b"payment-signature") for each in it.upstream.requests if each.get(b"payment-signature")]
    assert len(paid) == 2
    assert len(set(paid)) == 1
    it.expect("unknown")


def test_each_leg_has_its_own_time(it: Timed) -> None:
    """Two legs that take most of it each are not too slow."""

    def slow(peer: Peer, upstream: Upstream) -> None:
        pause = threading.Event()
        while True:
            paid = upstream.read(peer).get(b"payment-signature")
            pause.wait(1)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npaid" if paid else challenges.answer())

    it.begin(slow, first_byte="1.9")
    with it.client() as client:
        assert client.ask(it.request).body == b"paid"


def test_a_stream_that_stops(it: Timed) -> None:
    def stops(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(SSE + EVENT)
        until_cut(peer)

    it.begin(stops, idle="0.3")
    with it.client() as client:
        client.send(it.request)
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        assert client.chunk() == b"data: 1\n"
        assert client.rest() == b""  # cut, and not ended: the last chunk is missing
    it.expect("unknown")


def test_a_402_that_stops_in_mid_body(it: Timed) -> None:
    def stops(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        whole = challenges.answer()
        head, _, body = whole.partition(b"\r\n\r\n")
        peer.send(head + b"\r\n\r\n" + body[:1])
        until_cut(peer)

    it.begin(stops, idle="0.3")
    with it.client() as client:
        answer = client.ask(it.request)
        assert answer.status == 504
        assert "x402_idle_timeout" in error(answer)["message"]
    it.expect()


def test_a_stream_without_end(it: Timed) -> None:
    """Every chunk is in time, the whole is not."""

    def drips(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(SSE)
        pause = threading.Event()
        while True:
            peer.send(EVENT)
            pause.wait(0.05)

    it.begin(drips, total="2", idle="1.8", first_byte="1.8", connect="1.8")
    with it.client() as client:
        client.send(it.request)
        received = client.rest()
        assert received.count(b"data: 1\n") > 2
        assert not received.endswith(b"0\r\n\r\n")
    it.expect("unknown")


def test_a_fast_answer_resets_the_clock(it: Timed) -> None:
    """One connection, used for much longer than any of its time-outs."""

    def quick(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    short = {"connect": "1", "first_byte": "1", "idle": "1", "total": "1"}
    it.begin(quick, **short)
    with it.client() as client:
        pause = threading.Event()
        for _ in range(5):
            assert client.ask(it.request).body == b"ok"
            pause.wait(0.3)
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
        with Proxy(upstream.url, *certs.trust(pem), *options(first_byte="1"), home=home) as proxy:
            slow, running = asyncio.run(ask(f"https://127.0.0.1:{proxy.port}"))
    assert slow.status_code == 504
    assert "x402_first_byte_timeout" in slow.text
    assert (running.status_code, running.text) == (200, "ab")
    assert len(resets) == 1
    assert upstream.connections == 1


@pytest.mark.parametrize("client_gone", [False, True])
def test_no_alarm_outlives_its_client(it: Timed, client_gone: bool) -> None:
    """The time-outs of a client that has left cut nobody else's stream."""

    def answers(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        if client_gone and len(upstream.requests) == 1:
            until_cut(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    it.begin(answers, first_byte="1")
    with Client(it.proxy.host, it.proxy.port) as client:
        client.send(it.request)
        if client_gone:
            eventually(lambda: it.upstream.requests)
            client.close(reset=True)
    with it.client() as client:
        assert client.ask(it.request).body == b"ok"


def test_an_answer_without_a_length_that_stops_is_not_taken_for_whole(it: Timed) -> None:
    """It ends with its connection, and that we close ourselves."""

    def stops(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nso far")
        if len(upstream.requests) == 2:
            until_cut(peer)
        peer.send(b", so good")
        raise EOFError

    it.begin(stops, idle="0.9")
    with it.client() as client:
        client.send(it.request)
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        assert client.chunk() == b"so far"
        assert client.rest() == b""  # cut, and not ended: the last chunk is missing
    with it.client() as client:
        assert client.ask(it.request).body == b"so far, so good"
    paid = {each.get(b"payment-signature") for each in it.upstream.requests} - {None}
    assert len(paid) == 1
