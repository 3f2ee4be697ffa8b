"""Turns an offer into a signed payload, and says which payment method an entry of a challenge wants.

exact      EIP-3009 (`exact_evm`) or a partially signed Solana transaction (`exact_svm`): the amount is the price
permit2    scheme `exact` over Permit2 (`permit2`): the amount is the price
upto       a ceiling over Permit2 (`permit2`), of which the seller charges a part
gateway    scheme `exact` by Circle Gateway (`gateway`): the price, taken from a balance deposited with Circle

Uses `protocol`; a wallet comes in as a function that signs.
"""

from __future__ import annotations

from typing import Literal

from ..protocol.messages import PaymentRequirements
from ..protocol.networks import Family

Method = Literal["exact", "permit2", "upto", "gateway"]
GATEWAY_DOMAIN = "GatewayWalletBatched"
"""`extra.name` of an entry that Circle Gateway settles; its scheme is `exact`, too."""
GATEWAY_WALLETS = {
    True: "0x77777777Dcc4d5A8B6E418Fd04D8997ef11000eE",
    False: "0x0077777d7EBA4688BDeF3E311b846F25870A19B9",
}
"""Circle's contract GatewayWallet on mainnets, and on testnets (npm @circle-fin/x402-batching 3.3.0)."""
GATEWAY_MINTERS = ("0x2222222d7164433c4C09B0b0D809a9b52C04C205", "0x0022222ABE238Cc2C7Bb1f21003F0a260052475B")
"""Circle's contract GatewayMinter, the same (Circle's documentation of Gateway)."""

_EIP3009 = ("default", "eip3009")


def method_of(requirement: PaymentRequirements, family: Family) -> Method | None:
    """The method for paying `requirement` on a chain of `family`; None: it is not supported."""
    transfer = requirement.extra.get("assetTransferMethod")
    if requirement.scheme == "upto":
        return "upto" if family == "evm" and transfer in (None, "permit2") else None
    if requirement.scheme != "exact":
        return None
    if family == "svm":
        return "exact" if transfer is None or transfer == "default" else None
    if requirement.extra.get("name") == GATEWAY_DOMAIN:
        return "gateway" if transfer is None or transfer in _EIP3009 else None
    if transfer == "permit2":
        return "permit2"
    return "exact" if transfer is None or transfer in _EIP3009 else None
