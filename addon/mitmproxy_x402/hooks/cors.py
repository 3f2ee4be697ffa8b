"""CORS for pages that may spend (x402_allow_origins): answers preflights and lets the pages read the answers.

WHATWG Fetch, section 3.3 (HTTP CORS protocol).
"""

from __future__ import annotations

from mitmproxy import http

EXPOSED = (
    "PAYMENT-RESPONSE, X-PAYMENT-RESPONSE, PAYMENT-REQUIRED, X-Payment-Receipt, X-Request-Id, Request-Id, Retry-After, "
    "X-Should-Retry"
)
"""Headers that a page's script may read in addition to those that browsers always show."""
_MAX_AGE = "600"

Fields = tuple[tuple[bytes, bytes], ...]


def is_preflight(request: http.Request) -> bool:
    """Whether `request` is a CORS preflight."""
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers


def answer_preflight(request: http.Request, origin: str) -> http.Response:
    """Allow `origin` the method and headers that its preflight asks for."""
    asked = request.headers
    fields = [*opening(origin), (b"access-control-allow-methods", _raw(asked["access-control-request-method"]))]
    wanted = asked.get("access-control-request-headers")
    if wanted:
        fields.append((b"access-control-allow-headers", _raw(wanted)))
    if asked.get("access-control-request-private-network") == "true":
        fields.append((b"access-control-allow-private-network", b"true"))
    fields.append((b"access-control-max-age", _MAX_AGE.encode()))
    response = http.Response.make(204, b"", fields)
    del response.headers["content-length"]  # a 204 must not have one (RFC 9110, section 8.6)
    return response


def opening(origin: str) -> Fields:
    """The CORS headers that let `origin` read an answer."""
    return (
        (b"access-control-allow-origin", _raw(origin)),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", EXPOSED.encode()),
        (b"vary", b"Origin"),
    )


def open_to(response: http.Response, origin: str) -> None:
    """Let `origin` read `response`, also where it asked with credentials, for which `*` is not enough."""
    headers = response.headers
    allowed = headers.get("access-control-allow-origin")
    ours = dict(opening(origin))
    headers["access-control-allow-credentials"] = "true"
    if allowed != origin:
        headers["access-control-allow-origin"] = origin
        headers.add("vary", "Origin")
    if "access-control-expose-headers" not in headers:
        headers["access-control-expose-headers"] = ours[b"access-control-expose-headers"].decode()


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
