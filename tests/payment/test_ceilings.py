"""Payments over Permit2: when they are made, what goes with them, and that promises never exceed what is there."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
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
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.payer import Payer, Payment
from mitmproxy_x402.payment.policy import Purpose
from mitmproxy_x402.payment.purchase import NOT_VERIFIED
from mitmproxy_x402.payment.signing.ceilings import EXACT_SECONDS, MOST_TIMES, PROBES, Ceilings, expected_charge
from mitmproxy_x402.protocol.evm.permit2_contracts import PERMIT2, SETTLERS
from mitmproxy_x402.protocol.messages import PaymentRequired
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support.proxy import EVM_KEY
from support.token_rpc import TokenRpc
from support.wire import free_port

USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
FACILITATOR = "0x14fDa13953Fc30428938E6BF950d036e77214e52"
CEILING, EXACT = 17_686, 2_000
PURPOSE = Purpose("POST", "127.0.0.1", "/v1/chat/completions", "test-1")


def entry(scheme: str = "upto", amount: int = CEILING, **extra: Any) -> dict[str, Any]:
    facilitator = {"facilitatorAddress": FACILITATOR} if scheme == "upto" else {}
    return {
        **{"scheme": scheme, "network": "eip155:8453", "amount": str(amount), "asset": USDC, "payTo": PAY_TO},
        **{"maxTimeoutSeconds": 300, "extra": {"name": "USD Coin", "version": "2", **facilitator, **extra}},
    }


def challenge(*entries: dict[str, Any], sponsored: bool = False) -> PaymentRequired:
    extensions = {"eip2612GasSponsoring": {"info": {"description": "x", "version": "1"}, "schema": {}}}
    said = {"x402Version": 2, "accepts": list(entries), "extensions": extensions if sponsored else {}}
    required = read_payment_required(None, json.dumps(said).encode())
    assert required is not None
    return required


BOTH = (entry(), entry("exact", EXACT))


class Shop:
    """A payer with one wallet, its ledger and an RPC that says what it holds."""

    def __init__(self, home: Path, rpc: TokenRpc | None, **options: str) -> None:
        self.now = 1_800_000_000.0
        url = f"http://127.0.0.1:{free_port()}" if rpc is None else rpc.url
        given = {"x402_evm_rpc": f"base={url}", "x402_schemes": "upto", "x402_rpc_timeout": "5"}
        given |= {f"x402_{key}": value for key, value in options.items()}
        settings = read_settings(given, {}, cwd=home, home=home)
        self.ledger = SqliteLedger(home / "ledger.sqlite3")
        wallets = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, home))
        self.payer = Payer(settings, wallets, self.ledger, clock=lambda: self.now)

    def pay(self, required: PaymentRequired, **more: Any) -> Payment:
        return asyncio.run(self.payer.pay(required, PURPOSE, **more))

    def send(self, payment: Payment) -> None:
        self.ledger.record_sent(payment.row, payment.reference, payment.valid_until, payment.validity)

    def settle(self, payment: Payment, charged: int) -> None:
        self.send(payment)
        outcome = Outcome("settled", transaction="0x" + "ab" * 32, charged_micro_usd=charged)
        self.ledger.finish(payment.row, outcome)

    def spent(self) -> int:
        return self.ledger.spent(self.payer.settings.budgets[0])


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def make(balance: int = 1_000_000, allowance: int = 0, nonce: int | None = 7, **options: str) -> Any:
            rpc = stack.enter_context(TokenRpc(8453, balance, allowance, nonce))
            shop = Shop(tmp_path, rpc, **options)
            stack.callback(shop.ledger.close)
            return shop, rpc

        yield make


def message(payment: Payment) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(payment.header[1])))


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
    assert "0.053058 may still be taken by earlier payments" in str(caught.value)
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
    with pytest.raises(Refused, match="may still be taken by earlier payments"):
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
