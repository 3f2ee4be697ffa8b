"""The options that report, ledger and reconcile share: `--ledger`, `--set`, and which ledger they name."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ..command_line import configured_options, options_set
from ..errors import SettingsError
from ..settings.ledger_place import LedgerPlace, ledger_place
from ..settings.options import OPTIONS
from ..settings.settings import Settings, read_settings
from ..settings.values import Given


class UsageError(SettingsError):
    """The command line is wrong; says how."""


class Parser(ArgumentParser):
    """Parses `--ledger` and `--set`. Raises UsageError for unknown arguments."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--ledger", default="")
        self.add_argument("--set", dest="settings", action="append", default=[])

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, which the verb's caller prints."""
        raise UsageError(message)


def options_of(pairs: Sequence[str]) -> dict[str, str]:
    """Our options by name, from mitmproxy's own file and from the values of `--set`.

    Raises UsageError: a `--set` names no option of ours.
    """
    ours = {option.name for option in OPTIONS}
    try:
        options = options_set(pairs, ("confdir",))
    except SettingsError as error:
        raise UsageError(str(error)) from None
    confdir = options.pop("confdir", None)
    configured = {name: value for name, value in configured_options(confdir).items() if name in ours}
    return {**configured, **options}


def settings_and_place(options: Mapping[str, str], named: str) -> tuple[Settings, LedgerPlace]:
    """The settings, and the ledger that `named` or else the settings name. Raises SettingsError."""
    ours = {option.name: options.get(option.name, "") for option in OPTIONS}
    settings = read_settings(ours, os.environ, cwd=Path.cwd(), home=Path.home())
    return settings, ledger_place(Given("--ledger", named, Path.cwd(), Path.home())) if named else settings.ledger
