"""What follows 101 Switching Protocols: it arrives whole and in order, in turns, and is not kept without bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.proxy import commands, events
from mitmproxy.test import tflow

from mitmproxy_x402.proxy.fairness.upgraded import UpgradedInTurns
from mitmproxy_x402.proxy.internals import Context, ResponseData, WebsocketLayer
from support.proxy import Proxy
from support.rig import Rig
from support.running.memory import peak
from support.wire import Client, Peer, Upstream, request

UPGRADE = ("Connection: upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
CLOSE = b"\x88\x02\x03\xe8"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, home=tmp_path_factory.mktemp("home")) as proxy:
        yield Rig(proxy, upstream)


def upgraded(rig: Rig, protocol: str, script: Callable[[Peer], None]) -> Client:
    def serve(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: " + protocol.encode())
        peer.send(b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
        script(peer)

    rig.script(serve)
    client = rig.client()
    client.send(request("GET", f"/v1/{protocol}", b"", *UPGRADE, f"Upgrade: {protocol}"))
    assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    return client


@pytest.mark.parametrize("kind", ["pings", "messages"])
def test_tens_of_thousands_of_frames_arrive_in_order(rig: Rig, kind: str) -> None:
    """All are in one write, followed by the end."""
    first = b"\x89\x04" if kind == "pings" else b"\x82\x04"
    frames = b"".join(first + number.to_bytes(4, "big") for number in range(20_000))
    with upgraded(rig, "websocket", lambda peer: peer.send(frames + CLOSE)) as client:
        assert client.rest().startswith(frames + CLOSE)
    assert "WebSocket ping" not in rig.proxy.log


@pytest.mark.parametrize(("size", "count"), [(0, 30_000), (1, 30_000), (700, 3000)])
def test_a_message_of_many_fragments_arrives_in_fewer(rig: Rig, size: int, count: int) -> None:
    """Both are the same message (RFC 6455, section 5.4); mitmproxy would send all frames in one go."""
    length = b"\x7e" + size.to_bytes(2, "big") if size > 125 else bytes((size,))
    parts = [b"\x02" + length + b"a" * size] + [b"\x00" + length + b"b" * size] * count
    with upgraded(rig, "websocket", lambda peer: peer.send(b"".join(parts) + b"\x80\x00" + CLOSE)) as client:
        frames = list(_frames(client.rest()))
    assert [kind for kind, _ in frames] == [0x02, *[0x00] * (len(frames) - 3), 0x80, 0x88]
    assert b"".join(data for _, data in frames[:-1]) == b"a" * size + b"b" * count * size
    assert 100 <= len(frames) < 103 + count * size // (16 << 10)


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Unmasked frames: the first byte, and the data."""
    while data:
        first, size, begin = data[0], data[1], 2
        if size == 126:
            size, begin = int.from_bytes(data[2:4], "big"), 4
        yield first, data[begin : begin + size]
        data = data[begin + size :]


@pytest.mark.parametrize("protocol", ["websocket", "other"])
def test_what_passes_is_not_kept(rig: Rig, protocol: str) -> None:
    message = b"\x82\x7e\xff\xff" + b"a" * 65535
    before = peak(rig.proxy.process.pid)
    with upgraded(rig, protocol, lambda peer: peer.send(message * 1000)) as client:
        client.exactly(1000 * len(message))
    assert peak(rig.proxy.process.pid) - before < 24 << 20


def test_what_came_with_the_head_is_saved(home: Path) -> None:
    def serve(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nfirst bytes")

    with Upstream(serve) as upstream, Proxy(upstream.url, "-w", str(home / "flows"), home=home) as proxy:
        with Client("127.0.0.1", proxy.port) as client:
            client.send(request("GET", "/v1/other", b"", "Connection: upgrade", "Upgrade: other"))
            client.until(b"\r\n\r\n")
            assert client.rest() == b"first bytes"
        proxy.wait_for("client disconnect")
    assert "Traceback" not in proxy.log
    assert b"first bytes" in (home / "flows").read_bytes()


class Child(WebsocketLayer):
    """Notes the bytes that it gets; the stream's turn is over after the first ones."""

    def __init__(self, stream: UpgradedInTurns, flow: Any) -> None:
        super().__init__(stream.context, flow)
        self.stream, self.seen = stream, bytearray()

    def handle_event(self, event: events.Event) -> Iterator[commands.Command]:  # type: ignore[override]
        if isinstance(event, events.DataReceived):
            self.seen += event.data
        self.stream.turn_ends = 0.0
        yield from ()


def test_frames_wait_for_the_next_turn() -> None:
    flow = tflow.tflow(resp=True)
    context = Context(flow.client_conn, None)  # type: ignore[arg-type]
    context.server = flow.server_conn
    stream = UpgradedInTurns(context, 1)
    stream.flow = flow
    stream.child_layer = child = Child(stream, flow)
    data = bytes(range(256)) * 4
    turns: list[commands.Command] = [*stream.passthrough(ResponseData(1, data))]
    assert child.seen == data[: len(child.seen)] != data
    assert list(stream.passthrough(ResponseData(1, b"more"))) == []
    while turns:
        wakeup = turns.pop()
        assert isinstance(wakeup, commands.RequestWakeup)
        turns += stream.passthrough(events.Wakeup(wakeup))
    assert child.seen == data + b"more"
