"""The verb `report`: prints or writes what was spent."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from ..errors import SettingsError
from ..ledger.archive import back_up
from ..ledger.reading import find_missing, is_there
from ..report import html as report_html
from ..report import sums as report
from ..report import text as report_text
from ..report.of_ledger import entries_since, of_ledger
from ..settings.ledger_place import LedgerPlace
from .ledger_options import Parser, UsageError, options_of, settings_and_place
from .terminal import write

HTML_FILE = "x402-report.html"


@dataclass(frozen=True)
class _Choice:
    form: str
    """`text`, `json`, `csv`, `html` or `backup`."""
    html: str
    """The file of `html` or `backup`."""
    since: date | None
    days: int | None
    ledger: str
    options: dict[str, str]


def run(arguments: Sequence[str]) -> int:
    """Print or write the report. Raises UsageError, SettingsError and LedgerError."""
    choice = _read(arguments)
    settings, place = settings_and_place(choice.options, choice.ledger)
    if choice.form == "backup":
        rows = back_up(place, Path(choice.html).expanduser())
        write(f"{Path(choice.html).expanduser().resolve()}: {report_text.count(rows)}\n")
        return 0
    if missing := find_missing(place) if is_there(place) else "":
        sys.stderr.write(f"{missing[0].upper()}{missing[1:]}.\n")
    now = datetime.now().astimezone()
    since = choice.since
    if choice.days is not None:
        since = now.date() - timedelta(days=choice.days - 1)
    if _is_named(choice) or is_there(place):
        made = of_ledger(place, now, since=since, networks=settings.networks)
    else:  # nothing was paid yet
        made = report.make_of((), now, ledger=str(place), since=since, networks=settings.networks)
    if choice.form == "csv":
        entries = entries_since(place, since) if made.groups else iter(())
        for line in report_text.as_csv(made, entries):
            sys.stdout.write(line)
    elif choice.form == "html":
        _write(choice.html, report_html.page(made), place)
    elif choice.form == "text":
        write(report_text.table(made, colour=_has_colour(), blocks=_has_blocks()))
    else:
        write(report_text.as_json(made))
    return 0


def _is_named(choice: _Choice) -> bool:
    """Whether the user named the ledger: then it must exist."""
    return bool(choice.ledger or choice.options.get("x402_ledger"))


def _read(arguments: Sequence[str]) -> _Choice:
    parser = Parser()
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json")
    form.add_argument("--csv", dest="form", action="store_const", const="csv")
    form.add_argument("--backup", default="", metavar="FILE")
    form.add_argument("--html", nargs="?", const=HTML_FILE, default="", metavar="FILE")
    period = parser.add_mutually_exclusive_group()
    period.add_argument("--since", default="")
    period.add_argument("--days", default="")
    given = parser.parse_args(list(arguments))
    options = options_of(given.settings)
    form_of = "html" if given.html else "backup" if given.backup else given.form or "text"
    return _Choice(form_of, given.html or given.backup, _date(given.since), _days(given.days), given.ledger, options)


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"--since {text!r:.40}: expected a date such as 2026-11-01") from None


def _days(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 36_500):
        raise UsageError(f"--days {text!r:.40}: expected a number of days such as 30; 1 is today alone")
    return int(text)


def _write(name: str, text: str, ledger: LedgerPlace) -> None:
    if name == "-":
        write(text)
        return
    file = Path(name).expanduser()
    its_own = isinstance(ledger, Path) and ledger.exists() and file.exists() and file.samefile(ledger)
    if file.is_dir() or its_own:
        raise SettingsError(
            f"--html {file}: is {'a folder' if file.is_dir() else 'the ledger itself'}; name another file."
        )
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf8") as out:  # noqa: PTH123
            out.write(text)
    except OSError as error:
        raise SettingsError(f"--html {file}: cannot be written: {error.strerror}.") from None
    write(f"{file.resolve()}\n")


def _has_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _has_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
