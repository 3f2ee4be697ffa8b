"""From a held-back 402 of mitmproxy's to a PaymentRequired: header first, then the body, decoded within bounds."""

from __future__ import annotations

import zlib

from mitmproxy import http
from mitmproxy.net import encoding

from .protocol.headers import MAX_BODY, PAYMENT_REQUIRED, read_payment_required
from .protocol.messages import PaymentRequired

MAX_COMPRESSED = 16 * 1024
"""Bytes of a body in brotli or zstd that are decoded: their decoders cannot be told where to stop."""


def read(response: http.Response) -> PaymentRequired | None:
    """The challenge in `response`, or None when this 402 is none.

    Raises ChallengeError: it is one, and cannot be used.
    """
    return read_payment_required(response.headers.get(PAYMENT_REQUIRED), _decoded(response))


def _decoded(response: http.Response) -> bytes:
    """The body without its Content-Encoding; empty when it cannot be decoded or is too large."""
    body = response.raw_content or b""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        return body
    try:
        if coding in ("gzip", "x-gzip", "deflate"):
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_BODY + 1)
        decoded = encoding.decode(body, coding) if len(body) <= MAX_COMPRESSED else b""
    except (ValueError, zlib.error):
        return b""
    return decoded if isinstance(decoded, bytes) else b""
