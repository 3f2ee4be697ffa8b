"""Settles payments late: they wait here for a while after their work is done."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from contextlib import suppress

from ..chains.interface import Rejected
from .till import Ticket


class LateSettlements:
    """Settles each payment `seconds` after its work, by `clock` (Unix seconds): whenever somebody looks."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._number = itertools.count()
        self._waiting: list[tuple[float, int, Ticket]] = []

    def add(self, ticket: Ticket) -> None:
        """The work for it is done."""
        if ticket.is_deferred:
            return
        ticket.is_deferred = True
        heapq.heappush(self._waiting, (self._clock() + self.seconds, next(self._number), ticket))

    def settle_due(self) -> None:
        """Move the money of all whose time has come. One that the chain refuses by then is never paid."""
        while self._waiting and self._waiting[0][0] <= self._clock():
            due, _, ticket = heapq.heappop(self._waiting)
            with suppress(Rejected):  # nobody is left to tell
                ticket.settle(due)
            ticket.release()
