"""Requests that are answered before they are whole: nothing of them is kept, and their clients get the answer."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support import challenges
from support.proxy import Proxy
from support.rig import Rig
from support.running.memory import peak
from support.wire import Peer, Upstream, read_message, request

LIMIT = 64 << 10


def sell(peer: Peer, upstream: Upstream) -> None:
    while True:
        message = upstream.read(peer)
        paid = message.get(b"payment-signature") is not None
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" if paid else challenges.answer())


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("home")
    with Upstream(sell) as upstream, Proxy(upstream.url, "--set", f"x402_max_body={LIMIT}", home=home) as proxy:
        yield Rig(proxy, upstream)


@pytest.fixture(autouse=True)
def _fresh(rig: Rig) -> None:
    rig.script(sell)


def head(*fields: str, path: str = "/v1/x") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]).encode()


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


@pytest.mark.parametrize("framing", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
def test_what_the_guard_refuses_is_answered_before_its_body(rig: Rig, framing: str) -> None:
    with rig.client() as client:
        client.send(head("Origin: https://evil.example", framing))
        answer = read_message(client)
        assert (answer.status, code(answer.body)) == (403, "origin_not_allowed")
        before, piece = peak(rig.proxy.process.pid), bytes(1 << 20)
        with pytest.raises(OSError):  # noqa: PT011, PT012
            for _ in range(200):
                client.send(b"100000\r\n" + piece + b"\r\n" if "chunked" in framing else piece)
        assert peak(rig.proxy.process.pid) - before < 20 << 20
    assert rig.upstream.requests == []


def test_a_client_that_sends_everything_first_reads_the_answer_and_goes_on(rig: Rig) -> None:
    with rig.client() as client:
        for _ in range(2):
            answer = client.ask(request("POST", "/v1/x", bytes(2 << 20), "Origin: null"))
            assert (answer.status, code(answer.body)) == (403, "origin_not_allowed")
        assert client.ask(request()).body == b"ok"


def test_a_body_beyond_the_limit(rig: Rig) -> None:
    chunk = b"8000\r\n" + bytes(1 << 15) + b"\r\n"
    for sent in (head(f"Content-Length: {LIMIT + 1}"), head("Transfer-Encoding: chunked") + 3 * chunk):
        with rig.client() as client:
            client.send(sent)
            answer = read_message(client)
        assert (answer.status, code(answer.body)) == (413, "request_too_large")
        assert b"x402_max_body" in answer.body
        assert answer.get(b"x-should-retry") == b"false"
    with rig.client() as client:
        assert client.ask(request("POST", "/v1/x", bytes(LIMIT))).body == b"ok"
        client.send(head("Transfer-Encoding: chunked") + 2 * chunk + b"0\r\n\r\n")
        assert read_message(client).body == b"ok"
    rig.proxy.wait_for(r"refused: its body is longer than 65536 bytes \(POST /v1/x\)")


def test_a_client_that_waits_for_leave_gets_the_refusal_instead(rig: Rig) -> None:
    with rig.client() as client:
        client.send(head("Origin: null", "Content-Length: 5", "Expect: 100-continue"))
        answer = read_message(client)
        assert (answer.status, answer.get(b"connection")) == (403, b"close")
        assert client.rest() == b""
    with rig.client() as client:
        client.send(head("Content-Length: 2", "Expect: 100-continue"))
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.send(b"{}")
        assert read_message(client).body == b"ok"


def test_head_is_answered_without_a_body(rig: Rig) -> None:
    def hang_up(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)

    with httpx.Client(base_url=rig.proxy.url, verify=False) as client:
        for path, headers, status in (
            ("/x402/health", {}, 200),
            ("/v1/x", {"Origin": "null"}, 403),
            ("/v1/x", {"Host": "rebound.example"}, 403),
        ):
            rig.script(sell)
            answer = client.head(path, headers=headers)
            assert (answer.status_code, answer.content) == (status, b"")
            assert int(answer.headers["content-length"]) > 0
            assert client.get("/x402/health").json() == {"status": "ok"}  # on the same connection
        rig.script(hang_up)
        assert client.head("/v1/x").status_code == 502
    with rig.client() as raw:
        raw.send(b"HEAD /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: null\r\n\r\n")
        raw.until(b"\r\n\r\n")
        raw.sock.settimeout(0.2)
        with pytest.raises(socket.timeout):
            raw.receive()


def test_a_health_check_leaves_no_flow(home: Path) -> None:
    script = home / "watch.py"
    script.write_text(
        "import logging\n"
        "def requestheaders(flow): logging.warning('SEEN requestheaders %s', flow.request.path)\n"
        "def request(flow): logging.warning('SEEN request %s', flow.request.path)\n"
        "def response(flow): logging.warning('SEEN response %s', flow.request.path)\n"
        "def error(flow): logging.warning('SEEN error %s', flow.request.path)\n"
    )
    with Upstream(sell) as upstream, Proxy(upstream.url, "-s", str(script), home=home) as proxy:
        with proxy.client() as client:
            for method in ("GET", "HEAD", "GET"):
                client.send(request(method, "/x402/health", b""))
                client.until(b"\r\n\r\n")
            assert client.exactly(16) == b'{"status": "ok"}'
        with proxy.client() as client:
            assert client.ask(request()).body == b"ok"
        proxy.wait_for("SEEN response /v1")
        proxy.wait_for("client disconnect")
        assert proxy.log.count("client connect") == proxy.log.count("client disconnect") == 1
        assert re.search(
            r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\]\[127\.0\.0\.1:\d+\] client connect", proxy.log, re.MULTILINE
        )
        assert "/x402/health" not in proxy.log
