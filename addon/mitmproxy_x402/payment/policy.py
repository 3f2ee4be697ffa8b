"""Chooses an offer and admits it, or refuses with a reason that names the option to change. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal, NamedTuple

from ..errors import ChallengeError, Refused
from ..limits.limits import NOTHING_ASKED, Asked, Budget, Limit, for_request
from ..limits.whole_request import WholeRequest, normal_path
from ..program import program
from ..protocol.amounts import format_usd
from ..protocol.evm.address import EVM_ADDRESS
from ..protocol.messages import Caip2, PaymentRequired, PaymentRequirements
from ..protocol.networks import Asset, Family, Network, NetworkTable
from ..protocol.strict_json import shown
from ..schemes import GATEWAY_DOMAIN, Method, exact_evm, exact_svm, gateway, method_of, permit2
from ..wallet.sources import EVM_VARIABLE, SVM_VARIABLE

KEY_VARIABLES: dict[Family, str] = {"evm": EVM_VARIABLE, "svm": SVM_VARIABLE}
MAX_LISTED = 6
"""Most entries for which a refusal says why they cannot be paid."""

Schemes = Literal["exact", "auto", "upto"]
Payers = Mapping[Family, "str | None"]
"""The paying address for each family of chains; None: no wallet, so nothing will be signed (dry run)."""


@dataclass(frozen=True)
class Rules:
    """The user's settings that decide what may be paid. Amounts are millionths of a dollar."""

    networks: NetworkTable
    max_request: int
    max_validity: int
    """Most seconds that an EVM authorization may be valid."""
    preference: tuple[Caip2, ...] = ()
    """Networks in order of preference; empty: the cheapest offer."""
    schemes: Schemes = "exact"
    gateway: bool = False
    """Whether Circle Gateway may be paid, with signatures that live for seven days."""
    budgets: tuple[Budget, ...] = ()
    limits: tuple[Limit, ...] = ()
    allow_pay_to: tuple[str, ...] = ()
    """Payees. Each allow list, when empty, allows everything. EVM addresses are in lower case."""
    allow_networks: tuple[Caip2, ...] = ()
    allow_assets: tuple[str, ...] = ()
    """Symbols in upper case, or addresses (EVM: lower case)."""
    allow_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Offer:
    """One entry of a challenge on a known network: what would be paid, to whom, on which chain."""

    requirement: PaymentRequirements
    network: Network
    asset: Asset
    method: Method = "exact"
    exact: int | None = None
    """For a ceiling: the seller's exact price on the same network, in millionths of a dollar."""

    @property
    def micro_usd(self) -> int:
        """The most that it can cost, in millionths of a dollar."""
        return self.asset.micro_usd(self.requirement.amount)

    @property
    def is_ceiling(self) -> bool:
        """Whether the seller may charge less than the amount that is signed."""
        return self.method == "upto"

    def __str__(self) -> str:
        most = "at most " if self.is_ceiling else ""
        return f"{most}{format_usd(self.micro_usd)} {self.asset.symbol} on {self.network.name}"


@dataclass(frozen=True)
class Purpose:
    """The request that a payment is for, as limits and the ledger see it."""

    method: str
    host: str
    """The upstream's host."""
    path: str
    """The path without its query."""
    model: str | None = None
    """The model; None: none could be read from the request."""
    client: str = ""
    """The client's name, as `hooks.answers.client_name` gives it."""
    whole: WholeRequest | None = field(default=None, compare=False, repr=False)
    """The request's body, read if there are limits for models or paths."""

    def asked(self) -> Asked:
        """The models and path that limits compare, with any doubt; without a body, the fields above."""
        if self.whole is not None:
            return self.whole.read()
        path, doubt = normal_path(self.path)
        return Asked(() if self.model is None else (self.model,), path, path_doubt=doubt)

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f" ({self.model})" if self.model else "")


def choose(required: PaymentRequired, rules: Rules, payers: Payers) -> Offer:
    """The offer to pay: the first of `ranked`, whose errors it raises."""
    return ranked(required, rules, payers)[0]


