"""The permit that goes with a payment where the allowance does not cover it: one at a time, and for whom."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mitmproxy_x402.errors import Refused
from mitmproxy_x402.ledger.interface import Outcome
from mitmproxy_x402.protocol.payment_required import read_payment_required
from support.paying.ceilings import BOTH, CEILING, EXACT, challenge, entry, message


def test_without_an_allowance_the_seller_s_sponsoring_is_used_once_at_a_time(
    shops: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shop, rpc = shops()
    required = challenge(*BOTH, sponsored=True)
    first = shop.pay(required)
    info = message(first)["extensions"]["eip2612GasSponsoring"]["info"]
    assert (info["amount"], info["nonce"], info["description"]) == (str(CEILING), "7", "x")
    caplog.set_level("INFO")
    assert shop.pay(required).offer.method == "exact", "one permit under way"
    assert "0.002 USDC on base is paid, since another way was not open" in caplog.text
    assert "earlier payments over Permit2 may still take 0.017686 USDC" in caplog.text
    shop.settle(first, 686)
    rpc.allowance, rpc.nonce = 17_000, 8
    third = shop.pay(required)
    assert message(third)["extensions"]["eip2612GasSponsoring"]["info"]["nonce"] == "8"
    shop.payer.release(third.row)
    small = shop.pay(challenge(entry(amount=17_000)))
    assert small.offer.method == "upto", "what the permit left serves without another"


def test_a_permit_under_way_is_named_and_one_that_the_chain_has_used_is_not_in_the_way(shops: Any) -> None:
    """A streamed answer does not say that its payment is settled; the token's nonce says that its permit is used."""
    shop, rpc = shops()
    required = challenge(entry(), sponsored=True)
    for number in range(3):
        shop.send(shop.pay(required))
        with pytest.raises(Refused, match=r"only one can be under way .* at the latest at \d\d:\d\d:\d\d") as caught:
            shop.pay(required)
        assert caught.value.reason == "permit_under_way"
        rpc.allowance, rpc.nonce = CEILING - 686, 8 + number
    plain = shop.pay(challenge(entry("exact", 1000, assetTransferMethod="permit2"), sponsored=True))
    assert "amount" in message(plain)["extensions"]["eip2612GasSponsoring"]["info"]


def test_used_permits_of_streams_are_never_too_many(shops: Any) -> None:
    """Their answers say nothing of a settlement, so the ceilings stay pending; each had a permit of its own."""
    shop, rpc = shops(balance=10**9)
    for number in range(30):
        shop.send(shop.pay(challenge(entry(amount=10_000 + 7 * number), sponsored=True)))
        rpc.nonce += 1


def test_an_unused_permit_is_in_the_way_of_all_others(shops: Any) -> None:
    """Also where as much is pending as other permits, which are used, were for."""
    shop, rpc = shops()
    required = challenge(entry(), sponsored=True)
    streamed = shop.pay(required)
    shop.send(streamed)
    rpc.nonce = 8
    shop.settle(shop.pay(required), CEILING)
    rpc.nonce = 9
    shop.send(shop.pay(required))
    with pytest.raises(Refused) as caught:
        shop.pay(required)
    assert caught.value.reason == "permit_under_way"


def test_used_permits_do_not_hide_a_payment_that_counts_on_the_allowance(shops: Any) -> None:
    shop, rpc = shops()
    first = shop.pay(challenge(entry(amount=900), sponsored=True))
    shop.send(first)
    rpc.nonce = 8
    shop.settle(shop.pay(challenge(entry(), sponsored=True)), 1)
    rpc.allowance, rpc.nonce = CEILING - 1, 9
    plain = shop.pay(challenge(entry(amount=900), sponsored=True))
    assert "amount" not in message(plain)["extensions"]["eip2612GasSponsoring"]["info"]
    shop.ledger.finish(first.row, Outcome("settled", transaction="0x" + "ab" * 32, charged_micro_usd=900))
    with pytest.raises(Refused) as caught:
        shop.pay(challenge(entry(), sponsored=True))
    assert caught.value.reason == "permit_under_way"


@pytest.mark.parametrize("allowance", [0, CEILING])
def test_version_1_carries_no_permit(shops: Any, allowance: int) -> None:
    """So Permit2 is paid only from an allowance that stands, and nothing is signed that cannot be settled."""
    shop, _ = shops(allowance=allowance)
    over_permit2, exact = (
        {**one, "network": "base", "maxAmountRequired": one.pop("amount"), "resource": "http://127.0.0.1/x"}
        for one in (entry(), entry("exact", EXACT))
    )
    extensions = {"eip2612GasSponsoring": {"info": {"description": "x", "version": "1"}, "schema": {}}}
    said = {"x402Version": 1, "error": "", "accepts": [over_permit2, exact], "extensions": extensions}
    required = read_payment_required(None, json.dumps(said).encode())
    assert required is not None
    assert shop.pay(required).offer.method == ("upto" if allowance else "exact")
    if not allowance:
        with pytest.raises(Refused) as caught:
            shop.pay(replace(required, accepts=required.accepts[:1]))
        assert caught.value.reason == "permit2_allowance_missing"
        assert shop.pay(challenge(entry(), sponsored=True)).offer.method == "upto", "no permit is under way"


def test_no_permit_is_signed_beside_a_payment_that_counts_on_the_allowance(shops: Any) -> None:
    """It would set the allowance to its own amount, and leave the earlier payment with nothing."""
    shop, _ = shops(allowance=CEILING)
    plain = shop.pay(challenge(*BOTH, sponsored=True))
    assert plain.offer.method == "upto"
    assert shop.pay(challenge(*BOTH, sponsored=True)).offer.method == "exact"
    with pytest.raises(Refused, match="wallet allow"):
        shop.pay(challenge(entry(), sponsored=True))
    shop.payer.release(plain.row)
    assert shop.pay(challenge(entry(amount=CEILING + 1), sponsored=True)).offer.method == "upto"


@pytest.mark.parametrize("wanted", ["from", "asset", "spender", "amount", "nonce", "deadline", "signature"])
def test_a_seller_that_fills_in_the_permit_itself_gets_none(shops: Any, wanted: str) -> None:
    shop, _ = shops()
    info = {"description": "x", "version": "1", wanted: "0x" + "66" * 20}
    said = {"x402Version": 2, "accepts": [entry()], "extensions": {"eip2612GasSponsoring": {"info": info}}}
    required = read_payment_required(None, json.dumps(said).encode())
    assert required is not None
    with pytest.raises(Refused, match="wallet allow"):
        shop.pay(required)
    assert shop.spent() == 0
