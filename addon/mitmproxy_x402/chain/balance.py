"""Asks RPCs for a wallet's token balance, for checks, warnings and `wallet fund`; payments do not need it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import RpcError
from ..protocol.messages import AtomicUnits
from ..protocol.networks import Asset, Network
from .json_rpc import Unreachable, json_rpc, origin

_BALANCE_OF = "0x70a08231"
"""Selector of ERC-20's balanceOf(address)."""
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")


async def balance(network: Network, asset: Asset, owner: str, urls: Sequence[str], seconds: float) -> int:
    """The balance of `owner` in atomic units of `asset`, from the first of `urls` that answers in `seconds` each.

    Raises RpcError, which shows no more of a URL than its host.
    """
    failures = []
    for url in urls:
        try:
            if network.family == "evm":
                return await _evm(network, asset, owner, url, seconds)
            return await _svm(network, asset, owner, url, seconds)
        except Unreachable as reason:  # noqa: PERF203  (the next is asked)
            failures.append(f"{origin(url)}: {reason}")
    raise RpcError("; ".join(failures) or "no RPC is known")


async def _evm(network: Network, asset: Asset, owner: str, url: str, seconds: float) -> int:
    chain = _quantity(await json_rpc(url, seconds, "eth_chainId", []))
    if chain != network.chain_id:
        raise Unreachable(f"it serves the chain {chain}, not {network.chain_id}")
    data = _BALANCE_OF + owner.removeprefix("0x").lower().rjust(64, "0")
    return _quantity(await json_rpc(url, seconds, "eth_call", [{"to": asset.address, "data": data}, "latest"]))


def held_micro_usd(asset: Asset, units: int) -> int:
    """`units` in millionths of a dollar, rounded down, so that a balance is never overstated."""
    if asset.decimals <= 6:
        return asset.micro_usd(AtomicUnits(units))
    return units // int(10 ** (asset.decimals - 6))


def _quantity(said: object) -> int:
    if isinstance(said, str) and _QUANTITY.fullmatch(said):
        return int(said, 16)
    raise Unreachable("its answer is not a number")


async def _svm(network: Network, asset: Asset, owner: str, url: str, seconds: float) -> int:
    try:
        genesis = await json_rpc(url, seconds, "getGenesisHash", [])
    except Unreachable as reason:
        if "error" not in str(reason):  # some RPCs of gateways serve only a few methods
            raise
        genesis = ""
    if isinstance(genesis, str) and genesis and not genesis.startswith(network.caip2.partition(":")[2]):
        raise Unreachable("it serves another cluster")
    parameters: list[object] = [owner, {"mint": asset.address}, {"encoding": "jsonParsed", "commitment": "confirmed"}]
    return token_amounts(await json_rpc(url, seconds, "getTokenAccountsByOwner", parameters))


def token_amounts(said: object) -> int:
    """The total balance in an answer of Solana's `getTokenAccountsByOwner`. Raises Unreachable: it is malformed."""
    if isinstance(said, Unreachable):
        raise said
    try:
        accounts = said["value"]  # type: ignore[index]
        amounts = [account["account"]["data"]["parsed"]["info"]["tokenAmount"]["amount"] for account in accounts]
        if all(isinstance(amount, str) and re.fullmatch("[0-9]{1,20}", amount) for amount in amounts):
            return sum(int(amount) for amount in amounts)
    except (KeyError, TypeError, IndexError):
        pass
    raise Unreachable("its answer holds no token accounts")
