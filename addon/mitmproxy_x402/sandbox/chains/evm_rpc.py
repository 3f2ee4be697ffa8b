"""Answers the JSON-RPC of a simulated EVM network: the methods that payers, look-ups and wallets use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eth_hash.auto import keccak

from .evm_ledger import EvmLedger, Settlement, domain_separator
from .evm_transactions import COIN_BALANCE, GAS_PRICE
from .permit2 import PERMIT2, SETTLERS

_AUTHORIZATION_USED = "0x" + keccak(b"AuthorizationUsed(address,bytes32)").hex()
_TRANSFER = "0x" + keccak(b"Transfer(address,address,uint256)").hex()
_BALANCE_OF = keccak(b"balanceOf(address)")[:4].hex()
_AUTHORIZATION_STATE = keccak(b"authorizationState(address,bytes32)")[:4].hex()
_ALLOWANCE = keccak(b"allowance(address,address)")[:4].hex()
_NONCES = keccak(b"nonces(address)")[:4].hex()
_DOMAIN_SEPARATOR = keccak(b"DOMAIN_SEPARATOR()")[:4].hex()
_NONCE_BITMAP = keccak(b"nonceBitmap(address,uint256)")[:4].hex()
_AVAILABLE_BALANCE = keccak(b"availableBalance(address,address)")[:4].hex()
_SETTLE = keccak(b"settle(((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)")[
    :4
].hex()
_HASH = re.compile("0x[0-9a-f]{64}")


def evm_result(method: str, params: list[Any], chain: EvmLedger) -> Any:
    """The result of one call. Raises KeyError for a method that is not served, ValueError for parameters."""
    if method == "eth_chainId":
        return hex(chain.network.chain_id)
    if method == "eth_blockNumber":
        return hex(chain.block_number())
    if method == "eth_getBlockByNumber":
        return _block(params[0], chain)
    if method == "eth_call":
        return _call(params[0], params[1] if len(params) > 1 else "latest", chain)
    if method == "eth_getLogs":
        return _logs(params[0], chain)
    if method == "eth_getTransactionReceipt":
        return _receipt_of(params[0], chain)
    if method == "eth_getTransactionByHash":
        made = next((each for each in chain.settlements if each.transaction == params[0]), None)
        return None if made is None else _transaction(made)
    if method == "eth_getCode":
        return "0x"
    return _wallets_own(method, params, chain)


def _wallets_own(method: str, params: list[Any], chain: EvmLedger) -> Any:
    """The results of calls by a wallet that sends a transaction itself. Raises what `evm_result` does."""
    if method == "eth_getTransactionCount":
        return hex(chain.transactions.count(params[0]))
    if method in ("eth_gasPrice", "eth_maxPriorityFeePerGas"):
        return hex(GAS_PRICE)
    if method == "eth_estimateGas":
        return hex(60_000)
    if method == "eth_getBalance":
        return hex(COIN_BALANCE)
    if method == "eth_sendRawTransaction":
        return chain.transactions.send(bytes.fromhex(params[0].removeprefix("0x")))
    raise KeyError(method)


def _transaction(made: Settlement) -> dict[str, Any]:
    """The parts of a transaction that a payer looks at: contract and nonce. Over Permit2 the contract is `upto`'s."""
    moved = made.transfer
    found = {"hash": made.transaction, "blockNumber": hex(made.block), "to": moved.to, "input": "0x"}
    if made.over_permit2:
        words = f"{0:064x}{moved.value:064x}{moved.nonce[2:]}{moved.valid_before:064x}{moved.value:064x}"
        found |= {"to": SETTLERS["upto"], "input": f"0x{_SETTLE}{words}{moved.sender[2:].rjust(64, '0')}"}
    return found


def _number(tag: Any, chain: EvmLedger) -> int:
    newest = chain.block_number()
    if tag in ("latest", "pending", "safe", "finalized"):
        return newest
    return 0 if tag == "earliest" else int(tag, 16)


def _block(tag: Any, chain: EvmLedger) -> Any:
    number = _number(tag, chain)
    if number > chain.block_number():
        return None
    return {"number": hex(number), "timestamp": hex(chain.time_of(number)), "hash": _hash(number), "transactions": []}


def _hash(number: int) -> str:
    return "0x" + keccak(b"block" + number.to_bytes(8, "big")).hex()


