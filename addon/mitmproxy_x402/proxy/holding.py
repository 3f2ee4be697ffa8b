"""`HoldingStream`, the part of `stream.X402Stream` that holds a 402 back until the addon has decided about it.

mitmproxy answers 502 when an upstream's head is ambiguous (RFC 9112, section 6.3), as a guard against request
smuggling. A challenge with such a head is not paid, because the paid answer would be lost. An answer that was paid for
has its ambiguous headers removed instead, so that the client gets what it bought.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Generator
from typing import Any

from mitmproxy import http

from ..protocol.payment_required import challenge_header
from .arrival import ArrivingStream, Steps
from .exchange import X402ChallengeHook, X402PageEndHook
from .fairness.http2 import Http2Server
from .fairness.reader import has_left
from .heads.hop_by_hop import why_no_answer
from .heads.plain_fields import make_plain, may_hold_breaks
from .internals import (
    HttpLayer,
    HttpResponseHeadersHook,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
    commands,
    events,
    validate_headers,
)
from .veil import unveiled

MAX_CHALLENGE = 1 << 20
"""Most bytes of a 402 that are held back; a longer one is passed on, unless its terms are in a header."""
MAX_LEGS = 6
"""Most requests that are sent upstream for one request of the client."""
_CHALLENGE = (402,)
_REJECTIONS = (400, 401, 402, 412)
_QUOTED = re.compile(r"""b(?:'[^']*'|"[^"]*")""")
"""Matches an upstream's bytes that mitmproxy quotes in an error message."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-zA-Z]+")
_FRAMING = (b"content-length", b"transfer-encoding")

logger = logging.getLogger(__name__)


class HoldingStream(ArrivingStream):
    """mitmproxy's HTTP stream, which holds a 402 back if the addon may pay it."""

    _held_head: http.Response | None = None
    _held_body: bytearray
    _sent_again = False
    """Whether a leg was sent again without an answer, or none may be."""

    def _send_leg(self) -> Steps:
        raise NotImplementedError

    def is_cancelled(self) -> bool:
        """Whether the client has cancelled the request, or left, also if the stream has yet to handle that."""
        for event in self._paused_event_queue:
            if isinstance(event, RequestProtocolError):
                return True
        facing = self._http_layer.connections.get(self.context.client)
        if isinstance(facing, Http2Server) and facing.is_cancelled(self.stream_id):
            return True
        return has_left(self.context.client)

    @functools.cached_property
    def _http_layer(self) -> Any:
        """The `X402Layer` that this stream belongs to."""
        return next(x for x in reversed(self.context.layers) if isinstance(x, HttpLayer))

    def state_wait_for_response_headers(self, event: events.Event) -> Steps:
        """Hold a 402 back if the addon may pay it, and break off what can be no answer."""
        assert isinstance(event, ResponseHeaders)
        if why := why_no_answer(self.flow.request, event.response):
            self._sent_again = True
            yield commands.CloseConnection(self.context.server)
            yield from self.handle_protocol_error(
                ResponseProtocolError(self.stream_id, why, ResponseProtocolError.code)
            )
            return
        if may_hold_breaks(self.flow.request, event.response):
            make_plain(event.response)
        if event.response.status_code in (_REJECTIONS if self.exchange.secrets_sent else _CHALLENGE) and (
            self._can_resend() and self._is_deliverable(event.response)
        ):
            self._held_head = event.response
            self._held_body.clear()
            self.server_state = self.state_hold_challenge
            return
        yield from super().state_wait_for_response_headers(event)

    def _is_deliverable(self, challenge: http.Response) -> bool:
        """Whether a paid answer with the same head could be delivered; if not, paying buys nothing."""
        checked = self.context.options.validate_inbound_headers and not self.exchange.secrets_sent
        return not (checked and why_undeliverable(challenge))

    def check_invalid(self, request: bool) -> Generator[commands.Command, Any, bool]:
        """Reject what mitmproxy rejects, except the head of a paid answer, which is repaired."""
        if not request and self.flow.response is not None:
            why = why_undeliverable(unveiled(self.flow.response))  # what shows in place of a value says nothing of it
            if not why:
                return False
            if self.exchange.secrets_sent and self.context.options.validate_inbound_headers:
                logger.warning("x402: the head of a paid answer was mended: %s", _QUOTED.sub("...", why))
                mend(self.flow.response)
        return (yield from super().check_invalid(request))

    def send_response(self, already_streamed: bool = False) -> Steps:
        """Finish the response as mitmproxy does, with plain trailers."""
        if self.flow.response is not None and self.flow.response.trailers:
            make_plain(self.flow.response)
        yield from super().send_response(already_streamed)

    def _can_resend(self) -> bool:
        return (
            self.exchange.may_pay
            and self.exchange.legs < MAX_LEGS
            and self.client_state == self.state_done
            and not self.flow.request.stream
            and self.flow.request.raw_content is not None
        )

    def state_hold_challenge(self, event: events.Event) -> Steps:
        """Collect the 402's body, then ask the addon."""
        assert self._held_head is not None
        if isinstance(event, ResponseData):
            self._held_body += event.data
            if len(self._held_body) > MAX_CHALLENGE:
                if challenge_header(self._held_head.headers.get) is None:
                    yield from self._release_challenge(complete=False)
                else:  # the terms are in the header, so the rest of the page is not needed
                    yield from self._ask(complete=False)
        elif isinstance(event, ResponseTrailers):
            self._held_head.trailers = event.trailers
        elif isinstance(event, ResponseEndOfMessage):
            yield from self._ask(complete=True)

    def _ask(self, *, complete: bool) -> Steps:
        challenge = self._held_head
        assert challenge is not None
        challenge.data.content = bytes(self._held_body)
        self.flow.response = challenge
        self.exchange.is_cancelled = self.is_cancelled
        try:
            yield X402ChallengeHook(self.flow)
        finally:
            del self.exchange.is_cancelled
        if (yield from self.check_killed(True)) or self.is_cancelled():
            return
        if not self.exchange.resend and (self.flow.response is challenge or self.flow.response is None):
            yield from self._release_challenge(complete=complete)
        elif complete:
            yield from self._act()
        else:
            self._held_body.clear()
            self.server_state = self.state_skip_rest

    def state_skip_rest(self, event: events.Event) -> Steps:
        """Drop the rest of a challenge whose answer is decided; its connection is free after that."""
        if isinstance(event, ResponseEndOfMessage):
            yield X402PageEndHook(self.flow)
            if (yield from self.check_killed(True)):
                return
            yield from self._act()

    def _act(self) -> Steps:
        challenge = self._held_head
        assert challenge is not None
        if self.exchange.resend:
            self.exchange.resend = False
            self.flow.response = None
            yield from self._send_leg()
        else:
            assert self.flow.response is not None
            self.flow.response.timestamp_start = self.flow.response.timestamp_start or challenge.timestamp_start
            yield from self._send_own_answer()

    def _send_own_answer(self) -> Steps:
        yield HttpResponseHeadersHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        yield from self.send_response()

    def _release_challenge(self, *, complete: bool) -> Steps:
        """Pass the 402 on, as HttpStream would have done without us."""
        assert self._held_head is not None
        head, body = unveiled(self._held_head), bytes(self._held_body)  # the real head is the one that is examined
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


