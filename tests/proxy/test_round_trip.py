"""The handshake at real sockets: what goes up, what comes down, byte for byte."""

from __future__ import annotations

import gzip
import json
import queue
import random
import threading
from collections.abc import Callable

import pytest

from support import challenges
from support.rig import Rig
from support.running.memory import peak
from support.wire import TIMEOUT, Message, Peer, Upstream, request

STREAM_HEAD = (
    b"HTTP/1.1 200 Everything Fine\r\n"
    b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    b"content-type: text/event-stream\r\n"
    b"X-Request-ID: a\r\n"
    b"x-request-id: b\r\n"
    b"Set-Cookie: a=1\r\n"
    b"Set-Cookie: b=2\r\n"
    b'Alt-Svc: h3=":443"\r\n'
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def is_paid(message: Message) -> bool:
    return message.get(b"payment-signature") is not None


def sell(answer: Callable[[Peer], None], challenge: bytes | None = None) -> Callable[[Peer, Upstream], None]:
    """A gateway that asks for a payment, and gives `answer` for whatever payment it gets."""

    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            if is_paid(upstream.read(peer)):
                answer(peer)
            else:
                peer.send(challenge or challenges.answer())

    return script


def ok(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def test_pays_on_the_same_connection_with_the_same_bytes(rig: Rig) -> None:
    rig.script(sell(ok))
    body = random.Random(1).randbytes(5000)
    with rig.client() as client:
        answer = client.ask(request("POST", "/api/v1/x?a=%20b&c", body, "X-One: 1", "x-one: 2", "content-type: x/y"))
    assert (answer.status, answer.body) == (200, b"ok")
    unpaid, paid = rig.upstream.requests
    assert unpaid.body == paid.body == body
    assert rig.upstream.connections == 1
    assert paid.fields[:-1] == unpaid.fields
    assert [name for name, _ in paid.fields[-1:]] == [b"PAYMENT-SIGNATURE"]
    port = rig.upstream.port
    assert unpaid.head.splitlines() == [
        b"POST /api/v1/x?a=%20b&c HTTP/1.1",
        b"Host: 127.0.0.1:%d" % port,
        b"X-One: 1",
        b"x-one: 2",
        b"content-type: x/y",
        b"Content-Length: 5000",
        b"",
    ]


def test_a_client_that_closes_is_paid_for_on_one_connection(rig: Rig) -> None:
    """Whether the client's connection is closed is between it and us: the upstream's serves both legs."""
    rig.script(sell(ok))
    with rig.client() as client:
        answer = client.ask(request("POST", "/v1/x", b"{}", "Connection: close", "X-Last: 1"))
        assert (answer.status, answer.body, client.rest()) == (200, b"ok", b"")
    unpaid, paid = rig.upstream.requests
    assert rig.upstream.connections == 1
    assert [message.get(b"connection") for message in (unpaid, paid)] == [None, None]
    assert [name for name, _ in unpaid.fields] == [b"Host", b"X-Last", b"Content-Length"]


@pytest.mark.parametrize("paid", [True, False], ids=["paid", "free"])
def test_relays_each_chunk_as_it_comes(rig: Rig, paid: bool) -> None:
    """In lockstep: the upstream sends its next chunk only after the client has got the last one."""
    got: queue.Queue[bytes] = queue.Queue()

    def stream(peer: Peer) -> None:
        peer.send(STREAM_HEAD)
        for number in range(5):
            event = b"data: %d \xf0\x9f" % number
            peer.send(b"%x\r\n%s\r\n" % (len(event), event))
            assert got.get(timeout=TIMEOUT) == event
        peer.send(b"0\r\n\r\n")

    def free(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            stream(peer)

    rig.script(sell(stream) if paid else free)
    with rig.client() as client:
        client.send(request())
        assert client.until(b"\r\n\r\n") == STREAM_HEAD
        while chunk := client.chunk():
            got.put(chunk)
        # and the connection lives on
        client.send(request(body=b'{"n": 2}'))
        assert client.until(b"\r\n\r\n") == STREAM_HEAD
        while chunk := client.chunk():
            got.put(chunk)
    assert len(rig.upstream.requests) == (4 if paid else 2)
    assert rig.upstream.connections == 1


PASSING = {
    "error": b"HTTP/1.1 500 Oh no\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\n{}{}",
    "redirect": b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "rate limit": b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\nContent-Length: 2\r\n\r\n{}",
    "402, no challenge": b"HTTP/1.1 402 Pay Up\r\nContent-Type: text/html\r\nContent-Length: 8\r\n\r\n<html>\r\n",
    "402, JSON but no challenge": b'HTTP/1.1 402 No\r\nX: y\r\nContent-Length: 18\r\n\r\n{"accepts":"cash"}',
    "402, broken header": b"HTTP/1.1 402 No\r\nPAYMENT-REQUIRED: ?\r\nContent-Length: 2\r\n\r\n{}",
    "402, empty": b"HTTP/1.1 402 Payment Required\r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nX-Free-Model: true\r\n\r\n",
    "length, gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 25\r\n\r\n"
    + gzip.compress(b"hello", mtime=0),
}


@pytest.mark.parametrize("name", PASSING)
def test_passes_what_is_no_challenge_executed_once(rig: Rig, name: str) -> None:
    raw = PASSING[name]

    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            peer.send(raw)

    rig.script(script)
    with rig.client() as client:
        client.send(request(path=f"/v1/passing/{list(PASSING).index(name)}"))
        assert client.exactly(len(raw)) == raw
    assert len(rig.upstream.requests) == 1


def test_pays_terms_in_a_header_before_a_page_of_any_size(rig: Rig) -> None:
    raw = challenges.answer(body=b"x" * ((1 << 20) + 70_000))

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(raw)
        assert upstream.read(peer).get(b"payment-signature")
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    rig.script(script)
    with rig.client() as client:
        assert client.ask(request(path="/v1/a-large-page")).body == b"ok"  # what others have left is not for this one
    assert rig.upstream.connections == 1


def test_passes_402_that_is_too_large(rig: Rig) -> None:
    """More than 1 MiB is not held back, where no header holds the terms."""
    body = b"x" * ((1 << 20) + 70_000)
    raw = b"HTTP/1.1 402 Payment Required\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(raw)
        upstream.read(peer)

    rig.script(script)
    with rig.client() as client:
        client.send(request())
        assert client.exactly(len(raw)) == raw
    assert len(rig.upstream.requests) == 1


HELD = {
    "chunked": b"HTTP/1.1 402 P\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n",
    "empty": b"HTTP/1.1 402 P\r\n%s\r\nContent-Length: 0\r\n\r\n",
    "after hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 402 P\r\n%s\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", HELD)
def test_pays_402_in_any_framing(rig: Rig, name: str) -> None:
    rig.script(sell(ok, HELD[name] % challenges.header(challenges.evm())))
    with rig.client() as client:
        assert client.ask(request()).body == b"ok"
    assert rig.upstream.connections == 1


@pytest.mark.parametrize(
    "raw",
    [b"HTTP/1.1 402 P\r\n%s\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.0 402 P\r\n%s\r\n\r\n{}"],
    ids=["connection: close", "to the end"],
)
def test_pays_on_a_new_connection_when_the_402_closed_the_old(rig: Rig, raw: bytes) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        if is_paid(upstream.read(peer)):
            ok(peer)
        else:
            peer.send(raw % challenges.header(challenges.evm()))

    rig.script(script)
    with rig.client() as client:
        assert client.ask(request(body=b"abc")).body == b"ok"
    assert [r.body for r in rig.upstream.requests] == [b"abc", b"abc"]
    assert rig.upstream.connections == 2


def test_a_402_cut_short_is_an_error_and_not_paid(rig: Rig) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer(body=b"x" * 100)[:-10])

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request(body=b'"cut short"'))  # no other test's: its payment would go along
    assert answer.status == 502
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("upstream_error", "upstream_failed")
    assert "Nothing was paid" in error["message"]
    assert len(rig.upstream.requests) == 1


def test_a_challenge_in_the_body_only_is_paid(rig: Rig) -> None:
    body = gzip.compress(json.dumps(challenges.evm()).encode())
    raw = b"HTTP/1.1 402 P\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    rig.script(sell(ok, raw))
    with rig.client() as client:
        assert client.ask(request()).body == b"ok"


def test_a_rejection_reaches_the_client_unmodified(rig: Rig) -> None:
    raw = challenges.answer(body=b'{"error": "no", "code": "PAYMENT_INVALID"}')
    rig.script(sell(lambda peer: peer.send(raw)))
    with rig.client() as client:
        client.send(request())
        assert client.exactly(len(raw)) == raw
    assert [is_paid(r) for r in rig.upstream.requests] == [False, True]


def test_hints_before_the_answer_and_trailers_after_it_lose_nothing(rig: Rig) -> None:
    raw = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Cost\r\n\r\n2\r\nhi\r\n0\r\nX-Cost: 1\r\n\r\n"
    )

    def dribble(peer: Peer) -> None:
        for index in range(len(raw)):
            peer.send(raw[index : index + 1])

    for answer in (lambda peer: peer.send(raw), dribble):
        rig.script(sell(answer))
        with rig.client() as client:
            for _ in range(2):
                got = client.ask(request())
                assert (got.status, got.body) == (200, b"hi")
        assert rig.upstream.connections == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "QUERY"])
