"""The report as a table for the terminal, as JSON, as CSV, and in one line. Pure.

Names of models, paths, references and codes come from clients and gateways: whatever could steer a terminal, or be a
formula to a spreadsheet, is made harmless here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..ledger.reading import Entry
from ..protocol.amounts import format_usd
from .sums import Report, Sum, total

WIDTH = 80
_LABEL, _COUNT, _AMOUNT = 32, 10, 16
_BAR = WIDTH - _LABEL - _COUNT - _AMOUNT - 2
MAX_LINES = 20
"""Of a table; more are summed up in its last line."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


def plain(text: str, width: int = 200) -> str:
    """`text` in one line of printable characters, at most `width` of them."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def table(report: Report, *, colour: bool = False, blocks: bool = True) -> str:
    """The report for a terminal of 80 columns. `colour`: it understands ANSI; `blocks`: it has block characters."""

    def bold(text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if colour else text

    def dim(text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if colour else text

    if not report.entries:
        when = f"since {report.since}" if report.since else "yet"
        return f"Nothing was paid {when}.\n{dim(f'Ledger: {plain(report.ledger)}')}\n"
    lines = [_head(bold("Settled"), "Settled")]
    period = f"Since {report.since}" if report.since else "In all"
    sums = {"Today": report.today, "This month": report.month, period: report.total}
    lines += [_line(name, each) for name, each in sums.items()]
    unit = "day"
    for title, rows in (("day", report.by_day), ("model", report.by_model), ("network", report.by_network)):
        lines += ["", _head(bold(f"By {title}"), f"By {title}")]
        lines += _section(rows, newest=title == unit, blocks=blocks)
    lines += ["", *_apart(report, bold, dim)]
    lines.append(dim(f"Ledger: {plain(report.ledger)}"))
    return "\n".join(lines) + "\n"


def _head(shown: str, title: str) -> str:
    return f"{shown}{'':{_LABEL - len(title)}}{'payments':>{_COUNT}}{'USD':>{_AMOUNT - 7}}"


def _line(name: str, each: Sum, bar: str = "") -> str:
    whole, point, part = format_usd(each.micro_usd).partition(".")
    amount = f"{whole:>{_AMOUNT - 7}}{point + part:<7}"
    return (
        f"  {plain(name, _LABEL - 3):<{_LABEL - 2}}{each.payments:>{_COUNT}}{amount}{'  ' if bar else ''}{bar}".rstrip()
    )


def _section(rows: Mapping[str, Sum], *, newest: bool, blocks: bool) -> list[str]:
    """The rows with their bars; of days the newest are kept, of others the dearest, the rest is one line."""
    items = list(rows.items())
    if not items:
        return ["  nothing"]
    shown, rest = items[:MAX_LINES], items[MAX_LINES:]
    if newest:
        shown, rest = items[-MAX_LINES:], items[:-MAX_LINES]
    most = max(each.micro_usd for _, each in shown) or 1
    lines = [_line(name, each, _bar(each.micro_usd, most, blocks)) for name, each in shown]
    if rest:
        name = f"{len(rest)} earlier days" if newest else f"{len(rest)} others"
        others = Sum(sum(each.payments for _, each in rest), sum(each.micro_usd for _, each in rest))
        lines.insert(0 if newest else len(lines), _line(name, others))
    return lines


def _bar(micro_usd: int, most: int, blocks: bool) -> str:
    if not blocks:
        return "#" * (micro_usd * _BAR // most)
    eighths = micro_usd * _BAR * 8 // most
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _apart(report: Report, bold: Callable[[str], str], dim: Callable[[str], str]) -> list[str]:
    """What is not among the settled."""
    lines: list[str] = []
    unknown = report.of("unknown")
    if unknown:
        each = total(unknown)
        lines.append(
            f"{bold('Unknown')}: {count(each.payments)}, {format_usd(each.micro_usd)} USD, not in the sums above."
        )
        lines.append("They may have been settled, and count against the budget. Look them up:")
        for entry in unknown[:MAX_LINES]:
            place = f"{report.network(entry.network)}  {plain(entry.what, 40)}"
            lines.append(f"  {report.moment(entry):%Y-%m-%d %H:%M}  {format_usd(entry.micro_usd):<9} {place}")
            lines.append(dim(f"    {plain(entry.reference) or 'no reference'}"))
        if len(unknown) > MAX_LINES:
            lines.append(f"  and {len(unknown) - MAX_LINES} more; --csv lists all")
        lines.append("")
    rejected = total(report.of("rejected"))
    if rejected.payments:
        lines += [
            f"Rejected by the gateway: {count(rejected.payments)}, {format_usd(rejected.micro_usd)} USD.",
            "They count against the budget until nobody can submit their signatures.",
            "",
        ]
    under_way = total(report.of("under way"))
    if under_way.payments:
        lines += [f"Under way: {count(under_way.payments)}, {format_usd(under_way.micro_usd)} USD.", ""]
    free = [f"{len(report.of(fate))} {said}" for fate, said in _FREE.items() if report.of(fate)]
    if free:
        lines += [f"Cost nothing: {' and '.join(free)}.", ""]
    return lines


_FREE = {"expired": "rejected and expired", "released": "never sent"}


def count(payments: int) -> str:
    """So many payments, in words."""
    return "1 payment" if payments == 1 else f"{payments} payments"


def as_json(report: Report) -> str:
    """The sums, and the payments whose outcome is unknown. Amounts are decimal text, and integers of millionths."""
    unknown = report.of("unknown")
    document = {
        "ledger": report.ledger,
        "made": report.made.isoformat(timespec="seconds"),
        "since": report.since and report.since.isoformat(),
        "today": _object(report.today),
        "this_month": _object(report.month),
        "total": _object(report.total),
        "by_day": _objects("day", report.by_day),
        "by_model": _objects("model", report.by_model),
        "by_network": _objects("network", report.by_network),
        "unknown": {**_object(total(unknown)), "list": [dict(_fields(report, entry)) for entry in unknown]},
        "under_way": _object(total(report.of("under way"))),
        "rejected": _object(total(report.of("rejected"))),
        "expired": _object(total(report.of("expired"))),
        "never_sent": _object(total(report.of("released"))),
    }
    return json.dumps(document, indent=2) + "\n"


def _object(each: Sum) -> dict[str, Any]:
    return {"payments": each.payments, "usd": format_usd(each.micro_usd), "micro_usd": each.micro_usd}


def _objects(title: str, rows: Mapping[str, Sum]) -> list[dict[str, Any]]:
    return [{title: name, **_object(each)} for name, each in rows.items()]


def as_csv(report: Report) -> str:
    """One line for each payment of the period, whatever became of it, oldest first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for _, value in _fields(report, entry)] for entry in report.entries)
    return out.getvalue()


COLUMNS: Sequence[str] = (
    *("time", "state", "usd", "model", "network", "method", "host", "path", "amount", "asset", "pay_to", "reference"),
    *("transaction", "status", "code", "request_id", "first_byte_ms", "total_ms", "bytes", "sends", "row", "replaces"),
)


def _fields(report: Report, entry: Entry) -> Iterable[tuple[str, str | int | None]]:
    values: tuple[str | int | None, ...] = (
        *(report.moment(entry).isoformat(), entry.fate, format_usd(entry.micro_usd), entry.model),
        *(report.network(entry.network), entry.method, entry.host, entry.path, entry.amount, entry.asset),
        *(entry.pay_to, entry.reference, entry.transaction, entry.status, entry.code, entry.request_id),
        *(entry.first_byte_ms, entry.total_ms, entry.size, entry.sends, entry.row, entry.replaces),
    )
    return zip(COLUMNS, values, strict=True)


def _cell(value: str | int | None) -> str | int | None:
    """A text in one line; one that a spreadsheet would take for a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = plain(value, 1000)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
