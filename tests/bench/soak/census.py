"""A script for mitmproxy that counts what lives within the proxy: `-s census.py`, for the soak alone.

On SIGUSR1 it counts as things are; on SIGUSR2 after a garbage collection, and what is free then is given back to the
system, so that resident memory can be compared. What it found is in `census.json` in the proxy's working folder. And it
lowers the bounds on what the addon remembers, so that a soak soon reaches them, and has what is oldest forgotten all
the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from mitmproxy import ctx

from mitmproxy_x402.payment import jobs, payer
from mitmproxy_x402.payment.retained import store as retained

REMEMBERED = int(os.environ["SOAK_REMEMBERED"])
"""Failed requests, live jobs, and names of payments that are remembered at a time."""
FILE = Path("census.json")
OURS = "mitmproxy_x402"
_CONTAINERS = (dict, list, set, WeakKeyDictionary, WeakSet, WeakValueDictionary)


def count() -> dict[str, Any]:
    objects = gc.get_objects()
    kinds = Counter(map(type, objects))
    del objects
    proxyserver = ctx.master.addons.get("proxyserver")
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "connections": len(proxyserver.connections),
        "blocks": sys.getallocatedblocks(),
        "kinds": {f"{kind.__module__}.{kind.__qualname__}": number for kind, number in kinds.items()},
        "held": dict(containers()),
    }


def containers() -> Iterator[tuple[str, int]]:
    """Name and size of every container that a module of the addon keeps, or the addon, or what belongs to either."""
    for name, module in list(sys.modules.items()):
        if module is not None and name.partition(".")[0] == OURS:
            for key, value in vars(module).items():
                yield from _sizes(f"{name.removeprefix(OURS + '.')}.{key}", value)
    addon = ctx.master.addons.get("x402")
    yield from _sizes("the addon", addon)
    for part in addon.addons:
        yield from _sizes(f"the addon {part.name}", part)


def _sizes(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, int]]:
    if isinstance(value, _CONTAINERS):
        yield name, len(value)
    elif depth < 3 and type(value).__module__.partition(".")[0] == OURS and not isinstance(value, Sized):
        for key, inner in getattr(value, "__dict__", {}).items():
            yield from _sizes(f"{name}.{key}", inner, depth + 1)


def write() -> None:
    new = FILE.with_suffix(".new")
    new.write_text(json.dumps(count()))
    new.replace(FILE)


def collect_and_write() -> None:
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc's own: what is free goes back to the system
        ctypes.CDLL(None).malloc_trim(0)
    write()


def _remember_few() -> None:
    """Forget the oldest failed requests, where the proxy would refuse to pay after many more of them."""
    remember = retained.RetainedPayments.remember

    def remember_few(self: Any, identity: Any, memory: Any) -> None:
        remember(self, identity, memory)
        while len(self._kept) > REMEMBERED:
            self._remove(next(iter(self._kept)))

    retained.RetainedPayments.remember = remember_few  # type: ignore[method-assign]


def running() -> None:
    jobs.MAX_JOBS = payer.MAX_IDENTIFIERS = REMEMBERED
    _remember_few()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, write)
    loop.add_signal_handler(signal.SIGUSR2, collect_and_write)