def why_undeliverable(response: http.Response) -> str:
    """Why mitmproxy would not pass `response` on; empty: it would."""
    try:
        validate_headers(response)
    except ValueError as error:
        return str(error)
    return ""


def mend(response: http.Response) -> None:
    """Remove the headers that make `response` undeliverable. The body has been framed without them already.

    The body was framed by Transfer-Encoding where there is one, else by Content-Length. White space between a name and
    its colon is removed. Framing headers written with such white space were not used for framing, and names with
    invalid bytes have no meaning, so both are left out.
    """
    chunked = "transfer-encoding" in response.headers
    bodiless = response.status_code == 204
    fields = []
    for name, value in response.headers.fields:
        bare = name.strip()
        low = bare.lower()
        if not _NAME.fullmatch(bare) or (bare != name and low in _FRAMING):
            continue
        if (chunked and low == b"content-length") or (bodiless and low == b"transfer-encoding"):
            continue
        fields.append((bare, value))
    response.headers.fields = tuple(fields)
    if chunked and not bodiless and response.is_http10:
        response.http_version = "HTTP/1.1"


def make_readable(data: bytes) -> tuple[bytes, int | None] | None:
    """Rewrite an HTTP/1 answer that mitmproxy cannot read, because its framing is contradictory or a line is malformed.

    Returns the answer with at most one framing header, and the most bytes that its body has where several lengths are
    given: it then ends there, or where the connection does. None: nothing can be made of it. A coding that ends in
    `chunked` is taken for chunks; with any other coding the body ends with the connection (RFC 9112, section 6.3).
    """
    end = HEAD_END.search(data)
    if end is None:
        return None
    status, *lines = re.split(rb"\r?\n", data[: end.start()])
    kept, lengths, codings = [status], [], []
    for line in lines:
        name, colon, value = line.partition(b":")
        low = name.strip().lower()
        if not colon or not low or (line[:1] in b" \t" and len(kept) == 1):
            continue
        if low == b"content-length":
            lengths += [int(part) for part in _LENGTH.findall(value)]
        elif low == b"transfer-encoding":
            codings.append(value.strip().lower())
        else:
            kept.append(line)
    most = None
    if codings:
        kept += [b"Transfer-Encoding: chunked"] if codings[-1].endswith(b"chunked") else []
    elif len(set(lengths)) == 1:
        kept.append(b"Content-Length: %d" % lengths[0])
    elif lengths:
        most = max(lengths)
    return b"\r\n".join(kept) + b"\r\n\r\n" + data[end.end() :], most


HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
