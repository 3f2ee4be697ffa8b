"""Searches the bodies of recordings in a process of its own: `python -I -S search_process.py PATH...`.

Python's `re` holds the lock of the whole interpreter until it is done, which for a long body, or an expression that
backtracks, is seconds. PATH is where Python finds this package. Each line of standard input asks, each line of standard
output answers; the process ends with its input, or when one search takes longer than it may.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

BLOCK = 1 << 16


class Body(NamedTuple):
    """A file to be searched."""

    path: str
    coding: str = ""
    """Its Content-Encoding; what cannot be decoded is searched as it is."""


def holds(pattern: re.Pattern[bytes], bodies: Sequence[Body], limit: int) -> bool:
    """Whether `pattern` is found in the first `limit` bytes of one of `bodies`, decoded. Raises OSError."""
    return any(_holds(pattern, body, limit) for body in bodies)


def _holds(pattern: re.Pattern[bytes], body: Body, limit: int) -> bool:
    with open(body.path, "rb") as file:  # noqa: PTH123  # pathlib takes long to import
        size = os.fstat(file.fileno()).st_size
        if not size:
            return pattern.search(b"") is not None
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
            decoded = _decoded(content, body.coding, limit)
            if decoded is not None:
                return pattern.search(decoded, 0, limit) is not None
            return pattern.search(content, 0, limit) is not None


def _decoded(content: mmap.mmap, coding: str, limit: int) -> bytearray | None:
    """What `content` unfolds to, up to about `limit` bytes, as far as it can be decoded; None: not at all."""
    from mitmproxy_x402.errors import Undecodable  # noqa: PLC0415  # found only now
    from mitmproxy_x402.protocol.codings import Decoder, needs_decoding  # noqa: PLC0415

    if not needs_decoding(coding):
        return None
    found = bytearray()
    try:
        decoder = Decoder(coding)
        for start in range(0, len(content), BLOCK):
            for piece in decoder.feed(content[start : start + BLOCK]):
                found += piece
                if len(found) >= limit:
                    return found
    except Undecodable:
        return found or None
    return found


def answer(line: bytes) -> bytes:
    """The answer to one question, as `Searcher` asks it: `1`, `0`, or `?` where a body cannot be read."""
    expression, flags, bodies, limit, seconds = json.loads(line)
    signal.alarm(seconds)  # ends the process even in the middle of a search
    try:
        pattern = re.compile(expression.encode("latin-1"), flags)
        return b"1" if holds(pattern, [Body(*body) for body in bodies], limit) else b"0"
    except (OSError, ValueError, re.error, MemoryError):
        return b"?"
    finally:
        signal.alarm(0)


def main(paths: Sequence[str]) -> None:
    """Answer until nothing more is asked."""
    sys.path[:] = paths
    os.nice(5)  # nobody waits for it, and others stream meanwhile
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(answer(line) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BrokenPipeError:  # the proxy has ended
        os._exit(0)
