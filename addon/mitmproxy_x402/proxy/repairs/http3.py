"""Repairs HTTP/3 connections to upstreams: interim responses, streams that end too early, and STOP_SENDING.

mitmproxy and aioquic take a second HEADERS frame for trailers whatever came before it, lose the end of a stream that
comes inside a frame or behind one of an unknown type, close the connection for one malformed answer, and give an answer
up when the upstream stops reading the request.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from ..arrival import Steps
from ..internals import (
    CloseQuicConnection,
    H3DataReceived,
    H3ErrorCode,
    H3FrameType,
    H3HeadersReceived,
    H3HeadersState,
    H3MessageError,
    HttpEvent,
    LayeredH3Connection,
    QuicConnectionClosed,
    QuicStreamReset,
    QuicStreamStopSending,
    ReceiveHttp,
    RequestHeaders,
    RequestProtocolError,
    ResponseProtocolError,
    StreamClosed,
    _http3,
    events,
)
from ..veil import without_quotes

logger = logging.getLogger(__name__)

MAX_FRAME = 256 << 10
"""Most bytes of a frame other than DATA."""
MAX_INTERIM = 100
"""Most interim responses to one request."""

_NO_ERRORS = (0, H3ErrorCode.H3_NO_ERROR)
"""The codes with which an upstream closes a connection that it has no more use for."""
_NO_ANSWER = "it ended the stream without an answer"


class H3Connection(LayeredH3Connection):
    """mitmproxy's HTTP/3 state of a connection to an upstream, which ends each answer that the upstream ends."""

    interim: dict[int, int]
    """Interim responses by stream."""
    bodiless: set[int]
    """The streams of HEAD requests, whose answers have no body whatever their length says."""
    over: set[int]
    """The streams whose answers have ended, or were given up."""
    why: dict[int, str]
    """Why a stream was given up."""
    begun: set[int]
    """The streams on which anything has come."""

    def begin(self) -> None:
        """Set what this class adds to an instance of mitmproxy's."""
        self.interim, self.bodiless, self.over, self.why, self.begun = {}, set(), set(), {}, set()

    def handle_stream_event(self, event: Any) -> list[Any]:
        """Handle an event of a stream.

        STOP_SENDING is about the request alone (RFC 9114, section 4.1): the answer goes on, whatever the error code.
        """
        if isinstance(event, QuicStreamStopSending) and not self._is_done:
            self._get_or_create_stream(event.stream_id).headers_send_state = H3HeadersState.AFTER_TRAILERS
            return []
        if not isinstance(event, QuicStreamReset) or event.error_code != H3ErrorCode.H3_REQUEST_REJECTED:
            self.begun.add(event.stream_id)
        found: list[Any] = super().handle_stream_event(event)
        self.over.update(each.stream_id for each in found if _ends(each))
        return found

    def _receive_request_or_push_data(self, stream: Any, data: bytes, stream_ended: bool) -> list[Any]:
        """Receive data of an answer; a malformed one ends its stream alone (RFC 9114, section 4.1.2)."""
        if stream.stream_id % 4:  # a push, or a stream that the upstream has opened: it may do neither
            self.close_connection(H3ErrorCode.H3_ID_ERROR, reason_phrase="the upstream opened a stream")
            return []
        try:
            found = super()._receive_request_or_push_data(stream, data, stream_ended)
            if stream.frame_type != H3FrameType.DATA and len(stream.buffer) > MAX_FRAME and not stream.blocked:
                return [*found, *self._give_up(stream, f"a frame of its answer is longer than {MAX_FRAME} bytes")]
            return self._ended(stream, found) if stream_ended and not stream.blocked else found
        except H3MessageError as error:
            return self._give_up(stream, f"its answer is malformed: {without_quotes(error.reason_phrase)}")

    def _receive_stream_data_uni(self, stream: Any, data: bytes, stream_ended: bool) -> list[Any]:
        found: list[Any] = super()._receive_stream_data_uni(stream, data, stream_ended)
        if len(stream.buffer) > MAX_FRAME:
            why = f"a frame on a stream for control is longer than {MAX_FRAME} bytes"
            self.close_connection(H3ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase=why)
        return found

    def _ended(self, stream: Any, found: list[Any]) -> list[Any]:
        """`found`, followed by what the end of `stream` means if aioquic has not said so."""
        if stream.stream_id in self._closed_streams:
            return found
        why = ""
        if stream.headers_recv_state == H3HeadersState.INITIAL:
            why = _NO_ANSWER
        elif stream.buffer or stream.frame_size is not None:
            why = "it ended the stream inside a frame"
        if why:
            return [*(each for each in found if not _ends(each)), *self._give_up(stream, why)]
        if any(_ends(each) for each in found):
            return found
        self._check_content_length(stream)
        return [*found, H3DataReceived(data=b"", stream_id=stream.stream_id, stream_ended=True)]

    def _check_content_length(self, stream: Any) -> None:
        if stream.stream_id not in self.bodiless:
            super()._check_content_length(stream)

    def _handle_request_or_push_frame(
        self, frame_type: int, frame_data: bytes | None, stream: Any, stream_ended: bool
    ) -> list[Any]:
        """Handle a frame; interim responses are dropped (RFC 9114, section 4.1)."""
        is_first = stream.headers_recv_state == H3HeadersState.INITIAL
        found = super()._handle_request_or_push_frame(frame_type, frame_data, stream, stream_ended)
        if not is_first or not found or not isinstance(found[0], H3HeadersReceived):
            return found
        status = next(value for name, value in found[0].headers if name == b":status")
        if _STATUS.fullmatch(status) is None:
            return self._give_up(stream, "the status of its answer is not a number from 100 to 999")
        if status[:1] != b"1":
            return found
        if status == b"101":
            return self._give_up(stream, "it answered 101, which HTTP/3 does not have")
        stream.headers_recv_state, stream.expected_content_length = H3HeadersState.INITIAL, None
        self.interim[stream.stream_id] = count = self.interim.get(stream.stream_id, 0) + 1
        if stream_ended:
            return self._give_up(stream, _NO_ANSWER)
        if count > MAX_INTERIM:
            return self._give_up(stream, f"it sent more than {MAX_INTERIM} interim responses")
        logger.debug("Dropped an interim response over HTTP/3.")
        return []

    def _give_up(self, stream: Any, why: str) -> list[Any]:
        """End a stream, and the answer with it."""
        if stream.stream_id in self._closed_streams:
            return []
        self.why[stream.stream_id] = why
        self.close_stream(stream.stream_id, H3ErrorCode.H3_MESSAGE_ERROR, stop_send=not stream.ended)
        stream.buffer, stream.ended = b"", True
        return [StreamClosed(stream.stream_id, H3ErrorCode.H3_MESSAGE_ERROR)]

    def close_stream(self, stream_id: int, error_code: int, stop_send: bool = True) -> None:
        """Close a stream; a request that was sent whole is not reset, which aioquic's servers take for an error."""
        if stream_id in self._closed_streams or not self.is_stopped(stream_id):
            super().close_stream(stream_id, error_code, stop_send)
            return
        self._closed_streams.add(stream_id)
        if stop_send:
            self._mock.stop_send(stream_id, error_code)

    def get_open_stream_ids(self) -> list[int]:
        """The streams whose answers have not ended, also those that have had trailers."""
        return [stream_id for stream_id in self._stream if stream_id % 4 == 0 and stream_id not in self.over]

    def is_stopped(self, stream_id: int) -> bool:
        """Whether nothing more can be sent on a stream."""
        stream = self._stream.get(stream_id)
        return stream is not None and stream.headers_send_state == H3HeadersState.AFTER_TRAILERS


