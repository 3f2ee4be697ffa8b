"""What is accepted and what is not, good and spoilt in every field, on both chains and in both versions."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from solders.instruction import Instruction
from x402.http.x402_http_client import x402HTTPClientSync
from x402.mechanisms.evm.exact.client import ExactEvmScheme
from x402.mechanisms.svm.exact.client import ExactSvmScheme
from x402.mechanisms.svm.signers import KeypairSigner

from mitmproxy_x402.sandbox import Rates
from support.chains.reference_payer import CHAT, Shopper, challenge_of, close_rpc, decoded, encoded, exact
from support.spoils.envelope import Case
from support.spoils.evm import EVM, STRICTER_EVM, resigned
from support.spoils.svm import COMPUTE_BUDGET, STRICTER_SVM, SVM, rebuilt
from x402 import x402ClientSync

BASE, SOLANA = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
BOTH = pytest.mark.parametrize("network", [BASE, SOLANA], ids=["base", "solana"])


@BOTH
def test_a_payment_moves_the_quoted_amount(start: Any, network: str) -> None:
    sandbox, shopper = start(network)
    payment = shopper.payment_for()
    amount = int(payment["accepted"]["amount"])
    before = sandbox.balance(network, shopper.address)
    response = shopper.ask(payment=payment)
    assert response.status_code == 200
    [seen] = sandbox.payments
    assert (seen.network, seen.payer, seen.amount, seen.state) == (network, shopper.address, amount, "settled")
    assert (seen.pay_to, seen.asset) == (payment["accepted"]["payTo"], payment["accepted"]["asset"])
    assert sandbox.balance(network, shopper.address) == before - amount
    assert sandbox.balance(network, seen.pay_to) == amount
    receipt = decoded(response.headers["payment-response"])
    assert receipt == {"success": True, "transaction": seen.transaction, "network": network, "payer": shopper.address}
    assert response.headers["x-payment-receipt"] == seen.transaction


@pytest.mark.parametrize("network", ["base-sepolia", "solana-devnet"])
def test_version_1_is_paid_with_its_own_header(start: Any, network: str) -> None:
    sandbox, shopper = start(network, x402_version=1)
    payment = shopper.payment_for()
    response = shopper.ask(payment=payment)
    assert response.status_code == 200
    assert sandbox.settled[0].payer == shopper.address
    assert decoded(response.headers["x-payment-response"])["transaction"] == sandbox.settled[0].transaction
    as_version_2 = {"PAYMENT-SIGNATURE": encoded(shopper.payment_for())["X-PAYMENT"]}
    assert "code" not in shopper.ask(**as_version_2).json()  # no payment at all, so a challenge


@BOTH
def test_the_reference_client_pays_as_it_comes(start: Any, network: str, request: pytest.FixtureRequest) -> None:
    sandbox, shopper = start(network)
    client = x402ClientSync()
    if network == BASE:
        client.register("eip155:*", ExactEvmScheme(shopper.payer.evm))
    else:
        scheme = ExactSvmScheme(KeypairSigner(shopper.payer.svm), rpc_url=f"{sandbox.url}/api/v1/solana/rpc")
        request.addfinalizer(lambda: close_rpc(scheme))
        client.register("solana:*", scheme)
    http = x402HTTPClientSync(client)
    unpaid = shopper.ask()
    challenge = http.get_payment_required_response(unpaid.headers.get, unpaid.json())
    header = http.encode_payment_signature_header(client.create_payment_payload(challenge))
    assert shopper.ask(**header).status_code == 200
    assert len(sandbox.settled) == 1


@pytest.fixture(scope="module")
def shop(sandbox: Any) -> Any:
    with Shopper(sandbox.url, BASE) as on_base, Shopper(sandbox.url, SOLANA) as on_solana:
        yield sandbox, {BASE: on_base, SOLANA: on_solana}


def verdict(shop: Any, network: str, case: Case) -> None:
    sandbox, shoppers = shop
    shopper = shoppers[network]
    before = len(sandbox.payments)
    response = shopper.ask(payment=case.spoil(shopper.payment_for(), shopper.payer))
    if case.good:
        assert response.status_code == 200, response.text
        assert sandbox.payments[-1].state == "settled"
    else:
        assert response.status_code == 402
        assert response.json()["code"].startswith("PAYMENT_")
        assert len(sandbox.payments) == before


@pytest.mark.parametrize("case", [*EVM, *STRICTER_EVM], ids=str)
def test_evm_payments(shop: Any, case: Case) -> None:
    verdict(shop, BASE, case)


@pytest.mark.parametrize("case", [*SVM, *STRICTER_SVM], ids=str)
def test_solana_payments(shop: Any, case: Case) -> None:
    verdict(shop, SOLANA, case)


@BOTH
@pytest.mark.parametrize(
    "value", ["", "null", "bm9uZQ==", "%%%", "e30=", "eyJ4NDAyVmVyc2lvbiI6Mn0"], ids=lambda value: value or "empty"
)
def test_an_unreadable_payment_is_refused(start: Any, network: str, value: str) -> None:
    _, shopper = start(network)
    response = shopper.ask(**{"PAYMENT-SIGNATURE": value})
    assert response.json()["code"] == "PAYMENT_INVALID"
    assert challenge_of(response)["accepts"]


@BOTH
def test_a_payment_does_not_fit_a_dearer_request_nor_another(start: Any, network: str) -> None:
    sandbox, shopper = start(network)
    payment = shopper.payment_for({**CHAT, "max_tokens": 1000})
    dearer = shopper.ask({**CHAT, "max_tokens": 2000}, payment=payment)
    cheaper = shopper.ask({**CHAT, "max_tokens": 500}, payment=payment)
    elsewhere = shopper.ask({**CHAT, "max_tokens": 1000}, payment=payment, path="/v1/messages")
    codes = [response.json()["code"] for response in (dearer, cheaper, elsewhere)]
    assert codes == ["PAYMENT_UNDERPAID", "PAYMENT_INVALID", "PAYMENT_INVALID"]
    assert len(sandbox.payments) == 0
    assert shopper.ask({**CHAT, "max_tokens": 1000}, payment=payment).status_code == 200


@BOTH
def test_a_payer_without_money_is_told_so(start: Any, network: str) -> None:
    sandbox, shopper = start(network, opening_balance=0)
    payment = shopper.payment_for()
    assert shopper.ask(payment=payment).json()["code"] == "PAYMENT_UNFUNDED"
    amount = int(payment["accepted"]["amount"])
    sandbox.fund(network, shopper.address, amount - 1)
    assert shopper.ask(payment=payment).json()["code"] == "PAYMENT_UNFUNDED"
    sandbox.fund(network, shopper.address, amount)
    assert shopper.ask(payment=payment).status_code == 200
    assert sandbox.balance(network, shopper.address) == 0


def test_underpaid_and_overpaid_authorizations_differ_in_code(start: Any) -> None:
    _, shopper = start()
    less = resigned(value=lambda value: str(value - 1))(shopper.payment_for(), shopper.payer)
    more = resigned(value=lambda value: str(value + 1))(shopper.payment_for(), shopper.payer)
    assert shopper.ask(payment=less).json()["code"] == "PAYMENT_UNDERPAID"
    assert shopper.ask(payment=more).json()["code"] == "PAYMENT_INVALID"


def test_an_authorization_expires_by_the_sandbox_s_clock(start: Any) -> None:
    now = [time.time()]
    _, shopper = start(clock=lambda: now[0])
    payment = shopper.payment_for()
    left = int(payment["payload"]["authorization"]["validBefore"]) - int(now[0])
    now[0] += left - 5
    assert shopper.ask(payment=payment).json()["code"] == "PAYMENT_INVALID"
    now[0] -= 2
    assert shopper.ask(payment=payment).status_code == 200


def test_a_blockhash_goes_stale(start: Any) -> None:
    now = [time.time()]
    sandbox, shopper = start(SOLANA, clock=lambda: now[0])
    payment = shopper.payment_for()
    now[0] += 61
    assert shopper.ask(payment=payment).json()["code"] == "PAYMENT_BLOCKHASH_STALE"
    payment = shopper.payment_for()
    sandbox.expire_blockhashes()
    assert shopper.ask(payment=payment).json()["code"] == "PAYMENT_BLOCKHASH_STALE"
    payment = shopper.payment_for()
    now[0] += 59
    assert shopper.ask(payment=payment).status_code == 200


def test_without_a_blockhash_payers_ask_the_rpc(start: Any) -> None:
    sandbox, shopper = start(SOLANA, recent_blockhash=False)
    assert shopper.buy().status_code == 200
    asked = [request.json["method"] for request in sandbox.requests if request.path.endswith("/rpc")]
    assert "getLatestBlockhash" in asked


def test_a_seller_s_memo_must_be_there_once(start: Any) -> None:
    sandbox, shopper = start(SOLANA, memo="order 7")
    payment = shopper.payment_for()
    without = rebuilt(lambda found, *_: found[:3])(payment, shopper.payer)
    twice = rebuilt(lambda found, *_: [*found, found[3]])(payment, shopper.payer)
    assert shopper.ask(payment=without).json()["code"] == "PAYMENT_INVALID"
    assert shopper.ask(payment=twice).json()["code"] == "PAYMENT_INVALID"
    assert shopper.ask(payment=payment).status_code == 200
    assert len(sandbox.settled) == 1


def test_a_memo_is_executed_so_its_length_costs_compute_units(start: Any) -> None:
    _, shopper = start(SOLANA, memo="é" * 128)
    short = shopper.payment_for()  # the reference client always says 20,000
    limit = Instruction(COMPUTE_BUDGET, b"\x02" + (200_000).to_bytes(4, "little"), [])
    enough = rebuilt(lambda found, *_: [limit, *found[1:]])(short, shopper.payer)
    assert "exceeded CUs" in shopper.ask(payment=short).json()["message"]
    assert shopper.ask(payment=enough).status_code == 200


def test_resource_must_be_the_challenge_s(start: Any) -> None:
    _, shopper = start()
    payment = shopper.payment_for()
    other = {**payment, "resource": {**payment["resource"], "url": "http://127.0.0.1/v1/other"}}
    assert shopper.ask(payment=other).json()["code"] == "PAYMENT_INVALID"
    del payment["resource"]
    assert shopper.ask(payment=payment).status_code == 200


def test_an_entry_that_was_never_offered_is_refused(start: Any) -> None:
    sandbox, shopper = start()
    payment = shopper.payment_for()
    payment["accepted"]["payTo"] = payment["accepted"]["payTo"].lower()
    assert shopper.ask(payment=payment).json()["code"] == "PAYMENT_INVALID"
    assert len(sandbox.payments) == 0


@BOTH
@pytest.mark.parametrize(("more", "code"), [(0, ""), (-1, "PAYMENT_UNDERPAID"), (1, "PAYMENT_INVALID")])
def test_an_entry_that_would_be_offered_now_is_as_good_as_one_that_was(
    start: Any, network: str, more: int, code: str
) -> None:
    """Real gateways keep no list of what they offered: who knows the price may pay ahead."""
    sandbox, shopper = start(network)
    body = {**CHAT, "max_tokens": 1000}
    challenge = challenge_of(shopper.ask(body))
    amount = int(exact(challenge, network)["amount"])
    dearer = json.dumps(challenge).replace(f'"{amount}"', f'"{amount + 1000 + more}"')
    payment = shopper.payer.payment(json.loads(dearer.replace("1000 max", "1200 max")), network)
    answer = shopper.ask({**body, "max_tokens": 1200}, payment=payment)
    assert answer.status_code == (402 if code else 200), answer.text
    assert answer.json().get("code", "") == code
    assert [paid.amount for paid in sandbox.settled] == ([] if code else [amount + 1000])


@BOTH
@pytest.mark.parametrize("spoilt", [("1000 max", "1001 max"), ('"asset"', '"Asset": "", "asset"')])
def test_word_for_word_it_is(start: Any, network: str, spoilt: tuple[str, str]) -> None:
    _, shopper = start(network)
    body = {**CHAT, "max_tokens": 1000}
    challenge = json.loads(json.dumps(challenge_of(shopper.ask(body))).replace(*spoilt))
    answer = shopper.ask(body, payment=shopper.payer.payment(challenge, network))
    assert answer.json()["code"] == "PAYMENT_INVALID"


@BOTH
def test_another_price_list(start: Any, network: str) -> None:
    sandbox, shopper = start(network)
    old = shopper.payment_for()
    amount = int(old["accepted"]["amount"])
    sandbox.charge(Rates(minimum=3 * amount))
    assert shopper.ask(payment=old).json()["code"] == "PAYMENT_UNDERPAID"
    assert int(shopper.payment_for()["accepted"]["amount"]) == 3 * amount
    sandbox.charge(Rates(0, 0, 0))
    free = shopper.ask()
    assert (free.status_code, "payment-response" in free.headers) == (200, False)
