"""Writes the report as a table for the terminal, as JSON and as CSV. Pure.

Names of models, paths, references and codes come from clients and gateways: whatever could steer a terminal, or be a
formula to a spreadsheet, is made harmless here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ..ledger.interface import FREE
from ..ledger.reading import Entry
from ..ledger.sums import Ceilings
from ..machine.program import program
from ..protocol.amounts import format_usd
from .sums import UNNAMED, WORDS, Report, Sum

WIDTH = 80
_LABEL, _COUNT, _AMOUNT = 32, 10, 16
_BAR = WIDTH - _LABEL - _COUNT - _AMOUNT - 2
MAX_LINES = 20
"""Most rows of a section; the others are summed up in one line."""
MAX_LISTED = 5
"""Most payments that are listed one by one."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


def plain(text: str, width: int = 200) -> str:
    """`text` in one line of printable characters, at most `width` of them."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def table(report: Report, *, colour: bool = False, blocks: bool = True) -> str:
    """The report for a terminal of 80 columns. `colour`: it understands ANSI; `blocks`: it has block characters."""

    def bold(text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if colour else text

    def dim(text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if colour else text

    if not report.groups:
        when = f"since {report.since}" if report.since else "yet"
        return f"Nothing was paid {when}.\n{dim(f'Ledger: {plain(report.ledger)}')}\n"
    lines = [_head(bold("Spent"), "Spent")]
    period = f"Since {report.since}" if report.since else "In all"
    for name, each in {"Today": report.today, "This month": report.month, period: report.total}.items():
        lines.append(_line(name, each))
        if each.open_payments:
            lines += [_line("  confirmed", each.confirmed), _line("  sent, not confirmed yet", each.open)]
    sections = {"day": report.by_day, "model": report.by_model, "network": report.by_network, "path": report.by_path}
    if any(name != UNNAMED for name in report.by_client):
        sections["client"] = report.by_client
    for title, rows in sections.items():
        lines += ["", _head(bold(f"By {title}"), f"By {title}")]
        lines += _section(rows, newest=title == "day", blocks=blocks)
    if report.total.open_payments:
        lines += ["", dim("Bars: what is confirmed is dark, what is not yet is light.")] if blocks else []
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
    lines = [_line(name, each, _bar(each, most, blocks)) for name, each in shown]
    if rest:
        name = f"{len(rest)} earlier days" if newest else f"{len(rest)} others"
        others = sum((each for _, each in rest), Sum())
        lines.insert(0 if newest else len(lines), _line(name, others))
    return lines


def _bar(each: Sum, most: int, blocks: bool) -> str:
    """What is confirmed, then what is not."""
    confirmed = each.micro_usd - each.open_micro_usd
    if not blocks:
        return "#" * (confirmed * _BAR // most) + "." * (each.micro_usd * _BAR // most - confirmed * _BAR // most)
    if each.open_micro_usd:
        dark, whole = confirmed * _BAR // most, max(each.micro_usd * _BAR // most, 1)
        return "█" * dark + "░" * (whole - dark)
    eighths = confirmed * _BAR * 8 // most
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _apart(report: Report, bold: Callable[[str], str], dim: Callable[[str], str]) -> list[str]:
    """What there is to say beside the sums: what is open, what the chain contradicts, what cost nothing."""
    lines: list[str] = []
    for number, sentence in enumerate(ceilings(report.ceilings)):
        lines.append(sentence.replace(CEILINGS, bold(CEILINGS)) if number == 0 else sentence)
    lines += [""] if lines else []
    each, rejected = report.of("unknown"), report.of("rejected")
    if each.payments:
        lines.append(f"{bold('Sent, not confirmed yet')}: {count(each.payments)}, {format_usd(each.micro_usd)} USD.")
        lines.append(f"They count as spent. {program()} reconcile asks the chain about them:")
        lines += _listed(report, report.unknown, lambda entry: entry.reference or "no reference", dim, each.payments)
    if rejected.payments:
        lines += [
            f"Rejected by the gateway: {count(rejected.payments)}, {format_usd(rejected.micro_usd)} USD.",
            "They count as spent until their signatures expire.",
            "",
        ]
    under_way = report.of("under way")
    if under_way.payments:
        lines += [f"Under way: {count(under_way.payments)}, {format_usd(under_way.micro_usd)} USD.", ""]
    if report.findings:
        lines.append(f"{bold('The chain contradicts the gateway')}: {count(len(report.findings))}.")
        found = report.findings
        lines += _listed(report, found, lambda entry: f"{entry.finding}  {entry.chain_transaction}", dim, len(found))
    free = [f"{report.of(fate).payments} {WORDS[fate]}" for fate in reversed(FREE) if report.of(fate).payments]
    if free:
        lines += [f"Cost nothing: {' and '.join(free)}.", ""]
    return lines


CEILINGS = "Ceilings (upto)"


def ceilings(its: Ceilings) -> list[str]:
    """What payments by `upto` came to, in a sentence or two; nothing where there were none."""
    said = []
    if its.payments:
        text = f"{CEILINGS}: {count(its.payments)}, charged {format_usd(its.charged)} of at most {format_usd(its.most)}"
        if its.compared == its.payments:
            text += f" (exact: {format_usd(its.exact)})"
        elif its.compared:
            text += f" ({its.compared} of them {format_usd(its.compared_charged)}; exact: {format_usd(its.exact)})"
        said.append(f"{text} USD.")
    if its.unproven:
        its_charges = "Their charges" if its.unproven == its.payments else f"The charges of {its.unproven} of them"
        said.append(
            f"{its_charges} ({format_usd(its.unproven_charged)} USD) are what the gateway says: the chain has not "
            "confirmed them."
        )
    if its.unknown:
        what = "of it" if its.unknown == 1 else "of them"
        known = f"{CEILINGS}: {count(its.unknown)}" if not said else f"{count(its.unknown)} more"
        said.append(f"{known}, at most {format_usd(its.unknown_most)} USD: what was charged {what} is not known yet.")
    return said


def _listed(
    report: Report, entries: Sequence[Entry], more: Callable[[Entry], str], dim: Callable[[str], str], there_are: int
) -> Iterable[str]:
    """The first of `entries`, two lines each; `there_are` says how many there are in all."""
    for entry in entries[:MAX_LISTED]:
        place = f"{report.network(entry.network):<14} {plain(entry.what, 36)}"
        yield f"  {report.moment(entry):%Y-%m-%d %H:%M}  {format_usd(entry.micro_usd):<9} {place}"
        yield dim(f"    {plain(more(entry), WIDTH - 4)}")
    if there_are > MAX_LISTED:
        yield f"  and {there_are - MAX_LISTED} more; --csv lists all"
    yield ""


def count(payments: int) -> str:
    """A number of payments, in words."""
    return "1 payment" if payments == 1 else f"{payments} payments"


def as_json(report: Report) -> str:
    """The sums, and what is open or contradicted. Amounts are decimal text, and integers of millionths."""
    listed = [dict(_fields(report, entry)) for entry in report.unknown]
    more = report.of("unknown").payments - len(listed)
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
        "by_path": _objects("path", report.by_path),
        "by_client": _objects("client", report.by_client),
        "unknown": {**_object(report.of("unknown")), "list": listed, "not_listed": more},
        "under_way": _object(report.of("under way")),
        "rejected": _object(report.of("rejected")),
        "not_taken": _object(report.of("expired")),
        "never_sent": _object(report.of("released")),
        "ceilings": _ceilings(report.ceilings),
        "findings": [dict(_fields(report, entry)) for entry in report.findings],
    }
    return json.dumps(document, indent=2) + "\n"


def _object(each: Sum) -> dict[str, Any]:
    return {
        "payments": each.payments,
        "usd": format_usd(each.micro_usd),
        "micro_usd": each.micro_usd,
        "confirmed_usd": format_usd(each.confirmed.micro_usd),
        "not_confirmed_usd": format_usd(each.open_micro_usd),
    }


def _ceilings(its: Ceilings) -> dict[str, Any]:
    """`exact_usd` is what the sellers asked beside `compared` of them, which were charged `compared_charged_usd`.

    Of `unproven` only the gateway says what was charged.
    """
    return {
        "payments": its.payments,
        "ceiling_usd": format_usd(its.most),
        "charged_usd": format_usd(its.charged),
        "compared": its.compared,
        "compared_charged_usd": format_usd(its.compared_charged),
        "exact_usd": format_usd(its.exact),
        "unproven": its.unproven,
        "unproven_charged_usd": format_usd(its.unproven_charged),
        "not_known": its.unknown,
        "not_known_ceiling_usd": format_usd(its.unknown_most),
    }


def _objects(title: str, rows: Mapping[str, Sum]) -> list[dict[str, Any]]:
    return [{title: name, **_object(each)} for name, each in rows.items()]


def as_csv(report: Report, entries: Iterable[Entry]) -> Iterator[str]:
    """One line for each of `entries`, whatever became of it; first the names of the columns."""
    yield _row(COLUMNS)
    for entry in entries:
        yield _row([_cell(value) for _, value in _fields(report, entry)])


def _row(cells: Sequence[str | int | None]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


COLUMNS: Sequence[str] = (
    *("time", "state", "usd", "model", "network", "method", "host", "path", "amount", "asset", "pay_to", "reference"),
    *("transaction", "status", "code", "request_id", "first_byte_ms", "total_ms", "bytes", "sends", "row", "replaces"),
    *("spent_usd", "client", "wallet", "scheme", "chain", "chain_transaction", "chain_time", "chain_amount", "finding"),
    *("charged", "exact_usd"),
)
"""`usd` is what was signed for, `spent_usd` what counts of it, `charged` what an answer said was taken of a ceiling (in
atomic units), `exact_usd` the exact price beside it; `chain...` is what the chain itself says."""


def _fields(report: Report, entry: Entry) -> Iterable[tuple[str, str | int | None]]:
    when = None if entry.chain_time is None else datetime.fromtimestamp(entry.chain_time, timezone.utc)
    values: tuple[str | int | None, ...] = (
        *(report.moment(entry).isoformat(), entry.fate, format_usd(entry.micro_usd), entry.model),
        *(report.network(entry.network), entry.method, entry.host, entry.path, entry.amount, entry.asset),
        *(entry.pay_to, entry.reference, entry.transaction, entry.status, entry.code, entry.request_id),
        *(entry.first_byte_ms, entry.total_ms, entry.size, entry.sends, entry.row, entry.replaces),
        *(format_usd(entry.counts), entry.client, entry.wallet, entry.scheme, entry.chain_state),
        *(
            entry.chain_transaction,
            None if when is None else when.astimezone(report.zone).isoformat(),
            entry.chain_amount,
        ),
        *(entry.finding, entry.charged),
        None if entry.exact_micro_usd is None else format_usd(entry.exact_micro_usd),
    )
    return zip(COLUMNS, values, strict=True)


def _cell(value: str | int | None) -> str | int | None:
    """A text in one line; one that a spreadsheet would take for a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = plain(value, 1000)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
