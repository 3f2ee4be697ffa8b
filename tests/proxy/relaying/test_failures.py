"""A fault in mitmproxy's layers: the client gets an answer, the ledger the outcome, and others go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import challenges
from support.ledger.ledgers import query
from support.patience import eventually
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Peer, Script, Upstream, request

FAULTY = """
from mitmproxy.proxy.events import ConnectionClosed
from mitmproxy_x402.proxy.http1 import Http1Client, Http1Server
from mitmproxy_x402.proxy.layer import X402Layer
from mitmproxy_x402.proxy.stream import X402Stream

def fails(owner, name, word, bytes_of):
    original = getattr(owner, name)
    def failing(self, event):
        if word in bytes_of(self, event):
            raise KeyError("S3" + "CRET")
        yield from original(self, event)
    setattr(owner, name, failing)

get_connection = X402Layer.get_connection
def failing(self, event, **options):
    if any(b"fail-layer" in stream.flow.request.data.path for stream in self.streams.values()):
        raise KeyError("S3" + "CRET")
    yield from get_connection(self, event, **options)
X402Layer.get_connection = failing

def received(self, event):
    return bytes(self.buf) + getattr(event, "data", b"")

def head(_, event):
    return bytes(event.response.headers) if hasattr(event, "response") else b""

read_headers = Http1Client.read_headers
def silent(self, event):
    if isinstance(event, ConnectionClosed) and self.request and b"fail-silently" in self.request.data.path:
        return ()
    return read_headers(self, event)
Http1Client.read_headers = silent

fails(Http1Client, "read_headers", b"fail-connection", received)
fails(Http1Client, "read_body", b"fail-body", received)
fails(Http1Server, "send", b"fail-client", head)
fails(X402Stream, "state_wait_for_response_headers", b"fail-stream", head)
fails(X402Stream, "handle_protocol_error", b"fail-twice", lambda self, _: self.flow.request.data.path)
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home: Path = tmp_path_factory.mktemp("home")
    (home / "faulty.py").write_text(FAULTY)
    options = ("-s", str(home / "faulty.py"), "--set", "x402_first_byte_timeout=2")
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, *options, home=home) as proxy:
        yield Rig(proxy, upstream)


def sell(answer: bytes) -> Script:
    def script(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(answer)
        peer.rest()

    return script


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n"


def _states(rig: Rig) -> list[str]:
    return [state for (state,) in query(rig.proxy.ledger, "state")]


@pytest.mark.parametrize("fault", ["connection", "stream"])
def test_the_answer_says_that_the_outcome_is_unknown(rig: Rig, fault: str) -> None:
    before = len(_states(rig))
    rig.script(sell(HEAD + b"X-Fault: fail-" + fault.encode() + b"\r\n\r\n"))
    with rig.client() as client:
        answer = client.ask(request("POST", f"/v1/{fault}"))
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["code"] == "payment_outcome_unknown"
    assert "KeyError in " in json.loads(answer.body)["error"]["message"]
    eventually(lambda: _states(rig)[before:] == ["unknown"], lambda: _states(rig))
    rig.proxy.wait_for("What depended on it is ended")
    assert "S3CRET" not in rig.proxy.log
    assert "mitmproxy has crashed" not in rig.proxy.log


@pytest.mark.parametrize("answer", [b"\r\nfail-body", b"X-Fault: fail-client\r\n\r\n"], ids=["body", "client"])
def test_the_client_is_cut_off(rig: Rig, answer: bytes) -> None:
    """Where an answer has begun, or the client's own connection is at fault."""
    before = len(_states(rig))
    rig.script(sell(HEAD + answer))
    with rig.client() as client:
        client.send(request("POST", f"/v1/{len(answer)}"))
        client.rest()
    eventually(lambda: len(_states(rig)) == before + 1 and _states(rig)[-1] != "sent", lambda: _states(rig))
    assert "mitmproxy has crashed" not in rig.proxy.log


def test_the_http_layer_itself(rig: Rig) -> None:
    rig.script(sell(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngoods"))
    with rig.client() as client:
        answer = client.ask(request("POST", "/v1/fail-layer"))
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["code"] == "upstream_failed"
    assert "KeyError in X402Layer" in json.loads(answer.body)["error"]["message"]
    assert "mitmproxy has crashed" not in rig.proxy.log


def test_a_stream_whose_end_fails_too_is_cut_off(rig: Rig) -> None:
    rig.script(sell(HEAD + b"X-Fault: fail-stream\r\n\r\n"))
    with rig.client() as client:
        client.send(request("POST", "/v1/fail-twice"))
        assert client.rest() == b""
    rig.script(sell(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngoods"))
    with rig.client() as client:
        assert client.ask(request("POST", "/v1/after")).body == b"goods"


def test_a_wait_for_an_upstream_whose_end_nobody_tells_ends_in_time(rig: Rig) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())

    rig.script(script)
    with rig.client() as client:
        answer = client.ask(request("POST", "/v1/fail-silently"))
    assert answer.status == 504
    assert json.loads(answer.body)["error"]["code"] == "payment_outcome_unknown"
    assert "x402_first_byte_timeout" in json.loads(answer.body)["error"]["message"]
