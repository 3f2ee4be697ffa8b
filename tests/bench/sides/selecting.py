"""Event loops that wait as long as they are told: epoll rounds up to whole milliseconds, and so bunches events."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """As `asyncio.run`, on such a loop."""
    asyncio.set_event_loop_policy(_Policy())
    return asyncio.run(main)
