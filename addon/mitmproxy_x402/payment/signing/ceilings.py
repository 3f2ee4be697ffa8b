"""Decides whether a payment over Permit2 can be made now, and whether a ceiling (`upto`) is likely to be cheaper.

Facilitators check each ceiling on its own. So here the amounts that earlier payments may still take, by the ledger,
plus this one must fit the balance, and those over Permit2 the allowance. If the allowance is too small and the seller
sponsors one, the payment carries a permit for exactly this ceiling; no other payment over Permit2 is made until it has
ended, because a permit replaces the allowance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...chain.permit2 import Standing, standing
from ...errors import Refused, RpcError
from ...ledger.interface import Charge, Ledger, Pending
from ...program import program
from ...protocol.amounts import format_usd
from ...protocol.networks import Network
from ...schemes.permit2 import sponsors
from ..policy import Offer, Purpose, Schemes

EXACT_SECONDS = 600
"""Seconds without `upto` and Permit2 on a network after a seller has refused one."""
RPC_SECONDS = 60
"""The same if no RPC answers: otherwise each request would wait for the time-out."""
PROBES = 3
"""Ceilings that are tried, with `auto`, to learn what is charged for a path and model."""
MOST_TIMES = 16
"""A ceiling of more times the exact price is not paid with `auto`, whatever it came to so far: a seller that charged
little to get there could then take all of it. Sellers of language models ask for some eight times."""
QUANTILE = 0.75
"""Share of requests for which a ceiling has to be cheaper than the exact price."""
DECAY = 0.92
"""Weight of each charge relative to the next newer one."""

OVER_PERMIT2 = ("permit2", "upto")


class Ceilings:
    """The Permit2 payments of one wallet.

    `rpcs` returns the URLs to ask about a network; `seconds` is the time-out of each.
    """

    def __init__(
        self,
        ledger: Ledger,
        schemes: Schemes,
        rpcs: Callable[[Network], Sequence[str]],
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._schemes = schemes
        self._rpcs = rpcs
        self._seconds = seconds
        self._clock = clock
        self._rests_until: dict[str, float] = {}

    def order(self, offers: list[Offer], purpose: Purpose) -> list[Offer]:
        """Order `offers`, which are ranked by price, so that ceilings have their place for `purpose`.

        A ceiling comes after the exact price of its network, unless it is likely to be cheaper. Networks on which
        Permit2 is paused are left out if there is another offer.
        """
        others = [offer for offer in offers if offer.method not in OVER_PERMIT2]
        now = self._clock()
        rested = [
            offer
            for offer in offers
            if offer.method in OVER_PERMIT2 and self._rests_until.get(offer.network.caip2, 0) <= now
        ]
        if not others:
            return offers
        ceilings = [offer for offer in rested if offer.is_ceiling]
        ordered = [offer for offer in offers if offer in others or (offer in rested and not offer.is_ceiling)]
        for ceiling in ceilings:
            at = next((at for at, offer in enumerate(ordered) if offer.network == ceiling.network), None)
            if at is None:
                ordered.append(ceiling)
                continue
            known = replace(ceiling, exact=ordered[at].micro_usd)
            ordered.insert(at if self._is_better(known, ordered[at], purpose) else len(ordered), known)
        return ordered

    def _is_better(self, ceiling: Offer, exact: Offer, purpose: Purpose) -> bool:
        if self._schemes == "upto":
            return True
        if ceiling.micro_usd <= exact.micro_usd:
            return True
        if ceiling.micro_usd > MOST_TIMES * exact.micro_usd:
            return False
        expected = expected_charge(ceiling.micro_usd, self._ledger.charges(purpose.path, purpose.model))
        return expected is None or expected < exact.micro_usd

    def refused(self, offer: Offer) -> None:
        """Note that a seller refuses payments like `offer`: its network is paid another way for EXACT_SECONDS."""
        self._rests_until[offer.network.caip2] = self._clock() + EXACT_SECONDS

    async def look(self, offer: Offer, payer: str, extensions: Any) -> Look:
        """Ask chain and ledger before `offer` is reserved. Raises RpcError, and what `permit_nonce` does."""
        before = self._ledger.pending(payer, offer.network.caip2, offer.asset.address, 0)
        urls = self._rpcs(offer.network)
        try:
            known = await standing(offer.network, offer.asset, payer, urls, self._seconds)
        except RpcError:
            self._rests_until[offer.network.caip2] = self._clock() + RPC_SECONDS
            raise
        _permit_nonce(offer, known, before, sponsored=sponsors(extensions, offer.asset))
        return Look(known, before)

    def permit_nonce(self, offer: Offer, payer: str, row: int, look: Look, extensions: Any) -> int | None:
        """The token's nonce for the permit that the payment of `offer` has to carry; None: it needs none.

        `row` is its reservation in the ledger. Raises Refused: `balance_too_low` or `permit2_allowance_missing`.
        """
        after = self._ledger.pending(payer, offer.network.caip2, offer.asset.address, row)
        return _permit_nonce(offer, look.standing, look.with_(after), sponsored=sponsors(extensions, offer.asset))


@dataclass(frozen=True)
class Look:
    """A recent look at the balance and the allowance of a wallet."""

    standing: Standing
    before: Pending
    """The amounts that earlier payments could still take, just before the chain was asked."""

    def with_(self, after: Pending) -> Pending:
        """The amounts that can still be taken from what `standing` shows; `after` is the ledger's figure now.

        Amounts taken in between may or may not be in `standing` already, so they are included.
        """
        before = self.before
        if before == after:
            return after
        return Pending(before.all + after.all, before.permit2 + after.permit2)


def _permit_nonce(offer: Offer, known: Standing, pending: Pending, *, sponsored: bool) -> int | None:
    """Implements `Ceilings.permit_nonce`. The ledger's amounts are millionths of a dollar, rounded up."""
    scale = 10**offer.asset.decimals
    most = offer.requirement.amount
    before, over_permit2 = (_units(micro_usd, scale) for micro_usd in (pending.all, pending.permit2))
    if known.balance < before + most:
        has = format_usd(known.balance * 10**6 // scale)
        held = f", of which {format_usd(pending.all)} may still be taken by earlier payments" if before else ""
        raise Refused(
            "balance_too_low",
            f"The gateway asks {offer}, and the wallet holds {has} {offer.asset.symbol}{held}. Nothing was paid. A "
            "ceiling must be there in whole: send more to the wallet, or set the option x402_schemes to exact.",
            asked=str(offer),
        )
    if known.allowance >= over_permit2 + most:
        return None
    if sponsored and known.nonce is not None and over_permit2 == 0:
        return known.nonce
    allowed = format_usd(known.allowance * 10**6 // scale)
    raise Refused(
        "permit2_allowance_missing",
        f"The gateway asks {offer} over Permit2, which may take {allowed} {offer.asset.symbol} of this wallet"
        + (f" ({format_usd(pending.permit2)} of it for earlier payments)" if over_permit2 else "")
        + f". Nothing was paid. To raise that, run {program()} wallet allow, which names the dangers.",
        asked=str(offer),
    )


def _units(micro_usd: int, scale: int) -> int:
    return -(-micro_usd * scale // 10**6)


def expected_charge(ceiling: int, charges: Sequence[Charge]) -> int | None:
    """What `ceiling` will come to, after `charges` (the newest first); None: not enough is known, so it is tried.

    What three requests of four cost at most, and no less than they cost on average: a seller that charges little now
    and then, and all at other times, is no bargain. All in millionths of a dollar.
    """
    known = [charge for charge in charges if charge.ceiling > 0]
    if len(known) < PROBES:
        return None
    weighed = sorted((charge.charged / charge.ceiling, DECAY**age) for age, charge in enumerate(known))
    total = sum(weight for _, weight in weighed)
    average = sum(share * weight for share, weight in weighed) / total
    wanted, usual = QUANTILE * total, weighed[-1][0]
    for share, weight in weighed:
        wanted -= weight
        if wanted <= 0:
            usual = share
            break
    return int(max(usual, average) * ceiling) + 1
