"""`wallet`: shows the wallets, what they hold, how many requests that buys, and what is missing."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path

from ...chain import permit2
from ...chain.balance import balance, held_micro_usd
from ...check import gateway as gateways
from ...errors import RpcError
from ...payment.offer import Offer
from ...payment.signing.ceilings import OVER_PERMIT2
from ...protocol.amounts import format_usd
from ...protocol.networks import Asset, Family, Network
from ...reconcile.rpcs import remedy, rpcs
from ...schemes import gateway as circle
from ...settings.settings import Settings
from ...wallet.evm import EvmWallet
from ...wallet.sources import Wallets
from ...wallet.svm import SvmWallet
from ...wallet.writing import KEYSTORE_FILE
from ..terminal import say
from .new import NAMES
from .prices import Gateway, Prices

FAMILIES: tuple[Family, ...] = ("svm", "evm")
OPTIONS_OF: dict[Family, str] = {"evm": "--evm", "svm": "--solana"}
DEFAULT_NETWORKS = ("base", "solana")

Held = dict[tuple[str, str], int]
"""Atomic units by network and by what they are: `wallet`, `gateway` (at Circle), `permit2` (allowance)."""


async def show(wallets: Wallets, settings: Settings, program: str, gateway: Gateway) -> int:
    """Print the wallets, what they hold and what that buys; returns the exit code, 1 if there is no wallet."""
    if wallets.evm is None and wallets.svm is None:
        say(f"No wallet was found. To make one: {program} wallet new")
        for line in _unnamed_keystore(settings):
            say(line)
        say(f"To bring one back from its words or its private key: {program} wallet restore")
        return 1
    asked = await gateway.prices(settings, wallets)
    held: Held = {}
    for family in FAMILIES:
        purse = wallets.for_family(family)
        if purse is None:
            say(f"{NAMES[family]}: no wallet. To make one: {program} wallet new {OPTIONS_OF[family]}")
            continue
        say(f"{NAMES[family]}: {purse.address}")
        say(f"  key from {purse.source}{_readers(purse.source)}")
        for network, asset in _shown(family, settings, asked.small):
            async for line in _holdings(purse, network, asset, settings, held):
                say(f"  {line}")
    for line in _unnamed_keystore(settings):
        say(line)
    say()
    for line in (*_costs(asked, held), *_missing(asked, held, wallets, program)):
        say(line)
    say(f"To add money: {program} wallet fund")
    return 0


def _unnamed_keystore(settings: Settings) -> list[str]:
    """A hint if `wallet new --keystore` has written a keystore that no option names."""
    path = Path.home() / KEYSTORE_FILE
    if settings.keystore is not None or not path.exists():
        return []
    return [f"There is a keystore in {path}, which is used only if an option names it: --set x402_keystore={path}"]


def _readers(source: str) -> str:
    path = Path(source)
    if not path.is_absolute():
        return " (the environment)" if source.isidentifier() else ""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    return " (readable by others!)" if mode & (stat.S_IRWXG | stat.S_IRWXO) else " (readable by you alone)"


def _shown(family: Family, settings: Settings, offer: Offer | None) -> list[tuple[Network, Asset]]:
    """The network that the gateway asks for and those that the user prefers, else the default ones."""
    found: dict[str, tuple[Network, Asset]] = {}
    if offer is not None and offer.network.family == family:
        found[offer.network.caip2] = (offer.network, offer.asset)
    for name in settings.preference or (() if found else DEFAULT_NETWORKS):
        row = settings.networks.get(name)
        if row is not None and row.family == family and row.assets:
            found.setdefault(row.caip2, (row, row.assets[0]))
    return list(found.values())


async def _holdings(
    purse: EvmWallet | SvmWallet, network: Network, asset: Asset, settings: Settings, held: Held
) -> AsyncIterator[str]:
    """One line for each kind of money on `network`; adds the amounts to `held`."""
    urls, seconds = rpcs(network, settings), settings.rpc_timeout
    unknown = f"not known: {{}}. To see it, {remedy(network)}."
    try:
        units = await balance(network, asset, purse.address, urls, seconds)
    except RpcError as error:
        yield f"{network.name}: balance {unknown.format(error)}"
        return
    held[network.caip2, "wallet"] = units
    yield f"{network.name}: {money(asset, units)}"
    if network.family != "evm":
        return
    try:
        if settings.schemes != "exact":
            allowed = (await permit2.standing(network, asset, purse.address, urls, seconds)).allowance
            held[network.caip2, "permit2"] = allowed
            yield f"{network.name}: Permit2 may take {allowance(asset, allowed)} of that"
        if settings.gateway and network.chain_id in circle.USDC:
            place = circle.contract(network)
            units = await permit2.deposited(asset, place, purse.address, urls, seconds)
            held[network.caip2, "gateway"] = units
            yield f"{network.name}: {money(asset, units)} deposited with Circle Gateway"
    except RpcError as error:
        yield f"{network.name}: allowance and deposits {unknown.format(error)}"


def allowance(asset: Asset, units: int) -> str:
    """An allowance of Permit2 as text."""
    return "any amount" if units >= 1 << 255 else money(asset, units)


def money(asset: Asset, units: int) -> str:
    """An amount in dollars, rounded down, with the symbol of the token."""
    return f"{format_usd(held_micro_usd(asset, units))} {asset.symbol}"


def _costs(asked: Prices, held: Held) -> list[str]:
    """The prices at the gateway, and how many such requests can be paid."""
    if asked.required is None:
        return [f"What a request costs at {asked.upstream} is not known: {asked.reason.rstrip('.')}."]
    if asked.small is None:
        return [f"Missing: a request at {asked.upstream} could not be paid. {asked.reason}"]
    size = f"{gateways.AGENT_BYTES // 1000} kB of prompt, at most {gateways.AGENT_TOKENS:,} tokens of answer"
    lines = [f"At {asked.upstream} a small chat request ({asked.model}) costs {asked.small}{_buys(asked.small, held)}."]
    if asked.agent is not None:
        lines.append(f"One of a coding agent's size ({size}) costs {asked.agent}{_buys(asked.agent, held)}.")
    return lines


def _buys(offer: Offer, held: Held) -> str:
    units = held.get((offer.network.caip2, _pays_from(offer)))
    if units is None:
        return ""
    count = units // max(offer.requirement.amount, 1)
    return "; there is not enough for one" if not count else f"; there is enough for {count:,}"


def _missing(asked: Prices, held: Held, wallets: Wallets, program: str) -> list[str]:
    """What these wallets lack to pay a request at this gateway."""
    if asked.small is None:
        return []
    offer, lines = asked.small, []
    network, asset, price = offer.network, offer.asset, offer.requirement.amount
    units = held.get((network.caip2, _pays_from(offer)))
    if units is not None and units < price:
        purse = wallets.for_family(network.family)
        where = "a deposit with Circle Gateway of" if offer.method == "gateway" else "at"
        lines.append(f"Missing: {asset.symbol} on {network.name}, {where} {purse and purse.address}.")
    allowed = held.get((network.caip2, "permit2"))
    if offer.method in OVER_PERMIT2 and allowed is not None and allowed < price:
        lines.append(
            f"Missing, unless the seller sponsors it: what Permit2 may take of the wallet is too little for one: "
            f"{program} wallet allow"
        )
    return lines


def _pays_from(offer: Offer) -> str:
    return "gateway" if offer.method == "gateway" else "wallet"
