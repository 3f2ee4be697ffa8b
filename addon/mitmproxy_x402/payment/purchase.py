"""All payments made for one client request, from the first reservation to the outcome.

One request, one payment. A second one is signed only if the gateway says that the first was spent, is dead, or was not
broadcast, or if it asks as if it had not seen one that was sent ahead of its challenge. Whatever the reason,
`x402_repurchase` bounds their number for one request and its retries. Earlier signatures stay counted.

The states of a purchase and its events are in `purchase_states`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from ..errors import Refused, X402Error
from ..forecast.forecast import Prediction
from ..forecast.quote import Question
from ..gateways import Meaning, gateway_of
from ..ledger.interface import Ledger, LedgerError, Outcome, State, Syncing
from ..protocol.messages import PaymentRequired
from .challenge import MISMATCH
from .offer import Purpose
from .outcomes import Ending
from .payer import Payer, ended
from .policy import scopes_of
from .purchase_states import Event, Stage, step_of
from .reasons import refusals
from .reasons.rejections import NOT_VERIFIED
from .retained.identity import RequestIdentity, without_body
from .retained.store import Memory, Retained
from .signing.ceilings import OVER_PERMIT2
from .signing.payment import Payment

MAX_WAIT = 20
"""Most seconds between making a payment ahead of its challenge and sending it; usually none."""

logger = logging.getLogger(__name__)


class Purchase:
    """The `PaidRequest` of an ordinary request."""

    def __init__(
        self,
        payer: Payer,
        retained: Retained,
        purpose: Purpose,
        identity: RequestIdentity,
        question: Question | None = None,
        *,
        client: str = "",
    ) -> None:
        """`client` is the client's address."""
        self.purpose = purpose
        self.payment: Payment | None = None
        self.state: State | None = None
        self.transaction = ""
        self.spent: list[Payment] = []
        self.rejected_before: list[Payment] = []
        self.is_job = False
        """Whether the request started a job, whose polls look the payment up in the ledger."""
        self.identity = identity
        self.follows = identity.anywhere() if identity.has_body else without_body(identity.route[1], client)
        """The identity under which its payment is found after a redirect (`retained.store`)."""
        self._client = client
        self._payer = payer
        self._retained = retained
        self._gateway = gateway_of(purpose.host)
        self._question = question
        """The request as the forecast sees it; None: it is not predicted."""
        self._prediction: Prediction | None = None
        self._made = 0.0
        self._unsynced: Syncing | None = None
        self._failed: LedgerError | None = None
        """Why `payment` must not be sent: its reservation may not survive a power cut."""
        self._replaced: Payment | None = None
        """The payment that the gateway says it did not take, before another one was made."""
        self._stage = Stage.NEW
        self._sends = 0
        """Number of times that this request has sent `payment`."""
        self._known = Memory(None, sends=0, purchases=0, last_row=None, ledger=payer.ledger.name)
        """The memory to retain for an equal request; its payment is `payment`."""

    @property
    def stage(self) -> Stage:
        """The current state, of `purchase_states.TABLE`."""
        return self._stage

    @property
    def ledger(self) -> Ledger:
        """The ledger that holds its rows."""
        return self._payer.ledger

    @property
    def sent(self) -> bool:
        """Whether this request has sent `payment`."""
        return self._sends > 0

    @property
    def is_new(self) -> bool:
        """Whether nothing was paid yet for this request or an equal one."""
        return self._known.last_row is None

    @property
    def ahead(self) -> bool:
        """Whether `payment` was made ahead of its challenge and has had no answer yet."""
        return self._prediction is not None

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The payment's header."""
        if self.payment is None:
            return ()
        return tuple((name.encode(), value.encode()) for name, value in self.payment.headers)

    def _step(self, event: Event, outcome: Outcome | None = None) -> None:
        """Apply an event as the table says. Raises RuntimeError: it cannot occur in this state."""
        step = step_of(self._stage, event)
        self._stage = step.to
        if step.records and outcome is not None:
            self._record(outcome)
        if step.releases and self.payment is not None:
            self._payer.release(self.payment.row)
            self.payment = None
        if step.retains:
            self._retain(sendable=outcome is None or outcome.state != "rejected")

    def reuse_retained(self, *keys: RequestIdentity) -> bool:
        """Take over what an equal request retained when it failed, or one that was answered by a redirect.

        Raises Refused (`other_limit`) if limits cover this request that the payment was not checked against.
        """
        memory = next(filter(None, map(self._retained.take, keys or (self.identity,))), None)
        if memory is None or memory.ledger != self._payer.ledger.name:  # the user has changed the ledger since
            return False
        self._known, self.payment = memory, memory.payment
        self._step(Event.INHERIT if self.payment is None else Event.TAKE_UP)
        if self.payment is not None:
            self._check_limits(self.payment)
        return self.payment is not None

    def _check_limits(self, payment: Payment) -> None:
        """Raise Refused if limits cover this request that `payment` was not checked against."""
        others = scopes_of(self.purpose, self._payer.rules) - self._known.limits
        if others:
            raise refusals.other_limit(payment.offer, others)

    def predict(self) -> bool:
        """Pay a predicted challenge. Returns whether there is a payment; without one, the challenge is awaited.

        `durable` has to be awaited before it is sent. Nothing is predicted for a request equal to one that was paid for
        before: the gateway is asked first. Nor where `x402_repurchase` is 0: a wrong prediction could not be replaced.
        """
        forecast = self._payer.forecast
        if forecast is None or self._question is None or not self.is_new:
            return False
        if not self._payer.settings.repurchase or self._retained.is_full:
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
        self._unsynced = payment.durable
        self._known.limits = scopes_of(self.purpose, self._payer.rules)
        self._step(Event.SIGN)
        return True

    async def buy(
        self,
        required: PaymentRequired,
        challenge_text: Callable[[], str] = str,
        is_cancelled: Callable[[], bool] = bool,
    ) -> Payment:
        """Make a new payment for `required`. Raises what `Payer.pay` does, and Refused: `over_repurchase_limit` or
        `too_many_failed`.

        `challenge_text` gives what the challenge says besides its terms (`challenge.challenge_text`).
        """
        if self.ahead:  # it was not sent: the first leg had to go without it
            self._prediction = None
            self._step(Event.WITHDRAW)
        try:
            self._check_purchases()
            payment = await self._payer.pay(
                *(required, self.purpose, self._known.last_row),
                syncs_later=True,
                instead_of=self._replaced,
                is_cancelled=is_cancelled,
            )
        except BaseException:
            if self._stage is not Stage.OVER:  # it is over if the proxy has been shut down meanwhile
                self._step(Event.REFUSE)
            raise
        self.payment, self._sends, self._known.sends = payment, 0, 0
        self._unsynced, self._failed = payment.durable, None
        self._known.limits = scopes_of(self.purpose, self._payer.rules)
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
        """Raise Refused if this request has reached `x402_repurchase`, or nobody's payment could be retained."""
        if self._may_buy and not self._retained.is_full:
            return
        if self._may_buy:
            raise Refused(
                "too_many_failed",
                "Too many requests were paid and never answered completely: their payments are kept, to be sent again "
                "with their retries, and there is room for no more. Nothing was paid. Find out why the gateway takes "
                "payments and fails. Each is kept for ten minutes, or while its signature lives (x402_max_validity).",
            )
        purchases, allowed = self._known.purchases, self._payer.settings.repurchase
        times = "once" if purchases == 1 else f"{purchases} times"
        redirect = (
            ", but with a redirect: what you ask after that, with the same body or without one, counts as the same"
            if self._known.also
            else ""
        )
        raise Refused(
            "over_repurchase_limit",
            f"This same request was paid {times} within the last minutes and never answered completely{redirect}. The "
            f"option x402_repurchase allows {allowed} beyond the first, so nothing more was paid. Wait ten minutes, "
            "change the request, or raise that option.",
        )

    @property
    def waits(self) -> bool:
        """Whether `durable` has to be awaited before `payment` is sent."""
        if self._unsynced is not None and self._unsynced.is_done():
            self._unsynced = None
        return self._unsynced is not None

    async def durable(self) -> None:
        """Wait until the payment survives a power cut. One that does not is not sent; one made ahead is withdrawn."""
        if self._unsynced is not None:
            try:
                await self._unsynced
            except LedgerError as error:
                self._failed = error
                if self.ahead and self._stage is not Stage.OVER:  # it is over if the client has left meanwhile
                    self._prediction = None
                    self._step(Event.WITHDRAW)
            self._unsynced = None

    def sending(self) -> None:
        """Record that the header is being sent. Raises LedgerError, and Refused at the end: it must not be sent."""
        if self._stage is Stage.OVER:
            raise ended()
        if self._failed is not None:
            raise self._failed
        assert self.payment is not None
        known = self._known
        if self._unsynced is not None:  # its sync was not awaited
            self._payer.ledger.durable_now()
            self._unsynced = None
        if self.ahead and not 0 <= self._payer.clock() - self._made < MAX_WAIT:
            self._payer.release(self.payment.row)  # held up, as by an interception: another one is made
        if known.sends:
            self._payer.ledger.record_resent(self.payment.row)
        else:
            payment = self.payment
            self._payer.ledger.record_departure(payment.row, payment.reference, payment.valid_until, payment.validity)
            known.purchases += 1
            known.last_row = payment.row
            known.alive_until = max(known.alive_until, payment.valid_until)
            if self._prediction is not None and self._payer.forecast is not None:
                self._payer.forecast.sent()
        self._sends += 1
        known.sends, known.forget_at = known.sends + 1, 0.0
        self._step(Event.SEND)

    def rejected(self, code: str, status: int, challenge_text: Callable[[], str] = str) -> bool:
        """Handle a rejection with the gateway's `code`. Returns whether another payment may be made.

        `challenge_text` as for `buy`. Raises Refused, `over_repurchase_limit`: the payment was spent or is dead, and
        the limit is reached.
        """
        payment = self.payment
        if payment is None:  # it was sent by the addon that this one has replaced
            return False
        if self._mispredicted(code, status, challenge_text):
            return True
        declined = payment.offer.method in OVER_PERMIT2 and code in NOT_VERIFIED
        if declined:
            self._payer.declined(payment.offer)
        meaning = self._gateway.meaning(code)
        # For a payment that was sent before, "not taken" does not cover the earlier time.
        first, unused = self._known.sends == 1, declined or meaning.is_not_taken
        if first and unused:
            return self._replace(Outcome("rejected", status=status, code=code, counts_for=payment.window))
        if meaning is Meaning.UNFUNDED:
            self._payer.balances.cannot_pay(self.purpose.host, payment.offer, payment.payer)
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
        """Replace a payment that the gateway says it did not take. Returns whether it may be: once per request."""
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
        """Whether the rejected payment was sent ahead of its challenge and may be replaced."""
        prediction, self._prediction = self._prediction, None
        if prediction is None or self.payment is None or self._payer.forecast is None:
            return False
        self._payer.forecast.wrong(prediction)
        expected = (prediction.challenge_text or MISMATCH, MISMATCH)
        asked_anew = self._gateway.meaning(code).is_not_taken or (not code and challenge_text() in expected)
        logger.info(
            "x402: predicted %s for %s; the gateway did not take it: %s",
            *(self.payment.offer, self.purpose),
            (code or "it asks anew") if asked_anew else f"{code or 'for another reason'}, so it is not paid anew",
        )
        if not asked_anew or self._known.sends != 1 or not self._may_buy:
            return False
        outcome = Outcome("superseded", status=status, code=code, counts_for=self.payment.window)
        self._step(Event.SUPERSEDE, outcome)
        self.rejected_before.append(self.payment)
        self.payment = None
        return True

    def redirected(self) -> None:
        """Have the payment found by whatever request follows the redirect that has answered this one."""
        if not self._known.also:
            any_body = (self.identity.anywhere(),) if self.identity.has_body else ()
            no_body = without_body(self.identity.route[1], self._client)
            self._known.also = (self.identity, *any_body, no_body)

    def answered(self, status: int, acknowledges: Callable[[], bool] = bool) -> None:
        """Called with the final response headers: a failed answer retains the payment before the client sees it."""
        self._judge(status, acknowledges)
        if not 200 <= status < 300:
            self._step(Event.FAIL)

    def _judge(self, status: int, acknowledges: Callable[[], bool]) -> None:
        """Tell the forecast whether its prediction was right, or whether the gateway acknowledges ordinary payments."""
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
        """Record the outcome. A payment that was not sent is released, or retained again; one that was sent is retained
        unless the answer is `complete`.
        """
        self._judge(0, bool)
        self._step(Event.COMPLETE if complete else Event.BREAK, outcome)

    def _retain(self, *, sendable: bool) -> None:
        """Retain what an equal request needs, if there is anything. The ledger refuses to send a rejected payment."""
        if self._known.purchases and self._known.last_row is not None:
            memory = replace(self._known, payment=self.payment if sendable else None)
            self._retained.remember(self.identity, memory)

    def _record(self, outcome: Outcome) -> None:
        """Record the outcome of `payment`."""
        assert self.payment is not None
        payment, outcomes, sends = self.payment, self._payer.outcomes, self._known.sends
        ending = Ending(payment.row, payment.offer, payment.reference, self.purpose, sends, outcome, payment.payer)
        waits = outcome.state == "settled" and sends == 1 and not self.is_job
        self.state = outcomes.write_soon(ending) if waits else outcomes.write(ending)
        self.transaction = outcome.transaction
