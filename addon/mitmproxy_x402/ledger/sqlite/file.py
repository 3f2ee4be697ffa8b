"""Creates the ledger's file, or checks that an existing one is a complete ledger of this program.

Nothing is written to a file before it is checked. `failure` words the errors of SQLite and the system for users.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from ...machine.private_files import objection
from ...machine.program import program
from ..interface import LedgerBusy, LedgerError
from .schema import MIGRATIONS

WAIT_SECONDS = 2
"""Seconds that a reader waits for a writer of another program."""
_COLUMNS = {
    *("id", "time", "process", "state", "micro_usd", "model", "network", "reference", "transaction_id", "replaces"),
}
"""A database with a table `payment` that has these is ours."""
_HEADER, _FRAME = struct.Struct(">8I"), struct.Struct(">6I")
_MASK = 0xFFFFFFFF


def make_file(path: Path) -> bool:
    """Create the file, or check that an existing one is a ledger; and remove other users' access.

    Returns whether its log exists. Raises LedgerError, before anything is changed, and OSError.
    """
    # An existing file is opened by SQLite alone: closing it would release the locks of this process's other
    # connections to it.
    _check_beside(path)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # -wal and -shm get the same mode
        with suppress(OSError):  # so that the file's name survives a power cut
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        return True
    check_file(path)
    is_empty = not path.stat().st_size  # nothing was ever in it; perhaps another proxy makes it at this moment
    if not is_empty:
        with closing(open_to_read(path)) as db:
            version_of(db, path)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return is_empty or has_log(path)


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open the ledger file read-only. Raises sqlite3.Error."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=WAIT_SECONDS)


def check_file(path: Path) -> None:
    """Raise LedgerError if the file cannot be a ledger or cannot be read. Does not open it.

    Closing the file would release every lock of this process on it, including the proxy's. Another process that closes
    the ledger would then take itself for the last one, and delete the log that we write to.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise LedgerError(f"There is no ledger at {path}. The proxy makes one when it starts.") from None
    except OSError as error:
        raise LedgerError(f"The ledger {path} cannot be read: {error.strerror}.") from None
    if stat.S_ISDIR(mode):
        raise LedgerError(f"{path} is a folder; name the file of a ledger.")
    if not stat.S_ISREG(mode):
        raise LedgerError(f"{path} is not a file that can hold a ledger; name another one.")
    if not os.access(path, os.R_OK):
        raise LedgerError(f"The ledger {path} cannot be read: you are not allowed to read it.")


def _check_beside(path: Path) -> None:
    """Raise LedgerError if something beside the file, where SQLite would write payments, cannot keep any: a pipe, say.

    Or if another user can change what is there: until a checkpoint, the last payments are nowhere else.
    """
    for suffix in ("-wal", "-shm", "-journal"):
        beside = Path(f"{path}{suffix}")
        if beside.exists() and not beside.is_file():
            raise LedgerError(
                f"{beside} is not a regular file, but SQLite keeps a part of the ledger there. Remove it, or name "
                "another file with the option x402_ledger."
            )
        why = objection(beside)
        if why is not None:
            raise LedgerError(f"The ledger {path} is not used: {why}")


def version_of(db: sqlite3.Connection, path: Path) -> int:
    """The version of the ledger's tables; 0: they are being created.

    Raises LedgerError: they are newer than this program, another program's, or in a log that is missing.
    """
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        columns = {column[1] for column in db.execute("PRAGMA table_info(payment)")}
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise LedgerError(f"{path} is not a ledger: it is not a SQLite database.") from None
        raise
    if not tables and not version:
        if path.stat().st_size and not _gets_a_log(path):
            raise LedgerError(
                f"The ledger {path} is empty, and its log {path.name}-wal, in which its payments were, is missing. Put "
                f"that back beside it (a running ledger is copied with {program()} report --backup FILE). If it is "
                "gone for good, delete the file: a new ledger begins without what was spent."
            )
        return 0
    if "payment" in tables and version > len(MIGRATIONS):
        raise LedgerError(
            f"The ledger {path} was written by a newer version of mitmproxy-x402 (schema {version}, this one knows "
            f"{len(MIGRATIONS)}). Update, or name another file with x402_ledger."
        )
    if not columns >= _COLUMNS:
        raise LedgerError(
            f"{path} is a database of another program, not a ledger of mitmproxy-x402. Name another file with the "
            "option x402_ledger."
        )
    return int(version)


def _gets_a_log(path: Path) -> bool:
    """Whether the log is there, or comes in a moment: another proxy may be making the tables just now."""
    until = time.monotonic() + WAIT_SECONDS
    while not has_log(path):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def has_log(path: Path) -> bool:
    """Whether the ledger's log is beside it, and not empty."""
    try:
        return Path(f"{path}-wal").stat().st_size > 0
    except OSError:
        return False


def failure(path: Path, error: Exception) -> LedgerError:
    """The LedgerError that tells users of an error of SQLite or of the system with the ledger at `path`."""
    if "is locked" in str(error):
        return LedgerBusy(
            f"The ledger {path} is locked by another program. Without it nothing is paid. End that program "
            "(a database browser, a copy that is being made), or name another file with the option x402_ledger."
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return LedgerError(
        f"The ledger {path} cannot be used: {reason}. Without it nothing is paid. See that the file and its "
        "folder are writable and the disk is not full, or name another file with the option x402_ledger."
    )


def has_hole(log: Path) -> bool:
    """Whether frames follow behind one that is damaged or missing. Raises OSError.

    After a sync has failed, the system takes its pages for written, and may drop them from memory. What is read then is
    what the disk has: the log has a hole, at which SQLite would end it after a restart, with all that came after.
    Goes by the checksums of its frames (https://www.sqlite.org/fileformat2.html#walformat).

    The caller keeps writers out, and has committed just before: otherwise a hole at the end shows nowhere. Takes some
    0.1 ms a frame.
    """
    with log.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return True
        magic, _, page_size, _, *salts, first, second = _HEADER.unpack(header)
        order = ">" if magic & 1 else "<"
        sums = _summed(order, header[:24], (0, 0))
        is_broken = sums != (first, second)
        while len(frame := file.read(_FRAME.size + page_size)) == _FRAME.size + page_size:
            page, _, *its_salts, first, second = _FRAME.unpack_from(frame)
            if not page or its_salts != salts:
                is_broken = True  # or the end; then only frames of earlier rounds, or zeros, follow
            elif is_broken:
                return True
            else:
                sums = _summed(order, frame[:8] + frame[_FRAME.size :], sums)
                is_broken = sums != (first, second)
    return False


def _summed(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    numbers = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(numbers[::2], numbers[1::2], strict=True):
        first = (first + even + second) & _MASK
        second = (second + odd + first) & _MASK
    return first, second
