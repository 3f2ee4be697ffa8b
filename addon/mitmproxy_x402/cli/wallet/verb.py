"""Parses the command line of `wallet` and runs what it names: show, new, restore, fund or allow. Never prints a key."""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ...command_line import configured_options, options_set
from ...errors import SettingsError
from ...machine.program import program
from ...payment.payer import find_wallets
from ...settings.options import OPTIONS
from ...settings.settings import Settings, read_settings
from . import allow as wallet_allow
from . import fund as wallet_fund
from . import new as wallet_new
from .prices import gateway_of
from .show import show

ACCEPTED = {
    "show": ("upstream",),
    "new": ("family", "keystore", "no_backup"),
    "restore": ("family", "keystore"),
    "fund": ("family", "network", "wait", "html", "upstream"),
    "allow": ("amount", "network", "yes", "upstream"),
}
"""What each verb takes, beside `--set`."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"wallet: {message}. See {program()} wallet --help.")


def run(arguments: Sequence[str], program: str) -> int:
    """Run the verb; returns the exit code. Raises X402Error: what was wrong; nothing was changed."""
    given = _read(arguments)
    home = Path.home()
    options = _options(given.set or [])
    settings = _settings(options)
    given.found = find_wallets(settings, os.environ, home)
    if given.verb == "new":
        return wallet_new.new(given, home, program)
    if given.verb == "restore":
        return wallet_new.restore(given, home, program)
    gateway = gateway_of(given.upstream, options, given.found)
    if given.verb == "allow":
        return wallet_allow.allow(given, settings, program, gateway)
    if given.verb == "fund":
        return wallet_fund.fund(given, settings, program, gateway)
    return asyncio.run(show(given.found, settings, program, gateway))


def _read(arguments: Sequence[str]) -> Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("verb", nargs="?", default="show")
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
    given = parser.parse_intermixed_args(list(arguments))  # the options may stand between the two
    if given.verb not in ACCEPTED:
        parser.error(f"{given.verb!r:.40} is none of {', '.join(ACCEPTED)}")
    foreign = [
        name for name, value in vars(given).items() if value and name not in ("verb", "set", *ACCEPTED[given.verb])
    ]
    if foreign:
        names = {"amount": f"{given.amount!r:.40}", "family": "--evm or --solana"}
        name = names.get(foreign[0], f"--{foreign[0].replace('_', '-')}")
        after = "wallet" if given.verb == "show" else f"wallet {given.verb}"
        parser.error(f"{name} is not expected after {after}")
    return given


def _options(pairs: Sequence[str]) -> Mapping[str, str]:
    """mitmproxy's options and ours by name, from its own file and from `--set`, which wins."""
    named = options_set(pairs, ("confdir", "ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir"))
    return {**configured_options(named.get("confdir")), **named}


def _settings(options: Mapping[str, str]) -> Settings:
    ours = {option.name: options.get(option.name, "") for option in OPTIONS}
    return read_settings(ours, os.environ, cwd=Path.cwd(), home=Path.home())
