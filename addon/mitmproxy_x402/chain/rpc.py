"""Asks one JSON-RPC server within its limits: batch size, requests per hour, pauses when it is busy."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from .json_rpc import Busy, Call, Declined, Unreachable, json_rpc, json_rpc_batch, origin

BATCH = 100
"""Calls per request, until the server declines that many."""
TRIES = 4
"""Attempts per request while the server asks for pauses."""
PAUSE = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""
REST = 60
"""Seconds without requests to a server that could not be reached."""
HOUR = 3600

_Result = TypeVar("_Result")


class Allowance:
    """Allows at most `per_hour` requests within any hour. `clock` returns seconds and never goes back."""

    def __init__(self, per_hour: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_hour = per_hour
        self._clock = clock
        self._asked: deque[float] = deque()

    def take(self) -> None:
        """Count one request. Raises Unreachable: this hour's requests are used up."""
        now = self._clock()
        while self._asked and self._asked[0] <= now - HOUR:
            self._asked.popleft()
        if len(self._asked) >= self._per_hour:
            raise Unreachable(f"this hour's {self._per_hour} requests are used up (x402_reconcile_rate)")
        self._asked.append(now)


class Rpc:
    """One server. `url` may hold an API key, so messages show only its `origin`; `seconds` is the time-out."""

    def __init__(
        self,
        url: str,
        seconds: float,
        allowance: Allowance,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.origin = origin(url)
        self.host = urlsplit(url).hostname or ""
        self.span = 1 << 62
        """Most blocks per request for logs, as far as the server has declined more."""
        self._url = url
        self._seconds = seconds
        self._allowance = allowance
        self._clock = clock
        self._sleep = sleep
        self._batch = BATCH
        self._rests_until = 0.0

    async def call(self, method: str, *parameters: object) -> object:
        """The result of one call. Raises Unreachable or Declined."""
        return await self._politely(lambda: json_rpc(self._url, self._seconds, method, list(parameters)))

    async def batch(self, calls: Sequence[Call]) -> list[object]:
        """The results of `calls`, in order; a failed call gives its Unreachable (usually Declined) as a result.

        Raises Unreachable: the server cannot be asked now.
        """
        results: list[object] = []
        while len(results) < len(calls):
            some = calls[len(results) : len(results) + self._batch]
            try:
                results += await self._together(some)
            except Declined as reason:
                if len(some) == 1:
                    results.append(reason)
                self._batch = max(len(some) // 2, 1)
        return results

    async def _together(self, calls: Sequence[Call]) -> list[object]:
        if len(calls) == 1:
            method, parameters = calls[0]
            return [await self.call(method, *parameters)]

        async def ask() -> list[object]:
            results = await json_rpc_batch(self._url, self._seconds, calls)
            busy = next((each for each in results if isinstance(each, Busy)), None)
            if busy is not None:
                self._batch = max(len(calls) // 2, 1)  # servers count each call of a batch
                raise busy
            return results

        return await self._politely(ask)

    async def _politely(self, ask: Callable[[], Awaitable[_Result]]) -> _Result:
        if self._clock() < self._rests_until:
            raise Unreachable("it could not be reached a moment ago")
        pause = PAUSE
        for attempt in range(TRIES):
            self._allowance.take()
            try:
                return await ask()
            except Busy:
                if attempt == TRIES - 1:
                    self._rests_until = self._clock() + REST
                    raise
            except Declined:
                raise
            except Unreachable:
                self._rests_until = self._clock() + REST
                raise
            await self._sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")
