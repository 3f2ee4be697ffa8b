"""The payments of one request of the client, from the first reservation to the last word on what became of them.

One request, one payment. There is a second signature only on the gateway's word: that nothing of the first was
broadcast (then once), or that the first was spent without an answer, or is dead (then `x402_repurchase` times for this
request, its repetitions included). A payment that was sent ahead of its challenge may be replaced once, too, where the
gateway asks as if it had seen none.

    borrow     takes over what an equal request left behind when it ended badly, to be sent with the first leg
    predict    no equal request did: where its challenge can be foretold, a payment for that, sent with the first leg
    buy        a challenge came: a new payment
    sending    a leg with the payment is about to leave: the ledger first
    rejected   the leg was answered by a rejection: may another payment be made?
    answered   the answer has begun; complete, or one that an equal request may take up again
    finish     the answer is over
    break_off  there will be no more answer
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from ..errors import Refused, X402Error
from ..forecast.forecast import MISMATCH, Prediction
from ..forecast.quote import Question
from ..ledger.interface import Ledger, Outcome, State
from ..protocol.messages import PaymentRequired
from .ceilings import OVER_PERMIT2
from .outcomes import Ending
from .payer import Payer, Payment
from .policy import Purpose
from .retained import Fingerprint, Held, Memory, is_incomplete

REPLAY = "PAYMENT_REPLAY"
"""The gateway's code for a payment that was spent, or is being spent, already."""
NOT_BROADCAST = frozenset({"PAYMENT_BLOCKHASH_STALE", "PAYMENT_UNDERPAID"})
"""Codes by which the gateway vouches that nothing was broadcast, and after which a fresh signature helps (protocol,
section 4). In answer to a payment that was sent before they say nothing of that earlier time."""
UNFUNDED = frozenset({"PAYMENT_UNFUNDED", "insufficient_funds"})
"""Codes by which the wallet could not pay: another signature would be no better."""
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


