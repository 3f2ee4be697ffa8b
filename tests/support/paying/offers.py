"""A challenge with one entry, in a header or not."""

from __future__ import annotations

import base64
import json
from typing import Any

from mitmproxy_x402.protocol.payment_required import Get

ENTRY: dict[str, Any] = {
    "scheme": "exact",
    "network": "eip155:8453",
    "amount": "13081",
    "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    "payTo": "0xe9030014F5DAe217d0A152f02A043567b16c1aBf",
    "maxTimeoutSeconds": 300,
    "extra": {"name": "USD Coin", "version": "2"},
}


def challenge(**changes: Any) -> dict[str, Any]:
    return {"x402Version": 2, "accepts": [ENTRY | changes]}


def as_header(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def getter(*pairs: tuple[str, str]) -> Get:
    named = {name.lower(): value for name, value in pairs}
    return lambda name: named.get(name.lower())