def _ends(event: Any) -> bool:
    return isinstance(event, StreamClosed) or getattr(event, "stream_ended", False)


_STATUS = re.compile(rb"[1-9][0-9]{2}")


class Http3Client(_http3.Http3Client):
    """mitmproxy's HTTP/3 client, whose errors say what the upstream did, and nothing in its words."""

    h3_conn: H3Connection
    _closed_for = ""
    """Why we have closed the connection."""
    _is_spoilt = False
    """Whether the connection has ended for an error, of which the streams in the way can know nothing."""

    def _handle_event(self, event: events.Event) -> Steps:
        stream_id = self.our_stream_id.get(event.stream_id) if isinstance(event, HttpEvent) else None
        if stream_id is not None and not isinstance(event, RequestProtocolError) and self.h3_conn.is_stopped(stream_id):
            return  # the upstream reads no more of the request
        if isinstance(event, QuicConnectionClosed):
            self._is_spoilt |= event.error_code not in _NO_ERRORS
            event.reason_phrase = self._closed_for  # the upstream's own may repeat what we have sent
        for command in super()._handle_event(event):
            if isinstance(command, CloseQuicConnection):
                self._is_spoilt = True  # before the streams hear of it
                self._closed_for = without_quotes(command.reason_phrase)
            elif isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseProtocolError):
                self._explain(command.event)
            yield command
        if isinstance(event, RequestHeaders) and event.request.method == "HEAD":
            self.h3_conn.bodiless.add(event.stream_id)

    def has_begun(self, leg_id: int) -> bool:
        """Whether the upstream may have begun to answer the request of a leg."""
        return self._is_spoilt or self.our_stream_id.get(leg_id, -1) in self.h3_conn.begun

    def _explain(self, event: ResponseProtocolError) -> None:
        why = self.h3_conn.why.pop(self.our_stream_id.get(event.stream_id, -1), "")
        event.message = why or event.message.replace("closed by client", "closed by the upstream")


def repair(connection: _http3.Http3Client) -> None:
    """Replace the class of `connection`, and that of its HTTP/3 state."""
    connection.__class__ = Http3Client
    state: Any = connection.h3_conn
    state.__class__ = H3Connection
    state.begin()
