"""The interface of the ledger, the states of a payment, and their transitions.

A payment is one signature: a nonce on EVM, a transaction on Solana. Its row is created as `reserved`, in the
database transaction that finds room for it in every budget, and counts against them from then on. It becomes `sent`
before its header is sent, so a crash at any point leaves a row that says what may have been spent.

Nobody's word frees money. What a gateway says about a sent payment decides what the client is told and whether another
payment may be made. It never ends the counting: anyone who has seen the header can submit it.

    reserved --> sent --+--> settled       a transaction id in the answer
       |                +--> rejected      the gateway says that it took nothing, in answer to the only sending
       |                +--> superseded    it was sent ahead of its challenge, and the gateway asked anew instead
       |                +--> unknown       anything else: no answer, an error, a second sending, a process that ended
       v
    released                               never sent: refused later, client gone, or the reservation lapsed

    rejected, superseded --> expired       by itself, when nobody can submit the signature any more
    rejected, superseded, unknown --> settled            by the gateway's word, or by the chain's
    sent, rejected, superseded, unknown, settled --> expired   the chain says that it was not taken and never can be
    any state but reserved and released --> settled      the chain says that money has moved, even if `expired`
    expired --> rejected     by the chain, if it expired by itself: the nonce is used, so something was taken

All states count except `released` and `expired`. So `unknown` counts until the chain has been asked, however long that
takes; if there is no chain to ask, it counts until the budget's period is over.

An expired signature may have been submitted while it was valid. That it was not is only the gateway's word, and so is
how much of a ceiling it took. On networks whose chain is asked (`Ledger.watch`) what has `expired` by itself, and what
was given back of ceilings, counts within the budget's period until the chain has spoken. Elsewhere it is forgiven up to
the size of each budget. A gateway that calls payments rejected or cheap and still takes the whole amount gets at most
twice a budget, and with a chain to ask, once.

A row counts within a budget's period since its reservation. One whose signature lives long (`OUTLIVES`), as that of a
job that is signed again at each poll, counts until a period after it ends, whatever its age: it can move its money any
time until then. If the chain says that it did, it counts until a period after that. What a seller calls settled is
only its word, also over Circle Gateway, where no chain can say more.

The chain's answer is stored next to the gateway's (`ChainWord`): the transaction, the time of its block, the amount
that moved, and a finding if the two disagree. A row without `chain_state` has not been looked up.

The same payment may be sent again, after a lost connection or when the client retries. It can settle only once, so it
keeps its row. After a second sending a rejection says nothing about the first, so the row becomes `unknown`.

A row counts for `micro_usd` less `uncounted`. For a ceiling (scheme `upto`) the whole is reserved. The charge that the
answer reports is stored as `charged`; the rest is freed when the signature has expired (`dead_at`), or as soon as the
chain says how much moved. If the chain says that the nonce is used, and not what moved, nothing is freed.

A process that crashes leaves `reserved` rows that will never be sent, and `sent` rows without an outcome. The next
process to open the ledger releases the former and makes the latter `unknown`; `reserved` rows older than LAPSE_SECONDS
are released without that, in a file only once their process has ended. There the change to `sent` may come a moment
late, and a note (`sqlite.departures`) stands for it. All open rows of an earlier boot become `unknown`, because a power
cut may have lost that. A process is known to have ended by a lock that the system drops, or by its session with the
database. This is safe even if the process was only slow: its row must still be `reserved` to become `sent`, or the
header is not sent.

The ledger has its own time, which never decreases from row to row. In a file, during one boot of the machine, it
follows a clock that cannot be set, so setting the wall clock frees no budget. Across boots it follows the wall clock,
but never goes back. In a database it follows the database's clock in the same way. The wall clock is stored, too, for
people.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import Refused, X402Error
from ..limits.limits import Budget
from ..protocol.messages import AtomicUnits, Caip2
from ..quick_init import quick_init
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
"""Transitions that a gateway's answer or the passing of time can cause."""
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
"""Transitions that the chain's answers `moved` and `dead` (`ChainWord`) can cause. By `used` only a
row that expired by itself changes its state: it becomes `rejected` again."""
FREE: tuple[Literal["released", "expired"], ...] = ("released", "expired")
"""States that do not count against a budget. Migrations name them on their own: those never change."""
REPLACEABLE: tuple[State, ...] = ("rejected", *FREE)
"""States of a job's second payment in which another one may be made, if the budgets have room for both."""
PASSING: tuple[State, ...] = ("rejected", "superseded")
"""States that become `expired` by themselves when the signature has expired."""
UNPROVEN = (
    "state IN ('sent', 'unknown') OR state IN ('rejected', 'superseded') OR (state = 'expired' AND chain_state IS NULL)"
)
"""SQL for rows that the chain can decide, in the words of SQLite's index. A row that expired by itself can no longer be
taken, but the chain was not asked whether it was taken before.
"""
UNCHECKED_CHARGE = "state = 'settled' AND charged_micro_usd IS NOT NULL AND chain_state IS NULL"
"""SQL for ceilings of which only the gateway says how much it took, as both stores' index has it."""
UNCHECKED = "state = 'settled' AND chain_state IS NULL AND charged_micro_usd IS NULL AND sends > 0"
"""SQL for other rows that are settled by the gateway's word alone."""
OUTLIVES = "dead_at - counted_at > 1500000 OR (dead_at IS NULL AND state = 'unknown')"
"""SQL for rows whose signature lives longer than usual after the reservation, because of its validity or because it was
signed again, as both stores' index has it."""
LIVES_UNTIL = """COALESCE(CASE chain_state WHEN 'moved' THEN counted_at + chain_time * 1000 - time END, dead_at,
        counted_at + CASE scheme WHEN 'gateway' THEN 691200000 ELSE 90000000 END)"""
