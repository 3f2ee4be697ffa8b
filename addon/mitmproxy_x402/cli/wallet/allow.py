"""`wallet allow`: shows, sets and revokes what Permit2 may take of the wallet. Nothing else ever sets it."""

from __future__ import annotations

import asyncio
import re
import sys
from argparse import Namespace
from dataclasses import dataclass
from decimal import Decimal

from ...chain import approval
from ...chain.permit2 import standing
from ...errors import EvmRpcError, SettingsError
from ...protocol.amounts import format_usd
from ...protocol.networks import ENABLED, Asset, Network
from ...reconcile.rpcs import remedy, rpcs
from ...settings.networks import require_enabled
from ...settings.settings import Settings
from ...wallet.evm import EvmWallet
from ...wallet.sources import Wallets
from ..terminal import ask, say
from .prices import Gateway

DANGERS = """\
An allowance lets the Permit2 contract take up to that much {symbol} from this wallet, for as long as it stands. It does
so only with a signature of this wallet's key for each transfer: this proxy signs one for each payment, within your
limits. But whoever gets hold of the key, or has this key sign something else for Permit2, can use the allowance too. So
set it to what you spend in a few days, not to everything, and revoke it with: {program} wallet allow 0
"""
BASE = next(row for row in ENABLED if row.name == "base")
MAX_USD = Decimal(100_000)
_DOLLARS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,18})?")


def allow(given: Namespace, settings: Settings, program: str, gateway: Gateway) -> int:
    """Show the allowance, or set it to `given.amount` dollars. Raises SettingsError and EvmRpcError."""
    purse: EvmWallet | None = given.found.evm
    network = _named(given, settings)
    if network is None and purse is not None:
        network = asyncio.run(_asked(settings, purse, gateway, must=given.amount is not None))
    network = network or BASE
    if purse is None:
        raise SettingsError(f"there is no wallet for {network.name} yet: {program} wallet new --evm")
    urls = rpcs(network, settings)
    if not urls:
        raise EvmRpcError(f"no RPC of {network.name} is known: {remedy(network)}.")
    place = _Place(network, network.assets[0], purse, urls, settings.rpc_timeout)
    if given.amount is None:
        try:
            return asyncio.run(_show(place))
        except EvmRpcError as error:
            raise EvmRpcError(f"{error} To ask another RPC, {remedy(network)}.") from None
    units = _units(given.amount, place.asset)
    if units:
        say(DANGERS.format(symbol=place.asset.symbol, program=program))
    return _set(place, units, sure=given.yes)


@dataclass(frozen=True)
class _Place:
    """The wallet and token whose allowance it is, and the RPCs that are asked."""

    network: Network
    asset: Asset
    purse: EvmWallet
    urls: tuple[str, ...]
    seconds: float


async def _asked(settings: Settings, purse: EvmWallet, gateway: Gateway, *, must: bool) -> Network | None:
    """The EVM network that the gateway takes payment on; None: it takes none, or does not answer.

    Raises SettingsError instead of returning None if there `must` be one: an allowance elsewhere would be of no use.
    """
    asked = await gateway.prices(settings, Wallets(evm=purse))
    if asked.small is None and must:
        why = asked.reason.replace(" Nothing was paid.", "").rstrip(".") or "it asks no price"
        raise SettingsError(
            f"on which EVM network {asked.upstream} takes payment is not known ({why}). Name one with --network. "
            "Nothing was changed."
        )
    if asked.small is None:
        return None
    say(f"{gateway.upstream} takes {asked.small.asset.symbol} on {asked.small.network.name}.")
    return asked.small.network


def _named(given: Namespace, settings: Settings) -> Network | None:
    """The network of `--network`, else the first EVM one of x402_networks. Raises SettingsError."""
    name = given.network or next((n for n in settings.preference if n[:7] == "eip155:"), None)
    if name is None:
        return None
    network = settings.networks.get(name)
    if network is None:
        require_enabled(settings.networks, given.network)
    if network is None or network.family != "evm":
        known = ", ".join(row.name for row in settings.networks if row.family == "evm")
        raise SettingsError(f"--network {given.network!r:.60}: expected one of {known}")
    return network


def _units(text: str, asset: Asset) -> int:
    dollars = Decimal(text) if _DOLLARS.fullmatch(text) else Decimal(-1)
    if not 0 <= dollars <= MAX_USD:
        raise SettingsError(f"wallet allow {text!r:.40}: expected dollars, 0 (revoke) to {MAX_USD}, as in 20")
    units = dollars.scaleb(asset.decimals)
    if units != int(units):
        raise SettingsError(f"wallet allow {text!r:.40}: {asset.symbol} has {asset.decimals} decimals at most")
    return int(units)


async def _show(place: _Place) -> int:
    network, asset, purse = place.network, place.asset, place.purse
    known = await standing(network, asset, purse.address, place.urls, place.seconds)
    scale = 10**asset.decimals
    allowed = "without a bound" if known.allowance >= 2**255 else format_usd(known.allowance * 10**6 // scale)
    held = format_usd(known.balance * 10**6 // scale)
    say(f"{purse.address} holds {held} {asset.symbol} on {network.name}.")
    say(f"Permit2 may take of that: {allowed}.")
    return 0


def _set(place: _Place, units: int, *, sure: bool) -> int:
    network, asset, purse, url = place.network, place.asset, place.purse, place.urls[0]
    known = asyncio.run(standing(network, asset, purse.address, place.urls, place.seconds))
    if known.allowance == units:
        say("That is what Permit2 may take already. Nothing was changed.")
        return asyncio.run(_show(place))
    fee = asyncio.run(approval.fees(network, purse.address, url, place.seconds))
    what = (
        f"Let Permit2 take up to {format_usd(units * 10**6 // 10**asset.decimals)} {asset.symbol}"
        if units
        else "Let Permit2 take nothing any more"
    )
    cost = f"at most {approval.gas(fee.total, network)} on {network.name}"
    say(f"{what}, for {purse.address}; the transaction costs {cost}.")
    if not sure and not _agreed():
        say("Nothing was changed.")
        return 1
    transaction = approval.approval(network, asset, units, fee, purse.sign_digest)
    say(f"Sending the transaction {approval.hash_of(transaction)}. Ctrl-C ends the waiting, not the transaction.")
    name = asyncio.run(approval.submit(transaction, url, place.seconds))
    say(f"Done: transaction {name}")
    return asyncio.run(_show(place))


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise SettingsError("wallet allow asks before it sends a transaction, and this is no terminal: add --yes")
    return ask("Type yes to do it: ").lower() == "yes"
