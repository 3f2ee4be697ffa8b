"""Decides whether a payment over Permit2 can be made now, and whether a ceiling (`upto`) is likely to be cheaper.

Facilitators check each ceiling on its own. So here the amounts that earlier payments may still take, by the ledger,
plus this one must fit the balance, and those over Permit2 the allowance. If the allowance is too small and the seller
sponsors one, the payment carries a permit for exactly this ceiling; no other payment over Permit2 is made until it has
ended, or the token's nonce shows that the permit was used, because a permit replaces the allowance.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from ...chain.permit2 import Standing, standing
from ...errors import EvmRpcError, Refused, RpcError
from ...ledger.interface import Charge, Ledger, Pending
from ...machine.program import program
from ...protocol.amounts import format_usd
from ...protocol.messages import PaymentRequired
from ...protocol.networks import Network
from ...reconcile.rpcs import remedy
from ...schemes.permit2 import sponsors
from ..offer import Offer, Purpose, Schemes

EXACT_SECONDS = 600
"""Seconds without `upto` and Permit2 on a network after a seller has refused one."""
RPC_SECONDS = 60
"""Seconds without them if no RPC answers: otherwise each request would wait for the time-out."""
PROBES = 3
"""Ceilings that are tried, with `auto`, to learn what is charged for a path and model."""
MOST_TIMES = 16
"""A ceiling of more times the exact price is not paid with `auto`, whatever it came to so far: a seller that charged
little to get there could then take all of it. Sellers of language models ask for some eight times."""
QUANTILE = 0.75
"""Share of requests for which a ceiling has to be cheaper than the exact price."""
DECAY = 0.92
"""Weight of each charge relative to the next newer one."""

UNSIGNED_SECONDS = 900
"""Seconds for which a permit is taken to be under way, until it is signed and its end is known."""
MOST_PERMITS = 1000
"""Permits of one token that are remembered, newest first."""

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
        self._permits: dict[tuple[str, str, str], OrderedDict[int, Permit]] = {}
        """The newest permits: by wallet, network and token, then by the token's nonce."""

    def order(self, offers: Sequence[Offer], purpose: Purpose) -> Sequence[Offer]:
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
        fixed = [offer for offer in offers if offer in others or (offer in rested and not offer.is_ceiling)]
        exact: dict[str, Offer] = {}
        for offer in fixed:
            exact.setdefault(offer.network.caip2, offer)
        first: dict[str, list[Offer]] = {}
        last: list[Offer] = []
        for ceiling in (offer for offer in rested if offer.is_ceiling):  # the cheapest first
            beside = exact.get(ceiling.network.caip2)
            known = ceiling if beside is None else replace(ceiling, exact=beside.micro_usd)
            if beside is not None and self._is_better(known, beside, purpose):
                first.setdefault(ceiling.network.caip2, []).append(known)
            else:
                last.append(known)
        return [*(each for offer in fixed for each in (*first.pop(offer.network.caip2, ()), offer)), *last]

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

    async def look(self, offer: Offer, payer: str, required: PaymentRequired) -> Look:
        """Ask chain and ledger before `offer` is reserved. Raises RpcError, and what `permit_nonce` does."""
        before = self._ledger.pending(payer, offer.network.caip2, offer.asset.address, 0)
        urls = self._rpcs(offer.network)
        try:
            known = await standing(offer.network, offer.asset, payer, urls, self._seconds)
        except RpcError as error:
            self._rests_until[offer.network.caip2] = self._clock() + RPC_SECONDS
            raise EvmRpcError(f"{error} To pay {offer} over Permit2, {remedy(offer.network)}.") from None
        if not before.permit2:
            self._permits.pop(_token(offer, payer), None)  # each has been settled or has expired
        self._permit_nonce(offer, payer, known, before, required)
        return Look(known, before)

    def permit_nonce(self, offer: Offer, payer: str, row: int, look: Look, required: PaymentRequired) -> int | None:
        """The token's nonce for the permit that the payment of `offer` has to carry; None: it needs none.

        `row` is its reservation in the ledger. Raises Refused: `balance_too_low`, `permit2_allowance_missing` or
        `permit_under_way`.
        """
        after = self._ledger.pending(payer, offer.network.caip2, offer.asset.address, row)
        nonce = self._permit_nonce(
            offer, payer, look.standing, look.with_(after), required, is_alone=look.before == after
        )
        if nonce is None:  # it counts on the allowance: no permit is signed beside it, whatever became of earlier ones
            self._permits.pop(_token(offer, payer), None)
        else:
            self.signed(offer, payer, row, nonce, self._clock() + UNSIGNED_SECONDS)
        return nonce

    def signed(self, offer: Offer, payer: str, row: int, nonce: int, until: float) -> None:
        """Note that the payment `row` carries a permit with the token's `nonce`, and lives `until` (Unix seconds)."""
        permits = self._permits.setdefault(_token(offer, payer), OrderedDict())
        permits[nonce] = Permit(row, until)
        while len(permits) > MOST_PERMITS:
            permits.popitem(last=False)

    def _permit_nonce(
        self,
        offer: Offer,
        payer: str,
        known: Standing,
        pending: Pending,
        required: PaymentRequired,
        *,
        is_alone: bool = True,
    ) -> int | None:
        """Implements `permit_nonce` for what is `known` of the chain and `pending` by the ledger.

        `is_alone`: no other payment was made or settled since the chain was asked.
        """
        now, at = self._clock(), -1 if known.nonce is None else known.nonce
        permits = self._permits.get(_token(offer, payer)) or OrderedDict[int, Permit]()
        ends = [permit.until for permit in permits.values() if permit.until > now]
        unused = [nonce for nonce, permit in permits.items() if nonce >= at and permit.until > now]
        used = {permit.row for nonce, permit in permits.items() if nonce < at}
        return _permit_nonce(
            offer,
            known,
            pending,
            # the header of version 1 carries no permit
            sponsored=required.x402_version == 2 and sponsors(required.extensions, offer.asset),
            # all that is pending came with permits that are used
            used=is_alone and not unused and pending.rows <= used,
            until=max(ends, default=None),
        )


