"""Why a payment was rejected, in words for people: in the log, the comment, the ledger, and for the client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mitmproxy_x402.payment.reasons.rejections import says_nothing
from mitmproxy_x402.protocol.headers import PAYMENT_RESPONSE
from mitmproxy_x402.protocol.strict_json import encode_base64
from support import challenges
from support.ledger.ledgers import query
from support.patience import eventually
from support.proxy import Proxy
from support.wire import Peer, Upstream

UNFUNDED = "invalid_exact_evm_insufficient_balance"


@pytest.mark.parametrize("body", [b"", b" ", b"{}", b"[]", b"null", b'""', b'{"accepts": [1], "x402Version": 2}'])
def test_bodies_that_say_nothing(body: bytes) -> None:
    assert says_nothing(body)


@pytest.mark.parametrize("body", [b"<html>", b'{"error": "x"}', b'{"code": 1}', b'{"detail": {"a": 1}}', b"no"])
def test_bodies_that_say_something(body: bytes) -> None:
    assert not says_nothing(body)


class Seller:
    """Answers a payment with 402 again, and says why where a test wants it said."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            request = upstream.read(peer)
            paid = b"payment-signature:" in request.head.lower()
            terms = challenges.evm()
            headers, body = "", b"{}"
            if paid and self.where == "terms":
                terms["error"] = UNFUNDED
            if paid and self.where == "receipt":
                said = {"success": False, "errorReason": UNFUNDED, "transaction": "", "network": "base"}
                headers = f"{PAYMENT_RESPONSE}: {encode_base64(said)}\r\n"
            if paid and self.where == "body":
                body = json.dumps({"error": {"code": "PAYMENT_UNFUNDED", "message": "No money."}}).encode()
            peer.send(
                f"HTTP/1.1 402 Payment Required\r\nPAYMENT-REQUIRED: {encode_base64(terms)}\r\n{headers}x-theirs: 1\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            peer.send(body)


@pytest.fixture(params=["terms", "receipt", "body"])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def proxy(home: Path, where: str) -> Iterator[Proxy]:
    with Upstream(Seller(where)) as upstream, Proxy(upstream.url, home=home) as running:
        yield running


def test_everybody_hears_why(proxy: Proxy, where: str) -> None:
    answer = httpx.post(f"{proxy.url}/v1/chat/completions", content=b'{"model": "m"}', timeout=30)
    assert answer.status_code == 402
    assert answer.headers["x-theirs"] == "1"
    if where == "body":
        assert answer.json()["error"]["message"] == "No money."
    else:
        assert answer.json()["error"]["code"] == "payment_rejected"
        assert f"{UNFUNDED}: the wallet 0x" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"
    proxy.wait_for("rejected by the gateway: .*: the wallet 0x[0-9a-fA-F]{40} has too little USDC on base-sepolia; ")
    code = "PAYMENT_UNFUNDED" if where == "body" else UNFUNDED
    eventually(lambda: query(proxy.ledger, "state, code") == [("rejected", code)])
