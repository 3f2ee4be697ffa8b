"""Checks that the ledger agrees with what left the wallet on the chain."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from ..chain.json_rpc import TooFar, Unreachable
from ..chain.movements import Movements, movements
from ..chain.rpc import Allowance, Rpc
from ..ledger.interface import LedgerError
from ..ledger.reading import Entry, is_there, read_entries
from ..machine.program import program
from ..protocol.amounts import format_usd
from ..protocol.messages import AtomicUnits
from ..protocol.networks import Asset, Network
from ..report.sums import OPEN
from ..settings.settings import Settings
from .line import Line, ok, todo, unseen

DAYS = (31, 7, 1)
"""Days to compare; fewer if an RPC does not search so many."""
MOST_ROWS = 20_000
MOST_REQUESTS = 100
"""Most requests to one RPC."""
SLACK_SECONDS = 900
"""Seconds by which our clock and the chain's may differ."""


async def compare(network: Network, asset: Asset, payer: str, urls: Sequence[str], settings: Settings) -> Line | None:
    """Compare ledger and wallet; None: the ledger has no payment of this wallet on that network."""
    try:
        entries = _entries(network, asset, payer, settings)
    except LedgerError:  # reported by the line about the ledger
        return None
    if not entries:
        return None
    reason = "no RPC is known"
    for url in urls:
        for days in DAYS:
            begin = max(entries[0].time / 1000 - SLACK_SECONDS, time.time() - days * 86_400)
            rpc = Rpc(url, settings.rpc_timeout, Allowance(MOST_REQUESTS))
            try:
                moved = await movements(network, asset, payer, begin, rpc)
            except TooFar as error:
                reason = f"{rpc.origin}: {error}"
            except Unreachable as error:
                reason = f"{rpc.origin}: {error}"
                break
            else:
                return judge(network, asset, entries, moved, begin)
    return unseen("books", f"{network.name}: could not be compared with the chain ({reason})")


def _entries(network: Network, asset: Asset, payer: str, settings: Settings) -> list[Entry]:
    """The payments that `payer` has sent there, of a little more than the period."""
    if not is_there(settings.ledger):
        return []
    since = int((time.time() - (DAYS[0] + 1) * 86_400) * 1000)
    return [
        entry
        for entry in read_entries(settings.ledger, since, last=MOST_ROWS)
        if (entry.network, entry.wallet.lower()) == (network.caip2, payer.lower())
        and entry.sends
        and network.asset(entry.asset) == asset
    ]


def judge(network: Network, asset: Asset, entries: Sequence[Entry], moved: Movements, begin: float) -> Line:
    """The line that compares the ledger's `entries` with what `moved` on the chain since `begin` (Unix seconds)."""
    left_in = {each.lower() for each in moved.outgoing}
    named: dict[str, int] = {}
    for entry in entries:
        name = (entry.chain_transaction or entry.transaction).lower()
        within = entry.time / 1000 > begin + SLACK_SECONDS - 1
        if name and entry.fate == "settled" and (within or name in left_in):
            named[name] = named.get(name, 0) + int(entry.chain_amount or entry.charged or entry.amount)
    outgoing = {name.lower(): amount for name, amount in moved.outgoing.items()}
    left, booked = sum(outgoing.values()), sum(named.values())
    waiting = [int(entry.amount) for entry in entries if entry.fate in OPEN]
    still = sum(waiting)

    def usd(units: int) -> str:
        return format_usd(asset.micro_usd(AtomicUnits(abs(units))))

    since = f"{datetime.fromtimestamp(begin).astimezone():%Y-%m-%d}"
    expected = moved.opening + moved.incoming - booked
    text = (
        f"{network.name}, since {since}: opening {usd(moved.opening)} + deposits {usd(moved.incoming)} - confirmed "
        f"{usd(booked)} = {usd(expected)} {asset.symbol}"
    )
    if expected == moved.balance and not still:
        return ok("books", f"{text}, which is what the wallet has")
    difference = f"{text}; the wallet has {usd(moved.balance)}"
    count = "1 payment" if len(waiting) == 1 else f"{len(waiting)} payments"
    open_ones = (
        f"{usd(still)} {asset.symbol} in {count} not confirmed yet; {program()} reconcile asks the chain"
        if waiting
        else ""
    )
    unknown = {name: amount for name, amount in outgoing.items() if name not in named}
    unbooked = left - sum(amount for name, amount in outgoing.items() if name in named)
    if expected == moved.balance:
        return ok("books", f"{text}, which is what the wallet has; {open_ones}")
    missing = {name: amount for name, amount in named.items() if name not in outgoing}
    if not missing and 0 < expected - moved.balance <= still and len(unknown) <= len(waiting):
        return unseen("books", f"{network.name}: {open_ones}")  # as after every payment, until it is confirmed
    transfers = "1 transfer" if len(unknown) == 1 else f"{len(unknown)} transfers"
    parts = []
    if unknown and not still:
        first = next(iter(unknown))
        parts.append(
            f"{usd(unbooked)} left in {transfers} that this ledger does not know (the first: {first}): "
            "another program or another ledger pays from this wallet"
        )
    elif unknown:
        parts.append(f"{usd(unbooked)} left in {transfers} that no payment has been matched with yet")
    if missing:
        parts.append(
            f"{usd(sum(missing.values()))} of {'1 payment' if len(missing) == 1 else f'{len(missing)} payments'} "
            "is not among what left the wallet: not final yet, or a gateway named a transaction that does not "
            f"exist ({program()} reconcile tells)"
        )
    said = "; ".join([*parts, *([open_ones] if open_ones else [])]) or "amounts of single transfers differ"
    return todo("books", f"{difference}: {said}.")
