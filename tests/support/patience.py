"""Waiting for what another thread or process does: until it is so, and never for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SECONDS = 20
"""Far longer than anything takes, since a busy machine may take long."""


def eventually(true: Callable[[], object], seen: Callable[[], object] = str, seconds: float = SECONDS) -> None:
    """Wait until `true` returns something true, and fail when it never does; `seen` says how it is instead."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"it never happened {seen()}"
        time.sleep(0.01)


class BusyLoop:
    """Gives the running event loop something to do in every turn, until it is told to stop."""

    def __init__(self) -> None:
        self._is_busy = True
        self._turn()

    def _turn(self) -> None:
        if self._is_busy:
            asyncio.get_running_loop().call_soon(self._turn)

    async def wait(self, turns: int) -> None:
        """Let so many turns pass."""
        for _ in range(turns):
            await asyncio.sleep(0)

    def stop(self) -> None:
        """Have the loop be idle from the next turn on."""
        self._is_busy = False
