"""Watches what the wallets hold: warns before one is empty, and rests after a gateway has said that one is.

Only RPCs that the user has named are asked. Between two looks what is signed is subtracted.

A wallet without money would otherwise leave a signature with every request, each of which counts against the budget
until it is dead. After a gateway has said that the wallet cannot pay an amount, as much or more is not signed for it
again for REST_SECONDS, on that host, network and asset. A balance that changes meanwhile ends the rest: a change, and
not a balance that is high enough, since a gateway may say so of a full wallet and get one signature after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..chain.balance import balance, held_micro_usd
from ..errors import Refused, RpcError
from ..program import program
from ..protocol.amounts import format_usd
from ..protocol.networks import Asset, Network, NetworkTable
from .offer import Offer, Payers

LOW_REQUESTS = 20
"""A wallet that pays for fewer requests than this is low."""
TYPICAL_MICRO_USD = 5_000
"""Half a cent: what a request is taken to cost before one was paid."""
AGAIN_SECONDS = 600
"""Between two looks at a balance that is known to be low."""
REST_SECONDS = 60
"""For how long nothing is signed after a gateway has said that the wallet cannot pay."""
LOOK_SECONDS = 5
"""Between two looks while that lasts."""
MAX_SHORTFALLS = 100
"""Those that are remembered."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Purse:
    """One token of one wallet."""

    network: Network
    asset: Asset
    payer: str
    """Address."""
    is_at_circle: bool = False
    """Whether it is what the wallet has deposited with Circle Gateway, which no RPC is asked about."""

    @property
    def key(self) -> _Key:
        """What tells it from others."""
        return self.network.caip2, self.asset.address, self.payer, self.is_at_circle


_Key = tuple[str, str, str, bool]


def _purse(offer: Offer, payer: str) -> _Purse:
    return _Purse(offer.network, offer.asset, payer, offer.method == "gateway")


@dataclass
class _Seen:
    """What is known of a purse."""

    left: int | None = None
    """Atomic units; None: nobody has looked."""
    looked_at: float = 0.0
    looking: asyncio.Task[None] | None = None
    warned: bool = False
    """Whether it was said that it is low; until it is not."""


@dataclass
class _Shortfall:
    """What a gateway has said of a purse, and what the chain says since."""

    amount: int
    """Atomic units that were too much."""
    since: float
    balance: int | None = None
    """When it was first looked up."""


