"""A receipt that says something else than what was signed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.payment.offer import Offer
from mitmproxy_x402.payment.reasons.receipts import contradictions
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequirements, SettlementResponse
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.schemes import Method
from support import challenges
from support.proxy import EVM_ADDRESS, Proxy
from support.wire import Peer, Upstream, request

PAYER, OTHER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A", "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
SVM_PAYER = "F25s3DdjXdCxYBhh2z8FBusVEMT4b9bGNFVKJi3wFoF4"
HASH, SIGNATURE = "0x" + "ab" * 32, "5" * 88


def offer(network: str = "base", method: Method = "exact") -> Offer:
    row = BUILT_IN.get(network)
    assert row is not None
    asked = PaymentRequirements("exact", row.caip2, AtomicUnits(17_686), row.assets[0].address, OTHER, 60, {}, {})
    return Offer(asked, row, row.assets[0], method)


def receipt(**changes: Any) -> SettlementResponse:
    return replace(SettlementResponse(True, HASH, "eip155:8453", PAYER), **changes)


@pytest.mark.parametrize(
    ("said", "paid", "payer"),
    [
        (receipt(), offer(), PAYER),
        (receipt(network="base", payer=PAYER.lower()), offer(), PAYER),
        (receipt(network="", payer="", transaction=HASH[2:]), offer(), PAYER),
        (receipt(network="base-mainnet"), offer(), PAYER),
        (receipt(amount=AtomicUnits(17_686)), offer(), PAYER),
        (receipt(amount=AtomicUnits(0), transaction=""), offer(method="upto"), PAYER),
        (receipt(amount=AtomicUnits(17_686)), offer(method="upto"), PAYER),
        (receipt(success=False, amount=AtomicUnits(99_999), payer=OTHER), offer(method="upto"), PAYER),
        (receipt(network="solana", payer=SVM_PAYER, transaction=SIGNATURE), offer("solana"), SVM_PAYER),
    ],
)
def test_what_fits_says_nothing(said: SettlementResponse, paid: Offer, payer: str) -> None:
    assert contradictions(said, paid, payer) == []


@pytest.mark.parametrize(
    ("said", "paid", "words"),
    [
        (
            receipt(amount=AtomicUnits(17_687)),
            offer(method="upto"),
            "0.017687 USDC were charged, and at most 0.017686 USDC on base was signed",
        ),
        (
            receipt(amount=AtomicUnits(5)),
            offer(),
            "0.000005 USDC were charged, and 0.017686 USDC on base was signed",
        ),
        (receipt(network="eip155:1"), offer(), 'the network "eip155:1", and the payment is for base'),
        (receipt(network="base-sepolia"), offer(), 'the network "base-sepolia"'),
        (receipt(payer=OTHER), offer(), f'the payer "{OTHER}", and {PAYER} has signed'),
        (receipt(transaction=SIGNATURE), offer(), "cannot be one on base"),
        (receipt(network="solana"), offer("solana"), "cannot be one on solana"),
    ],
)
def test_what_does_not_fit_is_said(said: SettlementResponse, paid: Offer, words: str) -> None:
    (contradiction,) = contradictions(said, paid, PAYER)
    assert words in contradiction


def test_the_proxy_logs_it(tmp_path: Path) -> None:
    said = {"success": True, "transaction": HASH, "network": "eip155:84532", "payer": OTHER}
    receipt_header = b"PAYMENT-RESPONSE: " + base64.b64encode(json.dumps(said).encode())
    answer = (b"HTTP/1.1 200 OK", receipt_header, b"Content-Length: 2", b"", b"ok")

    def sell(peer: Peer, upstream: Upstream) -> None:
        while True:
            paid = upstream.read(peer).get(b"payment-signature") is not None
            peer.send(b"\r\n".join(answer) if paid else challenges.answer())

    with Upstream(sell) as upstream, Proxy(upstream.url, home=tmp_path) as proxy:
        with proxy.client() as client:
            assert client.ask(request()).status == 200
        line = proxy.wait_for("the receipt contradicts the payment")
    assert f'it names the payer "{OTHER}", and {EVM_ADDRESS} has signed (POST /v1/chat/completions)' in line
