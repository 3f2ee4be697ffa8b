"""Reads from a peer no more at once than is worked through in a few milliseconds, so that no peer holds others up.

mitmproxy reads up to 64 KiB and works through it in one go. Of what is cheap to send and dear to read (frames of a few
bytes, interim responses) that takes the event loop away from everybody for seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from mitmproxy.connection import Client, Connection, ConnectionState

from .internals import ReverseMode

MOST = 65535
FIRST = 16 << 10
LEAST = 512
"""Bytes that are read at once."""
LONG = 0.004
"""Seconds of work on one piece after which the next is smaller."""

_WORK = "x402_work"
"""The attribute of a connection that says for how long its last piece was worked on."""


class FairReader:
    """In the place of a connection's reader."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        self._reader, self._writer = reader, writer
        self._connection = connection
        self._size = FIRST
        self._paused = 0.0
        self._is_behind = False
        """Whether the last piece was as large as could be: more is there already."""

    async def read(self, most: int) -> bytes:
        """As the reader's own. Raises OSError: the connection has been closed by us."""
        if self._connection.state is ConnectionState.CLOSED:
            # mitmproxy forgets to close the socket where the task that reads is cancelled while it waits for its turn.
            self._writer.close()
            raise ConnectionAbortedError("closed by us")
        work = vars(self._connection).pop(_WORK, 0.0)
        if work > LONG:
            self._size = max(LEAST, int(self._size * LONG / work / 2))
        elif self._is_behind:
            self._size = min(MOST, 2 * self._size)
        if self._is_behind and time.monotonic() - self._paused > LONG:
            await asyncio.sleep(0)  # what is there already is read without a pause
            self._paused = time.monotonic()
        size = min(most, self._size)
        data = await self._reader.read(size)
        self._is_behind = len(data) == size
        return data


def worked(connection: Connection, since: float) -> None:
    """What has come through `connection` was worked on from `since`, on the monotonic clock, until now."""
    took = time.monotonic() - since
    if took > LONG:
        vars(connection)[_WORK] = took


class Fairness:
    """An addon that gives each connection of a reverse proxy its reader. `handlers` gives mitmproxy's, by client id."""

    name = "x402fairness"

    def __init__(self, handlers: Callable[[], Any]) -> None:
        self._handlers = handlers

    def client_connected(self, client: Client) -> None:
        """A client is there."""
        self._wrap(client, client)

    def server_connected(self, data: Any) -> None:
        """An upstream is there."""
        self._wrap(data.client, data.server)

    def _wrap(self, client: Client, connection: Connection) -> None:
        handler = self._handlers().get(client.id)
        if handler is None or not isinstance(client.proxy_mode, ReverseMode):
            return
        transport = handler.transports.get(connection)
        if transport is not None and isinstance(transport.reader, asyncio.StreamReader):
            transport.reader = FairReader(transport.reader, transport.writer, connection)
