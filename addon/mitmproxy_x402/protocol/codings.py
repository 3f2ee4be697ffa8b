"""Decodes Content-Encoding as a body arrives, within bounds: gzip, deflate, br, zstd.

An answer is decoded chunk by chunk, so that observers see it as it streams. Compressed data can expand a millionfold,
so decoding stops beyond a ratio, and no step holds more than some tens of megabytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, cast

from ..errors import Undecodable

MAX_DECODED = 1 << 30
"""Bytes that one body may unfold to."""
MAX_RATIO = 1000
"""How far a body may unfold, beyond the first FREE bytes."""
FREE = 16 << 20


MAX_MEMBERS = 1000
"""Members of gzip, frames of zstd, that one body may consist of: each costs a decompressor, and may be empty."""
STEP = 64 << 10
"""Bytes that one step may unfold to, or half as much again, where the library can be told so."""


class UnfoldsTooFar(Undecodable):
    """The body exceeds a bound; how large it would become elsewhere is not known."""


class _Step(Protocol):
    """One decompressor: `unfold` is given at most `piece` bytes at once, and gives parts of bounded size."""

    piece: int

    @property
    def is_whole(self) -> bool: ...

    @property
    def is_over(self) -> bool: ...

    def unfold(self, data: bytes) -> Iterator[bytes]: ...


class Decoder:
    """Decodes one body of the Content-Encoding `coding`. Raises Undecodable: not one that is known here."""

    def __init__(self, coding: str) -> None:
        make = _STEPS.get(coding.strip().lower())
        if make is None:
            raise Undecodable(f"the coding {coding.strip()[:40]!a} is not known here")
        self._step = make()
        self._taken = 0
        self._given = 0

    @property
    def is_whole(self) -> bool:
        """Whether what was fed ends where the coding does: nothing is missing, and nothing follows."""
        return self._step.is_whole

    @property
    def is_over(self) -> bool:
        """Whether the end of the coding has come, whatever follows it."""
        return self._step.is_over

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data`, the next part of the body, unfolds to. Raises Undecodable: then no more can be fed."""
        size = self._step.piece
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            before, self._taken = self._taken, self._taken + len(piece)
            try:
                for unfolded in self._step.unfold(piece):
                    self._given += len(unfolded)
                    if self._given > min(MAX_DECODED, max(FREE, self._taken * MAX_RATIO)):
                        raise UnfoldsTooFar(f"it unfolds too far: {self._taken} bytes became more than {self._given}")
                    if unfolded:
                        yield unfolded
            except Undecodable:
                raise
            except Exception as error:  # each library has an error of its own
                raise Undecodable(f"the coding is broken after {before} bytes ({type(error).__name__})") from None


def needs_decoding(coding: str) -> bool:
    """Whether a Content-Encoding header says that the body is coded at all."""
    return coding.strip().lower() not in ("", "identity")


def decode(body: bytes, coding: str, limit: int, *, whole: bool = False) -> bytes:
    """`body` without its Content-Encoding `coding`, up to about `limit` bytes. Raises Undecodable, also beyond that.

    With `whole`, also if the body does not end where the coding does: servers differ in whether they read on.
    """
    if not needs_decoding(coding):
        return body
    decoder = Decoder(coding)
    parts, size = [], 0
    for part in decoder.feed(body):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise Undecodable(f"it unfolds to more than {limit} bytes")
    if whole and body and not decoder.is_whole:
        raise Undecodable("its end is missing, or something follows it")
    return b"".join(parts)


