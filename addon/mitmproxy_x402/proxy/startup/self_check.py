"""Checks at start-up that mitmproxy still has every internal that this package uses, with the same parameters."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mitmproxy import version

from ...errors import SettingsError
from ...machine.installation import TESTED_PYTHONS, advice
from ..internals import (
    BufferedH2Connection,
    ChunkedReader,
    ClientQuicLayer,
    ConnectionHandler,
    Context,
    DropStream,
    Frame,
    FrameBuffer,
    GetHttpConnection,
    GoAwayFrame,
    H2Connection,
    H3Connection,
    H3Stream,
    HttpCommand,
    HttpLayer,
    HttpResponseHeadersHook,
    HttpStream,
    LayeredH3Connection,
    QuicConnection,
    QuicStreamSender,
    ReceiveBuffer,
    ReceiveHttp,
    RegisterHttpConnection,
    RequestData,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
    RstStreamFrame,
    SendHttp,
    TLSLayer,
    TunnelLayer,
    WebsocketConnection,
    WebsocketLayer,
    _http1,
    _http2,
    _http3,
    commands,
    events,
    layer,
)

try:
    import annotationlib  # type: ignore[import-not-found]
except ModuleNotFoundError:  # before Python 3.14
    annotationlib = None

if TYPE_CHECKING:
    from mitmproxy.master import Master

OLDEST = (11, 0, 2)
"""The first mitmproxy that this runs on."""
NEWEST_TESTED = (12, 3)
TESTED = "11.0.2, 12.2 and 12.3"
TESTED_REQUIREMENT = "mitmproxy>=12.2,<12.4" if sys.version_info >= (3, 12) else "mitmproxy==11.0.2"
"""The requirement to install when the installed mitmproxy does not work."""


def is_starting(master: Master) -> bool:
    """Whether mitmproxy has not finished starting, though its port may be open: an error would still end it."""
    listener = getattr(master.addons.get("errorcheck"), "logger", None)
    return listener in logging.getLogger().handlers


def unsent(proxyserver: Any) -> int:
    """Bytes that mitmproxy has buffered for any peer; `proxyserver` is its addon of that name."""
    writers = [each.writer for handler in proxyserver.connections.values() for each in handler.transports.values()]
    # mitmproxy's own writer of UDP has no transport, and buffers nothing that we could count.
    transports = [getattr(writer, "transport", None) for writer in writers]
    return sum(transport.get_write_buffer_size() for transport in transports if transport is not None)


NEEDED: tuple[tuple[Any, str, tuple[str, ...] | None], ...] = (
    (HttpStream, "handle_event", ("self", "event")),
    (HttpStream, "check_invalid", ("self", "request")),
    (HttpStream, "check_body_size", ("self", "request")),
    (HttpStream, "check_killed", ("self", "emit_error_hook")),
    (HttpStream, "state_wait_for_response_headers", ("self", "event")),
    (HttpStream, "make_server_connection", ("self",)),
    (HttpStream, "handle_protocol_error", ("self", "event")),
    (HttpStream, "send_response", ("self", "already_streamed")),
    (HttpStream, "state_stream_response_body", ("self", "event")),
    (HttpStream, "state_done", None),
    (HttpStream, "passthrough", ("self", "event")),
    (HttpStream, "state_errored", None),
    (HttpLayer, "make_stream", ("self", "stream_id")),
    (HttpLayer, "_handle_event", ("self", "event")),
    (HttpLayer, "event_to_child", ("self", "child", "event")),
    (HttpLayer, "get_connection", ("self", "event")),
    (HttpLayer, "register_connection", ("self", "command")),
    (HttpStream, "_handle_event", ("self", "event")),
    (_http1.Http1Server, "_handle_event", ("self", "event")),
    (_http1.Http1Client, "_handle_event", ("self", "event")),
    (_http2.Http2Connection, "_handle_event", ("self", "event")),
    (_http2.Http2Connection, "handle_h2_event", ("self", "event")),
    (_http2.Http2Connection, "protocol_error", ("self", "message", "error_code")),
    (H2Connection, "_prepare_for_sending", ("self", "frames")),
    (H2Connection, "_receive_frame", ("self", "frame")),
    (H2Connection, "receive_data", ("self", "data")),
    (H2Connection, "reset_stream", ("self", "stream_id", "error_code")),
    (FrameBuffer, "_validate_frame_length", ("self", "length")),
    (H2Connection, "acknowledge_received_data", ("self", "acknowledged_size", "stream_id")),
    (_http3.Http3Connection, "_handle_event", ("self", "event")),
    (LayeredH3Connection, "handle_stream_event", ("self", "event")),
    (LayeredH3Connection, "get_open_stream_ids", ("self",)),
    (LayeredH3Connection, "close_stream", ("self", "stream_id", "error_code", "stop_send")),
    (LayeredH3Connection, "close_connection", ("self", "error_code", "frame_type", "reason_phrase")),
    (LayeredH3Connection, "_check_content_length", ("self", "stream")),
    (LayeredH3Connection, "_get_or_create_stream", ("self", "stream_id")),
    (LayeredH3Connection, "_receive_request_or_push_data", ("self", "stream", "data", "stream_ended")),
    (LayeredH3Connection, "_receive_stream_data_uni", ("self", "stream", "data", "stream_ended")),
    (
        H3Connection,
        "_handle_request_or_push_frame",
        ("self", "frame_type", "frame_data", "stream", "stream_ended"),
    ),
    (_http1.Http1Server, "send", ("self", "event")),
    (_http1.Http1Server, "read_headers", ("self", "event")),
    (_http1.Http1Server, "read_body", ("self", "event")),
    (_http1.Http1Server, "wait", None),
    (_http1.Http1Server, "done", None),
    (HttpStream, "state_wait_for_request_headers", ("self", "event")),
    (HttpStream, "state_consume_request_body", ("self", "event")),
    (HttpStream, "flow_done", ("self",)),
    (ChunkedReader, "__call__", ("self", "buf")),
    (_http1.Http1Client, "send", ("self", "event")),
    (_http1.Http1Client, "read_headers", ("self", "event")),
    (_http1.Http1Client, "read_body", ("self", "event")),
    (_http1.Http1Client, "mark_done", ("self", "request", "response")),
    (layer.Layer, "handle_event", ("self", "event")),
    (TunnelLayer, "receive_data", ("self", "data")),  # of `TLSLayer` and `ClientQuicLayer`
    (TunnelLayer, "send_data", ("self", "data")),
    (TunnelLayer, "receive_close", ("self",)),
    (TunnelLayer, "event_to_child", ("self", "event")),
    (ConnectionHandler, "server_event", ("self", "event")),
    (ConnectionHandler, "drain_writers", ("self",)),
    (Context, "fork", ("self",)),
    (RequestHeaders, "__init__", ("self", "stream_id", "request", "end_stream")),
    (RequestData, "__init__", ("self", "stream_id", "data")),
    (RequestTrailers, "__init__", ("self", "stream_id", "trailers")),
    (RequestProtocolError, "__init__", ("self", "stream_id", "message", "code")),
    (ResponseHeaders, "__init__", ("self", "stream_id", "response", "end_stream")),
    (ResponseData, "__init__", ("self", "stream_id", "data")),
    (ResponseTrailers, "__init__", ("self", "stream_id", "trailers")),
    (ResponseProtocolError, "__init__", ("self", "stream_id", "message", "code")),
    (SendHttp, "__init__", ("self", "event", "connection")),
    (ReceiveHttp, "__init__", ("self", "event")),
    (DropStream, "__init__", ("self", "stream_id")),
    (HttpResponseHeadersHook, "__init__", ("self", "flow")),
    (commands.SendData, "__init__", ("self", "connection", "data")),
    (commands.CloseConnection, "__init__", ("self", "connection")),
    (commands.RequestWakeup, "__init__", ("self", "delay")),
    (commands.Log, "__init__", ("self", "message", "level")),
    (events.HookCompleted, "__init__", ("self", "command", "reply")),
)
"""Every function that this package uses, with its parameters; None: not compared. Tests check what each does."""

_OF_STREAM = ("stream_id", "flow", "context", "server_state", "client_state", "debug", "_paused", "_paused_event_queue")
_ATTRIBUTES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (HttpStream, _OF_STREAM),
    (ConnectionHandler, ("transports", "client", "_drain_lock", "drain_writers")),
    (TLSLayer, ("conn",)),
    (ClientQuicLayer, ("quic",)),
    (QuicConnection, ("_streams",)),
    (QuicStreamSender, ("_buffer", "_reset_error_code")),
    (HttpLayer, ("streams", "connections", "waiting_for_establishment", "command_sources", "context")),
    (_http1.Http1Server, ("buf", "state", "body_reader", "conn")),
    (ReceiveBuffer, ("_data",)),
    (ChunkedReader, ("_bytes_in_chunk", "_reading_trailer")),
    (_http2.Http2Connection, ("conn", "h2_conn")),
    (_http2.Http2Client, ("our_stream_id",)),
    (FrameBuffer, ("_headers_buffer",)),
    (GoAwayFrame, ("last_stream_id",)),
    (RstStreamFrame, ("error_code",)),
    (_http3.Http3Client, ("h3_conn", "our_stream_id")),
    (LayeredH3Connection, ("_closed_streams", "_is_done", "_mock", "_stream")),
    (H3Stream, ("buffer", "ended", "blocked", "frame_size", "frame_type", "headers_recv_state", "headers_send_state")),
    (H3Stream, ("stream_id", "expected_content_length")),
    (WebsocketLayer, ("client_ws", "server_ws")),
    (WebsocketConnection, ("frame_buf",)),
    (BufferedH2Connection, ("config", "incoming_buffer", "state_machine", "stream_buffers")),
    (Frame, ("body_len", "flags")),
    (HttpStream, ("request_body_buf", "child_layer", "_paused")),
    (_http1.Http1Client, ("buf", "state", "stream_id", "request", "response", "context")),
    (Context, ("client", "server", "options", "layers")),
    (events.DataReceived, ("connection", "data")),
    (events.Wakeup, ("command",)),
    (events.ConnectionClosed, ("connection",)),
)
"""Instance attributes that this package reads or sets, by class."""


_COMMANDS = (DropStream, GetHttpConnection, ReceiveHttp, RegisterHttpConnection, SendHttp)
"""What the parts of mitmproxy's HTTP layer ask of it."""