def test_any_method_on_any_path_is_paid(rig: Rig, method: str) -> None:
    rig.script(sell(ok))
    with rig.client() as client:
        body = b"" if method == "GET" else b"--x\r\nmultipart\0\xff"
        assert client.ask(request(method, "/v1beta/models/a:b?x=%zz&alt=sse", body)).body == b"ok"
    assert [r.start for r in rig.upstream.requests] == [
        f"{method} /v1beta/models/a:b?x=%zz&alt=sse HTTP/1.1".encode()
    ] * 2


@pytest.mark.parametrize("method", ["get", "Post"])
def test_methods_are_case_sensitive(rig: Rig, method: str) -> None:
    rig.script(sell(ok))
    with rig.client() as client:
        assert client.ask(request(method)).status == 402
    assert len(rig.upstream.requests) == 1


def test_a_head_request_is_answered_unpaid(rig: Rig) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            assert not is_paid(upstream.read(peer))
            head = b"402 P\r\n" + challenges.header(challenges.evm())
            peer.send(b"HTTP/1.1 " + head + b"\r\nContent-Length: 10\r\n\r\n")

    rig.script(script)
    with rig.client() as client:
        client.send(request("HEAD"))
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 402 ")


def test_a_chunked_request_goes_up_twice_alike(rig: Rig) -> None:
    rig.script(sell(ok))
    head = b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with rig.client() as client:
        client.send(head + b"5\r\nhello\r\n")
        client.send(b"%x\r\n%s\r\n" % (3000, b"z" * 3000))
        assert client.ask(b"0\r\n\r\n").body == b"ok"
    assert [r.body for r in rig.upstream.requests] == [b"hello" + b"z" * 3000] * 2
    unpaid, paid = rig.upstream.requests
    assert unpaid.chunks == paid.chunks


