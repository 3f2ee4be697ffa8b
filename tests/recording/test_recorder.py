"""The running proxy records: live, byte for byte, whatever becomes of client, upstream, proxy and disk."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import brotli
import pytest

from mitmproxy_x402.recording.format import Recording, RecordingError, read_recording, read_recordings
from support import challenges, changer, zstd
from support.changer import set_options
from support.proxy import EVM_KEY, Proxy
from support.rig import Rig
from support.wire import TIMEOUT, Client, Peer, Script, Upstream, request

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EVENT = b'data: {"text": "\xe2\x82\xac"}\n\n'


def idle(_peer: Peer, _upstream: Upstream) -> None:
    raise EOFError("no script")


_numbers = itertools.count()


class Recorded(Rig):
    """A proxy that records into `folder`, and the scripted upstream behind it."""

    @property
    def folder(self) -> Path:
        return self.proxy.home / "rec"

    def fresh(self, script: Script) -> None:
        """From now on `script`, and nothing recorded yet."""
        self.clear()
        self.script(script)

    def clear(self) -> None:
        """Remove what is recorded, once nothing is being recorded any more."""
        self.catch_up()

        def cleared() -> bool:
            try:
                if any(read_recording(folder).end is None for folder in self.folders()):
                    return False
                shutil.rmtree(self.folder)
            except (OSError, RecordingError):
                return not self.folder.exists()
            return True

        until(cleared, self.folders)

    def catch_up(self) -> None:
        """Wait until all that is over by now is recorded: recordings end in order, and one more has."""
        path = f"/last/{next(_numbers)}"
        with self.client() as client:
            client.ask(request("POST", path, b"{}", "Origin: https://evil.example"))
        self.wait(lambda found: any(one.request.path == path and one.end is not None for one in found))

    def folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir()) if self.folder.exists() else []

    def wait(self, is_so: Callable[[list[Recording]], bool]) -> list[Recording]:
        """The recordings, as soon as `is_so` of them."""
        found: list[Recording] = []

        def look() -> bool:
            nonlocal found
            try:
                found = read_recordings(self.folder)
            except RecordingError:  # none yet, or one is just being removed
                found = []
            return is_so(found)

        until(look, lambda: found)
        return found

    def one(self) -> Recording:
        """The only recording, when it is over."""
        (found,) = self.wait(lambda found: len(found) == 1 and found[0].end is not None)
        return found


def until(is_so: Callable[[], bool], seen: Callable[[], Any] = lambda: "") -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < deadline, seen()
        time.sleep(0.005)


@contextmanager
def recording_proxy(home: Path, *options: str, script: Script = idle, **more: Any) -> Iterator[Recorded]:
    with Upstream(script) as upstream:
        with Proxy(upstream.url, "--set", "x402_dump=rec", *options, home=home, **more) as proxy:
            yield Recorded(proxy, upstream)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    home = tmp_path_factory.mktemp("home")
    with recording_proxy(home, *changer.script(home)) as rig:
        yield rig


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Upstream(idle) as upstream, Proxy(upstream.url, home=tmp_path_factory.mktemp("home")) as proxy:
        yield Rig(proxy, upstream)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


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


def answering(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> Script:
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]

    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            peer.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    return script


def streaming(peer: Peer, upstream: Upstream) -> None:
    """A stream that has begun, and then waits for its end."""
    upstream.read(peer)
    peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
    peer.rest()


def begin(rig: Recorded, client: Client) -> Recording:
    """A request of `streaming`, of which everything that was sent is recorded."""
    client.send(request())
    client.until(b"\r\n\r\n")
    for _ in range(3):
        assert client.chunk() == EVENT
    (found,) = rig.wait(lambda found: len(found) == 1 and bool(found[0].response) and found[0].body() == EVENT * 3)
    return found


def expect_what_came(found: Recording, error: str) -> None:
    assert found.state == "incomplete"
    assert error in (found.error or "")
    assert found.body() == b"".join(piece for _, piece in found.pieces()) == EVENT * 3


def test_a_client_that_leaves(rig: Recorded) -> None:
    rig.fresh(streaming)
    with rig.client() as client:
        begin(rig, client)
        client.close(reset=True)
    expect_what_came(rig.one(), "lient disconnected")


def test_an_upstream_that_breaks_off(rig: Recorded) -> None:
    ended = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
        assert ended.wait(TIMEOUT)
        peer.close(reset=True)

    rig.fresh(script)
    with rig.client() as client:
        begin(rig, client)
        ended.set()
        client.rest()
    expect_what_came(rig.one(), "")


def test_an_upstream_that_never_answers(rig: Recorded) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)

    rig.fresh(script)
    with rig.client() as client:
        assert client.ask(request(body=b"question")).status == 502
    found = rig.one()
    assert (found.state, found.response, found.request_body()) == ("incomplete", None, b"question")
    assert found.error


def test_a_proxy_that_is_killed(home: Path) -> None:
    with recording_proxy(home, script=streaming) as rig:
        with rig.client() as client:
            begin(rig, client)
            rig.proxy.process.kill()
            rig.proxy.wait_for_end()
        (found,) = read_recordings(rig.folder)
    expect_what_came(found, "interrupted")


def test_a_proxy_that_is_stopped(home: Path) -> None:
    def sell(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer())
        streaming(peer, upstream)

    now = ("--set", "x402_drain=0")
    with recording_proxy(home, "--set", "x402_dump_format=har,native,mitm", *now, script=sell) as rig:
        with rig.client() as client:
            begin(rig, client)
            rig.proxy.process.send_signal(signal.SIGTERM)
            rig.proxy.wait_for_end()
        (found,) = read_recordings(rig.folder)
        assert len(list(rig.folder.glob("*.har"))) == len(list(rig.folder.glob("*.mitm"))) == 1
    expect_what_came(found, "the proxy was stopped")
    assert found.end is not None
    assert found.payment is not None
    assert (found.payment.state, found.legs) == ("unknown", 2)


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


def test_100_mb_pass_in_little_memory(rig: Recorded) -> None:
    """Recorded whole: the upstream waits for the disk, which a real one does not have to."""
    block = random.Random(3).randbytes(1 << 20)
    written = threading.Semaphore(8)

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 << 20))
        for _ in range(100):
            assert written.acquire(timeout=TIMEOUT)
            peer.send(block)

    rig.fresh(script)
    before = peak_memory(rig.proxy.process.pid)
    with rig.client() as client:
        client.send(request())
        client.until(b"\r\n\r\n")
        for number in range(100):
            assert client.exactly(1 << 20) == block
            until(lambda: size_of(rig) >= (number - 4) << 20)  # noqa: B023
            written.release()
    found = rig.one()
    assert found.complete
    assert found.response is not None
    assert found.response.size == 100 << 20
    assert found.body() == block * 100
    assert peak_memory(rig.proxy.process.pid) - before < 40_000


def size_of(rig: Recorded) -> int:
    return sum(file.stat().st_size for folder in rig.folders() for file in folder.glob("response.*"))


def peak_memory(pid: int) -> int:
    """In KB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def test_many_at_once(rig: Recorded) -> None:
    """More than there are files kept open; each gets what is its own."""

    def script(peer: Peer, upstream: Upstream) -> None:
        name = upstream.read(peer).body
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(20):
            peer.send(chunk(b"%s %d\n" % (name, number)))
        peer.send(b"0\r\n\r\n")

    def expected(name: bytes) -> bytes:
        return b"".join(b"%s %d\n" % (name, number) for number in range(20))

    def ask(name: bytes) -> None:
        with rig.client() as client:
            if client.ask(request(body=name)).body != expected(name):
                wrong.append(name)

    rig.fresh(script)
    wrong: list[bytes] = []
    names = [b"client %d" % number for number in range(80)]
    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not wrong
    found = rig.wait(lambda found: len(found) == 80 and all(one.complete for one in found))
    assert sorted(one.request_body() for one in found) == sorted(names)
    for one in found:
        assert one.body() == expected(one.request_body())


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


