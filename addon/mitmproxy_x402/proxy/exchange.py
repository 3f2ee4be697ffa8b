"""The Exchange: what the stream and the addon tell each other about one client request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from mitmproxy import http

from .internals import ReverseMode, commands


@dataclass
class Exchange:
    """What the stream and the addon tell each other about one request of the client."""

    client_host: str | None = None
    """The Host (or :authority) that the client wrote, before reverse mode rewrote it; all, where there are several."""
    own_headers: tuple[tuple[bytes, bytes], ...] = ()
    """Set by the addon: headers that errors which the stream answers itself have, too."""
    max_body: int = 1 << 62
    """Set by the addon: bytes of the request's body that are kept."""
    refuse_body: Callable[[], http.Response] | None = field(default=None, repr=False)
    """Set by the addon: gives the answer to a longer one."""
    client_path: str = ""
    """The path and query that the client wrote, before any hook could change them."""
    client_method: str = ""
    client_fields: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """The header fields as the client sent them."""
    client_body: bytes = field(default=b"", repr=False)
    """The body as the client sent it; set before the request hook."""
    may_pay: bool = False
    """Set by the addon: a 402 in answer to this request is to be held back and shown to it."""
    resend: bool = False
    """Set by the addon in the challenge hook: send the request again. The stream takes it back."""
    secret_headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """Set by the addon: headers that go upstream with the next leg and are never stored in the flow."""
    about_to_send: Callable[[], http.Response | None] | None = field(default=None, repr=False)
    """Set by the addon: called just before a leg with secret headers is handed to the upstream connection. Must not
    raise. An answer forbids it: the client gets that answer, or the first leg goes without the headers."""
    secrets_sent: bool = False
    """Set by the stream: the last leg had secret headers, and was handed to the upstream connection."""
    unpaid: str = ""
    """Set by the addon: why the 402 that the client gets was not paid."""
    error_answer: bytes | None = None
    """Set by the addon in the error hook: JSON body of the error that the client gets."""
    watch: Callable[[bytes], None] | None = field(default=None, repr=False)
    """Set by the addon when the head of an answer is there: gets each chunk of its body, as the gateway sent it. Must
    not raise."""
    legs: int = 1
    """Requests sent upstream so far, the one in flight included."""
    received: int = 0
    """Bytes of the body of the last leg's answer, as they came."""
    timed_out: str = ""
    """Set by the stream: what the upstream took too long for, and the option that says how long it may."""

    def forget(self) -> None:
        """The answer is over: let go of secrets, and of what holds the flow, which holds this."""
        self.secret_headers, self.about_to_send, self.watch = (), None, None
        self.client_body, self.client_fields = b"", ()


@dataclass
class X402ChallengeHook(commands.StartHook):
    """A 402 has been held back: in `flow.response`, with its body. See `stream` for the answers.

    The body is whole, unless it is a long page behind terms that stand in a header.
    """

    name = "x402_challenge"
    flow: http.HTTPFlow


@dataclass
class X402PageEndHook(commands.StartHook):
    """The rest of a challenge's long page has been read and dropped. To wait for this hook frees its connection."""

    name = "x402_page_end"
    flow: http.HTTPFlow


EXCHANGE = "x402_exchange"
"""The attribute of a flow that keeps it; a copy of the flow has none."""


def exchange_of(flow: http.HTTPFlow) -> Exchange | None:
    """The exchange of a flow that runs in an `X402Stream`; None for replayed and loaded flows, which never pay."""
    return flow.__dict__.get(EXCHANGE)


def upstream_of(flow: http.HTTPFlow) -> tuple[str, int]:
    """Host and port that the proxy reverses to, whatever has been done to the flow's request since."""
    mode = flow.client_conn.proxy_mode
    assert isinstance(mode, ReverseMode)
    return mode.address


def origin_of(flow: http.HTTPFlow) -> str:
    """Scheme, host and port that the proxy reverses to, whatever has been done to the flow's request since."""
    mode = flow.client_conn.proxy_mode
    assert isinstance(mode, ReverseMode)
    return f"{mode.scheme}://{mode.address[0]}:{mode.address[1]}"


_Thing = TypeVar("_Thing")


def shallow_copy(thing: _Thing) -> _Thing:
    """`copy.copy` of a plain object, which takes detours for the sake of others."""
    copied = object.__new__(type(thing))
    vars(copied).update(vars(thing))
    return copied
