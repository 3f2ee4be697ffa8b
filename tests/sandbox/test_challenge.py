"""The 402s: shapes as recorded, prices that grow with the request, and every option."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.sandbox import Rates, SandboxConfig
from support.chains.reference_payer import CHAT, challenge_of, exact

BASE, SOLANA = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
CHALLENGES = Path(__file__).parents[1] / "challenges"


def recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((CHALLENGES / name).read_text()))


def test_the_challenge_is_in_three_headers_and_the_body(start: Any) -> None:
    _, shopper = start()
    response = shopper.ask()
    challenge = challenge_of(response)
    value = response.headers["payment-required"]
    assert response.headers["x-payment-required"] == value
    assert response.headers["www-authenticate"] == f'X402 requirements="{value}"'
    body = response.json()
    assert body["accepts"] == challenge["accepts"]
    assert body["message"] == "This endpoint requires x402 payment"
    assert base64.b64encode(base64.b64decode(value, validate=True)).decode() == value


def test_our_reader_finds_nothing_to_complain_of(start: Any) -> None:
    _, shopper = start()
    response = shopper.ask()
    for header in (response.headers["payment-required"], None):
        challenge = read_payment_required(header, response.content)
        assert challenge is not None
        assert challenge.unreadable == ()
        assert [entry.scheme for entry in challenge.accepts] == ["exact", "exact", "upto", "batch-settlement"]


def test_the_entries_have_the_fields_of_the_recorded_ones(start: Any) -> None:
    _, shopper = start()
    challenge = challenge_of(shopper.ask())
    base, solana = exact(challenge, BASE), exact(challenge, SOLANA)
    recorded_base = recorded("402-base-v2-chat-body.json")["accepts"][0]
    recorded_solana = recorded("402-solana-v2-chat.json")["accepts"][0]
    assert base.keys() == recorded_base.keys()
    assert base["extra"].keys() == recorded_base["extra"].keys()
    assert solana.keys() == recorded_solana.keys()
    assert solana["extra"].keys() == recorded_solana["extra"].keys()
    assert challenge.keys() == recorded("402-solana-v2-chat.json").keys()


def test_the_body_has_the_fields_of_the_recorded_one(start: Any) -> None:
    _, shopper = start()
    body = shopper.ask().json()
    assert body.keys() >= recorded("402-base-v2-chat-body.json").keys()
    dearest = max(int(entry["amount"]) for entry in body["accepts"])
    assert body["price"] == {"amount": f"0.{dearest:06d}", "currency": "USD"}


def test_the_decoys_cost_more_and_can_be_left_out(start: Any) -> None:
    _, shopper = start()
    amounts = {entry["scheme"]: int(entry["amount"]) for entry in challenge_of(shopper.ask())["accepts"]}
    assert amounts["upto"] > amounts["exact"] < amounts["batch-settlement"]
    _, shopper = start(decoys=False)
    assert {entry["scheme"] for entry in challenge_of(shopper.ask())["accepts"]} == {"exact"}


def test_the_price_follows_the_formula(start: Any) -> None:
    _, shopper = start()

    def price(**changes: Any) -> int:
        body = {**CHAT, **changes}
        response = shopper.ask(body)
        length = len(response.request.content)
        amount = int(exact(challenge_of(response), BASE)["amount"])
        assert amount == max(Rates().minimum, -(-length // 4) + 5 * body["max_tokens"])
        return amount

    assert price(max_tokens=1) == Rates().minimum
    assert price(max_tokens=1000) < price(max_tokens=1001) < price(max_tokens=1001, user="x" * 400)


@pytest.mark.parametrize(
    ("path", "body", "output"),
    [
        ("/v1/messages", {"model": "m", "max_tokens": 1000}, 1000),
        ("/v1/responses", {"model": "m", "max_output_tokens": 1000}, 1000),
        ("/v1/chat/completions", {"model": "m", "max_completion_tokens": 1000}, 1000),
        ("/v1beta/models/m:generateContent", {"contents": [], "generationConfig": {"maxOutputTokens": 1000}}, 1000),
        ("/v1/responses", {"model": "m"}, 1024),
        ("/v1/search", {"query": "x" * 8000}, 0),
    ],
)
def test_every_dialect_says_its_output_limit(start: Any, path: str, body: dict[str, Any], output: int) -> None:
    _, shopper = start()
    response = shopper.ask(body, path=path)
    length = len(response.request.content)
    assert int(exact(challenge_of(response), BASE)["amount"]) == -(-length // 4) + 5 * output


def test_the_order_is_shuffled_and_repeatable(start: Any) -> None:
    orders = []
    for _ in range(2):
        _, shopper = start(shuffle=7)
        orders.append(
            [[entry["scheme"] + entry["network"] for entry in challenge_of(shopper.ask())["accepts"]] for _ in range(6)]
        )
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders[0]}) > 1


@pytest.mark.parametrize("where", ["header", "body"])
def test_a_challenge_can_be_in_the_header_or_the_body_alone(start: Any, where: str) -> None:
    _, shopper = start(challenge_in=where)
    response = shopper.ask()
    assert ("payment-required" in response.headers) == (where == "header")
    assert ("accepts" in response.json()) == (where == "body")
    assert shopper.buy().status_code == 200


def test_version_1_is_a_body_with_short_names(start: Any) -> None:
    sandbox, shopper = start("base-sepolia", x402_version=1)
    response = shopper.ask()
    assert "payment-required" not in response.headers
    challenge = response.json()
    entry = exact(challenge, "base-sepolia")
    known = recorded("402-v1-clawrouter-docs.json")["accepts"][0]
    assert entry.keys() >= known.keys()
    assert entry["resource"] == f"{sandbox.url}/v1/chat/completions"
    assert read_payment_required(None, response.content) is not None


def test_the_blockhash_can_be_left_out_and_a_memo_put_in(start: Any) -> None:
    _, shopper = start(recent_blockhash=False, memo="order 7")
    extra = exact(challenge_of(shopper.ask()), SOLANA)["extra"]
    assert "recentBlockhash" not in extra
    assert extra["memo"] == "order 7"


def test_upfront_payment_is_announced(start: Any) -> None:
    _, shopper = start(payment_flow="upfront")
    assert exact(challenge_of(shopper.ask()), BASE)["extra"]["paymentFlow"] == "upfront"


def test_a_rejection_brings_a_fresh_challenge_unless_told_not_to(start: Any) -> None:
    _, shopper = start()
    rejected = shopper.ask(payment=shopper.payment_for(), fault="reject;code=PAYMENT_UNDERPAID")
    assert challenge_of(rejected)["accepts"]
    assert rejected.json()["code"] == "PAYMENT_UNDERPAID"
    _, shopper = start(rejection_challenge=False)
    rejected = shopper.ask(payment=shopper.payment_for(), fault="reject;code=PAYMENT_UNDERPAID")
    assert "payment-required" not in rejected.headers
    assert rejected.json().keys() == {"error", "message", "code"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"networks": ()}, "networks"),
        ({"networks": ("tron",)}, "'tron'"),
        ({"port": 70000}, "70000"),
        ({"host": "0.0.0.0"}, "loopback"),
        ({"certfile": Path("x")}, "keyfile"),
        ({"memo": "é" * 129}, "258"),
        ({"x402_version": 3}, "3"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        SandboxConfig(**change)
