"""The 402 round trip inside mitmproxy's HTTP stream: the only room that touches mitmproxy's internals. Knows no money.

mitmproxy's hooks cannot pay and stream: a response that a hook sets goes out whole. So each reverse-proxied stream is
an `X402Stream`. It holds a 402 back, fires the `x402_challenge` hook, and does what the addon then asks for:

    resend     the same request goes upstream again, with `Exchange.secret_headers` added; the answer streams through
    an answer  the addon put another response into `flow.response`: the client gets that one
    neither    the 402 was the answer: the client gets it as it came

The addon may also give the first leg secret headers, in the request hook; and from a leg that carried some, 400 and 401
are held back like 402, since gateways reject payments with these, too.

Every request sent upstream is a leg. A leg has a stream id of its own, because HTTP/2 never opens one id twice; what
still arrives for a leg that was left behind is dropped. `Exchange.legs` counts them, MAX_LEGS bounds them.

Besides, the stream mends what would lose an answer: interim responses and trailers of HTTP/1.1, trailers that an
HTTP/1.1 client cannot be given, answers whose end nobody could tell from their being cut off, error pages in HTML. And
where the process is ours, `economise` has mitmproxy ask only those addons for a hook that have it: most of an
exchange's time goes into asking all of them.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mitmproxy import ctx, exceptions, hooks, http, optmanager, version
from mitmproxy.connection import Connection, ConnectionState

from . import heads
from .batch import DELAY, LATE, Batch, Later
from .errors import SettingsError, error_body
from .timeouts import Timeouts

try:
    from mitmproxy.addonmanager import AddonManager, safecall
    from mitmproxy.log import AddLogHook, LogEntry
    from mitmproxy.options import Options
    from mitmproxy.proxy import commands, events, layer
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layers.http import DropStream, HttpLayer, HttpStream, SendHttp, _events, _http1, _http2
    from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
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
    from mitmproxy.proxy.layers.http._hooks import HttpResponseHeadersHook
    from mitmproxy.proxy.mode_specs import ReverseMode
except ImportError as moved:
    raise SettingsError(
        f"mitmproxy {version.VERSION} has moved what the x402 handshake stands on ({moved}): not starting. "
        "Install the versions of requirements.lock, for example with ./run.sh."
    ) from None

if TYPE_CHECKING:
    from mitmproxy.master import Master

MAX_CHALLENGE = 1 << 20
"""Bytes of a 402 that are held back; a longer one is an answer, and passes through."""
MAX_LEGS = 6
"""Requests sent upstream for one request of the client, whatever the addon asks for."""
MAX_JOINED = 1 << 16
"""Bytes that are joined to leave in one piece; what is longer is not copied."""
SUPPORTED = ((11, 0, 2), (12, 4))
"""mitmproxy versions from the first, up to and without the second."""

logger = logging.getLogger(__name__)

Steps = Generator[commands.Command, Any, None]
_RESPONSE_EVENTS = (
    ResponseData,
    ResponseHeaders,
    ResponseTrailers,
    ResponseEndOfMessage,
    ResponseProtocolError,
)
_CHALLENGE = (402,)
_REJECTIONS = (400, 401, 402)
_leg_ids = itertools.count(-1, -1)  # no client protocol ever uses a negative id


@dataclass
class Exchange:
    """What the stream and the addon tell each other about one request of the client."""

    client_host: str | None = None
    """The Host (or :authority) that the client wrote, before reverse mode rewrote it."""
    may_pay: bool = False
    """Set by the addon: a 402 in answer to this request is to be held back and shown to it."""
    resend: bool = False
    """Set by the addon in the challenge hook: send the request again. The stream takes it back."""
    secret_headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """Set by the addon: headers that go upstream with the next leg and are never stored in the flow."""
    about_to_send: Callable[[], http.Response | None] | None = field(default=None, repr=False)
    """Set by the addon: called just before a leg with secret headers is handed to the upstream connection. Must not
    raise. An answer forbids it: the client gets that answer, or the first leg goes without the headers."""
    secrets_sent: bool = False
    """Set by the stream: the last leg had secret headers, and was handed to the upstream connection."""
    error_answer: bytes | None = None
    """Set by the addon in the error hook: JSON body of the error that the client gets."""
    legs: int = 1
    """Requests sent upstream so far, the one in flight included."""
    received: int = 0
    """Bytes of the body of the last leg's answer, as they came."""
    timed_out: str = ""
    """Set by the stream: what the upstream took too long for, and the option that says how long it may."""

    def forget(self) -> None:
        """The answer is over: let go of secrets, and of what holds the flow, which holds this."""
        self.secret_headers, self.about_to_send = (), None


@dataclass
class X402ChallengeHook(commands.StartHook):
    """A 402 has been held back: whole in `flow.response`, with its body. See the module's words for the answers."""

    name = "x402_challenge"
    flow: http.HTTPFlow


