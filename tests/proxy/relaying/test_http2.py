"""The same handshake with HTTP/2 upstream, and with TLS on either side."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from h2.errors import ErrorCodes

from mitmproxy_x402.recording.format import read_recordings
from support import challenges
from support.chains.rpc import GatedRpc
from support.http2 import H2Peer, H2Upstream, sell
from support.proxy import Proxy, svm_key
from support.running import certs
from support.wire import TIMEOUT, Client, Peer, Upstream, request


def start(upstream: Upstream, home: Path, pem: Path, *arguments: str, **more: Any) -> Proxy:
    return Proxy(upstream.url, *certs.trust(pem), *arguments, home=home, **more)


@pytest.fixture
def client_tls() -> Iterator[Callable[[Proxy], httpx.Client]]:
    opened: list[httpx.Client] = []

    def connect(proxy: Proxy) -> httpx.Client:
        url = f"https://127.0.0.1:{proxy.port}"
        opened.append(httpx.Client(http2=True, verify=certs.blind_client_context("h2"), base_url=url, timeout=TIMEOUT))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def test_pays_on_one_connection(home: Path, pem: Path, client_tls: Callable[[Proxy], httpx.Client]) -> None:
    body = bytes(range(256)) * 2000  # more than one flow-control window
    with H2Upstream(sell, certs.server_context(pem, "h2")) as upstream, start(upstream, home, pem) as proxy:
        client = client_tls(proxy)
        for _ in range(3):
            answer = client.post("/v1/x?y=%20", content=body)
            assert (answer.http_version, answer.status_code, answer.content) == ("HTTP/2", 200, b"goods")
            assert answer.headers.get_list("x-a") == ["1", "2"]
        assert upstream.connections == 1
        assert [sent for _, sent in upstream.seen] == [body] * 6
        unpaid, paid = upstream.seen[0][0], upstream.seen[1][0]
        assert {k: v for k, v in paid.items() if k != "payment-signature"} == unpaid


def test_many_streams_at_once(home: Path, pem: Path) -> None:
    async def ask_all(url: str) -> list[bytes]:
        tls = certs.blind_client_context("h2")
        async with httpx.AsyncClient(http2=True, verify=tls, base_url=url, timeout=TIMEOUT) as client:
            first = await client.post("/warm")
            rest = await asyncio.gather(*(client.post("/v1/x") for _ in range(12)))
            return [first.content, *(answer.content for answer in rest)]

    with H2Upstream(sell, certs.server_context(pem, "h2")) as upstream, start(upstream, home, pem) as proxy:
        assert asyncio.run(ask_all(f"https://127.0.0.1:{proxy.port}")) == [b"goods"] * 13
        payments = [headers["payment-signature"] for headers, _ in upstream.seen if "payment-signature" in headers]
        assert len(payments) == len(set(payments)) == 13


def test_a_reset_after_the_402_does_not_touch_the_paid_request(
    home: Path, pem: Path, client_tls: Callable[[Proxy], httpx.Client]
) -> None:
    """Servers that answer before they have read the whole body end the stream with RST_STREAM(NO_ERROR)."""

    def script(peer: H2Peer, upstream: H2Upstream) -> None:
        while True:
            data = peer.peer.receive()
            if not data:
                return
            for event in peer.h2.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    headers = dict(event.headers)
                    upstream.seen.append((headers, b""))
                    if "payment-signature" not in headers:
                        peer.challenge(event.stream_id, challenges.evm())
                        peer.h2.reset_stream(event.stream_id, 0)
                elif isinstance(event, h2.events.StreamEnded):
                    peer.answer(event.stream_id, 200, [], b"goods")
                elif isinstance(event, h2.events.DataReceived):
                    peer.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            peer.flush()

    with H2Upstream(script, certs.server_context(pem, "h2")) as upstream, start(upstream, home, pem) as proxy:
        answer = client_tls(proxy).post("/v1/x", content=b"z" * 1_000_000)
        assert (answer.status_code, answer.content) == (200, b"goods")
        assert len(upstream.seen) == 2


BROKEN: dict[str, tuple[Callable[[H2Peer, int], None], bool]] = {
    "closed": (lambda *_: None, True),
    "refused": (lambda peer, stream: peer.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM), True),
    "goaway before it": (lambda peer, _: peer.h2.close_connection(last_stream_id=0), True),
    "cancelled": (lambda peer, stream: peer.h2.reset_stream(stream, ErrorCodes.CANCEL), False),
    "reset without an error": (lambda peer, stream: peer.h2.reset_stream(stream), False),
    "goaway behind it": (lambda peer, stream: peer.h2.close_connection(last_stream_id=stream), False),
    "interim": (lambda peer, stream: peer.h2.send_headers(stream, [(":status", "103")]), False),
    "interim, refused": (
        lambda peer, stream: (
            peer.h2.send_headers(stream, [(":status", "103")]),
            peer.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM),
        ),
        False,
    ),
    "101": (lambda peer, stream: peer.h2.send_headers(stream, [(":status", "101")]), False),
    "half a frame": (lambda peer, stream: peer.peer.send(b"\0\0\x20\1\4" + stream.to_bytes(4) + b"\x88"), False),
    "half a block": (lambda peer, stream: peer.peer.send(b"\0\0\1\1\0" + stream.to_bytes(4) + b"\x88"), False),
    "no HPACK": (lambda peer, stream: peer.peer.send(b"\0\0\3\1\4" + stream.to_bytes(4) + b"\xff\xff\xff"), False),
    "wrong padding": (lambda peer, stream: peer.peer.send(b"\0\0\1\1\x0c" + stream.to_bytes(4) + b"\xff"), False),
}
"""What comes instead of an answer before the connection is closed, and whether the request was plainly not taken."""


@pytest.mark.parametrize("how", BROKEN)
def test_a_paid_request_goes_once_more_only_if_it_was_not_taken(
    home: Path, pem: Path, client_tls: Callable[[Proxy], httpx.Client], how: str
) -> None:
    """Also with a repetition of the client's: one payment, sent by each."""
    spoil, is_untaken = BROKEN[how]

    def script(peer: H2Peer, upstream: H2Upstream) -> None:
        while True:
            stream, paid = upstream.take(peer)
            if paid:
                spoil(peer, stream)
                peer.flush()
                if how != "refused":  # else the same request comes on this connection
                    return
            else:
                peer.challenge(stream, challenges.evm())

    with (
        H2Upstream(script, certs.server_context(pem, "h2")) as upstream,
        start(upstream, home, pem) as proxy,
    ):
        client = client_tls(proxy)
        for sendings in (2, 3) if is_untaken else (1, 2):
            answer = client.post("/v1/x", content=b"{}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "payment_outcome_unknown")
            paid = [headers["payment-signature"] for headers, _ in upstream.seen if "payment-signature" in headers]
            assert len(paid) == sendings
            assert len(set(paid)) == 1


def test_101_on_one_stream_leaves_the_others_alone(
    home: Path, pem: Path, client_tls: Callable[[Proxy], httpx.Client]
) -> None:
    def script(peer: H2Peer, upstream: H2Upstream) -> None:
        paid: dict[str, int] = {}
        while len(paid) < 2:
            stream, headers, body = peer.next_request()
            upstream.seen.append((headers, body))
            if "payment-signature" in headers:
                paid[headers[":path"]] = stream
            else:
                peer.challenge(stream, challenges.evm())
        peer.h2.send_headers(paid["/v1/odd"], [(":status", "101")])
        peer.flush()
        peer.answer(paid["/v1/even"], 200, [], b"goods")
        peer.next_request()

    with H2Upstream(script, certs.server_context(pem, "h2")) as upstream, start(upstream, home, pem) as proxy:
        client = client_tls(proxy)
        with ThreadPoolExecutor(2) as pool:
            odd, even = pool.map(lambda path: client.post(path, content=b"{}"), ["/v1/odd", "/v1/even"])
        assert (odd.status_code, odd.json()["error"]["code"]) == (502, "payment_outcome_unknown")
        assert (even.status_code, even.content) == (200, b"goods")
        assert len(upstream.seen) == 4
        client.close()


def test_goaway_while_we_sign(home: Path, pem: Path, client_tls: Callable[[Proxy], httpx.Client]) -> None:
    def script(peer: H2Peer, upstream: H2Upstream) -> None:
        stream, paid = upstream.take(peer)
        if paid:
            peer.answer(stream, 200, [], b"goods")
            peer.next_request()
        peer.challenge(stream, challenges.svm())
        rpc.wait_until_asked()
        peer.h2.close_connection()
        peer.flush()

    with GatedRpc() as rpc, H2Upstream(script, certs.server_context(pem, "h2")) as upstream:
        options = ("--set", f"x402_solana_rpc={rpc.url}", "--set", "x402_rpc_timeout=20")
        keys = {"SOLANA_WALLET_KEY": svm_key()}
        with start(upstream, home, pem, *options, keys=keys) as proxy:
            answers: list[httpx.Response] = []
            client = client_tls(proxy)
            thread = threading.Thread(target=lambda: answers.append(client.post("/v1/x", content=b"abc")))
            thread.start()
            proxy.wait_for("server disconnect")
            rpc.release()
            thread.join(TIMEOUT)
            assert answers[0].content == b"goods"
            assert [body for _, body in upstream.seen] == [b"abc", b"abc"]
            client.close()


def test_trailers_reach_a_client_that_can_have_them_and_harm_no_other(
    home: Path, pem: Path, client_tls: Callable[[Proxy], httpx.Client]
) -> None:
    def script(peer: H2Peer, upstream: H2Upstream) -> None:
        while True:
            stream, paid = upstream.take(peer)
            if paid:
                peer.answer(stream, 200, [], b"goods", [("x-cost", "1")])
            else:
                peer.challenge(stream, challenges.evm())

    tls = certs.server_context(pem, "h2")
    with H2Upstream(script, tls) as upstream, start(upstream, home, pem, "--set", "x402_dump=rec") as proxy:
        assert client_tls(proxy).post("/v1/x").content == b"goods"
        with Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("http/1.1", "h2")) as client:
            client.send(request())
            assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
            assert [client.chunk(), client.chunk()] == [b"goods", b""]  # there is no length to tell the end by
    found = [one.response for one in read_recordings(home / "rec") if one.response is not None and one.complete]
    assert [(one.http_version, one.trailers) for one in found] == [("HTTP/2.0", (("x-cost", "1"),)), ("HTTP/2.0", ())]


