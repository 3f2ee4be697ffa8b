"""Transactions that the sandbox's EVM chains take: USDC's approve for Permit2, once each, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account

from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.sandbox.chains.evm_ledger import EvmLedger
from mitmproxy_x402.sandbox.chains.evm_rpc import evm_result
from mitmproxy_x402.sandbox.chains.evm_transactions import GAS_PRICE
from mitmproxy_x402.sandbox.chains.permit2 import PERMIT2
from support.proxy import EVM_ADDRESS, EVM_KEY


@pytest.fixture
def chain() -> EvmLedger:
    network = BUILT_IN.get("base-sepolia")
    assert network is not None
    return EvmLedger(network, 10**9, lambda: 1_700_000_000.0)


def approve(chain: EvmLedger, amount: int, nonce: int, **other: Any) -> str:
    """A signed transaction, by the reference implementation."""
    data = f"0x095ea7b3{PERMIT2[2:]:0>64}{amount:064x}"
    fields = {"to": chain.asset.address, "value": 0, "data": data, "gas": 70_000, "nonce": nonce, "type": 2}
    fields |= {"chainId": chain.network.chain_id, "maxFeePerGas": 2 * GAS_PRICE, "maxPriorityFeePerGas": 1}
    signed: bytes = Account.sign_transaction(fields | other, EVM_KEY).raw_transaction
    return "0x" + signed.hex()


def test_an_approval_is_carried_out_once(chain: EvmLedger) -> None:
    assert evm_result("eth_getTransactionCount", [EVM_ADDRESS, "pending"], chain) == "0x0"
    sent = approve(chain, 5_000_000, 0)
    name = evm_result("eth_sendRawTransaction", [sent], chain)
    assert evm_result("eth_getTransactionReceipt", [name], chain)["status"] == "0x1"
    assert chain.permit2.allowance(EVM_ADDRESS) == 5_000_000
    assert evm_result("eth_getTransactionCount", [EVM_ADDRESS, "pending"], chain) == "0x1"
    with pytest.raises(ValueError, match="the nonce is 0, and 1 is next"):
        evm_result("eth_sendRawTransaction", [sent], chain)
    evm_result("eth_sendRawTransaction", [approve(chain, 0, 1)], chain)
    assert chain.permit2.allowance(EVM_ADDRESS) == 0


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"chainId": 8453}, "for the chain 8453"),
        ({"maxFeePerGas": 1}, "underpriced"),
        ({"to": "0x" + "11" * 20}, "approve for Permit2 alone"),
        ({"data": "0xa9059cbb" + "00" * 64}, "approve for Permit2 alone"),
    ],
)
def test_others_are_not_taken(chain: EvmLedger, other: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        evm_result("eth_sendRawTransaction", [approve(chain, 1, 0, **other)], chain)
    assert chain.permit2.allowance(EVM_ADDRESS) == 0


@pytest.mark.parametrize("raw", ["0x", "0x02", "0x02c0", "0x01" + "c0", "0x" + "ff" * 50, "0xzz"])
def test_bytes_that_are_no_transaction(chain: EvmLedger, raw: str) -> None:
    with pytest.raises(ValueError, match=r"taken|cannot be read|hex"):
        evm_result("eth_sendRawTransaction", [raw], chain)