_EXCHANGE = "x402_exchange"
"""The attribute of a flow that keeps it; a copy of the flow has none."""


def exchange_of(flow: http.HTTPFlow) -> Exchange | None:
    """The exchange of a flow that runs in an `X402Stream`; None for replayed and loaded flows, which never pay."""
    return flow.__dict__.get(_EXCHANGE)


class X402Stream(HttpStream):
    """mitmproxy's stream, which can send its request upstream more than once."""

    def __init__(self, context: Any, stream_id: int, timeouts: Timeouts) -> None:
        super().__init__(context, stream_id)
        self.exchange = Exchange()
        self.timeouts = timeouts
        self.waits_for = ""  # a field of Timeouts while the upstream is to do something, else empty
        self._since = 0.0
        self._began = 0.0
        self.leg_id = stream_id
        self._answering = False  # a final response's headers are on their way to the client
        self._chunked: bool | None = None  # whether an HTTP/1.1 client gets it in chunks; None: there is none
        self._reused: Connection | None = None  # this leg travels on a connection that has served an earlier leg
        self._held_head: http.Response | None = None
        self._held_body = bytearray()

    # What passes between the stream and its connections. handle_event and not _handle_event, because the replies to
    # blocking commands do not pass through the latter.

    def handle_event(self, event: events.Event) -> Steps:
        """Map the leg's stream id in and out, and put JSON in the place of mitmproxy's error pages."""
        if isinstance(event, _RESPONSE_EVENTS):
            if event.stream_id != self.leg_id:
                return
            event.stream_id = self.stream_id
            if isinstance(event, ResponseEndOfMessage) and self.exchange.timed_out:
                # The end of an answer that goes on until the connection is closed, and we have closed it.
                event = ResponseProtocolError(self.stream_id, self.exchange.timed_out, _CANCELLED)
            self._take_note(event)
            if isinstance(event, ResponseData) and self._answering and not self._paused:
                # A piece of a body: straight on to what HttpStream does with it, which waits for nothing.
                yield from self.server_state(event)
                return
        for command in super().handle_event(event):
            if isinstance(command, SendHttp):
                if command.connection is self.context.client:
                    if isinstance(command.event, ResponseHeaders):
                        self._answering = command.event.response.status_code >= 200
                        self._frame(command.event)
                        self._learn_framing(command.event.response)
                    elif isinstance(command.event, ResponseProtocolError) and not self._answering:
                        yield from self._answer_error(command)
                        continue
                else:
                    self._mark_leg(command.event)
            elif isinstance(command, DropStream) and self.leg_id != self.stream_id:
                yield DropStream(self.leg_id)
            elif isinstance(command, commands.Log) and command.message.startswith("Streaming response"):
                continue  # a line for each answer, and it is so for every one
            yield command

    def _frame(self, event: ResponseHeaders) -> None:
        """Have an answer without a length sent in chunks, so that its end is told from its being cut off.

        The flow keeps the head as it came.
        """
        request, response = self.flow.request, event.response
        if event.end_stream or request.http_version != "HTTP/1.1" or response.status_code < 200:
            return
        if "content-length" not in response.headers and "transfer-encoding" not in response.headers:
            event.response = response.copy()
            event.response.headers["transfer-encoding"] = "chunked"
            if response.is_http10:
                event.response.http_version = "HTTP/1.1"

    def _learn_framing(self, response: http.Response) -> None:
        if self._answering and type(self._http_layer().connections[self.context.client]) is _http1.Http1Server:
            self._chunked = "chunked" in response.headers.get("transfer-encoding", "").lower()

    def pass_on(self, event: ResponseData) -> commands.SendData | None:
        """What gives a piece of an answer to the client, where that is all there is to do; None: the long way is due.

        Comes to the same as HttpStream and Http1Server do together.
        """
        response = self.flow.response
        if (
            self._chunked is None
            or self._paused
            or event.stream_id != self.leg_id
            or self.server_state != self.state_stream_response_body
            or response is None
            or response.stream is not True
            or getattr(self.context.options, "store_streamed_bodies", False)
        ):
            return None
        self._take_note(event)
        data = event.data
        return commands.SendData(self.context.client, b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _take_note(self, event: events.Event) -> None:
        """An event of this leg's answer has come."""
        self._since = time.monotonic()
        if isinstance(event, ResponseData):
            self.exchange.received += len(event.data)
        elif isinstance(event, ResponseHeaders):
            self.waits_for = "" if event.response.status_code == 101 else "idle"
        else:
            self.waits_for = ""

    def _mark_leg(self, event: HttpEvent) -> None:
        """An event of the request is about to leave."""
        event.stream_id = self.leg_id
        if isinstance(event, RequestHeaders):
            if self.exchange.legs == 1:
                self._add_to_first_leg(event)
            if self.exchange.may_pay:
                event.request = _kept_open(event.request)
        elif isinstance(event, RequestEndOfMessage):
            self._wait("first_byte")

    def _wait(self, what: str) -> None:
        self.waits_for, self._since = what, time.monotonic()

    @property
    def deadline(self) -> float:
        """When what the stream waits for has taken too long; without an end where it waits for nothing."""
        if not self.waits_for:
            return math.inf
        waited: float = getattr(self.timeouts, self.waits_for)
        return min(self._since + waited, self._began + self.timeouts.total)

    def overdue(self) -> str:
        """What took too long, in words."""
        if self._since + getattr(self.timeouts, self.waits_for) > self._began + self.timeouts.total:
            return f"its whole answer takes longer than {self.timeouts.total:g} s (option x402_total_timeout)"
        return _OVERDUE[self.waits_for].format(getattr(self.timeouts, self.waits_for))

    def _answer_error(self, command: SendHttp) -> Steps:
        assert isinstance(command.event, ResponseProtocolError)
        status = 504 if self.exchange.timed_out else _error_status(command.event.code)
        if status is None:
            yield command
            return
        body = self.exchange.error_answer or error_body(
            "upstream_error", "proxy_error", f"mitmproxy-x402: {command.event.message}"
        )
        response = http.Response.make(status, body, _ERROR_HEADERS)
        self._answering = True
        for event in (
            ResponseHeaders(self.stream_id, response, end_stream=False),
            ResponseData(self.stream_id, body),
        ):
            yield SendHttp(event, self.context.client)
        if self.flow.request.is_http2:
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
        else:
            yield command  # closes the connection, also where the request has not been read to its end

    def _add_to_first_leg(self, event: RequestHeaders) -> None:
        if self.exchange.secret_headers and self._forbidden() is None:
            event.request = self._with_secrets()

    def _forbidden(self) -> http.Response | None:
        return None if self.exchange.about_to_send is None else self.exchange.about_to_send()

    def _with_secrets(self) -> http.Request:
        """A copy of the request with the secret headers, which the flow never sees."""
        self.exchange.secrets_sent = True
        return _with_fields(self.flow.request, [*self.flow.request.headers.fields, *self.exchange.secret_headers])

    # The way of a request.

    def check_invalid(self, request: bool) -> Generator[commands.Command, Any, bool]:
        """Register the exchange: this runs when the flow has just come to be and its host is still the client's."""
        if request:
            self.exchange.client_host = self.flow.request.host_header
            self.flow.__dict__[_EXCHANGE] = self.exchange
        return (yield from super().check_invalid(request))

    def check_body_size(self, request: bool) -> Generator[commands.Command, Any, bool]:
        """Never apply `stream_large_bodies` to a request: a streamed body cannot be sent twice."""
        if not request or not self.context.options.stream_large_bodies:
            return (yield from super().check_body_size(request))
        if not self.context.options.body_size_limit:
            return False
        context, self.context = self.context, _shallow(self.context)
        self.context.options = cast(Any, _WithoutStreaming(context.options))
        try:
            return (yield from super().check_body_size(request))
        finally:
            self.context = context

    def state_wait_for_response_headers(self, event: events.Event) -> Steps:
        """Hold a 402 back where the addon may pay it."""
        assert isinstance(event, ResponseHeaders)
        if event.response.status_code in (_REJECTIONS if self.exchange.secrets_sent else _CHALLENGE) and (
            self._can_resend()
        ):
            self._held_head = event.response
            self._held_body.clear()
            self.server_state = self.state_hold_challenge
            return
        yield from super().state_wait_for_response_headers(event)

    def _can_resend(self) -> bool:
        return (
            self.exchange.may_pay
            and self.exchange.legs < MAX_LEGS
            and self.client_state == self.state_done
            and not self.flow.request.stream
            and self.flow.request.raw_content is not None
        )

    def state_hold_challenge(self, event: events.Event) -> Steps:
        """Collect a 402, then ask the addon."""
        assert self._held_head is not None
        if isinstance(event, ResponseData):
            self._held_body += event.data
            if len(self._held_body) > MAX_CHALLENGE:
                yield from self._release_challenge(complete=False)
        elif isinstance(event, ResponseTrailers):
            self._held_head.trailers = event.trailers
        elif isinstance(event, ResponseEndOfMessage):
            yield from self._ask()

    def _ask(self) -> Steps:
        challenge = self._held_head
        assert challenge is not None
        challenge.data.content = bytes(self._held_body)
        self.flow.response = challenge
        yield X402ChallengeHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        if self.exchange.resend:
            self.exchange.resend = False
            self.flow.response = None
            yield from self._send_leg()
        elif self.flow.response is not challenge and self.flow.response is not None:
            self.flow.response.timestamp_start = self.flow.response.timestamp_start or challenge.timestamp_start
            yield from self._send_own_answer()
        else:
            yield from self._release_challenge(complete=True)

    def _send_own_answer(self) -> Steps:
        yield HttpResponseHeadersHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        yield from self.send_response()

    def _release_challenge(self, *, complete: bool) -> Steps:
        """Go on where HttpStream would be, had the 402 not been held back."""
        assert self._held_head is not None
        head, body = self._held_head, bytes(self._held_body)
        head.data.content = None
        self._held_body.clear()
        self.server_state = self.state_wait_for_response_headers
        end_stream = complete and not body
        yield from super().state_wait_for_response_headers(ResponseHeaders(self.stream_id, head, end_stream))
        if self.server_state == self.state_errored:
            return
        if body:
            yield from self.server_state(ResponseData(self.stream_id, body))
        if complete:
            yield from self.server_state(ResponseEndOfMessage(self.stream_id))

    def _send_leg(self) -> Steps:
        """Send the request upstream again, on the same connection where that is still open."""
        self._reused = None
        streams = self._http_layer().streams
        if self.leg_id != self.stream_id:
            streams.pop(self.leg_id, None)  # the client's own id stays: what comes from the client has that one
        self.leg_id = next(_leg_ids)  # first of all: from here on the old leg's events are dropped
        kept = [event for event in self._paused_event_queue if not isinstance(event, _RESPONSE_EVENTS)]
        self._paused_event_queue.clear()
        self._paused_event_queue.extend(kept)
        streams[self.leg_id] = self
        self.server_state = self.state_wait_for_response_headers
        before = self.context.server
        if not (yield from self.make_server_connection()):
            return
        if (yield from self.check_killed(True)):  # the client may have left while we connected
            return
        request = self.flow.request
        self.exchange.secrets_sent = False
        if self.exchange.secret_headers:
            answer = self._forbidden()
            if answer is not None:
                self.flow.response = answer
                yield from self._send_own_answer()
                return
            request = self._with_secrets()
        self._reused = self.context.server if self.context.server is before else None
        self.exchange.legs += 1
        self.exchange.received = 0
        content = request.raw_content
        parts: list[HttpEvent] = [RequestHeaders(self.stream_id, request, end_stream=not (content or request.trailers))]
        if content:
            parts.append(RequestData(self.stream_id, content))
        if request.trailers:
            parts.append(RequestTrailers(self.stream_id, request.trailers))
        parts.append(RequestEndOfMessage(self.stream_id))
        for event in parts:
            yield SendHttp(event, self.context.server)

    def make_server_connection(self) -> Generator[commands.Command, Any, bool]:
        """Connect, and mend the HTTP/1.1 connection that mitmproxy made."""
        self._began = self._began or time.monotonic()
        self._wait("connect")
        connected = yield from super().make_server_connection()
        self.waits_for = ""
        if not connected:
            return False
        _mend(self._http_layer(), self.context.server)
        return True

    def handle_protocol_error(self, event: Any) -> Steps:
        """Send a leg again that met a connection which the upstream was just closing.

        Only a leg with secret headers, only once, only where nothing of an answer came: the very same payment can
        settle once at most, so this cannot pay twice.
        """
        self.waits_for = ""
        if self.exchange.timed_out:
            event.message = self.exchange.timed_out
        elif (
            isinstance(event, ResponseProtocolError)
            and self._reused is not None
            and self.server_state == self.state_wait_for_response_headers
            and self.client_state == self.state_done
            and self.exchange.secrets_sent
            and self.exchange.secret_headers  # not forgotten, as at the end
            and self.exchange.legs < MAX_LEGS
        ):
            logger.info("The upstream closed its connection as the request went out: sending the same one again.")
            yield from self._send_leg()
            return
        yield from super().handle_protocol_error(event)

    def send_response(self, already_streamed: bool = False) -> Steps:
        """Finish the response; trailers that an HTTP/1.1 client cannot be given are left out, not fatal."""
        assert self.flow.response is not None
        if self.flow.response.trailers and not self.flow.request.is_http2:
            logger.info("Left the trailers of a response out: the client speaks HTTP/1.1.")
            self.flow.response.trailers = None
        yield from super().send_response(already_streamed)

    def _http_layer(self) -> HttpLayer:
        return next(x for x in reversed(self.context.layers) if isinstance(x, HttpLayer))


def _with_fields(request: http.Request, fields: list[tuple[bytes, bytes]]) -> http.Request:
    """A copy of `request` with other headers; the body is the same."""
    request = _shallow(request)
    request.data = _shallow(request.data)
    request.data.headers = http.Headers(fields)
    return request


_Thing = TypeVar("_Thing")


def _shallow(thing: _Thing) -> _Thing:
    """`copy.copy` of a plain object, which takes detours for the sake of others."""
    copied = object.__new__(type(thing))
    vars(copied).update(vars(thing))
    return copied


def _kept_open(request: http.Request) -> http.Request:
    """`request` without the client's wish that its own connection be closed, which is not for the upstream (RFC 9110,
    section 7.6.1): the upstream would close after its 402, and the payment had to wait for another connection.
    """
    if request.http_version != "HTTP/1.1" or request.headers.get("connection", "").strip().lower() != "close":
        return request
    return _with_fields(request, [field for field in request.headers.fields if field[0].lower() != b"connection"])


_ERROR_HEADERS = ((b"content-type", b"application/json"), (b"connection", b"close"))


class _WithoutStreaming:
    """mitmproxy's options, seen as if `stream_large_bodies` were not set."""

    stream_large_bodies = None

    def __init__(self, options: Any) -> None:
        self._options = options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._options, name)