def test_tls_with_http1_upstream(home: Path, pem: Path) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            if upstream.read(peer).get(b"payment-signature"):
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngoods")
            else:
                peer.send(challenges.answer())

    with Upstream(script, tls=certs.server_context(pem)) as upstream, start(upstream, home, pem) as proxy:
        with proxy.client() as client:
            assert client.ask(request()).body == b"goods"
            assert client.ask(request()).body == b"goods"
        assert upstream.connections == 1


def test_a_request_without_a_length_or_with_trailers_is_framed_for_an_http1_upstream(home: Path, pem: Path) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            if upstream.read(peer).get(b"payment-signature"):
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngoods")
            else:
                peer.send(challenges.answer())

    with Upstream(script, tls=certs.server_context(pem)) as upstream, start(upstream, home, pem) as proxy:
        with Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("h2")) as client:
            asks = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf8"))
            asks.initiate_connection()
            fields = [(":method", "POST"), (":scheme", "https"), (":authority", f"127.0.0.1:{proxy.port}")]
            asks.send_headers(1, [*fields, (":path", "/v1/x")])
            asks.send_data(1, b"{}")
            asks.send_headers(1, [("x-a", "b")], end_stream=True)
            client.send(asks.data_to_send())
            body = b""
            while body != b"goods":
                data = client.receive()
                assert data
                for event in asks.receive_data(data):
                    assert not isinstance(event, h2.events.StreamReset)
                    body += event.data if isinstance(event, h2.events.DataReceived) else b""
        assert [sent.body for sent in upstream.requests] == [b"{}", b"{}"]
        assert "Traceback" not in proxy.log


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"POST", b"http://127.0.0.1/v1/images/x"),
        (b"POST", b"/v1/x /v1/images/x"),
        (b"POST", b"/v1/x\x0bHTTP/1.0"),
        (b"POST", b"v1/images/x"),
        (b"POST", b"*"),
        (b"POST /v1/images/x", b"/v1/x"),
    ],
)
def test_a_path_that_an_http1_upstream_reads_differently_is_refused(
    home: Path, pem: Path, method: bytes, target: bytes
) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            peer.send(challenges.answer())

    with Upstream(script, tls=certs.server_context(pem)) as upstream, start(upstream, home, pem) as proxy:
        with Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("h2")) as client:
            lenient = h2.config.H2Configuration(
                header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
            )
            asks = h2.connection.H2Connection(lenient)
            asks.initiate_connection()
            authority = b"127.0.0.1:%d" % proxy.port
            fields = [(b":method", method), (b":scheme", b"https"), (b":authority", authority), (b":path", target)]
            asks.send_headers(1, fields)
            asks.send_data(1, b"{}", end_stream=True)
            client.send(asks.data_to_send())
            events: list[Any] = []
            while not any(isinstance(event, h2.events.StreamEnded) for event in events):
                events += asks.receive_data(client.receive())
                client.send(asks.data_to_send())
        answered = next(dict(event.headers) for event in events if isinstance(event, h2.events.ResponseReceived))
        said = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
        assert answered[b":status"] == b"400"
        assert json.loads(said)["error"]["code"] == "request_head_invalid"
        assert upstream.requests == []


