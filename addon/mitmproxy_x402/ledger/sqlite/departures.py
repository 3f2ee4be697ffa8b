"""Notes sent payments in a small file before the table has them: sixteen bytes each instead of a transaction.

The file is the one that each process holds a lock on (`liveness`). What is in it survives the end of the process, and
whoever closes the rows of an ended process reads it: a row that is only `reserved` in the table and noted here was
sent. After a power cut, which it may not survive, every reserved row counts as sent anyway. The table catches up within
NOTE_SECONDS, mostly together with the payment's outcome.

The first slot has the file's own inode. A copy that somebody puts in its place gets none of the notes that follow, and
is recognised by that.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..interface import LedgerError

NOTE_SECONDS = 0.25
"""Seconds after which the table says what the notes say."""
RETRY_SECONDS = 1
"""Seconds after which that is tried again."""
LATEST_MS = 150_000
"""Age of a reservation up to which a note is enough: well before it lapses (`interface.LAPSE_SECONDS`)."""
SLOTS = 511
"""Most notes that wait for the table."""
_SLOT = struct.Struct("=qq")
"""A row's number, 0 for none, and its complement, by which a damaged file is known."""
_SIZE = (1 + SLOTS) * _SLOT.size
_INODE = 2**63 - 1
"""The bits of an inode that a slot has room for."""
_DATABASE = b"SQLite format 3\0"


class Departures:
    """The notes of this process in the open file `fd`, which is new. Raises OSError."""

    def __init__(self, fd: int) -> None:
        if os.pwrite(fd, _slot(os.fstat(fd).st_ino & _INODE) + _slot(0) * SLOTS, 0) != _SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fd = fd
        self.waiting: dict[int, dict[str, Any]] = {}
        """Payments that have left and are not `sent` in the table yet: by row, the parameters of `statements.SENT`."""
        self._slots: dict[int, int] = {}
        self._free = list(range(1, 1 + SLOTS))
        self._is_due = False

    def note(self, row: int, values: dict[str, Any], catch_up: Callable[[], None]) -> bool:
        """Note that `row` leaves now, and have `catch_up` called soon, which tells the table of all that wait.

        Returns whether that is done; else there is no room, or no event loop.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if not self._free or self._fd < 0:
            return False
        slot = self._free.pop()
        try:
            done = os.pwrite(self._fd, _slot(row), slot * _SLOT.size) == _SLOT.size
        except OSError:
            done = False
        if not done:
            self._free.append(slot)
            return False
        self.waiting[row], self._slots[row] = values, slot
        self._call(loop, NOTE_SECONDS, catch_up)
        return True

    def _call(self, loop: asyncio.AbstractEventLoop, seconds: float, catch_up: Callable[[], None]) -> None:
        if not self._is_due:
            self._is_due = True
            loop.call_later(seconds, self._on_time, loop, catch_up)

    def _on_time(self, loop: asyncio.AbstractEventLoop, catch_up: Callable[[], None]) -> None:
        self._is_due = False
        if self._fd < 0:
            return
        try:
            catch_up()
        except LedgerError:  # the notes hold until the file can be written again
            self._call(loop, RETRY_SECONDS, catch_up)

    def close(self) -> None:
        """Stop taking notes. Waiting ones and the file are left to the process that closes the rows of this one."""
        self._fd = -1

    def written(self, rows: Iterable[int]) -> None:
        """Forget the notes of `rows`, which are in the table now. In the file they stay until others replace them."""
        for row in rows:
            if self.waiting.pop(row, None) is not None:
                self._free.append(self._slots.pop(row))


def noted(file: Path) -> frozenset[int] | None:
    """The rows that a process has noted in its `file`, and some earlier ones; None: it is gone, damaged or a copy."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        is_whole = stat.S_ISREG(found.st_mode) and found.st_size == _SIZE
        data = os.pread(fd, _SIZE, 0) if is_whole else b""
    except OSError:
        return None
    finally:
        os.close(fd)
    slots = list(_SLOT.iter_unpack(data)) if len(data) == _SIZE else []
    if not slots or any(check != ~row for row, check in slots):
        return None
    (inode, _), *notes = slots
    return frozenset(row for row, _ in notes) if inode == found.st_ino & _INODE else None


def may_be_notes(fd: int) -> bool:
    """Whether an open file may be one of notes: it is new, or as long as they are and no database. Raises OSError."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size not in (0, _SIZE):
        return False
    return os.pread(fd, len(_DATABASE), 0) != _DATABASE


def _slot(row: int) -> bytes:
    return _SLOT.pack(row, ~row)