def _error_status(code: Any) -> int | None:
    """The HTTP status for a protocol error: an enum from mitmproxy 12 on, an int before (444 and 499: no answer)."""
    if isinstance(code, int):
        return code if code not in (444, 499) else None
    status = code.http_status_code()
    return status if status is None else int(status)


def _join(held: commands.SendData, command: commands.Command) -> bool:
    """Whether `command` could be made part of `held`: bytes for the same connection, and not too many."""
    if (
        not isinstance(command, commands.SendData)
        or command.connection is not held.connection
        or len(held.data) + len(command.data) > MAX_JOINED
    ):
        return False
    held.data += command.data
    return True


class _Http1Client(_http1.Http1Client):
    """mitmproxy's HTTP/1.1 client, which survives interim responses and trailers."""

    streams: dict[int, HttpStream]
    """Of the layer above, which go by the id of their leg."""
    _head: commands.SendData | None = None

    def send(self, event: HttpEvent) -> Steps:
        """Send a head together with the body, which follows at once: one TLS record instead of two."""
        holds = isinstance(event, RequestHeaders) and not event.end_stream and not event.request.stream
        for command in super().send(event):
            head, self._head = self._head, None
            joined = head is not None and _join(head, command)
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


def _mend(http_layer: HttpLayer, connection: Connection) -> None:
    """Give the HTTP/1.1 client of `connection` the class above."""
    client = http_layer.connections[connection].context.layers[-1]
    if type(client) is _http1.Http1Client:
        client.__class__ = _Http1Client
        cast(_Http1Client, client).streams = http_layer.streams
        if getattr(client.state, "__func__", None) is _http1.Http1Client.read_headers:
            client.state = client.read_headers


