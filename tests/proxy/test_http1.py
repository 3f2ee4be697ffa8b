"""What our HTTP/1.1 connections decide themselves, they decide as mitmproxy does."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http.http1 import expected_http_body_size
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.test import tflow

from mitmproxy_x402.proxy.http1 import Http1Client, Http1Server, stays_open

_VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"])
_CONNECTION = [
    (b"connection", value) for value in (b"close", b"keep-alive", b"Upgrade", b"x, close", b"Close", b"close, x")
]
_FRAMING = [
    *((b"Content-Length", value) for value in (b"5", b"0", b"+5", b"5, 5", b"", b"x")),
    *((b"transfer-encoding", value) for value in (b"chunked", b"Chunked", b"gzip", b"gzip, chunked", b"identity")),
]
_fields = st.lists(st.sampled_from([*_CONNECTION, *_FRAMING, *_FRAMING, (b"x", b"y")]), max_size=4)


def _request(version: bytes, method: bytes, fields: list[tuple[bytes, bytes]]) -> http.Request:
    request = tflow.treq()
    request.data.http_version, request.data.method = version, method
    request.headers = http.Headers(fields)
    return request


def _response(version: bytes, status: int, fields: list[tuple[bytes, bytes]]) -> http.Response:
    response = tflow.tresp(status_code=status)
    response.data.http_version, response.headers = version, http.Headers(fields)
    return response


_requests = st.builds(_request, _VERSIONS, st.sampled_from([b"POST", b"GET", b"HEAD", b"CONNECT", b"Connect"]), _fields)
_responses = st.builds(_response, _VERSIONS, st.sampled_from([200, 200, 101, 103, 204, 304, 402, 500]), _fields)


def _done(connection: Any, request: http.Request, response: http.Response, last: str) -> Any:
    """What `connection` is like when both are over, `last` the one of them, and what it does about it."""
    connection.conn, connection.buf, connection.stream_id = tflow.tclient_conn(), b"", 7
    connection.conn.state = ConnectionState.OPEN
    connection.request, connection.response = request, response
    connection.request_done, connection.response_done = last != "request", last != "response"
    connection.state = None
    did = [type(each).__name__ for each in connection.mark_done(**{last: True})]
    return (
        did,
        getattr(connection.state, "__name__", None),
        {
            name: getattr(connection, name)
            for name in ("stream_id", "request", "response", "request_done", "response_done")
        },
    )


@given(request=_requests, response=_responses, last=st.sampled_from(["request", "response"]))
def test_what_follows_an_answer(request: http.Request, response: http.Response, last: str) -> None:
    for ours, theirs in ((Http1Client, _http1.Http1Client), (Http1Server, _http1.Http1Server)):
        assert _done(ours.__new__(ours), request, response, last) == _done(
            theirs.__new__(theirs), request, response, last
        )


def test_most_answers_leave_the_connection_open_plainly() -> None:
    request = _request(b"HTTP/1.1", b"POST", [(b"Content-Length", b"5")])
    for fields in ([(b"Transfer-Encoding", b"chunked")], [(b"content-length", b"12")]):
        assert stays_open(request, _response(b"HTTP/1.1", 200, fields))


@given(fields=_fields, answered=st.booleans())
def test_the_end_of_a_request(fields: list[tuple[bytes, bytes]], answered: bool) -> None:
    """What is sent at the end: the last chunk, nothing, or the end of the connection's half."""
    request, response = _request(b"HTTP/1.1", b"POST", fields), _response(b"HTTP/1.1", 200, [])
    try:
        expected_http_body_size(request)
    except ValueError:
        return  # refused before, unless an addon has made it so
    seen = []
    for kind in (Http1Client, _http1.Http1Client):
        client: Any = kind.__new__(kind)
        client.conn, client.stream_id, client.request_done, client.response_done = tflow.tserver_conn(), 1, False, False
        client.request, client.response = request, response if answered else None
        sent = [(type(each), getattr(each, "data", b"")) for each in client.send(_http1.RequestEndOfMessage(1))]
        seen.append((sent, client.request_done))
    assert seen[0] == seen[1]
