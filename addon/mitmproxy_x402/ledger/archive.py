"""Moves old payments from the ledger to a file, and backs a ledger up, while proxies go on paying from it.

Rows are removed from the ledger only after the file has been written, synced, read back and compared. Only payments
that no budget counts any more are removed: closed ones, older than the longest period that a budget can have. If a
budget has no period, only payments that count nothing are.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timezone, tzinfo
from pathlib import Path
from typing import Any, TextIO, cast

from ..limits.limits import SECONDS
from ..settings.ledger_place import LedgerPlace, PostgresUrl
from .interface import FREE, LedgerError
from .opening import require_driver
from .sqlite.file import check_file, open_to_read, version_of
from .sqlite.removal import FileRemoval

COUNTED_MS = (max(SECONDS.values()) + 24 * 3600) * 1000
"""Milliseconds; younger payments stay, whatever the date, because budgets may count them."""
TOGETHER = 200
"""Most rows removed in one transaction, for which proxies have to wait."""
TARGET_SECONDS = 0.004
"""Seconds that one transaction should take; if it takes longer, the next has fewer rows."""
PAUSE_SECONDS = 0.004
"""Seconds between two transactions, in which proxies can write."""

Marks = tuple[int, str, str]
"""A row's number, state and chain state."""


@dataclass(frozen=True)
class Archived:
    """The result of `archive`."""

    file: Path
    rows: int
    """Rows in the file."""
    removed: int
    """Rows removed from the ledger; the others have changed in the meantime, and stay."""
    micro_usd: int
    """The amount that the rows in the file count for."""


def archive(place: LedgerPlace, before: date, file: Path, *, for_ever: bool, zone: tzinfo | None = None) -> Archived:
    """Write the payments before the day `before` (in `zone`; None: this machine's) to `file`, and remove them.

    `file` becomes a gzipped CSV with all columns of the table, one payment per line. `for_ever` says that a budget has
    no period: then only payments that count nothing are removed. Raises LedgerError: the ledger or the file cannot be
    used, or the file is there already.
    """
    moment = datetime(before.year, before.month, before.day, tzinfo=zone).astimezone(timezone.utc)
    before_ms = int(moment.timestamp()) * 1000
    if isinstance(place, PostgresUrl):
        require_driver(place)
        from .postgres.removal import DatabaseRemoval  # noqa: PLC0415 - needs psycopg

        removal: FileRemoval | DatabaseRemoval = DatabaseRemoval(place)
    else:
        check_file(place)
        removal = FileRemoval(place)
    with closing(removal):
        columns, rows = removal.rows(before_ms, COUNTED_MS, free_only=for_ever)
        counter = _Counter(columns)
        _write(file, columns, map(counter.count, rows))
        if not counter.rows:
            file.unlink()
            return Archived(file, 0, 0, 0)
        if _digest(file) != counter.digest:
            raise LedgerError(f"{file} does not hold what was written into it. Nothing was taken out of the ledger.")
        removed = _remove(removal.remove, _marks(file))
    return Archived(file, counter.rows, removed, counter.micro_usd)


class _Counter:
    """Counts and hashes the rows as they are written."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.rows = self.micro_usd = 0
        self._hash = hashlib.sha256(_line(columns))
        self._state, self._micro = columns.index("state"), columns.index("micro_usd")
        self._uncounted = columns.index("uncounted")

    def count(self, row: Sequence[Any]) -> Sequence[Any]:
        """Count `row`, and return it unchanged."""
        self.rows += 1
        if row[self._state] not in FREE:
            self.micro_usd += row[self._micro] - row[self._uncounted]
        self._hash.update(_line(row))
        return row

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _line(row: Sequence[Any]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(row)
    return out.getvalue().encode("utf-8", "surrogateescape")


def _write(file: Path, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    try:
        raw = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise LedgerError(f"{file} is there already. Nothing was taken out of the ledger; name another file.") from None
    except OSError as error:
        raise LedgerError(f"{file} cannot be written: {error.strerror}. Nothing was taken out of the ledger.") from None
    try:
        with open(raw, "wb") as out:  # noqa: PTH123 - a descriptor
            with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed:
                packed.write(_line(columns))
                for row in rows:
                    packed.write(_line(row))
            out.flush()
            os.fsync(out.fileno())
        folder = os.open(file.resolve().parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            file.unlink()
        if isinstance(error, OSError):
            raise LedgerError(
                f"{file} cannot be written: {error.strerror}. Nothing was taken out of the ledger."
            ) from None
        raise


def _digest(file: Path) -> str:
    """The hash of the file's rows, read back."""
    found = hashlib.sha256()
    try:
        with gzip.open(file, "rb") as packed:
            while piece := packed.read(1 << 20):
                found.update(piece)
    except (OSError, EOFError) as error:
        raise LedgerError(f"{file} cannot be read back: {error}. Nothing was taken out of the ledger.") from None
    return found.hexdigest()


def _marks(file: Path) -> Iterator[Marks]:
    """The marks of the rows in the file."""
    with gzip.open(file, "rt", encoding="utf-8", errors="surrogateescape", newline="") as text:
        for row in csv.DictReader(cast(TextIO, text)):
            yield int(row["id"]), row["state"], row["chain_state"]


def _remove(remove: Callable[[Sequence[Marks]], int], marks: Iterator[Marks]) -> int:
    """Remove the rows, a few at a time so that no proxy waits long. Returns how many."""
    removed, size = 0, TOGETHER // 4
    some: list[Marks] = []
    for mark in marks:
        some.append(mark)
        if len(some) >= size:
            begun = time.monotonic()
            removed += remove(some)
            took = time.monotonic() - begun
            size = max(1, size // 2) if took > TARGET_SECONDS else min(TOGETHER, size + 5)
            some = []
            time.sleep(PAUSE_SECONDS)
    return removed + (remove(some) if some else 0)


def back_up(place: LedgerPlace, file: Path) -> int:
    """Copy the whole ledger to the single file `file`, while proxies pay from it. Returns the number of payments.

    Raises LedgerError: the ledger or the file cannot be used, the file is there already, or the ledger is in
    PostgreSQL.
    """
    if isinstance(place, PostgresUrl):
        raise LedgerError(f"The ledger {place} is a PostgreSQL database: copy it with pg_dump.")
    check_file(place)
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise LedgerError(f"{file} is there already; name another file.") from None
    except OSError as error:
        raise LedgerError(f"{file} cannot be written: {error.strerror}.") from None
    try:
        with closing(open_to_read(place)) as source, closing(sqlite3.connect(file, isolation_level=None)) as copy:
            if not version_of(source, place):
                raise LedgerError(f"The ledger {place} is just being made; there is nothing to copy yet.")
            source.backup(copy)  # in one step: writes of proxies would restart a copy in several
            copy.execute("PRAGMA journal_mode = DELETE")
            if "opened" in {name for (name,) in copy.execute("SELECT name FROM sqlite_master")}:
                copy.execute("DELETE FROM opened")
            if copy.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise LedgerError(f"The copy {file} is damaged. Is the disk in order?")
            (rows,) = copy.execute("SELECT COUNT(*) FROM payment").fetchone()
            return int(rows)
    except BaseException as error:
        with contextlib.suppress(OSError):
            file.unlink()
        if isinstance(error, sqlite3.Error | OSError):
            raise LedgerError(f"The ledger {place} cannot be copied to {file}: {error}.") from None
        raise
