"""Makes the payments of one poll of a job: what the poll carries, and what is signed when it is answered 402.

`Poll` implements `paid_request.PaidRequest`, as `Purchase` does, by the rules of `jobs`:

    reuse      what the first leg carries: the job's payment (EVM), or a proof of who polls (Solana)
    buy        a 402 came: another signature over the payment's own nonce (EVM), or what answers the bill (Solana)
    rejected   a proof was answered by a bill; or a payment was rejected: may something else be signed, once?

A poll of a job that is not in our ledger pays nothing: a client could send any number of those.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from ..errors import Refused
from ..gateways import Meaning, gateway_of
from ..ledger.interface import JobPaid, LedgerError, Outcome, State, Submitted
from ..machine.program import program
from ..protocol.http_message import Request
from ..protocol.messages import PaymentRequired, PaymentRequirements
from ..protocol.networks import NetworkTable
from ..protocol.strict_json import shown
from . import jobs
from .jobs import Job, Jobs
from .offer import Purpose
from .outcomes import Ending
from .payer import Payer
from .purchase import Purchase
from .retained.identity import RequestIdentity
from .signing.payment import Payment

logger = logging.getLogger(__name__)


def remember(where: str, purchase: Purchase, payment: Payment, known: Jobs) -> None:
    """Remember the job, polled at `where`, that the request of `purchase` has started and `payment` has paid."""
    purchase.is_job = True
    offer, purpose = payment.offer, purchase.purpose
    submitted = Submitted(
        row=payment.row,
        last_row=payment.row,
        method=purpose.method,
        path=purpose.path,
        model=purpose.model,
        network=offer.network.caip2,
        asset=offer.asset.address,
        pay_to=offer.requirement.pay_to,
        amount=payment.amount,
        state="unknown",
        reference=payment.reference,
        payer=payment.payer,
        valid_until=payment.valid_until,
        scheme=offer.method,
    )
    known.add(Job(where, offer.network.family, submitted, payment, sends=1), purchase.ledger.name)
    try:
        purchase.ledger.record_job(payment.row, where, payment.payer)
    except LedgerError as error:
        logger.error("x402: a job could not be written down, and is lost when this proxy ends: %s", error)


def poll_of(request: Request, payer: Payer, known: Jobs) -> Poll | None:
    """The `Poll` for `request`; None: it is no poll. If the ledger cannot be read, the job counts as unknown."""
    where = known.polled(request, payer.ledger.name)
    if where is None:
        return None
    try:
        job = known.find(where, payer.ledger)
    except LedgerError as error:
        logger.error("x402: a job could not be looked up: %s", error)
        job = None
    return Poll(payer, job, request)


class Poll:
    """The `PaidRequest` of one poll of `job`; None: the job is unknown."""

    def __init__(self, payer: Payer, job: Job | None, request: Request) -> None:
        its = (job.submitted.method, job.submitted.path, job.submitted.model) if job else None
        method, path, model = its or (request.method, request.path.partition("?")[0], None)
        # The job's original request, so that limits for its model and path apply.
        self.purpose = Purpose(method, request.host, path, model)
        self.payment: Payment | None = None
        self.state: State | None = None
        self.transaction = ""
        self.spent: list[Payment] = []
        self.rejected_before: list[Payment] = []
        self.sent = False
        self.is_new = self.ahead = False  # its payment belongs to the job
        self._payer = payer
        self._job = job
        self._gateway = gateway_of(request.host)
        self._polled = self._gateway.polled(request.path)
        self._proves = request.headers.get(self._gateway.proof_header or "-") is None
        """Whether to add a proof; not if the client has sent one."""
        self._billed = False
        """Whether a proof was answered 402."""
        self._signed_anew = False
        self._closed = False
        """Whether nothing more is signed for this poll."""

    def reuse_retained(self, *_: RequestIdentity) -> bool:
        """Use the job's payment for the first leg. Returns whether the leg carries it, or a proof."""
        job = self._job
        if job is not None and job.family == "evm" and job.payment is not None:
            self.payment = job.payment if job.payment.valid_until > self._payer.clock() else None
        return bool(self.headers())

    def predict(self) -> bool:
        """Return False: polls are not predicted."""
        return False

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The payment's headers; without one, on Solana, a new proof."""
        if self.payment is not None:
            return tuple((name.encode(), value.encode()) for name, value in self.payment.headers)
        wallet, job = self._payer.wallets.svm, self._job
        if job is None or job.family == "evm" or wallet is None:
            return ()
        if self._polled is None or not self._proves or wallet.address != job.submitted.payer:
            return ()
        return self._gateway.proof(wallet.sign_message, wallet.address, self._polled, int(self._payer.clock()))

    async def buy(
        self,
        required: PaymentRequired,
        challenge_text: Callable[[], str] = str,  # noqa: ARG002
        is_cancelled: Callable[[], bool] = bool,
    ) -> Payment:
        """The payment that answers a 402 on this poll.

        Raises what `Payer.pay` does, and Refused: `job_unknown`, `job_not_payable`, `job_already_paid`,
        `job_payment_pending`, `no_wallet`.
        """
        job = self._job
        if job is None:
            raise _unknown()
        self._check_wallet(job)
        within = _within(required, job.submitted, self._payer.settings.networks)
        async with job.lock:
            if job.family == "evm":
                nonce = bytes.fromhex(job.submitted.reference.removeprefix("0x"))
                job.payment = await self._payer.renew(within, self.purpose, job.submitted, nonce, is_cancelled)
            else:
                job.payment = await self._answer_bill(job, within, is_cancelled)
        self.payment, self.sent = job.payment, False
        return job.payment

    async def _answer_bill(self, job: Job, within: PaymentRequired, is_cancelled: Callable[[], bool]) -> Payment:
        """The job's payment, if this process has it; once it is dead, a single new one."""
        submitted, alive = self._payer.ledger.find_job(job.address), self._payer.clock()
        if submitted is None or submitted.age > jobs.JOB_SECONDS:
            raise _unknown()
        if submitted.state == "settled":
            raise _already_paid()
        if job.payment is not None and job.payment.valid_until > alive:
            return job.payment
        if submitted.valid_until > alive and not job.stale:
            raise Refused(
                "job_payment_pending",
                "The gateway asks to be paid for a job whose payment an earlier run of the proxy has sent. It can be "
                f"settled for another {submitted.valid_until - alive:.0f} seconds. Nothing was paid on top of it. Poll "
                "again after that.",
            )
        try:
            row, where = submitted.row, job.address
            payment = await self._payer.pay(within, self.purpose, row, where, is_cancelled=is_cancelled)
        except JobPaid:
            raise _already_paid() from None
        job.sends = 0
        return payment

    def _check_wallet(self, job: Job) -> None:
        """Raise Refused if the wallet is not the one that paid for the job: nonces protect only within one wallet."""
        wallet = self._payer.wallets.for_family(job.family)
        if wallet is None or wallet.address != job.submitted.payer:
            raise Refused(
                "no_wallet",
                f"The gateway asks to be paid for a poll of a job that the wallet {job.submitted.payer} paid for, and "
                "that wallet is not loaded. Nothing was paid. Start the proxy with its key to get the job's result.",
            )

    def sending(self) -> None:
        """Record that the payment is being sent; a proof needs no record. Raises LedgerError: it must not be sent."""
        job = self._job
        if self.payment is None or job is None:
            return
        if job.sends:
            self._payer.ledger.record_resent(self.payment.row, self.payment.validity)
        else:
            payment = self.payment
            self._payer.ledger.record_departure(payment.row, payment.reference, payment.valid_until, payment.validity)
        job.sends += 1
        self.sent = True

    def rejected(self, code: str, status: int, challenge_text: Callable[[], str] = str) -> bool:  # noqa: ARG002
        """Returns whether `buy` may try again: once per poll after a bill, and once after a rejected payment."""
        job = self._job
        if self.payment is None or job is None:  # a 402 to a proof is the bill
            first, self._billed = not self._billed, True
            return first and status == 402
        meaning = self._gateway.meaning(code)
        unused, stale = meaning.is_not_taken and job.sends == 1, meaning is Meaning.STALE
        counts_for = self.payment.window if unused else None
        self._record(job, Outcome("rejected" if unused else "unknown", status=status, code=code, counts_for=counts_for))
        # The gateway says that the job is not paid, and that this payment can no longer pay for it.
        job.stale = job.stale or stale
        again = not self._signed_anew and (unused or stale or (job.family == "evm" and meaning is not Meaning.SPENT))
        self._signed_anew, self._billed = True, False
        if again or unused:
            self.payment = job.payment = None
        self._closed = not again
        return again

    def answered(self, status: int, acknowledges: Callable[[], bool] = bool) -> None:
        """Do nothing: the job keeps what to send again."""

    def finish(self, outcome: Outcome, *, complete: bool = True) -> None:  # noqa: ARG002
        """Record the outcome of an answer; most say only that the job is still running."""
        job = self._job
        if job is None or self._closed:
            return
        self.state = job.state if self.sent else None
        if self.payment is not None and not self.sent:
            self._put_back(job)
        elif outcome.state == "settled" or (self.sent and job.sends == 1):
            self._settle(job, outcome)

    def _put_back(self, job: Job) -> None:
        if job.sends == 0 and self.payment is job.payment and self.payment is not None:
            self._payer.release(self.payment.row)
            job.payment = None

    def _settle(self, job: Job, outcome: Outcome) -> None:
        if self.payment is not None:
            self._record(job, outcome)
            job.state = self.state or job.state
            return
        try:  # the answer to a proof names the transaction of the job's payment
            row = job.payment.row if job.payment is not None and job.sends else job.submitted.last_row
            job.state = self.state = self._payer.ledger.finish(row, outcome)
            self.transaction = outcome.transaction
        except LedgerError as error:
            logger.error("x402: the settlement of a job could not be written down: %s", error)

    def _record(self, job: Job, outcome: Outcome) -> None:
        """Record the outcome of `payment`."""
        assert self.payment is not None
        payment = self.payment
        ending = Ending(payment.row, payment.offer, payment.reference, self.purpose, job.sends, outcome, payment.payer)
        self.state = self._payer.outcomes.write(ending)
        self.transaction = outcome.transaction


