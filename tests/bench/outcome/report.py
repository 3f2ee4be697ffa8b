"""A run's results as Markdown."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence

from ..candidates import OWN, Candidate
from ..cells import CELLS, Cell
from ..processes import ROOT
from .results import Results, Row
from .stats import ratios
from .targets import targets

_PAGE = """\
# Benchmark

Written by `./run.sh bench --write`, on {date}, in {minutes:.0f} minutes. One run, one machine, one gateway; all
candidates were started side by side and measured in turn, {rounds} rounds, each with new processes and beginning with
another candidate. Ratios are taken round by round: the median, and in brackets the quartiles. Absolute times say little
about another machine; ratios say more.{close}

{machine}{quiet}

![Time to the first byte, requests per second and CPU time, in relation to bare mitmdump](overview.svg)

Where the time goes, function by function: [profiles.md](profiles.md).

{parts}

## To repeat it

```sh
./run.sh bench                       # everything, about half an hour; installs the peers into .bench/
./run.sh bench --rounds 3            # the same in twelve minutes
./run.sh bench --quick               # about two minutes
./run.sh bench --cells ttfb,rps --candidates mitmdump,ours --quick
./run.sh bench --write               # the same as the first, and writes this page, the plot, results.json and README
./run.sh bench --profile ours        # where the time goes, by py-spy
```

Nothing but the peers' installation leaves the machine. The client, the gateway and the candidates are processes of
their own. The gateway is asyncio and hand-made bytes, and believes every payment; "straight to the gateway" shows how
little it takes. Every candidate's logs go to a file. CPU time is the user and system time of the candidate's
processes; a client that pays by itself is its own load generator, and that is in its figures. CPU time and memory are
known on Linux only. Bare mitmdump runs as it comes, and in the cells of streams with `stream_large_bodies=1`: otherwise
it holds a stream back until its end. Delays of events are those of a stream's last two thirds, when all streams of the
block are open. On ext4, a new file costs up to a third of a millisecond for some minutes after many were deleted, as at
the end of a run with `x402_dump`, which makes four for a request: wait for five minutes, or have `TMPDIR` on another
file system.
"""


README = ROOT / "README.md"
_MARKS = re.compile(r"(?<=<!-- speed -->\n).*?(?=<!-- /speed -->)", re.DOTALL)
"""The part of README that `in_few_words` makes."""

DISTURBED = 0.1
"""Share of its time that a run waited for a processor, above which its figures are only a hint."""
_DISTURBED = """

**The machine was not quiet.** With one request at a time the candidates waited for a processor for {waited:.0%} of the
time in which they could have run. Repeat it with nothing else running."""


def page(results: Results, candidates: Sequence[Candidate]) -> str:
    """The whole of docs/benchmark/README.md."""
    machine = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    machine += ".\n\nVersions: " + ", ".join(f"{name} {value}" for name, value in results.versions.items()) + "."
    parts = body(results, candidates, everything=True)
    quiet = _DISTURBED.format(waited=results.waited) if results.waited > DISTURBED else ""
    return _PAGE.format(
        date=results.date,
        minutes=results.minutes,
        rounds=results.rounds,
        close=_close(results),
        machine=machine,
        quiet=quiet,
        parts=parts,
    )


def in_few_words(results: Results) -> str:
    """The part of README that has the figures of `mitmdump -s`."""
    ways = {
        "ours": "paid: two exchanges, and a sync of the disk between them",
        "ours-unsynced": "paid, with `x402_ledger_sync=false`",
        "ours-preauthorize": "paid, with `x402_preauthorize`: one exchange",
        "ours-free": "unpaid",
    }
    rows = [
        (text, *(f"{each:.2f}" for each in found))
        for name, text in ways.items()
        if (found := _beside_mitmdump(results, name)) is not None
    ]
    head = (
        "Under `mitmdump -s`; bare mitmdump, unpaid, is 1",
        "time to the first byte",
        "requests per second, 16 at a time",
    )
    parts = [_table(head, rows)]
    far = results.cells.get("far-1", {})
    if {"ours", "direct"} <= far.keys():
        found = ratios(far["ours"].first, [2 * value for value in far["direct"].first])
        parts.append(
            f"From a gateway 30 ms away the first byte of a paid answer takes {found.median:.2f} times two round trips."
        )
    streams = results.cells.get("stream-16", {})
    if {"ours", "mitmdump-stream"} <= streams.keys():
        found = ratios(streams["ours"].delay, streams["mitmdump-stream"].delay)
        parts.append(f"An event of a stream takes {found.median:.2f} times as long as through mitmdump.")
    return parts[0] + "\n\n" + "\n".join(parts[1:])


def _beside_mitmdump(results: Results, name: str) -> tuple[float, float] | None:
    """Ratios of the time to the first byte, one at a time, and of requests per second, 16 at a time."""
    alone, many = results.cells.get("ttfb-1", {}), results.cells.get("rps-16", {})
    if not all({name, "mitmdump"} <= cell.keys() for cell in (alone, many)):
        return None
    first = ratios(alone[name].first, alone["mitmdump"].first)
    rate = ratios(many[name].per_second, many["mitmdump"].per_second)
    return first.median, rate.median


def write_readme(results: Results) -> None:
    """Put `in_few_words` into README."""
    text = README.read_text()
    README.write_text(_MARKS.sub(lambda _: f"\n{in_few_words(results)}\n\n", text))


_CLOSE = """

