"""Syncs the ledger's file to the disk, in a thread beside the event loop.

SQLite writes each transaction to its log (`ledger.sqlite3-wal`) at once, so it survives the end of the process. It
survives a power cut once that log is synced. A caller that needs this waits without blocking others, and one sync
serves all callers that are waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

_FULL_FSYNC = getattr(fcntl, "F_FULLFSYNC", None)
"""The macOS call that does what `fsync` does elsewhere."""


_Wait = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Disk:
    """Syncs the log of one ledger file, which must exist. Raises OSError; `failure` converts it for those who wait."""

    def __init__(self, path: Path, failure: Callable[[OSError], Exception]) -> None:
        self._path = path
        self._failure = failure
        self._fd = os.open(f"{path}-wal", os.O_RDONLY)
        self._waiting: queue.SimpleQueue[_Wait | Literal["checkpoint", "end"]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def soon(self) -> asyncio.Future[None]:
        """An awaitable that is done when everything written so far is on the disk, or the sync has failed."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        done.add_done_callback(lambda its: its.cancelled() or its.exception())  # the waiting request may be gone
        self._put((loop, done))
        time.sleep(0)  # lets the thread start before the signature is made
        return done

    def checkpoint_soon(self) -> None:
        """Start copying the log into the database file (a checkpoint)."""
        self._put("checkpoint")

    def _put(self, what: _Wait | Literal["checkpoint", "end"]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="x402 ledger disk", daemon=True)
            self._thread.start()
        self._waiting.put(what)

    def now(self) -> None:
        """Sync now and block until it is done. Raises OSError."""
        if _FULL_FSYNC is None:
            os.fdatasync(self._fd)
        else:
            fcntl.fcntl(self._fd, _FULL_FSYNC)

    def _run(self) -> None:
        while True:
            some = [self._waiting.get()]
            while not self._waiting.empty():
                some.append(self._waiting.get())
            waits = [one for one in some if isinstance(one, tuple)]
            if waits:
                failure: Exception | None = None
                try:
                    self.now()
                except OSError as error:
                    failure = self._failure(error)
                for loop, done in waits:
                    _tell(loop, done, failure)
            if "checkpoint" in some:
                self._checkpoint()
            if "end" in some:
                return

    def _checkpoint(self) -> None:
        """Run a checkpoint. A failure is harmless: another one follows."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self._path, timeout=0)) as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Wait for running syncs, and end the thread."""
        if self._thread is not None:
            self._waiting.put("end")
            self._thread.join()
            self._thread = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None], failure: Exception | None) -> None:
    tell: Callable[[], None] = lambda: _end(done, failure)  # noqa: E731
    with contextlib.suppress(RuntimeError):  # the event loop has ended
        loop.call_soon_threadsafe(tell)


def _end(done: asyncio.Future[None], failure: Exception | None) -> None:
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)
