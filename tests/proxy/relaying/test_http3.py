"""The same handshake over QUIC on either side, which mitmproxy opens for every `reverse:https://`."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

from support import challenges
from support.proxy import Proxy
from support.running import certs
from support.wire import free_port

Headers = dict[bytes, bytes]


class Http3(QuicConnectionProtocol):
    """One end of a connection: collects messages whole."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.h3: H3Connection | None = None
        self.heads: dict[int, Headers] = {}
        self.bodies: dict[int, bytes] = {}

    def quic_event_received(self, event: Any) -> None:
        self.h3 = self.h3 or H3Connection(self._quic)
        for each in self.h3.handle_event(event):
            if isinstance(each, HeadersReceived):
                self.heads[each.stream_id] = dict(each.headers)
                self.bodies[each.stream_id] = b""
            elif isinstance(each, DataReceived):
                self.bodies[each.stream_id] += each.data
            if getattr(each, "stream_ended", False):
                self.whole(each.stream_id, self.heads[each.stream_id], self.bodies[each.stream_id])

    def whole(self, stream: int, head: Headers, body: bytes) -> None:
        raise NotImplementedError

    def send(self, stream: int, head: list[tuple[bytes, bytes]], body: bytes) -> None:
        assert self.h3 is not None
        self.h3.send_headers(stream, head)
        self.h3.send_data(stream, body, end_stream=True)
        self.transmit()


class Seller(Http3):
    seen: list[tuple[bytes, bool, Headers]]

    def whole(self, stream: int, head: Headers, body: bytes) -> None:  # noqa: ARG002
        paid = b"payment-signature" in head
        self.seen.append((head[b":path"], paid, head))
        if head[b":path"] == b"/hang":
            return
        name, _, value = challenges.header(challenges.evm()).strip().partition(b": ")
        if paid and head[b":path"] == b"/reset":
            self._quic.reset_stream(stream, 0x10C)  # H3_REQUEST_CANCELLED
            self.transmit()
        elif paid and head[b":path"][1:].decode() in ANSWERS:
            assert self.h3 is not None
            ANSWERS[head[b":path"][1:].decode()](self, stream)
            self.transmit()
        elif paid:
            self.send(stream, [(b":status", b"200"), (b"set-cookie", b"a=S3CRET")], b"goods")
        else:
            self.send(stream, [(b":status", b"402"), (name.lower(), value)], b"pay")

    def frame(self, stream: int, kind: int, data: bytes, *, ends: bool = False) -> None:
        """Send a frame, in whatever state the stream is; of HEADERS, `data` is the status."""
        assert self.h3 is not None
        if kind == HEADERS:
            data = self.h3._encode_headers(stream, [(b":status", data)] if data else [(b"x-trailer", b"1")])
        self._quic.send_stream_data(stream, encode_uint_var(kind) + encode_uint_var(len(data)) + data, ends)

    def frames(self, stream: int, *frames: tuple[int, bytes], ends: bool = True) -> None:
        for number, (kind, data) in enumerate(frames, 1):
            self.frame(stream, kind, data, ends=ends and number == len(frames))

    def end(self, stream: int) -> None:
        self._quic.send_stream_data(stream, b"", True)

    def stop(self, stream: int, code: int) -> None:
        self._quic.stop_stream(stream, code)
        self.transmit()
        self.frames(stream, (HEADERS, b"200"), (DATA, b"goods"))

    def cut(self, stream: int, data: bytes) -> None:
        self._quic.send_stream_data(stream, data, True)

    def endless(self, stream: int | None, kind: int) -> None:
        """A frame that says it is very long, and the first of its bytes."""
        assert stream is not None
        self._quic.send_stream_data(stream, encode_uint_var(kind) + encode_uint_var(1 << 30) + b"x" * 300_000)

    def control(self) -> int | None:
        assert self.h3 is not None
        return self.h3._local_control_stream_id

    def close_with(self, _: int) -> None:
        self._quic.close(error_code=0x102, reason_phrase="S3CRET")


