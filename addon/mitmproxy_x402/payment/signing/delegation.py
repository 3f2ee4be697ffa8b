"""Warns if sellers will refuse the EVM key because its address was delegated to a contract (EIP-7702).

Facilitators and USDC check the signature of an address with code only by ERC-1271, and a key that was delegated to most
contracts fails that check on every payment.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from ...chain.json_rpc import Unreachable, origin
from ...chain.permit2 import delegate
from ...errors import EvmRpcError
from ...protocol.networks import Network
from ...reconcile.rpcs import named_rpcs
from ...settings.settings import Settings
from ...wallet.sources import Wallets

logger = logging.getLogger(__name__)


async def warn_of_delegation(wallets: Wallets, settings: Settings) -> None:
    """Log a warning if sellers will refuse the EVM wallet's key. Asks only RPCs that the user has configured."""
    for network in settings.networks:
        urls = named_rpcs(network, settings)
        if wallets.evm is None or network.family != "evm" or not urls:
            continue
        with contextlib.suppress(EvmRpcError):  # exact payments need no RPC; `check` reports a bad one
            sentence = await refused_key(wallets.evm.address, network, urls, settings.rpc_timeout)
            if sentence:
                logger.warning("x402: %s", sentence)


async def refused_key(address: str, network: Network, urls: Sequence[str], seconds: float) -> str:
    """A sentence if sellers on `network` will refuse `address`; else empty. Raises EvmRpcError."""
    failures = []
    for url in urls:
        try:
            contract = await delegate(address, url, seconds)
        except Unreachable as reason:
            failures.append(f"{origin(url)}: {reason}")
            continue
        if not contract:
            return ""
        what = f"is delegated (EIP-7702) to {contract}" if contract != "?" else "holds the code of a contract"
        return (
            f"The key of {address} {what} on {network.name}: sellers will refuse its payments there. Use another key, "
            "or end the delegation in the wallet that made it."
        )
    raise EvmRpcError("; ".join(failures) or "no RPC is known")
