"""The payer with real wallets: which offer of a challenge is paid, and that what is signed is what the table allows.

Signatures are judged by means that are not ours: eth_account's encoder of typed data, and solders.
"""

from __future__ import annotations

import asyncio
import copy
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_x402.errors import ChallengeError, Refused, RpcError
from mitmproxy_x402.ledger.interface import LedgerBusy, Outcome
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.headers import payment_required_header
from mitmproxy_x402.protocol.payment_required import read_payment_required
from support import challenges
from support.chains.json_rpc import Rpc
from support.ledger.disks import SlowDisk
from support.ledger.ledgers import query
from support.paying.payers import (
    ENTRIES,
    NOW,
    PURPOSE,
    RECORDED,
    Bench,
    assert_pays,
    recorded,
    signed,
)

BASE = "eip155:8453"
SOLANA = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"


@pytest.mark.parametrize("where", ["header", "body", "both"])
@pytest.mark.parametrize(
    ("name", "amount", "network"),
    [
        ("base-v2-chat-body", 13_081, BASE),
        ("base-v2-exa", 3_000, BASE),
        ("solana-v2-chat", 11_961, SOLANA),
        ("solana-v2-small", 1_000, SOLANA),
    ],
)
def test_the_recorded_challenges_are_paid_to_the_atom(
    benches: Any, where: str, name: str, amount: int, network: str
) -> None:
    challenge = RECORDED[name]
    header = None if where == "body" else payment_required_header(challenge)
    body = b"{}" if where == "header" else json.dumps(challenge).encode()
    payment = benches().answer(header, body)
    assert isinstance(payment, Payment)
    result = signed(payment)
    (exact,) = [entry for entry in challenge["accepts"] if entry["scheme"] == "exact"]
    assert_pays(result, exact)
    assert (result.amount, result.network.caip2, payment.amount) == (amount, network, amount)
    assert result.message["accepted"] == exact
    for key in ("resource", "extensions"):
        assert result.message.get(key) == challenge.get(key)


def test_a_challenge_without_an_asset_is_refused(benches: Any) -> None:
    refusal = benches().answer(None, json.dumps(recorded("v1-clawrouter-docs")).encode())
    assert isinstance(refusal, ChallengeError)
    assert "asset" in str(refusal)


def test_version_1_is_answered_in_version_1(benches: Any) -> None:
    (entry,) = copy.deepcopy(RECORDED["base-v2-exa"]["accepts"])
    entry |= {"network": "base", "maxAmountRequired": entry.pop("amount"), "resource": "https://x/"}
    payment = benches().answer(None, json.dumps({"x402Version": 1, "accepts": [entry]}).encode())
    assert isinstance(payment, Payment)
    result = signed(payment)
    assert result.message.keys() == {"x402Version", "scheme", "network", "payload"}
    assert_pays(result, entry)


CHOICES = {
    "both wallets, the cheapest": ({}, 11_961),
    "only an EVM wallet": ({"families": "evm"}, 13_081),
    "only a Solana wallet": ({"families": "svm"}, 11_961),
    "Base preferred": ({"networks": "base"}, 13_081),
    "Base before Solana": ({"networks": "base, solana"}, 13_081),
    "Solana before Base": ({"networks": "solana, base"}, 11_961),
    "a network preferred that is not offered": ({"networks": "arc"}, 11_961),
    "a network preferred without a wallet": ({"families": "evm", "networks": "solana"}, 13_081),
}


@pytest.mark.parametrize("name", CHOICES)
@given(entries=st.permutations(ENTRIES))
@settings(max_examples=15, deadline=None)
def test_the_choice_is_never_by_position(benches: Any, name: str, entries: list[Any]) -> None:
    options, amount = CHOICES[name]
    payment = benches(**options).answer(payment_required_header({"x402Version": 2, "accepts": entries}), b"")
    assert isinstance(payment, Payment)
    assert signed(payment).amount == amount


