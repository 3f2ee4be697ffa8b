"""Tells which of the processes that wrote to a ledger are still running, by locks that the system drops with them.

Also closes what ended ones have left open, and keeps the ledger's time across boots.

Each process locks a file of its own next to the ledger, `ledger.sqlite3-proxy-TOKEN`, and its rows contain the token.
So reused process ids (in a container every proxy may be number 1), machines without /proc, and several containers on
one volume cannot lead to a wrong result.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import secrets
import sqlite3
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...machine.program import program
from ..clock import Clock
from . import statements
from .departures import Departures, may_be_notes, noted

_NAME = re.compile(r"lock:([0-9a-f]{16}) [0-9]+ (.*)", re.DOTALL)
_INFIX = "-proxy-"
_TRIES = 100
_KEPT = "warning: "
"""Prefix of a row of `opened` that is not a process, but a warning which no proxy has shown yet."""
_OPENED = f"SELECT process FROM opened WHERE process NOT LIKE '{_KEPT}%'"
_WARNING = f"SELECT process FROM opened WHERE process LIKE '{_KEPT}%'"


class ProcessLock:
    """A lock that is held until `close`, or until this process ends. Raises OSError."""

    def __init__(self, ledger: Path, boot: str) -> None:
        for _ in range(_TRIES):
            token = secrets.token_hex(8)
            self._path = _file(ledger, token)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)  # others test the lock only for an instant
                if os.fstat(self._fd).st_nlink:  # otherwise another process deleted it before it was locked
                    break
            except BaseException:
                os.close(self._fd)
                raise
            os.close(self._fd)
        self.process = f"lock:{token} {os.getpid()} {boot}"
        """This process's name in rows."""
        self.departures = Departures(self._fd)

    def close(self, *, has_open_rows: bool = False) -> None:
        """Release the lock: the process counts as ended. Its file stays where somebody has to close its rows."""
        if self._fd < 0:
            return
        self.departures.close()
        if not has_open_rows and not self.departures.waiting:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._fd)
        self._fd = -1


def is_alive(ledger: Path, process: str, boot: str) -> bool:
    """Whether `process`, as a row of `ledger` names it, is running. `boot` is the name of the current boot."""
    found = _NAME.fullmatch(process)
    if found is not None:
        return _is_held(_file(ledger, found[1]))
    its_boot, _, pid = process.rpartition(" ")  # the form of older versions
    if its_boot != boot or not pid.isdecimal() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def may_have_left(ledger: Path, process: str, row: int, boot: str) -> bool:
    """Whether the row `row` may have been sent though it is only reserved, by `process`, which has ended.

    If its notes (`departures`) are gone, as beside a copy of the ledger, or damaged, any may have been. So may all rows
    of another boot than `boot`, the current one: a power cut may have lost everything after the reservation
    (`durability`).
    """
    if boot_of(process) == boot and _NAME.fullmatch(process) is None:  # of a version that made no notes
        return False
    rows = _notes(ledger, process, boot)
    return rows is None or row in rows


def _notes(ledger: Path, process: str, boot: str) -> frozenset[int] | None:
    """The rows that `process` noted when they left, and 0; None: not known, as after a power cut."""
    found = _NAME.fullmatch(process)
    return None if found is None or found[2] != boot else noted(_file(ledger, found[1]))


def close_ended(db: sqlite3.Connection, ledger: Path, processes: Iterable[str], boot: str) -> None:
    """Close the open rows of those of `processes` that have ended. Called in a transaction.

    What did not leave is released.
    """
    for process in processes:
        if is_alive(ledger, process, boot):
            continue
        reserved = db.execute(statements.RESERVED, (process,)).fetchall()
        unsent = [(row,) for (row,) in reserved if not may_have_left(ledger, process, row, boot)]
        db.executemany(statements.RELEASE, unsent)
        db.execute(statements.UNHEARD_OF, (process,))


def without_log(db: sqlite3.Connection, ledger: Path, boot: str) -> str:
    """A message if payments may be missing from `ledger`, whose log is gone; else empty.

    Nothing is missing if another program was the last to close the file after a proxy was killed: SQLite puts the log
    into the file then, which has every row that the proxy noted.
    """
    if not _has_opened(db):
        return ""
    opened = [_notes(ledger, process, boot) for (process,) in db.execute(_OPENED)]
    last = db.execute("SELECT MAX(id) FROM payment").fetchone()[0] or 0
    again = f"Put the log back next to it; {program()} report --backup FILE copies all"
    if any(rows is not None and max(rows) > last for rows in opened):
        return (
            f"the ledger {ledger} has lost its log {ledger.name}-wal, so its last payments are missing and do not "
            f"count. {again}"
        )
    if None in opened:
        return (
            f"the ledger {ledger} has no log {ledger.name}-wal, though a proxy had it open and did not close it. If it "
            "was copied or moved without that log, its last payments are missing and do not count. "
            f"{again}"
        )
    return ""


