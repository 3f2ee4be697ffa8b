"""The HTTP stream that holds a 402 back, asks the addon, and sends the request again with a payment.

mitmproxy's hooks cannot pay and stream: a response that a hook sets goes out whole. So each reverse-proxied stream is
an `X402Stream`. It holds a 402 back, fires the `x402_challenge` hook, and does what the addon then asks for:

    resend     the same request goes upstream again, with `Exchange.secret_headers` added; the answer streams through
    an answer  the addon has put another response into `flow.response`: the client gets that one
    neither    the 402 was the answer: the client gets it as it came

The addon may also give the first leg secret headers, in the request hook; and from a leg that carried some, 400, 401
and 412 are held back like 402, since gateways reject payments with these, too.

Every request sent upstream is a leg. A leg has a stream id of its own, because HTTP/2 never opens one id twice; what
still arrives for a leg that was left behind is dropped. `Exchange.legs` counts them, MAX_LEGS bounds them.

The stream also repairs what would lose an answer: trailers for an HTTP/1.1 client, answers whose end looks the same as
being cut off, error pages in HTML.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from collections.abc import Generator, Iterable
from typing import Any

from mitmproxy import http
from mitmproxy.connection import Connection

from ..errors import error_body
from ..settings.timeouts import Timeouts
from .arrival import CANCELLED, AtOnce, Steps, nothing
from .body_observers import Tee
from .exchange import Exchange, X402LeavingHook
from .fairness.upgraded import UpgradedInTurns
from .heads import header_index
from .heads.hop_by_hop import SWITCHING_PROTOCOLS, for_upstream, with_fields
from .holding import MAX_LEGS, HoldingStream
from .internals import (
    DropStream,
    HttpEvent,
    HttpRequestHook,
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
    SendHttp,
    _http1,
    commands,
    events,
)
from .veil import unveiled, without_quotes

logger = logging.getLogger(__name__)


_RESPONSE_EVENTS = (
    ResponseData,
    ResponseHeaders,
    ResponseTrailers,
    ResponseEndOfMessage,
    ResponseProtocolError,
)


_ERRORS = (RequestProtocolError, ResponseProtocolError)
_ANSWERING_EVENTS = (ResponseData, ResponseHeaders, ResponseTrailers, ResponseEndOfMessage)
_ASKING_EVENTS = (RequestData, RequestHeaders, RequestTrailers, RequestEndOfMessage)


_SHARED = (b"h2", b"h3")
"""Protocols (ALPN) in which several streams use one connection."""
_leg_ids = itertools.count(-1, -1)  # no client protocol ever uses a negative id


class X402Stream(UpgradedInTurns, HoldingStream):
    """mitmproxy's HTTP stream, which can send its request upstream more than once."""

    waits_for = ""
    """The field of Timeouts that limits what the stream waits for; empty: it waits for nothing."""
    _since = 0.0
    _began = 0.0
    _answering = False
    """Whether a final response's headers are on their way to the client."""
    _chunked: bool | None = None
    """Whether an HTTP/1.1 client gets the answer in chunks; None: no answer yet, or HTTP/2."""
    _reused: Connection | None = None
    """The connection of this leg, if it has served an earlier leg."""
    x402_failed = False
    """Whether a step of this stream's has raised an exception."""

    def __init__(self, context: Any, stream_id: int, timeouts: Timeouts, at_once: AtOnce | None = None) -> None:
        super().__init__(context, stream_id)
        self.at_once = at_once
        self.exchange = Exchange()
        self.timeouts = timeouts
        self.leg_id = stream_id
        self._held_body = bytearray()

    # What passes between the stream and its connections.

    def received(self, event: events.Event) -> events.Event | None:
        """Translate from the leg's stream id to the client's. None: the event is of a leg that was left behind."""
        if isinstance(event, _RESPONSE_EVENTS):
            if event.stream_id != self.leg_id:
                return None
            event.stream_id = self.stream_id
            if isinstance(event, ResponseEndOfMessage) and self.exchange.timed_out:
                # We have closed the connection, which must not count as the end of an answer without a length.
                event = ResponseProtocolError(self.stream_id, self.exchange.timed_out, CANCELLED)
            self._take_note(event)
        if isinstance(event, _ERRORS):  # before anything reads it: mitmproxy's `check_killed` does while it is queued
            event.message = without_quotes(event.message)
        return event

    def handle_event(self, event: events.Event) -> Steps:
        """Handle an event as `FlatHttpLayer.flattened` does, where mitmproxy logs each step (proxy_debug)."""
        seen = self.received(event)
        return nothing() if seen is None else super().handle_event(seen)

    def _handle_event(self, event: events.Event) -> Steps:
        """Give an event to the state that handles it."""
        steps: Steps
        if isinstance(event, _ANSWERING_EVENTS):
            steps = self.server_state(event)
        elif isinstance(event, _ASKING_EVENTS):
            steps = self.client_state(event)
        else:
            steps = super()._handle_event(event)
        return steps

    def translated(self, command: commands.Command) -> Iterable[commands.Command] | None:
        """The commands that take the place of one of the stream's own; None: it stays, though it may be changed.

        Gives the events of the request the leg's stream id, and replaces mitmproxy's error pages by JSON.
        """
        if isinstance(command, SendHttp):
            if command.connection is not self.context.client:
                self._mark_leg(command.event)
            elif isinstance(command.event, ResponseHeaders):
                self._begin_answer(command.event)
            elif isinstance(command.event, ResponseProtocolError) and not self._answering:
                return self._answer_error(command)
        elif isinstance(command, DropStream):
            return (DropStream(self.leg_id), command) if self.leg_id != self.stream_id else None
        elif isinstance(command, commands.StartHook):
            if self.flow.error is not None:  # an error of mitmproxy's own about a head quotes it
                self.flow.error.msg = without_quotes(self.flow.error.msg)
            if isinstance(command, HttpRequestHook):  # before any addon can change it
                self.exchange.client_body = self.flow.request.data.content or b""
        elif isinstance(command, commands.Log) and command.message.startswith(_IDLE_TALK):
            return ()
        return None

    def _begin_answer(self, event: ResponseHeaders) -> None:
        event.response = unveiled(event.response)
        self._answering = event.response.status_code >= 200 or event.response.status_code == SWITCHING_PROTOCOLS
        self._frame(event)
        self._learn_framing(event.response)

    def _frame(self, event: ResponseHeaders) -> None:
        """Send an answer without a length in chunks, so that the client can tell its end from being cut off.

        The flow keeps the original head.
        """
        request, response = self.flow.request, event.response
        if event.end_stream or request.http_version != "HTTP/1.1" or response.status_code < 200:
            return
        has = functools.partial(header_index.has, response.headers)
        if not has(b"content-length") and not has(b"transfer-encoding"):
            event.response = response.copy()
            event.response.headers["transfer-encoding"] = "chunked"
            if response.is_http10:
                event.response.http_version = "HTTP/1.1"

    def _learn_framing(self, response: http.Response) -> None:
        if self._answering and isinstance(self._http_layer.connections[self.context.client], _http1.Http1Server):
            self._chunked = "chunked" in header_index.text(response.headers, b"transfer-encoding").lower()

    def pass_on(self, event: ResponseData) -> commands.SendData | None:
        """The write that passes a piece of an answer on to the client; None: it has to go through the layers.

        Has the same effect as HttpStream and Http1Server together.
        """
        response = self.flow.response
        stream = None if response is None else response.stream
        if (
            self._chunked is None
            or self._paused
            or event.stream_id != self.leg_id
            or self.server_state != self.state_stream_response_body
            or not (stream is True or (isinstance(stream, Tee) and stream.only_observes))
            or getattr(self.context.options, "store_streamed_bodies", False)
        ):
            return None
        self._take_note(event)
        data = event.data if stream is True else stream(event.data)
        return commands.SendData(self.context.client, b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _take_note(self, event: events.Event) -> None:
        """Update the time-outs and byte counts for an event of this leg's answer."""
        self._since = time.monotonic()
        if isinstance(event, ResponseData):
            self.exchange.received += len(event.data)
            if self.exchange.watch is not None:
                self.exchange.watch(event.data)
        elif isinstance(event, ResponseHeaders):
            self.waits_for = "" if event.response.status_code == 101 else "idle"
        elif not isinstance(event, ResponseTrailers):  # the end comes after them, and may fail to
            self.waits_for = ""

    def _mark_leg(self, event: HttpEvent) -> None:
        """Give an event of the request the leg's id, and the head what it carries upstream."""
        event.stream_id = self.leg_id
        if isinstance(event, RequestHeaders):
            if self.exchange.legs == 1:
                self._add_to_first_leg(event)
            event.request = unveiled(for_upstream(event.request, kept_open=self.exchange.may_pay))
        elif isinstance(event, RequestEndOfMessage):
            self._wait("first_byte")

    def _wait(self, what: str) -> None:
        self.waits_for, self._since = what, time.monotonic()

    @property
    def deadline(self) -> float:
        """When the current wait times out (monotonic clock); infinite if the stream waits for nothing."""
        if not self.waits_for:
            return math.inf
        waited: float = getattr(self.timeouts, self.waits_for)
        return min(self._since + waited, self._began + self.timeouts.total)

    def overdue(self) -> str:
        """A description of what timed out, which names the option."""
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
        response = http.Response.make(status, body, (*_ERROR_HEADERS, *self.exchange.own_headers))
        self._answering = True
        for event in (
            ResponseHeaders(self.stream_id, response, end_stream=False),
            ResponseData(self.stream_id, body),
        ):
            if isinstance(event, ResponseData) and self.flow.request.method == "HEAD":
                continue
            yield SendHttp(event, self.context.client)
        if self._is_multiplexed():
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
        else:
            yield command  # this closes the connection, even if the request has not been read completely

    def _is_multiplexed(self) -> bool:
        """Whether other streams share the client's connection, and trailers can be sent."""
        return self.flow.request.is_http2 or self.flow.request.is_http3

    def _add_to_first_leg(self, event: RequestHeaders) -> None:
        if self.exchange.secret_headers and self._forbidden() is None:
            event.request = self._with_secrets()

    def _forbidden(self) -> http.Response | None:
        return None if self.exchange.about_to_send is None else self.exchange.about_to_send()

    def _with_secrets(self) -> http.Request:
        """A copy of the request with the secret headers, which the flow never sees."""
        self.exchange.secrets_sent = True
        return with_fields(self.flow.request, [*self.flow.request.headers.fields, *self.exchange.secret_headers])

    # Sending legs.

    def _send_leg(self) -> Steps:
        """Send the request upstream again, on the same connection if it is still open."""
        self._reused = None
        streams = self._http_layer.streams
        if self.leg_id != self.stream_id:
            streams.pop(self.leg_id, None)  # the client's own id stays: events from the client carry it
        self.leg_id = next(_leg_ids)  # before anything else: from here on events of the old leg are dropped
        kept = [event for event in self._paused_event_queue if not isinstance(event, _RESPONSE_EVENTS)]
        self._paused_event_queue.clear()
        self._paused_event_queue.extend(kept)
        streams[self.leg_id] = self
        self.server_state = self.state_wait_for_response_headers
        before = self.context.server
        if not (yield from self._make_ready()):
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

    def _make_ready(self) -> Generator[commands.Command, Any, bool]:
        """Have a connection, and the payment on the disk. Returns whether the request is to be sent."""
        while (yield from self.make_server_connection()):
            if self.exchange.waits is None or not self.exchange.waits():
                return True
            yield X402LeavingHook(self.flow)
            if (yield from self._is_over()):
                return False
            if self.context.server.connected:
                return True
            # The upstream has closed it meanwhile, which told nobody, since no request was under way.
        return False

    def make_server_connection(self) -> Generator[commands.Command, Any, bool]:
        """Take an open connection to the upstream, or connect, and give an HTTP/1.1 connection our class.

        Returns whether the request is to be sent: there is a connection, and the client still waits for the answer.
        """
        self._began = self._began or time.monotonic()
        ready = self._http_layer.ready_connection(self.flow)
        if ready is not None:
            self.context.server = self.flow.server_conn = ready
            self.waits_for = ""
            return not (yield from self._is_over())
        self._wait("connect")
        connected = yield from super().make_server_connection()
        self.waits_for = ""
        if not connected:
            return False
        self._http_layer.repair(self.context.server)
        return not (yield from self._is_over())

    def _is_over(self) -> Generator[commands.Command, Any, bool]:
        """Whether nothing more is to be sent upstream: the client has cancelled or left, or an addon has ended it."""
        return (yield from self.check_killed(True)) or self.is_cancelled()

    def handle_protocol_error(self, event: Any) -> Steps:
        """Resend a leg that was sent while the upstream was closing the connection.

        Only a leg with secret headers, only once for a request, and only if nothing of an answer has arrived. The same
        payment can settle only once, so this cannot pay twice.
        """
        self.waits_for = ""
        event.message = self.exchange.timed_out or without_quotes(event.message)
        self.exchange.client_left = isinstance(event, RequestProtocolError)
        if isinstance(event, ResponseProtocolError) and _error_status(event.code) is None:
            event.code = ResponseProtocolError.code  # it has cancelled: the client gets an error
        if (
            isinstance(event, ResponseProtocolError)
            and not self.exchange.timed_out
            and self._reused is not None
            and not self._sent_again
            and not self.x402_failed
            and self.server_state == self.state_wait_for_response_headers
            and self.client_state == self.state_done
            and self.exchange.secrets_sent
            and self.exchange.secret_headers  # dropped when the answer is over
            and self.exchange.legs < MAX_LEGS
            and not self._http_layer.has_begun(self)
        ):
            self._sent_again = True
            logger.info("The upstream closed its connection as the request went out: sending the same one again.")
            yield from self._send_leg()
            return
        yield from super().handle_protocol_error(event)

    def send_response(self, already_streamed: bool = False) -> Steps:
        """Finish the response; trailers for an HTTP/1.1 client are left out, where mitmproxy would fail."""
        assert self.flow.response is not None
        if self.flow.request.method == "HEAD" and not already_streamed:
            self.flow.response.data.content = b""  # the head keeps the length of the body (RFC 9110, section 9.3.2)
        if self.flow.response.trailers and not self._is_multiplexed():
            logger.info("Left the trailers of a response out: the client speaks HTTP/1.1.")
            self.flow.response.trailers = None
        yield from super().send_response(already_streamed)


_ERROR_HEADERS = ((b"content-type", b"application/json"), (b"connection", b"close"))


_IDLE_TALK = ("Streaming response", "Received WebSocket p")
"""How lines begin that mitmproxy logs for each streamed answer, as all are here, and for each ping and pong."""


def _error_status(code: Any) -> int | None:
    """The HTTP status for a protocol error, which is an enum since mitmproxy 12 and was an int before.

    None: no answer can be sent (444 and 499).
    """
    if isinstance(code, int):
        return code if code not in (444, 499) else None
    status = code.http_status_code()
    return status if status is None else int(status)


_OVERDUE = {
    "connect": "no connection within {:g} s (option x402_connect_timeout)",
    "first_byte": "no answer within {:g} s (option x402_first_byte_timeout)",
    "idle": "no more of its answer for {:g} s (option x402_idle_timeout)",
}
