"""Caches the offers of a challenge, because gateways send the same challenge with every request.

Nothing here depends on the request or the time. What does (limits, budgets, balances) is checked for each payment.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from ..protocol.headers import PaymentFrame, payment_frame
from ..protocol.messages import PaymentRequired
from ..protocol.networks import Family
from ..settings.settings import Settings
from ..wallet.sources import Wallets
from . import policy
from .offer import Offer, Payers, Rules


def rules_of(settings: Settings) -> Rules:
    """The part of `settings` that the policy needs."""
    return Rules(
        networks=settings.networks,
        max_request=settings.max_request,
        max_validity=settings.max_validity,
        preference=settings.preference,
        schemes=settings.schemes,
        gateway=settings.gateway,
        budgets=settings.budgets,
        limits=settings.limits,
        allow_pay_to=settings.allow_pay_to,
        allow_networks=settings.allow_networks,
        allow_assets=settings.allow_assets,
        allow_hosts=settings.allow_hosts,
    )


def payers_of(wallets: Wallets, settings: Settings) -> Payers:
    """The paying address for each family of chains; None in a dry run without a wallet."""
    both: tuple[Family, Family] = ("evm", "svm")
    found = {family: wallet.address for family in both if (wallet := wallets.for_family(family)) is not None}
    return found or ({"evm": None, "svm": None} if settings.dry_run else {})


class Offered:
    """The offers of one challenge, and the constant parts of the headers that pay them."""

    def __init__(self, required: PaymentRequired, offers: Sequence[Offer]) -> None:
        self.offers = offers
        """The offers that could be paid, best first (`policy.ranked`)."""
        self._version = required.x402_version
        self._resource, self._extensions = required.resource, required.extensions
        self._frames: dict[int, PaymentFrame] = {}
        """Frames of headers, by the position of the offer."""

    def frame(self, offer: Offer, extensions: Any) -> PaymentFrame:
        """The constant parts of a header that pays `offer`. Raises ChallengeError: they cannot be echoed.

        `extensions` are the challenge's, perhaps with additions for this payment.
        """
        found = None
        place = next((place for place, known in enumerate(self.offers) if known is offer), None)
        if extensions is self._extensions and place is not None:
            found = self._frames.get(place)
        if found is None:
            found = payment_frame(self._version, offer.requirement, self._resource, extensions)
            if extensions is self._extensions and place is not None:
                self._frames[place] = found
        return found


class Challenges:
    """The offers of challenges under one set of `rules` and `payers`. References to challenges are weak."""

    def __init__(self, rules: Rules, payers: Payers) -> None:
        self._rules = rules
        self._payers = payers
        self._known: dict[int, tuple[weakref.ref[PaymentRequired], Offered]] = {}
        """Offers by the challenge's `id`, as long as the challenge exists."""

    def offered(self, required: PaymentRequired) -> Offered:
        """The offers of `required`, which must not be changed. Raises Refused, as `policy.ranked` does."""
        key = id(required)
        known = self._known.get(key)
        if known is not None and known[0]() is required:
            return known[1]
        found = Offered(required, tuple(policy.ranked(required, self._rules, self._payers)))
        self._known[key] = weakref.ref(required, lambda _: self._known.pop(key, None)), found
        return found
