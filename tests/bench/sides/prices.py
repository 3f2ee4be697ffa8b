"""What the benchmark's gateway asks for, in the recorded shape: challenges for each of its doors."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

AMOUNT = 13
"""Atomic units: 0.000013 USD, so that the limits that hold by default never end a run."""
BLOCKHASH = "2Etc9q7omPrAu16uFNbM3fwUH7ygCFKkToN4YCXym1nK"
CHARGING = ("base", "solana", "solana-rpc", "metered")
"""The doors that charge: a fixed price on Base and on Solana, the same without a blockhash in the challenge, and on
Base a price that depends on the request's size and output limit."""
_RESOURCE = {
    "url": "https://sol.blockrun.ai/api/v1/chat/completions",
    "description": "GPT-4o mini API call (~20 input, 64 max output tokens)",
    "mimeType": "application/json",
}
_LIMIT = re.compile(rb'"max_tokens": ?(\d+)')


def accepts(door: str, amount: int = AMOUNT) -> list[dict[str, Any]]:
    """The entries that a challenge offers."""
    if door.startswith("solana"):
        extra = {
            "feePayer": "93syNmtT1tTd5ZtPwHqzGf6CM7fKhMmArpv4AM4FtyNX",
            "description": _RESOURCE["description"],
            "mimeType": "application/json",
            "resource": _RESOURCE["url"],
        }
        if door == "solana":
            extra |= {"recentBlockhash": BLOCKHASH, "lastValidBlockHeight": "431992176"}
        return [
            {
                "scheme": "exact",
                "network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
                "amount": str(amount),
                "payTo": "AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA",
                "maxTimeoutSeconds": 300,
                "asset": "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
                "extra": extra,
            }
        ]
    exact: dict[str, Any] = {
        "scheme": "exact",
        "network": "eip155:8453",
        "amount": str(amount),
        "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        "payTo": "0xe9030014F5DAe217d0A152f02A043567b16c1aBf",
        "maxTimeoutSeconds": 300,
        "extra": {"name": "USD Coin", "version": "2"},
    }
    facilitator = {"facilitatorAddress": "0x14fDa13953Fc30428938E6BF950d036e77214e52"}
    upto = {"scheme": "upto", "amount": str(amount + amount // 3), "extra": {**exact["extra"], **facilitator}}
    return [exact, {**exact, **upto}]


def challenge_value(door: str, amount: int = AMOUNT, description: str = "") -> str:
    """What stands in PAYMENT-REQUIRED."""
    resource = {**_RESOURCE, "description": description or _RESOURCE["description"]}
    required = {"x402Version": 2, "error": "Payment Required", "resource": resource, "accepts": accepts(door, amount)}
    return base64.b64encode(json.dumps(required).encode()).decode()


def challenge(door: str, amount: int = AMOUNT, description: str = "", code: str = "") -> bytes:
    """A 402 as the gateways send it, the challenge in three headers and in the body; with `code`, a rejection."""
    value = challenge_value(door, amount, description)
    told = {
        "x402Version": 2,
        "accepts": accepts(door, amount),
        "error": "Payment Required",
        "message": "This endpoint requires x402 payment",
        **({"code": code} if code else {}),
    }
    body = json.dumps(told)
    lines = [
        "HTTP/1.1 402 Payment Required",
        "Content-Type: application/json",
        f"PAYMENT-REQUIRED: {value}",
        f"X-Payment-Required: {value}",
        f'WWW-Authenticate: X402 requirements="{value}"',
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def metered(body: bytes, code: str = "") -> bytes:
    """The 402 for `body` at the door where size and output limit make the price."""
    amount, size, limit = price(body)
    return challenge("metered", amount, f"GPT-4o mini API call (~{size} input, {limit} max output tokens)", code)


def price(body: bytes) -> tuple[int, int, int]:
    """Atomic units, input tokens and output limit: linear, a quarter of a unit a byte and half a unit a token."""
    found = _LIMIT.search(body)
    size, limit = -(-len(body) // 4), int(found[1]) if found else 0
    return size + limit // 2, size, limit


def amount_paid(header: bytes) -> int:
    """Atomic units of the EVM payment whose header's value is `header`."""
    return int(json.loads(base64.b64decode(header))["payload"]["authorization"]["value"])
