"""What was spent: the ledger's rows as sums of today, this month, by day, model and network. Pure.

Only settled payments count as spent. Those whose outcome is unknown are listed apart: they may have been settled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone, tzinfo

from ..ledger.reading import Entry
from ..protocol.networks import BUILT_IN, NetworkTable


@dataclass(frozen=True)
class Sum:
    """So many payments of so many millionths of a dollar."""

    payments: int = 0
    micro_usd: int = 0


@dataclass(frozen=True)
class Report:
    """Everything that a report shows, in whatever form."""

    ledger: str
    """Its file."""
    made: datetime
    zone: tzinfo | None
    """That days are days of; None: this machine's."""
    since: date | None
    """None: since the first payment."""
    today: Sum
    month: Sum
    """Of the calendar."""
    total: Sum
    by_day: Mapping[str, Sum]
    """ISO dates, oldest first, without days on which nothing was settled."""
    by_model: Mapping[str, Sum]
    """Dearest first; requests that name no model go by their path."""
    by_network: Mapping[str, Sum]
    entries: tuple[Entry, ...]
    """Of the period, whatever became of them, oldest first."""
    names: Mapping[str, str]
    """Short names of networks, by CAIP-2."""

    def of(self, fate: str) -> tuple[Entry, ...]:
        """The period's payments that came to `fate`, newest first."""
        return tuple(entry for entry in reversed(self.entries) if entry.fate == fate)

    def network(self, caip2: str) -> str:
        """What people call that network."""
        return self.names.get(caip2, caip2)

    def moment(self, entry: Entry) -> datetime:
        """When it was paid, in the report's time zone."""
        return moment(entry, self.zone)


def moment(entry: Entry, zone: tzinfo | None) -> datetime:
    """When `entry` was paid, to the second; `zone` None: this machine's, with the summer time of that day."""
    return datetime.fromtimestamp(entry.time // 1000, timezone.utc).astimezone(zone)


def total(entries: Iterable[Entry]) -> Sum:
    """All of `entries` together."""
    amounts = [entry.micro_usd for entry in entries]
    return Sum(len(amounts), sum(amounts))


def by(entries: Iterable[Entry], key: Callable[[Entry], str]) -> dict[str, Sum]:
    """Sums of `entries` by what `key` says of each, in the order of their first appearance."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return {name: total(group) for name, group in groups.items()}


def dearest_first(sums: Mapping[str, Sum]) -> dict[str, Sum]:
    """`sums` by amount, then by name."""
    return dict(sorted(sums.items(), key=lambda item: (-item[1].micro_usd, item[0])))


def make(
    entries: Sequence[Entry],
    now: datetime,
    *,
    ledger: str = "",
    since: date | None = None,
    networks: NetworkTable = BUILT_IN,
    zone: tzinfo | None = None,
) -> Report:
    """The report of `entries` (the whole ledger's, oldest first) at `now`.

    `since` leaves out earlier days, but not of the sums of today and this month. Days are those of `zone`, which is
    this machine's when it is None.
    """
    now = now.astimezone(zone)
    days = {entry.row: moment(entry, zone).date() for entry in entries}
    chosen = [entry for entry in entries if since is None or days[entry.row] >= since]
    settled = [entry for entry in chosen if entry.fate == "settled"]
    spent = [(days[entry.row], entry) for entry in entries if entry.fate == "settled"]
    names: dict[str, str] = {network.caip2: network.name for network in networks}
    today = now.date()
    return Report(
        ledger=ledger,
        made=now,
        zone=zone,
        since=since,
        today=total(entry for day, entry in spent if day == today),
        month=total(entry for day, entry in spent if (day.year, day.month) == (today.year, today.month)),
        total=total(settled),
        by_day=dict(sorted(by(settled, lambda entry: days[entry.row].isoformat()).items())),
        by_model=dearest_first(by(settled, lambda entry: entry.what)),
        by_network=dearest_first(by(settled, lambda entry: names.get(entry.network, entry.network))),
        entries=tuple(chosen),
        names=names,
    )
