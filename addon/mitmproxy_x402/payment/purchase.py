"""All payments made for one client request: from the first reservation to the last word on what became of them.

One request, one payment. There is a second signature only on the gateway's word that the first was spent, is dead, or
was not broadcast, and `x402_repurchase` bounds how many there are for one request, its repetitions included. What was
signed before stays counted all the same. A payment that was sent ahead of its challenge may be replaced once besides,
where the gateway asks as if it had seen none.

`purchase_states` has the states, and what each event does to them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ..errors import Refused, X402Error
from ..forecast.forecast import Prediction
from ..forecast.quote import Question
from ..gateways import Meaning, gateway_of
from ..ledger.interface import Ledger, Outcome, State
from ..protocol.messages import PaymentRequired
from .challenge import MISMATCH
from .outcomes import Ending
from .payer import Payer, Payment
from .policy import Purpose
from .purchase_states import TABLE, Event, Stage
from .retained.identity import RequestIdentity
from .retained.store import Memory, Retained
from .signing.ceilings import OVER_PERMIT2

NOT_VERIFIED = frozenset(
    {
        "permit2_allowance_required",
        "permit2_2612_amount_mismatch",
        "permit2_amount_mismatch",
        "permit2_token_mismatch",
        "permit2_not_yet_valid",
        "permit2_deadline_expired",
        "invalid_permit2_spender",
        "invalid_permit2_signature",
        "invalid_permit2_recipient_mismatch",
        "invalid_exact_evm_insufficient_balance",
        "insufficient_funds",
    }
)
"""Reasons by which a facilitator says that a payment over Permit2 is none, before it has looked at its nonce: another
way to pay may do."""
MAX_WAIT = 20
"""Seconds from a payment that was made ahead until it leaves; usually there is nothing in between."""

logger = logging.getLogger(__name__)


class PaidRequest(Protocol):
    """What the hooks ask of the money of one request: a `Purchase`, or the `Poll` of a job that was paid for."""

    purpose: Purpose
    payment: Payment | None
    """The payment that goes with the next leg, or went with the last one."""
    state: State | None
    """What the ledger last said of a payment of this request that was sent; None: none has ended yet."""
    transaction: str
    """Of its settlement."""
    spent: list[Payment]
    """Payments of this request that may have been settled and will not be sent again."""
    rejected_before: list[Payment]
    """Payments that the gateway did not take, by its own word, and that were replaced; they count until nobody can
    submit them any more."""

    @property
    def sent(self) -> bool:
        """Whether this request has sent `payment`."""

    @property
    def is_new(self) -> bool:
        """Whether nothing is known yet of an equal request, nor was anything paid for this one."""

    @property
    def ahead(self) -> bool:
        """Whether `payment` was made before its challenge, and nothing has been heard of it yet."""

    def reuse_retained(self) -> bool:
        """Take over what is there for this request. True: the first leg has something to carry."""

    def predict(self) -> bool:
        """Foretell the challenge and pay it. False: it cannot be foretold, or not be paid."""

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What the next leg is to carry, and nobody may see."""

    async def buy(self, required: PaymentRequired, challenge_text: Callable[[], str] = str) -> Payment:
        """The payment for a challenge. Raises Refused and what `Payer.pay` does: nothing was signed."""

    def sending(self) -> None:
        """Write down that the headers leave now. Raises LedgerError: then they must not."""

    def rejected(self, code: str, status: int, challenge_text: Callable[[], str] = str) -> bool:
        """The leg was answered by a rejection with the gateway's `code`. True: another payment may be made."""

    def answered(self, status: int, acknowledges: Callable[[], bool] = bool) -> None:
        """Called with the final response's head. `acknowledges`: whether it speaks of the payment."""

    def finish(self, outcome: Outcome, *, complete: bool) -> None:
        """The answer is over; `complete`: the client has got what was paid for."""

    def break_off(self, outcome: Outcome) -> None:
        """The client gets no more of an answer."""


