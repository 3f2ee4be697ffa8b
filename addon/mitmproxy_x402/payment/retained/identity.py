"""Computes the identity of a request, which recognises retries: method, origin, path, and a digest of the body.

It is taken from the bytes that the client sent, before an addon can change them. Any Content-Encoding is decoded; JSON
is compared regardless of the order of its keys (except repeated keys, since parsers differ in which one they take), a
multipart form regardless of its boundary. Everything else, and what cannot be decoded within bounds, is
compared byte for byte.

A client that follows a redirect sends the same body, or none, to any address, with any method. Such a request is
recognised by its body alone (`anywhere`), or by its client (`without_body`).

Digests of a few kilobytes are computed at once, larger ones in a thread. JSON of many megabytes is read in small steps,
because Python's JSON module would block all other threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from operator import itemgetter
from typing import Any

from ...errors import Undecodable
from ...protocol.codings import decode, needs_decoding
from ...protocol.strict_json import decode_json, is_too_deep

MAX_IN_PLACE = 64 << 10
"""Most bytes of an uncompressed body whose digest is computed on the event loop."""
MAX_AT_ONCE = 256 << 10
"""Most bytes of JSON that are decoded by Python's JSON module."""
MAX_DECODED = 128 << 20
"""Most decoded bytes of a compressed body; a larger one, or one that unfolds more than a thousandfold, is compared in
its compressed form."""
MAX_TOKENS = 500_000
"""Most tokens of a large JSON body; one with more is compared byte for byte."""
MAX_BOUNDARY = 80
"""Most bytes of a multipart body's first line: two hyphens, a boundary of at most 70, the line's end, and a margin."""

Route = tuple[str, str, str]
"""Method, upstream (scheme, host and port) and path with its query, which are compared before any digest."""
Fingerprint = tuple[Route, bytes]
ANY = "any method"
"""Stands for all methods. It contains blanks, so no client can send it as a method."""


class RequestIdentity:
    """The identity of one request: its route, and a digest of its body that is computed on demand."""

    def __init__(self, route: Route, body: bytes = b"", coding: str = "") -> None:
        self.route = route
        self._said = _Body(body, coding)
        self.has_body = bool(body)

    @classmethod
    def known(cls, route: Route, digest: bytes) -> RequestIdentity:
        """An identity whose digest is known already."""
        identity = cls(route)
        identity._said = _Body(b"", "", digest)
        return identity

    @property
    def is_ready(self) -> bool:
        """Whether `digest` is known or takes almost no time."""
        return self._said.is_ready

    def start(self) -> Future[bytes]:
        """Start computing the digest in a thread, if that has not been done."""
        return self._said.start()

    def prepare(self) -> None:
        """Free the body by computing `digest`, now if that takes almost no time, else in a thread."""
        if self.is_ready:
            _ = self.digest
        else:
            self.start()

    async def ready(self) -> None:
        """Wait for `digest` without blocking the event loop."""
        if not self.is_ready:
            await asyncio.wrap_future(self.start())

    @property
    def digest(self) -> bytes:
        """The body's digest, equal for bodies with the same meaning. Blocks until it is computed."""
        return self._said.digest

    @property
    def fingerprint(self) -> Fingerprint:
        """Route and digest, which are equal for equal requests. Blocks like `digest`."""
        return self.route, self.digest

    def anywhere(self) -> RequestIdentity:
        """The identity shared by all requests to this upstream with this body, whatever their method and path."""
        identity = RequestIdentity((ANY, self.route[1], ""))
        identity._said = self._said
        return identity


def without_body(origin: str, client: str) -> RequestIdentity:
    """The identity shared by all requests without a body from `client` (an address) to the upstream `origin`."""
    return RequestIdentity((ANY, origin, client or "somebody"))


class _Body:
    """Computes the digest of one body, at once or in a thread."""

    def __init__(self, body: bytes, coding: str, digest: bytes | None = None) -> None:
        self._body, self._coding = body, coding
        self._digest = digest
        self._computing: Future[bytes] | None = None

    @property
    def is_ready(self) -> bool:
        if self._digest is not None or (len(self._body) <= MAX_IN_PLACE and not needs_decoding(self._coding)):
            return True
        return self._computing is not None and self._computing.done()

    def start(self) -> Future[bytes]:
        if self._computing is None:
            self._computing = _threads().submit(body_digest, self._body, self._coding)
            self._body = b""
        return self._computing

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            computing = self._computing
            self._digest = body_digest(self._body, self._coding) if computing is None else computing.result()
            self._body, self._computing = b"", None
        return self._digest


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="x402 identity")


def body_digest(body: bytes, coding: str = "") -> bytes:
    """A digest that is equal for bodies with the same meaning; `coding` is the Content-Encoding of `body`."""
    try:
        for each in reversed(coding.split(",")):
            body = decode(body, each, MAX_DECODED)
    except Undecodable:
        return hashlib.sha256(b"coded %b\n" % coding.lower().encode("utf-8", "surrogateescape") + body).digest()
    if body.startswith(b"--"):
        return _form_digest(body)
    text = _in_utf_8(body)
    if text.lstrip()[:1] not in (b"{", b"["):
        return hashlib.sha256(body).digest()
    if len(text) > MAX_AT_ONCE:
        return _large_json_digest(text) or hashlib.sha256(body).digest()
    return hashlib.sha256(_canonical(text) or body).digest()


