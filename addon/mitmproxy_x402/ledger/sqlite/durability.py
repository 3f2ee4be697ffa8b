"""Syncs the ledger's file to the disk without blocking the event loop.

SQLite writes each transaction to its log (`ledger.sqlite3-wal`) at once, so it survives the end of the process. It
survives a power cut once that log is synced. One sync runs at a time, begun right after the reservation and while the
payment is signed. Payments that are reserved meanwhile share the next one.

A sync that changes the length of a file also has to write the file system's own journal, which takes three times as
long on an idle disk and up to a hundred times on a busy one. So the log is filled with zeros once, and reused from its
start after each checkpoint. SQLite ends its log at the first frame whose checksum is wrong, so zeros are harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Protocol

from .kernel_sync import KernelSync

_FULL_FSYNC = getattr(fcntl, "F_FULLFSYNC", None)
"""The macOS call that does what `fsync` does elsewhere."""
LOG_BYTES = 20_000_000
"""Initial length of the log: what the payments between two checkpoints take (40 KB each), twice."""
_BLOCK = 1 << 20


class Sync(Protocol):
    """Syncs one file in the background, one sync at a time."""

    fd: int
    """Readable when a sync has ended."""

    def begin(self) -> None:
        """Begin to sync everything written so far. Raises OSError."""

    def ended(self) -> bool:
        """Whether the sync that was begun has ended; does not block. Raises OSError if it failed."""

    def close(self) -> None:
        """Wait for a sync that is running, and free what it needs."""


def sync_now(file: int) -> None:
    """Sync `file`, and block until that is done. Raises OSError."""
    if _FULL_FSYNC is None:
        os.fdatasync(file)
    else:
        fcntl.fcntl(file, _FULL_FSYNC)


class ThreadSync:
    """Syncs in a thread: works everywhere."""

    def __init__(self, file: int) -> None:
        self._file = file
        self.fd, self._done_fd = os.pipe()
        os.set_blocking(self.fd, False)
        self._begun = threading.Semaphore(0)
        self._error: OSError | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin to sync everything written so far."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="x402 ledger disk", daemon=True)
            self._thread.start()
        self._begun.release()

    def _run(self) -> None:
        while self._begun.acquire() and not self._closing:
            try:
                sync_now(self._file)
            except OSError as error:
                self._error = error
            os.write(self._done_fd, b"!")

    def ended(self) -> bool:
        """Whether the sync that was begun has ended. Raises OSError if it failed."""
        try:
            os.read(self.fd, 1)
        except BlockingIOError:
            return False
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    def close(self) -> None:
        """Wait for a sync that is running, and end the thread."""
        if self._thread is not None:
            self._closing = True
            self._begun.release()
            self._thread.join()
            self._thread = None
        for fd in (self.fd, self._done_fd):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fd = self._done_fd = -1


def sync_of(file: int) -> Sync:
    """The fastest way to sync `file` in the background that works here."""
    try:
        return KernelSync(file)
    except OSError:
        return ThreadSync(file)


class Durable:
    """One sync, shared by everybody who awaits it. Raises what `failure` of its `Disk` makes of an OSError."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._waiting: list[asyncio.Future[None]] = []
        self._error: Exception | None = None
        self._is_over = False

    def __await__(self) -> Generator[asyncio.Future[None], None, None]:
        self._disk.look()  # a sync that has ended by now takes no turn of the event loop
        if not self._is_over:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            yield from waiting
        if self._error is not None:
            raise self._error

    def is_done(self) -> bool:
        """Whether it has ended well."""
        self._disk.look()
        return self._is_over and self._error is None

    def end(self, error: Exception | None) -> None:
        """Wake everybody who waits."""
        self._is_over, self._error = True, error
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class Disk:
    """Syncs the log of one ledger file, which must exist. Raises OSError; `failure` converts it for those who wait."""

    def __init__(self, path: Path, failure: Callable[[OSError], Exception], make_sync: Callable[[int], Sync]) -> None:
        self._path = path
        self._failure = failure
        self._fd = os.open(f"{path}-wal", os.O_RDONLY)
        self._make_sync = make_sync
        self._made: Sync | None = None
        self._current: Durable | None = None
        self._next: Durable | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._checkpoint: threading.Thread | None = None

    @property
    def _sync(self) -> Sync:
        """Made when it is needed first: many open the ledger who never pay."""
        if self._made is None:
            self._made = self._make_sync(self._fd)
        return self._made

    def soon(self) -> Durable:
        """An awaitable that is done when everything written so far is on the disk, or the sync has failed.

        Raises RuntimeError: no event loop runs.
        """
        self._use(asyncio.get_running_loop())
        self.look()
        if self._current is None:
            return self._begin(Durable(self))
        self._next = self._next or Durable(self)  # the current one may have begun before the last write
        return self._next

    def _use(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            self._leave_loop()
            self._loop = loop
            loop.add_reader(self._sync.fd, self.look)

    def _leave_loop(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._sync.fd)
        self._loop = None

    def _begin(self, durable: Durable) -> Durable:
        try:
            self._sync.begin()
        except OSError as error:
            durable.end(self._failure(error))
        else:
            self._current = durable
        return durable

    def look(self) -> None:
        """If the current sync has ended, wake those who wait for it and begin the next one."""
        if self._current is None:
            return
        error: Exception | None = None
        try:
            if not self._sync.ended():
                return
        except OSError as failed:
            error = self._failure(failed)
        ended, following, self._current, self._next = self._current, self._next, None, None
        if following is not None:
            self._begin(following)
        ended.end(error)

    def now(self) -> None:
        """Sync, and block until that is done. Raises OSError."""
        sync_now(self._fd)

    def fill(self) -> None:
        """Lengthen the log to LOG_BYTES. To be called in a write transaction. Raises OSError."""
        length = os.fstat(self._fd).st_size
        if length >= LOG_BYTES:
            return
        file = os.open(f"{self._path}-wal", os.O_WRONLY | os.O_APPEND)
        try:
            while length < LOG_BYTES:
                length += os.write(file, bytes(min(_BLOCK, LOG_BYTES - length)))
        finally:
            os.close(file)
        if self._current is None:
            self._begin(Durable(self))  # so that the first payment does not wait for the zeros

    def checkpoint_soon(self) -> None:
        """Have a thread run a checkpoint."""
        if self._checkpoint is None or not self._checkpoint.is_alive():
            self._checkpoint = threading.Thread(target=self._run_checkpoint, name="x402 checkpoint", daemon=True)
            self._checkpoint.start()

    def _run_checkpoint(self) -> None:
        """Anybody may run one at any time, so a failure does not matter."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self._path, timeout=0)) as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Wait for what is running; who waits for a sync gets an error."""
        if self._fd < 0:
            return
        self._leave_loop()
        if self._checkpoint is not None:
            self._checkpoint.join()
        if self._made is not None:
            self._made.close()
        for durable in filter(None, (self._current, self._next)):
            durable.end(self._failure(OSError(errno.ECANCELED, "it was closed")))
        self._current = self._next = None
        os.close(self._fd)
        self._fd = -1
