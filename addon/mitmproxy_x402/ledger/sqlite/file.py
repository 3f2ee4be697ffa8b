"""Checks that a file is a ledger of this program and complete, before anything is written to it."""

from __future__ import annotations

import os
import sqlite3
import stat
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
    """Raise LedgerError if SQLite would write payments into something beside the file that keeps none, as a pipe.

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
    """What users are told of an error of SQLite's or of the system's with the ledger at `path`."""
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
