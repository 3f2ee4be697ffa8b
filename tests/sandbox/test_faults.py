"""Errors on demand, seen at a raw socket: what is on the wire, byte for byte where it matters."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from typing import Any

import httpx
import pytest

from mitmproxy_x402.protocol.headers import read_settlement
from mitmproxy_x402.sandbox import FAULTS, Sandbox
from mitmproxy_x402.sandbox.faults import UnknownFault, fault_help, read_faults
from support.chains.reference_payer import CHAT, PATH, Shopper, challenge_of, encoded

FREE = {**CHAT, "model": "sandbox-free"}
STREAM = {**FREE, "stream": True}


@pytest.fixture(scope="module")
def shopper(sandbox: Sandbox) -> Any:
    with Shopper(sandbox.url) as shopper:
        yield shopper


def wire(sandbox: Sandbox, body: Any, fault: str, *, method: str = "POST", path: str = PATH) -> bytes:
    """Everything that comes back on a connection of its own until the sandbox closes it, or is silent."""
    data = json.dumps(body).encode()
    port = int(sandbox.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: sandbox\r\nX-Sandbox-Fault: {fault}\r\nConnection: close\r\n"
        connection.sendall(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def chunks(raw: bytes) -> list[bytes]:
    """The chunks of a chunked answer that is complete."""
    rest, found = raw.partition(b"\r\n\r\n")[2], []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert found.pop() == b""
    return found


def test_an_unknown_fault_is_a_clear_400(shopper: Any) -> None:
    for text, said in (
        ("explode", "known are reject"),
        ("cut;when=now", "cut has no argument"),
        ("cut;after=x", "'x'"),
    ):
        response = shopper.ask(FREE, fault=text)
        assert response.status_code == 400
        assert said in response.json()["error"]["message"]


def test_every_fault_is_read_and_listed() -> None:
    for name, kind in FAULTS.items():
        [(fault, leg)] = read_faults(";".join([name, *(f"{k}={v}" for k, v in kind.arguments.items())]))
        assert (fault.name, fault.arguments, leg) == (name, kind.arguments, kind.leg)
        assert name in fault_help()
    with pytest.raises(UnknownFault, match="leg must be"):
        read_faults("cut;leg=both")


def test_rejections_on_demand(shopper: Any) -> None:
    payment = shopper.payment_for()
    response = shopper.ask(payment=payment, fault="reject;code=PAYMENT_REPLAY;reason=because;status=401;challenge=no")
    assert response.status_code == 401
    said = response.json()
    assert (said["code"], said["reason"]) == ("PAYMENT_REPLAY", "because")
    assert shopper.ask(payment=payment).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_a_stream_that_fails_in_its_middle(sandbox: Sandbox, path: str) -> None:
    """It ends well as far as HTTP goes; the last event says the error, in the vendor's own shape."""
    whole = chunks(wire(sandbox, STREAM, "", path=path))
    *before, last = chunks(wire(sandbox, STREAM, "fail-after;after=4", path=path))
    assert len(before) == 4
    assert [kind(piece) for piece in before] == [kind(piece) for piece in whole[:4]]
    assert b"The sandbox was told to fail." in last
    said = json.loads(last.partition(b"data: ")[2])
    assert said.get("type") == kind(last).removeprefix("event: ") if "event" in kind(last) else "error" in said
    assert chunks(wire(sandbox, STREAM, "fail-after;after=4,gzip", path=path))


def kind(piece: bytes) -> str:
    """The first line of an event, where it does not hold the data."""
    line = piece.partition(b"\n")[0].decode()
    return "" if line.startswith("data: ") else line


@pytest.mark.parametrize(("query", "end"), [("?alt=sse", b"\n\n"), ("", b"}]")])
def test_a_stream_of_gemini_s_that_fails(sandbox: Sandbox, query: str, end: bytes) -> None:
    path = f"/v1beta/models/sandbox-free:streamGenerateContent{query}"
    got = chunks(wire(sandbox, {"contents": []}, "fail-after;after=2", path=path))
    assert len(got) == 3
    assert got[-1].endswith(end)
    if end == b"}]":
        assert json.loads(b"".join(got))[-1]["error"]["code"] == 503


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/chat/completions", "rate_limit_error"), ("/v1/messages", "rate_limit_error"), ("/v1/responses", None)],
)
def test_429_with_retry_after_in_the_vendor_s_shape(shopper: Any, path: str, kind: str | None) -> None:
    response = shopper.ask(FREE, path=path, fault="rate-limit;after=7")
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json()["error"]["type"] == (kind or "rate_limit_error")
    assert ("type" in response.json()) == (path == "/v1/messages")


def test_errors_of_any_status(shopper: Any) -> None:
    assert shopper.ask(FREE, fault="error;status=503").status_code == 503
    html = shopper.ask(FREE, fault="html")
    assert (html.status_code, html.headers["content-type"]) == (502, "text/html; charset=utf-8")
    redirect = shopper.ask(FREE, fault="redirect;status=308;to=http://127.0.0.1:9/")
    assert (redirect.status_code, redirect.headers["location"]) == (308, "http://127.0.0.1:9/")


def test_n_counts_for_equal_requests_only(shopper: Any) -> None:
    one, other = {**FREE, "user": "n1"}, {**FREE, "user": "n2"}
    fault = "error;n=1"
    asked = (one, dict(reversed(one.items())), other, other)
    assert [shopper.ask(body, fault=fault).status_code for body in asked] == [500, 200, 500, 200]