DATA, HEADERS, UNKNOWN = 0, 1, 0x21
ANSWERS: dict[str, Callable[[Seller, int], None]] = {
    "delivered-interim": lambda it, stream: it.frames(
        stream, *[(HEADERS, b"103")] * 3, (HEADERS, b"200"), (DATA, b"goods")
    ),
    "delivered-stop-no-error": lambda it, stream: it.stop(stream, 0x100),
    "delivered-stop-cancelled": lambda it, stream: it.stop(stream, 0x10C),
    "delivered-unknown-frame-last": lambda it, stream: it.frames(
        stream, (HEADERS, b"200"), (DATA, b"goods"), (UNKNOWN, b"x")
    ),
    "lost-without-answer": lambda it, stream: it.end(stream),
    "lost-interim-only": lambda it, stream: it.frames(stream, (HEADERS, b"103")),
    "lost-too-many-interim": lambda it, stream: it.frames(stream, *[(HEADERS, b"103")] * 101, (HEADERS, b"200")),
    "lost-inside-head": lambda it, stream: it.cut(stream, b"\x01\x20abc"),
    "lost-bad-status": lambda it, stream: it.frames(stream, (HEADERS, b"abc")),
    "lost-data-first": lambda it, stream: it.frames(stream, (DATA, b"goods")),
    "lost-two-trailers": lambda it, stream: it.frames(
        stream, (HEADERS, b"200"), (DATA, b"goods"), (HEADERS, b""), (HEADERS, b"")
    ),
    "lost-endless-head": lambda it, stream: it.endless(stream, HEADERS),
    "lost-endless-control-frame": lambda it, _: it.endless(it.control(), UNKNOWN),
    "lost-pushed": lambda it, stream: it.frame(stream, 5, b"\0\0\0"),
    "lost-wrong-settings": lambda it, _: it.frame(it.control() or 0, 4, b""),
    "lost-closed": lambda it, stream: it.close_with(stream),
}
"""How paid requests are answered, by path: whether the goods are delivered, or the client gets an error at once."""
_LATE: dict[str, Callable[[Seller, int], None]] = {
    "cut-inside-data": lambda it, stream: (it.frame(stream, HEADERS, b"200"), it.cut(stream, b"\0\x20abc"))[0],
    "cut-after-trailers": lambda it, stream: it.frames(
        stream, (HEADERS, b"200"), (DATA, b"goods"), (HEADERS, b""), ends=False
    ),
}
"""The same for answers that break off after their beginning has been passed on."""
ANSWERS |= _LATE


class Buyer(Http3):
    waits: dict[int, asyncio.Future[tuple[Any, bytes]]]

    async def ask(
        self,
        port: int,
        path: bytes,
        *headers: tuple[bytes, bytes],
        body: bytes = b"{}",
        authority: bytes | None = None,
        timeout: float = 20,
    ) -> tuple[Any, bytes]:
        """The status and the body of the answer; `reset` or `closed` in the place of the status."""
        self.waits = vars(self).get("waits", {})
        self.h3 = self.h3 or H3Connection(self._quic)
        stream = self._quic.get_next_available_stream_id()
        self.waits[stream] = asyncio.get_running_loop().create_future()
        head = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", b"127.0.0.1:%d" % port if authority is None else authority),
            (b":path", path),
        ]
        self.send(stream, [*head, *headers], body)
        return await asyncio.wait_for(self.waits[stream], timeout)

    def whole(self, stream: int, head: Headers, body: bytes) -> None:
        self.waits[stream].set_result((int(head[b":status"]), body))

    def quic_event_received(self, event: Any) -> None:
        super().quic_event_received(event)
        for stream, wait in vars(self).get("waits", {}).items():
            if isinstance(event, StreamReset) and event.stream_id == stream and not wait.done():
                wait.set_result(("reset", b""))
            elif isinstance(event, ConnectionTerminated) and not wait.done():
                wait.set_result(("closed", b""))


