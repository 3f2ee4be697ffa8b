"""May this be paid? Admits, or refuses with a reason that names the option to change. Pure: no clock, no ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from ..errors import Refused
from ..limits.limits import Budget, for_request
from ..protocol.amounts import format_usd
from ..protocol.messages import PaymentRequired, PaymentRequirements
from ..protocol.networks import Asset, Family, Network, NetworkTable
from ..protocol.strict_json import shown
from ..settings.settings import Settings
from ..wallet.sources import EVM_VARIABLE, SVM_VARIABLE

SCHEME = "exact"
"""The one scheme that is paid: its amount is the price. `upto` and `batch-settlement` sign more than they cost."""

KEY_VARIABLES: dict[Family, str] = {"evm": EVM_VARIABLE, "svm": SVM_VARIABLE}


@dataclass(frozen=True)
class Offer:
    """One entry of a challenge that the table knows: what would be paid, to whom, on which chain."""

    requirement: PaymentRequirements
    network: Network
    asset: Asset

    @property
    def micro_usd(self) -> int:
        """Its price in millionths of a dollar."""
        return self.asset.micro_usd(self.requirement.amount)

    def __str__(self) -> str:
        return f"{format_usd(self.micro_usd)} {self.asset.symbol} on {self.network.name}"


@dataclass(frozen=True)
class Purpose:
    """What a payment is for: the client's request, as far as limits and the ledger care."""

    method: str
    host: str
    """Of the upstream."""
    path: str
    """Without its query."""
    model: str | None = None
    """None: the request names none that could be read."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f" ({self.model})" if self.model else "")


def choose(required: PaymentRequired, settings: Settings, wallets: set[Family]) -> Offer:
    """The offer to pay: one that a wallet is there for and that the allow lists let pass, by the user's order of
    networks, then the cheapest.

    The position in the challenge decides nothing; among equals the table's order does. Raises Refused when there is
    none, with what was asked for and what to set: `no_wallet`, `network_not_allowed`, `asset_not_allowed`,
    `pay_to_not_allowed`, `scheme_not_supported` or `challenge_invalid`.
    """
    known = list(_offers(required, settings.networks))
    payable = [offer for offer in known if offer.network.family in wallets]
    if not payable:
        raise _nothing_to_pay(required, settings.networks, known)
    objections = [_objection(offer, settings) for offer in payable]
    allowed = [offer for offer, objection in zip(payable, objections, strict=True) if objection is None]
    if not allowed:
        raise next(objection for objection in objections if objection is not None)
    if len(allowed) == 1:
        return allowed[0]
    order = {name: rank for rank, name in enumerate(settings.preference)}
    rows = {network.caip2: row for row, network in enumerate(settings.networks)}

    def rank(offer: Offer) -> tuple[int, int, int, str]:
        name = offer.network.caip2
        text = json.dumps(offer.requirement.raw, sort_keys=True)  # tells equals apart, whatever their order
        return order.get(name, len(order)), offer.micro_usd, rows[name], text

    return min(allowed, key=rank)


def _objection(offer: Offer, settings: Settings) -> Refused | None:
    """What an allow list has against `offer`."""
    network, asset = offer.network, offer.asset
    fold = str.lower if network.family == "evm" else str
    pay_to = offer.requirement.pay_to
    if settings.allow_networks and network.caip2 not in settings.allow_networks:
        where = f"The network {network.name} is not in the option x402_allow_networks"
        return _not_allowed("network_not_allowed", offer, where)
    if settings.allow_assets and not {asset.symbol.upper(), fold(asset.address)} & set(settings.allow_assets):
        where = f"The asset {asset.symbol} ({asset.address}) is not in the option x402_allow_assets"
        return _not_allowed("asset_not_allowed", offer, where)
    if settings.allow_pay_to and fold(pay_to) not in settings.allow_pay_to:
        where = f"The address {shown(pay_to)} is not in the option x402_allow_pay_to"
        return _not_allowed("pay_to_not_allowed", offer, where)
    return None


def _not_allowed(code: str, offer: Offer, where: str) -> Refused:
    return Refused(
        code,
        f"The gateway asks {offer} to {shown(offer.requirement.pay_to)}. {where} (nor in x402.toml). Nothing was paid. "
        "To allow it, add it there.",
        asked=str(offer),
    )


def admit(offer: Offer, purpose: Purpose, settings: Settings) -> tuple[Budget, ...]:
    """Let `offer` pass for `purpose`, and say which budgets it needs room in.

    Raises Refused: `upstream_not_allowed` or `over_request_limit`.
    """
    if settings.allow_hosts and purpose.host.lower() not in settings.allow_hosts:
        raise Refused(
            "upstream_not_allowed",
            f"The gateway asks {offer}. The upstream {purpose.host} is not in the option x402_allow_hosts "
            "(or allow_hosts in x402.toml). Nothing was paid. To allow it, add it there.",
            asked=str(offer),
        )
    limits = for_request(settings.limits, purpose.model, purpose.path)
    if offer.micro_usd > settings.max_request:
        raise _over_limit(offer, settings.max_request, "", "raise the option x402_max_request (or max_request in")
    for limit in limits:
        if limit.max_request is not None and offer.micro_usd > limit.max_request:
            where = f" for {limit.scope}"
            raise _over_limit(offer, limit.max_request, where, "raise max_request in that [[limit]] (in")
    return (*settings.budgets, *(budget for limit in limits for budget in limit.budgets))


def _over_limit(offer: Offer, limit: int, where: str, remedy: str) -> Refused:
    return Refused(
        "over_request_limit",
        f"The gateway asks {offer} for this request, more than the {format_usd(limit)} USDC that one request{where} "
        f"may cost. Nothing was paid. To allow it, {remedy} x402.toml).",
        asked=str(offer),
    )


def over_budget(offer: Offer, budget: Budget, spent: int, returns_in: float | None, now: float) -> Refused:
    """The refusal for a budget without room. `returns_in`: seconds until it has, from `now` (Unix seconds), or None."""
    if returns_in is None:
        when = "Room for it never returns by itself"
    else:
        moment = datetime.fromtimestamp(now + returns_in, timezone.utc).astimezone()
        when = f"Room for it returns at {moment:%Y-%m-%d %H:%M:%S %z} (in {_duration(returns_in)})"
    where = "budget in that [[limit]] of x402.toml" if str(budget.scope) else "the option x402_budget"
    return Refused(
        "over_budget",
        f"The gateway asks {offer}, and of the budget of {budget} {format_usd(spent)} USDC are spent or under way. "
        f"Nothing was paid. {when}. To allow it at once, raise {where}.",
        asked=str(offer),
    )


def _duration(seconds: float) -> str:
    minutes = -(-int(seconds) // 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{minutes} min" if minutes else ""]
    return " ".join(part for part in parts if part) or "a moment"


def dry_run(offer: Offer, purpose: Purpose) -> Refused:
    """The refusal that is the result of a dry run."""
    return Refused(
        "dry_run",
        f"Dry run: {offer} would have been paid to {shown(offer.requirement.pay_to)} for {purpose!s:.200}. Nothing was "
        "signed. To pay, switch the option x402_dry_run off.",
        asked=str(offer),
    )


def _offers(required: PaymentRequired, table: NetworkTable) -> Iterator[Offer]:
    """The entries that can be paid."""
    for requirement in required.accepts:
        network = table.get(requirement.network)
        asset = None if network is None else network.asset(requirement.asset)
        if requirement.scheme == SCHEME and network is not None and asset is not None:
            yield Offer(requirement, network, asset)


def _reasons(required: PaymentRequired, table: NetworkTable) -> Iterator[tuple[str, str]]:
    """Why each entry is no offer, where none is: a refusal's code and half a sentence."""
    for requirement in required.accepts:
        network = table.get(requirement.network)
        if requirement.scheme != SCHEME:
            yield "scheme_not_supported", f"the scheme {shown(requirement.scheme, 40)} on {shown(requirement.network)}"
        elif network is None:
            yield "network_not_allowed", f"the network {shown(requirement.network)}"
        else:
            yield "asset_not_allowed", f"the asset {shown(requirement.asset, 80)} on {network.name}"


