"""mitmproxy's HTTP/1.1 client connection, which survives interim responses and trailers."""

from __future__ import annotations

import logging
import re
from typing import Any

from .arrival import Steps
from .internals import (
    HttpEvent,
    HttpStream,
    ReceiveHttp,
    RequestHeaders,
    ResponseData,
    ResponseEndOfMessage,
    _http1,
    commands,
    events,
)
from .stream import X402Stream

logger = logging.getLogger(__name__)

MAX_JOINED = 1 << 16
"""Bytes that are joined to leave in one piece; what is longer is not copied."""


def join(held: commands.SendData, command: commands.Command) -> bool:
    """Whether `command` could be made part of `held`: bytes for the same connection, and not too many."""
    if (
        not isinstance(command, commands.SendData)
        or command.connection is not held.connection
        or len(held.data) + len(command.data) > MAX_JOINED
    ):
        return False
    held.data += command.data
    return True


class Http1Client(_http1.Http1Client):
    """mitmproxy's HTTP/1.1 client, which survives interim responses and trailers."""

    streams: dict[int, HttpStream]
    """Of the layer above, which go by the id of their leg."""
    _head: commands.SendData | None = None

    def send(self, event: HttpEvent) -> Steps:
        """Send a head together with the body, which follows at once: one TLS record instead of two."""
        holds = isinstance(event, RequestHeaders) and not event.end_stream and not event.request.stream
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
            while _INTERIM.match(bytes(self.buf)[:16]):
                head = self.buf.maybe_extract_lines()
                if head is None:
                    return
                logger.debug("Dropped an interim response: %s", bytes(head[0]).decode("latin-1"))
            if not self.buf:
                return
        yield from super().read_headers(event)

    def read_body(self, event: Any) -> Steps:
        """Read on; trailers (RFC 9112, section 7.1.2) are dropped, where mitmproxy would end in an error."""
        try:
            for command in super().read_body(event):
                yield self._passed_on(command) or command
        except NotImplementedError:  # raised in the place of what follows
            logger.info("Dropped the trailers of an HTTP/1.1 response.")
            assert self.stream_id is not None
            yield ReceiveHttp(ResponseEndOfMessage(self.stream_id))
            yield from self.mark_done(response=True)

    def _passed_on(self, command: commands.Command) -> commands.SendData | None:
        """What comes of a piece of a body, found at once instead of in four layers in turn."""
        if not isinstance(command, ReceiveHttp) or not isinstance(command.event, ResponseData):
            return None
        stream = self.streams.get(command.event.stream_id)
        return stream.pass_on(command.event) if isinstance(stream, X402Stream) else None


_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d")
