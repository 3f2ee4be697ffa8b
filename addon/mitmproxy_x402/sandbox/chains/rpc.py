"""The free RPCs of the sandbox's networks, with the methods that payers use: JSON-RPC 2.0, also in batches."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, cast

from ..work import Work, json_work
from .evm_ledger import EvmLedger
from .evm_rpc import evm_result
from .interface import Chain

if TYPE_CHECKING:
    from .svm_chain import SvmChain

_NO_METHOD, _BAD_PARAMS, _BAD_REQUEST = -32601, -32602, -32600


def chain_rpc(body: bytes, chain: Chain) -> Work:
    """The answer to a JSON-RPC call about `chain`."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return json_work(_error(None, -32700, "Parse error"))
    if isinstance(call, list):
        answers = [_answer(one, chain) for one in call]
        return Work(200, [("Content-Type", "application/json")], json.dumps(answers).encode())
    return json_work(_answer(call, chain))


def _answer(call: Any, chain: Chain) -> dict[str, Any]:
    if not isinstance(call, dict) or not isinstance(call.get("method"), str):
        return _error(None, _BAD_REQUEST, "Invalid request")
    params = call.get("params") or []
    try:
        if isinstance(chain, EvmLedger):
            result = evm_result(call["method"], params, chain)
        else:
            result = _result(call["method"], params, cast("SvmChain", chain))
    except KeyError:
        return _error(call.get("id"), _NO_METHOD, f"Method not found: {call['method']}")
    except (IndexError, TypeError, ValueError) as error:
        return _error(call.get("id"), _BAD_PARAMS, f"Invalid params: {error}")
    return {"jsonrpc": "2.0", "result": result, "id": call.get("id")}


def _result(method: str, params: list[Any], chain: SvmChain) -> Any:
    """Raises KeyError for a method that is not served."""
    if method == "getHealth":
        return "ok"
    if method == "getVersion":
        return {"solana-core": "sandbox", "feature-set": 0}
    if method == "getGenesisHash":
        return chain.network.caip2.partition(":")[2]
    if method in ("getSlot", "getBlockHeight"):
        return chain.block_height()
    if method == "getFirstAvailableBlock":
        return 0
    if method == "getBlockTime":
        return chain.time_of(int(params[0]))
    if method == "getSignaturesForAddress":
        return _signatures(params, chain)
    if method == "getTransaction":
        return chain.history.get(str(params[0]))
    return {"context": {"slot": chain.block_height()}, "value": _value(method, params, chain)}


def _signatures(params: list[Any], chain: SvmChain) -> list[Any]:
    """The signatures of the transactions with an address, newest first."""
    options = params[1] if len(params) > 1 else {}
    found = [each for each in reversed(chain.history.values()) if params[0] in _accounts(each)]
    names = [each["transaction"]["signatures"][0] for each in found]
    first = names.index(options["before"]) + 1 if options.get("before") in names else 0
    return [
        {
            "signature": name,
            "slot": each["slot"],
            "blockTime": each["blockTime"],
            "err": None,
            "memo": each["memo"],
            "confirmationStatus": "finalized",
        }
        for name, each in list(zip(names, found, strict=True))[first : first + options.get("limit", 1000)]
    ]


def _accounts(seen: dict[str, Any]) -> list[str]:
    accounts: list[str] = seen["transaction"]["message"]["accountKeys"]
    return accounts


def _value(method: str, params: list[Any], chain: SvmChain) -> Any:
    if method == "getLatestBlockhash":
        return {"blockhash": chain.latest_blockhash(), "lastValidBlockHeight": chain.block_height() + 150}
    if method == "isBlockhashValid":
        return chain.is_blockhash_valid(str(params[0]))
    if method == "getSignatureStatuses":
        done = {"confirmationStatus": "finalized", "confirmations": None, "err": None, "slot": chain.block_height()}
        return [done if chain.settled(str(signature)) else None for signature in params[0]]
    if method == "getBalance":
        return 0
    if method == "getAccountInfo":
        return _account(str(params[0]), chain)
    if method == "getTokenAccountsByOwner":
        amount = chain.balance(str(params[0]))
        shown = {"amount": str(amount), "decimals": chain.asset.decimals}
        shown["uiAmountString"] = f"{amount // 10**6}.{amount % 10**6:06d}"
        info = {"mint": chain.asset.address, "owner": str(params[0]), "tokenAmount": shown}
        data = {"program": "spl-token", "parsed": {"type": "account", "info": info}}
        return [{"pubkey": chain.token_account(str(params[0])), "account": {"data": data}}]
    raise KeyError(method)


def _account(address: str, chain: SvmChain) -> Any:
    found = chain.account(address)
    if found is None:
        return None
    owner, data, lamports = found
    encoded = [base64.b64encode(data).decode(), "base64"]
    head = {"data": encoded, "owner": owner, "lamports": lamports, "space": len(data)}
    return {**head, "executable": False, "rentEpoch": 0}


def _error(call_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": call_id}
