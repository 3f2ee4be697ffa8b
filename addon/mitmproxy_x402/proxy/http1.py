"""mitmproxy's HTTP/1.1 connections, which here accept interim responses and trailers, and bound what they buffer."""

from __future__ import annotations

import logging
import math
import re
import time
from typing import Any

from mitmproxy import http
from mitmproxy.net.http import http1

from ..errors import error_body
from .arrival import Steps, nothing
from .fairness.chunks import MAX_JOINED, Chunks, UpTo
from .fairness.reader import set_waiting
from .fairness.turns import LONG, TURNS
from .heads import header_index
from .holding import HEAD_END, make_readable
from .internals import (
    ChunkedReader,
    Connection,
    ConnectionState,
    HttpEvent,
    HttpStream,
    ReceiveBuffer,
    ReceiveHttp,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseProtocolError,
    _http1,
    commands,
    events,
)
from .stream import X402Stream
from .veil import unveiled

logger = logging.getLogger(__name__)

MAX_HEAD = 256 << 10
"""Most bytes of a head, of a line between chunks, or of trailers."""
MAX_INTERIM = 100
"""Most interim responses to one request."""
MAX_AHEAD = 16 << 20
"""Most bytes of further requests that a client may send before it has the answer to the current one."""


def join(held: commands.SendData, command: commands.Command) -> bool:
    """Append the data of `command` to `held` if both are short and for the same connection. Returns whether it did."""
    if (
        not isinstance(command, commands.SendData)
        or command.connection is not held.connection
        or len(held.data) + len(command.data) > MAX_JOINED
    ):
        return False
    held.data += command.data
    return True


def stays_open(request: http.Request, response: http.Response) -> bool:
    """Whether plainly nothing ends the connection after `response`. False: `mark_done` has to look closely."""
    if not (request.data.http_version == response.data.http_version == b"HTTP/1.1"):
        return False
    if response.data.status_code < 200 or request.data.method.upper() == b"CONNECT":
        return False
    asked, answered = header_index.of(request.data.headers), header_index.of(response.data.headers)
    if b"connection" in asked or b"connection" in answered:
        return False
    if b"transfer-encoding" in answered:
        return answered[b"transfer-encoding"] == [b"chunked"]
    lengths = answered.get(b"content-length", ())
    return len(lengths) == 1 and lengths[0].isdigit()


class ChunksInTurns:
    """Mixin for both of mitmproxy's HTTP/1.1 connections: yields to others between chunks when they take long."""

    conn: Connection
    buf: ReceiveBuffer
    request: http.Request | None
    response: http.Response | None
    request_done: bool
    response_done: bool
    stream_id: Any
    state: Any
    body_reader: Any
    _turn: commands.RequestWakeup | None = None
    _is_last = False
    """Whether the peer has closed, so that the rest is read in one go."""

    def _next_stream_id(self) -> int | None:
        raise NotImplementedError

    def _handle_event(self, event: Any) -> Steps:
        steps: Steps
        if isinstance(event, HttpEvent):
            steps = self.send(event)  # type: ignore[attr-defined]  # mitmproxy's
        elif isinstance(event, events.Wakeup):
            steps = self._read_on() if event.command is self._turn else nothing()
        elif isinstance(event, events.ConnectionClosed) and self._turn is not None:
            steps = self._read_rest(event)
        else:
            steps = super()._handle_event(event)  # type: ignore[misc]  # mitmproxy's
        return steps

    def _read_rest(self, event: events.ConnectionClosed) -> Steps:
        self._is_last = True
        yield from self._read_on()
        yield from super()._handle_event(event)  # type: ignore[misc]

    def _read_on(self) -> Steps:
        self._turn = None
        set_waiting(self.conn, waits=False)
        if isinstance(self.body_reader, Chunks) and self.body_reader.paused:
            yield from self.state(events.DataReceived(self.conn, b""))

    def mark_done(self, *, request: bool = False, response: bool = False) -> Steps:
        """Note what is over; when both are, go on to the next request on this connection, or close it."""
        steps: Steps
        is_over = (request or self.request_done) and (response or self.response_done)
        if not is_over or self.request is None or self.response is None or not stays_open(self.request, self.response):
            if is_over and self.response is not None:
                self.response = unveiled(self.response)  # the flow has the same object
            steps = super().mark_done(request=request, response=response)  # type: ignore[misc]
            return steps
        self.request_done = self.response_done = False
        self.request = self.response = None
        self.stream_id = self._next_stream_id()
        self.state = self.read_headers  # type: ignore[attr-defined]  # mitmproxy's
        steps = self.state(events.DataReceived(self.conn, b"")) if self.buf else nothing()
        return steps

    def _begin_turn(self) -> None:
        if type(self.body_reader) is ChunkedReader:
            self.body_reader = Chunks()
        if isinstance(self.body_reader, Chunks):
            self.body_reader.paused = False
            self.body_reader.until = math.inf if self._is_last else time.monotonic() + LONG

    def _end_turn(self, reader: Chunks) -> Steps:
        if reader.paused and self._turn is None:
            yield from self._wait_for_turn()

    def _wait_for_turn(self) -> Steps:
        self._turn = commands.RequestWakeup(TURNS.take())
        set_waiting(self.conn, waits=True)
        yield self._turn