"""SQL for the ledger's time after which such a row's signature moves nothing: the chain's time of its settlement, the
end of its last signature, or the end of the longest that it can have."""
LONGEST_MS = 16 * 24 * 3600 * 1000
"""More milliseconds than there can be between a row's reservation and that time."""
CHARGES = 32
"""Most ceilings that `Ledger.charges` returns."""
CHARGES_ROWS = 20_000
"""Most rows that it examines to find them."""
CHARGES_SECONDS = 24 * 3600
"""Oldest charge that it returns: prices, models and requests change."""
LAPSE_SECONDS = 300
"""Seconds after which an unsent reservation lapses: longer than any signature takes."""


def sources(target: State, table: Mapping[State, tuple[State, ...]] = TRANSITIONS) -> tuple[State, ...]:
    """The states from which a row may become `target`."""
    return tuple(state for state, following in table.items() if target in following)


class LedgerError(X402Error):
    """The ledger cannot be read or written, so nothing may be signed or sent."""

    code = "ledger_unavailable"


class LedgerBusy(LedgerError):
    """Another program has locked the ledger's file, perhaps only for a moment: try again, but do not block."""


class OverBudget(Refused):
    """A budget has no room for this payment. `returns_in` is the number of seconds until it has; None: never.

    `awaited` millionths of a dollar of what is spent count only until the chain says that they were not taken.
    """

    def __init__(self, budget: Budget, spent: int, returns_in: float | None, awaited: int = 0) -> None:
        super().__init__("over_budget", f"{spent} of {budget.micro_usd} millionths of a dollar are spent.")
        self.budget = budget
        self.spent = spent
        self.returns_in = returns_in
        self.awaited = awaited


@quick_init
@dataclass(frozen=True)
class Intent:
    """A payment that is about to be made, as known before it is signed."""

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
    """The amount that counts against budgets, in millionths of a dollar."""
    replaces: int | None = None
    """Row of the earlier payment for the same request."""
    job: str = ""
    """The job's address, for the single payment that may follow the one of the job's request (`replaces`)."""
    scheme: str = "exact"
    """The payment method (`schemes.Method`): `exact`, `permit2`, `upto` or `gateway`."""
    wallet: str = ""
    """Public address of the wallet that will sign."""
    nonce: str = ""
    """Identifies it on the chain: EIP-3009 or Permit2 nonce, on Solana the memo. Known before the signature, so
    that a row whose later changes were lost in a power cut can be looked up."""
    client: str = ""
    """The client's name; empty: it gives none."""
    normal_path: str = ""
    """The path's `limits.Asked.normal_path`; empty: the same as the path."""
    is_model_unclear: bool = False
    """Whether it counts against the budgets of all models, because its model is not certain."""
    is_path_unclear: bool = False
    """Whether it counts against the budgets of all paths, because its path is not certain."""
    exact_micro_usd: int | None = None
    """The exact price that the seller asked beside a ceiling; None: none."""

    @property
    def unclear(self) -> int:
        """Both as the ledger stores them: 1 for the model, 2 for the path."""
        return self.is_model_unclear + 2 * self.is_path_unclear


