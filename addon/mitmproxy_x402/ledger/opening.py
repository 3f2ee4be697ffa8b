"""Opens the ledger that the settings name, in SQLite or PostgreSQL."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from ..settings.ledger_place import LedgerPlace, PostgresUrl
from .interface import Ledger, LedgerError
from .sqlite.store import SqliteLedger

if TYPE_CHECKING:
    from ..settings.settings import Settings
    from .postgres.store import PostgresLedger


def open_ledger(place: LedgerPlace, *, is_tool: bool = False) -> Ledger:
    """Open the ledger at `place` for writing; `is_tool`: for something else than a proxy. Raises LedgerError."""
    return _database(place) if isinstance(place, PostgresUrl) else SqliteLedger(place, is_tool=is_tool)


def make_ready(ledger: Ledger, settings: Settings) -> None:
    """Sum up new budgets, start what syncs the log, and lengthen the log, so that no payment waits. Never raises."""
    if isinstance(ledger, SqliteLedger):
        with contextlib.suppress(LedgerError):  # the first payment reports it
            ledger.spent_of([*settings.budgets, *(budget for limit in settings.limits for budget in limit.budgets)])
        if settings.ledger_sync:
            with contextlib.suppress(LedgerError):
                ledger.prepare_sync()


def _database(url: PostgresUrl) -> PostgresLedger:
    require_driver(url)
    from .postgres.store import PostgresLedger  # noqa: PLC0415 - needs psycopg

    return PostgresLedger(url)


def require_driver(url: PostgresUrl) -> None:
    """Raise LedgerError, which says what to install, if psycopg is missing: it is needed for PostgreSQL only."""
    try:
        import psycopg  # noqa: F401, PLC0415
    except ImportError:
        raise LedgerError(
            f"The ledger {url} needs psycopg, which is not installed here: run {sys.executable} -m pip install "
            '"psycopg[binary]>=3.2", or install mitmproxy-x402[postgres].'
        ) from None
