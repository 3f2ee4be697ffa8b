"""Transactions that wallets send to the sandbox's EVM networks: USDC's `approve` for Permit2, and nothing else.

Gas costs play money that every wallet has: nothing is taken for it.
"""

from __future__ import annotations

from collections.abc import Callable

from eth_hash.auto import keccak

from ...protocol.networks import Asset
from .permit2 import PERMIT2, Permit2

GAS_PRICE = 10**7
"""Wei: a hundredth of a gwei, as on Base."""
COIN_BALANCE = 10**18
"""Wei that every wallet has for gas."""
_APPROVE = keccak(b"approve(address,uint256)")[:4]
_TYPE = 2
"""EIP-1559."""


class EvmTransactions:
    """The transactions that one chain has carried out. `block_number` gives its newest block."""

    def __init__(self, chain_id: int, asset: Asset, permit2: Permit2, block_number: Callable[[], int]) -> None:
        self._chain_id, self._asset, self._permit2 = chain_id, asset, permit2
        self._block_number = block_number
        self._nonces: dict[str, int] = {}
        self._blocks: dict[str, int] = {}

    def count(self, address: str) -> int:
        """How many `address` has sent: the nonce of its next one."""
        return self._nonces.get(address.lower(), 0)

    def block(self, name: str) -> int | None:
        """The block of the transaction with this hash; None: there is none."""
        return self._blocks.get(name.lower())

    def send(self, raw: bytes) -> str:
        """Carry a signed transaction out; its hash. Raises ValueError for one that the chain would not take."""
        from eth_account import Account  # noqa: PLC0415  (a second to import)
        from eth_account.typed_transactions.typed_transaction import TypedTransaction  # noqa: PLC0415
        from hexbytes import HexBytes  # noqa: PLC0415

        if raw[:1] != bytes([_TYPE]):
            raise ValueError("only transactions of type 2 are taken")
        try:
            sender = str(Account.recover_transaction(raw)).lower()
            said = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        except Exception as error:  # the library has many
            raise ValueError("the transaction cannot be read") from error
        if said["chainId"] != self._chain_id:
            raise ValueError(f"the transaction is for the chain {said['chainId']}")
        if said["nonce"] != self.count(sender):
            raise ValueError(f"the nonce is {said['nonce']}, and {self.count(sender)} is next")
        if said["maxFeePerGas"] < GAS_PRICE:
            raise ValueError("the transaction is underpriced")
        to, data = bytes(said["to"]), bytes(said["data"])
        spender = bytes.fromhex(PERMIT2[2:]).rjust(32, b"\0")
        if to.hex() != self._asset.address[2:].lower() or len(data) != 68 or data[:36] != _APPROVE + spender:
            raise ValueError(f"the sandbox carries out {self._asset.symbol}'s approve for Permit2 alone")
        self._permit2.allow(sender, int.from_bytes(data[36:], "big"))
        name = "0x" + keccak(raw).hex()
        self._nonces[sender] = said["nonce"] + 1
        self._blocks[name] = self._block_number()
        return name
