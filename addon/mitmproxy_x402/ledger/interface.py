"""The ledger: one row for each payment, written before its header leaves; its states and their transitions.

A payment is one signature: a nonce on EVM, a transaction on Solana. Its row is born `reserved`, in the transaction that
found room for it in every budget, and counts against them from then on. It becomes `sent` before its header leaves the
machine, so a crash at any point leaves a row that says what may have been spent.

Nobody's word frees money. What a gateway says of a payment that has left decides what the client hears, and whether
another payment may be made. It never decides that the payment counts no more: whoever saw its header can submit it.

    reserved --> sent --+--> settled       a transaction id in the answer
       |                +--> rejected      the gateway says that it took nothing, in answer to the only sending
       |                +--> superseded    it was sent ahead of its challenge, and the gateway asked anew instead
       |                +--> unknown       anything else: no answer, an error, a second sending, a process that died
       v
    released                               never sent: refused later on, client gone, or its reservation has lapsed

    rejected, superseded --> expired       by itself, when nobody can submit that signature any longer
    rejected, superseded, unknown --> settled            by the gateway's word, or by the chain's
    sent, rejected, superseded, unknown, settled --> expired   by the chain's word: it was not taken, and never can be
    any state but reserved and released --> settled      by the chain's word: money has moved, also of an `expired` one

Everything counts but `released` and `expired`. So `unknown` counts until the chain has spoken, however long that takes;
without a chain to ask it counts until it has left the budget's period.

A signature that is dead may have been submitted while it lived: that it was not is the gateway's word, and so is how
much of a ceiling it took. So what has `expired` by itself, and what was given back of ceilings, is forgiven only up to
the size of each budget; beyond that it counts within the budget's period, until the chain has spoken. A gateway that
calls payments rejected or cheap and takes the whole all the same gets no more than twice a budget, and with a chain to
ask, once.

What the chain says is kept beside what the gateway said (`ChainWord`): its transaction, the time of its block, the
amount that moved, and a finding where the two disagree. A row without `chain_state` was not looked up yet.

The same payment may be sent again, after a lost connection or when the client repeats its request. It can settle once,
so it keeps its row. But from the second sending on a rejection proves nothing of the first, so the row is `unknown`
then.

A row counts for `micro_usd` less `uncounted`. Of a ceiling (scheme `upto`) the whole is reserved. What the answer says
was charged is written down as `charged`, and the rest is given back when that signature is dead (`dead_at`), or at once
when the chain says what moved.

A process that dies leaves `reserved` rows that nobody will ever send, and `sent` rows of which nobody heard. Whoever
opens the ledger next releases the former and calls the latter unknown; and `reserved` rows older than LAPSE_SECONDS are
released in any case. Only what a file has of an earlier boot of the machine is unknown altogether: a power cut may have
taken that it was sent. Who is dead is known by a lock that the system drops with the process, or by its session with
the database. This is safe even for a process that was only slow: its row must still be `reserved` to become
`sent`, and without that its header does not leave.

Time here is the ledger's own, and never falls from row to row. In a file, within one boot of the machine, it follows
the clock that nobody can set, so setting the wall clock frees no budget. Across boots only the wall clock knows how
much time has passed: there it is believed, but never takes the ledger's time back. In a database that many machines
share, its clock is believed in the same way at all times. What the wall clock said is kept beside it, for people.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
    "rejected": ("settled", "expired"),
    "superseded": ("settled", "expired"),
    "settled": (),
    "expired": (),
    "released": (),
}
"""By what gateways say, and by itself."""
CHAIN_TRANSITIONS: Mapping[State, tuple[State, ...]] = {
    "reserved": (),
    "sent": ("settled", "expired"),
    "unknown": ("settled", "expired"),
    "rejected": ("settled", "expired"),
    "superseded": ("settled", "expired"),
    "settled": ("settled", "expired"),
    "expired": ("settled", "expired"),
    "released": (),
}
"""By what the chain says: see `ChainWord`."""
FREE: tuple[Literal["released", "expired"], ...] = ("released", "expired")
"""States that do not count against a budget. Migrations name them on their own: those never change."""
REPLACEABLE: tuple[State, ...] = ("rejected", *FREE)
"""States of a job's second payment after which another one may be made, as far as the budgets have room for both."""
PASSING: tuple[State, ...] = ("rejected", "superseded")
"""States that end by themselves, when their signature is dead."""
UNPROVEN = "state IN ('sent', 'unknown', 'rejected', 'superseded') OR (state = 'expired' AND chain_state IS NULL)"
"""Rows that the chain may have the last word on, in the words of both kinds' index. What has expired by itself is dead,
but nobody has asked whether it was taken before.
"""
UNCHECKED_CHARGE = "state = 'settled' AND charged_micro_usd IS NOT NULL AND chain_state IS NULL"
"""Ceilings of which only a gateway says how much it took, in the words of both kinds' index."""
UNCHECKED = "state = 'settled' AND chain_state IS NULL AND charged_micro_usd IS NULL AND sends > 0"
"""Other rows of which only a gateway says that they are settled."""
CHARGES = 32
"""Ceilings that `Ledger.charges` looks back on."""
CHARGES_ROWS = 20_000
"""Rows that it looks through for them."""
LAPSE_SECONDS = 300
"""Longer than any signature takes; a payment that an interception holds back longer than this is not sent."""


