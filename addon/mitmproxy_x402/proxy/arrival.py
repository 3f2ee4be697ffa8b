"""Receives a request: bounds its head and body, and sends early answers before the body has arrived.

mitmproxy reads the whole request before it sends an answer that a hook has set. Here such an answer goes out as soon as
`requestheaders` has set it, and the rest of the body is discarded as it arrives, so a refused request takes no memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator
from typing import Any, cast

from mitmproxy import http
from mitmproxy.net.http.http1 import expected_http_body_size

from ..errors import error_body
from .exchange import EXCHANGE, Exchange, shallow_copy
from .heads import header_index
from .heads.plain_fields import are_trailers_plain, is_plain, unfolded
from .internals import (
    DropStream,
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
    HttpStream,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestTrailers,
    ResponseProtocolError,
    SendHttp,
    _events,
    commands,
    events,
)

MAX_DISCARDED = 8 << 20
"""Bytes of a body that are read and discarded after the answer; a client that sends more is cut off.

Closing at once would lose the answer for a client that reads only after it has sent everything.
"""

MAX_FIELDS = 1000
"""Most headers of a request, and most parameters of its query and its Referer: each one is examined."""

Steps = Generator[commands.Command, Any, None]


def nothing() -> Steps:
    """Steps that do nothing."""
    yield from ()


AtOnce = Callable[[http.Request, "http.Response | None"], "http.Response | None"]
"""Gives the answer to a request that no hook needs to see, such as a health check, or None. Also gets the refusal of a
request that is out of bounds, and may add headers to it."""

CANCELLED: Any = _events.ErrorCode.CANCEL if hasattr(_events, "ErrorCode") else 504


_TOO_MANY = http.Response.make(
    431,
    error_body(
        "x402_refused",
        "request_head_too_large",
        f"mitmproxy-x402: the request has more than {MAX_FIELDS} headers, or more than {MAX_FIELDS} parameters in its "
        "query and Referer. Nothing was paid.",
    ),
    [(b"content-type", b"application/json"), (b"x-should-retry", b"false")],
)


_UNSPEAKABLE = http.Response.make(
    400,
    error_body(
        "x402_refused",
        "request_head_invalid",
        "mitmproxy-x402: the request's target does not begin with a slash or has blanks, control characters or a "
        "fragment (#) in it, its method is not a word, or a header or trailer has a line break or NUL in it, so that "
        "servers could read another request in it. Nothing was paid.",
    ),
    [(b"content-type", b"application/json"), (b"x-should-retry", b"false")],
)
_TARGET = re.compile(rb"/[^\x00-\x20\x7f#]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token (RFC 9110, section 5.6.2)."""


def _is_plain(request: http.Request) -> bool:
    """Whether an HTTP/1 request line made of `request` is read as the same method and path.

    HTTP/2 and HTTP/3 carry method and path in fields of their own, where anything may stand. A CONNECT, which has no
    path, is never forwarded.
    """
    method, path = request.data.method, request.data.path
    if _METHOD.fullmatch(method) is None:
        return False
    return _TARGET.fullmatch(path) is not None or (method == b"OPTIONS" and path == b"*") or request.method == "CONNECT"


def _parameters(request: http.Request) -> int:
    """The number of ampersands and semicolons in its target and its Referers."""
    found = 0
    for url in (request.data.path, *header_index.values(request.headers, b"referer")):
        found += url.count(b"&") + url.count(b";")
    return found