def ranked(required: PaymentRequired, rules: Rules, payers: Payers) -> list[Offer]:
    """All offers that could be paid, best first: by the user's order of networks, then by price. Never empty.

    An entry is no offer if it cannot be signed, has no wallet, or is forbidden by an allow list. Its position in the
    challenge is ignored; ties follow the order of the network table. Raises Refused if there is none, with what was
    asked for, why it cannot be paid, and what to set: `no_wallet`, `network_not_allowed`, `asset_not_allowed`,
    `pay_to_not_allowed`, `scheme_not_supported` or `challenge_invalid`.
    """
    chosen = [one for one in required.accepts if one.scheme == "exact" or rules.schemes != "exact"]
    offers = [each for each in (_judged(one, rules, payers) for one in chosen) if isinstance(each, Offer)]
    if not offers:
        judged = [_judged(requirement, rules, payers) for requirement in required.accepts]
        raise _nothing_to_pay(required, rules, [each for each in judged if isinstance(each, _Objection)])
    if len(offers) == 1:
        return offers
    order = {name: rank for rank, name in enumerate(rules.preference)}
    rows = {network.caip2: row for row, network in enumerate(rules.networks)}

    def rank(offer: Offer) -> tuple[int, bool, int, bool, int, str]:
        name = offer.network.caip2
        text = json.dumps(offer.requirement.raw, sort_keys=True)  # breaks ties whatever their order
        return (
            order.get(name, len(order)),
            offer.is_ceiling,
            offer.micro_usd,
            offer.method == "gateway",
            rows[name],
            text,
        )

    return sorted(offers, key=rank)


class _Objection(NamedTuple):
    """Why an entry cannot be paid."""

    rank: int
    """How close the entry is to being payable; the closest gives the refusal its code and advice."""
    code: str
    what: str
    """The entry, as in "0.001 USDC on base"."""
    why: str
    """The reason, which completes a sentence about the entry."""
    advice: str = ""
    offer: Offer | None = None


_FORBIDDEN, _NO_WALLET, _NOT_ENABLED, _NOT_CHOSEN, _UNSIGNABLE, _UNKNOWN_ASSET, _UNKNOWN_NETWORK, _UNKNOWN_SCHEME = (
    range(8)
)


def _judged(requirement: PaymentRequirements, rules: Rules, payers: Payers) -> Offer | _Objection:
    network = rules.networks.known(requirement.network)
    where = shown(requirement.network) if network is None else network.name
    method = method_of(requirement, "evm" if network is None else network.family)
    if method is None:
        return _Objection(_UNKNOWN_SCHEME, "scheme_not_supported", *_unknown_scheme(requirement))
    if network is None:
        row = _row_to_paste(requirement, None)
        why, advice = "the network is not known", _paste("there", row)
        what = f"the network {where}"
        return _Objection(_UNKNOWN_NETWORK, "network_not_allowed", what, why, advice)
    asset = network.asset(requirement.asset)
    if asset is None:
        row = _row_to_paste(requirement, network)
        what, why = f"the asset {shown(requirement.asset, 80)} on {where}", "the asset is not known"
        advice = _paste("with it", row)
        return _Objection(_UNKNOWN_ASSET, "asset_not_allowed", what, why, advice)
    offer = Offer(requirement, network, asset, method)
    if rules.networks.get(network.caip2) is None:
        names = ",".join([*(row.name for row in rules.networks), network.name])
        why = "the network is known and not enabled"
        advice = f'To pay there, name it in the option x402_networks, as in --set x402_networks="{names}".'
        return _Objection(_NOT_ENABLED, "network_not_allowed", str(offer), why, advice, offer)
    if method in ("permit2", "upto") and rules.schemes == "exact":
        way = "a ceiling (upto)" if method == "upto" else "Permit2"
        why = f"it is paid by {way}, which is not chosen"
        advice = "To pay so, set the option x402_schemes to auto or upto; docs/configuration.md names the dangers."
        return _Objection(_NOT_CHOSEN, "scheme_not_supported", str(offer), why, advice, offer)
    if method == "gateway" and not rules.gateway:
        why = "it is settled by Circle Gateway, which is not chosen"
        advice = "To pay so, set the option x402_gateway to true; its signatures live for seven days."
        return _Objection(_NOT_CHOSEN, "scheme_not_supported", str(offer), why, advice, offer)
    if network.family not in payers:
        variable = KEY_VARIABLES[network.family]
        return _Objection(_NO_WALLET, "no_wallet", str(offer), f"no wallet is loaded for it ({variable})", "", offer)
    try:
        _check_signable(offer, payers[network.family], rules)
    except ChallengeError as error:
        return _Objection(_UNSIGNABLE, "challenge_invalid", str(offer), _clause(error), "", offer)
    return _forbidden(offer, rules) or offer


