"""Finds and deletes old rows of a ledger in PostgreSQL, for `ledger.archive`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from ...settings.ledger_place import PostgresUrl
from ..interface import FREE
from .schema import migrate
from .session import Unanswered, connect, failure, limit

SECONDS = 30
FETCHED = 1000
_OLD = """
    DECLARE x402_old CURSOR WITH HOLD FOR
    SELECT * FROM x402_payment WHERE time < {before} AND counted_at < x402_time() - {counted}
        AND id < (SELECT max(id) FROM x402_payment) AND state NOT IN ('reserved', 'sent') AND free_at IS NULL
        AND (NOT {free_only} OR state IN {free})
    ORDER BY id"""
_REMOVE = """
    DELETE FROM x402_payment AS its USING unnest(%s::bigint[], %s::text[], %s::text[]) AS old (id, state, chain_state)
    WHERE its.id = old.id AND its.state = old.state AND coalesce(its.chain_state, '') = old.chain_state"""


class DatabaseRemoval:
    """Removes rows of one ledger, which is migrated first. Raises LedgerError."""

    def __init__(self, url: PostgresUrl) -> None:
        self._url = url
        self._session = connect(url, writable=True)
        try:
            migrate(self._session, url)
            limit(self._session, SECONDS, SECONDS, SECONDS)
        except (psycopg.Error, Unanswered) as error:
            raise failure(url, error) from None

    def rows(self, before_ms: int, counted_ms: int, *, free_only: bool) -> tuple[list[str], Iterator[Sequence[Any]]]:
        """The columns, and the rows that may be removed: made before `before_ms` and older than `counted_ms`.

        With `free_only` only rows that count nothing. The sums for budgets without a period keep what was counted.
        """
        only = str(bool(free_only)).lower()
        statement = _OLD.format(before=int(before_ms), counted=int(counted_ms), free_only=only, free=FREE)
        try:
            self._session.execute(statement.encode())
            first = self._session.execute(f"FETCH {FETCHED} FROM x402_old".encode())
            columns = [column.name for column in first.description or ()]
            return columns, self._each(first.fetchall())
        except (psycopg.Error, Unanswered) as error:
            raise failure(self._url, error) from None

    def _each(self, some: list[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        while some:
            yield from some
            try:
                some = list(self._session.execute(f"FETCH {FETCHED} FROM x402_old".encode()).fetchall())
            except (psycopg.Error, Unanswered) as error:
                raise failure(self._url, error) from None

    def remove(self, rows: Sequence[tuple[int, str, str]]) -> int:
        """Delete the rows whose number, state and chain state are unchanged. Returns how many."""
        try:
            return self._session.execute(_REMOVE.encode(), tuple(map(list, zip(*rows, strict=True)))).rowcount
        except (psycopg.Error, Unanswered) as error:
            raise failure(self._url, error) from None

    def close(self) -> None:
        """End the session."""
        self._session.close()