def test_expect_continue(rig: Rig) -> None:
    rig.script(sell(ok))
    data = request("POST", "/x", b"hello", "Expect: 100-continue")
    with rig.client() as client:
        client.send(data[:-5])
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        assert client.ask(data[-5:]).body == b"ok"
    assert [(r.body, r.get(b"expect")) for r in rig.upstream.requests] == [(b"hello", None)] * 2


def test_a_request_of_20_mb(rig: Rig) -> None:
    rig.script(sell(ok))
    body = random.Random(2).randbytes(20_000_000)
    with rig.client() as client:
        assert client.ask(request(body=body)).body == b"ok"
    assert all(r.body == body for r in rig.upstream.requests)
    assert len(rig.upstream.requests) == 2


def test_a_response_of_100_mb_passes_in_little_memory(rig: Rig) -> None:
    block = random.Random(3).randbytes(1 << 20)

    def stream(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 << 20))
        for _ in range(100):
            peer.send(block)

    rig.script(sell(stream))
    before = peak(rig.proxy.process.pid)
    with rig.client() as client:
        client.send(request())
        client.until(b"\r\n\r\n")
        for _ in range(100):
            assert client.exactly(1 << 20) == block
    assert peak(rig.proxy.process.pid) - before < 20_000_000


def test_upstream_closing_as_the_payment_goes_out_gets_the_same_payment_once_more(rig: Rig) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        if upstream.connections == 1:
            peer.send(challenges.answer())
            upstream.read(peer)
        else:
            ok(peer)

    rig.script(script)
    with rig.client() as client:
        assert client.ask(request(body=b"abc")).body == b"ok"
    _, first, second = rig.upstream.requests
    assert first.head == second.head
    assert (first.body, second.body) == (b"abc", b"abc")
    assert is_paid(first)


