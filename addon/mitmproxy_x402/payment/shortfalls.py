"""Refuses further payments for a short time after a gateway has said that the wallet cannot pay.

Otherwise an empty wallet would leave a signature with every request, and each counts against the budget until it has
expired. For REST_SECONDS nothing of the same amount or more is signed for that host, network and asset. If the user has
configured an RPC for the network, the balance is looked up in the meantime, and any change ends the pause. A sufficient
balance alone does not: a gateway that makes a false claim must not get one signature after another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..chain.balance import balance
from ..errors import Refused, RpcError
from ..protocol.amounts import format_usd
from ..protocol.messages import AtomicUnits
from ..protocol.networks import Network
from .policy import Offer

REST_SECONDS = 60
"""Seconds of the pause after a gateway has said that the wallet cannot pay."""
LOOK_SECONDS = 5
"""Seconds between two look-ups of the balance."""
MAX_KNOWN = 100
"""Most shortfalls in memory."""

_Key = tuple[str, str, str, str]
"""Host, network, asset, payer's address."""


@dataclass
class _Shortfall:
    """One gateway's claim that a wallet cannot pay, and the balance since."""

    amount: int
    """Atomic units that the wallet could not pay."""
    since: float
    balance: int | None = None
    """Atomic units at the first look-up; None: not looked up yet."""
    looked_at: float = 0.0
    looking: asyncio.Task[None] | None = None


class Shortfalls:
    """The shortfalls of one payer.

    `rpcs` returns the URLs that the user has configured for a network; `seconds` is the time-out of each.
    """

    def __init__(self, rpcs: Callable[[Network], Sequence[str]], seconds: float, clock: Callable[[], float]) -> None:
        self._rpcs = rpcs
        self._seconds = seconds
        self._clock = clock
        self._known: dict[_Key, _Shortfall] = {}

    def note(self, host: str, offer: Offer, payer: str) -> None:
        """Note that the gateway at `host` says that `payer` cannot pay `offer`."""
        key = _key(host, offer, payer)
        known = self._known.pop(key, None)
        amount = offer.requirement.amount
        smaller = amount if known is None or self._is_over(known) else min(amount, known.amount)
        self._known[key] = _Shortfall(smaller, self._clock())
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._look(key, offer, payer)

    def check(self, host: str, offer: Offer, payer: str) -> None:
        """Raise Refused, `wallet_unfunded`, if payments of `payer` like `offer` are paused."""
        key = _key(host, offer, payer)
        known = self._known.get(key)
        if known is None or offer.requirement.amount < known.amount:
            return
        if self._is_over(known):
            del self._known[key]
            return
        self._look(key, offer, payer)
        ago, left = self._clock() - known.since, known.since + REST_SECONDS - self._clock()
        symbol, network = offer.asset.symbol, offer.network.name
        option = "x402_evm_rpc" if offer.network.family == "evm" else "x402_solana_rpc"
        has = ""
        if known.balance is not None:
            has = f" It holds {format_usd(offer.asset.micro_usd(AtomicUnits(known.balance)))} {symbol}."
        raise Refused(
            "wallet_unfunded",
            f"The gateway asks {offer}, and said {ago:.0f} s ago that the wallet {payer} cannot pay that.{has} Nothing "
            f"was signed. Send {symbol} on {network} to that wallet (./run.sh wallet fund shows how). The gateway is "
            f"asked again in {left:.0f} s, or as soon as {option} shows that its balance has changed.",
            asked=str(offer),
        )

    def _is_over(self, known: _Shortfall) -> bool:
        return not 0 <= self._clock() - known.since < REST_SECONDS

    def _look(self, key: _Key, offer: Offer, payer: str) -> None:
        """Start a look-up of the balance, if an RPC is configured."""
        known, now = self._known[key], self._clock()
        urls = self._rpcs(offer.network)
        if not urls or known.looking is not None or now - known.looked_at < LOOK_SECONDS:
            return
        with contextlib.suppress(RuntimeError):  # no event loop: only time ends the pause
            loop = asyncio.get_running_loop()
            known.looked_at = now
            known.looking = loop.create_task(self._compare(key, offer, payer, urls))

    async def _compare(self, key: _Key, offer: Offer, payer: str, urls: Sequence[str]) -> None:
        known = self._known[key]
        try:
            found = await balance(offer.network, offer.asset, payer, urls, self._seconds)
        except RpcError:
            return
        finally:
            known.looking = None
        if known.balance is None:
            known.balance = found
        elif found != known.balance and self._known.get(key) is known:
            del self._known[key]


def _key(host: str, offer: Offer, payer: str) -> _Key:
    return host.lower(), offer.network.caip2, offer.asset.address, payer
