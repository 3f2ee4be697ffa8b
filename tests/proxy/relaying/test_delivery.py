"""Ambiguous heads: nothing is paid where the challenge has one, and what was paid for gets through."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support import challenges
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Peer, Upstream, read_message, request

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


UNREADABLE = {
    "two lengths": (b"Content-Length: 3\r\nContent-Length: 5\r\n", b"hello"),
    "two lengths the other way": (b"Content-Length: 5\r\nContent-Length: 3\r\n", b"hello"),
    "two lengths, both too long": (b"Content-Length: 50\r\nContent-Length: 99\r\n", b"hello"),
    "one length twice": (b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"),
    "a list of lengths": (b"Content-Length: 5, 5\r\n", b"hello"),
    "a length with a sign": (b"Content-Length: +5\r\n", b"hello"),
    "no length": (b"Content-Length: many\r\n", b"hello"),
    "a coding that nobody knows": (b"Transfer-Encoding: x-odd\r\n", b"hello"),
    "chunks twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
    "a coding before chunks": (b"Transfer-Encoding: x-odd, chunked\r\n", CHUNKS),
    "a line without a colon": (b"nonsense\r\nContent-Length: 5\r\n", b"hello"),
    "a line without a name": (b": nonsense\r\nContent-Length: 5\r\n", b"hello"),
}


@pytest.mark.parametrize("stays", [False, True], ids=["closes", "stays"])
@pytest.mark.parametrize(("head", "body"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_paid_answer_that_mitmproxy_cannot_read_gets_through(rig: Rig, head: bytes, body: bytes, stays: bool) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer())
        upstream.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"X-Good: 2\r\n\r\n" + body)
        if stays:
            peer.receive()  # until the proxy closes

    if stays and body == b"hello" and not (b"5" in head and b"50" not in head):
        return  # such a body ends with the connection
    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request(body=json.dumps([head.decode("latin-1"), stays]).encode()))
    assert (answer.status, answer.body, answer.get(b"x-good")) == (200, b"hello", b"2")
    assert len(rig.upstream.requests) == 2


@pytest.mark.parametrize("status", [b"200 OK", b"402 Payment Required"])
@pytest.mark.parametrize(
    ("framing", "body"), [(b"Content-Length: 2", b"ok"), (b"Transfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n")]
)
def test_an_answer_that_is_framed_behind_a_thousand_headers(
    rig: Rig, status: bytes, framing: bytes, body: bytes
) -> None:
    """Their values are hidden from the flow, and are there for framing all the same."""

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(b"HTTP/1.1 " + status + b"\r\n" + b"A: b\r\n" * 1100 + framing + b"\r\n\r\n" + body)

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request("GET", "/v1/many", b""))
    assert (answer.start, answer.body) == (b"HTTP/1.1 " + status, b"ok")


@pytest.mark.parametrize(("head", "body"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_challenge_that_mitmproxy_cannot_read_is_not_paid(rig: Rig, head: bytes, body: bytes) -> None:
    test_a_challenge_with_an_ambiguous_head_is_not_paid(rig, head, body)


HEADS = {
    "length that is none": b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
    "two lengths": b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "coding": b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: x-odd\r\n\r\n0\r\n\r\n",
    "a page": b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\nContent-Length: x\r\n\r\n",
    "a preflight": b"OPTIONS /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
    "health": b"GET /x402/health HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
    "no line": b"nonsense\r\n\r\n",
    "a line without a colon": b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nnonsense\r\n\r\n",
    "a space before the colon": b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Odd : 1\r\nContent-Length: 0\r\n\r\n",
    "both": b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_request_that_cannot_be_read_gets_one_answer(rig: Rig, head: bytes) -> None:
    rig.script(lambda *_: None)
    with rig.client() as client:
        client.send(head)
        said = client.rest()
    assert said.count(b"HTTP/1.1 ") == 1
    status, _, body = said.partition(b"\r\n\r\n")
    assert status.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
    assert json.loads(body)["error"]["message"]
    assert rig.upstream.requests == []


def test_a_request_with_an_odd_header_is_told_that_it_is_the_header(rig: Rig) -> None:
    rig.script(lambda *_: None)
    with rig.client() as client:
        client.send(b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-\xc3\xae: 1\r\nContent-Length: 0\r\n\r\n")
        answer = read_message(client)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["type"], error["code"]) == (400, "x402_refused", "request_head_invalid")
    assert error["message"].startswith("The request's head cannot be passed on: ")
    assert rig.upstream.requests == []


@pytest.mark.parametrize(("protocol", "paid"), [("websocket", False), ("foo", False), ("foo", True)])
def test_what_follows_switched_protocols_is_all_the_upstreams(rig: Rig, protocol: str, paid: bool) -> None:
    """No error page is written into it where the upstream closes."""
    accepted = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" if protocol == "websocket" else b""

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        if paid:
            peer.send(challenges.answer())
            upstream.read(peer)
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ")
        peer.send(protocol.encode() + b"\r\n" + accepted + b"\r\n\x81\x02hi")

    rig.script(script)
    upgrade = ["Connection: upgrade", f"Upgrade: {protocol}"]
    keys = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    with rig.client() as client:
        client.send(request("GET", f"/v1/{protocol}/{paid}", b"", *upgrade, *(keys if accepted else [])))
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        rest = client.rest()
    assert rest.startswith(b"\x81\x02hi") or (not rest and protocol == "foo")
    assert b"HTTP/1.1" not in rest


@pytest.mark.parametrize("paid", [False, True], ids=["free", "paid"])
def test_half_a_line_end_in_the_head_of_a_paid_answer_is_a_blank(rig: Rig, paid: bool) -> None:
    """As RFC 9110 has it, section 5.5: clients refuse the answer otherwise. What is free stays as it came."""

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        if paid:
            peer.send(challenges.answer())
            upstream.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nX-Odd: a\0b\rc\r\nContent-Length: 5\r\n\r\nh\0l\ro")

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request(body=json.dumps(["nul", paid]).encode()))
    assert (answer.body, answer.get(b"x-odd")) == (b"h\0l\ro", b"a b c" if paid else b"a\0b\rc")