class _HttpLayer(HttpLayer):
    """mitmproxy's HTTP layer with our streams, and one alarm for all of those that wait for their upstream."""

    timeouts: Timeouts
    addons: _IndexedAddons | None
    """Who is asked at once, where the process is ours."""
    _alarm: commands.RequestWakeup | None

    def make_stream(self, stream_id: int) -> Steps:
        """As mitmproxy does, with a stream of ours."""
        self._forget_closed()
        self.streams[stream_id] = X402Stream(self.context.fork(), stream_id, self.timeouts)
        yield from self.event_to_child(self.streams[stream_id], events.Start())

    def _handle_event(self, event: events.Event) -> Steps:
        if isinstance(event, events.Wakeup) and event.command is self._alarm:
            self._alarm = None
            yield from self._cut_overdue()
        elif isinstance(event, events.ConnectionClosed) and self._is_forgotten(event.connection):
            return
        else:
            yield from self._go_on(event)
        if self._alarm is None and self.streams:
            now = time.monotonic()
            nearest = min(each.deadline for each in self._own_streams())
            # Waits that begin meanwhile end later than the shortest one from now.
            self._alarm = commands.RequestWakeup(min(max(nearest - now, 0.0), self.timeouts.shortest))
            yield self._alarm

    def _go_on(self, event: events.Event) -> Steps:
        """As mitmproxy does, in fewer steps.

        What goes to one connection in a row leaves in one piece, as a head with the body behind it: one system call
        instead of two, and the other side wakes up once. Nothing waits for what comes later; and as much as has come in
        is passed on at once, since hardly anything can follow.

        Behind a hook for which nothing has to be waited it goes on by itself, in mitmproxy's own order: the hook is
        called at once, and what it was called for goes on when everything else is done that the event has brought.
        """
        todo = deque((event,))
        held: commands.SendData | None = None
        whole = len(event.data) if isinstance(event, events.DataReceived) else MAX_JOINED
        while todo:
            for command in super()._handle_event(todo.popleft()):
                if held is not None and not _join(held, command):
                    yield held
                    held = None
                if held is None and isinstance(command, commands.SendData):
                    held = command
                if held is not None:
                    if len(held.data) >= whole:
                        yield held
                        held = None
                    continue
                hook = command if isinstance(command, commands.StartHook) else None
                if hook is not None and self.addons is not None and self.addons.done_at_once(hook):
                    todo.append(events.HookCompleted(hook))
                    continue
                if isinstance(command, commands.Log):
                    command.message = _QUOTED.sub("(left out, for it may hold a secret)", command.message)
                yield command
        if held is not None:
            yield held

    def _forget_closed(self) -> None:
        """Let go of upstream connections that are no more; mitmproxy keeps them for as long as the client's lasts.

        One that could not be made would also answer for the next, and keep the client from the upstream for as long.
        """
        needed = {self.context.client, self.context.server, *self.waiting_for_establishment}
        needed |= {each.context.server for each in self.streams.values()}
        for connection in set(self.connections) - needed:
            if connection.state is ConnectionState.CLOSED:
                del self.connections[connection]

    def _is_forgotten(self, connection: Connection) -> bool:
        return connection is not self.context.server and connection not in self.connections

    def _own_streams(self) -> list[X402Stream]:
        return [each for each in self.streams.values() if isinstance(each, X402Stream)]

    def _cut_overdue(self) -> Steps:
        """Close the upstream connection of each stream that has waited too long; it takes that as a lost upstream."""
        now = time.monotonic()
        for stream in self._own_streams():
            if stream.deadline > now or stream.exchange.timed_out:
                continue
            connection = self._upstream_of(stream)
            if connection is None:
                continue
            stream.exchange.timed_out = reason = stream.overdue()
            if isinstance(self.connections[connection].context.layers[-1], _http2.Http2Client):  # others share it
                gone = RequestProtocolError(stream.leg_id, reason, _CANCELLED)
                yield from self.event_to_child(self.connections[connection], gone)
                yield from self.event_to_child(stream, ResponseProtocolError(stream.leg_id, reason, _CANCELLED))
            else:
                yield commands.CloseConnection(connection)

    def _upstream_of(self, stream: X402Stream) -> Connection | None:
        """The connection that `stream` waits for, or uses."""
        if stream.waits_for != "connect":
            return stream.context.server if stream.context.server in self.connections else None
        for connection, waiting in self.waiting_for_establishment.items():
            if any(self.command_sources.get(command) is stream for command in waiting):
                return connection
        return None


