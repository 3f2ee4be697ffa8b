"""Finds and deletes old rows of a ledger file, for `ledger.archive`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..interface import FREE, LedgerError
from .store import SqliteLedger

WAIT_SECONDS = 5
# The newest row stays: the ledger's time continues from it.
_OLD = f"""
    SELECT * FROM payment WHERE time < ? AND counted_at < ? AND id < (SELECT MAX(id) FROM payment)
        AND state NOT IN ('reserved', 'sent') AND free_at IS NULL AND (NOT ? OR state IN {FREE})
    ORDER BY id"""
_REMOVE = "DELETE FROM payment WHERE id = ? AND state = ? AND COALESCE(chain_state, '') = ?"
_FOR_EVER = "SELECT EXISTS (SELECT 1 FROM scope WHERE for_ever)"


class FileRemoval:
    """Removes rows of one ledger file, which is migrated first. Raises LedgerError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(SqliteLedger(path)) as ledger:
            self._now = ledger.now_ms()
        try:
            self._db = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def rows(self, before_ms: int, counted_ms: int, *, free_only: bool) -> tuple[list[str], Iterator[Sequence[Any]]]:
        """The columns, and the rows that may be removed: made before `before_ms` and older than `counted_ms`.

        Only rows that count nothing, with `free_only` or if a proxy has used a budget without a period.
        """
        try:
            (for_ever,) = self._db.execute(_FOR_EVER).fetchone()
            found = self._db.execute(_OLD, (before_ms, self._now - counted_ms, free_only or bool(for_ever)))
        except sqlite3.Error as error:
            raise self._failure(error) from None
        return [column[0] for column in found.description], self._each(found)

    def _each(self, found: sqlite3.Cursor) -> Iterator[Sequence[Any]]:
        try:
            yield from found
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def remove(self, rows: Sequence[tuple[int, str, str]]) -> int:
        """Delete the rows whose number, state and chain state are unchanged. Returns how many."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            removed = self._db.executemany(_REMOVE, rows).rowcount
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._failure(error) from None
        return removed

    def _failure(self, error: Exception) -> LedgerError:
        return LedgerError(
            f"The ledger {self._path} cannot be used: {error}. Payments that were written to the archive may still be "
            "in the ledger, too."
        )

    def close(self) -> None:
        """Close the file."""
        self._db.close()
