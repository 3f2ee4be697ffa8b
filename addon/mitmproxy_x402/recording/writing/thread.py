"""Writes recordings in threads of the proxy: works everywhere, and with mitmproxy's own formats.

One thread writes what the event loop hands over; another does the work at the end of a flow, which can take seconds
for a large one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from .parts import Part
from .store import STANDSTILL, Kept, Store, Tell


class Finish(Protocol):
    """Is called at the end of a recording, to do more than write its folder. Raises OSError and RecordingError."""

    @property
    def size(self) -> int:
        """The bytes that it takes in memory."""

    def __call__(self, kept: Kept) -> None:
        """Called in the thread, when the folder is written."""


_NOTHING: Mapping[int, Finish] = {}


class ThreadWriter:
    """Writes in threads, in order."""

    is_ready = True
    """Whether it takes parts."""
    is_gone = False
    """Whether it has ended, and what it was given last may be lost."""

    def __init__(self, tell: Tell) -> None:
        self._queue: queue.SimpleQueue[tuple[Sequence[Part], Mapping[int, Finish], int] | None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[tuple[Part, Finish] | None] = queue.SimpleQueue()
        self._store = Store(tell)
        self._given = 0  # bytes; counted up by one thread each, so that none needs a lock
        self._taken = 0
        self._finished = 0
        self._threads = [
            threading.Thread(target=work, name="x402 recorder", daemon=True) for work in (self._run, self._run_ends)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Bytes that wait for the disk."""
        return self._given - self._taken - self._finished

    def write(self, parts: Sequence[Part], size: int, ends: Mapping[int, Finish] = _NOTHING) -> None:
        """Write `parts`, of `size` bytes; `ends` has by number what else is to be done for those that are over."""
        self._given += size
        self._queue.put((parts, ends, size))

    def close(self, timeout: float) -> int | None:
        """Write what waits. Returns None if everything was written, or the bytes that were not.

        Waits for at most `timeout` seconds, and not for a disk that takes nothing for STANDSTILL.
        """
        deadline = time.monotonic() + timeout
        self._queue.put(None)
        for thread in self._threads:
            while thread.is_alive():
                waiting, left = self.waiting, max(0.0, deadline - time.monotonic())
                thread.join(min(STANDSTILL, left))
                if thread.is_alive() and (self.waiting == waiting or left < STANDSTILL):
                    return max(1, self.waiting)
        return None

    def _run(self) -> None:
        while (given := self._queue.get()) is not None:
            parts, ends, size = given
            for part in parts:
                self._store.add(part)
                if part.is_over:
                    size -= self._finish_soon(part, ends.get(part.number))
            self._taken += size
        self._ends.put(None)

    def _finish_soon(self, part: Part, finish: Finish | None) -> int:
        """Finish a recording, here or in the other thread. Returns the bytes that wait on."""
        if finish is None:
            self._store.finish(part)
            return 0
        self._ends.put((part, finish))
        return finish.size

    def _run_ends(self) -> None:
        while (given := self._ends.get()) is not None:
            part, finish = given
            kept = self._store.finish(part)
            if kept is not None:
                self._store.attempt(kept, finish, kept)
            self._finished += finish.size
