"""The four messages of x402: PaymentRequired, PaymentRequirements, PaymentPayload, SettlementResponse.

A message that came from the wire keeps the object it was read from (`raw`), because the protocol demands that the
chosen requirement and the extensions travel back verbatim (x402 v2, section 5.2): typed fields are for reading, `raw`
is for echoing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from ..quick_init import quick_init

Caip2 = NewType("Caip2", str)
"""A network as CAIP-2 names it: `eip155:8453`, `solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp`."""

AtomicUnits = NewType("AtomicUnits", int)
"""An amount in the smallest unit of its asset; USDC has six decimals, so 1 USDC is 1_000_000."""

X402Version = Literal[1, 2]
Json = Mapping[str, Any]
"""A JSON object as the standard library parses it. Never changed in place."""


@quick_init
@dataclass(frozen=True)
class PaymentRequirements:
    """One entry of `accepts`: one way in which the gateway lets itself be paid.

    `network` is what the gateway wrote: a CAIP-2 name in version 2, a short name such as `base` in version 1.
    """

    scheme: str
    network: str
    amount: AtomicUnits
    asset: str
    pay_to: str
    max_timeout_seconds: int
    """0: the gateway names none."""
    extra: Json
    raw: Json = field(repr=False)


@quick_init
@dataclass(frozen=True)
class PaymentRequired:
    """A challenge. Entries of `accepts` that cannot be read are left out of it and described in `unreadable`."""

    x402_version: X402Version
    accepts: tuple[PaymentRequirements, ...]
    resource: Any = None
    extensions: Any = None
    error: str | None = None
    unreadable: tuple[str, ...] = ()
    in_body: bool = False
    """Whether it came in the body of the 402 and in no header: then servers may read either payment header."""


@dataclass(frozen=True)
class PaymentPayload:
    """A signed payment. `payload` is the scheme's own part; it can move money, so it stays out of every repr."""

    x402_version: X402Version
    accepted: PaymentRequirements
    payload: Json = field(repr=False)
    resource: Any = None
    extensions: Any = None


@quick_init
@dataclass(frozen=True)
class SettlementResponse:
    """What the gateway says became of a payment. `success` alone proves nothing; a `transaction` id does."""

    success: bool
    transaction: str
    network: str
    payer: str
    error_reason: str = ""
    amount: AtomicUnits | None = None
    """What was charged, where the gateway says so: with `upto` it may be less than what was signed."""
    extra: Json = field(default_factory=dict)
    transfer: str = ""
    """The UUID by which Circle Gateway names a settlement that reaches the chain later, in a batch."""
