"""Compares a gateway's receipt with the payment that it is for, and describes contradictions."""

from __future__ import annotations

from collections.abc import Iterator

from ...protocol.amounts import format_usd
from ...protocol.messages import SettlementResponse
from ...protocol.networks import BUILT_IN
from ...protocol.strict_json import shown
from ..offer import Offer

HASH_DIGITS = 64
"""Hex digits of an EVM transaction hash; a Solana signature is longer."""


def contradictions(receipt: SettlementResponse, offer: Offer, payer: str) -> list[str]:
    """List the claims of a `receipt` of success that contradict the payment of `offer` by the address `payer`.

    Money moves only as it was signed, whatever a receipt says, so these do not change what is counted.
    """
    return list(_contradictions(receipt, offer, payer)) if receipt.success else []


def _contradictions(receipt: SettlementResponse, offer: Offer, payer: str) -> Iterator[str]:
    network = offer.network
    if receipt.amount is not None:
        charged, signed = receipt.amount, offer.requirement.amount
        if charged > signed if offer.is_ceiling else charged != signed:
            sum_ = f"{format_usd(offer.asset.micro_usd(charged))} {offer.asset.symbol}"
            yield f"it says that {sum_} were charged, and {offer} was signed"
    if receipt.network and receipt.network not in (network.caip2, network.name):
        known = BUILT_IN.known(receipt.network)
        if ":" in receipt.network or (known is not None and known.caip2 != network.caip2):
            yield f"it names the network {shown(receipt.network)}, and the payment is for {network.name}"
    fold = str.lower if network.family == "evm" else str
    if receipt.payer and fold(receipt.payer) != fold(payer):
        yield f"it names the payer {shown(receipt.payer, 100)}, and {payer} has signed"
    is_hash = len(receipt.transaction.removeprefix("0x")) == HASH_DIGITS
    if receipt.transaction and is_hash != (network.family == "evm"):
        yield f"its transaction {shown(receipt.transaction, 100)} cannot be one on {network.name}"