_QUOTED = re.compile(r"""\bb(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")""")
"""Bytes in a line of the log: mitmproxy quotes what it cannot read, as a head that breaks off within a token."""
_OVERDUE = {
    "connect": "no connection within {:g} s (option x402_connect_timeout)",
    "first_byte": "no answer within {:g} s (option x402_first_byte_timeout)",
    "idle": "no more of its answer for {:g} s (option x402_idle_timeout)",
}
_CANCELLED: Any = _events.ErrorCode.CANCEL if hasattr(_events, "ErrorCode") else 504


def install(
    next_layer: layer.NextLayer,
    decide: Callable[[layer.NextLayer], None],
    timeouts: Timeouts,
    addons: AddonManager | None = None,
) -> None:
    """Make the HTTP layers of a reverse-proxied connection build our streams; `decide` is mitmproxy's own next_layer.

    Client replay never passes here, so a replayed flow never pays.
    """
    decide(next_layer)
    if not isinstance(next_layer.context.client.proxy_mode, ReverseMode):
        return
    for each in next_layer.context.layers:
        if type(each) is HttpLayer:
            each.__class__ = _HttpLayer
            ours = cast(_HttpLayer, each)
            ours.timeouts, ours._alarm = timeouts, None
            ours.addons = addons if isinstance(addons, _IndexedAddons) else None


