"""Puts a signed payload into the headers of a request, with the extensions that its seller declares."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

from ...ledger.interface import UNKNOWN, Syncing, Validity
from ...protocol.headers import X_PAYMENT, with_identifier
from ...protocol.messages import AtomicUnits, PaymentRequired
from ...quick_init import quick_init
from ...schemes.permit2 import with_permit
from ..offer import Offer
from ..offered import Offered
from .signer import Signed

IDENTIFIER = "pay_"
"""Prefix of a payment identifier, which must have 16 to 128 characters."""
MAX_IDENTIFIERS = 2000


@quick_init
@dataclass(frozen=True)
class Payment:
    """A signed payment, ready to be sent. Its header can move money, so no repr or log shows it."""

    offer: Offer
    payer: str
    """Public address of the wallet that signed."""
    reference: str
    """Identifies the payment on its chain: the EIP-3009 nonce, or the payer's Solana signature."""
    header: tuple[str, str] = field(repr=False)
    row: int
    """The ledger's row of its reservation."""
    valid_until: float
    """Unix seconds after which it can no longer be settled."""
    window: float
    """Seconds after signing when nobody can settle it any more, even if our clock is fast."""
    validity: Validity = field(default=UNKNOWN, compare=False)
    """Its validity in the chain's terms, for the ledger. Only the process that signed it has this."""
    durable: Syncing | None = field(default=None, compare=False, repr=False)
    """Awaited before the payment is sent: done when its reservation survives a power cut. None: it does already."""
    in_both_headers: bool = False
    """Whether to send it in X-PAYMENT, too: servers with version 2 terms in the body alone may read either."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers that a request carries for it."""
        name, value = self.header
        return ((name, value), (X_PAYMENT, value)) if self.in_both_headers else (self.header,)

    @property
    def amount(self) -> AtomicUnits:
        """The amount signed for, in atomic units of the offer's asset."""
        return self.offer.requirement.amount


def payment_of(
    required: PaymentRequired,
    offered: Offered,
    offer: Offer,
    signed: Signed,
    *,
    row: int,
    identifier: str,
    durable: Syncing | None = None,
) -> Payment:
    """The payment of `offer`, which `required` has `offered`, by `signed`; `row` is its reservation in the ledger.

    `identifier` is the request's for the extension `payment-identifier`; empty: none. Raises ChallengeError: what has
    to be echoed does not fit into a header.
    """
    extensions = with_identifier(required.extensions, identifier)
    if signed.permit is not None:
        extensions = with_permit(extensions, signed.permit)
    header = offered.frame(offer, extensions).around(signed.payload)
    both = required.in_body and required.x402_version == 2
    times = signed.valid_until, signed.window, signed.validity
    return Payment(offer, signed.payer, signed.reference, header, row, *times, durable, both)


class Identifiers:
    """The ids of requests for sellers (extension `payment-identifier`): the same in all payments of a request."""

    def __init__(self) -> None:
        self._by_row: OrderedDict[int, str] = OrderedDict()

    def get(self, row: int) -> str:
        """The id of the request that the ledger's `row` paid; empty: it is not known any more."""
        return self._by_row.get(row, "")

    def new(self, row: int, replaces: int | None, nonce: bytes) -> str:
        """The id of the request that `row` pays: that of the earlier payment `replaces`, else one made from `nonce`."""
        known = self._by_row.get(replaces) if replaces is not None else None
        identifier = known or IDENTIFIER + hashlib.sha256(b"payment-identifier" + nonce).hexdigest()[:32]
        self._by_row[row] = identifier
        while len(self._by_row) > MAX_IDENTIFIERS:
            self._by_row.popitem(last=False)
        return identifier
