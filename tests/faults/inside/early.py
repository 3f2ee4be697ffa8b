"""Loaded by the proxy before the door: a wall clock that a test can set, and holds before the addon's own hooks."""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

from mitmproxy import http

sys.path.insert(0, str(Path(__file__).parent))

from hold import hold

_wall = time.time
with Path("clock.offset").open("rb") as _file:
    _offset = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)


def _shifted() -> float:
    (seconds,) = struct.unpack("d", _offset[:8])
    return _wall() + float(seconds)


if _wall.__name__ != _shifted.__name__:  # it may be loaded twice
    time.time = _shifted


async def x402_challenge(flow: http.HTTPFlow) -> None:
    await hold(flow, "challenge")


async def response(flow: http.HTTPFlow) -> None:
    await hold(flow, "outcome")
