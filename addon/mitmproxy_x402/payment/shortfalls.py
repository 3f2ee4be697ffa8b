"""Remembers wallets that could not pay: for a short time the next requests are refused without a signature.

A wallet without money would otherwise leave a signature with every request, each of which counts against the budget
until it is dead. After a gateway has said that the wallet cannot pay an amount, as much or more is not signed for it
again for REST_SECONDS, on that host, network and asset. Where the user has named an RPC for the network, the balance is
looked up meanwhile, and a change ends the rest. That is asked for a change, not for a balance that would do: a gateway
that says so of a full wallet is not sent one signature after the other.
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
"""For how long nothing is signed after a gateway has said that the wallet cannot pay."""
LOOK_SECONDS = 5
"""Between two looks at the balance."""
MAX_KNOWN = 100
"""Shortfalls that are remembered."""

_Key = tuple[str, str, str, str]
"""Host, network, asset, payer's address."""


@dataclass
class _Shortfall:
    """What a gateway has said of a wallet, and what the chain says since."""

    amount: int
    """Atomic units that were too much."""
    since: float
    balance: int | None = None
    """When it was first looked up."""
    looked_at: float = 0.0
    looking: asyncio.Task[None] | None = None


class Shortfalls:
    """Of one payer. `rpcs` gives the URLs that the user has named for a network; `seconds` is for each answer."""

    def __init__(self, rpcs: Callable[[Network], Sequence[str]], seconds: float, clock: Callable[[], float]) -> None:
        self._rpcs = rpcs
        self._seconds = seconds
        self._clock = clock
        self._known: dict[_Key, _Shortfall] = {}

    def note(self, host: str, offer: Offer, payer: str) -> None:
        """The gateway at `host` says that `payer` cannot pay `offer`."""
        key = _key(host, offer, payer)
        known = self._known.pop(key, None)
        amount = offer.requirement.amount
        smaller = amount if known is None or self._is_over(known) else min(amount, known.amount)
        self._known[key] = _Shortfall(smaller, self._clock())
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._look(key, offer, payer)

    def check(self, host: str, offer: Offer, payer: str) -> None:
        """Raises Refused, `wallet_unfunded`, where `payer` was found too poor for `offer` a moment ago."""
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
        """Have the balance looked up, where there is somebody to ask."""
        known, now = self._known[key], self._clock()
        urls = self._rpcs(offer.network)
        if not urls or known.looking is not None or now - known.looked_at < LOOK_SECONDS:
            return
        with contextlib.suppress(RuntimeError):  # no event loop: the time ends it
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
