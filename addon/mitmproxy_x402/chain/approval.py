"""Sets the allowance of Permit2: sends an ERC-20 `approve` of a bounded amount as a transaction of the wallet.

For `wallet allow`. It costs gas in the chain's own coin. The transaction is built here: one type, one call, no options.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import EvmRpcError
from ..protocol.evm.keccak import keccak
from ..protocol.evm.permit2_contracts import PERMIT2
from ..protocol.networks import Asset, Network
from .json_rpc import Unreachable, json_rpc, origin

GAS = 70_000
"""Gas limit of an approval; USDC's takes some 56,000 units."""
WAIT_SECONDS = 90
"""Seconds to wait for the transaction to be in a block."""
LOOK_SECONDS = 1.0
_APPROVE = "095ea7b3"
"""Selector of approve(address,uint256)."""


@dataclass(frozen=True)
class Fees:
    """A transaction's nonce, and what it pays for a unit of gas, in the smallest unit of the chain's coin."""

    nonce: int
    priority: int
    most: int

    @property
    def total(self) -> int:
        """The most that the transaction can cost."""
        return GAS * self.most


async def fees(network: Network, owner: str, url: str, seconds: float) -> Fees:
    """The next nonce of `owner`, and the price of gas now. Raises EvmRpcError, also if `owner` cannot pay it."""
    try:
        chain = _number(await json_rpc(url, seconds, "eth_chainId", []))
        if chain != network.chain_id:
            raise Unreachable(f"it serves the chain {chain}, not {network.chain_id}")
        nonce = _number(await json_rpc(url, seconds, "eth_getTransactionCount", [owner, "pending"]))
        price = _number(await json_rpc(url, seconds, "eth_gasPrice", []))
        funds = _number(await json_rpc(url, seconds, "eth_getBalance", [owner, "latest"]))
    except Unreachable as reason:
        raise EvmRpcError(f"{origin(url)}: {reason}. Nothing was changed.") from None
    found = Fees(nonce, max(price // 10, 1), 2 * price + 1)
    if funds < found.total:
        raise EvmRpcError(
            f"The wallet {owner} has {gas(funds, network)} on {network.name}, and the transaction may cost "
            f"{gas(found.total, network)}. Nothing was changed. Send the wallet a little of that coin there."
        )
    return found


_ETHER = frozenset({1, 10, 8453, 42161, 84532, 421614, 11155111, 11155420})
"""Chain ids of networks whose gas is paid in ETH."""


def gas(wei: int, network: Network) -> str:
    """An amount of the coin that pays for gas on `network`, with the coin: `0.0000014 ETH`."""
    amount = f"{wei // 10**18}.{wei % 10**18:018}".rstrip("0").removesuffix(".")
    return f"{amount} {'ETH' if network.chain_id in _ETHER else 'of the coin that pays for gas'}"


def approval(network: Network, asset: Asset, amount: int, fee: Fees, sign: Callable[[bytes], bytes]) -> bytes:
    """The signed transaction (EIP-1559) that lets Permit2 take `amount` atomic units; 0 revokes.

    `sign` gets a 32-byte digest and returns r, s and v (27 or 28): 65 bytes.
    """
    data = bytes.fromhex(_APPROVE) + bytes.fromhex(PERMIT2[2:]).rjust(32, b"\0") + amount.to_bytes(32, "big")
    fields: list[bytes | int | list[bytes]] = [network.chain_id, fee.nonce, fee.priority, fee.most, GAS]
    fields += [bytes.fromhex(asset.address[2:]), 0, data, []]
    signature = sign(keccak(b"\x02" + _rlp(fields)))
    r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:64]))
    return b"\x02" + _rlp([*fields, signature[64] - 27, r, s])


def hash_of(transaction: bytes) -> str:
    """The hash of a signed transaction, by which chains name it."""
    return "0x" + keccak(transaction).hex()


async def submit(transaction: bytes, url: str, seconds: float) -> str:
    """Send the transaction, wait until it is in a block, and return its hash. Raises EvmRpcError."""
    name = hash_of(transaction)
    try:
        await json_rpc(url, seconds, "eth_sendRawTransaction", ["0x" + transaction.hex()])
    except Unreachable as reason:
        raise EvmRpcError(f"{origin(url)} did not take the transaction {name}: {reason}.") from None
    for _ in range(int(WAIT_SECONDS / LOOK_SECONDS)):
        try:
            receipt = await json_rpc(url, seconds, "eth_getTransactionReceipt", [name])
        except Unreachable:
            receipt = None
        if isinstance(receipt, dict):
            if receipt.get("status") == "0x1":
                return name
            raise EvmRpcError(f"The transaction {name} is in a block, but it failed there.")
        await asyncio.sleep(LOOK_SECONDS)
    raise EvmRpcError(f"The transaction {name} was sent and is in no block after {WAIT_SECONDS} seconds. Look again.")


def _rlp(value: bytes | int | Sequence[bytes | int | list[bytes]]) -> bytes:
    if isinstance(value, int):
        value = value.to_bytes((value.bit_length() + 7) // 8, "big")
    if isinstance(value, bytes):
        return value if len(value) == 1 and value[0] < 0x80 else _length(len(value), 0x80) + value
    content = b"".join(_rlp(each) for each in value)
    return _length(len(content), 0xC0) + content


def _length(size: int, offset: int) -> bytes:
    if size < 56:
        return bytes([offset + size])
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(digits)]) + digits


def _number(said: object) -> int:
    try:
        if isinstance(said, str) and said.startswith("0x"):
            return int(said, 16)
    except ValueError:
        pass
    raise Unreachable("its answer is not a number")