def kept_warning(db: sqlite3.Connection) -> str:
    """The message of `without_log` that no proxy has shown yet; empty: there is none."""
    found = db.execute(_WARNING).fetchone() if _has_opened(db) else None
    return found[0].removeprefix(_KEPT) if found else ""


def warning_of(db: sqlite3.Connection, ledger: Path, clock: Clock, *, is_cut: bool, is_tool: bool) -> str:
    """The warning that payments may be missing, because the log that had them is gone; empty: there is none.

    `is_cut`: the log is gone now. Opening a ledger makes a new one, so what a tool finds is kept in the file, until a
    proxy has shown it at its start.
    """
    warning = (without_log(db, ledger, clock.boot_name) if is_cut else "") or kept_warning(db)
    db.execute("DELETE FROM opened WHERE process LIKE ?", (f"{_KEPT}%",))
    if warning and is_tool:
        db.execute("INSERT INTO opened VALUES (?, ?)", (_KEPT + warning, int(clock.wall() * 1000)))
    return warning


def _has_opened(db: sqlite3.Connection) -> bool:
    return "opened" in {name for (name,) in db.execute("SELECT name FROM sqlite_master")}


def record_open(db: sqlite3.Connection, ledger: Path, process: str, clock: Clock) -> None:
    """Record that `process` has the file open, and delete the records of ended ones."""
    for (one,) in db.execute(_OPENED).fetchall():
        if not is_alive(ledger, one, clock.boot_name):
            db.execute("DELETE FROM opened WHERE process = ?", (one,))
    db.execute("INSERT INTO opened VALUES (?, ?)", (process, int(clock.wall() * 1000)))


def start_clock(db: sqlite3.Connection, clock: Clock) -> int:
    """The ledger's time at uptime zero of this boot, in milliseconds, set by the first process to open it."""
    boot = clock.boot_name
    known = db.execute("SELECT counted_at - uptime FROM clock WHERE boot = ?", (boot,)).fetchone()
    if known is not None:
        return int(known[0])
    last = "SELECT MAX(t) FROM (SELECT MAX(counted_at) t FROM payment UNION ALL SELECT MAX(counted_at) t FROM clock)"
    then = db.execute(last).fetchone()[0] or 0
    now, uptime = max(then, int(clock.wall() * 1000)), int(clock.uptime() * 1000)
    db.execute("DELETE FROM clock")
    db.execute("INSERT INTO clock VALUES (?, ?, ?)", (boot, now, uptime))
    return now - uptime


class Processes:
    """The processes in the rows of one ledger, each looked up once."""

    def __init__(self, ledger: Path, boot: str) -> None:
        self.is_alive = functools.cache(functools.partial(self._is_alive, ledger, boot))
        """Whether the process that a row names is running."""
        self._ledger, self._boot = ledger, boot

    @staticmethod
    def _is_alive(ledger: Path, boot: str, process: str) -> bool:
        return is_alive(ledger, process, boot)

    def as_left(self, row: sqlite3.Row) -> dict[str, Any]:
        """`row` as the next proxy finds it: `sent` if it may have been when its process ended (`UNHEARD_OF`)."""
        process = row["process"]
        if row["state"] != "reserved" or self.is_alive(process):
            return dict(row)
        if not may_have_left(self._ledger, process, row["id"], self._boot):
            return dict(row)
        left = {**dict(row), "state": "sent", "sends": max(row["sends"], 1)}
        if left.get("nonce") and row["network"].startswith("eip155:"):
            left["reference"] = row["reference"] or left["nonce"]
        return left


def boot_of(process: str) -> str:
    """The name of the boot in which `process` was running."""
    found = _NAME.fullmatch(process)
    return process.rpartition(" ")[0] if found is None else found[2]


def sweep(ledger: Path) -> None:
    """Delete the lock files of ended processes. Called after their rows have been closed."""
    for file in ledger.parent.glob(f"{ledger.name.translate(_PLAIN)}{_INFIX}*"):
        if _NAME.fullmatch(f"lock:{file.name.rpartition(_INFIX)[2]} 0 "):
            _delete_unheld(file)


_PLAIN = {ord(wild): f"[{wild}]" for wild in "*?["}


def _file(ledger: Path, token: str) -> Path:
    return ledger.with_name(f"{ledger.name}{_INFIX}{token}")


def _delete_unheld(file: Path) -> None:
    """Delete a lock file that nobody holds, and nothing else.

    It is locked meanwhile, so that its creator cannot lock it just then.
    """
    with contextlib.suppress(OSError):
        fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if may_be_notes(fd):
                file.unlink()
        finally:
            os.close(fd)


def _is_held(file: Path) -> bool:
    try:
        if not stat.S_ISREG(file.lstat().st_mode):  # something else stands where the lock file was
            return False
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:  # another user's: in doubt it counts as held
        return True
    try:
        # Shared, so that two processes that test it at the same time do not take each other for its owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
