"""h11's body readers, which join tiny chunks, yield to other connections, and accept a body that ends early."""

from __future__ import annotations

import math
import time
from typing import Any

import h11

from ..internals import ChunkedReader, ContentLengthReader, ReceiveBuffer

MAX_JOINED = 1 << 16
"""Most bytes that are joined into one piece; longer data is not copied."""


class Chunks(ChunkedReader):
    """h11's chunk reader, which joins tiny chunks when thousands arrive at once: each costs as much as a large one."""

    _tiny = 64
    _many = 2100
    until = math.inf
    """When to pause for other connections (monotonic clock)."""
    paused = False
    """Whether buffered data is left for the next turn."""
    _run = 0
    """Tiny chunks in a row after which more data was waiting."""
    _kept: Any = None
    """The result that the next call returns, or the error that it raises."""

    def __call__(self, buf: Any) -> Any:
        """The next piece of the body, or its end; None: more data is needed."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            if isinstance(kept, Exception):
                raise kept
            return kept
        if buf and time.monotonic() > self.until:
            self.paused = True
            return None
        found: Any = super().__call__(buf)
        if found is None and not self._bytes_in_chunk and not self._reading_trailer:
            _refuse_bare_feed(buf)
        if not self._is_tiny(found) or not buf:
            self._run = 0
            return found
        self._run += 1
        if self._run < self._many:
            return found
        joined = bytearray(found.data)
        while len(joined) < MAX_JOINED:
            try:
                found = super().__call__(buf)
            except h11.ProtocolError as error:
                self._kept = error
                break
            if not self._is_tiny(found):
                self._kept = found
                break
            joined += found.data
        return h11.Data(data=bytes(joined))

    def _is_tiny(self, found: Any) -> bool:
        return isinstance(found, h11.Data) and len(found.data) <= self._tiny


def _refuse_bare_feed(buf: ReceiveBuffer) -> None:
    """Raise h11.LocalProtocolError if a line feed alone ends the line of a chunk: h11 would wait for the next one."""
    data: bytearray = buf._data
    feed = data.find(b"\n")
    if feed >= 0 and data[max(0, feed - 1)] != _RETURN:
        raise h11.LocalProtocolError("the line of a chunk ends in a line feed alone (RFC 9112, section 7.1)")


_RETURN = 13


class UpTo(ContentLengthReader):
    """h11's reader of a body of known length, which also accepts the end of the connection as the body's end."""

    def read_eof(self) -> Any:
        """The event that ends the body."""
        return h11.EndOfMessage()
