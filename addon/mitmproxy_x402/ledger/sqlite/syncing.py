"""Ways to sync a file in the background, one sync at a time.

A thread of the proxy needs Python's global lock before and after each sync, and takes its processor from the event
loop. So does the kernel's own asynchronous I/O, which works on the processor that asked. A process of its own does it
on another processor: the first byte of a paid request comes an eighth sooner. The thread remains for where no process
can be made, and for when that has been killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
import threading
from typing import Protocol

from ...machine.own_process import start
from . import sync_process
from .sync_process import sync_now

START_SECONDS = 5
"""Seconds that the process has for its start, which takes some 15 milliseconds."""
END_SECONDS = 5
"""Seconds that the process has to end a sync that is running when the ledger is closed."""


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


class SyncGone(Exception):
    """The process that syncs has ended, so the sync that was begun may not be done: begin it again, in another way."""


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
            thread = threading.Thread(target=self._run, name="x402 ledger disk", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # this user may have no more threads, so everybody waits
                self._sync()
                return
            self._thread = thread
        self._begun.release()

    def _run(self) -> None:
        while self._begun.acquire() and not self._closing:
            self._sync()

    def _sync(self) -> None:
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


class ProcessSync:
    """Syncs in a process (`sync_process`). Raises OSError where none can be made, or `file` cannot be synced."""

    def __init__(self, file: int) -> None:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as its_own:
            asked, self._ask = os.pipe()
            its_own.callback(os.close, asked)
            undo.callback(os.close, self._ask)
            self.fd, answer = os.pipe()
            its_own.callback(os.close, answer)
            undo.callback(os.close, self.fd)
            self._process = start(sync_process.__file__, file, asked, answer)
            undo.pop_all()
        self.pid = self._process.pid
        self._is_gone = False
        try:
            self._try_it()
        except BaseException:
            self._process.kill()
            self.close()
            raise
        os.set_blocking(self.fd, False)

    def _try_it(self) -> None:
        try:
            self.begin()
            if not select.select([self.fd], [], [], START_SECONDS)[0]:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            self.ended()
        except SyncGone:
            raise OSError(errno.ECHILD, "it ended at its start") from None

    def begin(self) -> None:
        """Begin to sync everything written so far. Raises SyncGone."""
        if self._is_gone:
            raise SyncGone
        try:
            os.write(self._ask, b"!")
        except BrokenPipeError:
            raise SyncGone from None

    def ended(self) -> bool:
        """Whether the sync that was begun has ended. Raises OSError if it failed, and SyncGone."""
        try:
            failed = os.read(self.fd, 1)
        except BlockingIOError:
            return False
        if failed == b"\0":
            return True
        if not failed:
            self._is_gone = True
            raise SyncGone
        raise OSError(failed[0], os.strerror(failed[0]))

    def close(self) -> None:
        """Wait for a sync that is running, and end the process."""
        if self.fd < 0:
            return
        for fd in (self._ask, self.fd):
            os.close(fd)
        self._ask = self.fd = -1
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # stopped, or waiting for a disk that does not answer
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)


def sync_of(file: int) -> Sync:
    """The fastest way to sync `file` in the background that works here."""
    try:
        return ProcessSync(file)
    except OSError:
        return ThreadSync(file)