_Calls = Generator["Awaitable[Any]", None, None]


class _IndexedAddons(AddonManager):
    """Knows which addons have a hook, where mitmproxy asks each of some forty whenever one fires.

    The order, and what an error or an AddonHalt ends, stay mitmproxy's own. Whatever loads, removes or reorders addons
    goes through the methods that forget the index.
    """

    _index: dict[str, list[list[Callable[..., Any]]]]

    async def trigger_event(self, event: hooks.Hook) -> None:
        """Call the hook of every addon that has it, or of those that `done_at_once` has left."""
        calls, waits = vars(event).pop(_BEGUN, None) or self._begin(event)
        while waits is not None:
            try:
                await waits
            except Exception as error:  # noqa: PERF203
                waits = _throw(calls, error)
            else:
                waits = next(calls, None)

    def done_at_once(self, event: commands.StartHook) -> bool:
        """Call the hook of every addon that has it. False: one has to be waited for, `trigger_event` does the rest."""
        if event.name not in _PASSING:
            return False
        flow: http.HTTPFlow = cast(Any, event).flow
        calls, waits = self._begin(event)
        if waits is None and not flow.intercepted and not self._asked(_UPDATE):
            return True
        vars(event)[_BEGUN] = calls, waits
        return False

    def _begin(self, event: hooks.Hook) -> tuple[_Calls, Awaitable[Any] | None]:
        calls = self._calls(event)
        return calls, next(calls, None)

    def _calls(self, event: hooks.Hook) -> _Calls:
        """Calls the hooks, and gives what is to be waited for in between."""
        asked = self._asked(event)
        if not asked:
            return
        arguments = (cast(Any, event).flow,) if event.name in _PASSING else event.args()
        for family in asked:
            try:
                for hook in family:
                    result = hook(*arguments)
                    if result is not None and inspect.isawaitable(result):
                        yield result
            except exceptions.AddonHalt:  # noqa: PERF203  # costs nothing until it happens
                return
            except Exception:  # of an addon and its children, it skips the rest
                with safecall():
                    raise

    def _asked(self, event: hooks.Hook) -> list[list[Callable[..., Any]]]:
        """The hooks to call, those of an addon and its children together."""
        asked = self._index.get(event.name)
        if asked is None:
            passing = event.name in _PASSING
            chain = [addon for addon in self.chain if not (passing and self._is_idle(addon))]
            every = [[hook for _, hook in self._iter_hooks(addon, event)] for addon in chain]
            asked = self._index[event.name] = [family for family in every if family]
        return asked

    def _is_idle(self, addon: Any) -> bool:
        """Whether `addon` is one of mitmproxy's own that has nothing to replace, or nobody to welcome."""
        if not type(addon).__module__.startswith("mitmproxy.addons."):
            return False
        if type(addon).__name__ == "Onboarding":
            return not self.master.options.onboarding
        return getattr(addon, "replacements", None) == []

    def trigger(self, event: hooks.Hook) -> None:
        """As mitmproxy does; it fires one for each line of the log, too. An option may have reordered the scripts."""
        if self._asked(event):
            super().trigger(event)
        if isinstance(event, hooks.ConfigureHook):
            self._index.clear()

    def register(self, addon: Any) -> Any:
        """As mitmproxy does."""
        self._index.clear()
        try:
            return super().register(addon)  # type: ignore[no-untyped-call]
        finally:
            self._index.clear()

    def remove(self, addon: Any) -> None:
        """As mitmproxy does."""
        super().remove(addon)  # type: ignore[no-untyped-call]
        self._index.clear()

    def clear(self) -> None:
        """As mitmproxy does."""
        super().clear()  # type: ignore[no-untyped-call]
        self._index.clear()


