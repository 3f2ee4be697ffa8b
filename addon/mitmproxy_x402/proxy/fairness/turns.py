"""Schedules connections whose data takes long to process, so that they do not hold up the others."""

from __future__ import annotations

import time

LONG = 0.004
"""Seconds of processing after which a connection yields to others."""


class Turns:
    """Assigns turns one after the other, and leaves at least as much time between them for all other connections.

    If each connection went on in the next iteration of the event loop, fifty would block it fifty times as long as one.
    """

    def __init__(self) -> None:
        self._free = 0.0
        """When the next turn may begin (monotonic clock)."""

    def take(self, took: float = LONG) -> float:
        """Reserve the next turn, and return the seconds until it begins; 0 if no other turn is pending.

        `took` is the length of the caller's last turn in seconds; the gap grows with it, as turns do on a busy machine.
        """
        now = time.monotonic()
        begins = max(now, self._free)
        self._free = begins + 2 * max(LONG, took)
        return begins - now


TURNS = Turns()
"""The turns of this process, which has one event loop."""
