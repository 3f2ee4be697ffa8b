"""Chooses an offer and admits it, or refuses with a reason that names the option to change. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import ChallengeError, Refused, X402Error
from ..limits.limits import NOTHING_ASKED, Budget, for_request
from ..protocol.messages import PaymentRequired, PaymentRequirements
from ..protocol.networks import Network
from ..protocol.strict_json import shown
from ..schemes import exact_evm, exact_svm, gateway, method_of, permit2
from .offer import Offer, Payers, Purpose, Rules
from .reasons import refusals, rows
from .reasons.refusals import KEY_VARIABLES, Objection


def choose(required: PaymentRequired, rules: Rules, payers: Payers) -> Offer:
    """The offer to pay: the first of `ranked`, whose errors it raises."""
    return ranked(required, rules, payers)[0]


def choose_for(
    required: PaymentRequired, purpose: Purpose, rules: Rules, payers: Payers
) -> tuple[Offer, tuple[Budget, ...]]:
    """The first of `ranked` that `admit` admits for `purpose`, and its budgets. Raises what they do."""
    failures: list[tuple[Offer, X402Error]] = []
    for offer in ranked(required, rules, payers):
        try:
            return offer, admit(offer, purpose, rules)
        except Refused as error:  # noqa: PERF203 - one round, but for what is refused
            failures.append((offer, error))
    raise none_of(failures, required, rules, payers)


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
        raise refusals.nothing_to_pay(required, rules, [each for each in judged if isinstance(each, Objection)])
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


def none_of(
    failures: Sequence[tuple[Offer, X402Error]], required: PaymentRequired, rules: Rules, payers: Payers
) -> X402Error:
    """The error of the first of `failures`, with the reasons why all other entries of `required` are not paid."""
    first, error = failures[0]
    found = {id(offer.requirement): refusals.failed(offer, failure) for offer, failure in failures}
    names_it = isinstance(error, Refused) and bool(error.asked)
    rest = [one for one in required.accepts if not (names_it and one is first.requirement)]
    each = [found.get(id(one)) or _judged(one, rules, payers) for one in rest]
    objections = [refusals.paused(one) if isinstance(one, Offer) else one for one in each]
    return refusals.with_each(error, required, objections)


def _judged(requirement: PaymentRequirements, rules: Rules, payers: Payers) -> Offer | Objection:
    network = rules.networks.known(requirement.network)
    where = shown(requirement.network) if network is None else network.name
    method = method_of(requirement, "evm" if network is None else network.family)
    if method is None:
        return _unknown_scheme(requirement)
    if network is None:
        never = rows.why_never(requirement, None)
        advice = "" if never else rows.advice("there", requirement, None)
        what, why = f"{requirement.scheme} on the network {where}", never or "the network is not known"
        return Objection(refusals.UNKNOWN_NETWORK, "network_not_allowed", what, why, advice)
    asset = network.asset(requirement.asset)
    if asset is None:
        never = rows.why_never(requirement, network)
        advice = "" if never else rows.advice("with it", requirement, network)
        what = f"{requirement.scheme} with the asset {shown(requirement.asset, 80)} on {where}"
        why = never or "the asset is not known"
        return Objection(refusals.UNKNOWN_ASSET, "asset_not_allowed", what, why, advice)
    offer = Offer(requirement, network, asset, method)
    if rules.networks.get(network.caip2) is None:
        why = "the network is known and not enabled (x402_allow_networks)"
        advice = _enable(network, rules)
        return Objection(refusals.NOT_ENABLED, "network_not_allowed", str(offer), why, advice, offer)
    if method in ("permit2", "upto") and rules.schemes == "exact":
        way = "a ceiling (upto)" if method == "upto" else "Permit2"
        why = f"it is paid by {way}, which is not chosen (x402_schemes)"
        advice = "To pay so, set the option x402_schemes to auto or upto; docs/configuration.md names the dangers."
        return Objection(refusals.NOT_CHOSEN, "scheme_not_supported", str(offer), why, advice, offer)
    if method == "gateway" and not rules.gateway:
        why = "it is settled by Circle Gateway, which is not chosen (x402_gateway)"
        advice = "To pay so, set the option x402_gateway to true; its signatures live for seven days."
        return Objection(refusals.NOT_CHOSEN, "scheme_not_supported", str(offer), why, advice, offer)
    if network.family not in payers:
        why = f"no wallet is loaded for it ({KEY_VARIABLES[network.family]})"
        return Objection(refusals.NO_WALLET, "no_wallet", str(offer), why, "", offer)
    try:
        _check_signable(offer, payers[network.family], rules)
    except ChallengeError as error:
        return Objection(refusals.UNSIGNABLE, "challenge_invalid", str(offer), refusals.reason_of(error), "", offer)
    return _forbidden(offer, rules) or offer


def _enable(network: Network, rules: Rules) -> str:
    """How to enable `network` and keep the order in which the user's other networks are paid on."""
    option, listed = "x402_allow_networks", rules.allow_networks or [row.caip2 for row in rules.networks]
    if rules.preference and not rules.allow_networks:
        option, listed = "x402_networks", rules.preference
    known = [(name, rules.networks.known(name)) for name in listed]
    names = [*(name if row is None else row.name for name, row in known), network.name]
    return f'To pay there, name it in the option {option}, as in --set {option}="{",".join(names)}".'


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