def sources(target: State, table: Mapping[State, tuple[State, ...]] = TRANSITIONS) -> tuple[State, ...]:
    """The states from which a row may become `target`."""
    return tuple(state for state, following in table.items() if target in following)


class LedgerError(X402Error):
    """The ledger cannot be read or written, so nothing may be signed or sent."""

    code = "ledger_unavailable"


class LedgerBusy(LedgerError):
    """Another program has locked the ledger's file. It may let go in a moment: ask again, but do not wait for it."""


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
    scheme: str = "exact"
    """The way in which it is paid, see `schemes.Method`: `exact`, `permit2`, `upto` or `gateway`."""
    wallet: str = ""
    """Public address of whoever will sign."""
    nonce: str = ""
    """By which the chain can be asked for it: EIP-3009 or Permit2 nonce, on Solana the memo. Known before there is a
    signature, so that a row which lost its end in a power cut can be looked up."""
    client: str = ""
    """Who asked for it, as the client names itself; empty where it does not."""
    normal_path: str = ""
    """Of the path, as `limits.Asked` has it; empty: the path itself."""
    is_model_unclear: bool = False
    """Whether it counts against the budgets of every model, since it may be for any."""
    is_path_unclear: bool = False
    """The same for those of every path."""

    @property
    def unclear(self) -> int:
        """Both as the ledger keeps them: 1 for the model, 2 for the path."""
        return self.is_model_unclear + 2 * self.is_path_unclear


@dataclass(frozen=True)
class Validity:
    """How long a signature can be submitted, in the chain's own terms."""

    valid_before: int | None = None
    """EVM: `validBefore` or the Permit2 deadline, Unix seconds by the chain's clock."""
    blockhash: str = ""
    """Solana: what the transaction is built on, base58."""
    last_height: int | None = None
    """Solana: the last block that can hold the transaction; None where that is not known."""
    dies_in: float | None = None
    """Seconds from now on after which nobody can submit it, with a margin for clocks that differ. None: not known,
    so its row never ends by itself."""


UNKNOWN = Validity()
"""Of a signature of which nothing is known."""


@dataclass(frozen=True)
class Submitted:
    """The payment of a request that was answered by a job: what its polls may rest on (see `jobs`)."""

    row: int
    last_row: int
    """Of the payment that followed it for the same job, where one may yet be settled by it; else `row`."""
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
    scheme: str = "exact"
    """As `Intent.scheme`: a nonce means something in its own scheme alone."""


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
    counts_for: float | None = None
    """With `superseded` and `rejected`: seconds from now on for which it stays counted at least, whatever the wall
    clock does meanwhile. None: as `Validity.dies_in` said when it was sent, for ever where that said nothing."""
    charged: AtomicUnits | None = None
    """What the answer says was taken of a ceiling; None: the whole, or nothing was said. An answer that says 0 and
    names no transaction is `rejected`: nothing proves that the signature is spent."""
    charged_micro_usd: int | None = None
    """The same in millionths of a dollar."""


