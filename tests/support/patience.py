"""Waiting for what another thread or process does: until it is so, and never for ever."""

from __future__ import annotations

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
