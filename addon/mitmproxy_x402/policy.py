"""May this be paid? Admits, or refuses with a reason that names the option to change. Pure: no clock, no ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import Refused
from .protocol.messages import Caip2, PaymentRequired, PaymentRequirements
from .protocol.networks import Asset, Family, Network, NetworkTable
from .protocol.strict_json import shown
from .settings import Settings, format_usd
from .wallet import EVM_VARIABLE, SVM_VARIABLE

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


def choose(
    required: PaymentRequired, table: NetworkTable, preference: tuple[Caip2, ...], wallets: set[Family]
) -> Offer:
    """The offer to pay: one that a wallet is there for, by the user's order of networks, then the cheapest.

    The position in the challenge decides nothing; among equals the table's order does. Raises Refused when there is
    none, with what was asked for and what to set: `no_wallet`, `network_not_allowed`, `asset_not_allowed`,
    `scheme_not_supported` or `challenge_invalid`.
    """
    known = [offer for offer in _offers(required, table) if isinstance(offer, Offer)]
    payable = [offer for offer in known if offer.network.family in wallets]
    if not payable:
        raise _nothing_to_pay(required, table, known)
    order = {name: rank for rank, name in enumerate(preference)}
    rows = {network.caip2: row for row, network in enumerate(table)}

    def rank(offer: Offer) -> tuple[int, int, int, str]:
        name = offer.network.caip2
        text = json.dumps(offer.requirement.raw, sort_keys=True)  # tells equals apart, whatever their order
        return order.get(name, len(order)), offer.micro_usd, rows[name], text

    return min(payable, key=rank)


def admit(offer: Offer, settings: Settings) -> None:
    """Let `offer` pass, or raise Refused: `over_request_limit`."""
    if offer.micro_usd > settings.max_request:
        raise Refused(
            "over_request_limit",
            f"The gateway asks {offer} for this request, more than the {format_usd(settings.max_request)} USDC that "
            "one request may cost. Nothing was paid. To allow it, raise the option x402_max_request "
            "(or max_request in x402.toml).",
        )


def _offers(required: PaymentRequired, table: NetworkTable) -> Iterator[Offer | tuple[str, str]]:
    """Every entry as an offer, or as the reason why it is none: a refusal's code and half a sentence."""
    for requirement in required.accepts:
        network = table.get(requirement.network)
        asset = None if network is None else network.asset(requirement.asset)
        if requirement.scheme != SCHEME:
            yield "scheme_not_supported", f"the scheme {shown(requirement.scheme, 40)} on {shown(requirement.network)}"
        elif network is None:
            yield "network_not_allowed", f"the network {shown(requirement.network)}"
        elif asset is None:
            yield "asset_not_allowed", f"the asset {shown(requirement.asset, 80)} on {network.name}"
        else:
            yield Offer(requirement, network, asset)


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
    reasons = [offer for offer in _offers(required, table) if not isinstance(offer, Offer)]
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