@quick_init
@dataclass(frozen=True)
class Validity:
    """How long a signature can be submitted, in the chain's terms."""

    valid_before: int | None = None
    """EVM: `validBefore` or the Permit2 deadline, Unix seconds by the chain's clock."""
    blockhash: str = ""
    """Solana: the transaction's recent blockhash, base58."""
    last_height: int | None = None
    """Solana: the last block that can include the transaction; None: not known."""
    dies_in: float | None = None
    """Seconds from now after which nobody can submit it, with a margin for clock differences. None: not known, so its
    row never expires by itself."""


UNKNOWN = Validity()
"""The validity of a signature of which nothing is known."""


@dataclass(frozen=True)
class Submitted:
    """The payment of a request that started a job, which limits what the job's polls may cost (`payment.jobs`)."""

    row: int
    last_row: int
    """Row of the payment that followed it for the same job, if that one may still be settled; else `row`."""
    method: str
    path: str
    """The path of the request that started the job."""
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
    """Seconds since it was reserved, by the ledger's time."""
    valid_until: float = 0
    """Unix seconds until which its signature can be settled."""
    scheme: str = "exact"
    """`Intent.scheme`: a nonce has a meaning only within its scheme."""


class JobPaid(Refused):
    """A second payment for the job was made already and may be settled, so there is no third."""

    def __init__(self) -> None:
        super().__init__("job_already_paid", "The job was paid for a second time before.")


@quick_init
@dataclass(frozen=True)
class Outcome:
    """The outcome of a payment that was sent. Times are seconds since the client's request began."""

    state: Literal["settled", "rejected", "superseded", "unknown"]
    transaction: str = ""
    status: int | None = None
    """Status of the upstream's answer; None: there was none."""
    code: str = ""
    """The gateway's code for a rejection."""
    request_id: str = ""
    first_byte: float | None = None
    total: float | None = None
    size: int = 0
    """Bytes of the answer's body on the wire."""
    counts_for: float | None = None
    """For `superseded` and `rejected`: seconds from now for which it stays counted, by the ledger's time. None: as long
    as `Validity.dies_in` said when it was sent, or for ever if that was None."""
    charged: AtomicUnits | None = None
    """The charge under a ceiling that the answer reports; None: the whole amount, or no report. An answer that reports
    0 without a transaction is `rejected`, because nothing proves that the signature is spent."""
    charged_micro_usd: int | None = None
    """`charged` in millionths of a dollar."""


@dataclass(frozen=True)
class ChainWord:
    """The chain's answer about one payment, from a final block."""

    row: int
    verdict: Literal["moved", "dead", "used"]
    """`dead`: it was not taken, and cannot be submitted any more by the chain's clock or height. `used`: it was taken,
    and what moved is not known (yet): the whole counts until it is, and the look-ups go on."""
    transaction: str = ""
    block_time: int | None = None
    """Unix seconds."""
    amount: AtomicUnits | None = None
    """The atomic units that moved; None: they could not be read, so the row counts as before."""
    micro_usd: int | None = None
    """`amount` in millionths of a dollar."""
    finding: str = ""
    """A short code if the chain contradicts the gateway: `not_settled`, `other_transaction`, `other_amount`, ..."""
    sends: int | None = None
    """How often the payment had been sent when the chain was asked: a poll of a job may have signed it again since, so
    `dead` changes nothing then. None: it cannot have been."""


@dataclass(frozen=True)
class Pending:
    """The amounts that payments of one wallet in one asset may still take, in millionths of a dollar."""

    all: int
    """By all payments whose signature may still be submitted."""
    permit2: int
    """By those of them that go through Permit2 and use its allowance."""
    rows: frozenset[int] = frozenset()
    """The rows of those that go through Permit2."""


@dataclass(frozen=True)
class Charge:
    """The charge under one ceiling. Amounts are millionths of a dollar."""

    ceiling: int
    charged: int