def self_check() -> str:
    """Refuse a mitmproxy whose internals differ from what this package needs.

    Returns a warning if mitmproxy or Python is newer than those tested, else empty text. Raises SettingsError:
    mitmproxy is older than OLDEST, or an internal has moved.
    """
    found = version.VERSION
    number = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    if number < OLDEST:
        raise SettingsError(
            f"mitmproxy {found} is not supported: mitmproxy-x402 needs {'.'.join(map(str, OLDEST))} or later. "
            f"{advice(['mitmproxy>=' + '.'.join(map(str, OLDEST))])}"
        )
    moved = next(_moved(), None)
    if moved is not None:
        raise SettingsError(
            f"mitmproxy {found} has changed {moved}, which the x402 handshake needs: not starting. Tested are "
            f"{TESTED}. {advice([TESTED_REQUIREMENT])}"
        )
    newer = []
    if number[:2] > NEWEST_TESTED:
        newer.append(f"mitmproxy {found} is newer than those tested ({TESTED})")
    first, last = (".".join(map(str, python)) for python in TESTED_PYTHONS)
    if sys.version_info[:2] > TESTED_PYTHONS[1]:
        newer.append(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} is newer than those tested ({first} to {last})"
        )
    if not newer:
        return ""
    return (
        f"{' and '.join(newer)}. Everything that the handshake uses is unchanged, so it runs; if "
        "something goes wrong, install one of those."
    )


