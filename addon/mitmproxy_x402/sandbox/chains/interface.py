"""The interface of a simulated network: its part of an offer, the check of a payment, the movement of money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...errors import X402Error
from ...protocol.networks import Asset, Network

INVALID = "PAYMENT_INVALID"
UNFUNDED = "PAYMENT_UNFUNDED"
REPLAY = "PAYMENT_REPLAY"
BLOCKHASH_STALE = "PAYMENT_BLOCKHASH_STALE"
UNDERPAID = "PAYMENT_UNDERPAID"
SETTLEMENT_FAILED = "SETTLEMENT_FAILED"


class Rejected(X402Error):
    """The payment is not accepted. `reason` is one of the gateway's codes, such as PAYMENT_UNDERPAID."""

    code = "payment_rejected"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Verified:
    """A payment that would settle now."""

    payer: str
    reference: str
    """EVM: the nonce. Solana: the signature that the transaction will have."""
    settlement: Any
    """What the chain wants back in `settle`."""


class Chain(Protocol):
    """One network with its one asset and its play money."""

    @property
    def network(self) -> Network:
        """The row of the table."""

    @property
    def asset(self) -> Asset:
        """The network's first asset."""

    @property
    def pay_to(self) -> str:
        """Where payments go: an address that nobody has a key of."""

    def extra(self) -> dict[str, Any]:
        """The chain's part of an entry's `extra`."""

    def verify(
        self, entry: Mapping[str, Any], amount: int, payload: Mapping[str, Any], extensions: Any = None
    ) -> Verified:
        """The payment of `amount` for `entry`, or with that as its ceiling, in `payload`. Raises Rejected."""

    def settle(self, verified: Verified, at: float | None = None, charge: int | None = None) -> str:
        """Move the money, at that moment (None: now); returns the transaction's id. Raises Rejected.

        `charge`: of a ceiling; nothing happens on the chain where it is 0.
        """

    def fund(self, address: str, amount: int) -> None:
        """Give `address` a balance of exactly `amount` atomic units."""

    def balance(self, address: str) -> int:
        """Atomic units that `address` has."""