def equals() -> list[dict[str, Any]]:
    """Offers at one price: on two chains, to two recipients, and one with less time."""
    (base,) = RECORDED["base-v2-exa"]["accepts"]
    solana = {**RECORDED["solana-v2-chat"]["accepts"][0], "amount": base["amount"]}
    other = {**base, "payTo": "0x14fDa13953Fc30428938E6BF950d036e77214e52"}
    return [base, solana, other, {**base, "maxTimeoutSeconds": 60}]


@given(entries=st.permutations(equals()))
@settings(max_examples=30, deadline=None)
def test_equal_prices_are_not_decided_by_position(benches: Any, entries: list[Any]) -> None:
    chosen = [
        benches().answer(payment_required_header({"x402Version": 2, "accepts": accepts}), b"")
        for accepts in (equals(), entries)
    ]
    assert chosen[0].offer.requirement.raw == chosen[1].offer.requirement.raw


def test_over_the_limit_nothing_is_signed(benches: Any) -> None:
    bench, challenge = benches(max_request="0.011960"), RECORDED["solana-v2-chat"]
    refusal = bench.answer(payment_required_header(challenge), b"")
    assert isinstance(refusal, Refused)
    assert (refusal.reason, bench.signed) == ("over_request_limit", 0)
    bench = benches(max_request="0.011961")
    assert isinstance(bench.answer(payment_required_header(challenge), b""), Payment)
    assert bench.signed == 1


def test_without_a_blockhash_and_without_an_rpc_nothing_is_signed(benches: Any) -> None:
    bench, challenge = benches(rpc_timeout="1"), copy.deepcopy(RECORDED["solana-v2-chat"])
    del challenge["accepts"][0]["extra"]["recentBlockhash"]
    assert isinstance(bench.answer(payment_required_header(challenge), b""), RpcError)
    assert bench.signed == 0


def test_entries_without_a_blockhash_ask_a_dead_rpc_once(benches: Any) -> None:
    challenge = copy.deepcopy(RECORDED["solana-v2-chat"])
    del challenge["accepts"][0]["extra"]["recentBlockhash"]
    challenge["accepts"] = [challenge["accepts"][0] | {"amount": str(1_000 + n)} for n in range(200)]
    with Rpc(lambda *_: None) as rpc:
        bench = benches(rpc_timeout="1", solana_rpc=rpc.url)
        error = bench.answer(None, json.dumps(challenge).encode())
        assert isinstance(error, RpcError)
        assert len(rpc.asked) == 1
    assert " The challenge's 200 entries: 0.001 USDC on solana" in str(error)
    assert bench.signed == 0


def test_only_so_many_entries_are_signed_in_vain(benches: Any) -> None:
    bench, challenge = benches(), copy.deepcopy(RECORDED["base-v2-exa"])
    (entry,) = challenge["accepts"]
    challenge["accepts"] = [entry | {"amount": str(1_000 + n), "pad": "x" * 60_000} for n in range(15)]
    good = entry | {"amount": "2000"}
    body = json.dumps(challenge | {"accepts": [*challenge["accepts"], good]}).encode()
    before = bench.signed
    assert isinstance(bench.answer(None, body), Payment)
    assert bench.signed == before + 16
    challenge["accepts"] = [challenge["accepts"][0] | {"amount": str(1_000 + n)} for n in range(16)]
    error = bench.answer(None, json.dumps(challenge | {"accepts": [*challenge["accepts"], good]}).encode())
    assert isinstance(error, ChallengeError)
    assert bench.signed == before + 32
    assert "0.002 USDC on base: it was not tried, since 16 others could not be paid" in str(error)


@pytest.mark.parametrize("name", RECORDED)
def test_no_two_payments_share_a_nonce_or_a_memo(benches: Any, name: str) -> None:
    bench, header = benches(), payment_required_header(RECORDED[name])
    required = read_payment_required(header, b"")
    assert required

    async def many() -> list[Payment]:
        return await asyncio.gather(*(bench.payer.pay(required, PURPOSE) for _ in range(50)))

    payments = bench.loop.run_until_complete(many())
    assert len({signed(payment).unique for payment in payments}) == 50
    assert len({payment.header for payment in payments}) == len({payment.reference for payment in payments}) == 50