class Syncing(Awaitable[None], Protocol):
    """Awaitable that ends when everything written so far survives a power cut. Raises LedgerError: it may not."""

    def is_done(self) -> bool:
        """Whether the sync has ended, so that there is nothing to wait for."""


class Ledger(Protocol):
    """The operations that payments need of a ledger. Methods raise LedgerError if they cannot write.

    Before `reserve` and `spent` count, three changes are made that are due by the ledger's time: reservations older
    than LAPSE_SECONDS become `released`; rows that are `rejected` or `superseded` become `expired` when their signature
    has expired; and the uncharged rest of a `settled` ceiling is freed. `spent` may leave the first to the next
    `reserve`.
    """

    @property
    def place(self) -> LedgerPlace:
        """The ledger's file or database."""

    @property
    def name(self) -> str:
        """The ledger's name for people; equal names mean the same rows."""

    @property
    def process(self) -> str:
        """This process's name in rows."""

    def watch(self, networks: Collection[Caip2]) -> None:
        """From now on free nothing on these networks before their chain has answered: this process asks it."""

    def reserve(self, intent: Intent, budgets: Sequence[Budget]) -> int:
        """Check all `budgets` and write a row, atomically for all processes. Returns the row's number.

        Raises OverBudget; and JobPaid, if `intent.job` is set and another payment for the job that replaces the same
        row is in a state outside of REPLACEABLE.
        """

    def durable_soon(self) -> Syncing | None:
        """Start making everything written so far survive a power cut. Called after `reserve`.

        The result has to be awaited before the payment is sent; signing goes on in the meantime. None: there is nothing
        to wait for. Later writes may be lost in a power cut, including that the payment was sent, so a reservation left
        by an earlier boot counts as sent. Awaiting raises LedgerError.
        """

    def durable_now(self) -> None:
        """Make everything written so far survive a power cut, and block until that is done."""

    def record_sent(self, row: int, reference: str, valid_until: float, validity: Validity = UNKNOWN) -> None:
        """Make a row `sent`. Called before the header is sent; raises LedgerError: the row is no longer reserved."""

    def record_departure(self, row: int, reference: str, valid_until: float, validity: Validity = UNKNOWN) -> None:
        """Do what `record_sent` does, but the row may become `sent` a moment later; until then it is not released."""

    def record_resent(self, row: int, validity: Validity = UNKNOWN) -> None:
        """Count another sending of the same header, or of another signature over the same nonce. Called before it.

        `validity` is that of the new signature. Raises LedgerError: the row was never sent, or is rejected, superseded
        or expired.
        """

    def renew(self, row: int, lives: float, budgets: Sequence[Budget]) -> None:
        """Before a sent payment is signed again: count it for another `lives` seconds. Raises OverBudget: no room."""

    def release(self, row: int) -> None:
        """Release a reservation that will not be sent. Does nothing to a row that was sent."""

    def finish(self, row: int, outcome: Outcome) -> State:
        """Record the outcome of a sent payment. Returns the row's state, which may already have been more definite.

        An outcome that cannot be written now is written with the next one, at the latest when the ledger is closed.
        """

    def finish_all(self, endings: Sequence[tuple[int, Outcome]]) -> list[State]:
        """Record the outcomes of several payments, as `finish` does."""

    def record_chain(self, words: Sequence[ChainWord]) -> list[State]:
        """Record the chain's answers, along CHAIN_TRANSITIONS. Returns the state of each row."""

    def record_job(self, row: int, job: str, payer: str) -> None:
        """Record that the payment `row`, signed by `payer`, started the job polled at the address `job`."""

    def find_job(self, job: str) -> Submitted | None:
        """The last payment recorded for `job`, in any state; None: there is none."""

    def pending(self, wallet: str, network: Caip2, asset: str, without: int) -> Pending:
        """The amounts that payments of `wallet` in `asset` may still take, without the row `without`."""

    def charges(self, path: str, model: str | None) -> list[Charge]:
        """The charges under the last CHARGES ceilings for `path` and `model`, newest first.

        As the chain says, or else the answer.
        """

    def spent(self, budget: Budget) -> int:
        """Millionths of a dollar that count against `budget` now."""

    def spent_of(self, budgets: Sequence[Budget]) -> list[int]:
        """`spent` for each of `budgets`."""

    def close(self) -> None:
        """Close the ledger. Rows stay."""