def _check_signable(offer: Offer, payer: str | None, rules: Rules) -> None:
    """Raise ChallengeError if `offer` breaks a rule of its scheme, so that it cannot be signed."""
    if offer.method == "permit2" or offer.method == "upto":  # noqa: PLR1714  (for the types)
        permit2.check(
            offer.requirement,
            offer.network,
            offer.asset,
            method=offer.method,
            payer=payer,
            max_validity=rules.max_validity,
        )
    elif offer.method == "gateway":
        gateway.check(offer.requirement, offer.network, offer.asset, payer=payer)
    elif offer.network.family == "svm":
        exact_svm.check(offer.requirement, offer.asset, payer)
    else:
        exact_evm.check(offer.requirement, offer.network, offer.asset, payer, rules.max_validity)


def _clause(error: ChallengeError) -> str:
    text = str(error).removesuffix(" Nothing was signed.").removesuffix(".")
    return text.replace("The challenge's ", "its ").replace("The challenge ", "it ")


def _unknown_scheme(requirement: PaymentRequirements) -> tuple[str, str]:
    transfer = requirement.extra.get("assetTransferMethod")
    by = f" by {shown(transfer, 40)}" if transfer is not None else ""
    what = f"the scheme {shown(requirement.scheme, 40)}{by} on {shown(requirement.network)}"
    return what, "the scheme is not supported, and no option changes that"


def _paste(what: str, row: str) -> str:
    if not row:
        return f"To pay {what}, describe it with [[network]] and [[asset]] in x402.toml (docs/configuration.md)."
    return (
        f"To pay {what}, compare these rows, which the seller names, with the token's own contract (a wrong number of "
        f"decimals makes your limits wrong), and add them to x402.toml:\n{row}"
    )


def _row_to_paste(requirement: PaymentRequirements, network: Network | None) -> str:
    """The rows of x402.toml that would add the EVM asset; empty if the challenge does not say enough."""
    found = _EVM_NETWORK.fullmatch(requirement.network) if network is None else None
    name, version = requirement.extra.get("name"), requirement.extra.get("version")
    facts = (name, version)
    if not all(isinstance(fact, str) and _DOMAIN_FACT.fullmatch(fact) for fact in facts) or name == GATEWAY_DOMAIN:
        return ""  # Circle's domain is not the token's
    if (found is None and (network is None or network.family != "evm")) or not re.fullmatch(
        EVM_ADDRESS, requirement.asset
    ):
        return ""
    row = f'[[network]]\ncaip2 = "{requirement.network}"\nname = "chain-{found[1]}"\n' if found else ""
    where = f"chain-{found[1]}" if found else network.name if network else ""
    return (
        f'{row}[[asset]]\nnetwork = "{where}"\naddress = "{requirement.asset}"\nsymbol = "UNKNOWN"\ndecimals = 6\n'
        f'domain_name = "{name}"\ndomain_version = "{version}"\n'
    )


_EVM_NETWORK = re.compile(r"eip155:([1-9][0-9]{0,19})")
_DOMAIN_FACT = re.compile(r"[A-Za-z0-9 ._+-]{1,32}")
"""Allowed text for rows to be pasted into x402.toml, since a seller wrote it."""


