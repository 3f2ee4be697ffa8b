"""Who may spend: the peer's address, the Host and Origin headers, the client token. And what of a request stays here.

A funded key sits behind an open port. Three strangers can reach it: another machine, a web page in a browser of this
machine (which may also rebind a name of its own to 127.0.0.1), and a program of another user. The first two are refused
by default; the client token is against all three.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
from dataclasses import dataclass

from mitmproxy import http

from ..protocol.credentials import CREDENTIALS, PAYMENT_HEADERS
from ..proxy import header_index as heads
from ..settings.settings import Settings
from ..settings.values import is_loopback


@dataclass(frozen=True)
class Denial:
    """Why a client may not spend: the status, the stable code and the sentence that it gets."""

    status: int
    code: str
    message: str


def examine(request: http.Request, peer: str, client_host: str | None, settings: Settings) -> Denial | None:
    """None where the client may spend. `peer` is its IP address, `client_host` the Host header that it wrote."""
    return _examine_token(request, peer, settings) or _examine_browser(request, client_host, settings)


def _examine_token(request: http.Request, peer: str, settings: Settings) -> Denial | None:
    expected = settings.client_token
    if expected is None:
        if is_loopback(peer):
            return None
        return Denial(
            403,
            "client_token_required",
            "This proxy pays with its owner's money and serves its own machine only. To let other machines use it, "
            "start it with X402_CLIENT_TOKEN set, and give each client that token as its API key.",
        )
    offered = presented_tokens(request)
    if any(hmac.compare_digest(_raw(token), _raw(expected)) for token in offered):
        return None
    return Denial(
        401,
        "client_token_invalid" if offered else "client_token_missing",
        "This proxy wants its client token: set the client's API key to the value of X402_CLIENT_TOKEN with which the "
        "proxy was started (it is read from Authorization: Bearer, x-api-key, x-goog-api-key or ?key=).",
    )


def _raw(text: str) -> bytes:
    """The bytes that a header or the environment held, whether or not they are UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _examine_browser(request: http.Request, client_host: str | None, settings: Settings) -> Denial | None:
    origin = heads.get(request.headers, "origin") or ""
    crossing = (heads.get(request.headers, "sec-fetch-site") or "").lower() == "cross-site"
    if (origin or crossing) and origin.lower() not in settings.allow_origins:
        return Denial(
            403,
            "origin_not_allowed",
            f"A web page ({origin or 'of another site'!s:.100}) asked, and web pages may not spend. To allow a page "
            "that you trust, add its origin to the option x402_allow_origins.",
        )
    # A token cannot be known to a page that rebinds its name, so with one any name is good.
    if settings.client_token is None and not _is_own_name(client_host):
        return Denial(
            403,
            "host_not_allowed",
            f"The request was sent to the name {client_host or ''!r:.100}, which a web page may have pointed here. "
            "Use http://127.0.0.1 or http://localhost in the client's base URL, or start the proxy with "
            "X402_CLIENT_TOKEN set.",
        )
    return None


@functools.lru_cache(maxsize=64)
def _is_own_name(host: str | None) -> bool:
    """Whether a Host header is an address or a loopback name: names that nobody else can point here."""
    name = (host or "").rsplit(":", 1)[0] if not (host or "").endswith("]") else host or ""
    name = name.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def presented_tokens(request: http.Request) -> list[str]:
    """What the client presents as its API key, wherever SDKs put one."""
    bearer = [value[7:].strip() for value in request.headers.get_all("authorization") if value[:7].lower() == "bearer "]
    keys = [*request.headers.get_all("x-api-key"), *request.headers.get_all("x-goog-api-key")]
    return [token for token in (*bearer, *keys, *_query_keys(request.path)) if token]


def _query_keys(path: str) -> list[str]:
    _, _, query = path.partition("?")
    return [part[4:] for part in query.split("&") if part.startswith("key=")]


def strip_credentials(request: http.Request, settings: Settings) -> None:
    """Take the client's own credentials off; with `forward_auth` only those that are our client token.

    Everything else stays as it came, byte for byte, the rest of the query included.
    """
    headers = request.headers
    if settings.forward_auth:
        token = settings.client_token
        if token is None or token not in presented_tokens(request):
            return
        for name in CREDENTIALS:
            if any(token in value for value in headers.get_all(name)):
                del headers[name]
        if token not in _query_keys(request.path):
            return
    else:
        for name in CREDENTIALS:
            if heads.has(headers, name):
                del headers[name]
    path, mark, query = request.path.partition("?")
    if mark and "key=" in query:
        kept = [part for part in query.split("&") if not part.startswith("key=")]
        request.path = path + (mark + "&".join(kept) if kept else "")


def pays_itself(request: http.Request) -> bool:
    """Whether the client brought a payment of its own: then nothing is paid on top."""
    return any(heads.has(request.headers, name) for name in PAYMENT_HEADERS)
