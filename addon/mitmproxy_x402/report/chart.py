"""Draws the report's chart as SVG: spending per day, week or month, stacked. Pure; lengths in tenths of a pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape

from ..ledger.sums import Group
from ..protocol.amounts import format_usd
from .sums import SPENT, Report
from .text import plain

SERIES = 7
"""Names that are drawn with a colour of their own; all others share one."""
OTHERS = "others"
WIDTH, HEIGHT = 9400, 2800
_LEFT, _RIGHT, _TOP, _BOTTOM = 600, 180, 140, 300
_LEAST_SLOTS = 14
_LABELS = 8


@dataclass(frozen=True)
class Slot:
    """A day, week or month: one bar."""

    first: date
    label: str
    """The text below the bar."""
    title: str
    """The text of its tooltip."""


def ranking(sums: Mapping[str, object]) -> tuple[str, ...]:
    """The names that get a colour, in the order of `sums`; the last may be OTHERS."""
    names = tuple(sums)
    return names if len(names) <= SERIES + 1 else (*names[:SERIES], OTHERS)


def slots(report: Report) -> list[Slot]:
    """Every day from the first to the last, without gaps; weeks where these are too many, and then months."""
    last = report.made.date()
    first = min([date.fromisoformat(day) for day in report.by_day] + [last])
    begin = report.since or first
    days = (last - begin).days + 1
    if days <= 62:
        begin = min(begin, last - timedelta(days=_LEAST_SLOTS - 1))
        found = [begin + timedelta(days=number) for number in range((last - begin).days + 1)]
        return [Slot(day, f"{day.day} {day:%b}", f"{day:%A}, {day.day} {day:%B %Y}") for day in found]
    if days <= 370:
        begin -= timedelta(days=begin.weekday())
        found = [begin + timedelta(days=7 * number) for number in range((last - begin).days // 7 + 1)]
        return [Slot(day, f"{day.day} {day:%b}", f"week of {day.day} {day:%B %Y}") for day in found]
    months = range(begin.year * 12 + begin.month - 1, last.year * 12 + last.month)
    found = [date(month // 12, month % 12 + 1, 1) for month in months]
    return [Slot(day, f"{day:%b %Y}", f"{day:%B %Y}") for day in found]


def svg(report: Report, title: str, names: Sequence[str], key: Callable[[Group], str]) -> str:
    """The bars, stacked by what `key` says of a payment. `names` have colours; screen readers read `title`."""
    columns = slots(report)
    heights = column_heights(report, columns, names, key)
    most = max([sum(column.values()) for column in heights] + [1])
    step = _step(most)
    top = -(-most // step) * step
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH // 10} {HEIGHT // 10}" role="img" aria-label="{escape(title)}">']
    for tick in range(0, top + 1, step):
        y = HEIGHT - _BOTTOM - tick * height // top
        parts.append(f'<line class="grid" x1="{_px(_LEFT)}" x2="{_px(WIDTH - _RIGHT)}" y1="{_px(y)}" y2="{_px(y)}"/>')
        parts.append(f'<text class="tick" x="{_px(_LEFT - 80)}" y="{_px(y + 40)}">{format_usd(tick)}</text>')
    slot = width // len(columns)
    bar = min(slot * 72 // 100, 340)
    every = -(-len(columns) // _LABELS)
    for number, (column, amounts) in enumerate(zip(columns, heights, strict=True)):
        x = _LEFT + slot * number + (slot - bar) // 2
        shown = [name for name in names if amounts.get(name)]
        below, rects = 0, []
        for name in shown:
            base = HEIGHT - _BOTTOM - below * height // top
            below += amounts[name]
            y = min(HEIGHT - _BOTTOM - below * height // top, base - 4)
            place = f'x="{_px(x)}" y="{_px(y)}" width="{_px(bar)}" height="{_px(base - y)}"'
            rects.append(f'<rect class="c{names.index(name)}" {place}/>')
        if shown:
            parts.append(f'<g class="bar">{_tooltip(column, amounts, shown)}{"".join(rects)}</g>')
        if (len(columns) - 1 - number) % every == 0:
            parts.append(f'<text class="day" x="{_px(x + bar // 2)}" y="{_px(HEIGHT - 90)}">{column.label}</text>')
    return "\n".join([*parts, "</svg>"])


def _tooltip(column: Slot, amounts: Mapping[str, int], shown: Sequence[str]) -> str:
    lines = [f"{column.title}: {format_usd(sum(amounts.values()))} USD"]
    lines += [f"{plain(name, 60)}: {format_usd(amounts[name])}" for name in shown]
    return f"<title>{'&#10;'.join(escape(line) for line in lines)}</title>"


def column_heights(
    report: Report, columns: Sequence[Slot], names: Sequence[str], key: Callable[[Group], str]
) -> list[dict[str, int]]:
    """Millionths of a dollar by slot and name."""
    found: list[dict[str, int]] = [{} for _ in columns]
    firsts = [column.first for column in columns]
    at = 0
    for group in report.groups:
        if group.fate not in SPENT:
            continue
        day = date.fromisoformat(group.day)
        while at + 1 < len(firsts) and firsts[at + 1] <= day:
            at += 1
        name = key(group)
        name = name if name in names else OTHERS
        found[at][name] = found[at].get(name, 0) + group.counts
    return found


def _step(most: int) -> int:
    """The distance of two lines: 1, 2 or 5 times a power of ten, so that there are about four."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power * 5 >= most:
                return digit * power
        power *= 10


def _px(tenths: int) -> str:
    return f"{tenths // 10}.{tenths % 10}" if tenths % 10 else str(tenths // 10)
