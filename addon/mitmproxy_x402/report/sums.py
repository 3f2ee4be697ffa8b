"""Sums the ledger's rows: today, this month, by day, model, network, path and client. Pure.

Spent is everything that counts against budgets: what is confirmed, and what was sent and is not confirmed yet. The two
are shown apart. What was not taken, and never can be, is not spent; nor is what was never sent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from typing import TypeVar

from ..ledger.moments import local_time
from ..ledger.reading import Entry, Fate
from ..ledger.sums import Ceilings, Group
from ..protocol.networks import BUILT_IN, NetworkTable

NO_CEILINGS = Ceilings()
UNNAMED = "unnamed"
SPENT: frozenset[Fate] = frozenset({"settled", "unknown", "rejected", "under way"})
"""The fates of payments that count as spent."""
OPEN: frozenset[Fate] = SPENT - {"settled"}
"""Those of them that nobody has confirmed."""
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
    """A number of payments, their sum in millionths of a dollar, and how much of both is not confirmed yet."""

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
    """The ledger's file or database, as text."""
    made: datetime
    zone: tzinfo | None
    """The time zone of its days; None: this machine's."""
    since: date | None
    """The first day of the period; None: that of the first payment."""
    today: Sum
    month: Sum
    """This month of the calendar."""
    total: Sum
    by_day: Mapping[str, Sum]
    """ISO dates, oldest first, without days on which nothing was spent."""
    by_model: Mapping[str, Sum]
    """Dearest first; requests that name no model go by their path."""
    by_network: Mapping[str, Sum]
    by_path: Mapping[str, Sum]
    by_client: Mapping[str, Sum]
    """By the names that clients give themselves; without one: "unnamed"."""
    groups: tuple[Group, ...]
    """The period's payments in sums, in the order of days."""
    entries: tuple[Entry, ...]
    """The newest payments of the period, oldest first."""
    unknown: tuple[Entry, ...]
    """The newest that were sent and are not confirmed, newest first; `fates` says how many there are."""
    findings: tuple[Entry, ...]
    """Where the chain contradicts what the gateway said, newest first."""
    names: Mapping[str, str]
    """Short names of networks, by CAIP-2."""
    ceilings: Ceilings = NO_CEILINGS
    """What payments by `upto` came to in the period."""

    @property
    def fates(self) -> Mapping[Fate, Sum]:
        """What became of the period's payments: sums for each fate that there is."""
        return by(self.groups, lambda group: group.fate)

    def of(self, fate: Fate) -> Sum:
        """The sum of one fate."""
        return self.fates.get(fate, Sum())

    def network(self, caip2: str) -> str:
        """The network's short name; the CAIP-2 id if it has none."""
        return self.names.get(caip2, caip2)

    def moment(self, entry: Entry) -> datetime:
        """When it was paid, in the report's time zone."""
        return moment(entry, self.zone)


def moment(entry: Entry, zone: tzinfo | None) -> datetime:
    """When `entry` was paid, to the second; `zone` None: this machine's, with the summer time of that day."""
    return local_time(entry.time, zone)


def total(entries: Iterable[Entry]) -> Sum:
    """What all of `entries` count for together; for those that count nothing, what they were of."""
    return _total(_group(entry, "") for entry in entries)


def _total(groups: Iterable[Group]) -> Sum:
    payments = micro_usd = open_payments = open_micro_usd = 0
    for group in groups:
        amount = group.counts if group.fate in SPENT else group.micro_usd
        payments += group.payments
        micro_usd += amount
        if group.fate in OPEN:
            open_payments += group.payments
            open_micro_usd += amount
    return Sum(payments, micro_usd, open_payments, open_micro_usd)


Name = TypeVar("Name", bound=str)


def by(groups: Iterable[Group], key: Callable[[Group], Name]) -> dict[Name, Sum]:
    """Sums of `groups` by what `key` says of each, in the order of their first appearance."""
    found: dict[Name, list[Group]] = defaultdict(list)
    for group in groups:
        found[key(group)].append(group)
    return {name: _total(some) for name, some in found.items()}


def groups_of(entries: Iterable[Entry], zone: tzinfo | None) -> list[Group]:
    """Each of `entries` as a Group of its own, in the form of `ledger.sums.read_groups`."""
    every = [_group(entry, moment(entry, zone).date().isoformat()) for entry in entries]
    return sorted(every, key=lambda group: group.day)


def _group(entry: Entry, day: str) -> Group:
    its = entry.network, entry.model or "", entry.path, entry.client
    return Group(day, entry.fate, *its, 1, entry.micro_usd, entry.counts)


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
    """The report of `entries` (the whole ledger's, oldest first) at `now`: see `make_of`."""
    chosen = [entry for entry in entries if since is None or moment(entry, zone).date() >= since]
    newest = chosen[::-1]
    return make_of(
        groups_of(entries, zone),
        now,
        entries=chosen,
        unknown=[entry for entry in newest if entry.fate == "unknown"],
        findings=[entry for entry in newest if entry.finding],
        **{"ledger": ledger, "since": since, "networks": networks, "zone": zone},  # type: ignore[arg-type]
    )


def make_of(
    groups: Sequence[Group],
    now: datetime,
    *,
    entries: Sequence[Entry] = (),
    unknown: Sequence[Entry] = (),
    findings: Sequence[Entry] = (),
    ceilings: Ceilings = NO_CEILINGS,
    ledger: str = "",
    since: date | None = None,
    networks: NetworkTable = BUILT_IN,
    zone: tzinfo | None = None,
) -> Report:
    """The report of `groups` (of the whole ledger, or of this month and the period) at `now`.

    `since` leaves out earlier days, but not of the sums of today and this month. Days are those of `zone`, which is
    this machine's when it is None.
    """
    now = now.astimezone(zone)
    chosen = tuple(group for group in groups if since is None or group.day >= since.isoformat())
    spent = [group for group in chosen if group.fate in SPENT]
    ever = [group for group in groups if group.fate in SPENT]
    names: dict[str, str] = {network.caip2: network.name for network in networks}
    today = now.date().isoformat()
    return Report(
        ledger=ledger,
        made=now,
        zone=zone,
        since=since,
        today=_total(group for group in ever if group.day == today),
        month=_total(group for group in ever if group.day[:7] == today[:7]),
        total=_total(spent),
        by_day=dict(sorted(by(spent, lambda group: group.day).items())),
        by_model=dearest_first(by(spent, lambda group: group.what)),
        by_network=dearest_first(by(spent, lambda group: names.get(group.network, group.network))),
        by_path=dearest_first(by(spent, lambda group: group.path)),
        by_client=dearest_first(by(spent, lambda group: group.client or UNNAMED)),
        groups=chosen,
        entries=tuple(entries),
        unknown=tuple(unknown),
        findings=tuple(findings),
        names=names,
        ceilings=ceilings,
    )