def test_what_is_being_signed_at_the_end_is_given_back(tmp_path: Path) -> None:
    """A proxy that ends in the middle of load leaves no reservation, and no fault in its log."""
    disk = SlowDisk()
    bench = Bench(tmp_path, make_sync=lambda _: disk)
    identity = RequestIdentity(("POST", "http://127.0.0.1:1", "/v1/x"), b"{}")
    purchase = Purchase(bench.payer, RetainedPayments(lambda: NOW), PURPOSE, identity)
    required = read_payment_required(None, json.dumps(challenges.evm()).encode())
    assert required is not None
    bench.loop.run_until_complete(purchase.buy(required))
    waiting = bench.loop.create_task(purchase.durable())
    bench.loop.run_until_complete(asyncio.sleep(0))
    assert not waiting.done()
    assert query(bench.settings.ledger, "state") == [("reserved",)]
    purchase.finish(Outcome("unknown"), complete=False)
    bench.payer.close()
    bench.ledger.close()
    with closing(bench.loop):
        bench.loop.run_until_complete(waiting)
    with pytest.raises(Refused, match="shutting down"):
        purchase.sending()
    assert query(bench.settings.ledger, "state") == [("released",)]


class Leaving:
    """A client that leaves when the test says so."""

    def __init__(self) -> None:
        self.has_left = False

    def __call__(self) -> bool:
        return self.has_left


def _while_the_ledger_is_locked(bench: Bench, client: Leaving) -> dict[str, Any]:
    reserve = bench.ledger.reserve

    def locked(*its: Any) -> int:
        bench.ledger.reserve = reserve  # type: ignore[method-assign]
        client.has_left = True
        raise LedgerBusy("locked")

    bench.ledger.reserve = locked  # type: ignore[method-assign]
    return RECORDED["base-v2-exa"]


def _while_its_body_is_read(bench: Bench, client: Leaving) -> dict[str, Any]:
    async def read_whole(*_: Any, **__: Any) -> None:
        await asyncio.sleep(0)
        client.has_left = True

    bench.payer.read_whole = read_whole  # type: ignore[method-assign]
    return RECORDED["base-v2-exa"]


def _while_a_blockhash_is_looked_up(*_: Any) -> dict[str, Any]:
    challenge = copy.deepcopy(RECORDED["solana-v2-chat"])
    del challenge["accepts"][0]["extra"]["recentBlockhash"]
    return challenge


@pytest.mark.parametrize(
    "when", [_while_the_ledger_is_locked, _while_its_body_is_read, _while_a_blockhash_is_looked_up]
)
def test_nothing_is_signed_for_a_client_that_leaves_meanwhile(tmp_path: Path, when: Any) -> None:
    client = Leaving()

    def blockhash(*_: Any) -> Any:
        client.has_left = True
        return {"value": {"blockhash": "4vJ9JU1bJJE96FWSJKvHsmmFADCg4gpZQff4P3bkLKi", "lastValidBlockHeight": 3}}

    with Rpc(blockhash) as rpc:
        bench = Bench(tmp_path, solana_rpc=rpc.url)
        required = read_payment_required(None, json.dumps(when(bench, client)).encode())
        assert required is not None
        identity = RequestIdentity(("POST", "http://127.0.0.1:1", "/v1/x"), b"{}")
        purchase = Purchase(bench.payer, RetainedPayments(lambda: NOW), PURPOSE, identity)
        with closing(bench.loop), closing(bench.ledger), pytest.raises(Refused) as refusal:
            bench.loop.run_until_complete(purchase.buy(required, is_cancelled=client))
        purchase.finish(Outcome("unknown"), complete=False)
    assert client.has_left
    assert (refusal.value.reason, bench.signed) == ("client_left", 0)
    assert query(bench.settings.ledger, "state") == [("released",)]