@dataclass(frozen=True)
class ChainWord:
    """What the chain says of one payment, for good (deep enough for no reorganisation to take it back)."""

    row: int
    verdict: Literal["moved", "dead"]
    """`dead`: it was not taken, and nobody can submit it any longer by the chain's own clock or height."""
    transaction: str = ""
    block_time: int | None = None
    """Unix seconds."""
    amount: AtomicUnits | None = None
    """What moved, in atomic units; None where it could not be read: then the row counts as before."""
    micro_usd: int | None = None
    """The same in millionths of a dollar."""
    finding: str = ""
    """A short code where the chain contradicts the gateway: `not_settled`, `other_transaction`, `other_amount`, ..."""


@dataclass(frozen=True)
class Pending:
    """What payments of one wallet in one asset may still take, in millionths of a dollar."""

    all: int
    """Of every payment whose signature may yet be submitted."""
    permit2: int
    """Of those among them that go through Permit2, and so use up the allowance for it."""


@dataclass(frozen=True)
class Charge:
    """What was taken of one ceiling. Amounts in millionths of a dollar."""

    ceiling: int
    charged: int


class Ledger(Protocol):
    """What the payer needs of a ledger. Every method raises LedgerError when nothing could be written.

    Three moves happen by themselves, in the ledger's own time, before `reserve` and `spent` count: reservations older
    than LAPSE_SECONDS are `released`; when a signature is dead, its `rejected` or `superseded` row is `expired`, and
    what was not charged of a `settled` ceiling is given back. Nobody polls for them, and `spent` alone may leave the
    first to the next `reserve`.
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
        job, is in no state of REPLACEABLE.
        """

    def durable_soon(self) -> Awaitable[None] | None:
        """To be called after `reserve`, and waited for before the payment leaves: when it is done, a power cut takes
        nothing that was written before. It goes on while the payment is signed. None: there is nothing to wait for.

        What was written later may be lost in a power cut, that the payment was sent included. So a reservation that an
        earlier boot of the machine has left counts as sent. Raises LedgerError when it is waited for.
        """

    def durable_now(self) -> None:
        """The same, on the spot."""

    def record_sent(self, row: int, reference: str, valid_until: float, validity: Validity = UNKNOWN) -> None:
        """To be called before the header leaves: raises LedgerError where the row is no longer reserved."""

    def record_resent(self, row: int, validity: Validity = UNKNOWN) -> None:
        """To be called before the same header leaves once more, or another signature over the same nonce: of that,
        `validity` is given.

        Raises LedgerError for a row that was never sent, was rejected, superseded, or is expired.
        """

    def release(self, row: int) -> None:
        """The payment was not sent, and never will be. Does nothing to a row that was."""

    def finish(self, row: int, outcome: Outcome) -> State:
        """Write down what became of a sent payment. Gives the row's state, which may be better known already.

        What cannot be written now is written with the next one, or when the ledger is closed at the latest.
        """

    def finish_all(self, endings: Sequence[tuple[int, Outcome]]) -> list[State]:
        """`finish` for each of several rows."""

    def record_chain(self, words: Sequence[ChainWord]) -> list[State]:
        """Write down what the chain says of these rows, along CHAIN_TRANSITIONS. Gives the state of each."""

    def record_job(self, row: int, job: str, payer: str) -> None:
        """The answer to this payment, which `payer` signed, was a job that is polled at `job` (see `jobs.address`)."""

    def find_job(self, job: str) -> Submitted | None:
        """The last payment that `record_job` knows for `job`, whatever became of it; None where there is none."""

    def pending(self, wallet: str, network: Caip2, asset: str, without: int) -> Pending:
        """What payments of `wallet` in `asset` may still take, without that of the row `without`."""

    def charges(self, path: str, model: str | None) -> list[Charge]:
        """What was taken of the last CHARGES ceilings for `path` and `model`, the newest first.

        By the answer's word, or the chain's where it has spoken.
        """

    def spent(self, budget: Budget) -> int:
        """Millionths of a dollar that count against `budget` now."""

    def spent_of(self, budgets: Sequence[Budget]) -> list[int]:
        """`spent` of each, asked at once."""

    def close(self) -> None:
        """Let go of it. Rows stay."""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _boot_on_macos() or f"process {os.getpid()} {time.time_ns()}"  # known as long as the process lives


def _boot_on_macos() -> str:
    if sys.platform != "darwin":
        return ""
    text, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    failed = ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0)
    return "" if failed else text.value.decode("ascii", "replace")


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