def _moved() -> Iterator[str]:
    """Names of the internals that have moved or changed."""
    for owner, name, parameters in NEEDED:
        target = getattr(owner, name, None)
        if (
            target is None
            or getattr(target, "__isabstractmethod__", False)
            or (parameters is not None and tuple(inspect.signature(target).parameters)[: len(parameters)] != parameters)
        ):
            yield f"{owner.__name__}.{name}"
    for command in HttpCommand.__subclasses__():  # all of which `FlatHttpLayer` has to know
        if command not in _COMMANDS and command.__module__.startswith("mitmproxy."):
            yield command.__name__
    for each, names in _ATTRIBUTES:
        known = attributes_of(each)
        yield from (f"{each.__name__}.{name}" for name in names if name not in known)


def attributes_of(owner: type) -> set[str]:
    """Names of the attributes of instances of `owner`, as far as its code shows."""
    found: set[str] = set()
    for each in owner.__mro__:
        found.update(vars(each), _annotations(each), getattr(each, "__dataclass_fields__", ()))
        for function in vars(each).values():
            if inspect.isfunction(function):
                found.update(function.__code__.co_names)
    return found


def _annotations(owner: type) -> Iterable[str]:
    """The names that the body of `owner` annotates; from Python 3.14 on they are computed when they are asked for."""
    names: Iterable[str]
    if annotationlib is None:
        names = vars(owner).get("__annotations__", ())
    else:
        names = annotationlib.get_annotations(owner, format=annotationlib.Format.FORWARDREF)
    return names
