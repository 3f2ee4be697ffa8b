"""What a peer sends without end is cut off, others are not held up, and what is odd but whole gets through."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator

import h11
import pytest
from h11._receivebuffer import ReceiveBuffer

from mitmproxy_x402.proxy.fairness.chunks import Chunks
from mitmproxy_x402.proxy.http1 import MAX_HEAD
from support import challenges
from support.patience import eventually
from support.proxy import Proxy
from support.rig import Rig
from support.running.memory import peak
from support.wire import Message, Peer, Upstream, read_message, request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, home=tmp_path_factory.mktemp("home")) as proxy:
        yield Rig(proxy, upstream)


def flood(peer: Peer, piece: bytes, most: int = 64 << 20) -> int:
    """Send `piece` until the other side closes; how much that was, or `most`."""
    sent = 0
    try:
        while sent < most:
            peer.send(piece)
            sent += len(piece)
    except OSError:
        return sent
    return sent


LINES = b"a" * 65536
FLOODS = {
    "head": (b"HTTP/1.1 200 OK\r\nX: ", LINES, 502),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10000, 502),
    "chunk size": (CHUNKED, b"0" * 65536, 200),
    "chunk extension": (CHUNKED + b"5;", LINES, 200),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\n", b"X: y\r\n" * 10000, 200),
    "interim": (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000, 502),
    "interim head": (b"HTTP/1.1 103 Early Hints\r\nLink: ", LINES, 502),
}


@pytest.mark.parametrize("paid", [False, True], ids=["free", "paid"])
@pytest.mark.parametrize(("begin", "piece", "status"), FLOODS.values(), ids=FLOODS)
def test_an_upstream_that_floods(rig: Rig, begin: bytes, piece: bytes, status: int, paid: bool) -> None:
    sent: list[int] = []

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        if paid and len(upstream.requests) == 1:
            peer.send(challenges.answer())
            upstream.read(peer)
        peer.send(begin)
        sent.append(flood(peer, piece))

    rig.script(script)
    before = peak(rig.proxy.process.pid)
    with rig.client() as client:
        body = json.dumps([len(begin), len(piece), paid]).encode()  # no other test's: its payment would go along
        client.send(request(body=body))
        head = client.until(b"\r\n\r\n")
        assert int(head.split()[1]) == status
        rest = client.rest()
    assert peak(rig.proxy.process.pid) - before < 24 << 20
    eventually(lambda: bool(sent), lambda: sent)
    assert sent[0] < 32 << 20
    if status == 502:
        code = json.loads(rest)["error"]["code"]
        assert code == ("payment_outcome_unknown" if paid else "upstream_failed")
    else:
        assert not rest.endswith(b"0\r\n\r\n")  # the client sees that it is not whole


@pytest.mark.parametrize("paid", [False, True], ids=["free", "paid"])
@pytest.mark.parametrize("body", [b"5\nhello\n0\n\n", b"5\r\nhello\r\n0\n\n", b"5;x=1\nhello"])
def test_chunks_whose_lines_end_in_a_line_feed_alone_end_the_answer(rig: Rig, body: bytes, paid: bool) -> None:
    """The client would wait for the time-out: h11 waits for a CRLF."""

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        if paid and len(upstream.requests) == 1:
            peer.send(challenges.answer())
            upstream.read(peer)
        peer.send(CHUNKED + body)
        assert not peer.receive()  # waits until the proxy closes

    rig.script(script)
    with rig.client() as client:
        client.send(request(body=json.dumps([body.decode(), paid]).encode()))
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert client.rest() in (b"", b"5\r\nhello\r\n")


CLIENT_FLOODS = {
    "head": (b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", LINES, 431),
    "line": (b"POST /", LINES, 431),
    "headers": (b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X: y\r\n" * 10000, 431),
    "chunk size": (b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 65536, 0),
    "trailers": (
        b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"X: y\r\n" * 10000,
        0,
    ),
}


@pytest.mark.parametrize(("begin", "piece", "status"), CLIENT_FLOODS.values(), ids=CLIENT_FLOODS)
def test_a_client_that_floods(rig: Rig, begin: bytes, piece: bytes, status: int) -> None:
    rig.script(lambda *_: None)
    before = peak(rig.proxy.process.pid)
    with rig.client() as client:
        client.send(begin)
        assert flood(client, piece) < 64 << 20
        if status:
            try:
                answer = read_message(client)
            except OSError:
                pass  # the reset was faster
            else:
                assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, "request_head_too_large")
    assert peak(rig.proxy.process.pid) - before < 24 << 20
    assert rig.upstream.requests == []


def test_requests_that_are_sent_ahead_without_end(rig: Rig) -> None:
    waits = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        waits.wait(20)

    rig.script(script)
    before = peak(rig.proxy.process.pid)
    with rig.client() as client:
        client.send(request())
        assert flood(client, LINES, 128 << 20) < 128 << 20
        waits.set()
    assert peak(rig.proxy.process.pid) - before < 64 << 20


def test_the_trailers_of_a_request_are_dropped(rig: Rig) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            peer.send(OK)

    rig.script(script)
    with rig.client() as client:
        for _ in range(2):
            client.send(
                b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
                b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"
            )
            assert read_message(client).body == b"ok"
    assert [sent.body for sent in rig.upstream.requests] == [b"{}", b"{}"]


def test_more_headers_than_anybody_needs(rig: Rig) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            peer.send(OK)

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request("POST", "/v1/x", b"{}", *(f"x-{n}: y" for n in range(1100))))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (431, "request_head_too_large")
        assert client.ask(request("POST", "/v1/x", b"{}", *(f"x-{n}: y" for n in range(900)))).body == b"ok"


@pytest.mark.parametrize("query", ["&" * 200_000, "a=b&" * 1100, "a=b;" * 1100])
def test_more_parameters_than_anybody_needs(rig: Rig, query: str) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(OK)

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request("POST", "/v1/x?" + query))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (431, "request_head_too_large")
        assert client.ask(request("POST", "/v1/x?" + "a=b&" * 900)).body == b"ok"


@pytest.mark.parametrize("separator", ["&", ";"])
def test_more_parameters_in_referers_than_anybody_needs(rig: Rig, separator: str) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(OK)

    rig.script(script)
    referers = [f"Referer: http://a/?{separator.join(f'p{n}=1' for n in range(90))}"] * 12
    with rig.client() as client:
        answer = client.ask(request("POST", "/v1/x", b"{}", *referers))
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (431, "request_head_too_large")
        assert client.ask(request("POST", "/v1/x", b"{}", *referers[:9])).body == b"ok"


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "402 Payment Required"])
def test_an_answer_with_more_in_its_head_than_anybody_looks_at_arrives_whole(rig: Rig, status: str) -> None:
    """What is looked at is bounded by the redactor; what is passed on is not."""
    location = b"/v1?" + b"&".join(b"p%d=%d" % (n, n) for n in range(10_000))
    fields = [b"X-%d: %d" % (n, n) for n in range(5_000)]

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        lines = (b"HTTP/1.1 " + status.encode(), b"Location: " + location, *fields, b"Content-Length: 2", b"", b"ok")
        peer.send(b"\r\n".join(lines))
        last = (b"HTTP/1.1 200 OK", *fields, b"Connection: close", b"Content-Length: 2", b"", b"ok")
        upstream.read(peer)
        peer.send(b"\r\n".join(last))
        assert peer.rest() == b""

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request(body=status.encode()))
        assert client.ask(request()).get(b"connection") == b"close"
    assert rig.upstream.connections == 1
    assert (answer.status, answer.body) == (int(status[:3]), b"ok")
    assert answer.get(b"location") == location
    assert all(answer.get(b"x-%d" % n) == b"%d" % n for n in (0, 2_000, 4_999))


def chunks_of(data: bytes, cuts: Callable[[], int]) -> tuple[bytes, list[int]]:
    """What our reader makes of `data`, fed in pieces; and the sizes of the pieces that it gave."""
    reader, buffer, given, sizes, at = Chunks(), ReceiveBuffer(), bytearray(), [], 0
    while at < len(data):
        step = cuts()
        buffer += data[at : at + step]
        at += step
        while True:
            found = reader(buffer)
            if not isinstance(found, h11.Data):
                break
            given += found.data
            sizes.append(len(found.data))
        if isinstance(found, h11.EndOfMessage):
            assert at >= len(data)
            return bytes(given), sizes
    raise AssertionError("no end")


def test_tiny_chunks_are_joined_and_nothing_is_lost() -> None:
    payload = bytes(range(256)) * 200
    data = b"".join(b"1\r\n%c\r\n" % byte for byte in payload) + b"0\r\n\r\n"
    for size in (1, 7, 4096, 5000, 65536):
        given, sizes = chunks_of(data, lambda size=size: size)
        assert given == payload
        if size > 10000:
            assert len(sizes) < len(payload) / 4


def test_chunks_wait_for_the_next_turn() -> None:
    reader, buffer = Chunks(), ReceiveBuffer()
    buffer += b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
    first = reader(buffer)
    assert isinstance(first, h11.Data)
    reader.until = 0.0
    assert reader(buffer) is None
    assert reader.paused
    reader.until = math.inf
    assert bytes(reader(buffer).data) == b"b"
    assert isinstance(reader(buffer), h11.EndOfMessage)


@pytest.mark.parametrize("ends", [b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b""], ids=["end", "trailers", "cut"])
def test_one_byte_chunks_arrive_whole(rig: Rig, ends: bytes) -> None:
    payload = bytes(range(256)) * 100

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in payload) + ends)

    rig.script(script)
    with rig.client() as client:
        client.send(request("POST", "/v1/x", json.dumps(ends.decode()).encode()))
        client.until(b"\r\n\r\n")
        got = bytearray()
        while len(got) < len(payload) and (chunk := client.chunk()):
            got += chunk
        assert bytes(got) == payload
        if ends:
            assert client.chunk() == b""
        else:
            assert not client.rest().endswith(b"0\r\n\r\n")


def test_a_request_in_one_byte_chunks_arrives_whole(rig: Rig) -> None:
    payload = bytes(range(256)) * 100

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(OK)

    rig.script(script)
    with rig.client() as client:
        client.send(
            b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"1\r\n%c\r\n" % byte for byte in payload)
            + b"0\r\n\r\n"
        )
        assert read_message(client).body == b"ok"
    (sent,) = rig.upstream.requests
    assert sent.body == payload


def test_chunks_as_they_stream_are_left_as_they_are() -> None:
    events = [b"data: %d\n\n" % n for n in range(20)]
    data = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"
    assert chunks_of(data, lambda: 100000)[1] == [len(event) for event in events]


def test_a_fault_behind_tiny_chunks_is_told_after_them() -> None:
    reader, buffer = Chunks(), ReceiveBuffer()
    buffer += b"1\r\na\r\n" * 2000 + b"nonsense\r\n"
    found = b"".join(bytes(reader(buffer).data) for _ in range(1))
    with pytest.raises(h11.ProtocolError):  # noqa: PT012
        for _ in range(2001):
            found += reader(buffer).data
    assert found == b"a" * 2000


def test_head_of_a_page_that_is_large_but_whole(rig: Rig) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nX: " + b"y" * (MAX_HEAD - 1000) + b"\r\nContent-Length: 2\r\n\r\nok")

    rig.script(script)
    with rig.client() as client:
        answer: Message = client.ask(request())
        assert answer.body == b"ok"
        assert len(answer.get(b"x") or b"") == MAX_HEAD - 1000
