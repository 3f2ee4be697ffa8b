"""The budget against gateways that say that they took nothing: what could still move of what has reached them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import challenges, effort
from support.attacker import http, stage
from support.proxy import EVM_KEY, svm_key

PRICE = 100_000
BLOCKHASH = "EkSnNWid2cvwEVnVx9aBqawnmiCNiDgp3gUdkDPTKN1N"
KEYS = {"evm": {"BLOCKRUN_WALLET_KEY": EVM_KEY}, "svm": {"SOLANA_WALLET_KEY": svm_key()}}


def challenge(chain: str) -> bytes:
    said = challenges.evm(str(PRICE)) if chain == "evm" else challenges.svm(recentBlockhash=BLOCKHASH)
    said["accepts"][0]["amount"] = str(PRICE)
    return challenges.answer(said)


def rejection(code: str) -> bytes:
    return http(402, json.dumps({"error": "no", "code": code}).encode())


@pytest.mark.parametrize("chain", KEYS)
@pytest.mark.parametrize(
    "code",
    effort.chosen(
        ["PAYMENT_UNDERPAID", "PAYMENT_BLOCKHASH_STALE", "PAYMENT_UNFUNDED", "PAYMENT_INVALID"],
        "PAYMENT_UNDERPAID",
        "PAYMENT_BLOCKHASH_STALE",
    ),
)
@pytest.mark.parametrize("then", [True, False], ids=["answered then", "never answered"])
def test_no_more_is_left_than_the_budget(home: Path, chain: str, code: str, then: bool) -> None:
    """A dollar a day, ten cents a request: ten signatures at most, whatever was said of them."""
    with stage(home, "--set", "x402_budget=1/day", challenge=lambda _: challenge(chain), keys=KEYS[chain]) as shop:
        for number in range(14):
            answer = rejection(code)
            shop.call(
                lambda n, answer=answer: http(200, b"{}") if then and n else answer, f"/v1/{number}", b"{}", tries=2
            )
        references = {one for path in list(shop.attacker.payments) for one in shop.attacker.references(path)}
        assert 0 < len(references) * PRICE <= 1_000_000
