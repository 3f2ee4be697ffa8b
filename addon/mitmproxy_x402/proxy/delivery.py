"""Heads of answers that mitmproxy would not give to the client: refused before paying, mended afterwards.

mitmproxy answers 502 where an upstream's head is ambiguous (RFC 9112, section 6.3), so that nothing is smuggled past.
Of an answer that was paid for, what is ambiguous is taken out instead: the client gets what it has bought.
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
    """Take out of the head what makes it undeliverable, as far as the body has been read without it.

    The body was framed by Transfer-Encoding where there is one, else by Content-Length. Names with white space before
    the colon lose it; such a name of a framing header was not read, and names of other odd bytes
    mean nothing to anybody, so those headers are left out.
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
