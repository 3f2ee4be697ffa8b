"""Sums the ledger's payments by day, outcome, network, model, path and client, inside the database, for reports.

A million payments take about a second and some megabytes. Days are those of a given time zone. The outcome is the
`reading.Fate`: the state in the ledger as a person understands it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo
from pathlib import Path
from typing import Any

from ..settings.ledger_place import LedgerPlace, PostgresUrl
from .clock import Clock
from .interface import FREE, LedgerError
from .moments import local_time, midnight
from .opening import require_driver
from .reading import Fate, fate_of
from .sqlite import tally
from .sqlite.file import check_file, open_to_read, version_of
from .sqlite.liveness import Processes

TALLY_SINCE = 8
"""The first version of the tables that has the sums; a proxy has to migrate older files first."""


@dataclass(frozen=True)
class Group:
    """The payments that have all of these in common. Texts are as stored."""

    day: str
    """ISO date."""
    fate: Fate
    network: str
    """CAIP-2."""
    model: str
    """The model; empty: the requests name none."""
    path: str
    client: str
    """The client; empty: it gives no name."""
    payments: int
    micro_usd: int
    """The amount that was signed for."""
    counts: int
    """The part of it that counts against budgets."""

    @property
    def what(self) -> str:
        """The model, or else the path, that was paid for."""
        return self.model or self.path


@dataclass(frozen=True)
class Ceilings:
    """Sums of payments by `upto`, and of their charges. Amounts are millionths of a dollar."""

    payments: int = 0
    """Payments whose charge is known, from the chain or the answer."""
    most: int = 0
    """The sum of their ceilings."""
    charged: int = 0
    compared: int = 0
    """How many of them the seller also offered at an exact price."""
    compared_charged: int = 0
    exact: int = 0
    """The sum of those prices."""
    unknown: int = 0
    """Payments whose charge is not known yet."""
    unknown_most: int = 0
    unproven: int = 0
    """Payments whose charge is the gateway's word alone."""
    unproven_charged: int = 0


CEILINGS = """
    SELECT COUNT(taken) AS payments, COALESCE(SUM(CASE WHEN taken IS NOT NULL THEN micro_usd END), 0) AS most,
        COALESCE(SUM(taken), 0) AS charged, COUNT(taken + exact_micro_usd) AS compared,
        COALESCE(SUM(CASE WHEN exact_micro_usd IS NOT NULL THEN taken END), 0) AS compared_charged,
        COALESCE(SUM(CASE WHEN taken IS NOT NULL THEN exact_micro_usd END), 0) AS exact,
        COUNT(*) - COUNT(taken) AS unknown,
        COALESCE(SUM(CASE WHEN taken IS NULL THEN micro_usd END), 0) AS unknown_most,
        COUNT(said) AS unproven, COALESCE(SUM(said), 0) AS unproven_charged
    FROM (SELECT micro_usd, exact_micro_usd, CASE WHEN chain_state IS NULL THEN charged_micro_usd END AS said,
            CASE chain_state WHEN 'moved' THEN micro_usd - uncounted WHEN 'dead' THEN 0
                ELSE charged_micro_usd END AS taken
        FROM {table} WHERE scheme = 'upto' AND state NOT IN ('reserved', 'released') AND time >= {begin}) AS ceiling"""
CEILINGS_SINCE = 14
"""The first version of the tables in a file that has what this statement asks."""


def read_ceilings(place: LedgerPlace, since: date | None = None, zone: tzinfo | None = None) -> Ceilings:
    """The sums of payments by `upto` since the beginning of the day `since`. Raises what `read_groups` does."""
    begin = 0 if since is None else midnight(since, zone)
    if isinstance(place, PostgresUrl):
        require_driver(place)
        from .postgres.reading import read_sum  # noqa: PLC0415 - needs psycopg

        return Ceilings(*map(int, read_sum(place, CEILINGS.format(table="x402_payment", begin="%s"), (begin,))))
    check_file(place)
    try:
        with closing(open_to_read(place)) as db:
            if version_of(db, place) < CEILINGS_SINCE:
                return Ceilings()
            return Ceilings(*db.execute(CEILINGS.format(table="payment", begin="?"), (begin,)).fetchone())
    except sqlite3.Error as error:
        raise LedgerError(f"The ledger {place} cannot be read: {error}.") from None


