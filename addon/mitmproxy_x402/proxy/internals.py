"""Imports the internals of mitmproxy that this package uses; no other module does.

The import raises SettingsError, which says what to install, when this mitmproxy has moved one of them.
"""

from __future__ import annotations

from mitmproxy import version

from ..errors import SettingsError

try:
    from aioquic.h3.connection import ErrorCode as H3ErrorCode
    from aioquic.h3.connection import FrameType as H3FrameType
    from aioquic.h3.connection import H3Connection, H3Stream
    from aioquic.h3.connection import HeadersState as H3HeadersState
    from aioquic.h3.connection import MessageError as H3MessageError
    from aioquic.h3.events import DataReceived as H3DataReceived
    from aioquic.h3.events import HeadersReceived as H3HeadersReceived
    from aioquic.quic.connection import QuicConnection
    from aioquic.quic.stream import QuicStreamSender
    from h2.connection import ConnectionState as H2States
    from h2.connection import H2Connection
    from h2.errors import ErrorCodes
    from h2.events import (
        DataReceived,
        InformationalResponseReceived,
        RequestReceived,
        StreamEnded,
        TrailersReceived,
        UnknownFrameReceived,
    )
    from h2.exceptions import DenialOfServiceError, ProtocolError
    from h2.frame_buffer import FrameBuffer
    from h11._readers import ChunkedReader, ContentLengthReader
    from h11._receivebuffer import ReceiveBuffer
    from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame
    from mitmproxy import hooks
    from mitmproxy.addonmanager import AddonManager, safecall
    from mitmproxy.connection import Connection, ConnectionState
    from mitmproxy.net.http.validate import validate_headers
    from mitmproxy.proxy import commands, events, layer
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layers.http import (
        DropStream,
        GetHttpConnection,
        HttpClient,
        HttpLayer,
        HttpStream,
        RegisterHttpConnection,
        SendHttp,
        _events,
        _http1,
        _http2,
        _http3,
    )
    from mitmproxy.proxy.layers.http._base import HttpCommand, HttpEvent, ReceiveHttp
    from mitmproxy.proxy.layers.http._events import (
        RequestData,
        RequestEndOfMessage,
        RequestHeaders,
        RequestProtocolError,
        RequestTrailers,
        ResponseData,
        ResponseEndOfMessage,
        ResponseHeaders,
        ResponseProtocolError,
        ResponseTrailers,
    )
    from mitmproxy.proxy.layers.http._hooks import HttpRequestHeadersHook, HttpRequestHook, HttpResponseHeadersHook
    from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection
    from mitmproxy.proxy.layers.http._http_h3 import LayeredH3Connection, StreamClosed
    from mitmproxy.proxy.layers.quic import (
        ClientQuicLayer,
        CloseQuicConnection,
        QuicConnectionClosed,
        QuicStreamReset,
        QuicStreamStopSending,
    )
    from mitmproxy.proxy.layers.tls import ClientTLSLayer, ServerTLSLayer, TLSLayer
    from mitmproxy.proxy.layers.websocket import WebsocketConnection, WebsocketLayer
    from mitmproxy.proxy.mode_specs import ReverseMode
    from mitmproxy.proxy.server import ConnectionHandler
    from mitmproxy.proxy.tunnel import TunnelLayer
except ImportError as moved:
    raise SettingsError(
        f"mitmproxy {version.VERSION} has moved what the x402 handshake needs ({moved}): not starting. "
        "Install the versions of requirements.lock, for example with ./run.sh."
    ) from None

__all__ = [
    "AddonManager",
    "BufferedH2Connection",
    "ChunkedReader",
    "ClientQuicLayer",
    "ClientTLSLayer",
    "CloseQuicConnection",
    "Connection",
    "ConnectionHandler",
    "ConnectionState",
    "ContentLengthReader",
    "Context",
    "DataFrame",
    "DataReceived",
    "DenialOfServiceError",
    "DropStream",
    "ErrorCodes",
    "Frame",
    "FrameBuffer",
    "GetHttpConnection",
    "GoAwayFrame",
    "H2Connection",
    "H2States",
    "H3Connection",
    "H3DataReceived",
    "H3ErrorCode",
    "H3FrameType",
    "H3HeadersReceived",
    "H3HeadersState",
    "H3MessageError",
    "H3Stream",
    "HeadersFrame",
    "HttpClient",
    "HttpCommand",
    "HttpEvent",
    "HttpLayer",
    "HttpRequestHeadersHook",
    "HttpRequestHook",
    "HttpResponseHeadersHook",
    "HttpStream",
    "InformationalResponseReceived",
    "LayeredH3Connection",
    "ProtocolError",
    "QuicConnection",
    "QuicConnectionClosed",
    "QuicStreamReset",
    "QuicStreamSender",
    "QuicStreamStopSending",
    "ReceiveBuffer",
    "ReceiveHttp",
    "RegisterHttpConnection",
    "RequestData",
    "RequestEndOfMessage",
    "RequestHeaders",
    "RequestProtocolError",
    "RequestReceived",
    "RequestTrailers",
    "ResponseData",
    "ResponseEndOfMessage",
    "ResponseHeaders",
    "ResponseProtocolError",
    "ResponseTrailers",
    "ReverseMode",
    "RstStreamFrame",
    "SendHttp",
    "ServerTLSLayer",
    "StreamClosed",
    "StreamEnded",
    "TLSLayer",
    "TrailersReceived",
    "TunnelLayer",
    "UnknownFrameReceived",
    "WebsocketConnection",
    "WebsocketLayer",
    "_events",
    "_http1",
    "_http2",
    "_http3",
    "commands",
    "events",
    "hooks",
    "layer",
    "safecall",
    "validate_headers",
]