def test_pays_refuses_and_ends_one_stream_alone(tmp_path: Path, home: Path) -> None:
    """A time-out of one stream leaves the others of its connection alone; no secret stays in the flows."""
    pem, port = certs.make(tmp_path), free_port()
    Seller.seen = []
    serving = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    serving.load_cert_chain(pem, pem)
    asking = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)
    options = (*certs.trust(pem), "-w", str(home / "flows"))

    async def run() -> None:
        server = await serve("127.0.0.1", port, configuration=serving, create_protocol=Seller)
        proxy = Proxy(f"https://127.0.0.1:{port}", *options, "--set", "x402_first_byte_timeout=3", home=home)
        await asyncio.to_thread(proxy.__enter__)
        try:
            async with connect("127.0.0.1", proxy.port, configuration=asking, create_protocol=Buyer) as buyer:
                assert isinstance(buyer, Buyer)
                secret = (b"x-api-key", b"S3CRET")
                assert await buyer.ask(proxy.port, b"/v1/x?key=S3CRET", secret) == (200, b"goods")
                hanging = asyncio.ensure_future(buyer.ask(proxy.port, b"/hang"))
                assert await buyer.ask(proxy.port, b"/v1/y", body=b'"y"') == (200, b"goods")
                assert (await hanging)[0] in ("reset", 504)
                assert await buyer.ask(proxy.port, b"/v1/z", body=b'"z"') == (200, b"goods")
                status, body = await buyer.ask(proxy.port, b"/v1/o", (b"origin", b"http://evil.example"))
                assert (status, json.loads(body)["error"]["code"]) == (403, "origin_not_allowed")
                status, body = await buyer.ask(proxy.port, b"/reset", body=b'"r"')
                assert (status, json.loads(body)["error"]["code"]) == (502, "payment_outcome_unknown")
                for authority, host in ((b"127.0.0.1", b"evil.com"), (b"evil.com", b"127.0.0.1")):
                    named = await buyer.ask(proxy.port, b"/v1/host", (b"host", host), authority=authority)
                    assert named[0] == 403
                    assert b"host_not_allowed" in named[1]
                own = (b"payment-signature", b"S3CRET")
                assert await buyer.ask(proxy.port, b"/v1/own", own) == (200, b"goods")
        finally:
            await asyncio.to_thread(proxy.__exit__)
            server.close()
        assert "S3CRET" not in proxy.log

    asyncio.run(run())
    paths = [(path, paid) for path, paid, _ in Seller.seen if path != b"/reset"]
    bought = [(path, paid) for path in (b"/v1/x", b"/v1/y", b"/v1/z") for paid in (False, True)]
    assert sorted(paths) == sorted([*bought, (b"/hang", False), (b"/v1/own", True)])
    assert Seller.seen[-1][2][b"payment-signature"] == b"S3CRET"
    assert all(b"x-api-key" not in head for *_, head in Seller.seen)
    assert b"S3CRET" not in (home / "flows").read_bytes()


def test_the_client_gets_an_answer_whatever_the_upstream_does(tmp_path: Path, home: Path) -> None:
    """What was paid for is delivered if it is whole; else the client hears of it, and not from its own time-out."""
    pem, port = certs.make(tmp_path), free_port()
    Seller.seen = []
    serving = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    serving.load_cert_chain(pem, pem)
    asking = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)
    options = [*certs.trust(pem), "-w", str(home / "flows")]
    for setting in ("x402_first_byte_timeout=120", "x402_idle_timeout=2", "x402_total_timeout=120"):
        options += ["--set", setting]

    async def run() -> None:
        server = await serve("127.0.0.1", port, configuration=serving, create_protocol=Seller)
        proxy = Proxy(f"https://127.0.0.1:{port}", *options, home=home)
        await asyncio.to_thread(proxy.__enter__)
        try:
            for path in ANSWERS:
                async with connect("127.0.0.1", proxy.port, configuration=asking, create_protocol=Buyer) as buyer:
                    assert isinstance(buyer, Buyer)
                    status, body = await buyer.ask(proxy.port, b"/" + path.encode(), body=path.encode())
                    if path.startswith("delivered"):
                        assert (status, body) == (200, b"goods"), path
                    elif path.startswith("lost"):
                        assert (status, json.loads(body)["error"]["code"]) == (502, "payment_outcome_unknown"), path
                    else:
                        assert status == "reset", path
        finally:
            await asyncio.to_thread(proxy.__exit__)
            server.close()
        assert "Traceback" not in proxy.log
        assert "S3CRET" not in proxy.log

    asyncio.run(run())
    assert b"S3CRET" not in (home / "flows").read_bytes()
    sent = Counter(path.decode() for path, paid, _ in Seller.seen if paid)
    assert sent == {f"/{path}": 1 for path in ANSWERS}


