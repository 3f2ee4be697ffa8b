"""Batches deferred work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

DELAY = 0.02
"""Seconds that a piece waits for others, where nothing else is said."""
MOST = 8
"""Pieces that are done at a time: so many settlements keep the event loop for about half a millisecond."""

Later = Callable[[float, Callable[[], object]], object]
"""Has something done after so many seconds, as an event loop's `call_later`."""
_Piece = TypeVar("_Piece")


class Batch(Generic[_Piece]):
    """Has `do` called with the pieces in their order, up to MOST of them, `delay` seconds after the first.

    Without `later` each is done at once.
    """

    def __init__(self, do: Callable[[Sequence[_Piece]], object], later: Later | None, delay: float = DELAY) -> None:
        self.do = do
        self._later = later
        self._delay = delay
        self._waiting: list[_Piece] = []
        self._is_due = False

    def add(self, piece: _Piece) -> None:
        """Have it done, soon."""
        self._waiting.append(piece)
        if self._later is None:
            self.flush()
        else:
            self._call(self._later, self._delay)

    def flush(self) -> None:
        """Do now all that waits."""
        while self._waiting:
            self._do_some()

    def close(self) -> None:
        """The end of the event loop is near: do all that waits, and from here on each at once."""
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
