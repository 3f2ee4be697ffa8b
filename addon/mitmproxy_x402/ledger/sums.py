"""Sums the ledger's payments by day, fate, network, model, path and client, inside the database.

A million payments take about a second and some megabytes. Days are those of a given time zone.
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
from .interface import FREE, Clock, LedgerError
from .moments import local_time, midnight
from .opening import require_driver
from .reading import Fate, fate_of
from .sqlite import tally
from .sqlite.file import check_file, open_to_read, version_of
from .sqlite.liveness import is_alive

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
    """The groups in a file, with the fate instead of the state."""
    check_file(path)
    boot = Clock().boot_name
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
                fate = fate_of(row["state"], is_alive(path, row["process"], boot))
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
