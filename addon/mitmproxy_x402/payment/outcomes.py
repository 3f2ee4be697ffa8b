"""Writes the outcomes of payments to the ledger and the log.

Settlements are written a few milliseconds later, several together: until then the row counts against budgets as `sent`,
which is the same amount. If the proxy is killed in between, the rows stay counted and lack their transactions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..ledger.interface import Ledger, LedgerError, Outcome, State
from ..limits.limits import Budget
from ..protocol.amounts import format_usd
from ..quick_init import quick_init
from .offer import Offer, Purpose
from .reasons.rejections import explain

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Seconds between two attempts to write what the ledger could not take."""

DELAY = 0.02
"""Seconds that the first of several outcomes waits for others."""
MOST = 8
"""Most outcomes written at once: so many block the event loop for about half a millisecond."""

Later = Callable[[float, Callable[[], object]], object]
"""Schedules a call after so many seconds, like an event loop's `call_later`."""

WORDS: Mapping[State, str] = {
    "reserved": "not sent",
    "released": "not sent",
    "sent": "sent",
    "settled": "paid",
    "unknown": "sent, not confirmed yet,",
    "rejected": "rejected by the gateway:",
    "superseded": "not taken, asked anew:",
    "expired": "not taken",
}
"""The words for each state in the log, before a transaction, a code or a reference."""


@quick_init
@dataclass(frozen=True)
class Ending:
    """A payment that was sent, and its outcome."""

    row: int
    """The payment's row in the ledger."""
    offer: Offer
    reference: str
    purpose: Purpose
    sends: int
    outcome: Outcome
    payer: str = ""
    """Public address of the wallet that signed."""


class Batch:
    """Calls `write` with the outcomes added within DELAY seconds of the first, in order, at most MOST at a time.

    Without `later`, each is written at once.
    """

    def __init__(self, write: Callable[[Sequence[Ending]], object], later: Later | None) -> None:
        self.write = write
        self._later = later
        self._waiting: list[Ending] = []
        self._is_due = False

    def add(self, ending: Ending) -> None:
        """Have `ending` written soon."""
        self._waiting.append(ending)
        if self._later is None:
            self.flush()
        else:
            self._schedule(self._later, DELAY)

    def flush(self) -> None:
        """Write all that wait now."""
        while self._waiting:
            self._write_some()

    def _schedule(self, later: Later, seconds: float) -> None:
        if not self._is_due:
            self._is_due = True
            later(seconds, self._on_time)

    def _on_time(self) -> None:
        self._is_due = False
        self._write_some()
        if self._waiting and self._later is not None:
            self._schedule(self._later, 0)

    def _write_some(self) -> None:
        some = self._waiting[:MOST]
        del self._waiting[:MOST]
        if some:
            self.write(some)


class Outcomes:
    """Writes to one ledger, and logs what is left of `budgets`. Without `later` everything is written at once."""

    def __init__(self, ledger: Ledger, budgets: Sequence[Budget], later: Later | None = None) -> None:
        self._ledger = ledger
        self._budgets = budgets
        self._later, self._waits = later, False
        self.soon = Batch(self._write, later)

    def write(self, ending: Ending) -> State:
        """Write the outcome and return the row's new state. A failed write is retried; the row stays counted."""
        return self._write([ending])[0]

    def write_soon(self, ending: Ending) -> State:
        """Write the settlement of a payment that was sent once, a little later: its row's new state is certain."""
        self.soon.add(ending)
        return ending.outcome.state

    def flush(self) -> None:
        """Write all outcomes that are waiting."""
        self.soon.flush()

    def _write(self, endings: Sequence[Ending]) -> list[State]:
        try:
            states = self._ledger.finish_all([(ending.row, ending.outcome) for ending in endings])
            left = self._left()
        except LedgerError as error:
            logger.error("x402: what became of a payment could not be written down yet: %s", error)
            self._try_again()
            states, left = [ending.outcome.state for ending in endings], "unknown"
        for ending, state in zip(endings, states, strict=True):
            logger.info(
                "x402: payment of %s to %s for %s: %s %s%s%s; left: %s",
                *(ending.offer, ending.offer.requirement.pay_to, ending.purpose, WORDS[state]),
                ending.outcome.transaction
                or explain(ending.outcome.code, ending.offer, ending.payer)
                or ending.reference,
                "" if ending.sends == 1 else f" (sent {ending.sends} times)",
                charge(ending.offer, ending.outcome.charged_micro_usd),
                left,
            )
        return states

    def _try_again(self) -> None:
        """Retry: the ledger keeps what it could not write until its next write, which may be long in coming."""
        if self._later is not None and not self._waits:
            self._waits = True
            self._later(RETRY_SECONDS, self._write_what_is_left)

    def _write_what_is_left(self) -> None:
        self._waits = False
        try:
            self._ledger.finish_all([])
        except LedgerError:
            self._try_again()

    def _left(self) -> str:
        try:
            each = zip(self._budgets, self._ledger.spent_of(self._budgets), strict=True)
        except LedgerError:
            return "unknown"
        return ", ".join(budget.left(spent) for budget, spent in each)


def charge(offer: Offer, micro_usd: int | None) -> str:
    """The amount charged under a ceiling, for the log; empty if the answer does not say."""
    if not offer.is_ceiling or micro_usd is None:
        return ""
    otherwise = "" if offer.exact is None else f" (exact: {format_usd(offer.exact)})"
    return f", upto: charged {format_usd(micro_usd)} of at most {format_usd(offer.micro_usd)}{otherwise}"
