"""How much a wallet has on chain, as RPCs tell. Asked by `check` alone: paying needs no balance."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .check_net import Unreachable, json_rpc, origin
from .errors import RpcError
from .protocol.networks import Asset, Network
from .settings import Settings
from .settings_options import OPTIONS

PUBLIC_EVM = {"eip155:8453": "https://mainnet.base.org", "eip155:84532": "https://sepolia.base.org"}
PUBLIC_SVM = {
    "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp": "https://api.mainnet-beta.solana.com",
    "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1": "https://api.devnet.solana.com",
}
_BALANCE_OF = "0x70a08231"
"""Selector of ERC-20's balanceOf(address)."""
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DEFAULT_SOLANA = tuple(option.otherwise for option in OPTIONS if option.key == "solana_rpc")


def rpcs(network: Network, settings: Settings) -> tuple[str, ...]:
    """The RPCs to ask about `network`: the user's, else public ones. May be empty."""
    if network.family == "evm":
        named = tuple(url for caip2, url in settings.evm_rpc if caip2 == network.caip2)
        public = PUBLIC_EVM.get(network.caip2, "")
        return named or ((public,) if public else ())
    public = PUBLIC_SVM.get(network.caip2, "") if settings.solana_rpc == _DEFAULT_SOLANA else ""
    return (*settings.solana_rpc, public) if public else settings.solana_rpc


def remedy(network: Network) -> str:
    """What to set when no RPC answers."""
    if network.family == "evm":
        return f"set X402_EVM_RPC (or x402_evm_rpc) to {network.name}=URL of one that works"
    return "set SOLANA_RPC_URL (or x402_solana_rpc) to the URL of one that works"


async def balance(network: Network, asset: Asset, owner: str, urls: Sequence[str], seconds: float) -> int:
    """Atomic units of `asset` that `owner` has, from the first of `urls` that answers; `seconds` is for each question.

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


def _quantity(said: object) -> int:
    if isinstance(said, str) and _QUANTITY.fullmatch(said):
        return int(said, 16)
    raise Unreachable("its answer is no number")


async def _svm(network: Network, asset: Asset, owner: str, url: str, seconds: float) -> int:
    try:
        genesis = await json_rpc(url, seconds, "getGenesisHash", [])
    except Unreachable as reason:
        if "error" not in str(reason):  # some gateways serve only a few methods
            raise
        genesis = ""
    if isinstance(genesis, str) and genesis and not genesis.startswith(network.caip2.partition(":")[2]):
        raise Unreachable("it serves another cluster")
    parameters: list[object] = [owner, {"mint": asset.address}, {"encoding": "jsonParsed", "commitment": "confirmed"}]
    return _token_amounts(await json_rpc(url, seconds, "getTokenAccountsByOwner", parameters))


def _token_amounts(said: object) -> int:
    try:
        accounts = said["value"]  # type: ignore[index]
        amounts = [account["account"]["data"]["parsed"]["info"]["tokenAmount"]["amount"] for account in accounts]
        if all(isinstance(amount, str) and re.fullmatch("[0-9]{1,20}", amount) for amount in amounts):
            return sum(int(amount) for amount in amounts)
    except (KeyError, TypeError, IndexError):
        pass
    raise Unreachable("its answer holds no token accounts")
