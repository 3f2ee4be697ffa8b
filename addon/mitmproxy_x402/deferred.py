"""Runs work a few milliseconds later, several pieces together: that keeps it off the path of the current request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

DELAY = 0.02
"""Seconds that the first piece waits for others, by default."""
MOST = 8
"""Most pieces per call: so many settlements block the event loop for about half a millisecond."""

Later = Callable[[float, Callable[[], object]], object]
"""Schedules a call after so many seconds, like an event loop's `call_later`."""
_Piece = TypeVar("_Piece")


class Batch(Generic[_Piece]):
    """Calls `do` with the pieces added within `delay` seconds of the first, in order, at most MOST at a time.

    Without `later`, each piece is done at once.
    """

    def __init__(self, do: Callable[[Sequence[_Piece]], object], later: Later | None, delay: float = DELAY) -> None:
        self.do = do
        self._later = later
        self._delay = delay
        self._waiting: list[_Piece] = []
        self._is_due = False

    def add(self, piece: _Piece) -> None:
        """Schedule `piece`."""
        self._waiting.append(piece)
        if self._later is None:
            self.flush()
        else:
            self._call(self._later, self._delay)

    def flush(self) -> None:
        """Do all scheduled pieces now."""
        while self._waiting:
            self._do_some()

    def close(self) -> None:
        """Do all scheduled pieces now, and every later one at once: the event loop is about to end."""
        self._later = None
        self.flush()

    def _call(self, later: Later, seconds: float) -> None:
        if not self._is_due:
            self._is_due = True
            later(seconds, self._on_time)

    def _on_time(self) -> None:
        self._is_due = False
        self._do_some()
        if self._waiting and self._later is not None:
            self._call(self._later, 0)

    def _do_some(self) -> None:
        some = self._waiting[:MOST]
        del self._waiting[:MOST]
        if some:
            self.do(some)
