"""Ambiguous heads: nothing is paid where the challenge has one, and what was paid for gets through."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support import challenges
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Peer, Upstream, request

CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
ODD = {
    "both lengths": (b"Content-Length: 99\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
    "space before the colon": (b"X-Odd : 1\r\nContent-Length: 5\r\n", b"hello"),
    "space in the name": (b"X Odd: 1\r\nContent-Length: 5\r\n", b"hello"),
    "bytes in the name": (b"X-\xff: 1\r\nContent-Length: 5\r\n", b"hello"),
    "length with a space": (b"Content-Length : 3\r\nContent-Length: 5\r\n", b"hello"),
    "chunks with a space": (b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n", b"hello"),
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, home=tmp_path_factory.mktemp("home")) as proxy:
        yield Rig(proxy, upstream)


@pytest.mark.parametrize(("head", "body"), ODD.values(), ids=ODD)
def test_a_paid_answer_with_an_ambiguous_head_gets_through(rig: Rig, head: bytes, body: bytes) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer())
        upstream.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nX-Good: 2\r\n" + head + b"\r\n" + body)

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request(body=json.dumps(head.decode("latin-1")).encode()))
    assert (answer.status, answer.body, answer.get(b"x-good")) == (200, b"hello", b"2")
    lengths = [
        name.lower() for name, _ in answer.fields if name.lower().strip() in (b"content-length", b"transfer-encoding")
    ]
    assert len(lengths) == 1
    assert len(rig.upstream.requests) == 2
    rig.proxy.wait_for("the head of a paid answer was mended")


@pytest.mark.parametrize(("head", "body"), ODD.values(), ids=ODD)
def test_a_challenge_with_an_ambiguous_head_is_not_paid(rig: Rig, head: bytes, body: bytes) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        terms = challenges.header(challenges.evm())
        peer.send(b"HTTP/1.1 402 Payment Required\r\n" + terms + b"\r\n" + head + b"\r\n" + body)
        upstream.read(peer)

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request(body=json.dumps([head.decode("latin-1")]).encode()))
    assert answer.status == 502
    assert "Nothing was paid" in json.loads(answer.body)["error"]["message"]
    assert len(rig.upstream.requests) == 1
