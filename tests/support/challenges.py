"""Challenges that a scripted upstream gives: real in shape, payable by the test wallet."""

from __future__ import annotations

import base64
import json
from typing import Any

PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
SEPOLIA = "eip155:84532"


def evm(amount: str = "13081", **more: Any) -> dict[str, Any]:
    entry = {
        "scheme": "exact",
        "network": SEPOLIA,
        "amount": amount,
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "payTo": PAY_TO,
        "maxTimeoutSeconds": 300,
        "extra": {"name": "USDC", "version": "2"},
    }
    return {"x402Version": 2, "error": "Payment required", "resource": {"url": "http://x"}, "accepts": [entry | more]}


def svm(**extra: Any) -> dict[str, Any]:
    """On devnet, without a blockhash unless one is given: the signer has to ask its RPC."""
    entry = {
        "scheme": "exact",
        "network": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        "amount": "1000",
        "asset": "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
        "payTo": "AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA",
        "maxTimeoutSeconds": 300,
        "extra": {"feePayer": "93syNmtT1tTd5ZtPwHqzGf6CM7fKhMmArpv4AM4FtyNX", **extra},
    }
    return {"x402Version": 2, "error": "Payment required", "resource": {"url": "http://x"}, "accepts": [entry]}


def header(challenge: dict[str, Any]) -> bytes:
    return b"PAYMENT-REQUIRED: " + base64.b64encode(json.dumps(challenge).encode())


def answer(challenge: dict[str, Any] | None = None, body: bytes | None = None, *headers: bytes) -> bytes:
    """A 402 with Content-Length."""
    challenge = challenge or evm()
    body = json.dumps(challenge).encode() if body is None else body
    lines = [
        b"HTTP/1.1 402 Payment Required",
        header(challenge),
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
