"""Sums the ledger's rows: today, this month, by day, model, network, path and client. Pure.

Spent is everything that counts against budgets: what is confirmed, and what was sent and is not confirmed yet. The two
are shown apart. What was not taken, and never can be, is not spent; nor is what was never sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone, tzinfo

from ..ledger.reading import Entry, Fate
from ..protocol.networks import BUILT_IN, NetworkTable

UNNAMED = "unnamed"
SPENT: frozenset[Fate] = frozenset({"settled", "unknown", "rejected", "under way"})
"""What counts."""
OPEN: frozenset[Fate] = SPENT - {"settled"}
"""What of it nobody has confirmed."""
WORDS: Mapping[Fate, str] = {
    "settled": "confirmed",
    "unknown": "not confirmed yet",
    "rejected": "rejected by the gateway, not confirmed yet",
    "under way": "under way",
    "expired": "not taken",
    "released": "never sent",
}
"""What people read of a payment's fate."""


@dataclass(frozen=True)
class Sum:
    """So many payments of so many millionths of a dollar, and how much of that is not confirmed yet."""

    payments: int = 0
    micro_usd: int = 0
    open_payments: int = 0
    open_micro_usd: int = 0

    @property
    def confirmed(self) -> Sum:
        """What a receipt or the chain proves."""
        return Sum(self.payments - self.open_payments, self.micro_usd - self.open_micro_usd)

    @property
    def open(self) -> Sum:
        """What was sent and is not confirmed yet."""
        return Sum(self.open_payments, self.open_micro_usd, self.open_payments, self.open_micro_usd)

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.payments + other.payments,
            self.micro_usd + other.micro_usd,
            self.open_payments + other.open_payments,
            self.open_micro_usd + other.open_micro_usd,
        )


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
    """ISO dates, oldest first, without days on which nothing was spent."""
    by_model: Mapping[str, Sum]
    """Dearest first; requests that name no model go by their path."""
    by_network: Mapping[str, Sum]
    by_path: Mapping[str, Sum]
    by_client: Mapping[str, Sum]
    """As clients name themselves; those that do not are "unnamed"."""
    entries: tuple[Entry, ...]
    """Of the period, whatever became of them, oldest first."""
    names: Mapping[str, str]
    """Short names of networks, by CAIP-2."""

    @property
    def findings(self) -> tuple[Entry, ...]:
        """The period's payments where the chain contradicts what the gateway said, newest first."""
        return tuple(entry for entry in reversed(self.entries) if entry.finding)

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
    """What all of `entries` count for together; for those that count nothing, what they were of."""
    payments = micro_usd = open_payments = open_micro_usd = 0
    for entry in entries:
        amount = entry.counts if entry.fate in SPENT else entry.micro_usd
        payments += 1
        micro_usd += amount
        if entry.fate in OPEN:
            open_payments += 1
            open_micro_usd += amount
    return Sum(payments, micro_usd, open_payments, open_micro_usd)


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
    spent = [entry for entry in chosen if entry.fate in SPENT]
    ever = [(days[entry.row], entry) for entry in entries if entry.fate in SPENT]
    names: dict[str, str] = {network.caip2: network.name for network in networks}
    today = now.date()
    return Report(
        ledger=ledger,
        made=now,
        zone=zone,
        since=since,
        today=total(entry for day, entry in ever if day == today),
        month=total(entry for day, entry in ever if (day.year, day.month) == (today.year, today.month)),
        total=total(spent),
        by_day=dict(sorted(by(spent, lambda entry: days[entry.row].isoformat()).items())),
        by_model=dearest_first(by(spent, lambda entry: entry.what)),
        by_network=dearest_first(by(spent, lambda entry: names.get(entry.network, entry.network))),
        by_path=dearest_first(by(spent, lambda entry: entry.path)),
        by_client=dearest_first(by(spent, lambda entry: entry.client or UNNAMED)),
        entries=tuple(chosen),
        names=names,
    )
