"""A second mode of the same process is no way around the guard: with real sockets, and with addresses alone."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from mitmproxy import connection
from mitmproxy.test import tflow

from mitmproxy_x402.hooks.peers import Peers
from support import challenges
from support.proxy import Proxy
from support.wire import Client, Message, Peer, Upstream, free_port, request


def sell(peer: Peer, upstream: Upstream) -> None:
    while True:
        message = upstream.read(peer)
        paid = message.get(b"payment-signature") is not None
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" if paid else challenges.answer())


ELSEWHERE = """
class Elsewhere:
    def client_connected(self, client):
        if client.sockname[1] == {port}:
            client.peername = ("192.168.1.9", client.peername[1])

addons = [Elsewhere()]
"""
"""Has what comes to a port come from another machine: tests do not leave this one."""


@pytest.mark.parametrize("mode", ["regular", "reverse", "reverse:tcp", "socks5"])
def test_another_machine_does_not_spend_through_a_second_mode(home: Path, mode: str) -> None:
    first, second, far = free_port(), free_port(), free_port()
    target = f"0.0.0.0:{first}"  # leads to 127.0.0.1, which mitmproxy itself would not connect to
    spelt = {"reverse": f"reverse:http://{target}", "reverse:tcp": f"reverse:tcp://{target}"}.get(mode, mode)
    script = home / "elsewhere.py"
    script.write_text(ELSEWHERE.format(port=far))
    with Upstream(sell) as upstream:
        modes = [part for port in (second, far) for part in ("--mode", f"{spelt}@127.0.0.1:{port}")]
        ready = rf"listening at 127\.0\.0\.1:{first}"
        proxy = Proxy(
            upstream.url,
            "--listen-host",
            "127.0.0.1",
            *modes,
            "--set",
            "keep_host_header=true",
            home=home,
            listening=ready,
        )
        proxy.load_first(script)
        proxy.command[proxy.command.index("--listen-port") + 1] = str(first)
        with proxy:
            for port in (first, second):
                assert through(port, mode if port == second else "", target).body == b"ok"
            paid = len(upstream.requests)
            answer = through(far, mode, target)
            assert (answer.status, b"client_token_required" in answer.body) == (403, True)
            assert len(upstream.requests) == paid


def through(port: int, mode: str, target: str) -> Message:
    with Client("127.0.0.1", port) as client:
        if mode == "socks5":
            client.send(b"\5\1\0")
            assert client.exactly(2) == b"\5\0"
            host, _, wanted = target.partition(":")
            client.send(b"\5\1\0\1" + socket.inet_aton(host) + int(wanted).to_bytes(2, "big"))
            client.exactly(10)
        data = request()
        return client.ask(data.replace(b"POST /", f"POST http://{target}/".encode()) if mode == "regular" else data)


def hop(near: tuple[str, int], far: tuple[str, int], client: connection.Client) -> SimpleNamespace:
    server = tflow.tserver_conn()
    server.sockname, server.peername = near, far
    return SimpleNamespace(server=server, client=client)


def client_of(peer: tuple[str, int], own: tuple[str, int]) -> connection.Client:
    client = tflow.tclient_conn()
    client.peername, client.sockname = peer, own
    return client


def test_whoever_stands_at_the_end_of_the_chain_is_the_peer() -> None:
    peers = Peers(lambda _: True)
    stranger = client_of(("192.168.1.9", 5), ("192.168.1.2", 8080))
    middle = client_of(("::1", 6, 0, 0), ("::1", 8081, 0, 0))
    last = client_of(("::ffff:127.0.0.1", 7, 0, 0), ("::ffff:127.0.0.1", 4402, 0, 0))
    assert peers.of(last) == "::ffff:127.0.0.1"
    first, second = hop(("::1", 6), ("::1", 8081), stranger), hop(("127.0.0.1", 7), ("127.0.0.1", 4402), middle)
    peers.server_connected(first)
    peers.server_connected(second)
    assert peers.of(last) == "192.168.1.9"
    assert peers.of(client_of(("127.0.0.1", 7), ("127.0.0.1", 4403))) == "127.0.0.1"  # another connection
    peers.server_disconnected(second)
    assert peers.of(last) == "::ffff:127.0.0.1"


def test_a_circle_is_a_stranger() -> None:
    peers = Peers(lambda _: True)
    client = client_of(("127.0.0.1", 7), ("127.0.0.1", 4402))
    peers.server_connected(hop(("127.0.0.1", 7), ("127.0.0.1", 4402), client))
    assert peers.of(client) == ""
