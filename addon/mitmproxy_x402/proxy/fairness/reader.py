"""Limits how much is read from a peer at once to what takes a few milliseconds to process.

mitmproxy reads up to 64 KiB and processes it in one go. Data that is cheap to send and expensive to process (frames of
a few bytes, interim responses) would block the event loop, and so every other client, for seconds.
"""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from collections.abc import Callable
from typing import Any

from mitmproxy.connection import Client, Connection, ConnectionState

from ..internals import ReverseMode
from .turns import LONG, TURNS

MOST = 65535
FIRST = 16 << 10
LEAST = 512
"""Fewest bytes that are read at once."""
_WORK = "x402_work"
"""The attribute of a connection that holds the seconds of processor time that its last read took to process."""
_WAITING = "x402_waiting"
"""The attribute of a connection that has read data which is not processed yet: an event, set once it is."""

MOST_UNREAD = 1 << 20
"""Most bytes that a client leaves unread of answers to what it sends, before no more is read from it."""

_WINDOWS = "x402_windows"
"""The attribute of a client with HTTP/2 or HTTP/3 that holds its `CalmConnection` or `QuicWindows`."""
_STREAM = "x402_stream"
"""The attribute of an upstream connection that holds the id of the client's stream that alone uses it."""

_TRANSPORT = "x402_transport"
"""The attribute of a connection that holds a weak reference to asyncio's transport."""


class FairReader:
    """Replaces a connection's reader."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        self._reader, self._writer = reader, writer
        self._connection = connection
        self._size = FIRST
        self._paused = 0.0
        self._is_behind = False
        """Whether the last read was full, so that more data is waiting."""

    async def read(self, most: int) -> bytes:
        """Read up to `most` bytes. Raises OSError if we have closed the connection."""
        while self._connection.state is not ConnectionState.CLOSED:
            processed = vars(self._connection).get(_WAITING)
            if processed is None:
                break
            await processed.wait()
        if self._connection.state is ConnectionState.CLOSED:
            # mitmproxy leaves the socket open when the reading task is cancelled while it waits for its turn.
            self._writer.close()
            raise ConnectionAbortedError("closed by us")
        work = vars(self._connection).pop(_WORK, 0.0)
        if work > LONG:
            self._size = max(LEAST, int(self._size * LONG / work / 2))
            await asyncio.sleep(TURNS.take())
            self._paused = time.monotonic()
        elif self._is_behind:
            self._size = min(MOST, 2 * self._size)
        if self._is_behind and time.monotonic() - self._paused > LONG:
            await asyncio.sleep(0)  # data that has arrived is read without yielding to others
            self._paused = time.monotonic()
        size = min(most, self._size)
        data = await self._reader.read(size)
        self._is_behind = len(data) == size
        return data


def worked(connection: Connection, since: float) -> None:
    """Note how long the last read of `connection` took to process: from `since` until now.

    By `time.thread_time`: other programs that had the processor in between are no reason to read less.
    """
    took = time.thread_time() - since
    if took > LONG:
        vars(connection)[_WORK] = took


def has_left(connection: Connection) -> bool:
    """Whether the peer can get nothing more: its transport is closing, as after a failed write, or we have closed."""
    if connection.state is ConnectionState.CLOSED:
        return True
    transport = vars(connection).get(_TRANSPORT, lambda: None)()
    return transport is not None and transport.is_closing()


def set_waiting(connection: Connection, *, waits: bool) -> None:
    """Read nothing more from `connection` while something that was read waits for its turn."""
    if waits:
        vars(connection).setdefault(_WAITING, asyncio.Event())
    else:
        processed = vars(connection).pop(_WAITING, None)
        if processed is not None:
            processed.set()


async def drain_writers(handler: Any) -> None:
    """Wait until the peers that receive what the current task reads have room for more.

    Replaces `ConnectionHandler.drain_writers`, which waits for every peer: where two wait for us to read before they
    read themselves, as when each sends what it gets, nothing would move any more.

    What a client sends goes to the upstreams, and what they send goes to the client. A peer's own data also makes us
    write to it: a client is read no further while it leaves MOST_UNREAD of that, and HTTP/2 bounds it for an upstream.

    A client with HTTP/2 or HTTP/3 does not wait for upstreams: what room it has is in what it sends, and its requests
    are whole before they leave.
    """
    client, task = handler.transports.get(handler.client), asyncio.current_task()
    if client is None:
        return
    windows = vars(handler.client).get(_WINDOWS)
    if task is not client.handler:
        async with handler._drain_lock:  # several upstreams may wait for it: https://bugs.python.org/issue29930
            await _drain(client)
        if windows is not None:
            reads = [vars(each).get(_STREAM) for each, io in handler.transports.items() if io.handler is task]
            await windows.wait_for_room(reads[0] if reads else None)
        return
    for io in [each for each in handler.transports.values() if each is not client and windows is None]:
        await _drain(io)
    transport = getattr(client.writer, "transport", None)
    if transport is None or transport.get_write_buffer_size() > MOST_UNREAD:
        async with handler._drain_lock:
            await _drain(client)


def set_windows(client: Connection, windows: Any) -> None:
    """Let upstreams wait for `windows.wait_for_room` when they send to `client`."""
    vars(client)[_WINDOWS] = windows


def set_stream(connection: Connection, stream_id: int) -> None:
    """Note that the upstream `connection` is for one stream of a client's alone."""
    vars(connection)[_STREAM] = stream_id


async def _drain(io: Any) -> None:
    if io.writer is None:
        return
    try:
        await io.writer.drain()
    except OSError as error:
        if io.handler is not None:
            io.handler.cancel(f"Error sending data: {error}")


class Fairness:
    """An addon that installs a `FairReader` on each reverse-proxied connection, and `drain_writers`.

    `handlers` returns mitmproxy's connection handlers by client id.
    """

    name = "x402fairness"

    def __init__(self, handlers: Callable[[], Any]) -> None:
        self._handlers = handlers

    def client_connected(self, client: Client) -> None:
        """Install the reader on a client's connection, and `drain_writers` on its handler."""
        if self._wrap(client, client):
            handler = self._handlers()[client.id]
            handler.drain_writers = functools.partial(drain_writers, handler)

    def server_connected(self, data: Any) -> None:
        """Install the reader on an upstream connection."""
        self._wrap(data.client, data.server)

    def _wrap(self, client: Client, connection: Connection) -> bool:
        handler = self._handlers().get(client.id)
        if handler is None or not isinstance(client.proxy_mode, ReverseMode):
            return False
        transport = handler.transports.get(connection)
        if transport is not None and isinstance(transport.reader, asyncio.StreamReader):
            vars(connection)[_TRANSPORT] = weakref.ref(transport.writer.transport)
            transport.reader = FairReader(transport.reader, transport.writer, connection)
        return True
