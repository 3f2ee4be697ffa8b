"""The tables and functions of the ledger in PostgreSQL, and their migrations.

What decides runs in the database, in one function for each decision: a proxy asks once, and holds the ledger's lock no
longer than the database needs. Names carry a prefix, and their schema is left to the user's search_path, so a database
may serve other programs, and several ledgers in schemas of their own.
"""

from __future__ import annotations

from typing import Any

from ...gateways.blockrun import ALIAS
from ...settings.ledger_place import PostgresUrl
from ..interface import LedgerError
from . import version_1, version_2, version_3
from .session import Session, limit

MIGRATIONS = tuple(version.SQL.replace("{ALIAS}", ALIAS) for version in (version_1, version_2, version_3))
"""Each brings the schema from its index to the next version, which x402_ledger keeps. A new one leaves the functions of
the older ones as they are: proxies of the version before go on using them until they are restarted."""

_FIRST = 0x78343032
"""The advisory lock of whoever makes or changes the tables, where there is no lock_key yet: "x402" in ASCII."""
_THERE = "SELECT to_regclass('x402_ledger') IS NOT NULL"
MIGRATION_SECONDS = 60


def version_of(session: Session, url: PostgresUrl) -> int:
    """The schema's version; 0 where there are no tables yet. Raises LedgerError for one that is newer than this."""
    (there,) = _one(session, _THERE)
    version = int(_one(session, "SELECT version FROM x402_ledger")[0]) if there else 0
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"The ledger {url} was written by a newer version of mitmproxy-x402 (schema {version}, this one knows "
            f"{len(MIGRATIONS)}). Update, or name another one with x402_ledger."
        )
    return version


def migrate(session: Session, url: PostgresUrl) -> None:
    """Bring the tables to this version, if they are older. One proxy at a time; a proxy that comes second waits."""
    if version_of(session, url) == len(MIGRATIONS):
        return
    limit(session, MIGRATION_SECONDS, MIGRATION_SECONDS, MIGRATION_SECONDS)
    # Before the transaction, and not in it: one that has waited would still believe that there are no tables.
    session.execute("SELECT pg_advisory_lock(%s, 0)", (_FIRST,))
    with session.transaction():
        for number in range(version_of(session, url), len(MIGRATIONS)):
            session.execute(MIGRATIONS[number].encode())
            session.execute("UPDATE x402_ledger SET version = %s", (number + 1,))
    session.execute("SELECT pg_advisory_unlock(%s, 0)", (_FIRST,))
    limit(session)


def _one(session: Session, statement: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] | None = session.execute(statement.encode()).fetchone()
    assert found is not None
    return found
