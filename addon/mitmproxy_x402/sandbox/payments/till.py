"""Checks whether a payment is valid for a request and may be used (again), and settles it.

A payment that was verified is `held` while its work is done. When the work fails before money moved it is `released`:
the same payment may come again and is charged once at most. Once `settled` it is a replay for ever.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...protocol.messages import AtomicUnits, PaymentPayload, SettlementResponse, X402Version
from ..chains.interface import INVALID, REPLAY, UNDERPAID, Rejected, Verified
from ..records import ReceivedPayment, ReceivedRequest
from .pricing import Offer, PriceList, Quote, due

MAX_TICKETS = 200_000


class Ticket:
    """A verified payment on its way through one request."""

    def __init__(self, offer: Offer, verified: Verified, record: ReceivedPayment, version: X402Version) -> None:
        self.record = record
        self.version = version
        self._offer = offer
        self._verified = verified
        self._closed = False
        self.charge: int | None = None
        """For a ceiling: the charge, once it is known."""
        self.is_deferred = False
        """Whether it is waiting to be settled."""

    @property
    def family(self) -> str:
        """`evm` or `svm`."""
        return self._offer.chain.network.family

    @property
    def is_ceiling(self) -> bool:
        """Whether what was signed is a ceiling, of which only a part may be taken."""
        return self._offer.scheme == "upto"

    def meter(self, units: int) -> None:
        """Take `units` of a ceiling, or all of it if that is less; an exact price stays as it is."""
        if self.is_ceiling:
            self.charge = min(units, self._offer.amount)

    def settle(self, at: float | None = None) -> None:
        """Move the money, once, unless the ticket was released. Raises Rejected when the chain refuses.

        `at` is when it is said to happen, where that is not now.
        """
        self.is_deferred = False
        if self._closed or self.record.state == "settled":
            return
        try:
            self.record.transaction = self._offer.chain.settle(self._verified, at, self.charge)
        except Rejected:
            self.record.state = "failed"
            raise
        self.record.charged = self.record.amount if self.charge is None else AtomicUnits(self.charge)
        self.record.state = "settled"

    def release(self) -> None:
        """The work is over: unless money moved, the same payment may come again.

        Only the first call counts: after it the record may already be held by another request.
        """
        if self.is_deferred:
            return
        if not self._closed and self.record.state == "held":
            self.record.state = "released"
        self._closed = True

    def receipt(self) -> SettlementResponse:
        """What is known of the settlement now; without a transaction id before it."""
        network = self._offer.entry["network"]
        told = self.record.transaction
        transaction, transfer = ("", told) if self._offer.scheme == "gateway" else (told, "")
        charged = self.record.charged if self.is_ceiling and self.record.state == "settled" else None
        return SettlementResponse(True, transaction, network, self.record.payer, amount=charged, transfer=transfer)


class LateSettlements:
    """Settles each payment `seconds` after its work, by `clock` (Unix seconds): whenever somebody looks."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._number = itertools.count()
        self._waiting: list[tuple[float, int, Ticket]] = []

    def add(self, ticket: Ticket) -> None:
        """Note that the work for a payment is done."""
        if ticket.is_deferred:
            return
        ticket.is_deferred = True
        heapq.heappush(self._waiting, (self._clock() + self.seconds, next(self._number), ticket))

    def settle_due(self) -> None:
        """Move the money of all whose time has come. One that the chain refuses by then is never paid."""
        while self._waiting and self._waiting[0][0] <= self._clock():
            due, _, ticket = heapq.heappop(self._waiting)
            with suppress(Rejected):  # nobody is left to tell
                ticket.settle(due)
            ticket.release()


class Till:
    """Admits payments, and remembers the last MAX_TICKETS that were verified."""

    def __init__(self, prices: PriceList, version: X402Version) -> None:
        self._prices = prices
        self._version = version
        self._records: OrderedDict[tuple[str, str, str], ReceivedPayment] = OrderedDict()

    def admit(
        self, payment: PaymentPayload, request: ReceivedRequest, price: Quote, paths: Sequence[str] = ()
    ) -> tuple[Ticket, bool]:
        """A ticket for `request`, and whether this payment is new here. Raises Rejected.

        `paths` are those for which its entry may have been offered; empty: the request's own.
        """
        offer = self._offer(payment, request, price, paths or (request.path,))
        verified = offer.chain.verify(offer.entry, offer.amount, payment.payload, payment.extensions)
        key = (offer.chain.network.caip2, verified.payer, verified.reference)
        record = self._records.get(key)
        if record is None:
            chain = offer.chain
            record = ReceivedPayment(
                chain.network.caip2,
                verified.payer,
                chain.pay_to,
                offer.amount,
                chain.asset.address,
                verified.reference,
                request.path,
                scheme=offer.scheme,
            )
            self._records[key] = record
            while len(self._records) > MAX_TICKETS:
                self._records.popitem(last=False)
            return Ticket(offer, verified, record, self._version), True
        if record.state not in ("released", "failed"):
            raise Rejected(REPLAY, "This payment is in use for another request.")
        record.state = "held"
        record.attempts += 1
        return Ticket(offer, verified, record, self._version), False

    def _offer(self, payment: PaymentPayload, request: ReceivedRequest, price: Quote, paths: Sequence[str]) -> Offer:
        if self._version == 1:
            return self._offer_v1(payment, request, price)
        entry = payment.accepted.raw
        offers = (self._prices.offered(entry, path) for path in paths)
        offer = next((one for one in offers if one is not None), None) or self._prices.would_offer(
            entry, request, price
        )
        if offer is None:
            raise Rejected(INVALID, f"`accepted` is not, word for word, an entry offered for {paths[0]}.")
        asked = due(offer.scheme, price, self._prices.rates)
        if offer.amount != asked:
            reason = UNDERPAID if offer.amount < asked else INVALID
            raise Rejected(reason, f"The entry was of {offer.amount} units; this request costs {asked}.")
        if payment.resource is not None and payment.resource != offer.resource:
            raise Rejected(INVALID, "`resource` is not the one of the challenge.")
        self._check_extensions(payment.extensions)
        return offer

    def _check_extensions(self, echoed: Any) -> None:
        """Echoed extensions are as announced; a payment may add some, and may leave all out."""
        if echoed is None:
            return
        if not isinstance(echoed, Mapping):
            raise Rejected(INVALID, "`extensions` must be an object.")
        announced = self._prices.extensions()
        for key in echoed:
            if key in announced and not _contains(echoed[key], announced[key]):
                raise Rejected(INVALID, f"extension_echo_mismatch: {key!r} is not echoed as it was announced.")

    def _offer_v1(self, payment: PaymentPayload, request: ReceivedRequest, price: Quote) -> Offer:
        if payment.accepted.scheme != "exact":
            raise Rejected(INVALID, f"The scheme {payment.accepted.scheme!r} was not offered; `exact` was.")
        for offer in self._prices.offers(request, price):
            if offer.entry["network"] == payment.accepted.network:
                return offer
        raise Rejected(INVALID, f"The network {payment.accepted.network!r} was not offered.")


def _contains(echoed: Any, advertised: Any) -> bool:
    """Whether `echoed` has all that was advertised, unchanged; it may have more (x402 v2, section 5.2.2)."""
    if isinstance(advertised, Mapping):
        if not isinstance(echoed, Mapping):
            return False
        return all(key in echoed and _contains(echoed[key], value) for key, value in advertised.items())
    return bool(echoed == advertised)
