"""No secret of a client or of the upstream stays in what mitmproxy itself saves and prints, and all of them arrive."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import challenges
from support.patience import eventually
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Message, Peer, Upstream, read_message, request

SECRETS = (
    b"S3CRET-payment",
    b"S3CRET-other",
    b"S3CRET-cookie",
    b"S3CRET-later",
    b"S3CRET-key",
    b"S3CRET-url",
    b"S3CRET-link",
)


def answer(peer: Peer, upstream: Upstream) -> None:
    while True:
        upstream.read(peer)
        peer.send(
            b"HTTP/1.1 200 OK\r\nset-cookie: a=S3CRET-cookie\r\nLocation: /x?sig=S3CRET-url\r\n"
            b"Link: <https://h/?a=1>; rel=prev, <https://u:S3CRET-link@h/?key=S3CRET-link>; rel=next\r\n"
            b"Set-Cookie: b=S3CRET-later\r\nContent-Length: 2\r\n\r\nok"
        )


@pytest.fixture(params=["strip", "forward"])
def rig(request: pytest.FixtureRequest, home: Path) -> Iterator[Rig]:
    arguments = ("-w", str(home / "flows"), "--set", f"hardump={home / 'har'}", "--set", "flow_detail=4")
    forward = ("--set", "x402_forward_auth=true") if request.param == "forward" else ()
    with Upstream(answer) as upstream, Proxy(upstream.url, *arguments, *forward, home=home) as proxy:
        yield Rig(proxy, upstream, request.param)


def saved(rig: Rig) -> bytes:
    rig.proxy.process.terminate()
    rig.proxy.wait_for_end()
    home = rig.proxy.home
    return (home / "flows").read_bytes() + (home / "har").read_bytes() + rig.proxy.log.encode()


@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_payments_cookies_and_forwarded_keys(rig: Rig, method: str) -> None:
    headers = ("PAYMENT-SIGNATURE: S3CRET-payment", "authorization: L402 S3CRET-other", "X-Api-Key: S3CRET-key")
    with rig.client() as client:
        client.send(request(method, "/v1/marked?a=1&api_key=S3CRET-key&b=2", b"{}", *headers))
        got = Message(client.until(b"\r\n\r\n")) if method == "HEAD" else read_message(client)
    names = [name for name, _ in got.fields]
    assert names == [b"set-cookie", b"Location", b"Link", b"Set-Cookie", b"Content-Length"]
    values = [value for _, value in got.fields]
    assert [values[0], values[1], values[3]] == [b"a=S3CRET-cookie", b"/x?sig=S3CRET-url", b"b=S3CRET-later"]
    assert values[2] == b"<https://h/?a=1>; rel=prev, <https://u:S3CRET-link@h/?key=S3CRET-link>; rel=next"
    (sent,) = rig.upstream.requests
    assert sent.get(b"payment-signature") == b"S3CRET-payment"
    assert sent.get(b"authorization") == b"L402 S3CRET-other"
    assert sent.get(b"x-api-key") == (b"S3CRET-key" if rig.mode == "forward" else None)
    key = b"&api_key=S3CRET-key" if rig.mode == "forward" else b""
    assert sent.start == method.encode() + b" /v1/marked?a=1" + key + b"&b=2 HTTP/1.1"
    kept = saved(rig)
    assert kept.count(b"/v1/marked") >= 3
    assert [secret for secret in SECRETS if secret in kept] == []


def test_a_request_that_mitmproxy_rejects(rig: Rig) -> None:
    with rig.client() as client:
        client.send(
            b"POST /v1/marked?key=S3CRET-url HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key : S3CRET-key\r\n"
            b"Cookie: S3CRET-cookie\r\nPAYMENT-SIGNATURE: S3CRET-payment\r\nContent-Length: 0\r\n\r\n"
        )
        assert read_message(client).status == 400
    assert rig.upstream.requests == []
    kept = saved(rig)
    assert kept.count(b"/v1/marked") >= 2
    assert [secret for secret in SECRETS if secret in kept] == []


ECHOES = {
    "header": b"HTTP/1.1 200 OK\r\nX-Echo: %s\r\nContent-Length: 2\r\n\r\nok",
    "in the midst": b"HTTP/1.1 200 OK\r\nX-Echo: you sent [%s]\r\nContent-Length: 2\r\n\r\nok",
    "location": b"HTTP/1.1 303 See Other\r\nLocation: /x?payment=%s&y=1\r\nContent-Length: 2\r\n\r\nok",
    "type": b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: 2\r\n\r\nok",
    "reason": b"HTTP/1.1 200 OK %s\r\nContent-Length: 2\r\n\r\nok",
    "status line": b"%s\r\nContent-Length: 2\r\n\r\nok",
    "header line": b"HTTP/1.1 200 OK\r\n%s\r\n\r\nok",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\nok",
    "coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\nok",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n%s\r\n",
    "trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-echo: %s\r\n\r\n",
    "trailer line": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n%s\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early\r\nX-Echo: %s\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "behind it": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok%s",
}
"""Answers in which a gateway repeats the payment where it does not belong."""


@pytest.mark.parametrize("what", ["payment", "signature"])
def test_a_payment_that_the_gateway_repeats(home: Path, what: str) -> None:
    made: list[bytes] = []

    def repeat(peer: Peer, upstream: Upstream) -> None:
        asked = upstream.read(peer)
        paid = asked.get(b"payment-signature")
        if paid is None:
            peer.send(challenges.answer())
            repeat(peer, upstream)
            return
        signature = json.loads(base64.b64decode(paid))["payload"]["signature"].encode()
        made.extend((paid, signature))
        peer.send(
            ECHOES[asked.start.split()[1][4:].decode().replace("_", " ")] % (paid if what == "payment" else signature)
        )
        peer.close()

    dumps = ("--set", f"x402_dump={home / 'dump'}", "--set", "x402_dump_format=native,har,mitm")
    arguments = ("-w", str(home / "flows"), "--set", f"hardump={home / 'har'}", "--set", "flow_detail=4", *dumps)
    with Upstream(repeat) as upstream, Proxy(upstream.url, *arguments, home=home) as proxy:
        for place in ECHOES:
            with proxy.client() as client:
                client.send(request("POST", f"/v1/{place.replace(' ', '_')}", place.encode()))
                arrived = client.until(b"\r\n\r\n")
                if place in ("header", "location", "reason"):
                    assert made[-2 if what == "payment" else -1] in arrived, "it is delivered as it came"
        proxy.process.terminate()
        proxy.wait_for_end()
        kept = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and "ledger" not in path.name}
        kept[home / "log"] = proxy.log.encode()
    assert len(set(made)) == 2 * len(ECHOES)
    assert [path for path, data in kept.items() if any(secret in data for secret in made)] == []


def test_an_answer_that_still_runs_when_the_proxy_stops(rig: Rig) -> None:
    def endless(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: S3CRET-cookie\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        peer.rest()

    rig.script(endless)
    with rig.client() as client:
        client.send(request("POST", "/v1/marked?key=S3CRET-url", b"{}", "X-PAYMENT: S3CRET-payment"))
        assert b"S3CRET-cookie" in client.until(b"ok\r\n")
        rig.proxy.process.terminate()
        eventually(lambda: "stopping" in rig.proxy.log, lambda: rig.proxy.log)
        kept = saved(rig)
    assert [secret for secret in SECRETS if secret in kept] == []