class _Zlib:
    """gzip (RFC 1952), also of several members, and deflate (RFC 9110, section 8.4.1.2), also without its wrapper."""

    piece = 4096  # what follows the end of a member is copied, once for each

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._inner = zlib.decompressobj(bits)
        self._first = b""
        self._members = 0

    @property
    def is_whole(self) -> bool:
        return self._inner.eof and not self._inner.unused_data

    @property
    def is_over(self) -> bool:
        return self._inner.eof

    def unfold(self, data: bytes) -> Iterator[bytes]:
        if self._inner.unused_data:  # zlib would copy it again for each piece
            return
        if self._bits == zlib.MAX_WBITS:
            self._first += data
            if len(self._first) < 2:
                return
            wrapped = self._first[0] & 0x0F == 8 and int.from_bytes(self._first[:2], "big") % 31 == 0
            self._bits = 0 if wrapped else -zlib.MAX_WBITS
            self._inner = zlib.decompressobj(self._bits or zlib.MAX_WBITS)
            data = self._first
        yield self._inner.decompress(data, STEP)
        while True:
            if self._inner.unconsumed_tail:
                yield self._inner.decompress(self._inner.unconsumed_tail, STEP)
            elif self._inner.eof and self._bits > zlib.MAX_WBITS and self._inner.unused_data.startswith(b"\x1f"):
                self._members = _one_more(self._members)
                rest, self._inner = self._inner.unused_data, zlib.decompressobj(self._bits)
                yield self._inner.decompress(rest, STEP)
            else:
                return


def _one_more(members: int) -> int:
    """Raises Undecodable: that would be too many."""
    if members >= MAX_MEMBERS:
        raise UnfoldsTooFar(f"it has more than {MAX_MEMBERS} members")
    return members + 1


def _library(coding: str, *modules: str) -> ModuleType:
    """The first of `modules` that is installed. Raises Undecodable: none is."""
    for module in modules:
        with suppress(ImportError):
            return import_module(module)
    raise Undecodable(f"nothing that decodes {coding} is installed ({' or '.join(modules)})")


class _Brotli:
    """Brotli (RFC 7932). Libraries before 1.2 cannot be told to stop, and a step of a few bytes can unfold to 16 MB."""

    def __init__(self) -> None:
        library = _library("br", "brotli", "brotlicffi")
        self._inner = library.Decompressor()
        self._is_bounded = hasattr(self._inner, "can_accept_more_data")
        self.piece = STEP if self._is_bounded else 1

    @property
    def is_whole(self) -> bool:
        return bool(self._inner.is_finished())

    @property
    def is_over(self) -> bool:
        return self.is_whole

    def unfold(self, data: bytes) -> Iterator[bytes]:
        if not self._is_bounded:
            yield cast(bytes, self._inner.process(data))
            return
        unfolded = self._inner.process(data, output_buffer_limit=STEP)
        yield unfolded
        # What it holds back is no input any more: that it can accept more does not say that it has given all.
        while not self._inner.is_finished() and (unfolded or not self._inner.can_accept_more_data()):
            unfolded = self._inner.process(b"", output_buffer_limit=STEP)
            yield unfolded


class _Zstandard:
    piece = 4096  # what follows the end of a member is copied, once for each

    def __init__(self) -> None:
        zstd = _library("zstd", "compression.zstd", "backports.zstd")
        # RFC 9659: no window above 8 MB in HTTP.
        self._new: Callable[[], Any] = lambda: zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: 23}
        )
        self._inner = self._new()
        self._members = 0

    @property
    def is_whole(self) -> bool:
        return bool(self._inner.eof)

    @property
    def is_over(self) -> bool:
        return self.is_whole

    def unfold(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._inner.eof:
                self._members = _one_more(self._members)
                self._inner = self._new()
            yield self._inner.decompress(data, STEP)
            while not (self._inner.eof or self._inner.needs_input):
                yield self._inner.decompress(b"", STEP)
            data = self._inner.unused_data if self._inner.eof else b""


_STEPS: dict[str, Callable[[], _Step]] = {
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "x-gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
    "deflateraw": lambda: _Zlib(-zlib.MAX_WBITS),  # no standard's, but mitmproxy's views decode it
    "br": _Brotli,
    "zstd": _Zstandard,
}
