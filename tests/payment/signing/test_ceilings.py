"""Payments over Permit2: when they are made, and that promises never exceed what is there."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.errors import EvmRpcError, Refused
from mitmproxy_x402.ledger.interface import Charge, Outcome
from mitmproxy_x402.payment.reasons.rejections import NOT_VERIFIED
from mitmproxy_x402.payment.signing.ceilings import EXACT_SECONDS, MOST_TIMES, PROBES, Ceilings, expected_charge
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.evm.permit2_contracts import PERMIT2, SETTLERS
from support.paying.ceilings import BOTH, CEILING, EXACT, FACILITATOR, PURPOSE, USDC, Shop, challenge, entry, message
from support.proxy import EVM_ADDRESS


def test_a_ceiling_within_the_allowance_is_signed_and_reserved_whole(shops: Any) -> None:
    shop, rpc = shops(allowance=CEILING)
    payment = shop.pay(challenge(*BOTH, sponsored=True))
    assert payment.offer.method == "upto"
    said = message(payment)
    assert said["payload"]["permit2Authorization"]["permitted"]["amount"] == str(CEILING)
    assert "amount" not in said["extensions"]["eip2612GasSponsoring"]["info"], "a permit would cut the allowance"
    assert shop.spent() == CEILING
    assert rpc.asked == ["eth_chainId", "eth_call", "eth_call", "eth_call"]
    assert len(rpc.requests) == 1, "one request"


@pytest.mark.parametrize("nonce", [None, 7])
def test_without_allowance_and_sponsoring_the_exact_price_is_paid(shops: Any, nonce: int | None) -> None:
    shop, _ = shops(nonce=nonce)
    assert shop.pay(challenge(*BOTH, sponsored=nonce is None)).offer.method == "exact"
    with pytest.raises(Refused, match="wallet allow") as caught:
        shop.pay(challenge(entry()))
    assert caught.value.reason == "permit2_allowance_missing"
    assert shop.spent() == EXACT


def test_ceilings_under_way_never_exceed_the_balance(shops: Any) -> None:
    shop, _ = shops(balance=3 * CEILING + 100, allowance=100 * CEILING)
    paid = [shop.pay(challenge(entry())) for _ in range(3)]
    with pytest.raises(Refused) as caught:
        shop.pay(challenge(entry()))
    assert caught.value.reason == "balance_too_low"
    assert "and earlier payments may still take 0.053058" in str(caught.value)
    shop.payer.release(paid[0].row)
    assert shop.pay(challenge(entry())).offer.method == "upto"


def test_ten_at_once_with_a_balance_for_three(shops: Any) -> None:
    shop, _ = shops(balance=3 * CEILING + 7 * EXACT, allowance=100 * CEILING)

    async def all_of_them() -> list[Payment]:
        return await asyncio.gather(*(shop.payer.pay(challenge(*BOTH), PURPOSE) for _ in range(10)))

    methods = [payment.offer.method for payment in asyncio.run(all_of_them())]
    assert 1 <= methods.count("upto") <= 3
    assert methods.count("exact") == 10 - methods.count("upto")


def test_what_is_settled_while_the_chain_is_asked_counts_until_it_is_asked_again(
    shops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, rpc = shops(balance=CEILING + 100, allowance=100 * CEILING)
    first = shop.pay(challenge(entry()))
    shop.send(first)
    rpc.before_answer = lambda: rpc.asked.append("now")
    look = Ceilings.look

    async def settles_meanwhile(*given: Any) -> Any:
        seen = await look(*given)
        shop.ledger.finish(first.row, Outcome("settled", transaction="0x" + "ab" * 32, charged_micro_usd=CEILING))
        return seen

    monkeypatch.setattr(Ceilings, "look", settles_meanwhile)
    with pytest.raises(Refused, match="earlier payments may still take"):
        shop.pay(challenge(entry()))


def test_without_an_rpc_no_ceiling_is_signed(tmp_path: Path) -> None:
    shop = Shop(tmp_path, None, rpc_timeout="0.5")
    assert shop.pay(challenge(*BOTH)).offer.method == "exact"
    with pytest.raises(EvmRpcError, match="not known"):
        shop.pay(challenge(entry()))
    shop.ledger.close()


@pytest.mark.parametrize("options", [{"max_request": "0.01"}, {"budget": "0.01/day"}])
def test_a_ceiling_beyond_the_limits_gives_way_to_the_exact_price(shops: Any, options: dict[str, str]) -> None:
    shop, _ = shops(allowance=CEILING, **options)
    assert shop.pay(challenge(*BOTH)).offer.method == "exact"
    with pytest.raises(Refused, match=r"asks at most 0\.017686"):
        shop.pay(challenge(entry()))


def test_exact_over_permit2(shops: Any) -> None:
    shop, _ = shops(allowance=EXACT)
    payment = shop.pay(challenge(entry("exact", EXACT, assetTransferMethod="permit2")))
    assert payment.offer.method == "permit2"
    assert str(payment.offer) == "0.002 USDC on base"


@pytest.mark.parametrize("schemes", ["upto", "auto"])
def test_of_several_ceilings_the_lowest_is_signed(shops: Any, schemes: str) -> None:
    shop, rpc = shops(allowance=10**9, schemes=schemes)
    for amounts in ((9_000, 8_000), (8_000, 9_000)):
        ceilings = [entry(amount=amount) for amount in amounts]
        for accepts in ((*ceilings, BOTH[1]), (BOTH[1], *ceilings), tuple(ceilings)):
            payment = shop.pay(challenge(*accepts))
            assert (payment.offer.method, payment.offer.micro_usd) == ("upto", 8_000)
    assert rpc.asked


def test_after_a_refusal_the_network_is_paid_exactly_for_ten_minutes(shops: Any) -> None:
    shop, _ = shops(allowance=CEILING)
    payment = shop.pay(challenge(*BOTH))
    shop.payer.declined(payment.offer)
    shop.payer.release(payment.row)
    assert shop.pay(challenge(*BOTH)).offer.method == "exact"
    shop.now += EXACT_SECONDS
    assert shop.pay(challenge(*BOTH)).offer.method == "upto"


def test_new_terms_for_one_request_are_signed_over_the_same_nonce(shops: Any) -> None:
    shop, _ = shops(allowance=10 * CEILING)
    first = shop.pay(challenge(entry()))
    shop.send(first)
    second = shop.pay(challenge(entry(amount=CEILING + 1)), replaces=first.row, instead_of=first)
    nonces = [message(each)["payload"]["permit2Authorization"]["nonce"] for each in (first, second)]
    assert nonces[0] == nonces[1]
    assert shop.spent() == 2 * CEILING + 1, "both count until one of them is dead"


def test_a_charge_of_nothing_frees_nothing_before_the_signature_is_dead(shops: Any) -> None:
    shop, _ = shops(balance=CEILING, allowance=CEILING)
    payment = shop.pay(challenge(entry()))
    shop.send(payment)
    shop.ledger.finish(payment.row, Outcome("rejected", charged_micro_usd=0))
    assert shop.spent() == CEILING
    with pytest.raises(Refused, match="earlier payments"):
        shop.pay(challenge(entry()))


def test_auto_learns_from_what_was_charged(shops: Any) -> None:
    shop, _ = shops(allowance=100 * CEILING, schemes="auto")
    for _ in range(PROBES):
        payment = shop.pay(challenge(*BOTH))
        assert payment.offer.method == "upto"
        assert payment.offer.exact == EXACT
        shop.settle(payment, CEILING // 2)
    assert shop.pay(challenge(*BOTH)).offer.method == "exact"
    other = replace(PURPOSE, model="other")
    assert asyncio.run(shop.payer.pay(challenge(*BOTH), other)).offer.method == "upto", "of each model by itself"


def test_auto_stays_with_ceilings_that_come_to_little(shops: Any) -> None:
    shop, _ = shops(allowance=100 * CEILING, schemes="auto")
    for _ in range(PROBES + 2):
        payment = shop.pay(challenge(*BOTH))
        assert payment.offer.method == "upto"
        shop.settle(payment, 500)


def test_auto_is_not_lured_into_a_ceiling_of_many_times_the_price(shops: Any) -> None:
    """By charges of next to nothing, after which a seller could take all of it."""
    shop, _ = shops(allowance=10**9, schemes="auto")
    lure, prize = entry(amount=MOST_TIMES * EXACT), entry(amount=MOST_TIMES * EXACT + 1)
    for _ in range(PROBES + 2):
        payment = shop.pay(challenge(lure, BOTH[1]))
        assert payment.offer.method == "upto"
        shop.settle(payment, 1)
        assert shop.pay(challenge(prize, BOTH[1])).offer.method == "exact"
    payment = shop.pay(challenge(lure, BOTH[1]))
    shop.settle(payment, MOST_TIMES * EXACT)
    assert shop.pay(challenge(lure, BOTH[1])).offer.method == "exact", "it has shown what it takes"


LIES = {
    "a spender of its own": {"extra": {"spender": "0x" + "66" * 20, "permit2Address": "0x" + "66" * 20}},
    "another contract to settle": {"extra": {"verifyingContract": "0x" + "66" * 20, "proxy": "0x" + "66" * 20}},
    "decimals": {"extra": {"decimals": 18}},
    "a year": {"maxTimeoutSeconds": 31_536_000},
    "a chain id": {"extra": {"chainId": 1}},
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_seller_says_beside_the_terms_changes_nothing_that_is_signed(shops: Any, lie: str) -> None:
    shop, _ = shops()
    said = entry()
    changes: dict[str, Any] = LIES[lie]
    said |= changes | {"extra": said["extra"] | changes.get("extra", {})}
    payment = shop.pay(challenge(said, sponsored=True))
    sent = message(payment)
    signed, info = sent["payload"]["permit2Authorization"], sent["extensions"]["eip2612GasSponsoring"]["info"]
    assert (signed["spender"], signed["permitted"]) == (SETTLERS["upto"], {"token": USDC, "amount": str(CEILING)})
    assert (info["spender"], info["amount"], info["asset"]) == (PERMIT2, str(CEILING), USDC)
    assert int(signed["deadline"]) <= shop.now + 600
    assert info["deadline"] == signed["deadline"]
    assert payment.offer.micro_usd == CEILING
    domain = {"name": "Permit2", "chainId": 8453, "verifyingContract": PERMIT2}
    permitted, witness = ([{"name": name, "type": kind} for name, kind in of] for of in (_PERMITTED, _WITNESS))
    types = {
        "PermitWitnessTransferFrom": [
            *({"name": name, "type": kind} for name, kind in _TRANSFER),
        ],
        "TokenPermissions": permitted,
        "Witness": witness,
    }
    typed = encode_typed_data(domain, types, {key: value for key, value in signed.items() if key != "from"})
    assert Account.recover_message(typed, signature=sent["payload"]["signature"]) == payment.payer


_PERMITTED = (("token", "address"), ("amount", "uint256"))
_WITNESS = (("to", "address"), ("facilitator", "address"), ("validAfter", "uint256"))
_TRANSFER = (
    *(("permitted", "TokenPermissions"), ("spender", "address"), ("nonce", "uint256"), ("deadline", "uint256")),
    ("witness", "Witness"),
)


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": {"name": "USD Coin", "version": "3"}},
        {"extra": {"name": "Permit2", "version": "2"}},
        {"extra": {"facilitatorAddress": None}},
        {"extra": {"facilitatorAddress": "0x" + "00" * 20}},
        {"extra": {"facilitatorAddress": FACILITATOR[:-1]}},
        {"extra": {"facilitatorAddress": EVM_ADDRESS}},
        {"extra": {"facilitatorAddress": USDC}},
        {"extra": {"facilitatorAddress": PERMIT2}},
        {"payTo": USDC},
        {"payTo": "0x" + "00" * 20},
        {"amount": "0"},
        {"maxTimeoutSeconds": 5},
    ],
    ids=str,
)
def test_a_ceiling_with_terms_of_its_own_is_no_offer(shops: Any, changes: dict[str, Any]) -> None:
    shop, _ = shops(allowance=10**9)
    bad = entry() | changes
    bad["extra"] = entry()["extra"] | changes.get("extra", {})
    assert shop.pay(challenge(bad, BOTH[1])).offer.method == "exact"
    with pytest.raises(Refused) as caught:
        shop.pay(challenge(bad))
    assert caught.value.reason == "challenge_invalid"
    assert shop.spent() == EXACT


def test_a_token_with_the_symbol_of_another_is_not_known(shops: Any) -> None:
    shop, _ = shops(allowance=10**9)
    fake = entry() | {"asset": "0x" + "66" * 20, "extra": {**entry()["extra"], "symbol": "USDC", "decimals": 0}}
    with pytest.raises(Refused, match='symbol = "UNKNOWN"') as caught:
        shop.pay(challenge(fake, sponsored=True))
    assert caught.value.reason == "asset_not_allowed"
    assert shop.spent() == 0


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 100)), min_size=PROBES, max_size=40),
    st.integers(1, 10**9),
)
def test_what_is_expected_lies_within_what_was_seen(seen: list[tuple[int, int]], ceiling: int) -> None:
    charges = [Charge(each, each * share // 100) for each, share in seen]
    expected = expected_charge(ceiling, charges)
    assert expected is not None
    shares = [charge.charged / charge.ceiling for charge in charges]
    assert min(shares) * ceiling <= expected <= max(shares) * ceiling + 1


def test_little_is_no_knowledge() -> None:
    assert expected_charge(100, [Charge(100, 1)] * (PROBES - 1)) is None
    assert expected_charge(100, [Charge(100, 1)] * PROBES) == 2
    assert expected_charge(100, [Charge(100, 90)] * 4 + [Charge(100, 1)] * 28) > 50, "the newest say most"  # type: ignore[operator]


def test_the_reasons_after_which_another_way_is_paid_say_nothing_of_a_nonce() -> None:
    assert not [reason for reason in NOT_VERIFIED if "nonce" in reason or "settle" in reason or "replay" in reason]