def test_a_payment_that_is_lost_twice_is_reported_and_not_sent_a_third_time(rig: Rig) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        if not is_paid(upstream.read(peer)):
            peer.send(challenges.answer())
            upstream.read(peer)

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request("POST", "/lost"))
    assert answer.status == 502
    assert answer.get(b"x-should-retry") is None  # a repetition carries the same payment
    error = json.loads(answer.body)["error"]
    assert error["code"] == "payment_outcome_unknown"
    assert "0.013081 USDC" in error["message"]
    paid = [r.get(b"payment-signature") for r in rig.upstream.requests if is_paid(r)]
    assert len(paid) == 2
    assert len(set(paid)) == 1


@pytest.mark.parametrize(
    "begun", [b"H", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"no HTTP\r\n\r\n"]
)
def test_a_payment_to_which_an_answer_has_begun_is_not_sent_again(rig: Rig, begun: bytes) -> None:
    """The gateway has the request, and may have done what it asks for."""

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer())
        upstream.read(peer)
        peer.send(begun)

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request("POST", f"/begun/{len(begun)}"))  # the rig, and what it retains, is shared
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["code"] == "payment_outcome_unknown"
    assert [is_paid(each) for each in rig.upstream.requests] == [False, True]


def test_requests_side_by_side_pay_with_different_nonces(rig: Rig) -> None:
    rig.script(sell(ok))
    answers: list[bytes] = []

    def one() -> None:
        with rig.client() as client:
            answers.append(client.ask(request()).body)

    threads = [threading.Thread(target=one) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert answers == [b"ok"] * 10
    assert len({r.get(b"payment-signature") for r in rig.upstream.requests if is_paid(r)}) == 10


def test_a_stream_that_breaks_off_breaks_off_for_the_client_too(rig: Rig) -> None:
    def broken(peer: Peer) -> None:
        peer.send(STREAM_HEAD + b"5\r\nhello\r\n")
        raise EOFError("broken off")

    rig.script(sell(broken))
    with rig.client() as client:
        client.send(request())
        client.until(b"\r\n\r\n")
        assert client.chunk() == b"hello"
        assert client.rest() == b""


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        (b"POST /x HTTP/1.1\r\nAuthorization: Bearer sk-'mine\"", "Client closed connection before .* \\(left out"),
        (b"POST /x HTTP/1.1\r\nAuthorization Bearer sk-mine\r\n\r\n", "Invalid header line: \\(left out"),
    ],
)
def test_a_head_that_cannot_be_read_is_not_in_the_log(rig: Rig, said: bytes, logged: str) -> None:
    with rig.client() as client:
        client.send(said)
    rig.proxy.wait_for(logged)
    assert "sk-" not in rig.proxy.log
