"""Chooses the RPCs to ask about a network: the user's, else public ones."""

from __future__ import annotations

from ..protocol.messages import Caip2
from ..protocol.networks import Network
from ..settings.options import OPTIONS
from ..settings.settings import Settings

PUBLIC = {
    "eip155:8453": ("https://mainnet.base.org", "https://base-rpc.publicnode.com"),
    "eip155:84532": ("https://sepolia.base.org", "https://base-sepolia-rpc.publicnode.com"),
    "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp": (
        "https://api.mainnet-beta.solana.com",
        "https://solana-rpc.publicnode.com",
    ),
    "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1": ("https://api.devnet.solana.com",),
}
"""Public RPCs, two of different operators if possible: freeing money takes two that agree."""
_DEFAULT_SOLANA = tuple(option.otherwise for option in OPTIONS if option.key == "solana_rpc")


def named_rpcs(network: Network, settings: Settings) -> tuple[str, ...]:
    """The RPCs that the user has configured for `network`."""
    if network.family == "evm":
        return tuple(url for caip2, url in settings.evm_rpc if caip2 == network.caip2)
    return () if settings.solana_rpc == _DEFAULT_SOLANA else settings.solana_rpc


def rpcs(network: Network, settings: Settings) -> tuple[str, ...]:
    """The RPCs to ask about `network`: the user's, else public ones; may be empty."""
    named = named_rpcs(network, settings)
    if named:
        return named
    public = PUBLIC.get(network.caip2, ())
    return public if network.family == "evm" else (*settings.solana_rpc, *public)


def watched(settings: Settings) -> frozenset[Caip2]:
    """The networks on which a proxy with these settings asks the chain what became of payments."""
    if settings.reconcile == "off":
        return frozenset()
    return frozenset(network.caip2 for network in settings.networks if named_rpcs(network, settings))


def remedy(network: Network) -> str:
    """What to set when no RPC answers."""
    if network.family == "evm":
        return f"set X402_EVM_RPC (or x402_evm_rpc) to {network.name}=URL of one that works"
    return "set SOLANA_RPC_URL (or x402_solana_rpc) to the URL of one that works"
