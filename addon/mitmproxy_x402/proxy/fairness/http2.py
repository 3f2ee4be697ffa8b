"""Processes mitmproxy's HTTP/2 connections in turns, and closes them when the peer floods.

A frame costs a peer a dozen bytes and us up to milliseconds, so each connection has an allowance of frames that move
nothing forward (RFC 9113, section 10.5): resets, pings, settings, priorities, empty DATA, types that nobody knows.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Generator
from typing import Any

from ..internals import (
    BufferedH2Connection,
    Connection,
    DataFrame,
    DataReceived,
    DenialOfServiceError,
    ErrorCodes,
    Frame,
    GoAwayFrame,
    H2States,
    HeadersFrame,
    InformationalResponseReceived,
    ProtocolError,
    ReceiveHttp,
    RequestReceived,
    ResponseProtocolError,
    RstStreamFrame,
    StreamEnded,
    TrailersReceived,
    UnknownFrameReceived,
    _http2,
    commands,
    events,
)
from .reader import MOST_UNREAD, has_left, set_waiting, set_windows
from .turns import LONG, TURNS

ALLOWANCE = 1000
"""Cost units that a connection may spend at once."""
PER_SECOND = 50
"""Units regained each second."""
PER_FRAME = 4
"""Units regained for each HEADERS or DATA frame that we send, and again for each KiB in it.

Peers answer DATA with WINDOW_UPDATE and PING, and may cancel a stream of which they have enough.
"""
MOST_LEFT = 200_000
"""Most units that a connection can have left: its peer may answer thousands of frames of ours at a time."""
RESET = 8
"""Cost of a RST_STREAM: hooks may have run for its stream, and a connection may have been opened.

A hundred streams can be open at once, all of which a client may cancel.
"""
MOST_SHARED = 4 * MOST_UNREAD
"""Most bytes that are kept of all streams of a client before nothing is read from an upstream that sends several."""
_PIECE = 128
"""Bytes that a piece which is kept takes besides its data."""
_MOST_BEGUN = 1000
"""Streams that are noted before those which are over are forgotten."""
_FRAME_HEAD = 9
"""Bytes of a frame's head, which begins with the length of the rest (RFC 9113, section 4.1)."""

FIRST_SLICE = 256
LEAST_SLICE = 64
MOST_SLICE = 16 << 10
"""Most bytes that are processed between two looks at the clock."""

Steps = Generator[commands.Command, Any, None]


