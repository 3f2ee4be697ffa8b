"""Payments by Circle Gateway: the vector, the pinned domain, and that they are made only where they were chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from mitmproxy_x402.errors import ChallengeError, Refused
from mitmproxy_x402.payment.offered import rules_of
from mitmproxy_x402.payment.policy import choose
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequired, PaymentRequirements
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.schemes import gateway
from mitmproxy_x402.settings.settings import read_settings

KEY = "0x" + "11" * 32
PAYER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
BASE = BUILT_IN.get("base")
assert BASE is not None
EXTRA = {
    "name": "GatewayWalletBatched",
    "version": "1",
    "verifyingContract": "0x77777777Dcc4d5A8B6E418Fd04D8997ef11000eE",
}
ENTRY = PaymentRequirements(
    "exact", "eip155:8453", AtomicUnits(1000), BASE.assets[0].address, PAY_TO, 604_900, EXTRA, {}
)
PLAIN = replace(ENTRY, extra={"name": "USD Coin", "version": "2"}, max_timeout_seconds=300)


def sign(digest: bytes) -> bytes:
    return bytes(Account.unsafe_sign_hash(digest, KEY).signature)


def pay(entry: PaymentRequirements, network: Any = BASE) -> dict[str, Any]:
    what = entry, network, network.assets[0]
    return gateway.authorize(*what, payer=PAYER, now=1_790_000_000, nonce=b"\x33" * 32, sign=sign)


def test_vector() -> None:
    payload = pay(ENTRY)
    assert payload["signature"] == (
        "0x2265251fb73e1e3ab0092d773af5734fcbafa23a91ddfd83a9d93b3c5958d4485b65d64b4b39768b5332972dc3d6970f673a7d8bcf76"
        "f992e424ec2c4d5578f71b"
    )
    authorization = payload["authorization"]
    assert (authorization["validAfter"], authorization["validBefore"]) == ("1789999400", "1790604900")
    assert pay(replace(ENTRY, max_timeout_seconds=345_600)) == payload, "older sellers ask for less than Circle takes"


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": {**EXTRA, "verifyingContract": "0x0077777d7EBA4688BDeF3E311b846F25870A19B9"}},
        {"extra": {**EXTRA, "version": "2"}},
        {"extra": {"name": "GatewayWalletBatched"}},
        {"pay_to": PAYER},
        {"pay_to": EXTRA["verifyingContract"]},
        {"max_timeout_seconds": 10**8},
    ],
)
def test_nothing_of_the_challenge_enters_the_domain(changes: dict[str, Any]) -> None:
    with pytest.raises(ChallengeError):
        pay(replace(ENTRY, **changes))


def test_the_networks_are_those_of_the_table() -> None:
    for chain_id, usdc in gateway.USDC.items():
        network = BUILT_IN.known(f"eip155:{chain_id}")
        assert network is not None
        assert network.asset(usdc) is not None


def test_one_that_would_live_too_long_is_no_offer_and_the_other_is_paid() -> None:
    rules = rules_of(read_settings({"x402_gateway": "true"}, {}, cwd=Path("/"), home=Path("/nonexistent")))
    long = replace(ENTRY, max_timeout_seconds=gateway.SECONDS + 1, amount=AtomicUnits(1))
    assert choose(PaymentRequired(2, (long, PLAIN)), rules, {"evm": PAYER}).method == "exact"
    with pytest.raises(Refused, match="lives for 604901 seconds; Circle Gateway needs 604900"):
        choose(PaymentRequired(2, (long,)), rules, {"evm": PAYER})


@pytest.mark.parametrize(("options", "paid"), [({}, "exact"), ({"x402_gateway": "true"}, "gateway")])
def test_it_is_paid_only_where_it_was_chosen(options: dict[str, str], paid: str) -> None:
    rules = rules_of(read_settings(options, {}, cwd=Path("/"), home=Path("/nonexistent")))
    dearer = replace(PLAIN, amount=AtomicUnits(1001))
    assert choose(PaymentRequired(2, (dearer, ENTRY)), rules, {"evm": PAYER}).method == paid
    assert choose(PaymentRequired(2, (ENTRY, PLAIN)), rules, {"evm": PAYER}).method == "exact", "at the same price"
    if not options:
        with pytest.raises(Refused, match="set the option x402_gateway to true"):
            choose(PaymentRequired(2, (ENTRY,)), rules, {"evm": PAYER})
