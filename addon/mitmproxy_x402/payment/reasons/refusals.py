"""Writes the messages of refusals: what was asked, why it is not paid, and which option to change, for each entry."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from ...errors import Refused, X402Error
from ...limits.limits import Budget
from ...machine.program import program
from ...protocol.amounts import format_usd
from ...protocol.messages import PaymentRequired
from ...protocol.networks import Family
from ...protocol.strict_json import shown
from ...wallet.sources import EVM_VARIABLE, SVM_VARIABLE
from ..offer import Offer, Purpose, Rules

KEY_VARIABLES: dict[Family, str] = {"evm": EVM_VARIABLE, "svm": SVM_VARIABLE}
MAX_LISTED = 16
"""Most reasons that a refusal gives, and most entries that it names for each of them."""

FORBIDDEN, NO_WALLET, NOT_ENABLED, NOT_CHOSEN, UNSIGNABLE, UNKNOWN_ASSET, UNKNOWN_NETWORK, UNKNOWN_SCHEME = range(8)
"""Ranks of objections, closest to payable first."""


class Objection(NamedTuple):
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


def failed(offer: Offer, error: X402Error) -> Objection:
    """The objection to `offer` that `error` makes, which came up when it was to be paid."""
    return Objection(FORBIDDEN, "", str(offer), reason_of(error), "", offer)


def paused(offer: Offer) -> Objection:
    """The objection to `offer` while payments like it rest (`Ceilings`)."""
    why = "it is not tried, since a seller has refused such a payment, or no RPC answered, a few minutes ago"
    return Objection(FORBIDDEN, "", str(offer), why, "", offer)


def reason_of(error: X402Error) -> str:
    """The reason in `error`, as half a sentence about an entry."""
    if isinstance(error, Refused) and error.why:
        return error.why
    text = re.split(r"\.? Nothing was (?:paid|signed)\.", str(error), maxsplit=1)[0].removesuffix(".")
    return text.replace("The challenge's ", "its ").replace("The challenge ", "it ")


def with_each(error: X402Error, required: PaymentRequired, objections: Sequence[Objection]) -> X402Error:
    """`error`, which says why the best entry is not paid, with the reasons for all others if there are any.

    `objections` may leave out the best one, if `error` names it.
    """
    if len(required.accepts) + len(required.unreadable) < 2:
        return error
    which = "other " if len(objections) < len(required.accepts) else ""
    text = f"{error}{_each(required, objections, which)}"
    return Refused(error.reason, text, asked=error.asked) if isinstance(error, Refused) else type(error)(text)


def nothing_to_pay(required: PaymentRequired, rules: Rules, objections: Sequence[Objection]) -> Refused:
    """The refusal if no entry can be paid: led by the closest entry, followed by the reasons for the others."""
    if not objections:
        said = "; ".join(required.unreadable) or "it offers no way to pay"
        return Refused("challenge_invalid", f"The gateway's challenge cannot be paid: {said:.2000}. Nothing was paid.")
    nearest = min(objections, key=lambda objection: objection.rank)
    offer = nearest.offer
    if nearest.rank == FORBIDDEN and offer is not None:
        pay_to = shown(offer.requirement.pay_to)
        to = "" if pay_to in nearest.why else f" to {pay_to}"
        text = (
            f"The gateway asks {offer}{to}, and {nearest.why} (nor in x402.toml). Nothing was paid. Add it to allow it."
        )
    elif nearest.rank == NO_WALLET:
        text = _no_wallet([each.offer for each in objections if each.rank == NO_WALLET and each.offer is not None])
    elif offer is not None:
        text = f"The gateway asks {nearest.what}; {nearest.why}. Nothing was paid."
    else:
        asked = ", ".join(dict.fromkeys(each.what for each in objections[:MAX_LISTED]))
        why = f": {nearest.why}" if len(objections) == 1 else ""
        text = f"The gateway wants to be paid by {asked}{why}. {_payable(rules)} Nothing was paid."
    if len(objections) > 1 or required.unreadable:
        is_said = offer is not None and nearest.rank != NO_WALLET
        rest = [each for each in objections if each is not nearest] if is_said else objections
        text += _each(required, rest, "other " if is_said else "")
    if nearest.advice:
        text += f" {nearest.advice}"
    return Refused(nearest.code, text, asked=str(offer) if offer is not None else "")


def _payable(rules: Rules) -> str:
    """A sentence about what can be paid under `rules`."""
    ways = ["exact"]
    if rules.schemes != "exact":
        ways += ["exact over Permit2", "upto"]
    if rules.gateway:
        ways.append("exact by Circle Gateway")
    places: dict[str, list[str]] = {}
    for network in rules.networks:
        symbols = list(dict.fromkeys(asset.symbol for asset in network.assets))
        places.setdefault(_and(symbols), []).append(network.name)
    tokens = "; ".join(f"{symbols} on {', '.join(names)}" for symbols, names in places.items() if symbols)
    return f"This proxy is set to pay by {_and(ways)}, with {tokens}."


def _and(words: Sequence[str]) -> str:
    return " and ".join([*filter(None, [", ".join(words[:-1])]), *words[-1:]])


def _each(required: PaymentRequired, objections: Sequence[Objection], which: str = "") -> str:
    """A list of the entries with the reason why each cannot be paid; those with one reason stand together."""
    entries: dict[str, list[str]] = {}
    for each in objections:
        entries.setdefault(each.why, []).append(each.what)
    parts = [f"{_named(what)}: {why}" for why, what in entries.items()] + [
        f"{each:.120}" for each in required.unreadable
    ]
    if len(parts) > MAX_LISTED:
        parts[MAX_LISTED - 1 :] = [f"and {len(parts) - MAX_LISTED + 1} other reasons"]
    count = len(objections) + len(required.unreadable)
    return f" The challenge's {which}{'entry' if count == 1 else f'{count} entries'}: {'; '.join(parts)}."


def _named(entries: Sequence[str]) -> str:
    """`entries` with how often each is there."""
    counted = {entry: entries.count(entry) for entry in dict.fromkeys(entries)}
    words = [entry if count == 1 else f"{entry} ({count} times)" for entry, count in counted.items()]
    if len(words) > MAX_LISTED:
        words[MAX_LISTED - 1 :] = [f"{len(words) - MAX_LISTED + 1} others"]
    return _and(words)


def _no_wallet(offers: list[Offer]) -> str:
    cheapest = {offer.network.name: offer for offer in sorted(offers, key=lambda o: -o.micro_usd)}
    asked = " or ".join(str(offer) for offer in cheapest.values())
    variables = " or ".join(sorted({KEY_VARIABLES[offer.network.family] for offer in offers}))
    return (
        f"The gateway asks {asked}, and no wallet is loaded for that. Nothing was paid. Make a wallet with "
        f"{program()} wallet new, or set {variables} to the key of one that holds USDC there; then start the proxy "
        "again."
    )


def upstream_not_allowed(offer: Offer, host: str) -> Refused:
    """The refusal for an upstream that is not in the list of those that may be paid."""
    return Refused(
        "upstream_not_allowed",
        f"The gateway asks {offer}. The upstream {host} is not in the option x402_allow_hosts "
        "(or allow_hosts in x402.toml). Nothing was paid. To allow it, add it there.",
        asked=str(offer),
        why=f"the upstream {host} is not in the option x402_allow_hosts",
    )


def over_limit(offer: Offer, limit: int, where: str, key: str) -> Refused:
    """The refusal for an `offer` of more than `limit` (millionths of a dollar), which `key` sets."""
    most = f"one request{where} may cost at most {format_usd(limit)} USDC"
    return Refused(
        "over_request_limit",
        f"The gateway asks {offer}, and {most}. Nothing was paid. Raise {key}, or lower max_tokens, or send less.",
        asked=str(offer),
        why=f"{most} ({key.partition(' ')[0]})",
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
    doubt = f" It counts here, since {doubt}." if doubt else ""
    if awaited:
        doubt += (
            f" {format_usd(awaited)} USD of what is spent counts until your RPC says, as the gateway does, that it was "
            f"not taken ({program()} reconcile asks at once)."
        )
    if returns_in is None:
        wait = ": room for it never returns by itself"
    else:
        moment = datetime.fromtimestamp(now + returns_in, timezone.utc).astimezone()
        wait = f", or wait until {moment:%Y-%m-%d %H:%M:%S %z} (in {_duration(returns_in)})"
    left, option = f"only {budget.left(spent)} is left", option_of(budget)
    return Refused(
        "over_budget",
        f"The gateway asks {offer}, and {left}. Nothing was paid.{doubt} Raise {option}{wait}.",
        asked=str(offer),
        why=f"{left} ({option})",
    )


def option_of(budget: Budget) -> str:
    """What sets `budget`."""
    return "budget in that [[limit]] of x402.toml" if str(budget.scope) else "x402_budget"


def _duration(seconds: float) -> str:
    minutes = -(-int(seconds) // 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{minutes} min" if minutes else ""]
    return " ".join(part for part in parts if part) or "a moment"


def other_limit(offer: Offer, scopes: Collection[str]) -> Refused:
    """The refusal to send a payment of `offer` again, for a request that limits of other `scopes` are for."""
    return Refused(
        "other_limit",
        f"This request repeats one, or follows a redirect from one, that was paid {offer} and never answered "
        f"completely. It falls under the [[limit]] for {' and '.join(sorted(scopes))} in x402.toml, and that payment "
        "did not, so it was not sent again, and nothing more was paid. Wait ten minutes, or ask the gateway's operator "
        "why it answers paid requests so.",
    )


def dry_run(offer: Offer, purpose: Purpose) -> Refused:
    """The refusal with which a dry run ends."""
    return Refused(
        "dry_run",
        f"Dry run: {offer} would have been paid to {shown(offer.requirement.pay_to)} for {purpose!s:.200}. Nothing was "
        "signed. To pay, switch the option x402_dry_run off.",
        asked=str(offer),
    )
