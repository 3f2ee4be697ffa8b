"""Reads the ledger for people: opens it for reading alone, never makes one, never changes one."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from ..settings.ledger_place import LedgerPlace, PostgresUrl
from .interface import Clock, LedgerError
from .opening import require_driver
from .sqlite.schema import MIGRATIONS
from .sqlite.store import is_alive

Fate = Literal["settled", "unknown", "under way", "rejected", "released"]
"""A payment's state as a person needs it: reserved and sent are one while their process lives."""

_COLUMNS = {
    "id",
    "time",
    "process",
    "state",
    "micro_usd",
    "model",
    "network",
    "reference",
    "transaction_id",
    "replaces",
}
"""A database with a table `payment` that has these is ours."""
_ROWS = "SELECT * FROM payment WHERE time >= ? AND ? IN ('', process) ORDER BY id DESC LIMIT ?"
WAIT_SECONDS = 2
"""How long a reader waits where a writer of another program holds the file."""


@dataclass(frozen=True)
class Entry:
    """One payment of the ledger. Texts are shown as they were written: whoever prints them makes them harmless."""

    row: int
    time: int
    """Unix milliseconds."""
    fate: Fate
    micro_usd: int
    model: str | None
    method: str
    host: str
    path: str
    network: str
    """CAIP-2."""
    asset: str
    pay_to: str
    amount: str
    """Atomic units, decimal."""
    sends: int
    reference: str
    """EIP-3009 nonce or Solana signature."""
    transaction: str
    status: int | None
    code: str
    request_id: str
    first_byte_ms: int | None
    total_ms: int | None
    size: int | None
    replaces: int | None

    @property
    def what(self) -> str:
        """What was bought: the model, else the path."""
        return self.model or self.path


def read_entries(place: LedgerPlace, since: int = 0, process: str = "", last: int = -1) -> list[Entry]:
    """The payments since `since` (Unix milliseconds), oldest first; with `process` only those that it reserved, with
    `last` at most so many, the newest.

    Raises LedgerError: there is none, no right to read it, or it is no ledger of ours.
    """
    if isinstance(place, PostgresUrl):
        require_driver(place)
        from .postgres.reading import read_rows  # noqa: PLC0415 - needs psycopg

        return [_entry(row, row["alive"]) for row in reversed(read_rows(place, since, process, last))]
    return _read_file(place, since, process, last)


def is_there(place: LedgerPlace) -> bool:
    """Whether there is a ledger yet. Raises LedgerError, where that cannot be known."""
    if not isinstance(place, PostgresUrl):
        return place.exists()
    require_driver(place)
    from .postgres.reading import is_made  # noqa: PLC0415 - needs psycopg

    return is_made(place)


def _read_file(path: Path, since: int, process: str, last: int) -> list[Entry]:
    _check_file(path)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=WAIT_SECONDS)) as db:
            db.row_factory = sqlite3.Row
            rows = db.execute(_ROWS, (since, process, last)).fetchall() if _is_filled(db, path) else []
    except sqlite3.Error as error:
        if "not a database" in str(error):
            raise LedgerError(f"{path} is no ledger: it is not a SQLite database.") from None
        raise LedgerError(f"The ledger {path} cannot be read: {error}.") from None
    boot = Clock().boot_name
    alive = {process: is_alive(process, boot) for process in {row["process"] for row in rows}}
    return [_entry(row, alive[row["process"]]) for row in reversed(rows)]


def _check_file(path: Path) -> None:
    """Without opening it: closing the file would take away every lock of this process on it, and so the proxy's own.
    Another process that closes the ledger then takes itself for the last one and deletes the log that we write to.
    """
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise LedgerError(f"There is no ledger at {path}. The proxy makes one when it starts.") from None
    except OSError as error:
        raise LedgerError(f"The ledger {path} cannot be read: {error.strerror}.") from None
    if folder:
        raise LedgerError(f"{path} is a folder; name the file of a ledger.")
    if not os.access(path, os.R_OK):
        raise LedgerError(f"The ledger {path} cannot be read: you have no right to.")


def _is_filled(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the ledger's tables are there. Raises LedgerError: they are of another version, or of another program."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and not version:
        return False  # just being made
    if "payment" in tables and version > len(MIGRATIONS):
        raise LedgerError(
            f"The ledger {path} was written by a newer version of mitmproxy-x402 (schema {version}, this one knows "
            f"{len(MIGRATIONS)}). Update to read it."
        )
    if not {column["name"] for column in db.execute("PRAGMA table_info(payment)")} >= _COLUMNS:
        raise LedgerError(f"{path} is a database of another program, not a ledger of mitmproxy-x402.")
    return True


def _entry(row: Any, alive: bool) -> Entry:
    """`row` has the columns by their names."""
    return Entry(
        row=row["id"],
        time=row["time"],
        fate=_fate(row["state"], alive),
        micro_usd=row["micro_usd"],
        model=row["model"],
        method=row["method"],
        host=row["host"],
        path=row["path"],
        network=row["network"],
        asset=row["asset"],
        pay_to=row["pay_to"],
        amount=row["amount"],
        sends=row["sends"],
        reference=row["reference"] or "",
        transaction=row["transaction_id"] or "",
        status=row["status"],
        code=row["code"] or "",
        request_id=row["request_id"] or "",
        first_byte_ms=row["first_byte_ms"],
        total_ms=row["total_ms"],
        size=row["bytes"],
        replaces=row["replaces"],
    )


def _fate(state: str, alive: bool) -> Fate:
    """As the ledger will say itself once a proxy opens it again (see `ledger`)."""
    if state == "reserved":
        return "under way" if alive else "released"
    if state == "sent":
        return "under way" if alive else "unknown"
    fates: dict[str, Fate] = {"settled": "settled", "rejected": "rejected", "released": "released"}
    fates["expired"] = "rejected"  # what is still superseded may yet be settled: unknown
    return fates.get(state, "unknown")