def _unknown() -> Refused:
    return Refused(
        "job_unknown",
        "The gateway asks to be paid for a poll of a job that was not paid for through this proxy in the last 24 hours."
        " Nothing was paid: each poll could cost as much as the job. Poll it where it was paid for, or submit it"
        " through this proxy.",
    )


def _already_paid() -> Refused:
    return Refused(
        "job_already_paid",
        "The gateway asks to be paid for a job that was paid for before through this proxy, and that payment may have "
        "been settled. Nothing more was paid. Poll again: a gateway that has its money answers with the result. If it "
        f"does not, the ledger ({program()} report) names the payment for the gateway's owners.",
    )


def _within(required: PaymentRequired, submitted: Submitted, table: NetworkTable) -> PaymentRequired:
    """`required` with only those entries that keep the job's own terms and do not ask for more.

    Raises Refused: `job_not_payable`, if there is none.
    """
    entries = tuple(entry for entry in required.accepts if _is_within(entry, submitted, table))
    if not entries:
        asked = ", ".join(
            f"{entry.amount} on {shown(entry.network)} to {shown(entry.pay_to)}" for entry in required.accepts[:3]
        )
        raise Refused(
            "job_not_payable",
            f"The gateway asks for a poll of a job {asked:.400} (in the asset's smallest unit). The job was paid for "
            f"with {submitted.amount} on {submitted.network} to {submitted.pay_to}, and a poll may ask for the same "
            "again at most, to the same address. Nothing was paid for it. Tell the gateway's owners.",
        )
    return dataclasses.replace(required, accepts=entries)


def _is_within(entry: PaymentRequirements, submitted: Submitted, table: NetworkTable) -> bool:
    network = table.get(entry.network)
    if network is None or network.caip2 != submitted.network:
        return False
    fold = str.lower if network.family == "evm" else str
    return (
        fold(entry.asset) == fold(submitted.asset)
        and fold(entry.pay_to) == fold(submitted.pay_to)
        and entry.amount <= submitted.amount
    )
