"""The page that says what was seen: docs/faults.md, whose tables come from a run and are compared with the next."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .plan import FAULTS, MEET, POINTS, Entry, why_not
from .tries import Result

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
NETWORK = ("refused", "reset", "close", "stall", "timeout", "garbage", "drip")
TABLES = {
    "network": tuple(fault for fault in FAULTS if fault.key in NETWORK),
    "machine": tuple(fault for fault in FAULTS if fault.key not in NETWORK),
}
Cells = Mapping[tuple[str, str], str]


def text_of(results: Iterable[Result]) -> dict[tuple[str, str], str]:
    """What stands in each cell; variants of which the same came stand together."""
    seen: dict[tuple[str, str], dict[str, list[str]]] = {}
    for result in results:
        texts = seen.setdefault((result.what.point, result.what.fault), {})
        texts.setdefault(result.text, []).append(result.what.label)
    return {cell: _together(texts) for cell, texts in seen.items()}


def _together(texts: Mapping[str, list[str]]) -> str:
    if len(texts) == 1:
        return next(iter(texts))
    return "<br>".join(f"{'; '.join(labels)}: {text}" for text, labels in texts.items())


def blocks(cells: Cells) -> dict[str, str]:
    """What stands between the marks of the page."""
    reasons = list(dict.fromkeys(_reasons()))
    made = {name: _table(columns, cells, reasons) for name, columns in TABLES.items()}
    made["points"] = _legend(POINTS)
    made["faults"] = _legend(FAULTS)
    made["reasons"] = "\n".join(f"- **-{_letter(number)}**: {reason}." for number, reason in enumerate(reasons))
    return made


def _reasons() -> Iterable[str]:
    for columns in TABLES.values():
        for point in POINTS:
            yield from (why_not(point.key, fault.key) for fault in columns if fault.key not in MEET[point.key])


def _letter(number: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[number]


def _table(columns: tuple[Entry, ...], cells: Cells, reasons: list[str]) -> str:
    lines = [["", *(fault.title for fault in columns)], ["---"] * (1 + len(columns))]
    for point in POINTS:
        row = [f"**{point.title}**"]
        for fault in columns:
            if fault.key in MEET[point.key]:
                row.append(cells[point.key, fault.key])
            else:
                row.append(f"-{_letter(reasons.index(why_not(point.key, fault.key)))}")
        lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _legend(entries: Iterable[Entry]) -> str:
    return "\n".join(f"- **{entry.title}**: {entry.what}" for entry in entries)


# The page.


def committed() -> dict[tuple[str, str], str]:
    """What the page says of each cell."""
    cells: dict[tuple[str, str], str] = {}
    for name, columns in TABLES.items():
        rows = {line.split("|")[1].strip(" *"): line.split("|")[2:-1] for line in _between(name)[0].splitlines()}
        for point in POINTS:
            row = rows.get(point.title, [""] * len(columns))
            for fault, text in zip(columns, row, strict=True):
                if fault.key in MEET[point.key]:
                    cells[point.key, fault.key] = text.strip()
    return cells


def _between(mark: str) -> re.Match[str]:
    found = re.search(rf"(?<=<!-- {mark} -->\n)(.*?)(?=<!-- /{mark} -->)", PAGE.read_text(), re.DOTALL)
    assert found is not None, mark
    return found


def differences(cells: Cells) -> list[str]:
    """Where the page says something else of `cells`."""
    page = committed()
    return [
        f"{point}, {fault}: the page says {page[point, fault]!r}, it was {text!r}"
        for (point, fault), text in cells.items()
        if page[point, fault] != text
    ]


def stale() -> list[str]:
    """Marks of the page between which something else stands than the plan and its own cells make."""
    return [mark for mark, text in blocks(committed()).items() if _between(mark)[0].strip() != text]


def write(cells: Cells) -> None:
    """Put `cells` into the page; those that are missing stay."""
    for mark, text in blocks({**committed(), **cells}).items():
        found, page = _between(mark), PAGE.read_text()
        PAGE.write_text(f"{page[: found.start()]}{text}\n{page[found.end() :]}")
