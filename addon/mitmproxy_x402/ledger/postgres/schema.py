"""The tables and functions of the ledger in PostgreSQL, and their migrations.

Each decision is one function in the database: a proxy makes one call, and holds the ledger's lock only as long as the
database needs. Names have a prefix, and the schema follows from the user's search_path, so that a database can serve
other programs, and several ledgers in different schemas.
"""

from __future__ import annotations

from typing import Any

from ...gateways.blockrun import ALIAS
from ...settings.ledger_place import PostgresUrl
from ..interface import LedgerError
from . import version_1, version_2, version_3, version_4, version_5, version_6
from .session import Session, limit

_VERSIONS = version_1, version_2, version_3, version_4, version_5, version_6
MIGRATIONS = tuple(version.SQL.replace("{ALIAS}", ALIAS) for version in _VERSIONS)
"""Each migrates the schema from its index to the next version, which x402_ledger stores. After a new one the functions
that proxies call must still take the same calls: those of the version before go on until they are restarted."""

_FIRST = 0x78343032
"""The advisory lock for creating or migrating the tables before there is a lock_key: "x402" in ASCII."""
_THERE = "SELECT to_regclass('x402_ledger') IS NOT NULL"
MIGRATION_SECONDS = 60


def version_of(session: Session, url: PostgresUrl) -> int:
    """The schema's version; 0: there are no tables yet. Raises LedgerError: it is newer than this program."""
    (there,) = _one(session, _THERE)
    version = int(_one(session, "SELECT version FROM x402_ledger")[0]) if there else 0
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"The ledger {url} was written by a newer version of mitmproxy-x402 (schema {version}, this one knows "
            f"{len(MIGRATIONS)}). Update, or name another one with x402_ledger."
        )
    return version


def migrate(session: Session, url: PostgresUrl) -> None:
    """Migrate the tables if they are older than this program; a second proxy waits for the first."""
    if version_of(session, url) == len(MIGRATIONS):
        return
    limit(session, MIGRATION_SECONDS, MIGRATION_SECONDS, MIGRATION_SECONDS)
    # Before the transaction: inside it, one that has waited would still see no tables.
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