def _unknown_scheme(requirement: PaymentRequirements) -> Objection:
    transfer = requirement.extra.get("assetTransferMethod")
    by = f" with the assetTransferMethod {shown(transfer, 40)}" if transfer is not None else ""
    what = f"the scheme {shown(requirement.scheme, 40)}{by} on {shown(requirement.network)}"
    why = "this proxy does not know how to pay so, and no option changes that"
    return Objection(refusals.UNKNOWN_SCHEME, "scheme_not_supported", what, why)


def _forbidden(offer: Offer, rules: Rules) -> Objection | None:
    """Why an allow list forbids `offer`; None: it does not."""
    network, asset = offer.network, offer.asset
    fold = str.lower if network.family == "evm" else str
    pay_to = offer.requirement.pay_to
    rank = refusals.FORBIDDEN
    if rules.allow_networks and network.caip2 not in rules.allow_networks:
        why = f"the network {network.name} is not in the option x402_allow_networks"
        return Objection(rank, "network_not_allowed", str(offer), why, "", offer)
    if rules.allow_assets and not {asset.symbol.upper(), fold(asset.address)} & set(rules.allow_assets):
        why = f"the asset {asset.symbol} ({asset.address}) is not in the option x402_allow_assets"
        return Objection(rank, "asset_not_allowed", str(offer), why, "", offer)
    if rules.allow_pay_to and fold(pay_to) not in rules.allow_pay_to:
        why = f"the address {shown(pay_to)} is not in the option x402_allow_pay_to"
        return Objection(rank, "pay_to_not_allowed", str(offer), why, "", offer)
    return None


def admit(offer: Offer, purpose: Purpose, rules: Rules) -> tuple[Budget, ...]:
    """Admit `offer` for `purpose`, and return the budgets that must have room for it.

    Raises Refused: `upstream_not_allowed` or `over_request_limit`.
    """
    if rules.allow_hosts and purpose.host.lower() not in rules.allow_hosts:
        raise refusals.upstream_not_allowed(offer, purpose.host)
    asked = purpose.asked() if rules.limits else NOTHING_ASKED
    limits = for_request(rules.limits, asked)
    if offer.micro_usd > rules.max_request:
        raise refusals.over_limit(offer, rules.max_request, "", "x402_max_request")
    for limit in limits:
        if limit.max_request is not None and offer.micro_usd > limit.max_request:
            where = f" for {limit.scope}"
            if doubt := limit.scope.doubt(asked):
                where += f" (or that may be, since {doubt})"
            raise refusals.over_limit(offer, limit.max_request, where, "max_request in that [[limit]] of x402.toml")
    return (*rules.budgets, *(budget for limit in limits for budget in limit.budgets))


def scopes_of(purpose: Purpose, rules: Rules) -> frozenset[str]:
    """The scopes of the limits that cover `purpose`. Await `Payer.read_whole` first."""
    if not rules.limits:
        return frozenset()
    return frozenset(str(limit.scope) for limit in for_request(rules.limits, purpose.asked()))