What the targets compare closely depends on how a process happens to start, so there are {} rounds of it in {}."""


def _close(results: Results) -> str:
    """Which cells had more rounds than all others."""
    rounds = {cell: max(len(row.first) for row in rows.values()) for cell, rows in results.cells.items()}
    more = {f"`{cell}`": number for cell, number in rounds.items() if number > results.rounds}
    return _CLOSE.format(max(more.values()), ", ".join(more)) if more else ""


def body(results: Results, candidates: Sequence[Candidate], *, everything: bool = False) -> str:
    """All that was measured; with `everything` also the targets that were not."""
    parts = [_targets(results, everything=everything)]
    parts += [table for cell in CELLS if cell.name in results.cells for table in [_cell(results, cell, candidates)]]
    parts += [_predicted(results, candidates), _in_process(results), _start_up(results), _memory(results)]
    parts += [_ledger(results), _missing(results, candidates), _repeated(results)]
    return "\n\n".join(part for part in parts if part)


_TITLES = {one.name: one.title for one in OWN}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _targets(results: Results, *, everything: bool) -> str:
    words = {True: "met", False: "**not met**", None: "not measured"}
    rows = [(one.what, one.aim, one.found, words[one.met]) for one in targets(results) if one.found or everything]
    return "## Targets\n\n" + _table(("", "aim", "measured", ""), rows) if rows else ""


def _cell(results: Results, cell: Cell, candidates: Sequence[Candidate]) -> str:
    rows = results.cells[cell.name]
    absent = results.absent.get(cell.name, {})
    columns = _STREAM_COLUMNS if cell.job.work.events else _COLUMNS
    lines = []
    for one in candidates:
        if one.name in rows:
            lines.append([one.title, *(make(rows[one.name], rows, cell) for make in columns.values())])
        elif one.name in absent:
            lines.append([one.title, "absent, see below", *[""] * (len(columns) - 1)])
    return f"## {cell.title} (`{cell.name}`)\n\n" + _table(("", *columns), lines)


def _median(values: Sequence[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f}" if values else ""


def _ratio(figure: Callable[[Row], Sequence[float]]) -> Callable[[Row, dict[str, Row], Cell], str]:
    def ratio(row: Row, rows: dict[str, Row], cell: Cell) -> str:
        reference = rows.get(cell.reference)
        if reference is None or reference is row or not figure(row) or not all(figure(reference)):
            return ""
        return str(ratios(figure(row), figure(reference))) if figure(reference) else ""

    return ratio


_Column = Callable[[Row, "dict[str, Row]", Cell], str]
_CPU: dict[str, _Column] = {
    "CPU s per 1,000": lambda row, *_: _median(row.cpu),
    "memory, MB": lambda row, *_: f"{row.peak:.0f}" if row.peak else "",
}
_COLUMNS: dict[str, _Column] = {
    "first byte p50, ms": lambda row, *_: _median(row.first),
    "p99": lambda row, *_: f"{row.first_99:.2f}",
    "total p50, ms": lambda row, *_: _median(row.total),
    "p99 ": lambda row, *_: f"{row.total_99:.2f}",
    "requests/s": lambda row, *_: _median(row.per_second, 0),
    **_CPU,
    "first byte, ratio": _ratio(lambda row: row.first),
    "requests/s, ratio": _ratio(lambda row: row.per_second),
    "CPU, ratio": _ratio(lambda row: row.cpu),
}
_STREAM_COLUMNS: dict[str, _Column] = {
    "first byte p50, ms": lambda row, *_: _median(row.first),
    "p99": lambda row, *_: f"{row.first_99:.2f}",
    "event's delay p50, ms": lambda row, *_: _median(row.delay),
    "p99 ": lambda row, *_: _median(row.delay_99),
    "merged": lambda row, *_: f"{row.merged:.2%}",
    **_CPU,
    "first byte, ratio": _ratio(lambda row: row.first),
    "delay, ratio": _ratio(lambda row: row.delay),
    "delay p99, ratio": _ratio(lambda row: row.delay_99),
    "CPU, ratio": _ratio(lambda row: row.cpu),
}


def _predicted(results: Results, candidates: Sequence[Candidate]) -> str:
    lines = []
    for cell in CELLS:
        for one in candidates:
            row = results.cells.get(cell.name, {}).get(one.name)
            if row is None or not one.ahead:
                continue
            right = f"{1 - row.challenges / row.sent:.1%}"
            lines.append((cell.title, f"{row.sent:,}", right, str(row.doubles), str(row.overpaid)))
    if not lines:
        return ""
    head = ("x402_preauthorize", "requests", "paid in one exchange", "paid twice", "paid above the price")
    return "## Payments sent ahead\n\n" + _table(head, lines)


def _in_process(results: Results) -> str:
    lines = [
        (f"signing, {network}, header bytes to header bytes", *map(_ms, times))
        for network, times in results.signing.items()
    ]
    lines += [
        (f"reading 4 MB of events, {dialect}, CPU", *map(_ms, times)) for dialect, times in results.reading.items()
    ]
    lines += [
        (f"a view of 4 MB of events, {dialect}, CPU on the event loop", *map(_ms, times))
        for dialect, times in results.views.items()
    ]
    lines += [
        (f"longest callback of the event loop during a request, {_TITLES[name]}", *map(_ms, times))
        for name, times in results.longest.items()
    ]
    lines += [(f"this addon's hook `{name}`", *map(_ms, times)) for name, times in results.hooks.items()]
    if not lines:
        return ""
    return "## In the process\n\n" + _table(("ms", "p50", "p99", "most"), lines)


def _ms(value: float) -> str:
    return f"{value:.3f}"


def _start_up(results: Results) -> str:
    if not results.start_up:
        return ""
    lines = [
        (
            _TITLES[name],
            _median([one[0] for one in starts]),
            _range([one[0] for one in starts]),
            _median([one[1] for one in starts]),
        )
        for name, starts in results.start_up.items()
    ]
    return "## Start-up\n\n" + _table(("s", "until it listens", "least to most", "until the first answer"), lines)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else ""


def _memory(results: Results) -> str:
    figures = (
        ("an answer of 100 MB", "MB", results.large),
        ("an open stream", "KB", results.streams),
        ("left behind by a request", "KB", results.kept),
    )
    lines = [
        (f"{what}, {_TITLES[name]}, {unit}", _median(values), _range(values))
        for what, unit, found in figures
        for name, values in found.items()
    ]
    return "## Memory\n\n" + _table(("", "median", "least to most"), lines) if lines else ""


def _ledger(results: Results) -> str:
    if not results.ledger:
        return ""
    lines = [(what, f"{few:.3f}", f"{many:.3f}") for what, few, many in results.ledger]
    return "## Writes to the ledger\n\n" + _table(("ms", "few rows", "100,000 rows"), lines)


def _missing(results: Results, candidates: Sequence[Candidate]) -> str:
    """Every candidate and figure that is not there, and why; each reason once."""
    where: dict[tuple[str, str], list[str]] = {}
    for cell, by_candidate in results.absent.items():
        for name, why in by_candidate.items():
            where.setdefault((name, why), []).append(cell)
    titles = {one.name: one.title for one in candidates}
    lines = [f"- {titles.get(name, name)}: {why} ({', '.join(cells)})" for (name, why), cells in where.items()]
    lines += [f"- {figure}: {why}" for figure, why in results.missing.items()]
    return "## Absent\n\n" + "\n".join(lines) if lines else ""


def _repeated(results: Results) -> str:
    """Every block that had to be measured once more, and why."""
    return "## Measured once more\n\n" + "\n".join(f"- {one}" for one in results.repeated) if results.repeated else ""
