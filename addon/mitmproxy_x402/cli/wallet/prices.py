"""Asks the gateway what requests cost, which also tells on which network it takes payment. Nothing is paid."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ...chain.json_rpc import Trust, Unreachable
from ...check import gateway as gateways
from ...command_line import check_upstream, gateway_for
from ...errors import ChallengeError, Refused
from ...payment import policy
from ...payment.offer import Offer
from ...payment.offered import payers_of, rules_of
from ...protocol.messages import PaymentRequired
from ...settings.settings import Settings
from ...wallet.sources import Wallets
from ..terminal import Spinner


@dataclass(frozen=True)
class Prices:
    """The prices of one model at one gateway."""

    upstream: str
    model: str = ""
    required: PaymentRequired | None = None
    """What it asks for a small request."""
    small: Offer | None = None
    """The entry of it that would be paid."""
    agent: Offer | None = None
    """The same for a request of a coding agent's size."""
    reason: str = ""
    """Why `small` is None, as the end of a sentence."""


@dataclass(frozen=True)
class Gateway:
    """The upstream whose prices are asked, and the authorities that are trusted for that."""

    upstream: str
    trust: Trust

    async def prices(self, settings: Settings, wallets: Wallets) -> Prices:
        """Ask for the price of a small request and of an agent's. Never raises: `reason` says what is not known."""
        async with Spinner(f"asking {self.upstream} what requests cost"):
            return await _prices(self.upstream, self.trust, settings, wallets)


def gateway_of(named: str, options: Mapping[str, str], wallets: Wallets) -> Gateway:
    """The gateway that `serve` would take: that of `--upstream`, else X402_UPSTREAM, else by the wallets.

    `options` are mitmproxy's, by name. Raises SettingsError.
    """
    upstream = named or os.environ.get("X402_UPSTREAM")
    trust = Trust(
        options.get("ssl_verify_upstream_trusted_ca") or None,
        options.get("ssl_verify_upstream_trusted_confdir") or None,
    )
    return Gateway(check_upstream(upstream) if upstream else gateway_for(wallets), trust)


async def _prices(upstream: str, trust: Trust, settings: Settings, wallets: Wallets) -> Prices:
    try:
        reached = await gateways.reach(upstream, trust)
        quote = await gateways.quote(upstream, trust, reached.models)
    except Unreachable as reason:
        return Prices(upstream, reason=str(reason))
    if quote.required is None:
        return Prices(upstream, quote.model, reason=quote.reason)
    try:
        small = _chosen(quote.required, settings, wallets)
    except (Refused, ChallengeError) as error:
        return Prices(upstream, quote.model, quote.required, reason=str(error))
    return Prices(upstream, quote.model, quote.required, small, await _agent(upstream, trust, quote, settings, wallets))


async def _agent(
    upstream: str, trust: Trust, quote: gateways.Quote, settings: Settings, wallets: Wallets
) -> Offer | None:
    try:
        large = await gateways.quote(upstream, trust, (quote.model,), gateways.agent_request)
        return None if large.required is None else _chosen(large.required, settings, wallets)
    except (Unreachable, Refused, ChallengeError):
        return None


def _chosen(required: PaymentRequired, settings: Settings, wallets: Wallets) -> Offer:
    return policy.choose(required, rules_of(settings), payers_of(wallets, settings))