def test_an_upstream_that_cannot_be_reached_is_an_answer(home: Path) -> None:
    """The stream ends with the answer: a reset would throw it away."""
    asking = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)

    async def run() -> None:
        proxy = Proxy(f"https://127.0.0.1:{free_port()}", "--set", "x402_connect_timeout=3", home=home)
        await asyncio.to_thread(proxy.__enter__)
        try:
            async with connect("127.0.0.1", proxy.port, configuration=asking, create_protocol=Buyer) as buyer:
                assert isinstance(buyer, Buyer)
                status, body = await buyer.ask(proxy.port, b"/v1/x")
                assert status in (502, 504)
                assert json.loads(body)["error"]["code"] == "upstream_failed"
        finally:
            await asyncio.to_thread(proxy.__exit__)

    asyncio.run(run())


class Reader(Buyer):
    """A client that opens its windows, of 64 KiB for each stream, only as it is told."""

    def hold(self) -> None:
        self._opening = self._quic._write_stream_limits
        self._quic._write_stream_limits = lambda *_, **__: None  # type: ignore[method-assign]

    def go_on(self) -> None:
        self._quic._write_stream_limits = self._opening  # type: ignore[method-assign]
        self.transmit()


class Broadcaster(Http3):
    """Answers with what it is told to send, a piece at a time, when all of the piece before has been taken."""

    taken = 0
    WHOLE, PIECE = 24 << 20, 1 << 16

    def whole(self, stream: int, head: Headers, body: bytes) -> None:  # noqa: ARG002
        assert self.h3 is not None
        self.h3.send_headers(stream, [(b":status", b"200")])
        self._sending = asyncio.ensure_future(self._send_pieces(stream))

    async def _send_pieces(self, stream: int) -> None:
        assert self.h3 is not None
        for _ in range(self.WHOLE // self.PIECE):
            self.h3.send_data(stream, bytes(self.PIECE), end_stream=False)
            self.transmit()
            while len(self._quic._get_or_create_stream_for_send(stream).sender._buffer) > self.PIECE:  # noqa: ASYNC110
                await asyncio.sleep(0.002)  # aioquic says nothing of what was acknowledged
            Broadcaster.taken += self.PIECE
        self.h3.send_data(stream, b"", end_stream=True)
        self.transmit()


def test_what_an_http3_client_has_no_window_for_is_not_taken(tmp_path: Path, home: Path) -> None:
    """When it opens the window, the answer goes on."""
    pem, port = certs.make(tmp_path), free_port()
    serving = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    serving.load_cert_chain(pem, pem)
    asking = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)
    asking.max_stream_data, asking.max_data = 1 << 16, 1 << 30
    options = ("--set", f"ssl_verify_upstream_trusted_ca={pem}")
    Broadcaster.taken = 0

    async def run() -> None:
        server = await serve("127.0.0.1", port, configuration=serving, create_protocol=Broadcaster)
        proxy = Proxy(f"https://127.0.0.1:{port}", *options, home=home)
        await asyncio.to_thread(proxy.__enter__)
        try:
            async with connect("127.0.0.1", proxy.port, configuration=asking, create_protocol=Reader) as reader:
                assert isinstance(reader, Reader)
                reader.hold()
                large = asyncio.ensure_future(reader.ask(proxy.port, b"/large", timeout=300))
                before = -1
                while Broadcaster.taken != before or not before:
                    before = Broadcaster.taken
                    await asyncio.sleep(1)
                assert Broadcaster.taken < Broadcaster.WHOLE // 2
                reader.go_on()
                while len(reader.bodies[0]) < 1 << 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                large.cancel()
        finally:
            await asyncio.to_thread(proxy.__exit__)
            server.close()

    asyncio.run(run())
