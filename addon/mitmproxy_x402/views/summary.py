"""Summarises in a few lines what was spent and what is left, for the start and the end of a run and for commands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from ..forecast.forecast import Tally
from ..ledger.interface import Ledger, LedgerError
from ..ledger.reading import Entry, read_entries
from ..machine.program import program
from ..protocol.amounts import format_usd
from ..report.sums import OPEN, SPENT, total
from ..report.text import count
from ..settings.settings import Settings

TOO_MANY = 20_000
"""More payments than this are not added up inside the proxy, because that would block it."""


def opening_line(settings: Settings, ledger: Ledger, *, is_new: bool) -> str:
    """The line about the budgets, what is left of them, and the ledger. Never raises."""
    most = f"at most {', '.join(budget.in_words() for budget in settings.budgets)} (x402_budget)"
    if is_new:
        return f"{most}; payments are recorded in a new ledger, without payments so far: {settings.ledger}"
    with contextlib.suppress(LedgerError):
        most += f", {_left(settings, ledger)}"
    return f"{most}; payments are recorded in {settings.ledger}"


def _left(settings: Settings, ledger: Ledger) -> str:
    each = zip(settings.budgets, ledger.spent_of(settings.budgets), strict=True)
    return f"left: {', '.join(budget.left(spent) for budget, spent in each)}"


def closing_lines(settings: Settings, ledger: Ledger, since: float, ahead: Tally | None = None) -> list[str]:
    """Lines about what this process has paid since it began (`since`, Unix seconds), and what is left. Never raises.

    `ahead` counts the payments that were sent ahead of their challenges, by outcome.
    """
    try:
        # A database has its own clock, but names each process uniquely, so no time is needed.
        begin = int(since * 1000) if isinstance(ledger.place, Path) else 0
        entries = read_entries(ledger.place, begin, ledger.process, TOO_MANY + 1)
        lines = [too_many() if len(entries) > TOO_MANY else paid(entries)]
        if entries:
            lines.append(_left(settings, ledger))
        if ahead is not None and ahead.sent:
            lines.insert(1, f"payments sent ahead: {ahead}")
    except LedgerError as error:
        return [f"what was paid is not known: {error}"]
    return lines


def too_many() -> str:
    """The text that stands in for sums of more than TOO_MANY payments."""
    return f"more than {TOO_MANY} payments; {program()} report adds them up"


def paid(entries: Iterable[Entry]) -> str:
    """Sum up `entries` in one line: `paid 0.03 USDC in 3 payments: 0.02 confirmed, ...`."""
    everything = list(entries)
    counted = [entry for entry in everything if entry.fate in SPENT]
    spent = total(counted)
    if not spent.payments:
        parts = ["paid nothing"]
    elif not spent.open_payments:
        parts = [f"paid {format_usd(spent.micro_usd)} USDC in {count(spent.payments)}"]
    else:
        # A ceiling counts in whole until the chain says what was charged of it.
        most = "at most " if any(entry.scheme == "upto" and entry.fate in OPEN for entry in counted) else ""
        confirmed, still = format_usd(spent.confirmed.micro_usd), format_usd(spent.open_micro_usd)
        parts = [
            f"paid {most}{format_usd(spent.micro_usd)} USDC in {count(spent.payments)}: {confirmed} confirmed, "
            f"{most}{still} not confirmed yet"
        ]
    for fate, said in (("rejected", "rejected"), ("under way", "under way")):
        its = total(entry for entry in everything if entry.fate == fate)
        if its.payments:
            parts.append(f"{count(its.payments)} of {format_usd(its.micro_usd)} USDC of it {said}")
    free = total(entry for entry in everything if entry.fate == "expired")
    if free.payments:
        parts.append(f"{count(free.payments)} not taken")
    return "; ".join(parts)
