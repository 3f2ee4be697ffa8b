"""Detects response heads that mitmproxy would reject, and repairs those of answers that were paid for.

mitmproxy answers 502 when an upstream's head is ambiguous (RFC 9112, section 6.3), as a guard against request
smuggling. An answer that was paid for has its ambiguous headers removed instead, so that the client gets what it
bought.
"""

from __future__ import annotations

import re

from mitmproxy import http

from .internals import validate_headers

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-zA-Z]+")
_FRAMING = (b"content-length", b"transfer-encoding")


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
