"""Bounds what is kept of answers that an HTTP/3 client does not take, as `http2` does for HTTP/2.

aioquic keeps what a stream sends until the peer has acknowledged it, however much that is, even
what flow control does not let it send yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from ..internals import ClientQuicLayer, Context, commands
from .reader import set_windows

MOST_KEPT = 8 << 20
"""Most bytes that are kept of a client's streams before nothing is read from an upstream. It is reached only by clients
that stand still: an upstream over QUIC has to send again what was not read, and is slow for a while."""


class QuicWindows:
    """What waits for a client in its QUIC connection `quic`."""

    def __init__(self, quic: Any) -> None:
        self._quic = quic
        self._has_read = asyncio.Event()
        self._is_over = False

    async def wait_for_room(self, stream_id: int | None) -> None:
        """Wait while too much is kept that the client has not taken: of one stream, or (None) of all together."""
        while not self._is_over and self._kept(stream_id) > MOST_KEPT:
            self._has_read.clear()
            await self._has_read.wait()

    def _kept(self, stream_id: int | None) -> int:
        streams: dict[int, Any] = self._quic._streams
        if stream_id is None:
            return sum(map(_kept, streams.values()))
        return _kept(streams[stream_id]) if stream_id in streams else 0

    def look_again(self) -> None:
        """Have those that wait look again: the client may have taken something."""
        self._has_read.set()

    def end(self) -> None:
        """Let all that wait go on: the connection is over."""
        self._is_over = True
        self._has_read.set()


def _kept(stream: Any) -> int:
    sender = stream.sender
    return 0 if sender._reset_error_code is not None else len(sender._buffer)


class WindowedQuicLayer(ClientQuicLayer):
    """mitmproxy's QUIC layer of a client, which says when the client may have taken something."""

    x402_windows: QuicWindows

    def receive_data(self, data: bytes) -> Generator[commands.Command, Any, None]:
        """Receive a datagram, or the news that a timer has ended."""
        yield from super().receive_data(data)
        self.x402_windows.look_again()

    def receive_close(self) -> Generator[commands.Command, Any, None]:
        """End the connection."""
        self.x402_windows.end()
        yield from super().receive_close()


def bound(context: Context) -> None:
    """Bound what is kept for the client of `context`, which speaks HTTP/3."""
    for each in context.layers:
        if type(each) is ClientQuicLayer and each.quic is not None:
            each.__class__ = WindowedQuicLayer
            assert isinstance(each, WindowedQuicLayer)
            each.x402_windows = QuicWindows(each.quic)
            set_windows(context.client, each.x402_windows)