class CalmConnection(BufferedH2Connection):
    """mitmproxy's HTTP/2 state, which counts what the peer's frames cost, and notes cancellations as they are read."""

    cancelled: set[int]
    """The streams that the peer has reset in the data received last, whose events may not have been handled yet."""
    is_leaving = False
    """Whether the peer has sent GOAWAY."""
    begun: set[int]
    """Streams of ours, of those that are open, for which an upstream has sent any part of an answer."""
    _taken = 0
    """The last stream that an upstream which leaves may have worked on (RFC 9113, section 6.8)."""
    is_spoilt = False
    """Whether what an upstream has sent cannot be read, so that it may belong to any stream."""
    _left: float
    _counted: float
    """When the allowance was last filled up by time (monotonic clock)."""

    def begin(self) -> None:
        """Start with the whole allowance."""
        self._left, self._counted = ALLOWANCE, time.monotonic()
        self.cancelled = set()
        self.begun = set()
        self._has_read = asyncio.Event()

    async def wait_for_room(self, stream_id: int | None) -> None:
        """Wait while too much of a stream is kept until the peer opens its window. None: of all streams together."""
        while self._is_full(stream_id):
            self._has_read.clear()
            await self._has_read.wait()

    def _is_full(self, stream_id: int | None) -> bool:
        kept = self.stream_buffers
        streams = kept.values() if stream_id is None else (kept.get(stream_id, ()),)
        size, most = 0, MOST_SHARED if stream_id is None else MOST_UNREAD
        for piece in itertools.chain.from_iterable(streams):
            size += len(piece.data) + _PIECE
            if size > most:
                return True
        return False

    def reset_stream(self, stream_id: int, *args: Any, **more: Any) -> None:
        """Reset a stream as mitmproxy does, and let those go on that wait for it."""
        super().reset_stream(stream_id, *args, **more)
        self._has_read.set()

    def receive_data(self, data: Any) -> list[Any]:
        """The events in `data`; all events of earlier data have been handled.

        DATA of one stream in a row is one event: each takes as long as a large one.
        """
        self.cancelled.clear()
        self._has_read.set()
        events: list[Any] = []
        try:
            received = super().receive_data(data)
        except BaseException:
            self.is_spoilt = True
            raise
        for event in received:
            last = events[-1] if events else None
            if type(event) is DataReceived is type(last) and event.stream_id == last.stream_id:
                last.data += event.data  # a slice at most
                last.flow_controlled_length += event.flow_controlled_length
                last.stream_ended = event.stream_ended
            else:
                events.append(event)
        return events + self._overlong()

    def _overlong(self) -> list[ProtocolError]:
        """The error of a frame that has begun and is longer than allowed: h2 would wait for the whole of it.

        What is not HTTP/2 at all, such as an error page of HTTP/1.1, looks like a frame of megabytes.
        """
        left = self._left_over()
        if len(left) >= _FRAME_HEAD and self.state_machine.state is not H2States.CLOSED:
            buffer: Any = self.incoming_buffer
            try:
                buffer._validate_frame_length(int.from_bytes(left[:3], "big"))
            except ProtocolError as error:
                return [error]
        return []

    def _left_over(self) -> Any:
        """The bytes of a frame that has not come whole."""
        buffer: Any = self.incoming_buffer
        return buffer._data if hasattr(buffer, "_data") else buffer.data

    def has_begun(self, stream_id: int) -> bool:
        """Whether the upstream may have begun to answer on a stream, or has not said that it took no notice of it."""
        buffer: Any = self.incoming_buffer
        is_partly_there = bool(self._left_over()) or bool(buffer._headers_buffer)
        return self.is_spoilt or is_partly_there or stream_id in self.begun or stream_id <= self._taken

    def _note(self, frame: Frame) -> None:
        """Note what a frame of an upstream says of the streams that it has begun to answer."""
        if isinstance(frame, GoAwayFrame):
            self._taken = max(self._taken, frame.last_stream_id)
        elif isinstance(frame, HeadersFrame | DataFrame) or (
            isinstance(frame, RstStreamFrame) and frame.error_code != ErrorCodes.REFUSED_STREAM
        ):
            self.begun.add(frame.stream_id)
            if len(self.begun) > _MOST_BEGUN:
                self.begun.intersection_update(self.streams)

    def _receive_frame(self, frame: Frame) -> Any:
        cost = self._cost(frame)
        if cost:
            self._spend(cost, frame)
        if isinstance(frame, RstStreamFrame):
            self.cancelled.add(frame.stream_id)
        elif isinstance(frame, GoAwayFrame):
            self.is_leaving = True
        if self.config.client_side:
            self._note(frame)
        return super()._receive_frame(frame)

    def _cost(self, frame: Frame) -> int:
        if isinstance(frame, DataFrame):
            stream = self.streams.get(frame.stream_id)
            moves = bool(frame.data) and stream is not None and stream.open
            return 0 if moves or "END_STREAM" in frame.flags else 1
        if isinstance(frame, HeadersFrame):
            return 1
        return RESET if isinstance(frame, RstStreamFrame) else 1 + frame.body_len // 256

    def _spend(self, cost: int, frame: Frame) -> None:
        """Subtract `cost`. Raises h2's DenialOfServiceError, upon which h2 sends GOAWAY, if nothing is left."""
        self._left -= cost
        if self._left < 0:
            now = time.monotonic()
            self._left = min(ALLOWANCE, self._left + (now - self._counted) * PER_SECOND)
            self._counted = now
            if self._left < 0:
                raise DenialOfServiceError(
                    f"closed for a flood of frames that move nothing forward, the last a {type(frame).__name__}"
                )

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        """Send frames as h2 does, and regain allowance, also for what had waited for the peer's window."""
        for frame in frames:
            if isinstance(frame, HeadersFrame | DataFrame):
                size = len(frame.data) / 1024  # of DATA, or of packed headers
                self._left = min(MOST_LEFT, self._left + PER_FRAME * (1 + size))
        super()._prepare_for_sending(frames)


