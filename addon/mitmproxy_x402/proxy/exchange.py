"""Defines the Exchange, the state of one client request that stream and addon share, and the hooks between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mitmproxy import http

from .internals import ReverseMode, commands


class Exchange:
    """The state of one client request that the stream and the addon share.

    The defaults belong to the class, so that making one costs nothing; its repr shows none of its secrets.
    """

    client_host: str | None = None
    """The Host (or :authority) as the client wrote it, before reverse mode rewrote it; repeated ones joined."""
    own_headers: tuple[tuple[bytes, bytes], ...] = ()
    """Set by the addon: headers to add to the errors that the stream itself answers with."""
    max_body: int = 1 << 62
    """Set by the addon: most bytes of the request's body that are buffered."""
    refuse_body: Callable[[], http.Response] | None = None
    """Set by the addon: makes the answer to a request whose body is longer than that."""
    client_path: str = ""
    """The path and query that the client wrote, before any hook could change them."""
    client_method: str = ""
    client_fields: tuple[tuple[bytes, bytes], ...] = ()
    """The header fields as the client sent them."""
    client_body: bytes = b""
    """The body as the client sent it; set before the request hook."""
    may_pay: bool = False
    """Set by the addon: whether a 402 to this request is held back and shown to the addon."""
    resend: bool = False
    """Set by the addon in the challenge hook: send the request again. The stream resets it."""
    secret_headers: tuple[tuple[bytes, bytes], ...] = ()
    """Set by the addon: headers that are sent upstream with the next leg and never stored in the flow."""
    about_to_send: Callable[[], http.Response | None] | None = None
    """Set by the addon: called just before a leg with secret headers is handed to the upstream connection. Must not
    raise. If it returns an answer, the headers are not sent: the client gets that answer, or, on the first leg, the
    request goes without them."""
    waits: Callable[[], bool] | None = None
    """Set by the addon: whether the hook `x402_leaving` has to be fired before `about_to_send` is called."""
    secrets_sent: bool = False
    """Set by the stream: whether the last leg had secret headers and was handed to the upstream connection."""
    is_cancelled: Callable[[], bool] = bool
    """Set by the stream while the challenge hook runs: whether the client has cancelled or left, and nothing is to be
    signed any more."""
    unpaid: str = ""
    """Set by the addon: why the 402 that the client gets was not paid."""
    error_answer: bytes | None = None
    """Set by the addon in the error hook: JSON body of the error that the client gets."""
    watch: Callable[[bytes], None] | None = None
    """Set by the addon in `responseheaders`: called with each chunk of the body as the gateway sent it. Must not
    raise."""
    legs: int = 1
    """Requests sent upstream so far, the one in flight included."""
    received: int = 0
    """Bytes of the last leg's response body so far, before any decoding."""
    end_is_doubtful: bool = False
    """Set by the stream: the head gives several lengths of the body, so nobody can tell whether it is whole."""
    client_left: bool = False
    """Set by the stream: the client has cancelled the request or closed its connection before the answer was over."""
    timed_out: str = ""
    """Set by the stream: what timed out, and the option that sets that time; empty if nothing did."""

    def forget(self) -> None:
        """Drop secrets, and the references that form a cycle with the flow. Called when the answer is over."""
        self.secret_headers, self.about_to_send, self.waits, self.watch = (), None, None, None
        self.client_body, self.client_fields = b"", ()


@dataclass
class X402ChallengeHook(commands.StartHook):
    """Fired when a 402 is held back, in `flow.response` with its body; `stream` lists what the addon may do with it.

    The body is complete, unless the terms are in a header and a long page follows.
    """

    name = "x402_challenge"
    flow: http.HTTPFlow


@dataclass
class X402LeavingHook(commands.StartHook):
    """Fired when a leg with secret headers is about to leave, and has to wait."""

    name = "x402_leaving"
    flow: http.HTTPFlow


@dataclass
class X402PageEndHook(commands.StartHook):
    """Fired when the rest of a challenge's long page has been read and dropped: its connection is free again."""

    name = "x402_page_end"
    flow: http.HTTPFlow


EXCHANGE = "x402_exchange"
"""The attribute of a flow that holds its exchange; copies of a flow have none."""


def exchange_of(flow: http.HTTPFlow) -> Exchange | None:
    """The exchange of a live flow; None for replayed and loaded flows, which never pay."""
    return flow.__dict__.get(EXCHANGE)


def upstream_of(flow: http.HTTPFlow) -> tuple[str, int]:
    """Host and port of the upstream, even if an addon has changed the flow's request."""
    mode = flow.client_conn.proxy_mode
    assert isinstance(mode, ReverseMode)
    return mode.address


def origin_of(flow: http.HTTPFlow) -> str:
    """Scheme, host and port of the upstream, even if an addon has changed the flow's request."""
    mode = flow.client_conn.proxy_mode
    assert isinstance(mode, ReverseMode)
    return f"{mode.scheme}://{mode.address[0]}:{mode.address[1]}"


def where_it_listens(mode: str, host: str, port: int | None) -> tuple[str, str, int]:
    """The upstream's URL, and the host and port to listen on, of a reverse mode; `host` and `port` are its defaults."""
    parsed = ReverseMode.parse(mode)
    return parsed.data, parsed.listen_host(host), parsed.listen_port(port) or 0


_Thing = TypeVar("_Thing")


def shallow_copy(thing: _Thing) -> _Thing:
    """A faster `copy.copy`, for plain objects with a `__dict__`."""
    copied = object.__new__(type(thing))
    vars(copied).update(vars(thing))
    return copied
