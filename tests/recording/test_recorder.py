"""The running proxy records: live, byte for byte, what was paid and refused, and no secret."""

from __future__ import annotations

import gzip
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli
import pytest

from mitmproxy_x402.recording.format import read_recording, read_recordings
from support import challenges
from support.changer import set_options
from support.proxy import EVM_KEY, Proxy
from support.recording import zstd
from support.recording.recorders import EVENT, STREAM, Recorded, answering, chunk, idle, recording_proxy, until
from support.rig import Rig
from support.wire import TIMEOUT, Peer, Upstream, request


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Upstream(idle) as upstream, Proxy(upstream.url, home=tmp_path_factory.mktemp("home")) as proxy:
        yield Rig(proxy, upstream)


FRAMINGS: dict[str, tuple[Callable[[int], bytes], Callable[[bytes], bytes], bytes]] = {
    "chunked": (lambda _: b"Transfer-Encoding: chunked\r\n\r\n", chunk, b"0\r\n\r\n"),
    "length": (lambda size: b"Content-Length: %d\r\n\r\n" % size, bytes, b""),
}
ODD = [
    b"d",
    b"at",
    b"a: \xe2",
    b"\x82\xac\n",
    b"\n",
    b"\0" * 100,
    b"\r\n",
    random.Random(1).randbytes(4_000),  # more may come in two reads
    b"0\r\n\r\n",
]
SMALL = 200
"""Most bytes of a piece that arrives in one read, however busy the machine is."""


def one_chunk(client: Peer) -> bytes:
    """The next chunk on the wire, as it came."""
    size = client.until(b"\r\n")
    return size + client.exactly(int(size, 16) + 2)


def data_of(chunk: bytes) -> bytes:
    return chunk.partition(b"\r\n")[2][:-2]


def in_pieces(data: list[bytes]) -> list[list[bytes]]:
    """`data` by the pieces of ODD; each begins where the one before has ended."""
    found: list[list[bytes]] = []
    rest = iter(data)
    for piece in ODD:
        parts = [next(rest)]
        while sum(map(len, parts)) < len(piece):
            parts.append(next(rest))
        found.append(parts)
    assert list(rest) == []
    return found


def assert_same_pieces(found: list[list[bytes]]) -> None:
    """The same bytes, and a small piece always in one."""
    assert [b"".join(parts) for parts in found] == ODD
    assert [len(parts) for parts, piece in zip(found, ODD, strict=True) if len(piece) <= SMALL] == [1] * (len(ODD) - 1)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_client_gets_the_same_bytes_in_the_same_chunks(rig: Recorded, off: Rig, framing: str) -> None:
    head, frame, last = FRAMINGS[framing]
    size = sum(len(piece) for piece in ODD)

    def seen_through(rig: Rig) -> list[list[bytes]]:
        """What arrives at the client's socket, with each piece sent only when the one before has arrived."""
        arrived = threading.Semaphore(0)

        def script(peer: Peer, upstream: Upstream) -> None:
            upstream.read(peer)
            peer.send(STREAM + head(size))
            for piece in [*ODD, None]:
                assert arrived.acquire(timeout=TIMEOUT)
                if piece is not None:
                    peer.send(frame(piece))
                elif last:
                    peer.send(last)

        rig.script(script)
        with rig.client() as client:
            client.send(request())
            client.until(b"\r\n\r\n")
            seen: list[list[bytes]] = []
            for piece in ODD:
                arrived.release()
                parts: list[bytes] = []
                while sum(map(len, parts)) < len(piece):
                    if framing == "length":
                        parts.append(client.exactly(len(piece)))
                    else:
                        wire = one_chunk(client)
                        parts.append(data_of(wire))
                        assert wire == frame(parts[-1])
                seen.append(parts)
            arrived.release()
            assert client.exactly(len(last)) == last
        return seen

    rig.clear()
    assert_same_pieces(seen_through(rig))
    assert_same_pieces(seen_through(off))
    found = rig.one()
    assert (found.complete, found.error) == (True, None)
    assert_same_pieces(in_pieces([piece for _, piece in found.pieces()]))
    times = [seconds for seconds, _ in found.pieces()]
    assert times == sorted(times)
    assert found.first_byte is not None
    assert found.end is not None
    assert 0 < found.first_byte <= found.end


