"""Commands for mitmproxy's console and mitmweb's command bar: x402.status, .payments, .budget and .report.

mitmweb's server takes no command with a digit in its name, so each has a second name: pay.status and so on. It also
shows an answer as one line of JSON: there the lines are joined, and the whole text goes into the event log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from mitmproxy import ctx, exceptions
from mitmproxy.addonmanager import Loader

from ..errors import X402Error
from ..ledger.reading import Entry, is_there, read_entries
from ..payment.payer import Payer
from ..protocol.amounts import format_usd
from ..protocol.messages import AtomicUnits
from ..report import sums as report
from ..report import text as report_text
from ..report.of_ledger import of_ledger
from ..report.sums import Report
from .summary import paid

MOST = 1000
"""Most payments that x402.payments shows."""

logger = logging.getLogger(__name__)


class Commands:
    """The mitmproxy addon with the commands, a child of X402Addon. `payer` returns the current payer, or None."""

    name = "x402commands"

    def __init__(self, payer: Callable[[], Payer | None]) -> None:
        self._payer = payer

    def load(self, loader: Loader) -> None:
        """Register the commands under both names."""
        for name in ("status", "payments", "budget", "report"):
            for prefix in ("x402", "pay"):
                loader.add_command(f"{prefix}.{name}", getattr(self, name))

    def status(self) -> str:
        """Who pays, what was spent today and this month, and what is left."""
        return self._answer(self._status)

    def payments(self, count: int = 20) -> str:
        """The last payments, newest first."""
        return self._answer(lambda payer: _payments(payer, count))

    def budget(self) -> str:
        """Every budget: what is spent of it, and what is left."""
        return self._answer(_budgets)

    def report(self) -> str:
        """What was spent this month, by day, model and network."""
        return self._answer(lambda payer: report_text.table(_this_month(payer)).splitlines())

    def _answer(self, ask: Callable[[Payer], list[str]]) -> str:
        payer = self._payer()
        if payer is None:
            raise exceptions.CommandError("x402 is not configured; the first lines of the log say why.")
        try:
            lines = ask(payer)
        except X402Error as error:
            raise exceptions.CommandError(str(error)) from None
        if type(ctx.master).__name__ != "WebMaster":
            return "\n".join(lines)
        logger.info("\n".join(lines))
        return " | ".join(" ".join(line.split()) for line in lines if line.strip())

    @staticmethod
    def _status(payer: Payer) -> list[str]:
        settings, wallets = payer.settings, payer.wallets
        purses = [purse.address for purse in (wallets.evm, wallets.svm) if purse is not None]
        lines = [
            f"pays from   {', '.join(purses) or 'no wallet'}"
            + (", dry run: signs nothing" if settings.dry_run else ""),
            *_sums(payer),
        ]
        if payer.forecast is not None:
            lines.append(f"sent ahead  {payer.forecast.tally}")
        spent = payer.ledger.spent_of(settings.budgets)
        each = zip(settings.budgets, spent, strict=True)
        lines += [f"left        {budget.left(its)}" for budget, its in each]
        return [*lines, f"ledger      {settings.ledger}"]


def _sums(payer: Payer) -> list[str]:
    month = _this_month(payer)
    lines = [
        f"today       {format_usd(month.today.micro_usd)} USD, {report_text.count(month.today.payments)}",
        f"this month  {format_usd(month.month.micro_usd)} USD, {report_text.count(month.month.payments)}",
    ]
    still = month.month.open
    if still.payments:
        lines.append(
            f"open        {format_usd(still.micro_usd)} USD of it, {report_text.count(still.payments)} not confirmed"
        )
    return lines


def _entries(payer: Payer, since: int = 0, last: int = -1) -> list[Entry]:
    return read_entries(payer.settings.ledger, since, last=last) if is_there(payer.settings.ledger) else []


def _this_month(payer: Payer) -> Report:
    now = datetime.now().astimezone()
    place, networks = payer.settings.ledger, payer.settings.networks
    if not is_there(place):
        return report.make_of((), now, ledger=str(place), networks=networks)
    return of_ledger(place, now, since=now.date().replace(day=1), networks=networks, listed=20)


def _payments(payer: Payer, count: int) -> list[str]:
    if not 0 < count <= MOST:
        raise exceptions.CommandError(f"expected a number of payments from 1 to {MOST}")
    entries = _entries(payer, last=count)
    made = report.make(entries, datetime.now().astimezone(), networks=payer.settings.networks)
    lines = [
        f"{made.moment(entry):%Y-%m-%d %H:%M:%S}  {format_usd(entry.micro_usd):<9} {made.network(entry.network):<14}"
        f" {report.WORDS[entry.fate]:<17.17} {report_text.plain(entry.what, 40):<30} "
        + report_text.plain(entry.chain_transaction or entry.transaction or entry.code)
        + _ceiling(entry, payer)
        for entry in reversed(entries)
    ]
    return [line.rstrip() for line in lines] + ["", paid(entries)] if lines else ["Nothing was paid yet."]


def _ceiling(entry: Entry, payer: Payer) -> str:
    """The charge under a ceiling, from the chain or else the answer, as text; empty for an exact price."""
    taken = entry.chain_amount or entry.charged
    network = payer.settings.networks.get(entry.network)
    asset = None if network is None else network.asset(entry.asset)
    if entry.scheme != "upto" or asset is None:
        return ""
    if not taken:
        return "  upto: not known yet what was charged"
    charged = format_usd(asset.micro_usd(AtomicUnits(int(taken))))
    otherwise = "" if entry.exact_micro_usd is None else f" (exact: {format_usd(entry.exact_micro_usd)})"
    whose = "" if entry.chain_amount else ", by the gateway's word"
    return f"  upto: charged {charged} of at most {format_usd(entry.micro_usd)}{otherwise}{whose}"


def _budgets(payer: Payer) -> list[str]:
    settings = payer.settings
    every = [*settings.budgets, *(budget for limit in settings.limits for budget in limit.budgets)]
    lines = [
        f"{budget!s:<24} {format_usd(spent):>10} spent  {format_usd(max(budget.micro_usd - spent, 0)):>10} left"
        for budget, spent in zip(every, payer.ledger.spent_of(every), strict=True)
    ]
    lines.append(f"{format_usd(settings.max_request)} a request at most")
    own = ((limit.max_request, limit.scope) for limit in settings.limits)
    lines += [f"{format_usd(most)} a request at most for {scope}" for most, scope in own if most is not None]
    return lines
