"""Which RPCs are asked about a network: those that the user named, else public ones."""

from __future__ import annotations

from ..protocol.networks import Network
from ..settings.options import OPTIONS
from ..settings.settings import Settings

PUBLIC_EVM = {"eip155:8453": "https://mainnet.base.org", "eip155:84532": "https://sepolia.base.org"}
PUBLIC_SVM = {
    "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp": "https://api.mainnet-beta.solana.com",
    "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1": "https://api.devnet.solana.com",
}
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