@pytest.mark.parametrize("size", [0, 2, 5_000, 200_000])
def test_a_request_that_fits_leaves_in_one_record_of_tls(home: Path, pem: Path, size: int) -> None:
    body, first = random.Random(size).randbytes(size), []

    def script(peer: Peer, upstream: Upstream) -> None:
        while data := peer.receive():  # a record at a time
            first.append(data)
            peer.unread(data)
            paid = upstream.read(peer).get(b"payment-signature")
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngoods" if paid else challenges.answer())

    with Upstream(script, tls=certs.server_context(pem)) as upstream, start(upstream, home, pem) as proxy:
        with proxy.client() as client:
            for _ in range(2):
                assert client.ask(request(body=body)).body == b"goods"
    assert [message.body for message in upstream.requests] == [body] * 4
    heads = [message.head for message in upstream.requests]
    assert first == [head + body if size <= 5_000 else head for head in heads]


def test_an_untrusted_certificate_is_a_clear_error(
    home: Path, pem: Path, client_tls: Callable[[Proxy], httpx.Client]
) -> None:
    with Upstream(lambda *_: None, tls=certs.server_context(pem)) as upstream:
        with Proxy(upstream.url, home=home) as proxy:
            with proxy.client() as client:
                answer = client.ask(request())
            assert (answer.status, answer.get(b"content-type")) == (502, b"application/json")
            message = json.loads(answer.body)["error"]["message"]
            assert "ertificate" in message
            assert "Nothing was paid" in message
            over_h2 = client_tls(proxy).post("/v1/x")
            assert (over_h2.status_code, over_h2.json()["error"]["type"]) == (502, "upstream_error")


def test_a_request_that_a_script_streams_is_not_held_up(home: Path, pem: Path) -> None:
    """Its head goes upstream at once, while the client has yet to send the body."""
    script_file = home / "streams.py"
    script_file.write_text("def requestheaders(flow): flow.request.stream = True\n")
    head_is_there = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        peer.unread(peer.until(b"\r\n\r\n"))
        head_is_there.set()
        assert upstream.read(peer).body == b"0123456789"
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngoods")

    with Upstream(script, tls=certs.server_context(pem)) as upstream:
        with start(upstream, home, pem, "-s", str(script_file)) as proxy, proxy.client() as client:
            whole = request(body=b"0123456789")
            client.send(whole[:-10])
            assert head_is_there.wait(TIMEOUT)
            assert client.ask(whole[-10:]).body == b"goods"