class InTurns:
    """Mixin for mitmproxy's HTTP/2 connections: processes data in slices, between which other connections have a turn.

    So bodies in frames of a byte, which are no flood, hold nobody up.

    h2 reassembles frames, so the slices need not end at frame boundaries.

    A TLS record has up to 16 KiB, and so may have nearly two thousand frames.
    """

    conn: Connection
    is_clients = False
    """Whether the peer is our client; its data is dropped once it has left."""
    _turn: commands.RequestWakeup | None = None
    _waiting: deque[events.Event] | None = None
    _steps: Steps | None = None
    """The rest of the slice before those in `_waiting`."""
    _slice = FIRST_SLICE
    _told = False

    def _handle_event(self, event: events.Event) -> Steps:
        if self._waiting is None:
            self._waiting = deque()
        if isinstance(event, events.Wakeup) and event.command is self._turn:
            self._turn = None
        elif isinstance(event, events.DataReceived):
            self._waiting.append(event)
        elif isinstance(event, events.ConnectionClosed):
            if self.is_clients:
                self._waiting.clear()
                self._turn = self._steps = None
            self._waiting.append(event)
        else:
            yield from super()._handle_event(event)  # type: ignore[misc]  # mitmproxy's
            return
        if self._turn is None:
            yield from self._process(self._waiting)

    def _process(self, waiting: deque[events.Event]) -> Steps:
        until, began = time.thread_time() + LONG, time.monotonic()
        if self.is_clients and has_left(self.conn):
            while waiting and not isinstance(waiting[0], events.ConnectionClosed):  # its streams have to hear of that
                waiting.popleft()
            self._steps = None
        while waiting or self._steps is not None:
            if self._steps is None:
                self._steps = super()._handle_event(self._next_slice(waiting))  # type: ignore[misc]
                self._slice = min(MOST_SLICE, 2 * self._slice)
            is_closing = False
            for command in self._steps or ():
                yield command
                is_closing = is_closing or isinstance(command, commands.CloseConnection)  # goes on to the last command
                if not is_closing and time.thread_time() > until:
                    break
            else:
                self._steps = None
            if "_handle_event" in vars(self):  # mitmproxy's sign that the connection is over
                waiting.clear()
                self._steps = None
            elif time.thread_time() > until and (waiting or self._steps is not None):
                self._slice = max(LEAST_SLICE, self._slice // 4)
                set_waiting(self.conn, waits=True)
                self._turn = commands.RequestWakeup(TURNS.take(time.monotonic() - began))
                yield self._turn
                return
        set_waiting(self.conn, waits=False)

    def _next_slice(self, waiting: deque[events.Event]) -> events.Event:
        event = waiting.popleft()
        if isinstance(event, events.DataReceived) and len(event.data) > self._slice:
            waiting.appendleft(events.DataReceived(event.connection, event.data[self._slice :]))
            event = events.DataReceived(event.connection, event.data[: self._slice])
        return event

    def handle_h2_event(self, event: Any) -> Generator[commands.Command, Any, bool]:
        """Handle an event of h2's as mitmproxy does, with one log line for all frames that nobody knows."""
        if isinstance(event, DenialOfServiceError):
            yield from self.protocol_error(f"HTTP/2 connection {event}", ErrorCodes.ENHANCE_YOUR_CALM)  # type: ignore[attr-defined]
            return True
        if isinstance(event, UnknownFrameReceived):
            if not self._told:
                self._told = True
                yield commands.Log(f"Ignoring HTTP/2 frames of unknown types, such as {event.frame.type}", logging.INFO)
            return False
        is_over: bool = yield from super().handle_h2_event(event)  # type: ignore[misc]
        return is_over


class Http2Client(InTurns, _http2.Http2Client):
    """mitmproxy's HTTP/2 client, which is closed when its peer floods, or answers 101, which HTTP/2 does not have."""

    h2_conn: CalmConnection

    def has_begun(self, leg_id: int) -> bool:
        """Whether the upstream may have begun to answer the request of a leg."""
        stream_id = self.our_stream_id.get(leg_id)
        return stream_id is not None and self.h2_conn.has_begun(stream_id)

    def protocol_error(self, *args: Any, **more: Any) -> Steps:
        """Close the connection for an error of the upstream's, of which the streams in the way can know nothing."""
        self.h2_conn.is_spoilt = True
        yield from super().protocol_error(*args, **more)

    def handle_h2_event(self, event: Any) -> Generator[commands.Command, Any, bool]:
        """Handle an event of h2's; mitmproxy would wait for another answer after 101 (RFC 9113, section 8.6)."""
        if isinstance(event, InformationalResponseReceived) and (b":status", b"101") in map(tuple, event.headers):
            self.h2_conn.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            self.streams.pop(event.stream_id, None)
            why = "it answered 101, which HTTP/2 does not have"
            yield ReceiveHttp(ResponseProtocolError(event.stream_id, why, ResponseProtocolError.code))
            return False
        return (yield from super().handle_h2_event(event))


class Http2Server(InTurns, _http2.Http2Server):
    """mitmproxy's HTTP/2 server, which is closed when its peer floods, and loses no cancellation."""

    is_clients = True
    h2_conn: CalmConnection

    def is_cancelled(self, stream_id: int) -> bool:
        """Whether the client is known to want nothing more on a stream, also if the stream has yet to be told."""
        return self.h2_conn.is_leaving or stream_id in self.h2_conn.cancelled

    def handle_h2_event(self, event: Any) -> Generator[commands.Command, Any, bool]:
        """Handle an event of h2's; what came in the same data as its cancellation begins nothing.

        mitmproxy forgets a stream at the end of its request if h2 calls it closed, which it does by then where a reset
        or GOAWAY follows in the same data. The cancellation then finds no stream, and the request goes on.
        """
        if isinstance(event, _ASKING) and self.is_cancelled(event.stream_id):
            if isinstance(event, DataReceived):
                self.h2_conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            return False
        return (yield from super().handle_h2_event(event))


_ASKING = (RequestReceived, DataReceived, TrailersReceived, StreamEnded)
"""What a client's request consists of."""


def calm(connection: _http2.Http2Connection) -> None:
    """Replace the class of `connection` by ours, and that of its HTTP/2 state by CalmConnection."""
    connection.__class__ = Http2Server if isinstance(connection, _http2.Http2Server) else Http2Client
    state = connection.h2_conn
    state.__class__ = CalmConnection
    assert isinstance(state, CalmConnection)
    state.begin()
    if isinstance(connection, Http2Server):
        set_windows(connection.conn, state)