class Http1Server(ChunksInTurns, _http1.Http1Server):
    """mitmproxy's HTTP/1.1 server, which accepts trailers of a request and bounds what it buffers of one."""

    def _next_stream_id(self) -> int:
        return int(self.stream_id) + 2

    def send(self, event: HttpEvent) -> Steps:
        """Send nothing to a client whose connection is closed: it has had an answer."""
        return nothing() if self.conn.state in _NOT_WRITABLE else super().send(event)

    def read_headers(self, event: Any) -> Steps:
        """Read a head; each one that was sent ahead has a turn of its own, since thousands fit into one read."""
        if not isinstance(event, events.DataReceived):
            return super().read_headers(event)
        if self._turn is not None:
            return nothing()
        # Without data, mitmproxy goes on with what is left of the last read.
        return self._read_head(event) if event.data or not self.buf else self._wait_for_turn()

    def _read_on(self) -> Steps:
        yield from super()._read_on()
        if self.state == self.read_headers and self.buf:
            yield from self._read_head(events.DataReceived(self.conn, b""))

    def _read_head(self, event: Any) -> Steps:
        """Read a head; one that cannot be read is answered in JSON."""
        if _is_trimmed(self.buf):
            self.state = self.done
            yield commands.SendData(self.conn, http1.assemble_response(_UNREADABLE))
            yield commands.CloseConnection(self.conn)
            return
        for command in super().read_headers(event):
            if isinstance(command, commands.SendData):
                command.data = http1.assemble_response(_UNREADABLE)
            yield command

    def _handle_event(self, event: Any) -> Steps:
        if isinstance(event, events.DataReceived):
            return self._read_bounded(event)
        if isinstance(event, events.ConnectionClosed) and self._turn is not None and self.state == self.read_headers:
            self.buf = ReceiveBuffer()  # a client that has closed needs no answer to pipelined requests
        return super()._handle_event(event)

    def _read_bounded(self, event: events.DataReceived) -> Steps:
        yield from super()._handle_event(event)
        if len(self.buf) > MAX_HEAD and self.state != self.passthrough:
            yield from self._bound()

    def _bound(self) -> Steps:
        is_ahead = self.state == self.wait or self._turn is not None
        if self.state == self.done or (is_ahead and len(self.buf) <= MAX_AHEAD):
            return
        why = f"a request's head, a line between its chunks, or its trailers, are longer than {MAX_HEAD} bytes"
        if self.state == self.read_headers:
            message = f"mitmproxy-x402: {why}. Nothing was paid."
            body = error_body("x402_refused", "request_head_too_large", message)
            yield commands.SendData(self.conn, http1.assemble_response(http.Response.make(431, body, _CLOSING)))
        reads_body = self.state == self.read_body
        self.state = self.done
        self.buf = ReceiveBuffer()
        yield commands.CloseConnection(self.conn)
        if reads_body:
            yield ReceiveHttp(RequestProtocolError(self.stream_id, why, RequestProtocolError.code))

    def read_body(self, event: Any) -> Steps:
        """Read the body; trailers are dropped, as proxies may (RFC 9110, section 6.5.1)."""
        self._begin_turn()
        try:
            yield from super().read_body(event)
        except NotImplementedError:  # raised instead of the event that ends the body
            logger.info("Dropped the trailers of an HTTP/1.1 request.")
            yield ReceiveHttp(RequestEndOfMessage(self.stream_id))
            yield from self.mark_done(request=True)
        if isinstance(self.body_reader, Chunks):
            yield from self._end_turn(self.body_reader)


