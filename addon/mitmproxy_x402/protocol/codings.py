"""Takes the Content-Encoding off a body while it still comes in, within bounds: gzip, deflate, br, zstd.

An answer is decoded chunk by chunk, so that whoever looks on sees it as it streams. Compressed data can be made to
unfold a millionfold; what unfolds too far is broken off, and no step holds more than some tens of megabytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, cast

MAX_DECODED = 1 << 30
"""Bytes that one body may unfold to."""
MAX_RATIO = 1000
"""How far a body may unfold, beyond the first FREE bytes."""
FREE = 16 << 20


class Undecodable(ValueError):
    """The body cannot be decoded, or not further: says why, in half a sentence."""


class _Step(Protocol):
    """One decompressor: `unfold` is given at most `piece` bytes at once."""

    piece: int

    def unfold(self, data: bytes) -> bytes: ...


class Decoder:
    """Decodes one body of the Content-Encoding `coding`. Raises Undecodable: not one that is known here."""

    def __init__(self, coding: str) -> None:
        make = _STEPS.get(coding.strip().lower())
        if make is None:
            raise Undecodable(f"the coding {coding.strip()[:40]!a} is not known here")
        self._step = make()
        self._taken = 0
        self._given = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data`, the next part of the body, unfolds to. Raises Undecodable: then no more can be fed."""
        size = self._step.piece
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            try:
                unfolded = self._step.unfold(piece)
            except Exception as error:  # each library has an error of its own
                raise Undecodable(f"the coding is broken after {self._taken} bytes ({type(error).__name__})") from None
            self._taken += len(piece)
            self._given += len(unfolded)
            if self._given > min(MAX_DECODED, max(FREE, self._taken * MAX_RATIO)):
                raise Undecodable(f"it unfolds too far: {self._taken} bytes became more than {self._given}")
            if unfolded:
                yield unfolded


def needs_decoding(coding: str) -> bool:
    """Whether a Content-Encoding header says that the body is coded at all."""
    return coding.strip().lower() not in ("", "identity")


def decode(body: bytes, coding: str, limit: int) -> bytes:
    """`body` without its Content-Encoding `coding`, up to about `limit` bytes. Raises Undecodable, also beyond that."""
    if not needs_decoding(coding):
        return body
    parts, size = [], 0
    for part in Decoder(coding).feed(body):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise Undecodable(f"it unfolds to more than {limit} bytes")
    return b"".join(parts)


class _Zlib:
    """gzip (RFC 1952), also of several members, and deflate (RFC 9110, section 8.4.1.2), also without its wrapper."""

    piece = 4096  # deflate unfolds 1032 times at most

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._inner = zlib.decompressobj(bits)
        self._first = b""

    def unfold(self, data: bytes) -> bytes:
        if self._bits == zlib.MAX_WBITS:
            self._first += data
            if len(self._first) < 2:
                return b""
            wrapped = self._first[0] & 0x0F == 8 and int.from_bytes(self._first[:2], "big") % 31 == 0
            self._bits = 0 if wrapped else -zlib.MAX_WBITS
            self._inner = zlib.decompressobj(self._bits or zlib.MAX_WBITS)
            data = self._first
        parts = [self._inner.decompress(data)]
        while self._inner.eof and self._bits > zlib.MAX_WBITS and self._inner.unused_data.startswith(b"\x1f"):
            rest, self._inner = self._inner.unused_data, zlib.decompressobj(self._bits)
            parts.append(self._inner.decompress(rest))
        return b"".join(parts)


def _library(coding: str, *modules: str) -> ModuleType:
    """The first of `modules` that is installed. Raises Undecodable: none is."""
    for module in modules:
        with suppress(ImportError):
            return import_module(module)
    raise Undecodable(f"nothing that decodes {coding} is installed ({' or '.join(modules)})")


class _Brotli:
    piece = 32  # a step of a few bytes can unfold to 16 MB, and older libraries cannot be told to stop

    def __init__(self) -> None:
        self._inner = _library("br", "brotli", "brotlicffi").Decompressor()

    def unfold(self, data: bytes) -> bytes:
        return cast(bytes, self._inner.process(data))


class _Zstandard:
    piece = 256  # four bytes can unfold to 128 KB

    def __init__(self) -> None:
        zstd = _library("zstd", "compression.zstd", "backports.zstd")
        # RFC 9659: no window above 8 MB in HTTP.
        self._new: Callable[[], Any] = lambda: zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: 23}
        )
        self._inner = self._new()

    def unfold(self, data: bytes) -> bytes:
        parts = []
        while data:
            if self._inner.eof:
                self._inner = self._new()
            parts.append(self._inner.decompress(data))
            data = self._inner.unused_data if self._inner.eof else b""
        return b"".join(parts)


_STEPS: dict[str, Callable[[], _Step]] = {
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "x-gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
    "br": _Brotli,
    "zstd": _Zstandard,
}
