"""Asks RPCs what a wallet can pay over Permit2 or Circle Gateway, and whether its key is delegated (EIP-7702)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import EvmRpcError
from ..protocol.evm.address import abi_word
from ..protocol.evm.permit2_contracts import PERMIT2
from ..protocol.networks import Asset, Network
from .json_rpc import Call, Declined, Unreachable, json_rpc, json_rpc_batch, origin

_BALANCE_OF = "70a08231"
_ALLOWANCE = "dd62ed3e"
_NONCES = "7ecebe00"
_AVAILABLE_BALANCE = "3ccb64ae"
"""Selector of Circle Gateway's availableBalance(token,depositor)."""
_DELEGATION = "0xef0100"
"""Prefix of the code of an address whose key is delegated (EIP-7702); the contract's address follows."""


@dataclass(frozen=True)
class Standing:
    """The balance and allowance of one wallet in one token, in atomic units."""

    balance: int
    allowance: int
    """The allowance of Permit2."""
    nonce: int | None
    """Nonce of the next EIP-2612 permit; None: the token has no permits."""


async def standing(network: Network, asset: Asset, owner: str, urls: Sequence[str], seconds: float) -> Standing:
    """The wallet's `Standing`, from the first of `urls` that answers; `seconds` is the time-out of each.

    Raises EvmRpcError, which shows no more of a URL than its host.
    """
    whose, whom = abi_word(owner), abi_word(PERMIT2)
    calls: list[Call] = [("eth_chainId", [])]
    for data in (_BALANCE_OF + whose, _ALLOWANCE + whose + whom, _NONCES + whose):
        calls.append(("eth_call", [{"to": asset.address, "data": f"0x{data}"}, "latest"]))  # noqa: PERF401
    failures = []
    for url in urls:
        try:
            chain, balance, allowance, nonce = await _answers(url, seconds, calls)
            if _number(chain) != network.chain_id:
                raise Unreachable(f"it serves another chain than {network.name}")
            return Standing(_number(balance), _number(allowance), None if _failed(nonce) else _number(nonce))
        except Unreachable as reason:  # noqa: PERF203  (the next is asked)
            failures.append(f"{origin(url)}: {reason}")
    raise EvmRpcError(
        f"What the wallet can pay with on {network.name} is not known: {'; '.join(failures) or 'no RPC is known'}. "
        "Nothing was paid."
    )


async def deposited(asset: Asset, contract: str, owner: str, urls: Sequence[str], seconds: float) -> int:
    """The atomic units that `owner` has deposited in Circle's `contract`. Raises EvmRpcError."""
    data = f"0x{_AVAILABLE_BALANCE}{abi_word(asset.address)}{abi_word(owner)}"
    failures = []
    for url in urls:
        try:
            return _number(await json_rpc(url, seconds, "eth_call", [{"to": contract, "data": data}, "latest"]))
        except Unreachable as reason:  # noqa: PERF203  (the next is asked)
            failures.append(f"{origin(url)}: {reason}")
    raise EvmRpcError("; ".join(failures) or "no RPC is known")


async def delegate(owner: str, url: str, seconds: float) -> str:
    """The contract that the key `owner` is delegated to (EIP-7702); empty: none, "?": the address holds other code.

    Raises Unreachable.
    """
    code = await json_rpc(url, seconds, "eth_getCode", [owner, "latest"])
    if not isinstance(code, str):
        raise Unreachable("its answer is not the code of an address")
    if code in ("0x", ""):
        return ""
    delegated = code.lower().startswith(_DELEGATION) and len(code) == len(_DELEGATION) + 40
    return f"0x{code[len(_DELEGATION) :]}" if delegated else "?"


async def _answers(url: str, seconds: float, calls: Sequence[Call]) -> list[object]:
    try:
        return await json_rpc_batch(url, seconds, calls)
    except Declined:  # some RPCs accept no batches
        return [await json_rpc(url, seconds, method, list(parameters)) for method, parameters in calls]


def _failed(said: object) -> bool:
    return isinstance(said, Unreachable) or said in ("0x", None)


def _number(said: object) -> int:
    if isinstance(said, Unreachable):
        raise said
    try:
        if isinstance(said, str) and said.startswith("0x") and len(said) <= 66:
            return int(said, 16)
    except ValueError:
        pass
    raise Unreachable("its answer is not a number")