def read_groups(place: LedgerPlace, since: date | None = None, zone: tzinfo | None = None) -> list[Group]:
    """All payments since the beginning of the day `since`, ordered by day. `zone` None: this machine's.

    Raises LedgerError: there is no ledger, it cannot be read, or it is not one of ours.
    """
    begin = 0 if since is None else midnight(since, zone)
    if isinstance(place, PostgresUrl):
        require_driver(place)
        from .postgres.reading import read_sums  # noqa: PLC0415 - needs psycopg

        found = read_sums(place, begin, lambda first, last: _days(first, last, zone))
        rows: Iterable[tuple[Any, ...]] = ((day, fate_of(state, alive), *its) for day, state, alive, *its in found)
    else:
        rows = _of_file(place, begin, zone)
    return _merged(rows)


def _of_file(path: Path, begin: int, zone: tzinfo | None) -> Iterator[tuple[Any, ...]]:
    """Yield the groups in a file, with the fate in place of the state."""
    check_file(path)
    processes = Processes(path, Clock().boot_name)
    try:
        with closing(open_to_read(path)) as db:
            if version_of(db, path) < TALLY_SINCE:
                raise LedgerError(
                    f"The ledger {path} is of an older version of mitmproxy-x402. Start the proxy once: it adds "
                    "what is missing."
                )
            db.execute(tally.DAYS)
            first, last = db.execute(tally.BOUNDS, (begin,)).fetchone()
            if first is not None:
                db.executemany(tally.ADD_DAY, _quarters(max(first, begin // tally.QUARTER_MS), last, zone))
            for day, state, *rest in db.execute(tally.GROUPS):
                yield day, fate_of(state, False), *rest
            db.row_factory = sqlite3.Row
            for row in db.execute(tally.UNDER_WAY, (begin,)):
                fate = fate_of(processes.as_left(row)["state"], processes.is_alive(row["process"]))
                its = row["network"], row["model"] or "", row["path"], row["client"] or ""
                yield _day(row["time"], zone), fate, *its, 1, row["micro_usd"], row["micro_usd"]
    except sqlite3.Error as error:
        raise LedgerError(f"The ledger {path} cannot be read: {error}.") from None


def _merged(rows: Iterable[tuple[Any, ...]]) -> list[Group]:
    """Merge the groups of states that are one fate. Free ones count nothing."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for day, fate, network, model, path, client, payments, micro_usd, counts in rows:
        its = sums.setdefault((day, fate, network, model, path, client), [0, 0, 0])
        free = fate in FREE
        for number, more in enumerate((payments, micro_usd, 0 if free else counts)):
            its[number] += int(more)
    return [Group(*key, *its) for key, its in sorted(sums.items())]


def _day(ms: int, zone: tzinfo | None) -> str:
    return local_time(ms, zone).date().isoformat()


def _days(first: int, last: int, zone: tzinfo | None) -> Mapping[int, str]:
    """The days between two times: the beginning of each (Unix milliseconds) and its name."""
    day = local_time(first, zone).date()
    found: dict[int, str] = {}
    while (begin := midnight(day, zone)) <= last:
        found[begin] = day.isoformat()
        day += timedelta(days=1)
    return found


def _quarters(first: int, last: int, zone: tzinfo | None) -> Iterator[tuple[int, str]]:
    """Each quarter of an hour with the day that it is in."""
    begins = sorted(_days(first * tally.QUARTER_MS, last * tally.QUARTER_MS, zone).items())
    for number, (begin, name) in enumerate(begins):
        end = begins[number + 1][0] if number + 1 < len(begins) else (last + 1) * tally.QUARTER_MS
        for bucket in range(max(begin // tally.QUARTER_MS, first), min(-(-end // tally.QUARTER_MS), last + 1)):
            yield bucket, name
