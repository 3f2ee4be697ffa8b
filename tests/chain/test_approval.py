"""The transaction that sets an allowance, against eth-account's own encoder, and how it is asked for."""

from __future__ import annotations

from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.chain.approval import GAS, Fees, approval
from mitmproxy_x402.protocol.networks import BUILT_IN

KEY = "0x" + "11" * 32
BASE = BUILT_IN.get("base")
assert BASE is not None
PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3"


@given(amount=st.integers(0, 2**256 - 1), nonce=st.integers(0, 2**64 - 1), fee=st.integers(1, 2**64))
def test_it_is_what_eth_account_signs(amount: int, nonce: int, fee: int) -> None:
    assert BASE is not None
    asset = BASE.assets[0]
    made = approval(
        BASE, asset, amount, Fees(nonce, fee // 2, fee), lambda d: bytes(Account.unsafe_sign_hash(d, KEY).signature)
    )
    data = "0x095ea7b3" + PERMIT2[2:].lower().rjust(64, "0") + f"{amount:064x}"
    wanted = {
        **{"type": 2, "chainId": 8453, "nonce": nonce, "maxPriorityFeePerGas": fee // 2, "maxFeePerGas": fee},
        **{"gas": GAS, "to": asset.address, "value": 0, "data": data, "accessList": []},
    }
    assert made == bytes(Account.sign_transaction(wanted, KEY).raw_transaction)
    assert TypedTransaction.from_bytes(HexBytes(made)).as_dict()["to"] == HexBytes(asset.address)
