"""Each direction flows on its own: what one peer does not take stops the reading of what goes to it, and no other."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from support import challenges
from support.proxy import Proxy
from support.rig import Rig
from support.running import certs
from support.running.memory import peak
from support.wire import TIMEOUT, Client, Peer, Upstream, request

UPGRADE = ("Connection: upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
MESSAGE = b"\x7e\xf0\x00" + b"q" * 0xF000
MASKED = b"\x82\xfe\xf0\x00" + bytes(4) + b"q" * 0xF000
TIMES = 400
MOST_ON_THE_WAY = 64 << 20
"""More than all buffers on the way hold: those of four sockets, and ours."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, home=tmp_path_factory.mktemp("home")) as proxy:
        yield Rig(proxy, upstream)


def switch(peer: Peer, upstream: Upstream, protocol: str) -> None:
    upstream.read(peer)
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: " + protocol.encode())
    peer.send(b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")


def upgraded(rig: Rig, protocol: str) -> Client:
    client = rig.client()
    client.send(request("GET", f"/v1/{protocol}", b"", *UPGRADE, f"Upgrade: {protocol}"))
    assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    return client


class Sending(threading.Thread):
    """Sends `data` again and again while somebody else reads."""

    def __init__(self, peer: Peer, data: bytes, times: int = 1) -> None:
        super().__init__(daemon=True)
        self.peer, self.data, self.times = peer, data, times
        self.start()

    def run(self) -> None:
        for _ in range(self.times):
            self.peer.send(self.data)


@pytest.mark.parametrize("protocol", ["other", "websocket"])
def test_a_peer_that_sends_what_it_gets_gets_all(rig: Rig, protocol: str) -> None:
    """It reads no more while it cannot send."""

    def script(peer: Peer, upstream: Upstream) -> None:
        switch(peer, upstream, protocol)
        if protocol == "websocket":
            while peer.exactly(len(MASKED)):
                peer.send(b"\x82" + MESSAGE)
        while data := peer.receive():
            peer.send(data)

    rig.script(script)
    with upgraded(rig, protocol) as client:
        sending = Sending(client, MASKED, TIMES)
        each = len(MESSAGE) + 1 if protocol == "websocket" else len(MASKED)
        assert len(client.exactly(TIMES * each)) == TIMES * each
        sending.join()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_a_paid_answer_that_begins_before_the_request_has_been_read(home: Path, tmp_path: Path, version: str) -> None:
    body, pem = bytes(range(256)) * (12 << 12), certs.make(tmp_path)
    protocol, script = ("h2", over_http2) if version == "HTTP/2" else ("http/1.1", over_http1)
    with Upstream(script, tls=certs.server_context(pem, protocol)) as upstream:
        with (
            Proxy(upstream.url, *certs.trust(pem), home=home) as proxy,
            httpx.Client(http2=True, verify=certs.blind_client_context(protocol), timeout=TIMEOUT) as client,
        ):
            answer = client.post(f"https://127.0.0.1:{proxy.port}/v1/x", content=body)
            assert (answer.http_version, answer.status_code, answer.content == body) == (version, 200, True)


def over_http1(peer: Peer, upstream: Upstream) -> None:
    """Answers the first request with a challenge, and sends the body of the second one back as it comes."""
    upstream.read(peer)
    peer.send(challenges.answer())
    assert b"payment-signature" in echo(peer)


def echo(peer: Peer) -> bytes:
    """Reads a request and sends its body back as it comes. Returns the request's head."""
    head = peer.until(b"\r\n\r\n").lower()
    left = int(head.partition(b"content-length:")[2].split()[0])
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
    while left:
        data = peer.receive()
        left -= len(data)
        peer.send(data)
    return head


def over_http2(peer: Peer, _: Upstream) -> None:
    """The same."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf8"))
    state.local_settings.initial_window_size = 2**31 - 1
    state.local_settings.acknowledge()  # so that it counts at once
    state.initiate_connection()
    state.increment_flow_control_window(2**31 - 1 - 65535)
    peer.send(state.data_to_send())
    paid = 0
    while data := peer.receive():
        for event in state.receive_data(data):
            if isinstance(event, h2.events.RequestReceived) and "payment-signature" in dict(event.headers):
                paid = event.stream_id
                state.send_headers(paid, [(":status", "200")])
            elif isinstance(event, h2.events.DataReceived) and event.stream_id == paid:
                for start in range(0, len(event.data), state.max_outbound_frame_size):
                    state.send_data(paid, event.data[start : start + state.max_outbound_frame_size])
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id == paid:
                state.end_stream(paid)
            elif isinstance(event, h2.events.StreamEnded):
                name, _, value = challenges.header(challenges.evm()).decode().partition(": ")
                state.send_headers(event.stream_id, [(":status", "402"), (name.lower(), value)], end_stream=True)
        peer.send(state.data_to_send())


def unread(sender: Peer, data: bytes) -> int:
    """How much of `data`, sent again and again, is taken until nothing is."""
    sent = 0
    sender.sock.settimeout(2)
    with contextlib.suppress(TimeoutError):
        while sent < MOST_ON_THE_WAY:
            sent += sender.sock.send(data)
    return sent


@pytest.mark.parametrize("sender", ["client", "upstream"])
@pytest.mark.parametrize("protocol", ["other", "websocket"])
def test_what_nobody_reads_is_not_taken(rig: Rig, protocol: str, sender: str) -> None:
    over, taken = threading.Event(), []

    def script(peer: Peer, upstream: Upstream) -> None:
        switch(peer, upstream, protocol)
        if sender == "upstream":
            taken.append(unread(peer, b"\x82" + MESSAGE))
            over.set()
        over.wait()

    rig.script(script)
    before = peak(rig.proxy.process.pid)
    with upgraded(rig, protocol) as client:
        if sender == "client":
            taken.append(unread(client, MASKED))
            over.set()
        over.wait()
    assert taken[0] < MOST_ON_THE_WAY
    assert peak(rig.proxy.process.pid) - before < 8 << 20


def test_a_client_that_does_not_read_our_own_answers_is_not_read(rig: Rig) -> None:
    """So they take no memory without bound."""
    before = peak(rig.proxy.process.pid)
    with rig.client() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert unread(client, b"GET /x402/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000) < MOST_ON_THE_WAY
    assert peak(rig.proxy.process.pid) - before < 24 << 20


class Windows:
    """An HTTP/2 client that opens its windows, of 65,535 bytes each, only as it is told."""

    def __init__(self, proxy: Proxy) -> None:
        self.peer = Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("h2"))
        self.state = h2.connection.H2Connection()
        self.state.initiate_connection()
        self.got: dict[int, int] = {}
        self.ended: set[int] = set()

    def ask(self, path: str, body: bytes = b"") -> int:
        stream = self.state.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "https"), (":authority", "127.0.0.1"), (":path", path)]
        self.state.send_headers(stream, [*head, ("content-length", str(len(body)))], end_stream=not body)
        self.got[stream] = 0
        self.peer.send(self.state.data_to_send())
        for start in range(0, len(body), 16384):
            while self.state.local_flow_control_window(stream) < 16384:
                self.read(opens=True)
            self.state.send_data(stream, body[start : start + 16384], end_stream=start + 16384 >= len(body))
            self.peer.send(self.state.data_to_send())
        return stream

    def read(self, *, opens: bool) -> None:
        for event in self.state.receive_data(self.peer.receive()):
            if isinstance(event, h2.events.DataReceived):
                self.got[event.stream_id] += len(event.data)
                if opens:
                    self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
        self.peer.send(self.state.data_to_send())


def test_what_an_http2_client_has_no_window_for_is_not_taken(rig: Rig) -> None:
    """Nor does it hold up the client's other streams; when it opens the window, all arrives."""
    over, taken, whole = threading.Event(), [], 80 << 20

    def script(peer: Peer, upstream: Upstream) -> None:
        if b"/small" in upstream.read(peer).start:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % whole)
        taken.append(unread(peer, bytes(65536)))
        over.set()
        peer.sock.settimeout(TIMEOUT)
        peer.send(bytes(whole - taken[0]))

    rig.script(script)
    client = Windows(rig.proxy)
    with client.peer:
        large = client.ask("/large")
        while client.got[large] < 65535:
            client.read(opens=False)
        over.wait()
        assert taken[0] < MOST_ON_THE_WAY
        client.state.increment_flow_control_window(1 << 30)
        small = client.ask("/small")
        while small not in client.ended:
            client.read(opens=False)
        client.state.increment_flow_control_window(1 << 30, large)
        client.peer.send(client.state.data_to_send())
        while large not in client.ended:
            client.read(opens=False)
        assert client.got == {large: whole, small: 2}


def test_an_http2_client_with_small_windows_gets_back_what_it_sends(rig: Rig) -> None:
    def script(peer: Peer, _: Upstream) -> None:
        echo(peer)

    rig.script(script)
    client, body = Windows(rig.proxy), bytes(12 << 20)
    with client.peer:
        stream = client.ask("/v1/x", body)
        while stream not in client.ended:
            client.read(opens=True)
        assert client.got[stream] == len(body)
