"""Writes recordings in threads of the proxy: works everywhere, and with mitmproxy's own formats.

One thread writes what the event loop hands over; another does the work at the end of a flow, which can take seconds
for a large one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..format import read_recording
from ..har import HarFiles
from .parts import Part
from .store import Kept, Store, Tell

if TYPE_CHECKING:
    from ..mitm import FlowFile


@dataclass(frozen=True)
class Outputs:
    """The formats that recordings are written in."""

    native: bool
    """Whether the folders are kept."""
    har: HarFiles | None = None
    mitm: FlowFile | None = None

    @property
    def is_plain(self) -> bool:
        """Whether only folders are written."""
        return self.native and self.har is None and self.mitm is None


@dataclass(frozen=True)
class Finish:
    """What is to be done at the end of a recording, besides writing its folder."""

    outputs: Outputs
    state: dict[str, Any] | None = field(default=None, repr=False)
    """mitmproxy's state of the flow without the answer's body, if a format or the filter needs it."""
    wanted: Callable[[dict[str, Any], Path | None], bool] | None = field(default=None, repr=False)
    """Returns whether to keep the recording, given that state and the file with the body."""
    size: int = 0
    """Bytes of `state`."""


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
        self._ends_given = 0  # to the other thread; while it has any, it gets all, for the sake of their order
        self._ends_taken = 0
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

    def close(self, timeout: float) -> bool:
        """Write what waits, for at most `timeout` seconds. Returns whether everything was written."""
        deadline = time.monotonic() + timeout
        self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

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
        if finish.outputs.is_plain and finish.wanted is None and self._ends_taken == self._ends_given:
            self._store.finish(part)
            return 0
        self._ends_given += 1
        self._ends.put((part, finish))
        return finish.size

    def _run_ends(self) -> None:
        while (given := self._ends.get()) is not None:
            part, finish = given
            kept = self._store.finish(part)
            if kept is not None:
                self._store.attempt(kept, _finish, kept, finish)
            self._finished += finish.size
            self._ends_taken += 1


def _finish(kept: Kept, finish: Finish) -> None:
    """Write the other formats. Raises OSError and RecordingError."""
    outputs = finish.outputs
    if outputs.is_plain and finish.wanted is None:
        return
    folder = kept.folder
    recording = read_recording(folder.path)
    if finish.wanted is not None and finish.state is not None:
        body = recording.response.body if recording.response is not None else None
        if not finish.wanted(finish.state, None if body is None else folder.path / body):
            folder.remove()
            return
    if kept.trouble:
        return
    if outputs.har is not None:
        outputs.har.add(recording)
    if outputs.mitm is not None and finish.state is not None:
        outputs.mitm.add(finish.state, recording)
    if not outputs.native:
        folder.remove()
