"""What was reserved, sent, settled: one row for each payment, written before its header leaves.

A payment is one signature: a nonce on EVM, a transaction on Solana. Its row is born `reserved`, in the transaction that
found room for it in every budget, and counts against them from then on. It becomes `sent` before its header leaves the
machine, so a crash at any point leaves a row that says what may have been spent. From then on only the gateway can
change it: a transaction id makes it `settled`; its word that nothing was broadcast makes it `rejected`, and it counts
no more; anything else makes it `unknown`, and it stays counted, since a payment that was sent may have been settled.

The same payment may be sent again, after a lost connection or when the client repeats its request. It can settle once,
so it keeps its row. But from the second sending on a rejection proves nothing of the first, so the row is `unknown`
then, and only a transaction id ends that.

A payment that was sent ahead of its challenge (`x402_preauthorize`), and that the gateway did not take but asked anew,
is `superseded`: nobody sends it again, and another one is made for the same request. It stays counted for as long as
whoever saw its header could submit it. Then it is `expired`, by itself, and counts no more.

    reserved --> sent --> settled
       |         | | \\--> rejected     by the gateway's word, in answer to the only sending
       |         | v
       |         | superseded --> expired   the gateway asked anew; when nobody can submit it any longer
       |         v
       |       unknown --> settled
       v
    released                          never sent: refused later on, client gone, or its reservation has lapsed

A process that dies leaves `reserved` rows that nobody will ever send, and `sent` rows of which nobody heard. Whoever
opens the ledger next releases the former and calls the latter unknown; and `reserved` rows older than LAPSE_SECONDS are
released in any case. Who is dead is known by its process id, or by its session with the database. This is safe even for
a process that was only slow: its row must still be `reserved` to become `sent`, and without that its header does not
leave.

Time here is the ledger's own, and never falls from row to row. In a file, within one boot of the machine, it follows
the clock that nobody can set, so setting the wall clock frees no budget. Across boots only the wall clock knows how
much time has passed: there it is believed, but never takes the ledger's time back. In a database that many machines
share, its clock is believed in the same way at all times. What the wall clock said is kept beside it, for people.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ..errors import Refused, X402Error
from ..limits.limits import Budget
from ..protocol.messages import AtomicUnits, Caip2
from ..settings.ledger_place import LedgerPlace

State = Literal["reserved", "sent", "settled", "rejected", "superseded", "expired", "unknown", "released"]
TRANSITIONS: Mapping[State, tuple[State, ...]] = {
    "reserved": ("sent", "released"),
    "sent": ("settled", "rejected", "superseded", "unknown"),
    "unknown": ("settled",),
    "superseded": ("settled", "expired"),
    "settled": (),
    "rejected": (),
    "expired": (),
    "released": (),
}
FREE: tuple[State, ...] = ("rejected", "released", "expired")
"""States that do not count against a budget."""
LAPSE_SECONDS = 300
"""Longer than any signature takes; a payment that an interception holds back longer than this is not sent."""


def sources(target: State) -> tuple[State, ...]:
    """The states from which a row may become `target`."""
    return tuple(state for state, following in TRANSITIONS.items() if target in following)


class LedgerError(X402Error):
    """The ledger cannot be read or written, so nothing may be signed or sent."""

    code = "ledger_unavailable"


class OverBudget(Refused):
    """A budget has no room for this payment. `returns_in`: seconds until it has; None when that will never be."""

    def __init__(self, budget: Budget, spent: int, returns_in: float | None) -> None:
        super().__init__("over_budget", f"{spent} of {budget.micro_usd} millionths of a dollar are spent.")
        self.budget = budget
        self.spent = spent
        self.returns_in = returns_in


@dataclass(frozen=True)
class Intent:
    """A payment that is about to be made, as far as it is known before its signature."""

    method: str
    host: str
    path: str
    """Without its query, which may hold a secret."""
    model: str | None
    network: Caip2
    asset: str
    pay_to: str
    amount: AtomicUnits
    micro_usd: int
    """What it counts for, in millionths of a dollar."""
    replaces: int | None = None
    """Row of the payment for the same request that this one repeats."""
    job: str = ""
    """Set for the one payment that may follow that of a job's request (`replaces`), see `Submitted`."""


