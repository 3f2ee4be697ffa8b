"""Serves HTTP/1.1 on Tornado; shows request heads as they came, and lets answers be broken.

Tornado parses and frames. A tap on its stream keeps the request's head as it came, because a fidelity test needs the
order and the case of headers; answers are written with names as given.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from http.client import responses
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError

from .records import ReceivedRequest, Sent

Pairs = Sequence[tuple[str, str]]
Serve = Callable[["Exchange"], Awaitable[None]]
ClientGone = StreamClosedError
"""Raised by every write once the client has left."""

MAX_REQUEST = 256 * 1024 * 1024


class Exchange:
    """One request, and the means to answer it well or badly."""

    def __init__(self, request: ReceivedRequest, connection: Any, on_sent: Callable[[str, Sent], None]) -> None:
        self.request = request
        self.sent: Sent | None = None
        self._connection = connection
        self._stream: IOStream = connection.stream
        self._on_sent = on_sent
        self._gone = asyncio.Event()
        connection.set_close_callback(self._gone.set)

    async def answer(self, status: int, headers: Pairs, body: bytes, *, reason: str = "") -> None:
        """Send a whole answer with a Content-Length."""
        await self.head(status, [*headers, ("Content-Length", str(len(body)))], reason=reason)
        if body and self.request.method != "HEAD":
            await self.chunk(body)
        self.finish()

    async def head(self, status: int, headers: Pairs, *, reason: str = "") -> None:
        """Send status line and headers, flushed. Without a Content-Length the body will be chunked."""
        pairs = (*headers, ("x-request-id", self.request.request_id))
        self.sent = Sent(status, pairs)
        self._on_sent(self.request.request_id, self.sent)
        line = ResponseStartLine("HTTP/1.1", status, reason or responses.get(status, "Unknown"))
        await self._connection.write_headers(line, _WrittenHeaders(pairs))

    async def chunk(self, data: bytes) -> None:
        """Send one piece of the body, flushed on its own."""
        assert self.sent is not None
        self.sent.add(data)
        await self._connection.write(data)

    def finish(self) -> None:
        """End a complete answer; the connection stays open for the next request."""
        assert self.sent is not None
        self.sent.complete = True
        self._connection.finish()

    async def finish_and_close(self, *, framed: bool = False) -> None:
        """End a complete answer, and close the connection. `framed`: the caller has written the end."""
        assert self.sent is not None
        self.sent.complete = True
        if not framed:
            self._connection.finish()
        await self._stream.write(b"")  # until everything before it is flushed
        self.close()

    async def raw(self, data: bytes) -> None:
        """Write raw bytes without HTTP framing."""
        await self._stream.write(data)

    async def pause(self, seconds: float | None) -> None:
        """Wait `seconds`, or for ever if None. Raises ClientGone as soon as the client leaves."""
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except asyncio.TimeoutError:
            return
        raise ClientGone

    def close(self, *, reset: bool = False) -> None:
        """Close the connection where it stands: with a FIN, or with a reset."""
        if reset and self._stream.socket is not None:
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.close()


class Listener:
    """Listening sockets whose requests are each served by one task. Belongs to the running asyncio loop."""

    def __init__(self, serve: Serve, on_sent: Callable[[str, Sent], None], tls: ssl.SSLContext | None) -> None:
        self._serve = serve
        self._on_sent = on_sent
        self._tasks: set[asyncio.Task[None]] = set()
        self._taps: set[_Tap] = set()
        self.connections = 0
        """Connections accepted so far."""
        self.requests = 0
        """Requests received so far."""
        self.server = _Server(_Requests(self), ssl_options=tls, max_body_size=MAX_REQUEST, max_buffer_size=MAX_REQUEST)
        self.server.tap = self._tap
        self.server.untap = self._taps.discard

    def stop(self) -> None:
        """Stop listening and drop every connection."""
        self.server.stop()
        for task in self._tasks:
            task.cancel()
        for tap in list(self._taps):
            tap.close()

    async def drained(self) -> None:
        """Wait, after `stop`, until nothing is being served."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.server.close_all_connections()

    def received(self, connection: Any, body: bytes) -> None:
        """Serve one complete request in a task of its own."""
        tap: _Tap = connection.stream
        self.requests += 1
        method, target, headers = _parse_head(tap.head)
        request_id = f"req_sandbox_{self.requests:06d}"
        request = ReceivedRequest(request_id, method, target, headers, body, tap.number)
        task = asyncio.ensure_future(self._run(Exchange(request, connection, self._on_sent)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._serve(exchange)
        except ClientGone:
            pass
        finally:
            if exchange.sent is None or not exchange.sent.complete:
                exchange.close()

    def _tap(self, stream: IOStream) -> _Tap:
        self.connections += 1
        tap = _Tap(stream, self.connections)
        self._taps.add(tap)
        return tap


class _Server(HTTPServer):
    tap: Callable[[IOStream], Any]
    untap: Callable[[Any], None]

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        stream.set_nodelay(True)  # each piece of a stream leaves when it is written
        super().handle_stream(self.tap(stream), address)

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        self.untap(server_conn.stream)


class _Tap:
    """A stream that remembers the head of the request that was read last; everything else is the stream's."""

    def __init__(self, stream: IOStream, number: int) -> None:
        self._stream = stream
        self.number = number
        self.head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        self.head = await self._stream.read_until_regex(regex, max_bytes)
        return self.head


class _Requests(HTTPServerConnectionDelegate):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:  # noqa: ARG002
        return _Request(self._listener, request_conn)


class _Request(HTTPMessageDelegate):
    """Collects one request; unlike Tornado's own adapter it leaves forms and multipart bodies alone."""

    def __init__(self, listener: Listener, connection: HTTPConnection) -> None:
        self._listener = listener
        self._connection = connection
        self._chunks: list[bytes] = []

    def data_received(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def finish(self) -> None:
        self._listener.received(self._connection, b"".join(self._chunks))

    def on_connection_close(self) -> None:
        self._chunks.clear()


class _WrittenHeaders(HTTPHeaders):
    """Headers that are written in the order and the case in which they were given."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self._written = list(pairs)
        for name, value in self._written:
            self.add(name, value)

    def get_all(self) -> Iterator[tuple[str, str]]:
        names = {name.lower() for name, _ in self._written}
        yield from self._written
        for name, value in super().get_all():  # what Tornado added: Connection, Transfer-Encoding
            if name.lower() not in names:
                yield name, value


def _parse_head(head: bytes) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Method, target and headers of a head that Tornado has already accepted."""
    start, *lines = re.split("\r?\n", head.decode("latin-1").strip("\r\n"))
    method, target, _ = start.split(" ", 2)
    fields = (line.partition(":") for line in lines)
    return method, target, tuple((name, value.strip(" \t")) for name, _, value in fields)


def server_tls(certfile: Path, keyfile: Path) -> ssl.SSLContext:
    """TLS for a listener. Raises OSError when a file is missing, or holds no certificate or key."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certfile, keyfile)
    return context
