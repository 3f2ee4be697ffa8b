"""The verb `ledger`: backs up a ledger, and moves old payments out of it into a file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ..ledger.archive import COUNTED_MS, archive, back_up
from ..ledger.reading import is_there
from ..protocol.amounts import format_usd
from ..report.text import count
from ..settings.settings import Settings
from .ledger_options import Parser, UsageError, options_of, settings_and_place
from .terminal import write

_DAYS = COUNTED_MS // (24 * 3600 * 1000)


def run(arguments: Sequence[str]) -> int:
    """Run `backup` or `archive`. Raises UsageError, SettingsError and LedgerError."""
    parser = Parser()
    parser.add_argument("what")
    parser.add_argument("file", nargs="?", default="")
    parser.add_argument("--before", default="")
    given = parser.parse_intermixed_args(list(arguments))  # the options may stand between the two
    if given.what not in ("archive", "backup"):
        raise UsageError(f"{given.what!r:.40} is neither backup nor archive")
    if not given.file:
        raise UsageError(f"{given.what}: the name of a file must follow")
    options = options_of(given.settings)
    settings, place = settings_and_place(options, given.ledger)
    file = Path(given.file).expanduser()
    if not is_there(place):
        raise UsageError(f"there is no ledger at {place} yet")
    if given.what == "backup":
        if given.before:
            raise UsageError("backup takes no --before: it copies everything")
        rows = back_up(place, file)
        write(f"{file.resolve()}: {count(rows)}, the whole ledger.\n")
        return 0
    done = archive(place, _date(given.before), file, for_ever=_has_no_period(settings))
    if not done.rows:
        write(f"Nothing to move: payments stay for {_DAYS} days, for as long as they may count against a budget.\n")
        return 0
    write(
        f"{file.resolve()}: {count(done.rows)}, {format_usd(done.micro_usd)} USD. {done.removed} removed from {place}; "
        "the ledger's file does not shrink, but new payments use the space.\n"
    )
    if done.removed < done.rows:
        write(f"{done.rows - done.removed} changed meanwhile, and are in both.\n")
    return 0


def _has_no_period(settings: Settings) -> bool:
    """Whether a budget has no period, so that every payment counts against it."""
    every = [*settings.budgets, *(budget for limit in settings.limits for budget in limit.budgets)]
    return any(budget.seconds is None for budget in every)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"archive --before {text!r:.40}: expected a date such as 2026-08-01") from None