class Purchase:
    """The `PaidRequest` of an ordinary request."""

    def __init__(
        self,
        payer: Payer,
        retained: Retained,
        purpose: Purpose,
        identity: RequestIdentity,
        question: Question | None = None,
    ) -> None:
        self.purpose = purpose
        self.payment: Payment | None = None
        self.state: State | None = None
        self.transaction = ""
        self.spent: list[Payment] = []
        self.rejected_before: list[Payment] = []
        self.is_job = False
        """Whether it is a job that is paid for: each poll asks the ledger what became of the payment."""
        self.identity = identity
        self._also: list[RequestIdentity] = []
        self._payer = payer
        self._retained = retained
        self._gateway = gateway_of(purpose.host)
        self._question = question
        """What the forecast is asked, and learns from; None: nothing is foretold for this request."""
        self._prediction: Prediction | None = None
        self._made = 0.0
        self._replaced: Payment | None = None
        """What the gateway said it did not take, before another one was made."""
        self._stage = Stage.NEW
        self._sends = 0
        """How often this request has sent `payment`."""
        self._known = Memory(None, sends=0, purchases=0, last_row=None, ledger=payer.ledger.name)
        """What an equal request would have to know; its payment is `payment`."""

    @property
    def stage(self) -> Stage:
        """Where it stands in `purchase_states.TABLE`."""
        return self._stage

    @property
    def ledger(self) -> Ledger:
        """That its rows are in."""
        return self._payer.ledger

    @property
    def sent(self) -> bool:
        """Whether this request has sent `payment`."""
        return self._sends > 0

    @property
    def is_new(self) -> bool:
        """Whether nothing is known yet of an equal request, nor was anything paid for this one."""
        return self._known.last_row is None

    @property
    def ahead(self) -> bool:
        """Whether `payment` was made before its challenge, and nothing has been heard of it yet."""
        return self._prediction is not None

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The payment's header."""
        if self.payment is None:
            return ()
        return tuple((name.encode(), value.encode()) for name, value in self.payment.headers)

    def _step(self, event: Event, outcome: Outcome | None = None) -> None:
        """Do what the table says. Raises RuntimeError for an event that cannot come."""
        step = TABLE[self._stage].get(event)
        if step is None:
            raise RuntimeError(f"{event.name} in the state {self._stage.name}")
        self._stage = step.to
        if step.records and outcome is not None:
            self._record(outcome)
        if step.releases and self.payment is not None:
            self._payer.release(self.payment.row)
            self.payment = None
        if step.retains:
            self._retain(sendable=outcome is None or outcome.state != "rejected")

    def reuse_retained(self) -> bool:
        """Take over what an equal request left behind when it ended badly."""
        memory = self._retained.take(self.identity)
        if memory is None or memory.ledger != self._payer.ledger.name:  # the user has named another one since
            return False
        self._known, self.payment = memory, memory.payment
        self._step(Event.INHERIT if self.payment is None else Event.TAKE_UP)
        return self.payment is not None

    def predict(self) -> bool:
        """Foretell the challenge and pay it. False: it cannot be foretold, or not be paid; the challenge will say why.

        Not for a request like one that was paid for before: there the gateway has the first word.
        """
        forecast = self._payer.forecast
        if forecast is None or self._question is None or not self.is_new:
            return False
        prediction = forecast.predict(self._question, self._payer.clock())
        if prediction is None:
            return False
        try:
            payment = self._payer.pay_ahead(prediction, self.purpose)
        except X402Error:
            return False
        if payment is None:
            return False
        self.payment, self._prediction, self._made = payment, prediction, self._payer.clock()
        self._step(Event.SIGN)
        return True

    async def buy(self, required: PaymentRequired, challenge_text: Callable[[], str] = str) -> Payment:
        """A new payment for `required`. Raises what `Payer.pay` does, and Refused: `over_repurchase_limit`.

        `challenge_text` gives what the challenge says besides its terms (`challenge.challenge_text`).
        """
        if self.ahead:  # it did not leave: the first leg had to go without it
            self._prediction = None
            self._step(Event.WITHDRAW)
        try:
            self._check_purchases()
            payment = await self._payer.pay(required, self.purpose, self._known.last_row, instead_of=self._replaced)
        except BaseException:
            self._step(Event.REFUSE)
            raise
        self.payment, self._sends, self._known.sends = payment, 0, 0
        self._step(Event.SIGN)
        if self._payer.forecast is not None and self._question is not None:
            said = None if self.rejected_before else challenge_text()
            chosen, now = payment.offer.requirement, self._payer.clock()
            self._payer.forecast.learn(self._question, required, chosen, said, now)
        return payment

    @property
    def _may_buy(self) -> bool:
        return self._known.purchases <= self._payer.settings.repurchase

    def _check_purchases(self) -> None:
        """Raises Refused where this request was paid for often enough."""
        if self._may_buy:
            return
        purchases, allowed = self._known.purchases, self._payer.settings.repurchase
        times = "once" if purchases == 1 else f"{purchases} times"
        raise Refused(
            "over_repurchase_limit",
            f"This same request was paid {times} within the last minutes and never answered completely. The option "
            f"x402_repurchase allows {allowed} beyond the first, so nothing more was paid. Wait ten minutes, change "
            "the request, or raise that option.",
        )

    def sending(self) -> None:
        """Write down that the header leaves now. Raises LedgerError: then it must not."""
        assert self.payment is not None
        known = self._known
        if self.ahead and not 0 <= self._payer.clock() - self._made < MAX_WAIT:
            self._payer.release(self.payment.row)  # held back, as by an interception: it lapses, and is made anew
        if known.sends:
            self._payer.ledger.record_resent(self.payment.row)
        else:
            payment = self.payment
            self._payer.ledger.record_sent(payment.row, payment.reference, payment.valid_until, payment.validity)
            known.purchases += 1
            known.last_row = self.payment.row
            if self._prediction is not None and self._payer.forecast is not None:
                self._payer.forecast.sent()
        self._sends += 1
        known.sends, known.forget_at = known.sends + 1, 0.0
        self._step(Event.SEND)

    def rejected(self, code: str, status: int, challenge_text: Callable[[], str] = str) -> bool:
        """The payment was answered by a rejection with the gateway's `code`. True: another one may be made.

        `challenge_text` as for `buy`. Raises Refused, `over_repurchase_limit`: it was spent before, or is dead, and was
        paid often enough.
        """
        payment = self.payment
        if payment is None:  # it was sent by another addon, in whose place this one was loaded
            return False
        if self._mispredicted(code, status, challenge_text):
            return True
        declined = payment.offer.method in OVER_PERMIT2 and code in NOT_VERIFIED
        if declined:
            self._payer.declined(payment.offer)
        meaning = self._gateway.meaning(code)
        # In answer to a payment that was sent before, "not taken" says nothing of that earlier time.
        first, unused = self._known.sends == 1, declined or meaning.is_not_taken
        if first and unused:
            return self._replace(Outcome("rejected", status=status, code=code, counts_for=payment.window))
        if meaning is Meaning.UNFUNDED:
            self._payer.shortfalls.note(self.purpose.host, payment.offer, payment.payer)
        if first and meaning is Meaning.UNFUNDED:
            self._step(Event.REJECT, Outcome("rejected", status=status, code=code, counts_for=payment.window))
            return False
        unknown = Outcome("unknown", status=status, code=code)
        if first or not (unused or meaning is Meaning.SPENT):
            self._step(Event.REJECT, unknown)
            return False
        self._step(Event.REPLACE, unknown)
        self.spent.append(payment)
        self.payment = None
        try:
            self._check_purchases()
        except Refused:
            self._step(Event.REFUSE)
            raise
        return True

    def _replace(self, outcome: Outcome) -> bool:
        """The gateway says that it did not take the payment: whether another one may be made, once for this request."""
        payment = self.payment
        assert payment is not None
        if self.rejected_before or not self._may_buy:
            self._step(Event.REJECT, outcome)
            return False
        self._step(Event.REPLACE, outcome)
        self.rejected_before.append(payment)
        self._replaced, self.payment = payment, None
        return True

    def _mispredicted(self, code: str, status: int, challenge_text: Callable[[], str]) -> bool:
        """Whether what was rejected is a payment that was sent ahead, and that may be replaced."""
        prediction, self._prediction = self._prediction, None
        if prediction is None or self.payment is None or self._payer.forecast is None:
            return False
        self._payer.forecast.wrong(prediction)
        expected = (prediction.challenge_text or MISMATCH, MISMATCH)
        asked_anew = self._gateway.meaning(code).is_not_taken or (not code and challenge_text() in expected)
        logger.info(
            "x402: foretold %s for %s; the gateway did not take it: %s",
            *(self.payment.offer, self.purpose),
            (code or "it asks anew") if asked_anew else f"{code or 'for another reason'}, so it is not paid anew",
        )
        if not asked_anew or self._known.sends != 1:
            return False
        outcome = Outcome("superseded", status=status, code=code, counts_for=self.payment.window)
        self._step(Event.SUPERSEDE, outcome)
        self.rejected_before.append(self.payment)
        self.payment = None
        self._known.purchases -= 1
        return True

    def leads_to(self, identity: RequestIdentity) -> None:
        """The answer redirects the client: what it will ask then is the same request, as far as money goes."""
        self._also.append(identity)

    def answered(self, status: int, acknowledges: Callable[[], bool] = bool) -> None:
        """Called with the final response's head: what it does not answer is retained before the client knows."""
        self._judge(status, acknowledges)
        if not 200 <= status < 300:
            self._step(Event.FAIL)

    def _judge(self, status: int, acknowledges: Callable[[], bool]) -> None:
        """Tell the forecast what became of what it foretold, or how this gateway acknowledges an ordinary payment."""
        forecast, question = self._payer.forecast, self._question
        prediction, self._prediction = self._prediction, None
        if forecast is None or question is None or not self.sent or self._stage is Stage.CLOSED:
            return
        taken = 200 <= status < 300
        if prediction is None:
            if taken:
                forecast.acknowledged(question, acknowledges())
        elif taken and acknowledges():
            forecast.right(prediction)
        else:
            forecast.unproven(prediction)

    def finish(self, outcome: Outcome, *, complete: bool) -> None:
        """The answer is over. What was not sent goes back to where it came from."""
        self._judge(0, bool)
        self._step(Event.COMPLETE if complete else Event.BREAK, outcome)

    def break_off(self, outcome: Outcome) -> None:
        """The client gets no more of an answer: what was sent is retained."""
        self.finish(outcome, complete=False)

    def _retain(self, *, sendable: bool) -> None:
        """Only where an equal request has something to take over. The ledger lets nothing leave that was rejected."""
        if self._known.purchases and self._known.last_row is not None:
            for identity in (self.identity, *self._also):
                memory = replace(self._known, payment=self.payment if sendable else None)
                self._retained.remember(identity, memory)

    def _record(self, outcome: Outcome) -> None:
        """Have it written down what became of `payment`."""
        assert self.payment is not None
        payment, outcomes, sends = self.payment, self._payer.outcomes, self._known.sends
        ending = Ending(payment.row, payment.offer, payment.reference, self.purpose, sends, outcome, payment.payer)
        waits = outcome.state == "settled" and sends == 1 and not self.is_job
        self.state = outcomes.write_soon(ending) if waits else outcomes.write(ending)
        self.transaction = outcome.transaction
