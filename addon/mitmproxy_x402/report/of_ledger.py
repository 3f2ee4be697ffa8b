"""Makes the report of a ledger: reads its sums, and only those payments that are listed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone

from ..ledger.moments import midnight
from ..ledger.reading import Entry, each_entry, read_entries, read_findings, read_unknown
from ..ledger.sums import read_ceilings, read_groups
from ..protocol.networks import BUILT_IN, NetworkTable
from ..settings.ledger_place import LedgerPlace
from .sums import Report, make_of, moment

LISTED = 1000
"""Payments that are listed of each kind at most."""


def of_ledger(
    place: LedgerPlace,
    now: datetime,
    *,
    since: date | None = None,
    networks: NetworkTable = BUILT_IN,
    listed: int = LISTED,
) -> Report:
    """The report of the ledger at `place`, in this machine's time zone. A million payments take about a second. Of each
    kind the newest `listed` are listed.

    Raises LedgerError: it is missing, may not be read, or is not a ledger of ours.
    """
    today = now.astimezone().date()
    groups = read_groups(place, None if since is None else min(since, today.replace(day=1)))
    begin = _begin_of(since)
    return make_of(
        groups,
        now,
        entries=[entry for entry in read_entries(place, begin, last=listed) if _is_within(entry, since)],
        unknown=[entry for entry in read_unknown(place, begin, listed) if _is_within(entry, since)],
        findings=[entry for entry in read_findings(place, begin, listed) if _is_within(entry, since)],
        ceilings=read_ceilings(place, since),
        ledger=str(place),
        since=since,
        networks=networks,
    )


def entries_since(place: LedgerPlace, since: date | None) -> Iterator[Entry]:
    """All payments of the period, oldest first, read as they are asked for. Raises what `of_ledger` does."""
    return (entry for entry in each_entry(place, _begin_of(since)) if _is_within(entry, since))


def _begin_of(since: date | None) -> int:
    """Unix milliseconds, a day early: `_is_within` knows the time zone."""
    if since is None:
        return 0
    return midnight(since - timedelta(days=1), timezone.utc)


def _is_within(entry: Entry, since: date | None) -> bool:
    return since is None or moment(entry, None).date() >= since
