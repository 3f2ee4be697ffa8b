"""Syncs the ledger's file to the disk without blocking the event loop.

SQLite writes each transaction to its log (`ledger.sqlite3-wal`) at once, so it survives the end of the process. It
survives a power cut once that log is synced. One sync runs at a time, begun right after the reservation and while the
payment is signed. Payments that are reserved meanwhile share the next one. While the event loop has other requests to
serve, a sync begins after these, so that their payments share it: with 64 at a time, six payments share a sync.

A sync that changes the length of a file also has to write the file system's own journal, which takes three times as
long on an idle disk and up to a hundred times on a busy one. So the log is filled with zeros once, and reused from its
start after each checkpoint. SQLite ends its log at the first frame whose checksum is wrong, so zeros are harmless.

A failed write is reported by one sync only. After that the system takes it for written and the next sync succeeds,
while on the disk the log has a hole at which SQLite would end it. So after a failed sync, and after one whose result is
not known, nothing is durable until the whole log has been written again, from the system's memory, and synced. If the
system no longer has it in memory (`file.has_hole`), nothing is paid until proxies start anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import selectors
import sqlite3
import threading
from collections.abc import Callable, Generator
from pathlib import Path

from .file import has_hole
from .sync_process import sync_now
from .syncing import Sync, SyncGone, ThreadSync, sync_of

logger = logging.getLogger(__name__)

LOG_BYTES = 20_000_000
"""Initial length of the log: what the payments between two checkpoints take (40 KB each), twice."""
_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)
GROUP_SECONDS = 0.003
"""Most seconds by which a sync begins later, so that payments that are made meanwhile share it."""
WAIT_SECONDS = 2
"""Seconds to wait for other writers before the log is written again."""
LOST = "the disk has lost a part of the ledger's log that could not be written before; end all proxies and start again"
STALLED_SECONDS = 20
"""Seconds after which a payment is refused because the disk does not answer."""
IDLE_SECONDS = 0.001
"""Most seconds for which timers wait when nothing else is to do than to wait for a sync."""


def write_again(path: Path) -> None:
    """Write what the log of the ledger at `path` says once more, and sync it. Raises OSError.

    The caller keeps other writers out, or nobody else has the ledger open.
    """
    file = os.open(f"{path}-wal", os.O_RDWR)
    try:
        place = 0
        while block := os.pread(file, _BLOCK, place):
            is_empty = block == _ZEROS[: len(block)]
            place += len(block) if is_empty else os.pwrite(file, block, place)
        sync_now(file)
    finally:
        os.close(file)


class Durable:
    """One sync, shared by everybody who awaits it. Raises what `failure` of its `Disk` makes of an OSError."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._waiting: list[asyncio.Future[None]] = []
        self._error: Exception | None = None
        self.is_over = False
        """Whether it has ended, or nobody waits for it any more."""

    def __await__(self) -> Generator[asyncio.Future[None], None, None]:
        self._disk.look_idly()  # a sync that has ended by now takes no turn of the event loop
        if not self.is_over:
            loop = asyncio.get_running_loop()
            waiting = loop.create_future()
            self._waiting.append(waiting)
            stalled = loop.call_later(STALLED_SECONDS, self._give_up)
            try:
                yield from waiting
            finally:
                stalled.cancel()
        if self._error is not None:
            raise self._error

    def is_done(self) -> bool:
        """Whether it has ended well, now or before the event loop has anything else to do."""
        self._disk.look_idly()
        return self.is_over and self._error is None

    def _give_up(self) -> None:
        self.end(self._disk.stalled())

    def end(self, error: Exception | None) -> None:
        """Wake everybody who waits, unless that was done before."""
        if self.is_over:
            return
        self.is_over, self._error = True, error
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class Disk:
    """Syncs the log of one ledger file, which must exist. Raises what `failure` makes of an OSError."""

    def __init__(
        self, path: Path, failure: Callable[[OSError], Exception], make_sync: Callable[[int], Sync] | None = None
    ) -> None:
        self._path = path
        self._failure = failure
        self._fd = os.open(f"{path}-wal", os.O_RDONLY)  # raises OSError, as `fill` does
        self._own_fd = os.open(f"{path}-wal", os.O_RDONLY)
        """For syncs that do not go through `_made`: the system tells each open file of an error once."""
        self._is_doubtful = False
        """Whether a sync has failed, so that the log has to be written again."""
        self.is_lost = False
        """Whether the log has a hole, so that it must not be brought into the file."""
        self._renewal: threading.Thread | None = None
        self._make_sync = make_sync
        self._made: Sync | None = None
        self._current: Durable | None = None
        self._next: Durable | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due: asyncio.Handle | None = None
        """Begins the next sync."""
        self._checkpoint: threading.Thread | None = None

    def start(self) -> None:
        """Start the process that syncs, where one can be made, so that the first payment does not wait for it."""
        if self._made is None:
            self._made = (self._make_sync or sync_of)(self._fd)
        with contextlib.suppress(RuntimeError):  # no event loop runs yet
            self._use(asyncio.get_running_loop())  # which hears of its end, too

    @property
    def _sync(self) -> Sync:
        """What syncs: a thread if `start` was not called, because many open a ledger and never pay. Raises OSError."""
        if self._made is None:
            self._made = (self._make_sync or ThreadSync)(self._fd)
        return self._made

    def soon(self) -> Durable:
        """An awaitable that is done when everything written so far is on the disk, or the sync has failed.

        Raises RuntimeError: no event loop runs.
        """
        loop = asyncio.get_running_loop()
        try:
            self._use(loop)
        except OSError as error:
            raise self._failure(error) from None
        self.look()
        if self._next is None or self._next.is_over:  # the current one may have begun before the last write
            self._next = Durable(self)
        durable = self._next
        if self._due is None:
            self._begin_when_idle()
        return durable

    def _begin_when_idle(self, latest: float | None = None) -> None:
        """Begin the next sync after what the event loop has to do now, at the loop's time `latest` at the latest."""
        self._due = None
        if self._next is not None and self._next.is_over:  # nobody waits for it any more
            self._next = None
        following, loop = self._next, self._loop
        if following is None or self._current is not None:
            return
        if loop is not None and getattr(loop, "_ready", None):  # of asyncio's own loops
            now = loop.time()
            latest = now + GROUP_SECONDS if latest is None else latest
            if now < latest:
                self._due = loop.call_soon(self._begin_when_idle, latest)
                return
        self._next = None
        self._begin(following)

    def _use(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            self._leave_loop()
            loop.add_reader(self._sync.fd, self._take_result)
            self._loop = loop

    def _leave_loop(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._sync.fd)
        self._loop = None
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _begin(self, durable: Durable) -> None:
        if self._is_doubtful:
            self._renew_soon(durable)
            return
        try:
            try:
                self._sync.begin()
            except SyncGone:
                self._replace_sync()
                self._sync.begin()
        except OSError as error:
            durable.end(self._failure(error))
        else:
            self._current = durable

    def _renew_soon(self, durable: Durable) -> None:
        """Have a thread write the log again; `durable` ends with that."""
        loop = self._loop

        def renew() -> None:
            failed: OSError | None = None
            try:
                self._renew()
            except OSError as error:
                failed = error
            if loop is None:
                self._renewed(durable, failed)
                return
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(self._renewed, durable, failed)

        self._current = durable
        if loop is None:
            renew()
            return
        self._renewal = threading.Thread(target=renew, name="x402 ledger log", daemon=True)
        try:
            self._renewal.start()
        except RuntimeError:  # this user may have no more threads, so everybody waits
            self._renewal = None
            renew()

    def _renew(self) -> None:
        """Write the log again while no other process writes. Raises OSError."""
        for file in (self._fd, self._own_fd):
            with contextlib.suppress(OSError):  # an earlier error that this open file has not reported
                sync_now(file)
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=WAIT_SECONDS, isolation_level=None)) as db:
                db.execute("UPDATE opened SET since = since + 1")  # a frame behind all others
                db.execute("BEGIN IMMEDIATE")
                if has_hole(Path(f"{self._path}-wal")):
                    self.is_lost = True
                    raise OSError(errno.EIO, LOST)
                write_again(self._path)
                db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error)) from None

    def _renewed(self, durable: Durable, failed: OSError | None) -> None:
        if self._current is not durable:  # it was closed meanwhile
            return
        self._current = None
        if failed is None:
            self._is_doubtful = False
        if self._due is None:
            self._begin_when_idle()
        durable.end(None if failed is None else self._failure(failed))

    def stalled(self) -> Exception:
        """The error for those who wait for a sync that does not end."""
        return self._failure(OSError(errno.ETIMEDOUT, f"the disk has not answered for {STALLED_SECONDS} seconds"))

    def look(self) -> None:
        """If the current sync has ended, wake those who wait for it and begin the next one."""
        if self._current is not None:
            self._take_result()

    def look_idly(self) -> None:
        """Do what `look` does. If the sync has not ended and the event loop has nothing else to do, wait for it here.

        Most syncs end within the time that the loop would take to come to its next wait, and back from there. Whatever
        comes meanwhile ends the wait, so that nobody is held up; timers may be IDLE_SECONDS late.
        """
        self.look()
        if self._current is None or self._loop is None:
            return
        # Of asyncio's own loops; others wait in the ordinary way.
        selector: selectors.BaseSelector | None = getattr(self._loop, "_selector", None)
        if selector is not None and not getattr(self._loop, "_ready", True):
            selector.select(IDLE_SECONDS)  # which takes nothing away: what is ready stays so
            self.look()

    def _take_result(self) -> None:
        error: Exception | None = None
        assert self._made is not None
        try:
            if not self._made.ended():
                return
        except SyncGone:
            self._begin_again()
            return
        except OSError as failed:
            self._is_doubtful = True
            error = self._failure(failed)
        ended, self._current = self._current, None
        if self._due is None:
            self._begin_when_idle()
        if ended is not None:
            ended.end(error)

    def _begin_again(self) -> None:
        """Whether the current sync was done is not known: those who wait for it wait for another one."""
        unknown, self._current = self._current, None
        if unknown is None:
            with contextlib.suppress(OSError):  # the next payment reports it
                self._replace_sync()
            self._begin_when_idle()
            return
        self._is_doubtful = True
        try:
            self._replace_sync()
        except OSError as error:
            following, self._next = self._next, None
            for durable in filter(None, (unknown, following)):
                durable.end(self._failure(error))
        else:
            self._begin(unknown)

    def _replace_sync(self) -> None:
        """Use a thread instead of a process that has ended. Raises OSError."""
        logger.warning("x402: the process that syncs %s-wal has ended; a thread does it now, more slowly", self._path)
        loop, gone = self._loop, self._sync
        self._leave_loop()
        gone.close()
        self._made, self._make_sync = None, ThreadSync
        if loop is not None and not loop.is_closed():
            self._use(loop)

    def now(self) -> None:
        """Sync, and block until that is done."""
        try:
            if self._is_doubtful:
                self._renew()
            sync_now(self._own_fd)
        except OSError as error:
            self._is_doubtful = True
            raise self._failure(error) from None

    def fill(self) -> None:
        """Lengthen the log to LOG_BYTES. To be called in a write transaction. Raises OSError."""
        length = os.fstat(self._fd).st_size
        if length >= LOG_BYTES:
            return
        file = os.open(f"{self._path}-wal", os.O_WRONLY | os.O_APPEND)
        try:
            while length < LOG_BYTES:
                length += os.write(file, _ZEROS[: LOG_BYTES - length])
        finally:
            os.close(file)
        if self._current is None and not self._is_doubtful:
            self._begin(Durable(self))  # so that the first payment does not wait for the zeros

    def checkpoint_soon(self) -> None:
        """Have a thread run a checkpoint."""
        if self._is_doubtful:  # it would trust what is only taken for written
            return
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
        for thread in filter(None, (self._checkpoint, self._renewal)):
            thread.join()
        if self._is_doubtful:
            with contextlib.suppress(OSError):
                self._renew()
        if self._made is not None:
            self._made.close()
        for durable in filter(None, (self._current, self._next)):
            durable.end(self._failure(OSError(errno.ECANCELED, "it was closed")))
        self._current = self._next = None
        os.close(self._own_fd)
        os.close(self._fd)
        self._fd = self._own_fd = -1
