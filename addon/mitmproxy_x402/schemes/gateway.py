"""Scheme `exact` by Circle Gateway: an EIP-3009 message for Circle's own contract, settled later in a batch.

It pays from a balance that lies in that contract. The signing domain is fixed here: over USDC's own domain, the same
message would be a real transfer of USDC that anyone could submit for a week.
"""

from __future__ import annotations

from typing import Any

from ..errors import ChallengeError
from ..protocol.messages import PaymentRequirements
from ..protocol.networks import Asset, Network
from ..protocol.strict_json import shown
from . import GATEWAY_DOMAIN, GATEWAY_WALLETS, exact_evm
from .exact_evm import Sign, check_recipient

VERSION = "1"
USDC = {
    1: "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48",
    10: "0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85",
    130: "0x078D782b760474a361dDA0AF3839290b0EF57AD6",
    137: "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359",
    999: "0xb88339CB7199b77E23DB6E890353E22632Ba630f",
    1329: "0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392",
    5042: "0x3600000000000000000000000000000000000000",
    8453: "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    42161: "0xaf88d065e77c8cC2239327C5EDb3A432268e5831",
    43113: "0x5425890298aed601595a70AB815c96711a31Bc65",
    43114: "0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E",
    80002: "0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582",
    84532: "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    421614: "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d",
    5042002: "0x3600000000000000000000000000000000000000",
}
"""The token of the contract's balances, by chain id (npm @circle-fin/x402-batching 3.3.0)."""
TESTNETS = frozenset({43113, 80002, 84532, 421614, 5042002})
SECONDS = 604_900
"""Seconds of validity: Circle requires seven days when it receives the payment, and the way there takes a while."""


def contract(network: Network) -> str:
    """The address of Circle's contract GatewayWallet on `network`."""
    return GATEWAY_WALLETS[network.chain_id not in TESTNETS]


def check(requirement: PaymentRequirements, network: Network, asset: Asset, *, payer: str | None) -> None:
    """Check that `authorize` can sign `requirement`; `payer` is None if no wallet is known yet.

    Raises ChallengeError, which says what rule it breaks.
    """
    check_recipient(requirement.pay_to, payer, network)
    if USDC.get(network.chain_id, "").lower() != asset.address.lower():
        raise ChallengeError(
            f"The challenge wants {asset.symbol} on {network.name} by Circle Gateway, which does not hold that."
            " Nothing was signed."
        )
    ours = {"name": GATEWAY_DOMAIN, "version": VERSION, "verifyingContract": contract(network)}
    for key, value in ours.items():
        theirs = requirement.extra.get(key)
        if not isinstance(theirs, str) or theirs.lower() != value.lower():
            raise ChallengeError(
                f"The challenge names the signing domain {key} {shown(theirs)} for Circle Gateway on {network.name};"
                f" {shown(value)} is Circle's own. Nothing was signed."
            )
    if requirement.max_timeout_seconds > SECONDS:
        raise ChallengeError(
            f"The challenge wants a signature that lives for {requirement.max_timeout_seconds} seconds; Circle Gateway"
            f" needs {SECONDS}, and none that lives longer is made. Nothing was signed."
        )


def authorize(
    requirement: PaymentRequirements, network: Network, asset: Asset, *, payer: str, now: int, nonce: bytes, sign: Sign
) -> dict[str, Any]:
    """The payload that pays `requirement` from `payer`'s balance with Circle.

    `now` is in Unix seconds, `nonce` is 32 random bytes. Raises ChallengeError.
    """
    check(requirement, network, asset, payer=payer)
    domain = exact_evm.domain_hash(GATEWAY_DOMAIN, VERSION, network.chain_id, contract(network))
    return exact_evm.transfer(requirement, domain, payer=payer, now=now, validity=SECONDS, nonce=nonce, sign=sign)
