"""The verb `ledger`: copies a ledger whole, and takes old payments out of it into a file."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NoReturn

from ..command_line import read_arguments
from ..ledger.archive import COUNTED_MS, archive, back_up
from ..ledger.reading import is_there
from ..protocol.amounts import format_usd
from ..report.text import count
from ..settings.ledger_place import ledger_place
from ..settings.options import OPTIONS
from ..settings.settings import Settings, read_settings
from ..settings.values import Given
from .report import UsageError

_DAYS = COUNTED_MS // (24 * 3600 * 1000)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def run(arguments: Sequence[str]) -> int:
    """Do what the first argument says. Raises UsageError, SettingsError and LedgerError."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("what", choices=("archive", "backup"))
    parser.add_argument("file")
    parser.add_argument("--before", default="")
    parser.add_argument("--ledger", default="")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    given = parser.parse_args(list(arguments))
    options = dict(read_arguments([part for text in given.settings for part in ("--set", text)]).options)
    unknown = sorted(set(options) - {option.name for option in OPTIONS})
    if unknown:
        raise UsageError(f"--set {unknown[0]:.40}: only options that begin with x402_ matter here")
    ours = {option.name: options.get(option.name, "") for option in OPTIONS}
    settings = read_settings(ours, os.environ, cwd=Path.cwd(), home=Path.home())
    place = settings.ledger
    if given.ledger:
        place = ledger_place(Given("--ledger", given.ledger, Path.cwd(), Path.home()))
    file = Path(given.file).expanduser()
    if not is_there(place):
        raise UsageError(f"there is no ledger at {place} yet")
    if given.what == "backup":
        if given.before:
            raise UsageError("backup takes no --before: it copies all")
        rows = back_up(place, file)
        _say(f"{file.resolve()}: {count(rows)}, all that the ledger holds.\n")
        return 0
    done = archive(place, _date(given.before), file, for_ever=_has_no_period(settings))
    if not done.rows:
        _say(f"Nothing to take out: payments stay for {_DAYS} days, as long as a budget may count them.\n")
        return 0
    _say(
        f"{file.resolve()}: {count(done.rows)}, {format_usd(done.micro_usd)} USD. {done.removed} taken out of {place}; "
        "its file does not shrink, but new payments take the place.\n"
    )
    if done.removed < done.rows:
        _say(f"{done.rows - done.removed} have changed meanwhile, and are in both.\n")
    return 0


def _has_no_period(settings: Settings) -> bool:
    """Whether some budget counts for ever."""
    every = [*settings.budgets, *(budget for limit in settings.limits for budget in limit.budgets)]
    return any(budget.seconds is None for budget in every)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"archive --before {text!r:.40}: expected a date such as 2026-08-01") from None


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