def _forbidden(offer: Offer, rules: Rules) -> _Objection | None:
    """Why an allow list forbids `offer`; None: it does not."""
    network, asset = offer.network, offer.asset
    fold = str.lower if network.family == "evm" else str
    pay_to = offer.requirement.pay_to
    if rules.allow_networks and network.caip2 not in rules.allow_networks:
        where = f"The network {network.name} is not in the option x402_allow_networks"
        return _Objection(_FORBIDDEN, "network_not_allowed", str(offer), where, "", offer)
    if rules.allow_assets and not {asset.symbol.upper(), fold(asset.address)} & set(rules.allow_assets):
        where = f"The asset {asset.symbol} ({asset.address}) is not in the option x402_allow_assets"
        return _Objection(_FORBIDDEN, "asset_not_allowed", str(offer), where, "", offer)
    if rules.allow_pay_to and fold(pay_to) not in rules.allow_pay_to:
        where = f"The address {shown(pay_to)} is not in the option x402_allow_pay_to"
        return _Objection(_FORBIDDEN, "pay_to_not_allowed", str(offer), where, "", offer)
    return None


def _not_allowed(code: str, offer: Offer, where: str) -> Refused:
    return Refused(
        code,
        f"The gateway asks {offer} to {shown(offer.requirement.pay_to)}. {where} (nor in x402.toml). Nothing was paid. "
        "To allow it, add it there.",
        asked=str(offer),
    )


def admit(offer: Offer, purpose: Purpose, rules: Rules) -> tuple[Budget, ...]:
    """Admit `offer` for `purpose`, and return the budgets that must have room for it.

    Raises Refused: `upstream_not_allowed` or `over_request_limit`.
    """
    if rules.allow_hosts and purpose.host.lower() not in rules.allow_hosts:
        raise Refused(
            "upstream_not_allowed",
            f"The gateway asks {offer}. The upstream {purpose.host} is not in the option x402_allow_hosts "
            "(or allow_hosts in x402.toml). Nothing was paid. To allow it, add it there.",
            asked=str(offer),
        )
    asked = purpose.asked() if rules.limits else NOTHING_ASKED
    limits = for_request(rules.limits, asked)
    if offer.micro_usd > rules.max_request:
        raise _over_limit(offer, rules.max_request, "", "raise the option x402_max_request (or max_request in")
    for limit in limits:
        if limit.max_request is not None and offer.micro_usd > limit.max_request:
            where = f" for {limit.scope}"
            if doubt := limit.scope.doubt(asked):
                where += f" (or that may be, since {doubt})"
            raise _over_limit(offer, limit.max_request, where, "raise max_request in that [[limit]] (in")
    return (*rules.budgets, *(budget for limit in limits for budget in limit.budgets))


def scopes_of(purpose: Purpose, rules: Rules) -> frozenset[str]:
    """The scopes of the limits that cover `purpose`. Await `Payer.read_whole` first."""
    if not rules.limits:
        return frozenset()
    return frozenset(str(limit.scope) for limit in for_request(rules.limits, purpose.asked()))


def _over_limit(offer: Offer, limit: int, where: str, remedy: str) -> Refused:
    return Refused(
        "over_request_limit",
        f"The gateway asks {offer} for this request, more than the {format_usd(limit)} USDC that one request{where} "
        f"may cost. Nothing was paid. To allow it, {remedy} x402.toml); to pay less, lower max_tokens or send less.",
        asked=str(offer),
    )