def _is_trimmed(buf: ReceiveBuffer) -> bool:
    """Whether a head has vertical tabs or form feeds, which mitmproxy takes for blanks, so that no hook sees them."""
    data: bytearray = buf._data  # a copy would be up to MAX_AHEAD long
    if data.find(b"\x0b", 0, MAX_HEAD) < 0 and data.find(b"\x0c", 0, MAX_HEAD) < 0:
        return False
    head = HEAD_END.split(bytes(data[:MAX_HEAD]), maxsplit=1)[0]
    return b"\x0b" in head or b"\x0c" in head


_NOT_WRITABLE = (ConnectionState.CLOSED, ConnectionState.CAN_READ)
_CLOSING = ((b"content-type", b"application/json"), (b"connection", b"close"), (b"x-should-retry", b"false"))


_UNREADABLE = http.Response.make(
    400,
    error_body(
        "x402_refused",
        "request_head_invalid",
        "mitmproxy-x402: the request's head cannot be read: a line of it, or what it says of the body's length, is "
        "not as RFC 9112 has it. Nothing was paid.",
    ),
    _CLOSING,
)


class Http1Client(ChunksInTurns, _http1.Http1Client):
    """mitmproxy's HTTP/1.1 client, which accepts interim responses and trailers, and bounds what it buffers."""

    streams: dict[int, HttpStream]
    """The streams of the layer above, by the id of their current leg."""
    _head: commands.SendData | None = None
    _asked: http.Request | None = None
    """The request to which something has come, and whose interim responses are counted."""
    _interim = 0
    _most: int | None = None
    """Bytes that the body of the answer has at most, where its head gives several lengths."""

    def has_begun(self, _: int) -> bool:
        """Whether the upstream has sent anything in answer to the current request."""
        return self._asked is not None and self._asked is self.request

    def _next_stream_id(self) -> None:
        return None

    def send(self, event: HttpEvent) -> Steps:
        """Send a head and the body that follows it in one TLS record; drop trailers, which HTTP/2 clients may send."""
        if isinstance(event, RequestTrailers):
            return nothing()
        if isinstance(event, RequestEndOfMessage) and self._head is None and self._needs_no_end(event):
            return self.mark_done(request=True)
        holds = False
        if isinstance(event, RequestHeaders) and not event.end_stream:
            holds = not event.request.stream
            if event.request.data.http_version != b"HTTP/1.1":
                self._frame(event)
        return self._send_joined(event, holds=holds) if holds or self._head is not None else super().send(event)

    def _needs_no_end(self, event: RequestEndOfMessage) -> bool:
        """Whether the end of the request is plain from its length, or it has no body."""
        if self.request is None or self.response is not None or event.stream_id != self.stream_id:
            return False
        return not header_index.has(self.request.headers, b"transfer-encoding")

    def _frame(self, event: RequestHeaders) -> None:
        """Give a request of HTTP/2 or HTTP/3, where a body needs no length, a length or chunks.

        An HTTP/1.1 upstream would otherwise take the body for the next request, as from bare mitmproxy.
        """
        headers = event.request.headers
        if header_index.has(headers, b"content-length") or header_index.has(headers, b"transfer-encoding"):
            return
        stream = self.streams.get(event.stream_id)
        body = None if stream is None else stream.flow.request.raw_content
        event.request = event.request.copy()
        # Without a body yet, a script streams it.
        name, value = ("transfer-encoding", "chunked") if body is None else ("content-length", str(len(body)))
        event.request.headers[name] = value

    def _send_joined(self, event: HttpEvent, *, holds: bool) -> Steps:
        for command in super().send(event):
            head, self._head = self._head, None
            joined = head is not None and join(head, command)
            if head is not None:
                yield head
            if holds and isinstance(command, commands.SendData):
                self._head = command
            elif not joined:
                yield command
        if self._head is not None and not holds:
            yield self._head
            self._head = None

    def read_headers(self, event: Any) -> Steps:
        """Drop interim responses (RFC 9110, section 15.2); 101 is a final answer."""
        if isinstance(event, events.DataReceived) and self.request:
            if self.request is not self._asked:
                self._asked, self._interim = self.request, 0
            while _INTERIM.match(bytes(self.buf)[:16]):
                head = self.buf.maybe_extract_lines()
                if head is None:
                    break
                self._interim += 1
                if self._interim > MAX_INTERIM:
                    yield from self._give_up(f"it sent more than {MAX_INTERIM} interim responses")
                    return
                logger.debug("Dropped an interim response.")  # its reason phrase may repeat what we have sent
        yield from self._read_head(event)
        if self.state == self.read_headers and len(self.buf) > MAX_HEAD:
            yield from self._give_up(f"the head of its answer is longer than {MAX_HEAD} bytes")

    def _read_head(self, event: Any) -> Steps:
        """Read a head as mitmproxy does; the head of a paid answer also where mitmproxy would refuse it."""
        self._most = None
        stream = None if self.stream_id is None else self.streams.get(self.stream_id)
        if not isinstance(stream, X402Stream) or not stream.exchange.secrets_sent:
            return super().read_headers(event)
        return self._read_paid_head(event, stream)

    def _read_paid_head(self, event: Any, stream: X402Stream) -> Steps:
        data = bytes(self.buf)
        if (spoken := without_controls(data)) is not data:
            data = spoken
            self.buf = ReceiveBuffer()
            self.buf += data
        steps = super().read_headers(event)
        for command in steps:
            is_closing = isinstance(command, commands.CloseConnection) and isinstance(event, events.DataReceived)
            if is_closing and self.state == self.read_headers:  # else the head was read, and the body behind it was not
                readable = make_readable(data)
                if readable is not None:
                    steps.close()
                    logger.warning("x402: the head of a paid answer was mended: its framing is contradictory")
                    self.buf = ReceiveBuffer()
                    self.buf += readable[0]
                    self._most = readable[1]
                    stream.exchange.end_is_doubtful = self._most is not None
                    yield from super().read_headers(event)
                    return
            yield command

    def _give_up(self, why: str) -> Steps:
        """Close the connection to an upstream that exceeds a bound."""
        self.state = self.done
        self.buf = ReceiveBuffer()
        yield commands.CloseConnection(self.conn)
        if self.stream_id is not None:
            yield ReceiveHttp(ResponseProtocolError(self.stream_id, why, ResponseProtocolError.code))

    def read_body(self, event: Any) -> Steps:
        """Read the body; trailers (RFC 9112, section 7.1.2) are dropped, where mitmproxy would raise an error."""
        if self._most is not None:
            self.body_reader, self._most = UpTo(self._most), None
        self._begin_turn()
        try:
            for command in super().read_body(event):
                yield self._passed_on(command) or command
        except NotImplementedError:  # raised instead of the event that ends the body
            logger.info("Dropped the trailers of an HTTP/1.1 response.")
            assert self.stream_id is not None
            yield ReceiveHttp(ResponseEndOfMessage(self.stream_id))
            yield from self.mark_done(response=True)
        if isinstance(self.body_reader, Chunks):
            yield from self._end_turn(self.body_reader)
        if self.state == self.read_body and len(self.buf) > MAX_HEAD:
            yield from self._give_up(f"a line between its chunks, or its trailers, are longer than {MAX_HEAD} bytes")

    def _passed_on(self, command: commands.Command) -> commands.SendData | None:
        """The bytes for the client that a piece of a body becomes, made here instead of in four layers in turn.

        None: it has to go through the layers.
        """
        if not isinstance(command, ReceiveHttp) or not isinstance(command.event, ResponseData):
            return None
        stream = self.streams.get(command.event.stream_id)
        return stream.pass_on(command.event) if isinstance(stream, X402Stream) else None


_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d")


def without_controls(data: bytes) -> bytes:
    """`data` with blanks for NUL and CR in the head (RFC 9110, section 5.5); the same object if it has none."""
    end = HEAD_END.search(data)
    if end is None or _CONTROL.search(data, 0, end.start()) is None:
        return data
    return _CONTROL.sub(b" ", data[: end.start()]) + data[end.start() :]


_CONTROL = re.compile(rb"\0|\r(?!\r?\n)")