_PASSING = frozenset(("requestheaders", "request", X402ChallengeHook.name, "responseheaders", "response"))
"""Hooks with a flow and nothing else, that each request passes."""
_UPDATE = hooks.UpdateHook([])
_BEGUN = "x402_begun"


def _throw(calls: _Calls, error: Exception) -> Awaitable[Any] | None:
    try:
        return calls.throw(error)
    except StopIteration:
        return None


class _QuickOptions(Options):
    """mitmproxy's options, which copies what a reader could change, and not texts and numbers as well."""

    def __getattr__(self, attr: str) -> Any:
        option = self.__dict__["_options"].get(attr)
        if option is not None:
            value = option._default if option.value is optmanager.unset else option.value
            if type(value) in _UNCHANGING:
                return value
        return super().__getattr__(attr)  # type: ignore[no-untyped-call]


_UNCHANGING = (str, bool, int, float, type(None))


def _make_headers(self: http.Headers, fields: Iterable[tuple[bytes, bytes]] = (), **headers: str) -> None:
    """`Headers.__init__`, which takes names and values that are bytes without an update by nothing behind it."""
    self.fields = tuple(map(tuple, fields))  # type: ignore[arg-type]
    if headers or not all(type(name) is bytes is type(value) for name, value in self.fields):
        _MAKE_HEADERS(self, self.fields, **headers)


def _fork(self: Context) -> Context:
    """`Context.fork`, without a connection that is thrown away at once."""
    forked = _shallow(self)
    forked.layers = self.layers.copy()
    return forked


def _new(cls: type, *_args: Any, **_kwargs: Any) -> Any:
    """`__new__` without a look at whether the class is what its author meant it to be."""
    return object.__new__(cls)


def _write_late(dumper: Any, log: logging.Handler, later: Later) -> None:
    """Have mitmdump's two lines for a flow written soon, for several together, and no other line before them.

    `dumper` is the addon that writes them, `log` what writes the log to the same place.
    """
    match, here = dumper.match, threading.get_ident()

    def write(flows: Sequence[http.HTTPFlow]) -> None:
        for flow in flows:
            with safecall():
                dumper.echo_flow(flow)

    late: Batch[http.HTTPFlow] = Batch(write, later, DELAY / 2)  # before what was paid, which is said after DELAY

    def response(flow: http.HTTPFlow) -> None:
        if match(flow):
            late.add(flow)
            if ctx.options.flow_detail > 1:  # takes longer than two lines: not several in a row
                late.flush()

    def match_in_order(flow: Any) -> bool:
        late.flush()
        return bool(match(flow))

    def log_in_order(line: logging.LogRecord) -> bool:
        if threading.get_ident() == here and not hasattr(line, LATE):
            late.flush()
        return True

    dumper.late, dumper.response, dumper.match, dumper.done = late, response, match_in_order, late.close
    log.addFilter(log_in_order)


