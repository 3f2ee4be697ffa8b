"""Ends what depends on a layer that failed, where mitmproxy logs a traceback and leaves the client without an answer.

Whatever raises an exception in or below the HTTP layer, be it an upstream's connection, its TLS or QUIC, a stream, or
the client's connection, is disconnected. Each stream that waits for it gets a protocol error, as from a lost
connection: so the client gets an answer, and the ledger the outcome.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from typing import Any

from mitmproxy.connection import Connection, ConnectionState

from ..arrival import CANCELLED, nothing
from ..internals import (
    GetHttpConnection,
    HttpStream,
    RegisterHttpConnection,
    RequestProtocolError,
    ResponseProtocolError,
    _http2,
    _http3,
    commands,
)

logger = logging.getLogger(__name__)

_SHARED = (_http2.Http2Client, _http3.Http3Client)
"""Clients whose connection several streams share."""
_MOST_FRAMES = 12


def end(http_layer: Any, child: Any, error: Exception) -> Iterator[commands.Command]:
    """The steps of `http_layer` after `child`, one of its streams or connections or itself, has raised `error`."""
    reason = f"mitmproxy failed on it: {type(error).__name__} in {type(child).__name__}"
    # Neither the message nor the locals: they may hold what was sent or received.
    frames = "".join(traceback.format_tb(error.__traceback__)[-_MOST_FRAMES:])
    logger.error("x402: %s. What depended on it is ended.\n%s", reason, frames.rstrip())
    has_failed = vars(child).get("x402_failed", False)
    child.x402_failed = True
    if child is http_layer:
        yield from _end_all(http_layer, reason, at_once=has_failed)
        return
    child._paused = None
    child._paused_event_queue.clear()
    if isinstance(child, HttpStream):
        yield from _end_stream(http_layer, child, reason, at_once=has_failed)
        return
    _silence(child)
    for connection in [each for each, layer in http_layer.connections.items() if layer is child]:
        yield from _end_connection(http_layer, connection, reason)


def _end_all(http_layer: Any, reason: str, *, at_once: bool) -> Iterator[commands.Command]:
    for connection in list(http_layer.connections):
        if at_once or connection is not http_layer.context.client:  # which has its answers to get
            yield from _close(connection)
    for stream in () if at_once else dict.fromkeys(http_layer.streams.values()):
        if stream._paused is not None and isinstance(stream._paused.command, GetHttpConnection):
            stream._paused = None  # nobody will reply
        yield from http_layer.event_to_child(stream, lost(stream, reason))


def _silence(child: Any) -> None:
    """Have `child` do nothing more."""
    child.handle_event = child._handle_event = _ignore


def _ignore(_: Any) -> Iterator[commands.Command]:
    return nothing()


def _end_stream(http_layer: Any, stream: Any, reason: str, *, at_once: bool) -> Iterator[commands.Command]:
    upstream = stream.context.server
    if at_once or "_handle_event" in vars(stream):  # it has failed on its end, too, or HTTP is over (101)
        _silence(stream)
        for connection in (upstream, http_layer.context.client):
            if connection in http_layer.connections:
                yield from _close(connection)
        return
    if upstream in http_layer.connections:
        yield from disconnect(http_layer, stream, upstream, reason)
    yield from http_layer.event_to_child(stream, lost(stream, reason))


def _end_connection(http_layer: Any, connection: Connection, reason: str) -> Iterator[commands.Command]:
    yield from _close(connection)
    if connection in http_layer.waiting_for_establishment:
        yield from http_layer.register_connection(RegisterHttpConnection(connection, reason))
    for stream in dict.fromkeys(http_layer.streams.values()):
        if connection is http_layer.context.client:
            gone = RequestProtocolError(stream.stream_id, reason, CANCELLED)
            yield from http_layer.event_to_child(stream, gone)
        elif stream.context.server is connection:
            yield from http_layer.event_to_child(stream, lost(stream, reason))


def _close(connection: Connection) -> Iterator[commands.Command]:
    if connection.state is not ConnectionState.CLOSED:
        yield commands.CloseConnection(connection)


def lost(stream: Any, reason: str) -> ResponseProtocolError:
    """What tells `stream` that its upstream is gone."""
    return ResponseProtocolError(stream.leg_id, reason, ResponseProtocolError.code)


def disconnect(http_layer: Any, stream: Any, connection: Connection, reason: str) -> Iterator[commands.Command]:
    """Give up the request of `stream` on its upstream `connection`, which is closed if no other streams share it."""
    upstream = http_layer.connections[connection]
    if isinstance(upstream.context.layers[-1], _SHARED):
        gone = RequestProtocolError(stream.leg_id, reason, CANCELLED)
        yield from http_layer.event_to_child(upstream, gone)
        yield from http_layer.event_to_child(stream, ResponseProtocolError(stream.leg_id, reason, CANCELLED))
    else:
        yield commands.CloseConnection(connection)  # also one that is being opened