def limit_files(pid: int, size: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def test_a_full_disk_harms_nothing_and_recording_resumes(rig: Recorded) -> None:
    pid, body = rig.proxy.process.pid, b"x" * 300_000
    rig.fresh(answering(body))
    lines = rig.proxy.log.count("cannot record")
    limit_files(pid, 100_000)
    try:
        for _ in range(3):
            with rig.client() as client:
                assert client.ask(request()).body == body
        broken = rig.wait(lambda found: len(found) == 3 and all(one.end is not None for one in found))
    finally:
        limit_files(pid, resource.RLIM_INFINITY)
    for one in broken:
        assert (one.state, one.error) == ("incomplete", "the recording broke off: File too large")
        assert one.body() == body[: len(one.body())]
    with rig.client() as client:
        assert client.ask(request()).body == body
    found = rig.wait(lambda found: sum(one.complete for one in found) == 1)
    assert next(one for one in found if one.complete).body() == body
    rig.proxy.wait_for("cannot record into .*: File too large")
    assert rig.proxy.log.count("cannot record") == lines + 1


def test_a_full_disk_leaves_no_empty_folders(rig: Recorded) -> None:
    rig.fresh(answering(b"ok"))
    lines = rig.proxy.log.count("cannot record")
    limit_files(rig.proxy.process.pid, 0)
    try:
        with rig.client() as client:
            assert client.ask(request()).body == b"ok"
        until(lambda: rig.folder.exists() and not rig.folders(), rig.folders)
    finally:
        limit_files(rig.proxy.process.pid, resource.RLIM_INFINITY)
    assert rig.proxy.log.count("cannot record") <= lines + 1


def test_a_folder_that_vanishes(rig: Recorded) -> None:
    go = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
        assert go.wait(TIMEOUT)
        peer.send(chunk(EVENT) * 3 + b"0\r\n\r\n")

    rig.fresh(script)
    with rig.client() as client:
        begin(rig, client)
        shutil.rmtree(rig.folder)
        go.set()
        for _ in range(3):
            assert client.chunk() == EVENT
        assert client.chunk() == b""
    rig.script(answering(b"ok"))
    with rig.client() as client:
        assert client.ask(request()).body == b"ok"
    assert rig.one().body() == b"ok"  # into a new folder
    assert rig.folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_to(rig: Recorded) -> None:
    rig.fresh(answering(b"ok"))
    rig.folder.touch()  # a file in its place: root may write anywhere else
    try:
        with rig.client() as client:
            assert client.ask(request()).body == b"ok"
        rig.proxy.wait_for("cannot record into .*: Not a directory")
    finally:
        rig.folder.unlink()
    with rig.client() as client:
        assert client.ask(request()).body == b"ok"
    assert rig.one().body() == b"ok"


def test_a_too_long_path_ends_the_start(home: Path) -> None:
    with Proxy("http://127.0.0.1:1", "--set", "x402_dump=" + "x" * 300, home=home, expect_listen=False) as proxy:
        line = proxy.wait_for("x402_dump")
        assert "cannot record there: File name too long; expected a folder" in line
        assert proxy.wait_for_end() == 1


def test_changes_at_run_time(rig: Recorded) -> None:
    go = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        asked = upstream.read(peer)
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
        if b"/set" not in asked.start:
            assert go.wait(TIMEOUT)
        peer.send(b"0\r\n\r\n")

    other = rig.proxy.home / "other"
    rig.fresh(script)
    try:
        with rig.client() as client:
            begun = begin(rig, client)
            assert "cannot record there" in set_options(rig.proxy, "x402_dump=nowhere/deep")
            assert "filter expression" in set_options(rig.proxy, "x402_dump_filter=~nonsense (")
            assert set_options(rig.proxy, "x402_dump=other", "x402_dump_filter=~u /set") == "taken"
            go.set()
            assert client.chunk() == b""
        until(lambda: read_recording(begun.folder).complete)  # what was under way goes on where it was
        assert set_options(rig.proxy) == ""
        until(lambda: any(read_recording(head.parent).complete for head in other.glob("*/flow.json")))
        count = len(rig.folders())
        assert set_options(rig.proxy, "x402_dump=") == "taken"
        assert set_options(rig.proxy) == ""
        assert len(rig.folders()) == count
    finally:
        assert set_options(rig.proxy, "x402_dump=rec", "x402_dump_filter=") == "taken"
    assert not (rig.proxy.home / "nowhere").exists()


def test_without_native_the_folder_goes(rig: Recorded) -> None:
    rig.fresh(answering(b"x" * 1000))
    assert set_options(rig.proxy, "x402_dump_format=har,mitm") == "taken"
    try:
        with rig.client() as client:
            assert client.ask(request("GET", "/one")).status == 200
    finally:
        assert set_options(rig.proxy, "x402_dump_format=native") == "taken"
    rig.catch_up()
    assert [one.request.path for one in read_recordings(rig.folder)][:-1] == ["/set"]
    (har,), (mitm,) = rig.folder.glob("*.har"), rig.folder.glob("*.mitm")
    entry, _ = json.loads(har.read_bytes())["log"]["entries"]
    assert (entry["request"]["url"], entry["response"]["bodySize"]) == (f"{rig.upstream.url}/one", 1000)
    assert b"x" * 1000 in mitm.read_bytes()


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
    rig.catch_up()
    new = [one.request.path for one in read_recordings(rig.folder) if one.folder not in before]
    assert [path for path in new if path != "/set" and not path.startswith("/last")] == expected
