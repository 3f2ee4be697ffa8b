"""Reads the ledger in a PostgreSQL database for people; a role that may only read is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import psycopg
from psycopg.rows import dict_row

from ...settings.ledger_place import PostgresUrl
from ..interface import UNCHECKED, UNCHECKED_CHARGE, UNPROVEN, LedgerError
from .schema import version_of
from .session import Session, Unanswered, connect, failure, limit

READ_SECONDS = 30
_ROWS = """
    SELECT *, session IN (SELECT x402_alive()) AS alive FROM x402_payment
    WHERE time >= %s AND %s IN ('', process) ORDER BY id DESC LIMIT NULLIF(%s, -1)"""

_UNPROVEN = f"""
    SELECT *, session IN (SELECT x402_alive()) AS alive FROM x402_payment
    WHERE (({UNPROVEN}) OR ({UNCHECKED_CHARGE})) AND sends > 0 AND id > %s ORDER BY id LIMIT NULLIF(%s, -1)"""
_UNCHECKED = f"""
    SELECT *, session IN (SELECT x402_alive()) AS alive FROM x402_payment
    WHERE {UNCHECKED} AND id > %s ORDER BY id LIMIT NULLIF(%s, -1)"""
FETCHED = 5000
"""Rows that are fetched at a time when all are read."""
_NEWEST = """
    SELECT *, session IN (SELECT x402_alive()) AS alive FROM x402_payment
    WHERE {where} AND time >= %s ORDER BY id DESC LIMIT NULLIF(%s, -1)"""
_EACH = """
    SELECT *, session IN (SELECT x402_alive()) AS alive FROM x402_payment
    WHERE time >= %s AND id > %s ORDER BY id LIMIT %s"""
_BOUNDS = """
    SELECT least((SELECT min(bucket) * 900000 FROM x402_tally WHERE bucket >= %(begin)s / 900000),
            (SELECT min(time) FROM x402_payment WHERE state IN ('reserved', 'sent') AND time >= %(begin)s)),
        x402_now()"""
_SUMS = """
    SELECT width_bucket(bucket * 900000, %(begins)s::bigint[]), state, false, network, model, path, client,
        sum(payments), sum(micro_usd), sum(counts)
    FROM x402_tally WHERE payments > 0 AND bucket >= %(begin)s / 900000 GROUP BY 1, 2, 4, 5, 6, 7
    UNION ALL
    SELECT width_bucket(time, %(begins)s::bigint[]), state, session IN (SELECT x402_alive()), network,
        coalesce(model, ''), path, coalesce(client, ''), 1, micro_usd, micro_usd
    FROM x402_payment WHERE state IN ('reserved', 'sent') AND time >= %(begin)s"""
UNPROVEN_SINCE = 2
"""The first version of the tables that has what the statements above ask, except `_ROWS` and `_EACH`."""


def is_made(url: PostgresUrl) -> bool:
    """Whether the database has the ledger's tables. Raises LedgerError."""
    with closing(_reading(url)) as session:
        return _version(session, url) > 0


def read_rows(url: PostgresUrl, since: int, process: str, last: int) -> list[dict[str, Any]]:
    """The rows for `ledger.reading.read_entries`, newest first, with `alive`: whether the row's proxy is running."""
    return _read(url, _ROWS, (since, process, last))


def read_unproven_rows(url: PostgresUrl, after: int, last: int) -> list[dict[str, Any]]:
    """The rows for `ledger.reading.read_unproven`, with `alive`."""
    return _read(url, _UNPROVEN, (after, last), UNPROVEN_SINCE)


def read_unchecked_rows(url: PostgresUrl, after: int, last: int) -> list[dict[str, Any]]:
    """The rows for `ledger.reading.read_unchecked`, with `alive`."""
    return _read(url, _UNCHECKED, (after, last), UNPROVEN_SINCE)


def read_newest(url: PostgresUrl, where: str, since: int, last: int) -> list[dict[str, Any]]:
    """The newest rows that meet the SQL condition `where`, with `alive`."""
    return _read(url, _NEWEST.format(where=where), (since, last), UNPROVEN_SINCE)


def each_row(url: PostgresUrl, since: int) -> Iterator[dict[str, Any]]:
    """All rows for `ledger.reading.each_entry`, fetched on demand, with `alive`."""
    after, some = 0, FETCHED
    while some == FETCHED:
        rows = _read(url, _EACH, (since, after, FETCHED))
        yield from rows
        some = len(rows)
        after = rows[-1]["id"] if rows else after


def read_sums(url: PostgresUrl, begin: int, days: Callable[[int, int], Mapping[int, str]]) -> list[tuple[Any, ...]]:
    """The groups for `ledger.sums.read_groups`: day, state, `alive`, and the other columns.

    `days` returns the names of the days between two times, by their beginnings.
    """
    with closing(_reading(url)) as session:
        if _version(session, url) < UNPROVEN_SINCE:
            raise LedgerError(
                f"There is no ledger of this version in {url} yet. The proxy makes one, or adds to it, when it starts."
            )
        try:
            session.execute("SET enable_seqscan = on; SET work_mem = '32MB'")
            bounds = session.execute(_BOUNDS, {"begin": begin}).fetchone()
            if bounds is None or bounds[0] is None:
                return []
            begins = days(*bounds)
            rows = session.execute(_SUMS.encode(), {"begins": list(begins), "begin": begin}).fetchall()
        except (psycopg.Error, Unanswered) as error:
            raise failure(url, error) from None
    names = list(begins.values())
    return [(names[number - 1], *rest) for number, *rest in rows]


def read_sum(url: PostgresUrl, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The only row that `statement` gives, in its order. Raises LedgerError."""
    (row,) = _read(url, statement, values)
    return tuple(row.values())


def _read(url: PostgresUrl, statement: str, values: tuple[Any, ...], least: int = 1) -> list[dict[str, Any]]:
    with closing(_reading(url)) as session:
        version = _version(session, url)
        if not version:
            raise LedgerError(f"There is no ledger in {url} yet. The proxy makes one when it starts.")
        if version < least:  # a proxy of this version has to migrate it first
            return []
        try:
            return session.cursor(row_factory=dict_row).execute(statement.encode(), values).fetchall()
        except (psycopg.Error, Unanswered) as error:
            raise failure(url, error) from None


def _reading(url: PostgresUrl) -> Session:
    session = connect(url, writable=False)
    limit(session, READ_SECONDS, READ_SECONDS, READ_SECONDS)
    session.execute("SET default_transaction_read_only = on")
    return session


def _version(session: Session, url: PostgresUrl) -> int:
    try:
        return version_of(session, url)
    except (psycopg.Error, Unanswered) as error:
        raise failure(url, error) from None