_MAKE_HEADERS = http.Headers.__init__
CHEAPER: tuple[tuple[type, str, Any], ...] = (
    (http.Headers, "__init__", _make_headers),
    (http.Headers, "__contains__", heads.has),
    (http.Headers, "get", heads.get),
    (http.Headers, "get_all", heads.get_all),
    # Looks at the types of each head's fields, which come from mitmproxy itself.
    (http.MessageData, "__post_init__", lambda _: None),
    (Context, "fork", _fork),
    (commands.StartHook, "__new__", staticmethod(_new)),
    (events.CommandCompleted, "__new__", staticmethod(_new)),
)
"""What `economise` puts in the place of mitmproxy's own: owner, name, and what does the same in less time."""


def economise(master: Master) -> None:
    """Leave out of each request what mitmproxy does over and over, and nobody needs.

    For processes that we start; other people's are left alone.
    """
    addons = master.addons
    if type(addons) is not AddonManager:
        return
    addons.__class__ = _IndexedAddons
    indexed = cast(_IndexedAddons, addons)
    indexed._index = {}
    if type(master.options) is Options:
        object.__setattr__(master.options, "__class__", _QuickOptions)  # its own takes every name for an option
    for owner, name, cheaper in CHEAPER:
        setattr(owner, name, cheaper)
    dumper, termlog = addons.get("dumper"), addons.get("termlog")
    if dumper is not None and termlog is not None:
        _write_late(dumper, termlog.logger, master.event_loop.call_later)
    # A turn of the event loop for each line of the log, to tell addons that have the hook for it.
    told, here = AddLogHook(LogEntry("", "info")), threading.get_ident()
    master._legacy_log_events.addFilter(lambda _: threading.get_ident() != here or bool(indexed._asked(told)))


def is_starting(master: Master) -> bool:
    """Whether mitmproxy is not ready yet, though its port may be open: it still looks for errors, and would end."""
    listener = getattr(master.addons.get("errorcheck"), "logger", None)
    return listener in logging.getLogger().handlers


def unsent(proxyserver: Any) -> int:
    """Bytes that mitmproxy has yet to send, to whomever; `proxyserver` is its addon of that name."""
    transports = [each for handler in proxyserver.connections.values() for each in handler.transports.values()]
    return sum(each.writer.transport.get_write_buffer_size() for each in transports if each.writer is not None)


def upstream_of(flow: http.HTTPFlow) -> tuple[str, int]:
    """Host and port that the proxy reverses to, whatever has been done to the flow's request since."""
    mode = flow.client_conn.proxy_mode
    assert isinstance(mode, ReverseMode)
    return mode.address


_NEEDED: tuple[tuple[Any, str, tuple[str, ...] | None], ...] = (
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
    (HttpStream, "state_errored", None),
    (HttpLayer, "make_stream", ("self", "stream_id")),
    (HttpLayer, "_handle_event", ("self", "event")),
    (HttpLayer, "event_to_child", ("self", "child", "event")),
    (_http1.Http1Server, "send", ("self", "event")),
    (_http1.Http1Client, "send", ("self", "event")),
    (_http1.Http1Client, "read_headers", ("self", "event")),
    (_http1.Http1Client, "read_body", ("self", "event")),
    (_http1.Http1Client, "mark_done", ("self", "request", "response")),
    (layer.Layer, "handle_event", ("self", "event")),
    (AddonManager, "_iter_hooks", ("self", "addon", "event")),
    (AddonManager, "trigger_event", ("self", "event")),
    (AddonManager, "trigger", ("self", "event")),
    (AddonManager, "register", ("self", "addon")),
    (AddonManager, "remove", ("self", "addon")),
    (AddonManager, "clear", ("self",)),
    (Options, "__getattr__", ("self", "attr")),
    (Context, "fork", ("self",)),
    (http.Headers, "__init__", ("self", "fields", "headers")),
    (http.Headers, "__contains__", ("self", "key")),
    (http.Headers, "get", ("self", "key", "default")),
    (http.Headers, "get_all", ("self", "name")),
)
"""Every internal that this room leans on, with its parameters. Each has a test of what it does, too."""


def self_check() -> None:
    """Refuse a mitmproxy that this room was not written for.

    Raises SettingsError: outside SUPPORTED, or one of the internals has moved.
    """
    found = version.VERSION
    number = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    low, high = SUPPORTED
    if not low <= number < high:
        raise SettingsError(
            f"mitmproxy {found} is not supported: mitmproxy-x402 needs at least {'.'.join(map(str, low))} "
            f"and less than {'.'.join(map(str, high))}. Install one of these, for example with ./run.sh."
        )
    ours = [cheaper for _, _, cheaper in CHEAPER]
    for owner, name, parameters in _NEEDED:
        target = getattr(owner, name, None)
        if target in ours:  # checked before it was put there; the script is loaded again
            continue
        moved = (
            target is None
            or getattr(target, "__isabstractmethod__", False)
            or (parameters is not None and tuple(inspect.signature(target).parameters)[: len(parameters)] != parameters)
        )
        if moved:
            raise SettingsError(
                f"mitmproxy {found} has changed {owner.__name__}.{name}, on which the x402 handshake stands: "
                "not starting. Install the versions of requirements.lock, for example with ./run.sh."
            )
