"""The identity of a request: method, origin, path, and what its body says.

It is taken from the bytes that the client has sent, before anything in mitmproxy can change them. A Content-Encoding
comes off first, JSON is compared whatever the order of its keys, a form whatever its boundary is, and anything else, as
well as what cannot be decoded within bounds, byte for byte.

A digest of a few kilobytes is computed in place. What takes longer is computed in a thread, and JSON of many megabytes
in steps of its own, since the interpreter's JSON module would keep every other thread waiting meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

from ...errors import Undecodable
from ...protocol.codings import decode, needs_decoding
from ...protocol.strict_json import decode_json

MAX_IN_PLACE = 64 << 10
"""Bytes of an uncompressed body whose digest is computed on the event loop."""
MAX_AT_ONCE = 256 << 10
"""Bytes of JSON that are decoded as a whole."""
MAX_DECODED = 128 << 20
"""Bytes that a compressed body may unfold to; one that is larger is compared as it came."""
MAX_TOKENS = 500_000
"""Values, brackets and separators of a large JSON body; one that has more is compared byte for byte."""
MAX_BOUNDARY = 80
"""Bytes of a multipart body's first line: two hyphens, at most 70 of a boundary, the end of the line, and some."""

Route = tuple[str, str, str]
"""Method, upstream (scheme, host and port), path with its query: cheap to compare before anything is computed."""
Fingerprint = tuple[Route, bytes]


class RequestIdentity:
    """Who a request is, for `retained`: its route at once, the digest of its body when it is asked for."""

    def __init__(self, route: Route, body: bytes = b"", coding: str = "") -> None:
        self.route = route
        self._body, self._coding = body, coding
        self._digest: bytes | None = None
        self._computing: Future[bytes] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether `digest` is there, or takes no time worth mentioning."""
        if self._digest is not None or (len(self._body) <= MAX_IN_PLACE and not needs_decoding(self._coding)):
            return True
        return self._computing is not None and self._computing.done()

    def start(self) -> Future[bytes]:
        """Have the digest computed in a thread, once."""
        if self._computing is None:
            self._computing = _threads().submit(body_digest, self._body, self._coding)
            self._body = b""
        return self._computing

    def prepare(self) -> None:
        """Let go of the body: for `digest` now, where that takes no time, or in a while."""
        if self.is_ready:
            _ = self.digest
        else:
            self.start()

    async def ready(self) -> None:
        """Wait until `digest` is there, while other requests go on."""
        if not self.is_ready:
            await asyncio.wrap_future(self.start())

    @property
    def digest(self) -> bytes:
        """Equal for bodies that say the same. Waits for it where it is not ready."""
        if self._digest is None:
            computing = self._computing
            self._digest = body_digest(self._body, self._coding) if computing is None else computing.result()
            self._body, self._computing = b"", None
        return self._digest

    @property
    def fingerprint(self) -> Fingerprint:
        """Equal for equal requests. Waits as `digest` does."""
        return self.route, self.digest


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="x402 identity")


def body_digest(body: bytes, coding: str = "") -> bytes:
    """Equal for bodies that say the same; `coding` is the Content-Encoding header that `body` came with."""
    try:
        for each in reversed(coding.split(",")):
            body = decode(body, each, MAX_DECODED)
    except Undecodable:
        return hashlib.sha256(b"coded %b\n" % coding.lower().encode("utf-8", "surrogateescape") + body).digest()
    if body.startswith(b"--"):
        return _form_digest(body)
    if body.lstrip()[:1] not in (b"{", b"["):
        return hashlib.sha256(body).digest()
    if len(body) > MAX_AT_ONCE:
        return _large_json_digest(body) or hashlib.sha256(body).digest()
    try:
        value, faults = decode_json(body)
    except Undecodable:
        faults = ("",)
    return hashlib.sha256(
        body if faults else json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).digest()


def _form_digest(body: bytes) -> bytes:
    """Of a multipart body without its boundary (RFC 2046, section 5.1.1), which clients draw anew when they repeat."""
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
    """Of JSON whatever the order of its keys; texts are compared as they are written. None: it is no plain JSON.

    Each token takes a few steps of the interpreter, between which other threads go on.
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
    """A list or an object that is being read."""

    def __init__(self, kind: bytes) -> None:
        self.kind = kind
        self.values: list[bytes] = []
        self.separators = bytearray()
        self.alternates = True
        self._texts = bytearray()

    def add(self, value: bytes, *, is_text: bool = False) -> None:
        """One more value, or key."""
        self.alternates &= len(self.separators) == len(self.values)
        self.values.append(value)
        self._texts.append(is_text)

    def digest(self) -> bytes | None:
        """None where it is malformed, or a key is there twice."""
        values, pairs = self.values, len(self.values) // 2
        if not self.alternates:
            return None
        if self.kind == b"[":
            well_formed = bytes(self.separators) == b"," * (len(values) - 1)
            return hashlib.sha256(b"[" + b"".join(values)).digest() if well_formed else None
        keys = values[::2]
        if (
            len(values) % 2
            or bytes(self.separators) != (b":," * pairs)[:-1]
            or not all(self._texts[::2])
            or len(set(keys)) != len(keys)
        ):
            return None
        return hashlib.sha256(b"{" + b"".join(sorted(map(bytes.__add__, keys, values[1::2])))).digest()


def _end_of_text(body: bytes, start: int) -> int | None:
    """Where the text ends, behind its closing quotation mark, whose first character is at `start`."""
    at = start
    while (at := body.find(b'"', at)) >= 0:
        back = at - 1
        while back >= start and body[back] == 0x5C:
            back -= 1
        at += 1
        if (at - back) % 2 == 0:
            return at
    return None
