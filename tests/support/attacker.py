"""A gateway that takes every payment and answers it as a test says, and clients that repeat as real ones do."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from . import challenges
from .proxy import Proxy
from .wire import Message, Peer, Upstream

CODEX_TRIES = 6
"""Codex sends a request whose answer failed five times more."""
CLAUDE_TRIES = 4

Answer = Callable[[int], bytes | None]
"""The bytes that the n-th paid request for a path gets, from 0 on; None: the connection is closed."""


def http(status: int, body: bytes = b"", *headers: str, content_type: str = "application/json") -> bytes:
    """A whole answer with Content-Length."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def sse(*events: str | dict[str, Any], coding: str = "", body: bytes | None = None) -> bytes:
    """A stream of `data:` events, in chunks; a dict with a `type` has that for its `event:` as well."""
    parts = [_event(each) for each in events] if body is None else [body]
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"]
    if coding:
        lines.append(f"Content-Encoding: {coding}")
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + chunks + b"0\r\n\r\n"


def _event(said: str | dict[str, Any]) -> bytes:
    if isinstance(said, str):
        return said.encode()
    name = f"event: {said['type']}\n" if "type" in said else ""
    return f"{name}data: {json.dumps(said)}\n\n".encode()


class Attacker:
    """Asks for `price`, takes what it gets, and keeps each signature that has reached it."""

    def __init__(self, challenge: Callable[[Message], bytes] = lambda _: challenges.answer()) -> None:
        self.challenge = challenge
        self.answers: dict[str, Answer] = {}
        self.payments: defaultdict[str, list[str]] = defaultdict(list)
        """By path: the header of each paid request."""

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            message = upstream.read(peer)
            path = message.start.split()[1].decode()
            header = message.get(b"payment-signature") or message.get(b"x-payment")
            if header is None:
                peer.send(self.challenge(message))
                continue
            self.payments[path].append(header.decode())
            answer = self.answers[path.partition("?")[0]](len(self.payments[path]) - 1)
            if answer is None:
                return
            peer.send(answer)

    def references(self, path: str) -> set[str]:
        """The payments that can be told apart: what could be settled of all that was sent for `path`."""
        return {reference(header) for header in self.payments[path]}


def reference(header: str) -> str:
    """The nonce of a payment header (EVM), or its transaction (Solana)."""
    payload = json.loads(base64.b64decode(header))["payload"]
    return str(payload["authorization"]["nonce"] if "authorization" in payload else payload["transaction"])


class Stage:
    """The attacker, the proxy, and what a client's call costs."""

    def __init__(self, attacker: Attacker, proxy: Proxy) -> None:
        self.attacker = attacker
        self.proxy = proxy

    def call(
        self,
        answer: Answer | bytes,
        path: str,
        body: bytes,
        *,
        tries: int = CODEX_TRIES,
        method: str = "POST",
        follow: bool = False,
        done: Callable[[httpx.Response], bool] = lambda _: False,
        **headers: str,
    ) -> int:
        """The payments that one call of a client costs, which asks `tries` times where it never is `done`."""
        fixed = answer
        self.attacker.answers[path] = (lambda _: fixed) if isinstance(fixed, bytes) else fixed
        self.attacker.payments[path].clear()
        for _ in range(tries):
            try:
                # No TLS here; without `verify` each client would read the certificate authorities.
                with httpx.Client(follow_redirects=follow, timeout=20, trust_env=False, verify=False) as client:
                    told = client.request(method, self.proxy.url + path, content=body, headers=headers)
            except (httpx.TransportError, httpx.TooManyRedirects, httpx.DecodingError):
                continue
            if done(told) or told.headers.get("x-should-retry") == "false":
                break
        return len(self.attacker.references(path))


@contextmanager
def stage(
    home: Path,
    *arguments: str,
    challenge: Callable[[Message], bytes] | None = None,
    first: Path | None = None,
    keys: Mapping[str, str] | None = None,
) -> Iterator[Stage]:
    """`first` is a script that is loaded before ours."""
    attacker = Attacker() if challenge is None else Attacker(challenge)
    with Upstream(attacker) as upstream:
        proxy = Proxy(upstream.url, *arguments, home=home, keys=keys)
        if first is not None:
            proxy.load_first(first)
        with proxy:
            yield Stage(attacker, proxy)
        assert "Traceback" not in proxy.log
        assert "internal_error" not in proxy.log
