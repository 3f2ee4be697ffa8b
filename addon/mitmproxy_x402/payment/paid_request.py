"""The protocol between the hooks and the payments of one request: a `purchase.Purchase`, or a `polls.Poll`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..ledger.interface import Outcome, State
from ..protocol.messages import PaymentRequired
from .offer import Purpose
from .retained.identity import RequestIdentity
from .signing.payment import Payment


class PaidRequest(Protocol):
    """The payments of one request, as the hooks see them: a `Purchase`, or the `Poll` of a job."""

    purpose: Purpose
    payment: Payment | None
    """The payment of the next leg, or of the last one."""
    state: State | None
    """The ledger's state of this request's last payment that has ended; None: none has."""
    transaction: str
    """The transaction of its settlement; empty: not known."""
    spent: list[Payment]
    """Payments for this request that may have been settled and will not be sent again."""
    rejected_before: list[Payment]
    """Payments that the gateway says it did not take, and that were replaced. They count until they have expired."""

    @property
    def sent(self) -> bool:
        """Whether this request has sent `payment`."""

    @property
    def is_new(self) -> bool:
        """Whether nothing was paid yet for this request or an equal one."""

    @property
    def ahead(self) -> bool:
        """Whether `payment` was made ahead of its challenge and has had no answer yet."""

    def reuse_retained(self, *keys: RequestIdentity) -> bool:
        """Take over a payment that is retained under one of `keys`, by default under the request's own identity.

        Returns whether the next leg carries something. Raises Refused if it may not be sent with this request.
        """

    def predict(self) -> bool:
        """Pay a predicted challenge. Returns whether there is a payment; without one, the challenge is awaited."""

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The secret headers of the next leg."""

    async def buy(
        self,
        required: PaymentRequired,
        challenge_text: Callable[[], str] = str,
        is_cancelled: Callable[[], bool] = bool,
    ) -> Payment:
        """Make the payment for a challenge. Raises Refused and what `Payer.pay` does: nothing was signed.

        `is_cancelled` returns whether the client has left, so that nothing is to be signed.
        """

    def sending(self) -> None:
        """Record that the headers are being sent. Raises LedgerError: they must not be sent."""

    def rejected(self, code: str, status: int, challenge_text: Callable[[], str] = str) -> bool:
        """Handle a rejection with the gateway's `code`. Returns whether another payment may be made."""

    def answered(self, status: int, acknowledges: Callable[[], bool] = bool) -> None:
        """Called with the final response headers. `acknowledges` returns whether they acknowledge the payment."""

    def finish(self, outcome: Outcome, *, complete: bool) -> None:
        """Record the outcome of an answer; `complete`: the client has what was paid for, and it did not break off."""
