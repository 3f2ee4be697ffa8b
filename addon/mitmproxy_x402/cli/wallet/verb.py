"""The verb `wallet`: shows the wallets and what they hold; makes, restores and funds one. Never prints a key."""

from __future__ import annotations

import asyncio
import os
import stat
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ...chain.balance import balance
from ...chain.json_rpc import Trust, Unreachable
from ...check import gateway as gateways
from ...command_line import gateway_for, read_arguments
from ...errors import Refused, RpcError, SettingsError
from ...payment import policy
from ...payment.payer import find_wallets, payers_of, rules_of
from ...protocol.amounts import format_usd
from ...protocol.messages import AtomicUnits
from ...protocol.networks import Family, Network
from ...reconcile.rpcs import remedy, rpcs
from ...settings.options import OPTIONS
from ...settings.settings import Settings, read_settings
from ...wallet.evm import EvmWallet
from ...wallet.sources import Wallets
from ...wallet.svm import SvmWallet
from ..terminal import say
from . import allow as wallet_allow
from . import fund as wallet_fund
from . import new as wallet_new


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"wallet: {message}. See wallet --help.")


def run(arguments: Sequence[str], program: str) -> int:
    """Run the verb; returns the exit code. Raises X402Error: what was wrong; nothing was changed."""
    given = _read(arguments)
    home = Path.home()
    settings = _settings(given.set or [])
    given.found = find_wallets(settings, os.environ, home)
    if given.verb == "new":
        return wallet_new.new(given, home, program)
    if given.verb == "restore":
        return wallet_new.restore(given, home, program)
    if given.verb == "allow":
        return wallet_allow.allow(given, settings, program)
    if given.verb == "fund":
        return wallet_fund.fund(given, settings, program)
    return asyncio.run(_show(given, settings, program))


def _read(arguments: Sequence[str]) -> Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("verb", nargs="?", default="show", choices=["show", "new", "restore", "fund", "allow"])
    parser.add_argument("amount", nargs="?", default=None)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--evm", dest="family", action="store_const", const="evm")
    which.add_argument("--solana", dest="family", action="store_const", const="svm")
    which.add_argument("--network", default="")
    for flag in ("--keystore", "--no-backup", "--wait", "--yes"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--html", default="")
    parser.add_argument("--upstream", default="")
    parser.add_argument("--set", action="append")
    given = parser.parse_args(list(arguments))
    if given.amount is not None and given.verb != "allow":
        parser.error(f"{given.amount!r:.40} is not expected after {given.verb}")
    return given


def _settings(pairs: Sequence[str]) -> Settings:
    named = read_arguments([part for pair in pairs for part in ("--set", pair)]).options
    ours = {option.name: named.get(option.name, "") for option in OPTIONS}
    return read_settings(ours, os.environ, cwd=Path.cwd(), home=Path.home())


async def _show(given: Namespace, settings: Settings, program: str) -> int:
    wallets: Wallets = given.found
    families: tuple[Family, ...] = ("svm", "evm")
    held: dict[str, int] = {}
    for family in families:
        purse = wallets.for_family(family)
        if purse is None:
            option = "--evm" if family == "evm" else "--solana"
            say(f"{wallet_new.NAMES[family]}: no key found. To make one: {program} wallet new {option}")
            continue
        say(f"{wallet_new.NAMES[family]}: {purse.address}")
        say(f"  key from {purse.source}{_readers(purse.source)}")
        async for line in _holdings(purse, family, settings, held):
            say(f"  {line}")
    for warning in wallets.warnings:
        say(warning)
    if wallets.evm is None and wallets.svm is None:
        return 1
    upstream = given.upstream or os.environ.get("X402_UPSTREAM") or gateway_for(wallets)
    say(await _price(upstream, settings, wallets, held))
    say(f"To add money: {program} wallet fund")
    return 0


def _readers(source: str) -> str:
    path = Path(source)
    if not path.is_absolute():
        return " (the environment)"
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    return " (readable by others!)" if mode & (stat.S_IRWXG | stat.S_IRWXO) else " (readable by you alone)"


async def _holdings(
    purse: EvmWallet | SvmWallet, family: Family, settings: Settings, held: dict[str, int]
) -> AsyncIterator[str]:
    """A line for each network that is paid on by default; `held` gets the atomic units by network."""
    for network in _shown(family, settings):
        asset = network.assets[0]
        try:
            units = await balance(network, asset, purse.address, rpcs(network, settings), settings.rpc_timeout)
        except RpcError as error:
            yield f"{network.name}: balance not known: {error}. To see it, {remedy(network)}."
        else:
            held[network.caip2] = units
            yield f"{network.name}: {format_usd(asset.micro_usd(AtomicUnits(units)))} {asset.symbol}"


def _shown(family: Family, settings: Settings) -> list[Network]:
    names = settings.preference or ("base", "solana")
    rows = [row for row in map(settings.networks.get, names) if row is not None]
    return [row for row in rows if row.family == family and row.assets]


async def _price(upstream: str, settings: Settings, wallets: Wallets, held: Mapping[str, int]) -> str:
    """What a small request costs there and how many of them `held` buys, in a sentence."""
    try:
        reached = await gateways.reach(upstream, Trust())
        quote = await gateways.quote(upstream, Trust(), reached.models)
    except Unreachable as reason:
        return f"What a request costs at {upstream} is not known: {reason}."
    if quote.required is None:
        return f"What a request costs at {upstream} is not known: {quote.reason}."
    try:
        offer = policy.choose(quote.required, rules_of(settings), payers_of(wallets, settings))
    except Refused as error:
        return f"{upstream}: {error}"
    units = held.get(offer.network.caip2)
    buys = "" if units is None else f"; what is there buys {units // max(offer.requirement.amount, 1)} of them"
    return f"A small chat request ({quote.model}) costs {offer} at {upstream}{buys}."