def test_a_reader_sees_the_stream_live(rig: Recorded) -> None:
    go = threading.Semaphore(0)
    packer = zstd.ZstdCompressor()

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(STREAM + b"Content-Encoding: zstd\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            assert go.acquire(timeout=TIMEOUT)
            peer.send(chunk(packer.compress(EVENT) + packer.flush(packer.FLUSH_BLOCK)))
        assert go.acquire(timeout=TIMEOUT)
        peer.send(chunk(packer.flush()) + b"0\r\n\r\n")

    rig.fresh(script)
    with rig.client() as client:
        client.send(request(body=b'{"stream": true}'))
        client.until(b"\r\n\r\n")
        (early,) = rig.wait(lambda found: len(found) == 1)
        assert early.request_body() == b'{"stream": true}'
        raw, plain = early.folder / "response.sse", early.folder / "response.decoded.sse"
        for count in range(1, 6):
            go.release()
            chunk_ = client.chunk()
            until(lambda: raw.exists() and raw.read_bytes().endswith(chunk_), raw.exists)  # noqa: B023
            until(lambda: plain.exists() and plain.read_bytes() == EVENT * count)  # noqa: B023
            assert read_recording(early.folder).state == "incomplete"
        go.release()
        while client.chunk():
            pass
    found = rig.one()
    assert found.decoded_body() == EVENT * 5
    assert zstd.decompress(found.body()) == EVENT * 5


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("br", brotli.compress), ("deflate", gzip.zlib.compress)]
)
def test_compressed_answers_are_there_twice(rig: Recorded, coding: str, pack: Callable[[bytes], bytes]) -> None:
    body = pack(EVENT * 100)
    rig.fresh(answering(body, b"Content-Type: application/json", b"Content-Encoding: " + coding.encode()))
    with rig.client() as client:
        assert client.ask(request()).body == body
    found = rig.one()
    assert (found.body(), found.decoded_body(), found.notes) == (body, EVENT * 100, ())
    assert found.response is not None
    assert (found.response.body, found.response.decoded) == ("response.json", "response.decoded.json")


def test_a_coding_that_ends_early_is_noted(rig: Recorded) -> None:
    body = gzip.compress(random.Random(1).randbytes(5000))[:-1000]
    rig.fresh(answering(body, b"Content-Encoding: gzip"))
    with rig.client() as client:
        assert client.ask(request()).body == body
    found = rig.one()
    assert found.complete
    (note,) = found.notes
    assert note == f"decoded to {len(found.decoded_body())} bytes: the coding ends early"


def test_a_broken_coding_is_noted(rig: Recorded) -> None:
    body = gzip.compress(EVENT)[:10] + b"\xff" * 5000
    rig.fresh(answering(body, b"Content-Encoding: gzip"))
    with rig.client() as client:
        assert client.ask(request()).body == body
    found = rig.one()
    assert found.complete
    assert found.body() == body
    (note,) = found.notes
    assert note == "decoded to 0 bytes: the coding is broken after 0 bytes (error)"
    assert found.decoded_body() == body


def test_refusals_are_recorded(rig: Recorded) -> None:
    rig.fresh(answering(b"never"))
    with rig.client() as client:
        answer = client.ask(request("POST", "/x", b"{}", "Origin: https://evil.example"))
    found = rig.one()
    assert found.complete
    assert found.response is not None
    assert (found.response.status, found.body()) == (403, answer.body)
    assert found.payment is not None
    assert (found.payment.state, found.payment.refused) == ("refused", "origin_not_allowed")
    assert [piece for _, piece in found.pieces()] == [answer.body]


def test_a_challenge_that_is_refused(rig: Recorded) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer(challenges.evm("2500000")))

    rig.fresh(script)
    with rig.client() as client:
        answer = client.ask(request())
    found = rig.one()
    assert found.response is not None
    assert (found.response.status, found.response.body, found.body()) == (400, "response.json", answer.body)
    assert found.payment is not None
    assert (found.payment.state, found.payment.refused) == ("refused", "over_request_limit")


def test_a_paid_answer(rig: Recorded) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer())
        upstream.read(peer)
        peer.send(STREAM + b"Content-Length: 2\r\n\r\nok")

    rig.fresh(script)
    with rig.client() as client:
        assert client.ask(request()).body == b"ok"
    found = rig.one()
    assert found.payment is not None
    assert (found.payment.state, found.payment.amount, found.payment.network) == ("unknown", "0.013081", "base-sepolia")
    assert (found.payment.pay_to, found.legs) == (challenges.PAY_TO, 2)
    signature = rig.upstream.requests[1].get(b"PAYMENT-SIGNATURE")
    assert signature is not None
    assert_nowhere(rig.folder, signature)


def assert_nowhere(folder: Path, *secrets: bytes) -> None:
    for file in folder.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for secret in secrets:
            assert secret not in content, (file, secret)
            assert secret not in bytes(file), (file, secret)