@dataclass(frozen=True)
class Submitted:
    """The payment of a request that was answered by a job: what its polls may rest on (see `jobs`)."""

    row: int
    last_row: int
    """Of the payment that followed it for the same job, where one still counts; else `row`."""
    method: str
    path: str
    """Of the request that the job came from."""
    model: str | None
    network: Caip2
    asset: str
    pay_to: str
    amount: AtomicUnits
    state: State
    reference: str
    """EIP-3009 nonce, or Solana signature."""
    payer: str
    """Public address of the wallet that signed."""
    age: float = 0
    """Seconds since it was reserved, by the ledger's own time."""
    valid_until: float = 0
    """Unix seconds; what was sent of it can be settled until then."""


class JobPaid(Refused):
    """A payment has followed that of the job's request already, and may be settled: there is no third."""

    def __init__(self) -> None:
        super().__init__("job_already_paid", "The job was paid for a second time before.")


@dataclass(frozen=True)
class Outcome:
    """What became of a payment that was sent. Times are seconds since the client's request began."""

    state: Literal["settled", "rejected", "superseded", "unknown"]
    transaction: str = ""
    status: int | None = None
    """Of the upstream's answer; None when there was none."""
    code: str = ""
    """The gateway's code for a rejection."""
    request_id: str = ""
    first_byte: float | None = None
    total: float | None = None
    size: int = 0
    """Bytes of the answer's body, as they came over the wire."""
    counts_for: float = 0
    """With `superseded`: seconds from now on for which it stays counted, whatever the wall clock does meanwhile."""


class Ledger(Protocol):
    """What the payer needs of a ledger. Every method raises LedgerError when nothing could be written.

    Two moves happen by themselves, in the ledger's own time, before `reserve` and `spent` count: reservations older
    than LAPSE_SECONDS are `released`, and superseded rows whose `Outcome.counts_for` has passed are `expired`. Nobody
    polls for them, and `spent` alone may leave the former to the next `reserve`.
    """

    @property
    def place(self) -> LedgerPlace:
        """Where it is."""

    @property
    def name(self) -> str:
        """The same for people: rows belong together where this is equal."""

    @property
    def process(self) -> str:
        """How its rows name this process."""

    def reserve(self, intent: Intent, budgets: Sequence[Budget]) -> int:
        """Find room in all `budgets` and write a row, in one step for all processes.

        Raises OverBudget; and JobPaid where `intent.job` is set and another row that replaces the same one, of the same
        job, is in a state that counts.
        """

    def record_sent(self, row: int, reference: str, valid_until: float) -> None:
        """To be called before the header leaves: raises LedgerError where the row is no longer reserved."""

    def record_resent(self, row: int) -> None:
        """To be called before the same header leaves once more.

        Raises LedgerError for a row that was never sent, was rejected, or was superseded.
        """

    def release(self, row: int) -> None:
        """The payment was not sent, and never will be. Does nothing to a row that was."""

    def finish(self, row: int, outcome: Outcome) -> State:
        """Write down what became of a sent payment. Gives the row's state, which may be better known already.

        What cannot be written now is written with the next one, or when the ledger is closed at the latest.
        """

    def finish_all(self, endings: Sequence[tuple[int, Outcome]]) -> list[State]:
        """`finish` for each of several rows."""

    def record_job(self, row: int, job: str, payer: str) -> None:
        """The answer to this payment, which `payer` signed, was a job that is polled at `job` (see `jobs.address`)."""

    def find_job(self, job: str) -> Submitted | None:
        """The last payment that `record_job` knows for `job`, whatever became of it; None where there is none."""

    def spent(self, budget: Budget) -> int:
        """Millionths of a dollar that count against `budget` now."""

    def spent_of(self, budgets: Sequence[Budget]) -> list[int]:
        """`spent` of each, asked at once."""

    def close(self) -> None:
        """Let go of it. Rows stay."""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # no Linux: what is known of the uptime then ends with the process
        return f"process {os.getpid()} {time.time_ns()}"


_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class Clock:
    """The two clocks of the ledger: the wall's, and one that cannot be set and counts sleep (both in seconds)."""

    wall: Callable[[], float] = time.time
    uptime: Callable[[], float] = lambda: time.clock_gettime(_UPTIME)
    boot: str = ""
    """Uptimes are comparable under one name of this; empty: found out."""

    @property
    def boot_name(self) -> str:
        """The boot that `uptime` belongs to."""
        return self.boot or _BOOT


_BOOT = _boot()