def _token(offer: Offer, payer: str) -> tuple[str, str, str]:
    return payer, offer.network.caip2, offer.asset.address


@dataclass(frozen=True)
class Permit:
    """A permit that was signed with a payment."""

    row: int
    """The payment's row in the ledger."""
    until: float
    """Unix seconds until which the payment can be settled."""


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
        return Pending(before.all + after.all, before.permit2 + after.permit2, before.rows | after.rows)


def _permit_nonce(
    offer: Offer, known: Standing, pending: Pending, *, sponsored: bool, used: bool, until: float | None
) -> int | None:
    """Implements `Ceilings.permit_nonce`. The ledger's amounts are millionths of a dollar, rounded up.

    `used` says whether the permits of all `pending` payments are, and `until` when the last of them ends, if known.
    """
    scale = 10**offer.asset.decimals
    most = offer.requirement.amount
    before, over_permit2 = (_units(micro_usd, scale) for micro_usd in (pending.all, pending.permit2))
    if known.balance < before + most:
        has = format_usd(known.balance * 10**6 // scale)
        held = f", and earlier payments may still take {format_usd(pending.all)}" if before else ""
        raise Refused(
            "balance_too_low",
            f"The gateway asks {offer}, and the wallet holds {has} {offer.asset.symbol}{held}. Nothing was paid. "
            f"It must hold the whole {'ceiling' if offer.is_ceiling else 'amount'}{' in addition' if before else ''}: "
            f"send {offer.asset.symbol} to the wallet ({program()} wallet fund shows how).",
            asked=str(offer),
            why=f"the wallet holds {has} {offer.asset.symbol}{held}",
        )
    if known.allowance >= over_permit2 + most:
        return None
    if sponsored and known.nonce is not None:
        if over_permit2 == 0 or used:
            return known.nonce
        end = "" if until is None else f"{datetime.fromtimestamp(until, timezone.utc).astimezone():%H:%M:%S %z}"
        raise Refused(
            "permit_under_way",
            f"The gateway asks {offer} over Permit2, with a permit of which only one can be under way at a time, and "
            f"earlier payments over Permit2 may still take {format_usd(pending.permit2)} {offer.asset.symbol}. Nothing "
            f"was paid. Ask again when they are settled, or have expired{end and f', at the latest at {end}'}. To pay "
            f"several at a time, run {program()} wallet allow, which names the dangers.",
            asked=str(offer),
            why=f"earlier payments over Permit2 may still take {format_usd(pending.permit2)} {offer.asset.symbol}"
            f"{end and f' until {end}'}, and only one permit can be under way ({program()} wallet allow)",
        )
    allowed = f"{format_usd(known.allowance * 10**6 // scale)} {offer.asset.symbol} of this wallet" + (
        f", and earlier payments may still take {format_usd(pending.permit2)}" if over_permit2 else ""
    )
    raise Refused(
        "permit2_allowance_missing",
        f"The gateway asks {offer} over Permit2, which may take {allowed}. Nothing was paid. To raise that, run "
        f"{program()} wallet allow, which names the dangers.",
        asked=str(offer),
        why=f"Permit2 may take {allowed} ({program()} wallet allow)",
    )


def _units(micro_usd: int, scale: int) -> int:
    return -(-micro_usd * scale // 10**6)


def expected_charge(ceiling: int, charges: Sequence[Charge]) -> int | None:
    """Estimate the charge under `ceiling` from past `charges`, newest first; None: too few are known, so it is tried.

    Returns the QUANTILE of the weighted charges, but at least their mean, so that a seller that charges little now and
    then and everything at other times does not look cheap. All amounts are millionths of a dollar.
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