def _nothing_to_pay(required: PaymentRequired, table: NetworkTable, known: list[Offer]) -> Refused:
    if known:
        cheapest = {offer.network.name: offer for offer in sorted(known, key=lambda o: -o.micro_usd)}
        asked = " or ".join(str(offer) for offer in cheapest.values())
        variables = " or ".join(sorted({KEY_VARIABLES[offer.network.family] for offer in known}))
        return Refused(
            "no_wallet",
            f"The gateway asks {asked}, and no wallet is loaded for that. Nothing was paid. Set {variables} to the key "
            "of a wallet that holds USDC there, and start the proxy again.",
        )
    reasons = list(_reasons(required, table))
    if not reasons:
        said = "; ".join(required.unreadable[:3]) or "it offers no way to pay"
        return Refused("challenge_invalid", f"The gateway's challenge cannot be paid: {said:.400}. Nothing was paid.")
    asked = ", ".join(dict.fromkeys(text for _, text in reasons[:8]))
    names = ", ".join(network.name for network in table)
    return Refused(
        reasons[0][0],
        f"The gateway wants to be paid by {asked}. What can be paid is the scheme {SCHEME!r} with USDC on {names}. "
        "Nothing was paid. Another network or asset is added with [[network]] or [[asset]] in x402.toml.",
    )
