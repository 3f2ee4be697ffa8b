"""Where the chain contradicts a gateway: each kind by itself, and a gateway that lies to a whole proxy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mitmproxy_x402.chain.verdict import Verdict
from mitmproxy_x402.ledger.reading import Entry
from mitmproxy_x402.protocol.headers import PAYMENT_RESPONSE
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.protocol.strict_json import encode_base64
from mitmproxy_x402.reconcile.findings import SENTENCES, finding
from mitmproxy_x402.reconcile.resolver import sent_of
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support import challenges
from support.ledger.ledgers import query
from support.patience import eventually
from support.proxy import Proxy
from support.running.verbs import Ahead, run
from support.wire import Peer, Upstream

FIELDS: dict[str, Any] = {
    **{"row": 1, "time": 1_790_000_000_000, "fate": "settled", "state": "settled", "micro_usd": 5000, "model": None},
    **{"method": "POST", "host": "h", "path": "/p", "network": "eip155:8453"},
    **{"asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "pay_to": "0xB0b", "amount": "5000", "sends": 1},
    **{"reference": "0x1", "transaction": "0xAA", "status": 200, "code": "", "request_id": "", "first_byte_ms": 1},
    **{"total_ms": 1, "size": 1, "replaces": None, "wallet": "0xme", "nonce": "0x01"},
}
MOVED = Verdict("moved", "0xaa", 1_790_000_001, 5000, "0xb0b")
DEAD = Verdict("dead")


@pytest.mark.parametrize(
    ("said", "chain", "found"),
    [
        ({}, MOVED, ""),
        ({"transaction": ""}, MOVED, ""),
        ({}, DEAD, "not_settled"),
        ({"state": "unknown", "transaction": ""}, MOVED, ""),
        ({"state": "unknown", "transaction": ""}, DEAD, ""),
        ({"state": "rejected", "transaction": ""}, DEAD, ""),
        ({"state": "rejected", "transaction": ""}, MOVED, "taken"),
        ({"state": "superseded", "transaction": ""}, MOVED, "taken"),
        ({"state": "expired", "transaction": ""}, MOVED, "taken"),
        ({"transaction": "0xbb"}, MOVED, "other_transaction"),
        ({}, replace(MOVED, amount=4999), "other_amount"),
        ({"sends": 2}, replace(MOVED, amount=4999), ""),
        ({"scheme": "upto"}, replace(MOVED, amount=686), ""),
        ({"scheme": "upto", "charged": "686"}, replace(MOVED, amount=687), "other_amount"),
        ({"scheme": "upto"}, replace(MOVED, amount=5001), "other_amount"),
        ({}, replace(MOVED, pay_to="0xe4e"), "elsewhere"),
        ({}, Verdict("open"), ""),
        ({"transaction": "0xbb"}, Verdict("used"), ""),
    ],
)
def test_each_kind(said: dict[str, Any], chain: Verdict, found: str) -> None:
    assert finding(Entry(**{**FIELDS, **said}), chain) == found
    assert not found or found in SENTENCES


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scheme": "gateway"}, "Circle"),
        ({"scheme": "batch-settlement"}, "is not known here"),
        ({"wallet": ""}, "older version"),
        ({"asset": "0xother"}, "asset"),
    ],
)
def test_what_the_chain_cannot_be_asked(changes: dict[str, Any], why: str) -> None:
    base = BUILT_IN.get("base")
    assert base is not None
    said = sent_of(Entry(**{**FIELDS, **changes}), base)
    assert isinstance(said, str)
    assert why in said


def test_an_old_row_outlives_what_is_known_of_its_end() -> None:
    base = BUILT_IN.get("base")
    assert base is not None
    old = sent_of(Entry(**{**FIELDS, "valid_until": 1_790_000_300}), base)
    assert not isinstance(old, str)
    assert old.valid_until > 1_790_000_300 + 86_400


def lying(peer: Peer, upstream: Upstream) -> None:
    """Serves whoever pays, and names a transaction that does not exist."""
    while True:
        request = upstream.read(peer)
        if b"payment-signature:" not in request.head.lower():
            peer.send(challenges.answer(challenges.evm()))
            continue
        receipt = {"success": True, "transaction": "0x" + "ab" * 32, "network": challenges.SEPOLIA, "payer": "0x0"}
        head = f"HTTP/1.1 200 OK\r\n{PAYMENT_RESPONSE}: {encode_base64(receipt)}\r\nContent-Type: application/json\r\n"
        peer.send(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())


def test_a_receipt_for_a_transaction_that_does_not_exist(home: Path) -> None:
    clock = Ahead()
    with Sandbox(SandboxConfig(clock=clock)).run_in_thread() as chain, Upstream(lying) as gateway:
        with Proxy(gateway.url, home=home) as proxy:
            assert httpx.post(f"{proxy.url}/v1/x", content=b"{}", timeout=30).status_code == 200
            eventually(lambda: query(proxy.ledger, "state") == [("settled",)])
            rpc = f"base-sepolia={chain.url}/v1/rpc/base-sepolia"
            environ = {"X402_LEDGER": getattr(proxy.ledger, "url", None) or str(proxy.ledger), "X402_EVM_RPC": rpc}
            code, said, _ = run(home, environ, "reconcile")
            assert code == 0, "its signature is alive: the transaction may yet come"
            assert "Still open: 1 payment" in said
            clock.seconds = 3600
            code, said, _ = run(home, environ, "reconcile")
            assert code == 3
            assert "The chain contradicts the gateway: 1 payment." in said
            assert SENTENCES["not_settled"] in said
            assert f"the gateway named: 0x{'ab' * 32}" in said
            rows = query(proxy.ledger, "state, chain_state, finding, transaction_id")
            assert rows == [("expired", "dead", "not_settled", "0x" + "ab" * 32)]
            report = json.loads(run(home, environ, "report", "--json")[1])
            assert (report["total"]["usd"], report["findings"][0]["finding"]) == ("0", "not_settled")
            assert run(home, environ, "reconcile")[1].startswith("Nothing to look up")