class Purchase:
    """What happens to the money of one request. `key` computes its fingerprint; it is called only where needed."""

    def __init__(
        self,
        payer: Payer,
        held: Held,
        purpose: Purpose,
        key: Callable[[], Fingerprint],
        question: Question | None = None,
    ) -> None:
        self.purpose = purpose
        self.payment: Payment | None = None
        """The payment that goes with the next leg, or went with the last one."""
        self.sent = False
        """Whether this request has sent `payment`."""
        self.state: State | None = None
        """What the ledger last said of a payment of this request that was sent; None: none has ended yet."""
        self.transaction = ""
        """Of its settlement."""
        self.spent: list[Payment] = []
        """Payments of this request that may have been settled and will not be sent again."""
        self.superseded: Payment | None = None
        """The payment that was sent ahead, and that the gateway asked anew instead of taking."""
        self.is_job = False
        """Whether it is a job that is paid for: each poll asks the ledger what became of the payment."""
        self._payer = payer
        self._held = held
        self._key = key
        self._question = question
        """What the forecast is asked, and learns from; None: nothing is foretold for this request."""
        self._prediction: Prediction | None = None
        self._made = 0.0
        self._sends = 0
        self._purchases = 0
        self._last_row: int | None = None
        self._forget_at = 0.0
        self._signed_anew = False
        self._replaced: Payment | None = None
        """What the gateway said it did not take, before another one was made."""
        self._remembered = False
        self._given_up = False

    @functools.cached_property
    def _fingerprint(self) -> Fingerprint:
        return self._key()

    @property
    def ledger(self) -> Ledger:
        """That its rows are in."""
        return self._payer.ledger

    @property
    def is_new(self) -> bool:
        """Whether nothing is known yet of an equal request, nor was anything paid for this one."""
        return self._last_row is None

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What the next leg is to carry, and nobody may see."""
        if self.payment is None:
            return ()
        return tuple((name.encode(), value.encode()) for name, value in self.payment.headers)

    def borrow(self) -> bool:
        """Take over what an equal request left behind. True: there is a payment to send with the first leg."""
        memory = self._held.take(self._fingerprint)
        if memory is None or memory.ledger != self._payer.ledger.name:  # the user has named another one since
            return False
        self.payment, self._sends = memory.payment, memory.sends
        self._purchases, self._last_row, self._forget_at = memory.purchases, memory.last_row, memory.forget_at
        return self.payment is not None

    @property
    def ahead(self) -> bool:
        """Whether `payment` was made before its challenge, and nothing has been heard of it yet."""
        return self._prediction is not None

    def predict(self) -> bool:
        """Foretell the challenge and pay it. False: it cannot be foretold, or not be paid; the challenge will say why.

        Not for a request like one that was paid for before: there the gateway has the first word.
        """
        forecast = self._payer.forecast
        if forecast is None or self._question is None or self._last_row is not None:
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
        return True

    async def buy(self, required: PaymentRequired, words: Callable[[], str] = str) -> Payment:
        """A new payment for `required`. Raises what `Payer.pay` does, and Refused: `over_repurchase_limit`.

        `words` gives what the challenge says besides, see `challenge.words`.
        """
        if self.ahead:  # it did not leave: the first leg had to go without it
            self._prediction = None
            self._drop(remember=False)
        self._check_purchases()
        try:
            payment = await self._payer.pay(required, self.purpose, self._last_row, instead_of=self._replaced)
        except BaseException:
            self._remember()
            raise
        self.payment, self.sent, self._sends = payment, False, 0
        if self._payer.forecast is not None and self._question is not None:
            said = words() if self.superseded is None else None
            chosen, now = payment.offer.requirement, self._payer.clock()
            self._payer.forecast.learn(self._question, required, chosen, said, now)
        return payment

    def _check_purchases(self) -> None:
        """Raises Refused where this request was paid for often enough: it is the end, and remembered."""
        allowed = self._payer.settings.repurchase
        if self._purchases <= allowed:
            return
        self._given_up = True
        self._remember()
        times = "once" if self._purchases == 1 else f"{self._purchases} times"
        raise Refused(
            "over_repurchase_limit",
            f"This same request was paid {times} within the last minutes and never answered completely. The option "
            f"x402_repurchase allows {allowed} beyond the first, so nothing more was paid. Wait ten minutes, change "
            "the request, or raise that option.",
        )

    def sending(self) -> None:
        """Write down that the header leaves now. Raises LedgerError: then it must not."""
        assert self.payment is not None
        if self.ahead and not 0 <= self._payer.clock() - self._made < MAX_WAIT:
            self._payer.release(self.payment.row)  # held back, as by an interception: it lapses, and is made anew
        if self._sends:
            self._payer.ledger.record_resent(self.payment.row)
        else:
            payment = self.payment
            self._payer.ledger.record_sent(payment.row, payment.reference, payment.valid_until, payment.validity)
            self._purchases += 1
            self._last_row = self.payment.row
            if self._prediction is not None and self._payer.forecast is not None:
                self._payer.forecast.sent()
        self._sends += 1
        self.sent, self._forget_at = True, 0.0

    def rejected(self, code: str, status: int, words: Callable[[], str] = str) -> bool:
        """The payment was answered by a rejection with the gateway's `code`. True: another one may be made.

        `words` as for `buy`. Raises Refused, `over_repurchase_limit`: it was spent before, or is dead, and was not the
        first.
        """
        if self.payment is None:  # it was sent by another addon, in whose place this one was loaded
            return False
        again = False
        if self._mispredicted(code, status, words):
            return True
        declined = self.payment.offer.method in OVER_PERMIT2 and code in NOT_VERIFIED
        if declined:
            self._payer.declined(self.payment.offer)
        if (code in NOT_BROADCAST or declined) and self._sends == 1:
            self._replaced = self.payment
            self._record(Outcome("rejected", status=status, code=code, counts_for=self.payment.window))
            self._purchases -= 1
            self.payment = None
            again, self._signed_anew = not self._signed_anew, True
        elif (code == REPLAY or code in NOT_BROADCAST) and self._sends > 1:
            self._record(Outcome("unknown", status=status, code=code))
            self.spent.append(self.payment)
            self.payment = None
            self._check_purchases()
            again = True
        elif code in UNFUNDED and self._sends == 1:  # it may be funded within the life of the signature
            self._record(Outcome("rejected", status=status, code=code, counts_for=self.payment.window))
        else:
            self._record(Outcome("unknown", status=status, code=code))
        if not again:
            self._given_up = True
            self._remember()
        return again

    def _mispredicted(self, code: str, status: int, words: Callable[[], str]) -> bool:
        """Whether what was rejected is a payment that was sent ahead, and that may be replaced."""
        prediction, self._prediction = self._prediction, None
        if prediction is None or self.payment is None or self._payer.forecast is None:
            return False
        self._payer.forecast.wrong(prediction)
        asked_anew = code in NOT_BROADCAST or (not code and words() in (prediction.words or MISMATCH, MISMATCH))
        logger.info(
            "x402: foretold %s for %s; the gateway did not take it: %s",
            *(self.payment.offer, self.purpose),
            (code or "it asks anew") if asked_anew else f"{code or 'for another reason'}, so it is not paid anew",
        )
        if not asked_anew or self._sends != 1:
            return False
        self._record(Outcome("superseded", status=status, code=code, counts_for=self.payment.window))
        self.state = "rejected"
        self.superseded, self.payment = self.payment, None
        self._purchases -= 1
        self._signed_anew = True
        return True

    def answered(self, status: int, acknowledges: Callable[[], bool] = bool) -> None:
        """The head of the answer that the client gets is there. `acknowledges`: whether it speaks of the payment."""
        self._judge(status, acknowledges)
        if self.sent and not self._given_up and is_incomplete(status):
            self._remember()

    def _judge(self, status: int, acknowledges: Callable[[], bool]) -> None:
        """Tell the forecast what became of what it foretold, or how this gateway acknowledges an ordinary payment."""
        forecast, question = self._payer.forecast, self._question
        prediction, self._prediction = self._prediction, None
        if forecast is None or question is None or not self.sent or self._given_up:
            return
        taken = 200 <= status < 300
        if prediction is None:
            if taken:
                forecast.acknowledged(question, acknowledges())
        elif taken and acknowledges():
            forecast.right(prediction)
        else:
            forecast.unproven(prediction)

    def finish(self, outcome: Outcome) -> None:
        """The client has got the whole of an answer."""
        self._judge(0, bool)
        if self._given_up:
            return
        if self.payment is not None and self.sent:
            self._record(outcome)
        else:
            self._drop(remember=outcome.status is None or outcome.status >= 400)

    def break_off(self, outcome: Outcome) -> None:
        """The client gets no more of an answer: what was not sent is given back, what was sent is remembered."""
        self._judge(0, bool)
        if self._given_up:
            return
        if self.payment is not None and self.sent:
            self._record(outcome)
            self._remember()
        else:
            self._drop(remember=True)

    def _drop(self, *, remember: bool) -> None:
        """A payment that was not sent by this request goes back to where it came from."""
        if self.payment is not None and self._sends == 0:
            self._payer.release(self.payment.row)
            self.payment = None
        if remember:
            self._remember()

    def _remember(self) -> None:
        """Once, and only where an equal request has something to take over."""
        if self._remembered or self._last_row is None or not self._purchases:
            return
        self._remembered = True
        payment = self.payment if self._sends else None
        ledger, purchases = self._payer.ledger.name, self._purchases
        memory = Memory(payment, self._sends, purchases, self._last_row, ledger, self._forget_at)
        self._held.remember(self._fingerprint, memory)

    def _record(self, outcome: Outcome) -> None:
        """Have it written down what became of `payment`."""
        assert self.payment is not None
        payment, outcomes = self.payment, self._payer.outcomes
        ending = Ending(payment.row, payment.offer, payment.reference, self.purpose, self._sends, outcome)
        waits = outcome.state == "settled" and self._sends == 1 and not self.is_job
        self.state = outcomes.write_soon(ending) if waits else outcomes.write(ending)
        self.transaction = outcome.transaction
