"""Tells what in a request's head is about the client's own connection (RFC 9110, section 7.6.1), and takes it off.

`stream` sends no client's `Connection: close` upstream, and no wish for another version of HTTP; it refuses an answer
that switches protocols unasked. Behind one, requests would pass through this proxy unseen, with all their credentials.
"""

from __future__ import annotations

import re

from mitmproxy import http

from ..exchange import shallow_copy
from . import header_index

SWITCHING_PROTOCOLS = 101
"""The status after which the connection no longer speaks HTTP."""
_FINAL = 200
"""The lowest status of a final answer (RFC 9110, section 15); mitmproxy lets any number pass."""
_MORE_HTTP = re.compile(r"(?:^|[\s,\"])(?:h[23]c?|https?|tls)(?![a-z])", re.IGNORECASE)
"""Matches a wish for HTTP/2 or for TLS in `Upgrade`: requests would follow."""
_NOT_PASSED_ON = (b"connection", b"upgrade", b"http2-settings")


def with_fields(request: http.Request, fields: list[tuple[bytes, bytes]]) -> http.Request:
    """A copy of `request` with other headers; the body is the same."""
    request = shallow_copy(request)
    request.data = shallow_copy(request.data)
    request.data.headers = shallow_copy(request.data.headers)
    request.data.headers.fields = tuple(fields)
    return request


def for_upstream(request: http.Request, *, kept_open: bool) -> http.Request:
    """`request` without the client's wish for HTTP/2 or TLS, and with `kept_open` without its `Connection: close`.

    With the latter the upstream would close after its 402, and the payment would need a new connection.
    """
    connection = header_index.text(request.headers, b"connection").strip().lower()
    if not connection or request.http_version != "HTTP/1.1":
        return request
    if connection == "close" and kept_open:
        names: tuple[bytes, ...] = (b"connection",)
    elif "upgrade" in connection and _MORE_HTTP.search(header_index.text(request.headers, b"upgrade")):
        names = _NOT_PASSED_ON
    else:
        return request
    return with_fields(request, [field for field in request.headers.fields if field[0].lower() not in names])


def why_no_answer(request: http.Request, response: http.Response) -> str:
    """Why `response` can be no answer to `request`; empty: it may be one."""
    status = response.status_code
    if status >= _FINAL:
        return ""
    if status != SWITCHING_PROTOCOLS:
        return f"its answer has the status {status:03}, which is not final"
    upgrade = header_index.text(request.headers, b"upgrade").strip()
    asked = "upgrade" in header_index.text(request.headers, b"connection").lower()
    if asked and upgrade and not _MORE_HTTP.search(upgrade):
        return ""
    return "it switches to another protocol, for which the client has not asked"
