"""Decides who may use the port, by address, Host, Origin, Sec-Fetch and client token; strips the client's credentials.

Three kinds of strangers can reach the port: another machine, a web page in a browser on this machine (which may also
rebind a name of its own to 127.0.0.1), and a program of another user. The first two are refused by default; the client
token stops all three.
"""

from __future__ import annotations

import functools
import hmac
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from mitmproxy import http

from ..protocol.credentials import (
    is_credential,
    is_credential_parameter,
    is_credential_value,
    is_payment,
    without_parameters,
)
from ..proxy.heads import header_index
from ..quick_init import quick_init
from ..recording.redact import Redactor
from ..settings.settings import Settings
from ..settings.values import is_loopback


@quick_init
@dataclass(frozen=True)
class Caller:
    """Where a request comes from."""

    peer: str
    """The client's IP address; empty if there is none."""
    host: str | None
    """The Host header (or :authority) as the client wrote it; several are joined by commas."""
    port: int
    """The port of ours that the request came to."""


@quick_init
@dataclass(frozen=True)
class Denial:
    """Why a client may not spend: the status, stable code and message that it gets."""

    status: int
    code: str
    message: str


def examine(request: http.Request, caller: Caller, settings: Settings) -> Denial | None:
    """Why the client may not spend; None: it may."""
    return (
        _examine_page(request, settings)
        or _examine_token(request, caller.peer, settings)
        or _examine_host(caller, settings)
    )


# Web pages.


def page_of(request: http.Request) -> str | None:
    """The origin of the web page that sent the request; empty: a page that does not name it; None: no page.

    Browsers send Sec-Fetch-Site with every request to this machine, and Origin with requests of scripts.
    """
    headers = request.headers
    origins = header_index.get_all(headers, "origin")
    if origins:
        return ", ".join(origins).lower()
    return "" if header_index.has(headers, "sec-fetch-site") else None


def allowed_page(request: http.Request, settings: Settings) -> str | None:
    """The origin of the web page that sent the request, if it is in x402_allow_origins; else None."""
    page = page_of(request) if settings.allow_origins else None
    return page if page in settings.allow_origins else None


def _examine_page(request: http.Request, settings: Settings) -> Denial | None:
    page = page_of(request)
    if page is None:
        return None
    if page in settings.allow_origins:
        if _is_by_script(request):
            return None
        page = ""
    return Denial(403, "origin_not_allowed", f"A web page asked, and web pages may not spend. {_way_in(page)}")


def _is_by_script(request: http.Request) -> bool:
    """Whether a page asks by fetch() or XMLHttpRequest, and not by a form, a tag or a beacon (Fetch Metadata, 2.1)."""
    mode, destination = request.headers.get("sec-fetch-mode", "cors"), request.headers.get("sec-fetch-dest", "empty")
    return mode in ("cors", "same-origin") and destination == "empty"


def _way_in(page: str) -> str:
    """The sentence that says how to let pages of the origin `page` spend, if that is possible."""
    if re.fullmatch(r"[a-z][a-z0-9+.-]{0,20}://[!-~]{1,100}", page) and not page.startswith("file:"):
        return f"To allow this one, start the proxy with --set x402_allow_origins={page}"
    if page == "null" or page.startswith("file:"):
        return (
            f"Its origin is {page[:20]}, which every page has that is opened as a file or in a sandboxed frame, so it "
            "cannot be allowed. Serve the page from http://localhost:PORT and add that to x402_allow_origins."
        )
    if page:
        return f"Its origin {page!a:.100} is none that x402_allow_origins could name."
    return (
        "It was asked for by an address bar, a link, an image, a frame or a form, which do not say whose they are. A "
        "script of a page in x402_allow_origins may ask, with fetch()."
    )


# Client token and Host.


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
        "proxy was started (it is read from Authorization: Bearer, x-api-key, api-key, x-goog-api-key or ?key=).",
    )


