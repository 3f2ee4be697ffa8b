"""Watches wallet balances: warns when one runs low, and pauses payments after a gateway has called one unfunded.

Only RPCs that the user has named are asked. Between two look-ups, signed amounts are subtracted.

A wallet without money would otherwise leave a signature with every request, each of which counts against the budget
until it is dead. After a gateway has said that the wallet cannot pay an amount, nothing of that amount or more is
signed for REST_SECONDS on that host, network and asset. A changed balance ends the pause early; a sufficient one does
not, because a gateway may call a full wallet empty to collect one signature after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..chain.balance import balance, held_micro_usd
from ..errors import Refused, RpcError
from ..machine.program import program
from ..protocol.amounts import format_usd
from ..protocol.networks import Asset, Network, NetworkTable
from ..quick_init import quick_init
from .offer import Offer, Payers

LOW_REQUESTS = 20
"""A wallet that pays for fewer requests than this is low."""
TYPICAL_MICRO_USD = 5_000
"""Assumed price of a request before one was paid: half a cent, in millionths of a dollar."""
AGAIN_SECONDS = 600
"""Seconds between two look-ups of a balance that is known to be low."""
REST_SECONDS = 60
"""Seconds for which nothing is signed after a gateway has said that the wallet cannot pay."""
LOOK_SECONDS = 5
"""Seconds between two look-ups of the balance during that pause."""
MAX_SHORTFALLS = 100
"""Most shortfalls that are remembered."""

logger = logging.getLogger(__name__)


@quick_init
@dataclass(frozen=True)
class _Purse:
    """One token of one wallet, on one network."""

    network: Network
    asset: Asset
    payer: str
    """Address of the wallet."""
    is_at_circle: bool = False
    """Whether it is the wallet's deposit with Circle Gateway, which no RPC is asked about."""

    @property
    def key(self) -> _Key:
        """The fields that identify it."""
        return self.network.caip2, self.asset.address, self.payer, self.is_at_circle


_Key = tuple[str, str, str, bool]


def _purse(offer: Offer, payer: str) -> _Purse:
    return _Purse(offer.network, offer.asset, payer, offer.method == "gateway")


@dataclass
class _Seen:
    """The last known balance of a purse."""

    left: int | None = None
    """Atomic units; None: not looked up yet."""
    looked_at: float = 0.0
    looking: asyncio.Task[None] | None = None
    warned: bool = False
    """Whether the low balance was logged; reset when it is no longer low."""


@dataclass
class _Shortfall:
    """A gateway's claim that a purse cannot pay, and the balance looked up since."""

    amount: int
    """The amount that it could not pay, in atomic units."""
    since: float
    balance: int | None = None
    """Atomic units at the first look-up after the claim; None: not looked up yet."""


class Balances:
    """The balances of one payer. `rpcs` returns the user's URLs for a network; `seconds` is the time-out of each."""

    def __init__(self, rpcs: Callable[[Network], Sequence[str]], seconds: float, clock: Callable[[], float]) -> None:
        self._rpcs = rpcs
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[_Key, _Seen] = {}
        self._shortfalls: dict[tuple[str, _Key], _Shortfall] = {}
        """By host and purse."""

    async def look(self, networks: NetworkTable, payers: Payers) -> None:
        """Look up the balances on all networks that have a named RPC. Called at start-up; never raises."""
        for network in networks:
            payer = payers.get(network.family)
            if payer is not None and network.assets:
                asset = network.assets[0]
                await self._ask(_Purse(network, asset, payer), _units(asset, TYPICAL_MICRO_USD))

    def signed(self, offer: Offer, payer: str) -> None:
        """Subtract a payment of `offer` that was signed, and look the balance up again if it runs low."""
        purse, price = _purse(offer, payer), offer.requirement.amount
        seen = self._seen.get(purse.key)
        if seen is None or seen.left is None:
            return
        seen.left = max(0, seen.left - price)
        if seen.left >= LOW_REQUESTS * price:
            seen.warned = False
        elif not seen.warned or self._clock() - seen.looked_at >= AGAIN_SECONDS:
            self._ask_soon(purse, price)  # the chain is more accurate than our sum

    def cannot_pay(self, host: str, offer: Offer, payer: str) -> None:
        """Note that the gateway at `host` says that `payer` cannot pay `offer`."""
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
        """Raise Refused, `wallet_unfunded`, if a gateway has said so of `payer` and `offer` within REST_SECONDS."""
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
        """Look the balance up in the background, unless that was done within LOOK_SECONDS."""
        seen = self._seen.get(purse.key)
        if seen is None or not 0 <= self._clock() - seen.looked_at < LOOK_SECONDS:
            self._ask_soon(purse, offer.requirement.amount)

    def _ask_soon(self, purse: _Purse, price: int) -> None:
        seen = self._seen.setdefault(purse.key, _Seen())
        if not purse.is_at_circle and self._rpcs(purse.network) and (seen.looking is None or seen.looking.done()):
            with contextlib.suppress(RuntimeError):  # no event loop runs, so the balance cannot be looked up
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
