"""The ledger's payments in sums, made where they are: by day, fate, network, model, path and client.

A million payments take about a second and some megabytes. Days are those of a time zone.
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
"""The version of a file's tables that has the sums; an older file has to be opened by a proxy first."""


@dataclass(frozen=True)
class Group:
    """Payments that have all of this in common. Texts are as they were written."""

    day: str
    """ISO date."""
    fate: Fate
    network: str
    """CAIP-2."""
    model: str
    """Empty: the requests name none."""
    path: str
    client: str
    """Empty: they name none."""
    payments: int
    micro_usd: int
    """What was signed for."""
    counts: int
    """Of it, what counts against budgets."""

    @property
    def what(self) -> str:
        """What was bought: the model, else the path."""
        return self.model or self.path


def read_groups(place: LedgerPlace, since: date | None = None, zone: tzinfo | None = None) -> list[Group]:
    """All payments since the beginning of that day, in the order of days. `zone` None: this machine's.

    Raises LedgerError: there is none, no right to read it, or it is no ledger of ours.
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
    """With the fate in the place of the state."""
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
    """Several states are one fate. What is free counts nothing, whatever its row says."""
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
    """When each day begins between two moments, and its name. Unix milliseconds."""
    day = local_time(first, zone).date()
    found: dict[int, str] = {}
    while (begin := midnight(day, zone)) <= last:
        found[begin] = day.isoformat()
        day += timedelta(days=1)
    return found


def _quarters(first: int, last: int, zone: tzinfo | None) -> Iterator[tuple[int, str]]:
    """Each quarter of an hour, and the day that it is in."""
    begins = sorted(_days(first * tally.QUARTER_MS, last * tally.QUARTER_MS, zone).items())
    for number, (begin, name) in enumerate(begins):
        end = begins[number + 1][0] if number + 1 < len(begins) else (last + 1) * tally.QUARTER_MS
        for bucket in range(max(begin // tally.QUARTER_MS, first), min(-(-end // tally.QUARTER_MS), last + 1)):
            yield bucket, name
