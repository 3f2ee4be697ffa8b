"""What mitmproxy and h11 quote of a message that they cannot read is in no log, flow or recording."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mitmproxy_x402.proxy.veil import without_quotes
from support import challenges
from support.proxy import EVM_KEY, Proxy
from support.rig import Rig
from support.wire import Peer, Upstream, request

KEY = b"sk-ant-api03-Zq9xW8e7R6t5Y4u3Zq9xW8e7R6t5Y4u3"
TOKEN = b"hunter2-client-token-ABCDEFGH"
SHORT = b"Zq9xW8"
GET = b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = GET + b"Transfer-Encoding: chunked\r\n"
REQUESTS = {
    "chunk": CHUNKED + b"\r\n%b\r\n\r\n",
    "trailer": CHUNKED + b"\r\n0\r\n%b\r\n\r\n",
    "length": GET + b"Content-Length: %b\r\n\r\n",
    "coding": GET + b"Transfer-Encoding: %b\r\n\r\n",
    "line": GET + b"%b\r\n\r\n",
    "fragment": b"GET /v1/x#token=%b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
}
HEAD = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "interim": b"HTTP/1.1 103 %b\r\n\r\n" + HEAD + b"Content-Length: 2\r\n\r\nok",
    "status": b"HTTP/1.1 %b OK\r\n\r\n",
    "length": HEAD + b"Content-Length: %b\r\n\r\n",
    "coding": HEAD + b"Transfer-Encoding: %b\r\n\r\n",
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nz%b\r\n\r\n",
    "trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n%b\r\n\r\n",
}


@pytest.mark.parametrize(
    "text",
    [
        "illegal chunk header: bytearray(b'{}')",
        "Invalid HTTP/1 header name: '{}'",
        "Server QUIC handshake failed. {}",
        "HTTP/1 protocol error: no colon in {} (5)",
    ],
)
@pytest.mark.parametrize("secret", [KEY.decode(), "0x" + "1b" * 65, base64.b64encode(b"{}" * 30).decode()])
def test_a_secret_is_taken_out_wherever_it_is_quoted(text: str, secret: str) -> None:
    said = without_quotes(text.format(secret))
    assert secret[3:20] not in said
    assert said.startswith(text[:12])


@pytest.mark.parametrize(
    "text",
    [
        "invalid content-length header: {!r}",
        "multiple content-length headers: [b'2', {!r}]",
        "unknown transfer-encoding header: {!r}",
        "unexpected HTTP transfer-encoding {!r} for HTTP/1.0",
        "HTTP/2 protocol error: Invalid value for TE header: {!r}",
        "Host headers: {!r} / {!r}",
        "invalid literal for int() with base 10: {!r}",
        "Codepoint U+0040 not allowed at position 3 in {!r}",
        "the gateway's error: {!r} isn't a length",
    ],
)
@pytest.mark.parametrize("secret", ["hunter2", "it's hunter2", '"it\'s" \\hunter2\\', "hunter2'"])
def test_no_text_of_a_peer_is_quoted_however_short(text: str, secret: str) -> None:
    for quoted in (secret, secret.encode()):
        said = without_quotes(text.format(quoted, quoted))
        assert "hunter2" not in said
        assert said.startswith(text[:12])


@pytest.mark.parametrize("secret", ["sk-ant-api03-hunter2", "eyJhbGciOi.eyJzdWIi.hunter2", "ghp_" + "hunter2" * 5])
def test_a_key_that_a_peer_gives_as_its_reason_is_left_out(secret: str) -> None:
    assert "hunter2" not in without_quotes(f"closed: bad key {secret}, code 3")
    assert without_quotes(f"closed: bad key {secret}, code 3").endswith(" code 3")


def test_what_comes_with_the_end_of_an_http2_connection_is_left_out() -> None:
    said = without_quotes("HTTP/2 connection closed: <ConnectionTerminated error_code:1, additional_data:68756e746572>")
    assert said == (
        "HTTP/2 connection closed: <ConnectionTerminated error_code:1, "
        "additional_data:(left out, for it may hold a secret)>"
    )


@pytest.mark.parametrize(
    "text",
    [
        "FINAL_SIZE_ERROR",
        "The client's request and the upstream's answer don't fit",
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] failed ('127.0.0.1', 1)",
        "OpenSSL Error([('SSL routines', '', 'sslv3 alert handshake failure')])",
        "[Errno 2] No such file or directory: '/home/me/certificate.pem'",
        "certificate verify failed: Hostname mismatch, certificate is not valid for 'gateway.example'. (_ssl.c:1010)",
        "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        "<ConnectionTerminated error_code:0, last_stream_id:1, additional_data:None>",
        "stream closed by the upstream (H3_GENERAL_PROTOCOL_ERROR)",
        "no answer within 3 s (option x402_first_byte_timeout)",
        "[Errno 111] Connect call failed ('127.0.0.1', 65535)",
        "certificate verify failed: unable to get local issuer certificate (_ssl.c:1010)",
        "mitmproxy failed on it: KeyError in ServerQuicLayer",
    ],
)
def test_the_rest_of_an_error_stays(text: str) -> None:
    assert without_quotes(text) == text


@pytest.fixture(params=[None, TOKEN.decode()], ids=["open", "with a client token"])
def rig(request: pytest.FixtureRequest, home: Path) -> Iterator[Rig]:
    arguments = ("-w", str(home / "flows"), "--set", f"x402_dump={home / 'dump'}", "--set", "flow_detail=1")
    keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, **({"X402_CLIENT_TOKEN": request.param} if request.param else {})}
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, *arguments, home=home, keys=keys) as proxy:
        yield Rig(proxy, upstream, request.param or "")


def _kept(rig: Rig) -> bytes:
    rig.proxy.process.terminate()
    rig.proxy.wait_for_end()
    files = [rig.proxy.home / "flows", *(rig.proxy.home / "dump").rglob("flow.json")]
    names = " ".join(map(str, (rig.proxy.home / "dump").rglob("*")))
    return b"".join(file.read_bytes() for file in files) + (names + rig.proxy.log).encode()


def test_of_requests(rig: Rig) -> None:
    for raw in REQUESTS.values():
        for secret in (KEY, TOKEN, SHORT):
            with rig.client() as client:
                client.send(raw % secret)
                with contextlib.suppress(ConnectionError, TimeoutError):
                    client.sock.settimeout(2)
                    client.rest()
    kept = _kept(rig)
    assert b"left out" in kept
    assert KEY not in kept
    assert b"'" + SHORT not in kept
    assert b"hunter2-client" not in kept or not rig.mode


def test_of_answers(rig: Rig) -> None:
    seen: list[bytes] = []

    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            got = upstream.read(peer)
            payment = got.get(b"payment-signature")
            if payment is None:
                peer.send(challenges.answer())
                continue
            signature = json.loads(base64.b64decode(payment))["payload"]["signature"].encode()
            seen.extend((payment, signature))
            name, _, which = got.start.split()[1].rpartition(b"/")[2].decode().partition("-")
            peer.send(ANSWERS[name] % {"payment": payment, "signature": signature, "short": SHORT}[which])
            return

    rig.script(script)
    headers = ["Connection: close", *([f"Authorization: Bearer {rig.mode}"] if rig.mode else [])]
    for name in ANSWERS:
        for which in ("payment", "signature", "short"):
            with rig.client() as client:
                client.send(request("POST", f"/v1/{name}-{which}", name.encode(), *headers))
                client.sock.settimeout(5)
                with contextlib.suppress(ConnectionError, TimeoutError):
                    client.rest()
    kept = _kept(rig)
    assert len(seen) >= 6 * len(ANSWERS)
    assert SHORT not in kept
    assert [secret[:60] for secret in seen if secret[:60] in kept] == []