def test_a_fault_can_be_on_the_unpaid_leg(shopper: Any) -> None:
    assert shopper.ask(fault="error;leg=unpaid").status_code == 500
    assert shopper.ask(fault="error").status_code == 402
    payment = shopper.payment_for()
    assert shopper.ask(payment=payment, fault="error;leg=unpaid, 402-empty").status_code == 200


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_drop_says_nothing(sandbox: Sandbox, how: str) -> None:
    if how == "reset":
        with pytest.raises(ConnectionResetError):
            wire(sandbox, FREE, "drop;how=reset")
    else:
        assert wire(sandbox, FREE, "drop") == b""


def test_garbage_is_no_http(sandbox: Sandbox) -> None:
    assert not wire(sandbox, FREE, "garbage").startswith(b"HTTP")


def test_cut_breaks_off_inside_a_chunk(sandbox: Sandbox) -> None:
    whole = chunks(wire(sandbox, STREAM, ""))
    raw = wire(sandbox, STREAM, "cut;after=2")
    body = raw.partition(b"\r\n\r\n")[2]
    size, _, half = body.removeprefix(b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in whole[:2])).partition(
        b"\r\n"
    )
    assert int(size, 16) == len(whole[2])
    assert whole[2].startswith(half)
    assert 0 < len(half) < len(whole[2])


def test_cut_of_a_whole_answer_falls_short_of_its_length(shopper: Any) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        shopper.ask(FREE, fault="cut")


def test_split_cuts_through_utf_8(sandbox: Sandbox) -> None:
    pieces = chunks(wire(sandbox, STREAM, "split;bytes=5"))
    assert {len(piece) for piece in pieces[:-1]} == {5}
    assert b"".join(pieces).decode().endswith("data: [DONE]\n\n")
    assert any("\ufffd" in piece.decode(errors="replace") for piece in pieces)


@pytest.mark.parametrize("body", [FREE, STREAM], ids=["whole", "streamed"])
def test_gzip(sandbox: Sandbox, body: Any) -> None:
    raw = wire(sandbox, body, "gzip")
    assert b"Content-Encoding: gzip\r\n" in raw
    if body is FREE:
        assert json.loads(gzip.decompress(raw.partition(b"\r\n\r\n")[2]))["object"] == "chat.completion"
        return
    unpacker = zlib.decompressobj(wbits=31)
    unpacked = [unpacker.decompress(chunk) for chunk in chunks(raw)]
    assert unpacker.eof
    assert all(event.endswith(b"\n\n") for event in unpacked if event)  # each event can be read as it arrives
    assert len(unpacked) > 10


def test_interim_answers_and_trailers(sandbox: Sandbox) -> None:
    raw = wire(sandbox, STREAM, "interim, trailers")
    assert raw.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"\r\n\r\nHTTP/1.1 200 OK\r\n" in raw
    assert raw.endswith(b"\r\n0\r\nX-Sandbox-Trailer: end\r\n\r\n")


def test_close_says_so(sandbox: Sandbox) -> None:
    raw = wire(sandbox, FREE, "close")
    assert b"Connection: close\r\n" in raw


def test_slow_answers_wait(shopper: Any) -> None:
    for fault in ("slow-head;seconds=0.3", "slow-first;seconds=0.3", "slow-chunks;seconds=0.02"):
        begun = time.monotonic()
        assert shopper.ask(STREAM, fault=fault).status_code == 200
        assert time.monotonic() - begun >= 0.3  # at least, never at most


@pytest.mark.parametrize("fault", ["stall", "stall-after;after=2"])
def test_stalling_ends_when_the_client_leaves(sandbox: Sandbox, shopper: Any, fault: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        shopper.http.post(PATH, json=STREAM, headers={"x-sandbox-fault": fault}, timeout=0.3)
    assert shopper.ask(FREE).status_code == 200


@pytest.mark.parametrize("written", ["transaction", "signature", "header", "none"])
def test_receipts_in_every_form(start: Any, written: str) -> None:
    sandbox, shopper = start()
    response = shopper.ask(payment=shopper.payment_for(), fault=f"receipt;as={written}")
    settlement = read_settlement(response.headers.get, "X-Payment-Receipt")
    if written == "none":
        assert settlement is None
    else:
        assert settlement is not None
        assert settlement.transaction == sandbox.payments[0].transaction


def test_a_402_that_is_no_challenge(shopper: Any) -> None:
    for leg, extra in (("unpaid", {}), ("paid", encoded(shopper.payment_for()))):
        response = shopper.ask(fault=f"402-plain;leg={leg}", **extra)
        assert response.status_code == 402
        assert "payment-required" not in response.headers
        assert "accepts" not in response.json()


def test_odd_402s_are_challenges_still(sandbox: Sandbox, shopper: Any) -> None:
    plain = shopper.ask()
    empty = shopper.ask(fault="402-empty")
    assert empty.content == b""
    huge = shopper.ask(fault="402-huge;bytes=1200000")
    assert len(huge.content) > 1_200_000
    assert huge.json()["accepts"]
    chunked = shopper.ask(fault="402-chunked")
    assert chunked.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in chunked.headers
    close = shopper.ask(fault="402-close")
    assert close.headers["connection"] == "close"
    for odd in (empty, huge, chunked, close):
        entries = challenge_of(odd)["accepts"]
        assert [entry["scheme"] for entry in entries] == [e["scheme"] for e in challenge_of(plain)["accepts"]]
    split = chunks(wire(sandbox, CHAT, "402-split;bytes=100"))
    assert {len(piece) for piece in split[:-1]} == {100}
    assert json.loads(b"".join(split))["accepts"]


def test_a_402_cut_short(shopper: Any) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        shopper.ask(fault="402-cut")


def test_a_sandbox_can_have_a_fault_of_its_own(start: Any) -> None:
    _, shopper = start(fault="rate-limit;after=3")
    assert shopper.ask(FREE).status_code == 429
    assert shopper.ask(FREE, fault="interim").status_code == 200
