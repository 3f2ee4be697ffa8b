"""From a held-back 402 of mitmproxy's to a PaymentRequired: header first, then the body, decoded within bounds."""

from __future__ import annotations

import re
import zlib

from mitmproxy import http
from mitmproxy.net import encoding

from .protocol.headers import MAX_BODY, PAYMENT_REQUIRED, read_payment_required
from .protocol.messages import PaymentRequired
from .protocol.strict_json import Undecodable, decode_json

_CODE = re.compile(r"(PAYMENT|SETTLEMENT)_[A-Z_]{1,40}")
MAX_COMPRESSED = 16 * 1024
"""Bytes of a body in brotli or zstd that are decoded: their decoders cannot be told where to stop."""


def read(response: http.Response) -> PaymentRequired | None:
    """The challenge in `response`, or None when this 402 is none.

    Raises ChallengeError: it is one, and cannot be used.
    """
    return read_payment_required(response.headers.get(PAYMENT_REQUIRED), _decoded(response))


def rejection_code(response: http.Response) -> str | None:
    """The gateway's code where `response`, to a request with a payment, rejects that payment; else None.

    A 402 always does, if with an empty code; 400 and 401 only with a code of payments (protocol, section 4).
    """
    try:
        said, _ = decode_json(_decoded(response))
    except Undecodable:
        said = None
    found = (
        [part.get("code") for part in (said, said.get("error")) if isinstance(part, dict)]
        if isinstance(said, dict)
        else []
    )
    code = next((text for text in found if isinstance(text, str) and _CODE.fullmatch(text)), "")
    return code if code or response.status_code == 402 else None


def _decoded(response: http.Response) -> bytes:
    return decoded(response.raw_content or b"", response.headers.get("content-encoding"))


def decoded(body: bytes, coding: str | None) -> bytes:
    """`body` without its Content-Encoding, `coding`; empty when it cannot be decoded or is too large."""
    coding = (coding or "identity").strip().lower()
    if coding == "identity":
        return body
    try:
        if coding in ("gzip", "x-gzip", "deflate"):
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_BODY + 1)
        plain = encoding.decode(body, coding) if len(body) <= MAX_COMPRESSED else b""
    except (ValueError, zlib.error):
        return b""
    return plain if isinstance(plain, bytes) else b""
