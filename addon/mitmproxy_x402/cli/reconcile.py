"""The verb `reconcile`: asks the chain what became of payments, and writes it into the ledger."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..ledger.interface import Ledger, LedgerError
from ..ledger.opening import open_ledger
from ..ledger.reading import Entry, is_there, read_unchecked, read_unproven
from ..protocol.amounts import format_usd
from ..reconcile.findings import SENTENCES
from ..reconcile.resolver import Found, Resolver
from ..reconcile.rpcs import rpcs
from ..report.text import count, plain
from ..settings.ledger_place import LedgerPlace
from ..settings.settings import Settings
from .ledger_options import Parser, options_of, settings_and_place
from .terminal import write

NOT_ASKED, FOUND_WRONG = 1, 3
"""Exit codes: there was something to look up and no answer at all; the chain contradicts what a gateway said."""
MAX_LINES = 20
RPC_SECONDS = 10
"""Least seconds to wait for one answer: no client is waiting here."""


_DIGITS = re.compile("[0-9]+")


@dataclass
class Outcome:
    """The result of one run."""

    found: list[Found] = field(default_factory=list)

    def of(self, kind: str) -> list[Found]:
        """The payments with this verdict, oldest first."""
        return sorted((one for one in self.found if one.verdict.kind == kind), key=lambda one: one.entry.row)

    @property
    def open(self) -> list[Found]:
        """The payments whose outcome is still unknown."""
        still = (one for one in self.found if one.verdict.kind not in ("moved", "dead"))
        return sorted(still, key=lambda one: one.entry.row)

    @property
    def wrong(self) -> list[Found]:
        """The payments on which the chain contradicts a gateway."""
        return sorted((one for one in self.found if one.finding), key=lambda one: one.entry.row)


def run(arguments: Sequence[str]) -> int:
    """Look payments up, record what the chain says, and print it. Raises UsageError, SettingsError and LedgerError."""
    parser = Parser()
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(list(arguments))
    options = options_of(given.settings)
    settings, place = settings_and_place(options, given.ledger)
    if not is_there(place):
        if given.ledger or options.get("x402_ledger"):
            raise LedgerError(f"There is no ledger at {place}. The proxy makes one when it starts.")
        write("Nothing was paid yet.\n")
        return 0
    # Opening it brings an older ledger up to date, and ends what has ended.
    with closing(open_ledger(place, is_tool=True)) as ledger:
        entries = _entries(place)
        outcome = asyncio.run(_look_up(entries, settings, ledger, quiet=given.json))
    write(as_json(outcome) if given.json else text(outcome, settings))
    if outcome.wrong:
        return FOUND_WRONG
    answered = any(one.verdict.witnesses or one.verdict.later for one in outcome.found)
    return 0 if answered or not outcome.found else NOT_ASKED


def _entries(place: LedgerPlace) -> list[Entry]:
    """The payments that the chain has not confirmed, except those that are being sent now."""
    both = [*read_unproven(place), *read_unchecked(place)]
    return [entry for entry in both if entry.fate != "under way"]


async def _look_up(entries: Sequence[Entry], settings: Settings, ledger: Ledger, *, quiet: bool) -> Outcome:
    resolver = Resolver(
        settings.networks,
        lambda network: rpcs(network, settings),
        seconds=max(settings.rpc_timeout, RPC_SECONDS),
        per_hour=settings.reconcile_rate,
    )
    outcome = Outcome()
    async for some in resolver.resolve(entries):
        ledger.record_chain([word for one in some if (word := one.word) is not None])
        outcome.found += some
        if not quiet and len(entries) > len(outcome.found):
            sys.stderr.write(f"{len(outcome.found)} of {len(entries)} looked up\n")
    return outcome


def text(outcome: Outcome, settings: Settings) -> str:
    """The result as text: what was found, what is still open and why, and where the chain contradicts a gateway."""
    if not outcome.found:
        return "Nothing to look up: the chain has confirmed everything that was sent.\n"
    names: dict[str, str] = {network.caip2: network.name for network in settings.networks}
    moved, dead = outcome.of("moved"), outcome.of("dead")
    lines = []
    if moved:
        lines.append(f"Confirmed: {count(len(moved))}, {format_usd(sum(one.micro_usd for one in moved))} USD moved.")
    if dead:
        freed = sum(one.entry.counts for one in dead)
        given_back = f", {format_usd(freed)} USD given back to the budget" if freed else ""
        lines.append(f"Not taken, and never can be: {count(len(dead))}{given_back}.")
    if outcome.wrong:
        lines += ["", f"The chain contradicts the gateway: {count(len(outcome.wrong))}."]
        lines += [line for one in outcome.wrong[:MAX_LINES] for line in _wrong(one, names)]
        lines += _more(outcome.wrong)
    still = outcome.open
    if still:
        amount = format_usd(sum(one.entry.counts for one in still))
        lines += [*([""] if lines else []), f"Still open: {count(len(still))}, {amount} USD."]
        lines += _reasons(still, names)
    return "\n".join(lines) + "\n"


def _wrong(one: Found, names: dict[str, str]) -> Iterable[str]:
    entry, verdict = one.entry, one.verdict
    yield f"  {_row(entry, names)}"
    yield f"    {SENTENCES[one.finding]}"
    if verdict.kind == "moved":
        yield f"    on chain: {verdict.amount} atomic units to {plain(verdict.pay_to, 64)} in {verdict.transaction}"
    if entry.transaction:
        yield f"    the gateway named: {plain(entry.transaction)}"


def _reasons(still: Sequence[Found], names: dict[str, str]) -> Iterable[str]:
    """The reasons, the most frequent first, each with its first payments."""
    groups: dict[str, list[Found]] = defaultdict(list)
    for one in still:
        why = one.verdict.why
        groups[_DIGITS.sub("#", why)].append(one)
    for its in sorted(groups.values(), key=len, reverse=True):
        more = f" (and {len(its) - 1} more)" if len(its) > 1 else ""
        yield f"  {_row(its[0].entry, names)}{more}"
        yield f"    {plain(its[0].verdict.why, 400)}"


def _more(found: Sequence[Found]) -> list[str]:
    return [f"  and {len(found) - MAX_LINES} more; --json lists all"] if len(found) > MAX_LINES else []


def _row(entry: Entry, names: dict[str, str]) -> str:
    when = datetime.fromtimestamp(entry.time / 1000).astimezone()
    network = names.get(entry.network, entry.network)
    return f"{when:%Y-%m-%d %H:%M}  {format_usd(entry.micro_usd):<9} {network}  {plain(entry.what, 40)}"


def as_json(outcome: Outcome) -> str:
    """The result as JSON, with every payment."""
    document: dict[str, Any] = {
        "confirmed": len(outcome.of("moved")),
        "not_taken": len(outcome.of("dead")),
        "open": len(outcome.open),
        "findings": len(outcome.wrong),
        "payments": [
            {
                "row": one.entry.row,
                "said": one.entry.state,
                "chain": one.verdict.kind,
                "transaction": one.verdict.transaction,
                "block_time": one.verdict.block_time or None,
                "amount": str(one.verdict.amount),
                "usd": format_usd(one.micro_usd),
                "pay_to": one.verdict.pay_to,
                "finding": one.finding,
                "why": one.verdict.why,
                "rpcs": list(one.verdict.witnesses),
            }
            for one in outcome.found
        ],
    }
    return json.dumps(document, indent=2) + "\n"