def over_budget(
    offer: Offer,
    budget: Budget,
    spent: int,
    returns_in: float | None,
    now: float,
    *,
    awaited: int = 0,
    doubt: str = "",
) -> Refused:
    """The refusal for a `budget` of which `spent` is used, `awaited` of it until the chain says that it was not taken.

    `returns_in` is the number of seconds from `now` (Unix seconds) until there is room, or None; `doubt` says why it is
    not certain that the budget applies.
    """
    if returns_in is None:
        when = "Room for it never returns by itself"
    else:
        moment = datetime.fromtimestamp(now + returns_in, timezone.utc).astimezone()
        when = f"Room for it returns at {moment:%Y-%m-%d %H:%M:%S %z} (in {_duration(returns_in)})"
    doubt = f" It counts here, since {doubt}." if doubt else ""
    if awaited:
        doubt += (
            f" {format_usd(awaited)} USD of what is spent counts until your RPC says, as the gateway does, that it was "
            f"not taken ({program()} reconcile asks at once)."
        )
    where = "budget in that [[limit]] of x402.toml" if str(budget.scope) else "the option x402_budget"
    return Refused(
        "over_budget",
        f"The gateway asks {offer}, and {format_usd(spent)} of the budget of {budget} is spent or under way. "
        f"Nothing was paid.{doubt} {when}. To allow it at once, raise {where}.",
        asked=str(offer),
    )


def _duration(seconds: float) -> str:
    minutes = -(-int(seconds) // 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{minutes} min" if minutes else ""]
    return " ".join(part for part in parts if part) or "a moment"


def dry_run(offer: Offer, purpose: Purpose) -> Refused:
    """The refusal with which a dry run ends."""
    return Refused(
        "dry_run",
        f"Dry run: {offer} would have been paid to {shown(offer.requirement.pay_to)} for {purpose!s:.200}. Nothing was "
        "signed. To pay, switch the option x402_dry_run off.",
        asked=str(offer),
    )


def _nothing_to_pay(required: PaymentRequired, rules: Rules, objections: list[_Objection]) -> Refused:
    """The refusal if no entry can be paid: led by the closest entry, followed by the reasons for the others."""
    if not objections:
        said = "; ".join(required.unreadable[:3]) or "it offers no way to pay"
        return Refused("challenge_invalid", f"The gateway's challenge cannot be paid: {said:.400}. Nothing was paid.")
    nearest = min(objections, key=lambda objection: objection.rank)
    alike = [each for each in objections if each.rank == nearest.rank]
    offer = nearest.offer
    if nearest.rank == _FORBIDDEN and offer is not None:
        refusal = _not_allowed(nearest.code, offer, nearest.why)
        if len(objections) == 1:
            return refusal
        text = str(refusal)
    elif nearest.rank == _NO_WALLET:
        text = _no_wallet([each.offer for each in alike if each.offer is not None])
    elif offer is not None:
        text = f"The gateway asks {nearest.what}; {nearest.why}. Nothing was paid."
    else:
        asked = ", ".join(dict.fromkeys(each.what for each in objections[:MAX_LISTED]))
        names = ", ".join(network.name for network in rules.networks)
        text = (
            f"The gateway wants to be paid by {asked}. What can be paid is the scheme 'exact' with USDC on {names}. "
            "Nothing was paid."
        )
    if len(objections) > 1 or required.unreadable:
        text += _each(required, objections)
    if nearest.advice:
        text += f" {nearest.advice}"
    return Refused(nearest.code, text, asked=str(offer) if offer is not None else "")


def _each(required: PaymentRequired, objections: list[_Objection]) -> str:
    """A list of the entries with the reason why each cannot be paid."""
    parts = [f"{each.what}: {each.why}" for each in objections[:MAX_LISTED]]
    parts += [f"{reason:.120}" for reason in required.unreadable[:3]]
    more = len(objections) - MAX_LISTED
    if more > 0:
        parts.append(f"and {more} more")
    return f" Its {len(objections) + len(required.unreadable)} entries: " + "; ".join(parts) + "."


def _no_wallet(offers: list[Offer]) -> str:
    cheapest = {offer.network.name: offer for offer in sorted(offers, key=lambda o: -o.micro_usd)}
    asked = " or ".join(str(offer) for offer in cheapest.values())
    variables = " or ".join(sorted({KEY_VARIABLES[offer.network.family] for offer in offers}))
    return (
        f"The gateway asks {asked}, and no wallet is loaded for that. Nothing was paid. Make a wallet with "
        f"{program()} wallet new, or set {variables} to the key of one that holds USDC there; then start the proxy "
        "again."
    )
