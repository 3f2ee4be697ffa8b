"""Sends an answer, with the faults that the request asked for."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from .faults import Fault
from .wire import Exchange, Pairs
from .work import Work

_EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </sandbox.css>; rel=preload\r\n\r\n"
_TRAILERS = b"0\r\nX-Sandbox-Trailer: end\r\n\r\n"
_GARBAGE = b"\x16\x03\x01 this is no HTTP\r\n\r\n"
WHOLE_FAILURES = ("reject", "rate-limit", "error", "html", "redirect", "drop", "stall", "garbage")
"""Faults after which nothing of the work is delivered."""


async def break_off(exchange: Exchange, faults: Mapping[str, Fault]) -> bool:
    """Carry out a fault that sends no answer. Returns whether there was one."""
    if "drop" in faults:
        exchange.close(reset=faults["drop"].text("how") == "reset")
    elif "stall" in faults:
        await exchange.pause(None)
    elif "garbage" in faults:
        await exchange.raw(_GARBAGE)
        exchange.close()
    else:
        return False
    return True


async def send(
    exchange: Exchange,
    work: Work,
    pairs: Pairs,
    faults: Mapping[str, Fault],
    *,
    pace: float = 0,
    on_end: Callable[[], None] = lambda: None,
) -> None:
    """Send `work` with `pairs` as further headers, `pace` seconds between the pieces of a stream.

    `on_end` is called after the last piece, before the client can know that it was the last. Raises ClientGone when the
    client left.
    """
    if "slow-head" in faults:
        await exchange.pause(faults["slow-head"].seconds())
    if "interim" in faults:
        await exchange.raw(_EARLY_HINTS)
    headers, pieces = _prepared(work, faults)
    await exchange.head(work.status, [*headers, *pairs])
    if exchange.request.method == "HEAD":
        exchange.finish()
        return
    if "slow-first" in faults:
        await exchange.pause(faults["slow-first"].seconds())
    chunked = not any(name.lower() == "content-length" for name, _ in headers)
    cut = await _send_pieces(exchange, pieces, faults, pace)
    on_end()
    if cut is None:
        await _end(exchange, faults)
    else:
        await cut_off(exchange, cut, chunked=chunked, reset=faults["cut"].text("how") == "reset")


def _prepared(work: Work, faults: Mapping[str, Fault]) -> tuple[list[tuple[str, str]], Iterable[bytes]]:
    headers = list(work.headers)
    pieces: Iterable[bytes]
    if work.pieces is not None:
        pieces = work.pieces
        if "fail-after" in faults:
            pieces = _failing(pieces, faults["fail-after"].number("after"), work.failure)
        if "gzip" in faults:
            headers = [pair for pair in headers if pair[0] != "Content-Length"]
            pieces = _gzipped(pieces)
    else:
        body = b"".join(_gzipped([work.body])) if "gzip" in faults else work.body
        pieces = [body] if body else []
        if "trailers" not in faults:
            headers.append(("Content-Length", str(len(body))))
    if "gzip" in faults:
        headers += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
    if "trailers" in faults:
        headers.append(("Trailer", "X-Sandbox-Trailer"))
    if "close" in faults or "trailers" in faults:
        headers.append(("Connection", "close"))
    if "split" in faults:
        pieces = split(pieces, faults["split"].number("bytes"))
    return headers, pieces


async def _send_pieces(
    exchange: Exchange, pieces: Iterable[bytes], faults: Mapping[str, Fault], pace: float
) -> bytes | None:
    """Send the pieces. Returns the piece to break off in, or None if all were sent."""
    cut, stall = faults.get("cut"), faults.get("stall-after")
    pause = faults["slow-chunks"].seconds() if "slow-chunks" in faults else pace
    for number, (piece, last) in enumerate(_marked(pieces)):
        if number and pause:
            await exchange.pause(pause)
        if stall is not None and number >= stall.number("after"):
            await exchange.pause(None)
        if cut is not None and (last or number >= cut.number("after")):
            return piece
        await exchange.chunk(piece)
    return None


async def _end(exchange: Exchange, faults: Mapping[str, Fault]) -> None:
    if "trailers" in faults:
        await exchange.raw(_TRAILERS)
        await exchange.finish_and_close(framed=True)
    elif "close" in faults:
        await exchange.finish_and_close()
    else:
        exchange.finish()


async def cut_off(exchange: Exchange, piece: bytes, *, chunked: bool, reset: bool) -> None:
    """Send the first half of `piece`, announced as a whole, and close."""
    half = piece[: (len(piece) + 1) // 2]
    assert exchange.sent is not None
    exchange.sent.add(half)
    await exchange.raw((b"%x\r\n" % len(piece) if chunked else b"") + half)
    exchange.close(reset=reset)


def split(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of `size`."""
    rest = b""
    for piece in pieces:
        rest += piece
        whole = len(rest) - len(rest) % size
        for start in range(0, whole, size):
            yield rest[start : start + size]
        rest = rest[whole:]
    if rest:
        yield rest


def _failing(pieces: Iterable[bytes], after: int, failure: Callable[[int], bytes]) -> Iterator[bytes]:
    yield from islice(pieces, after)
    yield failure(after)


def _gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """One gzip member, flushed after each piece."""
    packer = zlib.compressobj(wbits=31)
    for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


def _marked(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each piece, and whether it is the last."""
    held: bytes | None = None
    for piece in pieces:
        if held is not None:
            yield held, False
        held = piece
    if held is not None:
        yield held, True