def _in_utf_8(body: bytes) -> bytes:
    """Convert text that may be JSON from UTF-16 or UTF-32 to UTF-8, and remove a byte order mark."""
    if body[:1] in (b"{", b"[") and body[1:2] != b"\0":
        return body
    try:
        return body.decode(json.detect_encoding(body)).removeprefix("\ufeff").encode()
    except (UnicodeError, LookupError):
        return body


def _canonical(text: bytes) -> bytes | None:
    """The JSON in `text` with its keys sorted; None: it is not JSON, or nested too deeply."""
    if is_too_deep(text):
        return None
    try:
        value, faults = decode_json(text)
        if not faults:
            return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except Undecodable:
        pass
    try:
        return b"odd" + json.dumps(_ODD.decode(text.decode()), separators=(",", ":")).encode()
    except ValueError:
        return None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as its pairs, sorted by key; a repeated key keeps all of its values, in their order."""
    return {"pairs": sorted(pairs, key=itemgetter(0))}


def _number(text: str) -> dict[str, str]:
    return {"number": text}


_ODD = json.JSONDecoder(object_pairs_hook=_pairs, parse_float=_number, parse_int=_number, parse_constant=_number)
"""Decodes JSON with repeated keys, and keeps numbers as written: each dict in its result comes from a helper above."""


def _form_digest(body: bytes) -> bytes:
    """The digest of a multipart body without its boundary (RFC 2046, section 5.1.1), which changes in each retry."""
    line, end, _ = body[:MAX_BOUNDARY].partition(b"\r\n")
    parts = body.split(line) if end else [body]
    digest = hashlib.sha256(b"%d:" % len(parts) if end else b"")
    for part in parts:
        digest.update(b"%d:" % len(part) if end else b"")
        digest.update(part)
    return digest.digest()


_TOKEN = re.compile(rb'[ \t\r\n]*([\[\]{},:"]|[^ \t\r\n\[\]{},:"]+)')
_OPENING = {b"]": b"[", b"}": b"{"}


def _large_json_digest(body: bytes) -> bytes | None:
    """The digest of JSON regardless of the order of its keys, with strings as written. None: it is not strict JSON.

    Other threads can run between its tokens.
    """
    at, tokens = 0, 0
    open_ones: list[_Container] = []
    here = _Container(b"")
    while (found := _TOKEN.match(body, at)) is not None:
        token, at, tokens = found[1], found.end(), tokens + 1
        if tokens > MAX_TOKENS:
            return None
        if token in (b"[", b"{"):
            open_ones.append(here)
            here = _Container(token)
        elif token in (b"]", b"}"):
            value = here.digest() if open_ones and here.kind == _OPENING[token] else None
            if value is None:
                return None
            here = open_ones.pop()
            here.add(value)
        elif token in (b",", b":"):
            here.separators += token
            here.alternates &= len(here.separators) == len(here.values)
        elif token == b'"':
            end = _end_of_text(body, at)
            if end is None:
                return None
            here.add(hashlib.sha256(memoryview(body)[at - 1 : end]).digest(), is_text=True)
            at = end
        else:
            here.add(hashlib.sha256(token).digest())
    whole = not body[at:].strip() and not open_ones and len(here.values) == 1 and not here.separators
    return here.values[0] if whole else None


class _Container:
    """A JSON list or object that is being read."""

    def __init__(self, kind: bytes) -> None:
        self.kind = kind
        self.values: list[bytes] = []
        self.separators = bytearray()
        self.alternates = True
        self._texts = bytearray()

    def add(self, value: bytes, *, is_text: bool = False) -> None:
        """Add a value, or a key."""
        self.alternates &= len(self.separators) == len(self.values)
        self.values.append(value)
        self._texts.append(is_text)

    def digest(self) -> bytes | None:
        """The container's digest; None: it is malformed."""
        values, pairs = self.values, len(self.values) // 2
        if not self.alternates:
            return None
        if self.kind == b"[":
            well_formed = bytes(self.separators) == b"," * (len(values) - 1)
            return hashlib.sha256(b"[" + b"".join(values)).digest() if well_formed else None
        keys = values[::2]
        if len(values) % 2 or bytes(self.separators) != (b":," * pairs)[:-1] or not all(self._texts[::2]):
            return None
        by_key = sorted(zip(keys, values[1::2], strict=True), key=itemgetter(0))  # equal keys stay in their order
        return hashlib.sha256(b"{" + b"".join(itertools.chain.from_iterable(by_key))).digest()


def _end_of_text(body: bytes, start: int) -> int | None:
    """The position after the closing quotation mark of the string whose first character is at `start`."""
    at = start
    while (at := body.find(b'"', at)) >= 0:
        back = at - 1
        while back >= start and body[back] == 0x5C:
            back -= 1
        at += 1
        if (at - back) % 2 == 0:
            return at
    return None