class Balances:
    """Of one payer. `rpcs` gives the URLs that the user has named for a network; `seconds` is for each answer."""

    def __init__(self, rpcs: Callable[[Network], Sequence[str]], seconds: float, clock: Callable[[], float]) -> None:
        self._rpcs = rpcs
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[_Key, _Seen] = {}
        self._shortfalls: dict[tuple[str, _Key], _Shortfall] = {}
        """By host, too."""

    async def look(self, networks: NetworkTable, payers: Payers) -> None:
        """At the start: the balance on every network that an RPC is named for. Never raises."""
        for network in networks:
            payer = payers.get(network.family)
            if payer is not None and network.assets:
                asset = network.assets[0]
                await self._ask(_Purse(network, asset, payer), _units(asset, TYPICAL_MICRO_USD))

    def signed(self, offer: Offer, payer: str) -> None:
        """A payment of `offer` was signed: so much less is there."""
        purse, price = _purse(offer, payer), offer.requirement.amount
        seen = self._seen.get(purse.key)
        if seen is None or seen.left is None:
            return
        seen.left = max(0, seen.left - price)
        if seen.left >= LOW_REQUESTS * price:
            seen.warned = False
        elif not seen.warned or self._clock() - seen.looked_at >= AGAIN_SECONDS:
            self._ask_soon(purse, price)  # the chain knows better than our sum

    def cannot_pay(self, host: str, offer: Offer, payer: str) -> None:
        """The gateway at `host` says that `payer` cannot pay `offer`."""
        purse = _purse(offer, payer)
        amount: int = offer.requirement.amount
        known = self._shortfalls.pop((host.lower(), purse.key), None)
        if known is not None and not self._is_over(known):
            amount = min(amount, known.amount)
        self._shortfalls[host.lower(), purse.key] = _Shortfall(amount, self._clock())
        while len(self._shortfalls) > MAX_SHORTFALLS:
            del self._shortfalls[next(iter(self._shortfalls))]
        self._look_again(purse, offer)

    def check(self, host: str, offer: Offer, payer: str) -> None:
        """Raises Refused, `wallet_unfunded`, where `payer` was found too poor for `offer` a moment ago."""
        if not self._shortfalls:
            return
        purse = _purse(offer, payer)
        known = self._shortfalls.get((host.lower(), purse.key))
        if known is None or offer.requirement.amount < known.amount:
            return
        if self._is_over(known):
            del self._shortfalls[host.lower(), purse.key]
            return
        self._look_again(purse, offer)
        ago, left = self._clock() - known.since, known.since + REST_SECONDS - self._clock()
        symbol, network = offer.asset.symbol, offer.network.name
        if purse.is_at_circle:
            raise Refused(
                "wallet_unfunded",
                f"The gateway asks {offer}, and said {ago:.0f} s ago that too little of the wallet {payer} lies with "
                f"Circle Gateway for that. Nothing was signed. Deposit {symbol} there, or set the option x402_gateway "
                f"to false. The gateway is asked again in {left:.0f} s.",
                asked=str(offer),
                why=f"the gateway said {ago:.0f} s ago that too little lies with Circle Gateway for that",
            )
        option = "x402_evm_rpc" if offer.network.family == "evm" else "x402_solana_rpc"
        has = "" if known.balance is None else f" It holds {_held(purse, known.balance)}."
        raise Refused(
            "wallet_unfunded",
            f"The gateway asks {offer}, and said {ago:.0f} s ago that the wallet {payer} cannot pay that.{has} Nothing "
            f"was signed. Send {symbol} on {network} to that wallet ({program()} wallet fund shows how). The gateway "
            f"is asked again in {left:.0f} s, or as soon as {option} shows that its balance has changed.",
            asked=str(offer),
            why=f"the gateway said {ago:.0f} s ago that the wallet {payer} cannot pay that",
        )

    def _is_over(self, known: _Shortfall) -> bool:
        return not 0 <= self._clock() - known.since < REST_SECONDS

    def _look_again(self, purse: _Purse, offer: Offer) -> None:
        """Have the balance looked up, if that was not done a moment ago."""
        seen = self._seen.get(purse.key)
        if seen is None or not 0 <= self._clock() - seen.looked_at < LOOK_SECONDS:
            self._ask_soon(purse, offer.requirement.amount)

    def _ask_soon(self, purse: _Purse, price: int) -> None:
        seen = self._seen.setdefault(purse.key, _Seen())
        if not purse.is_at_circle and self._rpcs(purse.network) and (seen.looking is None or seen.looking.done()):
            with contextlib.suppress(RuntimeError):  # no event loop: nobody would read it
                seen.looking = asyncio.get_running_loop().create_task(self._ask(purse, price))

    async def _ask(self, purse: _Purse, price: int) -> None:
        urls = self._rpcs(purse.network)
        if not urls:
            return
        seen = self._seen.setdefault(purse.key, _Seen())
        seen.looked_at = self._clock()
        try:
            found = await balance(purse.network, purse.asset, purse.payer, urls, self._seconds)
        except RpcError:  # paying needs no balance; `check` says what is wrong with the RPC
            return
        seen.left = found
        self._end_rests(purse, found)
        self._warn(purse, seen, price)

    def _end_rests(self, purse: _Purse, found: int) -> None:
        for key, known in list(self._shortfalls.items()):
            if key[1] != purse.key:
                continue
            if known.balance is None:
                known.balance = found
            elif found != known.balance:
                del self._shortfalls[key]

    def _warn(self, purse: _Purse, seen: _Seen, price: int) -> None:
        left = seen.left or 0
        if left >= LOW_REQUESTS * price:
            seen.warned = False
        elif not seen.warned:
            seen.warned = True
            count = left // price
            enough = f"enough for {count} request{'' if count == 1 else 's'}" if count else "not enough for one request"
            logger.warning(
                "x402: the wallet %s has %s on %s, %s: %s wallet fund",
                *(purse.payer, _held(purse, left), purse.network.name, enough, program()),
            )


def _held(purse: _Purse, units: int) -> str:
    return f"{format_usd(held_micro_usd(purse.asset, units))} {purse.asset.symbol}"


def _units(asset: Asset, micro_usd: int) -> int:
    """Atomic units for millionths of a dollar."""
    return max(
        1,
        int(micro_usd * 10 ** (asset.decimals - 6)) if asset.decimals >= 6 else micro_usd // 10 ** (6 - asset.decimals),
    )
