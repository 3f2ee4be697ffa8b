"""Deals out turns to the connections whose data takes long to process, whichever they are."""

from __future__ import annotations

import time

LONG = 0.004
"""Seconds of processing after which a connection gives way to others."""


class Turns:
    """Gives each connection that asks a turn of its own, one after the other, and as much time between for all others.

    Were each to go on in the next turn of the event loop, fifty such connections would hold it up fifty times as long
    as one.
    """

    def __init__(self) -> None:
        self._free = 0.0
        """When the next turn is free (monotonic clock)."""

    def take(self, took: float = LONG) -> float:
        """Take the next free turn after one that `took` so many seconds; the seconds until it begins.

        0 if nobody has had a turn lately. What is left free grows with `took`: on a busy machine each turn is longer.
        """
        now = time.monotonic()
        begins = max(now, self._free)
        self._free = begins + 2 * max(LONG, took)
        return begins - now


TURNS = Turns()
"""Those of this process, which has one event loop."""