def _call(call: Mapping[str, Any], tag: Any, chain: EvmLedger) -> str:
    data = str(call.get("data") or call.get("input")).removeprefix("0x")
    owner, number = f"0x{data[32:72]}".lower(), _number(tag, chain)
    to = str(call.get("to")).lower()
    if to == PERMIT2 and data.startswith(_NONCE_BITMAP):
        place = int(data[72:136], 16) << 8
        taken = [int(each.transfer.nonce, 16) for each in chain.settlements if _is_permitted(each, owner, number)]
        return f"0x{sum(1 << (nonce & 255) for nonce in taken if nonce >> 8 == place >> 8):064x}"
    if to == chain.circle.contract.lower() and data.startswith(_AVAILABLE_BALANCE):
        return f"0x{chain.circle.balance(f'0x{data[96:136]}'):064x}"
    if to != chain.asset.address.lower():
        return "0x"
    if data.startswith(_BALANCE_OF):
        return f"0x{chain.balance(owner):064x}"
    if data.startswith(_AUTHORIZATION_STATE):
        nonce = f"0x{data[72:136]}".lower()
        return f"0x{int(any(each.block <= number for each in chain.used(owner, nonce))):064x}"
    if data.startswith(_ALLOWANCE):
        allowed = chain.permit2.allowance(owner) if f"0x{data[96:136]}".lower() == PERMIT2 else 0
        return f"0x{allowed:064x}"
    if data.startswith(_NONCES):
        return f"0x{chain.permit2.permit_nonces.get(owner, 0):064x}"
    if data.startswith(_DOMAIN_SEPARATOR):
        return "0x" + domain_separator(chain.network, chain.asset).hex()
    raise ValueError("the contract has no such function")


def _is_permitted(made: Settlement, owner: str, number: int) -> bool:
    return made.over_permit2 and made.transfer.sender == owner and made.block <= number


def _logs(wanted: Mapping[str, Any], chain: EvmLedger) -> list[Any]:
    first, last = _number(wanted.get("fromBlock", "latest"), chain), _number(wanted.get("toBlock", "latest"), chain)
    if str(wanted.get("address", "")).lower() != chain.asset.address.lower():
        return []
    topics = [_alternatives(each) for each in wanted.get("topics", [])]
    return [
        event
        for made in chain.settlements
        if first <= made.block <= last
        for event in _events(made, chain)
        if all(one is None or topic in one for topic, one in zip(event["topics"], topics, strict=False))
    ]


def _alternatives(topic: Any) -> list[str] | None:
    if topic is None:
        return None
    named = [topic] if isinstance(topic, str) else topic
    if not all(isinstance(each, str) and _HASH.fullmatch(each.lower()) for each in named):
        raise ValueError("topics are 32 bytes")
    return [each.lower() for each in named]


def _events(made: Settlement, chain: EvmLedger) -> list[dict[str, Any]]:
    transfer = made.transfer
    sender, to = (f"0x{address[2:].rjust(64, '0')}" for address in (transfer.sender, transfer.to))
    place = {
        "address": chain.asset.address.lower(),
        "blockNumber": hex(made.block),
        "blockHash": _hash(made.block),
        "transactionHash": made.transaction,
        "transactionIndex": "0x0",
        "removed": False,
    }
    if made.over_permit2:
        moved = {"logIndex": "0x0", "topics": [_TRANSFER, sender, to], "data": f"0x{transfer.value:064x}"}
        return [{**place, **moved}]
    used = {**place, "logIndex": "0x0", "topics": [_AUTHORIZATION_USED, sender, transfer.nonce], "data": "0x"}
    moved = {"logIndex": "0x1", "topics": [_TRANSFER, sender, to], "data": f"0x{transfer.value:064x}"}
    return [used, {**place, **moved}]


def _receipt_of(name: str, chain: EvmLedger) -> dict[str, Any] | None:
    made = next((each for each in chain.settlements if each.transaction == name), None)
    if made is not None:
        return _receipt(made, chain)
    block = chain.transactions.block(name)
    if block is None:
        return None
    return _place_of(name, block) | {"status": "0x1", "logs": []}


def _place_of(name: str, block: int) -> dict[str, Any]:
    return {"transactionHash": name, "blockNumber": hex(block), "blockHash": _hash(block)}


def _receipt(made: Settlement, chain: EvmLedger) -> dict[str, Any]:
    return _place_of(made.transaction, made.block) | {"status": "0x1", "logs": _events(made, chain)}
