"""A script for mitmproxy that notes how long the event loop was blocked: `-s watchdog.py`, for the benchmark alone.

Every callback of the loop is timed, and every call of a hook of the x402 addon, or of what is done later for several
requests together. When the proxy ends, both lists are in `blocks.json` in its working folder: when it began (seconds on
the monotonic clock) and how long it took (milliseconds).
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mitmproxy import ctx

LEAST = 0.05
"""Milliseconds; callbacks that take less are not kept."""
HOOKS = ("requestheaders", "request", "x402_challenge", "responseheaders", "response")

callbacks: list[tuple[float, float]] = []
hooks: list[tuple[float, float, str]] = []

_run = asyncio.Handle._run


def _timed_run(self: asyncio.Handle) -> None:
    begun = time.monotonic()
    _run(self)
    took = (time.monotonic() - begun) * 1000
    if took >= LEAST:
        callbacks.append((begun, took))


def _timed(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(hook):

        async def later(flow: Any) -> None:
            begun = time.monotonic()
            await hook(flow)
            hooks.append((begun, (time.monotonic() - begun) * 1000, name))

        return later

    def now(*arguments: Any) -> Any:
        begun = time.monotonic()
        result = hook(*arguments)
        hooks.append((begun, (time.monotonic() - begun) * 1000, name))
        return result

    return now


def running() -> None:
    asyncio.Handle._run = _timed_run  # type: ignore[method-assign]
    addon = ctx.master.addons.get("x402")
    for name in HOOKS if addon is not None else ():
        if hasattr(addon, name):
            setattr(addon, name, _timed(name, getattr(addon, name)))
    if addon is not None:
        soon = addon.payer.outcomes.soon
        soon.write = _timed("settlements", soon.write)
    late = getattr(ctx.master.addons.get("dumper"), "late", None)
    if late is not None:
        late.do = _timed("lines for flows", late.do)


def done() -> None:
    Path("blocks.json").write_text(json.dumps({"callbacks": callbacks, "hooks": hooks}))
