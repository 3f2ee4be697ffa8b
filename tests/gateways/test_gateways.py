"""Which vendor's rules apply to a host, and what the codes of the standard mean."""

from __future__ import annotations

import pytest

from mitmproxy_x402.gateways import Meaning, gateway_of
from mitmproxy_x402.gateways.blockrun import GATEWAY
from mitmproxy_x402.gateways.gateway import STANDARD


@pytest.mark.parametrize(
    "host", ["blockrun.ai", "sol.blockrun.ai", "SOL.BlockRun.AI.", "127.0.0.1", "::1", "localhost"]
)
def test_blockrun(host: str) -> None:
    assert gateway_of(host) is GATEWAY


@pytest.mark.parametrize("host", ["example.com", "notblockrun.ai", "blockrun.ai.example.com", "10.0.0.1", ""])
def test_a_stranger_gets_the_standard(host: str) -> None:
    assert gateway_of(host) is STANDARD


def test_a_vendors_codes_mean_nothing_from_a_stranger() -> None:
    for code in ("PAYMENT_REPLAY", "PAYMENT_UNDERPAID", "PAYMENT_BLOCKHASH_STALE", "PAYMENT_UNFUNDED"):
        assert GATEWAY.meaning(code) is not Meaning.OTHER
        assert STANDARD.meaning(code) is Meaning.OTHER
        assert not STANDARD.is_code(code)
    assert STANDARD.polled("/v1/videos/generations/1") is None
    assert STANDARD.plain_path("/api/v1/x") == "/api/v1/x"


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("insufficient_funds", Meaning.UNFUNDED),
        ("invalid_exact_evm_insufficient_balance", Meaning.UNFUNDED),
        ("duplicate_settlement", Meaning.SPENT),
        ("invalid_exact_evm_nonce_already_used", Meaning.SPENT),
        ("unexpected_verify_error", Meaning.OTHER),
        ("", Meaning.OTHER),
    ],
)
def test_reasons_of_the_reference_facilitators(reason: str, meaning: Meaning) -> None:
    assert STANDARD.meaning(reason) is GATEWAY.meaning(reason) is meaning
