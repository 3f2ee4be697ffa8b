"""101 Switching Protocols: only to who asks for another protocol, and never to one in which requests would follow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path

import httpx
import pytest

from support import challenges
from support.proxy import Proxy
from support.rig import Rig
from support.running import certs
from support.wire import TIMEOUT, Peer, Upstream, read_message, request

KEY = "sk-ant-api03-mine"
TOKEN = "the-client-token-0123456789"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"


@pytest.mark.parametrize("protocol", [b"foo", b"websocket", b"h2c"])
@pytest.mark.parametrize("paid", [False, True], ids=["free", "paid"])
def test_unasked_it_is_no_answer_and_nothing_passes_unseen(home: Path, protocol: bytes, paid: bool) -> None:
    heard: list[bytes] = []

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        if paid:
            peer.send(challenges.answer())
            upstream.read(peer)
        peer.send(SWITCH % protocol)
        heard.append(peer.rest())

    with (
        Upstream(script) as upstream,
        Proxy(upstream.url, "--set", f"x402_client_token={TOKEN}", home=home) as proxy,
        proxy.client() as client,
    ):
        mine = (f"Authorization: Bearer {TOKEN}", f"X-Api-Key: {KEY}")
        answer = client.ask(request("POST", "/v1/x", b"{}", *mine))
        assert answer.status == 502
        wanted = "payment_outcome_unknown" if paid else "upstream_failed"
        assert json.loads(answer.body)["error"]["code"] == wanted
        with contextlib.suppress(OSError):  # the connection may be closed
            client.send(request("POST", "/v1/second", b"{}", *mine))
            client.rest()
        assert len([each for each in upstream.requests if b"/v1/x" in each.head]) == 1 + paid
        for each in upstream.requests:
            assert TOKEN.encode() not in each.head
            assert KEY.encode() not in each.head
    assert b"".join(heard) == b""


@pytest.mark.parametrize(
    "start", [SWITCH % b"foo", b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n"], ids=["101", "099"]
)
def test_over_http2_the_other_streams_go_on(home: Path, pem: Path, start: bytes) -> None:
    go = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        sent = upstream.read(peer)
        if sent.get(b"payment-signature") is None:
            peer.send(challenges.answer())
            return
        if b"/v1/odd" in sent.head:
            peer.send(start)
            peer.rest()
            return
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        assert go.wait(TIMEOUT)
        peer.send(b"other")

    async def ask(url: str) -> tuple[int, bytes]:
        tls = certs.blind_client_context("h2")
        async with (
            httpx.AsyncClient(http2=True, verify=tls, base_url=url, timeout=TIMEOUT) as client,
            client.stream("POST", "/v1/whole") as whole,
        ):
            pieces = whole.aiter_bytes()
            data = await anext(pieces)
            odd = await client.post("/v1/odd")
            go.set()
            async for piece in pieces:
                data += piece
            return odd.status_code, data

    with Upstream(script) as upstream, Proxy(upstream.url, *certs.trust(pem), home=home) as proxy:
        assert asyncio.run(ask(f"https://127.0.0.1:{proxy.port}")) == (502, b"firstother")


@pytest.mark.parametrize(
    "wish",
    ["h2c", "H2C", "foo, h2c", "HTTP/2.0", "TLS/1.2", '"h2c"'],
    ids=["h2c", "H2C", "list", "http2", "tls", "quoted"],
)
def test_a_wish_for_more_http_does_not_go_upstream(rig: Rig, wish: str) -> None:
    """As Java's client and `curl --http2` have it in each of their requests without TLS."""

    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            sent = upstream.read(peer)
            peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                if sent.get(b"payment-signature")
                else challenges.answer()
            )

    rig.script(script)
    fields = (
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {wish}",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "X-Kept: y",
    )
    with rig.client() as client:
        assert client.ask(request("POST", "/v1/wish", json.dumps(wish).encode(), *fields)).body == b"ok"
    for sent in rig.upstream.requests:
        assert [sent.get(name) for name in (b"upgrade", b"http2-settings", b"connection")] == [None] * 3
        assert sent.get(b"x-kept") == b"y"
    assert len(rig.upstream.requests) == 2


@pytest.mark.parametrize("start", [b"HTTP/1.1 099 Odd", b"HTTP/1.1  103 Early Hints", b"HTTP/1.1\t100 Continue"])
def test_a_status_that_is_not_final_is_no_answer(rig: Rig, start: bytes) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(start + b"\r\nContent-Length: 0\r\n\r\n")
        peer.rest()

    rig.script(script)
    with rig.client() as client:
        client.send(request("POST", "/v1/odd"))
        answer = read_message(client)
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["code"] == "upstream_failed"
