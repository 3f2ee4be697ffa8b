"""Warns when a wallet's balance is low, at the start and after payments.

Asks only RPCs that the user has configured. Between two look-ups it subtracts what is signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from ..chain.balance import balance
from ..errors import RpcError
from ..protocol.amounts import format_usd
from ..protocol.messages import AtomicUnits
from ..protocol.networks import Asset, Network, NetworkTable
from .policy import Offer, Payers

LOW_REQUESTS = 20
"""A balance that pays for fewer requests than this is low."""
TYPICAL_MICRO_USD = 5_000
"""The assumed price of a request before one was paid: half a cent."""
AGAIN_SECONDS = 600
"""Seconds between two look-ups of a low balance."""

logger = logging.getLogger(__name__)

_Key = tuple[str, str]
"""Network, asset."""


class LowBalance:
    """Watches the balances of one payer.

    `rpcs` returns the URLs that the user has configured for a network; `seconds` is the time-out of each.
    """

    def __init__(self, rpcs: Callable[[Network], Sequence[str]], seconds: float, clock: Callable[[], float]) -> None:
        self._rpcs = rpcs
        self._seconds = seconds
        self._clock = clock
        self._left: dict[_Key, int] = {}
        self._warned: set[_Key] = set()
        self._looked: dict[_Key, float] = {}
        self._looking: asyncio.Task[None] | None = None

    async def look(self, networks: NetworkTable, payers: Payers) -> None:
        """Look up the balance on every EVM network with a configured RPC. Called at the start. Never raises."""
        for network in networks:
            payer = payers.get(network.family)
            if (
                network.family == "evm" and payer is not None and network.assets
            ):  # Solana's RPCs are configured for blockhashes
                asset = network.assets[0]
                await self._ask(network, asset, payer, _units(asset, TYPICAL_MICRO_USD))

    def signed(self, offer: Offer, payer: str) -> None:
        """Subtract a payment of `offer` that was signed."""
        key, price = (offer.network.caip2, offer.asset.address), offer.requirement.amount
        left = self._left.get(key)
        if left is None:
            return
        self._left[key] = left = max(0, left - price)
        if left >= LOW_REQUESTS * price:
            self._warned.discard(key)
        elif key not in self._warned or self._clock() - self._looked.get(key, 0) >= AGAIN_SECONDS:
            with contextlib.suppress(RuntimeError):  # no event loop, so no proxy that could log it
                loop = asyncio.get_running_loop()
                if self._looking is None or self._looking.done():  # our sum may be wrong
                    self._looking = loop.create_task(self._ask(offer.network, offer.asset, payer, price))

    async def _ask(self, network: Network, asset: Asset, payer: str, price: int) -> None:
        urls = self._rpcs(network)
        if not urls:
            return
        key = network.caip2, asset.address
        self._looked[key] = self._clock()
        try:
            found = await balance(network, asset, payer, urls, self._seconds)
        except RpcError:  # payments do not need the balance; `check` reports a bad RPC
            return
        self._left[key] = found
        if found >= LOW_REQUESTS * price:
            self._warned.discard(key)
        elif key not in self._warned:
            self._warned.add(key)
            has = f"{format_usd(asset.micro_usd(AtomicUnits(found)))} {asset.symbol} on {network.name}"
            enough = f"enough for {found // price} requests" if found >= price else "not enough for one request"
            logger.warning("x402: the wallet %s has %s, %s: ./run.sh wallet fund", payer, has, enough)


def _units(asset: Asset, micro_usd: int) -> int:
    """Atomic units of `asset` for millionths of a dollar."""
    return max(
        1,
        int(micro_usd * 10 ** (asset.decimals - 6)) if asset.decimals >= 6 else micro_usd // 10 ** (6 - asset.decimals),
    )
