"""Reads the ledger for reports and commands, without creating or changing one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..settings.ledger_place import LedgerPlace, PostgresUrl
from .clock import Clock
from .interface import FREE, UNCHECKED, UNCHECKED_CHARGE, UNPROVEN, LedgerError
from .opening import require_driver
from .sqlite.file import check_file, has_log, open_to_read, version_of
from .sqlite.liveness import Processes, kept_warning, without_log

Fate = Literal["settled", "unknown", "under way", "rejected", "expired", "released"]
"""A payment's state for people: `reserved` and `sent` are `under way` while their process is running.

`rejected` payments, which include `superseded` ones, count until their signature has expired; `expired` ones were not
taken and never can be, `released` ones were never sent. All others count.
"""

_ROWS = "SELECT * FROM payment WHERE time >= ? AND ? IN ('', process) ORDER BY id DESC LIMIT ?"
UNPROVEN_SINCE = 5
"""The first version of the file's tables with the columns that the statements below use."""
_UNPROVEN = f"""
    SELECT * FROM payment WHERE id IN (SELECT id FROM payment WHERE ({UNPROVEN}) AND id > ?1
                                       UNION ALL SELECT id FROM payment WHERE {UNCHECKED_CHARGE} AND id > ?1)
    AND sends > 0 ORDER BY id LIMIT ?2"""  # noqa: S608
_UNCHECKED = f"SELECT * FROM payment WHERE {UNCHECKED} AND id > ? ORDER BY id LIMIT ?"  # noqa: S608


@dataclass(frozen=True)
class Entry:
    """One payment of the ledger. Texts are as stored; code that prints them has to escape them."""

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
    state: str = ""
    """The state in the ledger (`ledger.interface`)."""
    counts: int = 0
    """The part of `micro_usd` that counts against budgets: all, the charge under a ceiling, or nothing."""
    scheme: str = "exact"
    wallet: str = ""
    """Public address of the wallet that signed; empty in rows of older versions."""
    nonce: str = ""
    """What identifies it on the chain: EIP-3009 or Permit2 nonce, on Solana the memo."""
    valid_until: int | None = None
    """Unix seconds after which we do not send it."""
    valid_before: int | None = None
    """EVM: the end of its signature, Unix seconds by the chain's clock."""
    blockhash: str = ""
    last_height: int | None = None
    """Solana: the last block that can include it; None: not known."""
    charged: str = ""
    """The charge under a ceiling, as the answer said: atomic units, decimal."""
    exact_micro_usd: int | None = None
    """The exact price that the seller asked beside a ceiling; None: none."""
    chain_state: Literal["", "moved", "dead"] = ""
    """The chain's answer; empty: not looked up, or no answer."""
    chain_transaction: str = ""
    chain_time: int | None = None
    """Time of its block, Unix seconds."""
    chain_amount: str = ""
    """The amount that moved: atomic units, decimal."""
    finding: str = ""
    """A short code if the chain contradicts the gateway."""
    client: str = ""
    """The client's name."""

    @property
    def what(self) -> str:
        """The model, or else the path, that was paid for."""
        return self.model or self.path


def read_entries(place: LedgerPlace, since: int = 0, process: str = "", last: int = -1) -> list[Entry]:
    """The payments since `since` (Unix milliseconds), oldest first.

    With `process` only those that it reserved; with `last` at most so many of the newest.

    Raises LedgerError: there is no ledger, it cannot be read, or it is not one of ours.
    """
    if isinstance(place, PostgresUrl):
        require_driver(place)
        from .postgres.reading import read_rows  # noqa: PLC0415 - needs psycopg

        rows = read_rows(place, since, process, last)
        return [_entry(row, row["alive"]) for row in reversed(rows)]
    return _read_file(place, _ROWS, (since, process, last))[::-1]


def read_unproven(place: LedgerPlace, after: int = 0, last: int = -1) -> list[Entry]:
    """The payments that the chain has yet to decide: sent ones that are neither settled nor expired by its word.

    Includes ceilings of which only the gateway says how much it took, and `sent` rows of running processes (fate `under
    way`), which must not be judged yet. Rows above `after`, in order, at most `last`. Raises what `read_entries` does.
    """
    if isinstance(place, PostgresUrl):
        require_driver(place)
        from .postgres.reading import read_unproven_rows  # noqa: PLC0415 - needs psycopg

        return [_entry(row, row["alive"]) for row in read_unproven_rows(place, after, last)]
    return _read_file(place, _UNPROVEN, (after, last))


def read_unchecked(place: LedgerPlace, after: int = 0, last: int = -1) -> list[Entry]:
    """The exact payments settled only by the gateway's word. Parameters and errors are those of `read_unproven`."""
    if isinstance(place, PostgresUrl):
        require_driver(place)
        from .postgres.reading import read_unchecked_rows  # noqa: PLC0415 - needs psycopg

        return [_entry(row, row["alive"]) for row in read_unchecked_rows(place, after, last)]
    return _read_file(place, _UNCHECKED, (after, last))


