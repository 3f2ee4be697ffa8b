"""What we sign for Circle Gateway is, byte for byte, what Circle's own client signs: see circle/payments.mjs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.protocol.payment_required import read_entry
from mitmproxy_x402.schemes import gateway
from support.paying.own_payments import evm_wallet

CIRCLE = json.loads((Path(__file__).parent / "circle" / "payments.json").read_text())
CASES = CIRCLE["made"]


@pytest.mark.parametrize(
    "made", CASES, ids=lambda made: f"{made['requirements']['network']} {made['requirements']['amount']}"
)
def test_the_same_bytes(made: dict[str, Any]) -> None:
    wallet = evm_wallet(bytes.fromhex(CIRCLE["key"][2:]))
    entry, theirs = read_entry(made["requirements"], 2), made["payload"]
    network = BUILT_IN.known(entry.network)
    assert network is not None
    asset = network.asset(entry.asset)
    assert asset is not None
    ours = gateway.authorize(
        entry,
        network,
        asset,
        payer=wallet.address,
        now=int(theirs["authorization"]["validAfter"]) + 600,
        nonce=bytes.fromhex(theirs["authorization"]["nonce"][2:]),
        sign=wallet.sign_digest,
    )
    assert ours == theirs