def test_no_secret_is_written(home: Path) -> None:
    """With every credential forwarded, in every format; as they are, and where they are percent-encoded."""
    token = "a-client+token/1"
    secrets = [
        token.encode(),
        b"a-client%2Btoken%2F1",
        b"sk-ant-0123",
        b"AIza0123",
        b"cookie-0123",
        b"own-payment",
        b"basic-01",
    ]
    keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, "X402_CLIENT_TOKEN": token}
    options = ("--set", "x402_dump_format=native,har,mitm", "--set", "x402_forward_auth=true")

    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            got = upstream.read(peer)
            paid = any(name.upper() in (b"PAYMENT-SIGNATURE", b"X-PAYMENT") for name, _ in got.fields)
            cookies = b"Set-Cookie: session=cookie-0123; Path=/", b"Location: /next?key=AIza0123&a=1"
            if paid:
                peer.send(b"\r\n".join([STREAM.rstrip(), *cookies, b"Content-Length: 2", b"", b"ok"]))
            else:
                peer.send(challenges.answer(None, None, *cookies))

    with recording_proxy(home, *options, script=script, keys=keys) as rig:
        asked = [
            request(
                "POST", "/v1/x", b"{}", f"Authorization: Bearer {token}", "Cookie: a=cookie-0123", f"x-custom: {token}"
            ),
            request("POST", "/v1/x?key=AIza0123&alt=sse", b"{}", f"x-api-key: {token}", "X-Goog-Api-Key: AIza0123"),
            request("POST", f"/v1/x?key={token}&other=a-client%2Btoken%2F1", b"{}", "Api-Key: sk-ant-0123"),
            request("POST", f"/v1/{token}/x", b"{}", f"x-api-key: {token}", "PAYMENT-SIGNATURE: own-payment"),
            request("POST", "/v1/x", b"{}", f"Authorization: Bearer {token}", "X-PAYMENT: own-payment"),
            request("POST", "/v1/x", b"{}", "Authorization: Bearer sk-ant-0123", "Proxy-Authorization: Basic basic-01"),
        ]
        answers = []
        for data in asked:
            with rig.client() as client:
                answers.append(client.ask(data).status)
        assert answers == [200] * 5 + [401]
        found = rig.wait(lambda found: len(found) == 6 and all(one.end is not None for one in found))
        signatures = [got.get(b"PAYMENT-SIGNATURE") for got in rig.upstream.requests]
    # The proxy is over, so the other formats are written, too.
    assert_nowhere(rig.folder, EVM_KEY.removeprefix("0x").encode(), *secrets, *(made for made in signatures if made))
    assert sum(made is not None and made != b"own-payment" for made in signatures) == 3
    assert {path.suffix for path in rig.folder.iterdir() if path.is_file()} == {".har", ".mitm"}
    paths = [one.request.path for one in found]
    assert paths[1] == "/v1/x?alt=sse" or "key=[redacted]" in paths[1]
    assert paths[3].startswith("/v1/[redacted]")
    assert found[0].request.header("authorization") in ("", "[redacted]")


@pytest.mark.parametrize(
    "path",
    [
        "/../..",
        "/%2e%2e/%2fetc",
        "//",
        "/" + "long/" * 800,
        "/\u00fcnicode/\u20ac",
        "/a;b=c/*?x=/../&y=\"'",
        "/-",
        "/.hidden/.",
    ],
)
def test_paths_of_every_kind(rig: Recorded, path: str) -> None:
    rig.fresh(answering(b"ok"))
    before = sorted(rig.proxy.home.iterdir())
    with rig.client() as client:
        assert client.ask(request("GET", path)).body == b"ok"
    found = rig.one()
    assert found.request.path.encode("latin-1") == path.encode()
    assert found.folder.parent == rig.folder
    assert sorted({*rig.proxy.home.iterdir()} - {rig.folder}) == sorted({*before} - {rig.folder})


def test_what_the_proxy_says_of_its_own_health_is_not_recorded(rig: Recorded) -> None:
    rig.fresh(answering(b"ok"))
    with rig.client() as client:
        assert client.ask(request("GET", "/x402/health")).status == 200
        assert client.ask(request("GET", "/x402/healthy")).status == 200
    assert rig.one().request.path == "/x402/healthy"


FILTERED = [
    ("~m GET", ["/a"]),
    ("~c 404", ["/missing"]),
    ("~u /a & ~m POST", ["/a"]),
    ("! ~ts json", ["/a", "/a"]),
    ("~bs needle", ["/missing"]),
    ('~meta "x402.state: refused"', ["/refused"]),
    ("~marker no_entry", ["/refused"]),
    ("~comment ^free", ["/a", "/a", "/missing"]),
    ("~e", []),
]


@pytest.mark.parametrize(("text", "expected"), FILTERED, ids=[text for text, _ in FILTERED])
def test_filters(rig: Recorded, text: str, expected: list[str]) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            missing = b"/missing" in upstream.read(peer).start
            body = gzip.compress(b'{"the": "needle"}') if missing else b"ok"
            head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
            peer.send((head if missing else STREAM) + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    rig.script(script)
    rig.catch_up()
    assert set_options(rig.proxy, f"x402_dump_filter={text}") == "taken"
    before = rig.folders()
    try:
        with rig.client() as client:
            for data in (
                request("GET", "/a"),
                request("POST", "/a"),
                request("POST", "/missing"),
                request("POST", "/refused", b"{}", "Origin: https://evil.example"),
            ):
                client.ask(data)
    finally:
        assert set_options(rig.proxy, "x402_dump_filter=") == "taken"
    rig.catch_up_with_all()
    new = [one.request.path for one in read_recordings(rig.folder) if one.folder not in before]
    assert [path for path in new if path != "/set" and not path.startswith("/last")] == expected