def read_unknown(place: LedgerPlace, since: int = 0, last: int = -1) -> list[Entry]:
    """The payments since `since` that were sent and are not confirmed, newest first, at most `last`."""
    found = _newest(place, f"({UNPROVEN}) AND state IN ('unknown', 'sent')", since, last)
    return [entry for entry in found if entry.fate == "unknown"]


def read_findings(place: LedgerPlace, since: int = 0, last: int = -1) -> list[Entry]:
    """The payments since `since` where the chain contradicts the gateway, newest first, at most `last`."""
    return _newest(place, "finding IS NOT NULL", since, last)


def _newest(place: LedgerPlace, where: str, since: int, last: int) -> list[Entry]:
    if isinstance(place, PostgresUrl):
        require_driver(place)
        from .postgres.reading import read_newest  # noqa: PLC0415 - needs psycopg

        return [_entry(row, row["alive"]) for row in read_newest(place, where, since, last)]
    statement = f"SELECT * FROM payment WHERE {where} AND time >= ? ORDER BY id DESC LIMIT ?"  # noqa: S608 - ours
    return _read_file(place, statement, (since, last))


def each_entry(place: LedgerPlace, since: int = 0) -> Iterator[Entry]:
    """The payments since `since` (Unix milliseconds), oldest first, read on demand. Raises LedgerError."""
    if isinstance(place, PostgresUrl):
        require_driver(place)
        from .postgres.reading import each_row  # noqa: PLC0415 - needs psycopg

        yield from (_entry(row, row["alive"]) for row in each_row(place, since))
        return
    check_file(place)
    processes = Processes(place, Clock().boot_name)
    try:
        with closing(open_to_read(place)) as db:
            db.row_factory = sqlite3.Row
            if not version_of(db, place):
                return
            for row in db.execute("SELECT * FROM payment WHERE time >= ? ORDER BY id", (since,)):
                yield _entry(processes.as_left(row), processes.is_alive(row["process"]))
    except sqlite3.Error as error:
        raise LedgerError(f"The ledger {place} cannot be read: {error}.") from None


def find_missing(place: LedgerPlace) -> str:
    """A message if payments are known to be missing from the ledger; else empty. Raises LedgerError."""
    if isinstance(place, PostgresUrl):
        return ""
    check_file(place)
    try:
        with closing(open_to_read(place)) as db:
            if not version_of(db, place):
                return ""
            missing = "" if has_log(place) else without_log(db, place, Clock().boot_name)
            return missing or kept_warning(db)
    except sqlite3.Error as error:
        raise LedgerError(f"The ledger {place} cannot be read: {error}.") from None


def is_there(place: LedgerPlace) -> bool:
    """Whether there is a ledger yet. Raises LedgerError: that cannot be determined."""
    if not isinstance(place, PostgresUrl):
        return place.exists()
    require_driver(place)
    from .postgres.reading import is_made  # noqa: PLC0415 - needs psycopg

    return is_made(place)


def _read_file(path: Path, statement: str, values: tuple[Any, ...]) -> list[Entry]:
    check_file(path)
    try:
        with closing(open_to_read(path)) as db:
            db.row_factory = sqlite3.Row
            version = version_of(db, path)
            if statement != _ROWS and version < UNPROVEN_SINCE:
                version = 0  # a proxy of this version has to migrate it first
            rows = db.execute(statement, values).fetchall() if version else []
    except sqlite3.Error as error:
        raise LedgerError(f"The ledger {path} cannot be read: {error}.") from None
    processes = Processes(path, Clock().boot_name)
    return [_entry(row, processes.is_alive(row["process"])) for row in map(processes.as_left, rows)]


def _entry(row: Mapping[str, Any], alive: bool) -> Entry:
    """The Entry of a `row`, by column names; a ledger that was not migrated yet lacks some columns."""
    old = "scheme" not in row  # in old versions a rejection counted nothing
    fate = fate_of("expired" if old and row["state"] == "rejected" else row["state"], alive)
    return Entry(
        row=row["id"],
        time=row["time"],
        fate=fate,
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
        state=row["state"],
        counts=0 if fate in FREE else row["micro_usd"] - row.get("uncounted", 0),
        scheme=row.get("scheme") or "exact",
        wallet=row.get("wallet") or "",
        nonce=row.get("nonce") or "",
        valid_until=row["valid_until"],
        valid_before=row.get("valid_before"),
        blockhash=row.get("blockhash") or "",
        last_height=row.get("last_height"),
        charged=row.get("charged") or "",
        exact_micro_usd=row.get("exact_micro_usd"),
        chain_state=row.get("chain_state") or "",
        chain_transaction=row.get("chain_transaction") or "",
        chain_time=row.get("chain_time"),
        chain_amount=row.get("chain_amount") or "",
        finding=row.get("finding") or "",
        client=row.get("client") or "",
    )


_FATES: Mapping[str, Fate] = {
    **{"settled": "settled", "rejected": "rejected", "superseded": "rejected"},
    **{"expired": "expired", "released": "released"},
}


def fate_of(state: str, alive: bool) -> Fate:
    """The fate of a row in `state`, whose process is `alive`, once a proxy has opened the ledger again."""
    if state == "reserved":
        return "under way" if alive else "released"
    if state == "sent":
        return "under way" if alive else "unknown"
    return _FATES.get(state, "unknown")
