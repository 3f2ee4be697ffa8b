"""Challenges that come again and again are worked out once, and what they say is still what is paid."""

from __future__ import annotations

import base64
import gc
import json
from typing import Any

import pytest
from test_policy import BOTH, RULES

from mitmproxy_x402.errors import ChallengeError, Refused
from mitmproxy_x402.payment.offered import Challenges
from mitmproxy_x402.protocol.headers import payment_header
from mitmproxy_x402.protocol.messages import PaymentPayload, PaymentRequired
from mitmproxy_x402.protocol.payment_required import KEPT_HEADER, read_challenge_header

ENTRY = {
    "scheme": "exact",
    "network": "eip155:8453",
    "amount": "1000",
    "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    "payTo": "0x1111111111111111111111111111111111111111",
    "maxTimeoutSeconds": 300,
}


def read(**changes: Any) -> PaymentRequired:
    said = {"x402Version": 2, "resource": {"url": "https://x/y"}, "accepts": [ENTRY], "extensions": {"a": [1]}}
    required = read_challenge_header(base64.b64encode(json.dumps({**said, **changes}).encode()).decode())
    assert required is not None
    return required


@pytest.mark.parametrize("changes", [{}, {"resource": None}, {"extensions": None}, {"accepts": [ENTRY, ENTRY]}])
def test_every_payment_of_a_challenge_is_written_as_the_first(changes: dict[str, Any]) -> None:
    challenges, required = Challenges(RULES, BOTH), read(**changes)
    for number in range(3):
        offer = challenges.offered(required).offers[0]
        for extensions in (required.extensions, {"more": number}):
            payload = {"signature": f"0x{number}"}
            expected = payment_header(PaymentPayload(2, offer.requirement, payload, required.resource, extensions))
            assert challenges.offered(required).frame(offer, extensions).around(payload) == expected
            said = json.loads(base64.b64decode(expected[1]))
            assert (said["accepted"], said["payload"]) == (ENTRY, payload)
            assert said.get("extensions") == extensions


def test_challenges_that_differ_are_told_apart() -> None:
    challenges = Challenges(RULES, BOTH)
    asked = {}
    for amount in ("1000", "1001", "1000"):
        required = read(accepts=[{**ENTRY, "amount": amount}])
        asked[amount] = challenges.offered(required).offers[0].micro_usd
    assert asked == {"1000": 1000, "1001": 1001}


def test_the_place_of_a_challenge_that_is_gone_is_not_mistaken_for_it() -> None:
    challenges = Challenges(RULES, BOTH)
    for amount in range(1, 400):
        padding = "x" * (KEPT_HEADER if amount % 2 else 1)  # kept ones, and others that are gone at once
        required = read(accepts=[{**ENTRY, "amount": str(amount)}], resource=padding)
        assert challenges.offered(required).offers[0].requirement.amount == amount
        del required
        gc.collect(0)


def test_what_is_refused_is_refused_each_time() -> None:
    challenges, required = Challenges(RULES, BOTH), read(accepts=[{**ENTRY, "payTo": "0x" + "0" * 40}])
    for _ in range(2):
        with pytest.raises(Refused, match="zero address"):
            challenges.offered(required)
    for _ in range(2):
        with pytest.raises(ChallengeError, match="version 3"):
            read(x402Version=3)