class ArrivingStream(HttpStream):
    """mitmproxy's HTTP stream, up to the end of the request."""

    exchange: Exchange
    at_once: AtOnce | None
    _discarded = 0

    def state_wait_for_request_headers(self, event: events.Event) -> Steps:
        """Handle the request's head as mitmproxy does, but send an answer at once if it is known already."""
        assert isinstance(event, RequestHeaders)
        head = event.request.headers
        answer = None
        if event.request.data.http_version.startswith(b"HTTP/1") and not is_plain(head.fields):
            head.fields = unfolded(head.fields)
        if not _is_plain(event.request) or not is_plain(head.fields, event.request.data.authority):
            answer = _UNSPEAKABLE.copy()
        elif len(head.fields) > MAX_FIELDS or _parameters(event.request) > MAX_FIELDS:
            answer = _TOO_MANY.copy()
        if self.at_once is not None:
            answer = self.at_once(event.request, answer)
        if answer is not None:
            self.flow = http.HTTPFlow(self.context.client, self.context.server)
            self.flow.request, self.flow.response, self.flow.live = event.request, answer, True
            yield from self._answer_unseen()
            return
        steps = super().state_wait_for_request_headers(event)
        reply: Any = None
        while True:
            try:
                command = steps.send(reply)
            except StopIteration:
                return
            reply = yield command
            if isinstance(command, HttpRequestHeadersHook) and not event.end_stream and self.flow.error is None:
                if self.flow.response is None and self._announces_too_much():
                    self.flow.response = self._too_large()
                if self.flow.response is not None:
                    steps.close()
                    yield from self._answer_early()
                    return

    def _announces_too_much(self) -> bool:
        lengths = header_index.values(self.flow.request.headers, b"content-length")
        if len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]) and int(lengths[0]) <= self.exchange.max_body:
            return False  # also where a Transfer-Encoding says otherwise
        try:
            size = expected_http_body_size(self.flow.request)
        except ValueError:
            return False  # mitmproxy reports the error
        return size is not None and size > self.exchange.max_body

    def _too_large(self) -> http.Response | None:
        return None if self.exchange.refuse_body is None else self.exchange.refuse_body()

    def state_consume_request_body(self, event: events.Event) -> Steps:
        """Buffer the body, which may have to be sent twice, up to `Exchange.max_body` bytes."""
        if isinstance(event, RequestData) and len(self.request_body_buf) + len(event.data) > self.exchange.max_body:
            answer = self._too_large()
            if answer is not None:
                self.request_body_buf.clear()
                self.flow.response = answer
                yield from self._answer_early()
                return
        if isinstance(event, RequestTrailers) and not are_trailers_plain(event.trailers):
            self.flow.response = _UNSPEAKABLE.copy()
            yield from self._answer_early()
            return
        yield from super().state_consume_request_body(event)

    def state_stream_request_body(self, event: events.Event) -> Steps:
        """Pass on what a script streams; trailers that are not plain are dropped, for the head has left."""
        if not isinstance(event, RequestTrailers) or are_trailers_plain(event.trailers):
            yield from super().state_stream_request_body(event)

    def _answer_unseen(self) -> Steps:
        """Send the flow's response without calling any hook."""
        self.client_state = self.state_discard_body
        self.server_state = self.state_done
        response = self.flow.response
        assert response is not None
        body = response.raw_content if self.flow.request.method != "HEAD" else b""
        yield SendHttp(_events.ResponseHeaders(self.stream_id, response, not body), self.context.client)
        if body:
            yield SendHttp(_events.ResponseData(self.stream_id, body), self.context.client)

    def _answer_early(self) -> Steps:
        """Send the flow's response now, then discard the rest of the body."""
        assert self.flow.response is not None
        awaits_leave = "expect" in self.flow.request.headers  # the body may or may not follow
        self.client_state = self.state_discard_body
        self.flow.request.data.content = b""
        self.flow.request.timestamp_end = self.flow.response.timestamp_start = time.time()
        for hook in (HttpRequestHook(self.flow), HttpResponseHeadersHook(self.flow)):
            yield hook
            if (yield from self.check_killed(True)):
                return
        if awaits_leave and not (self.flow.request.is_http2 or self.flow.request.is_http3):
            self.flow.response.headers["connection"] = "close"
        yield from self.send_response()
        if awaits_leave:
            yield from self._stop_reading()

    def state_discard_body(self, event: events.Event) -> Steps:
        """Discard the body of a request that has been answered."""
        if isinstance(event, RequestData):
            self._discarded += len(event.data)
            if self._discarded > MAX_DISCARDED:
                yield from self._stop_reading()
        elif isinstance(event, RequestEndOfMessage):
            self.client_state = self.state_done
            if self.server_state == self.state_done:
                yield from self.flow_done()

    def _stop_reading(self) -> Steps:
        """Close an HTTP/1.1 client's connection, or reset the stream of another."""
        self.client_state = self.server_state = self.state_errored
        self.flow.live = False
        error = ResponseProtocolError(self.stream_id, "the request was answered before its end", CANCELLED)
        yield SendHttp(error, self.context.client)
        yield DropStream(self.stream_id)

    def check_invalid(self, request: bool) -> Generator[commands.Command, Any, bool]:
        """Attach the exchange to the new flow, while its host is still the one that the client wrote."""
        if request:
            exchange, client = self.exchange, self.flow.request
            exchange.client_host = _written_host(client)
            exchange.client_method, exchange.client_path = client.method, client.path
            exchange.client_fields = client.headers.fields
            self.flow.__dict__[EXCHANGE] = self.exchange
        return (yield from super().check_invalid(request))

    def check_body_size(self, request: bool) -> Generator[commands.Command, Any, bool]:
        """Never apply `stream_large_bodies` to a request: a streamed body cannot be sent twice."""
        options = self.context.options
        if not options.body_size_limit and (request or not options.stream_large_bodies):
            return False
        if not request or not options.stream_large_bodies:
            return (yield from super().check_body_size(request))
        context, self.context = self.context, shallow_copy(self.context)
        self.context.options = cast(Any, _WithoutStreaming(context.options))
        try:
            return (yield from super().check_body_size(request))
        finally:
            self.context = context


class _WithoutStreaming:
    """mitmproxy's options, seen as if `stream_large_bodies` were not set."""

    stream_large_bodies = None

    def __init__(self, options: Any) -> None:
        self._options = options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._options, name)


def _written_host(request: http.Request) -> str | None:
    """All Host headers, preceded by the authority (`:authority`, or that of an absolute-form target) if they differ."""
    hosts, authority = header_index.get_all(request.headers, b"host"), request.authority
    if authority and hosts != [authority]:
        hosts.insert(0, authority)
    return ", ".join(hosts) if hosts else None