def _raw(text: str) -> bytes:
    """The original bytes of a header or an environment variable, which need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _examine_host(caller: Caller, settings: Settings) -> Denial | None:
    # A page that rebinds its name cannot know the token, so with a token any Host is accepted.
    if settings.client_token is not None or _is_own_name(caller.host, caller.port):
        return None
    return Denial(
        403,
        "host_not_allowed",
        f"The request was sent to {caller.host or ''!a:.100}, which a web page may have pointed here. "
        f"Use http://127.0.0.1:{caller.port} or http://localhost:{caller.port} in the client's base URL, or start the "
        "proxy with X402_CLIENT_TOKEN set.",
    )


_OWN_NAME = re.compile(r"(?i:localhost|\[::1\]|127(?:\.(?:25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})){3})(?::([0-9]{1,5}))?")


@functools.lru_cache(maxsize=64)
def _is_own_name(host: str | None, port: int) -> bool:
    """Whether every Host given is a loopback address or `localhost`, with our `port` or none.

    0.0.0.0, [::] and [::ffff:127.0.0.1] reach this machine, too, but browsers send no Sec-Fetch-Site to them. Clients
    that write a Host beside their library's own send two, which is no page's doing.
    """
    names = [_OWN_NAME.fullmatch(name.strip(" ")) for name in (host or "").split(",")]
    return all(name is not None and (name[1] is None or int(name[1]) == port) for name in names)


def presented_tokens(request: http.Request) -> list[str]:
    """The API keys that the client sent, from every header in which SDKs put one."""
    bearer = [value[7:].strip() for value in request.headers.get_all("authorization") if value[:7].lower() == "bearer "]
    keys = [value for name in _TOKEN_HEADERS for value in request.headers.get_all(name)]
    return [token for token in (*bearer, *keys, *_query_keys(request.path)) if token]


_TOKEN_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")


def _query_keys(path: str) -> list[str]:
    _, _, query = path.partition("?")
    return [part[4:] for part in query.split("&") if part.startswith("key=")]


MISPLACED = (
    "The client token of this proxy stands in the method, the host, the origin or the name of a header, where logs and "
    "the upstream would show it. Nothing was forwarded. Set it as the client's API key instead."
)


def is_misplaced(token: str | None, request: http.Request) -> bool:
    """Whether the client token stands in the head of a request where no client puts it, and nothing hides it."""
    if token is None:
        return False
    data, headers = request.data, request.headers
    names = [name for name, _ in headers.fields]
    places = *header_index.values(headers, b"host"), *header_index.values(headers, b"origin")
    text = b"\n".join((data.method, data.scheme, data.authority, _raw(data.host), *names, *places)).lower()
    own = _raw(token).lower()
    return own in text or (b"%" in text and own in unquote_to_bytes(text))


# Credentials, which stay here.


def strip_credentials(
    request: http.Request,
    settings: Settings,
    is_poll: Callable[[], bool] = lambda: False,
    is_known: Callable[[tuple[bytes, bytes]], bool] = lambda _: False,
) -> tuple[bytes, ...]:
    """Take the client's own credentials off; with `forward_auth` only those that are our client token.

    Payments of the client's own stay, and everything else stays as it came, byte for byte, the rest of the query
    included. `is_poll` says whether the request asks after a job, whose URL the upstream has made; `is_known`, whether
    a field of its head is known to be no secret. Gives the names of the query's parameters that are gone: without them
    the request may mean something else.
    """
    own = _raw(settings.client_token or "")
    if settings.forward_auth and not own:
        return ()
    by_rule, let_through = not settings.forward_auth, settings.forward_names

    def goes(name: bytes, value: bytes) -> bool:
        if own and own in value:
            return True
        return (
            by_rule and is_credential(name, value) and not is_payment(name, value) and name.lower() not in let_through
        )

    headers = request.headers
    kept = tuple([field for field in headers.fields if is_known(field) or not goes(*field)])
    if len(kept) != len(headers.fields):
        headers.fields = kept
    gone: list[bytes] = []

    def is_gone(piece: bytes) -> bool:
        name = unquote_to_bytes(piece.partition(b"=")[0])
        is_own = bool(own) and (own in piece or own in unquote_to_bytes(piece))
        if not is_own and (not by_rule or name.lower() in let_through or not is_credential_parameter(piece)):
            return False
        # Whatever stands in a URL that the upstream has made is the upstream's.
        if not is_own and name.lower() in _OF_UPSTREAM and is_poll():
            return False
        gone.append(_WITHOUT_NAME if (is_own and own in name) or is_credential_value(name) else name)
        return True

    _filter_query(request, is_gone)
    return tuple(gone)


_WITHOUT_NAME = b"(a value without a name)"
_OF_UPSTREAM = (b"token", b"sig", b"signature")


def _filter_query(request: http.Request, is_gone: Callable[[bytes], bool]) -> None:
    path, mark, query = request.data.path.partition(b"?")
    if mark:
        rest = without_parameters(query, is_gone)
        if rest != query:
            request.data.path = path + (mark + rest if rest else b"")


def strip_trailers(request: http.Request) -> None:
    """Take credentials and payments out of trailers, where none may be (RFC 9110, section 6.5.1)."""
    trailers = request.trailers
    if trailers is not None:
        _strip_secrets(trailers)


def forget_credentials(request: http.Request, redactor: Redactor) -> None:
    """Take every credential and payment off a request that goes nowhere: views, flow files and logs keep it."""
    _strip_secrets(request.headers)
    _filter_query(request, is_credential_parameter)
    request.headers.fields = redactor.fields(request.headers)
    request.data.path = redactor.path(request.data.path)


def _strip_secrets(fields: http.Headers) -> None:
    fields.fields = tuple([field for field in fields.fields if not (is_credential(*field) or is_payment(*field))])


def pays_itself(request: http.Request) -> bool:
    """Whether the client sent a payment of its own: then nothing more is paid."""
    return any(itertools.starmap(is_payment, request.headers.fields))
