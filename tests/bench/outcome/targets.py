"""The targets, each set beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .results import Results, Row
from .stats import Spread, ratios

Way = Literal["at most", "at least"]


@dataclass(frozen=True)
class Target:
    """One target and what became of it."""

    what: str
    aim: str
    found: str
    """Empty: not measured."""
    met: bool | None


def _first(row: Row) -> Sequence[float]:
    return row.first


def _per_second(row: Row) -> Sequence[float]:
    return row.per_second


@dataclass(frozen=True)
class _Ratio:
    """A target that sets one candidate in relation to another, round by round."""

    cell: str
    figure: Callable[[Row], Sequence[float]]
    candidate: str
    reference: str
    way: Way
    aim: float
    what: str

    def judge(self, results: Results) -> Target:
        rows = results.cells.get(self.cell, {})
        what, aim = f"{self.what}, {_TITLES[self.candidate]} : {_TITLES[self.reference]}", f"{self.way} {self.aim:g}"
        if self.candidate not in rows or self.reference not in rows:
            return Target(what, aim, "", None)
        found = ratios(self.figure(rows[self.candidate]), self.figure(rows[self.reference]))
        met = found.median <= self.aim if self.way == "at most" else found.median >= self.aim
        return Target(what, aim, str(found), met)


_TITLES = {
    "ours": "this proxy",
    "ours-preauthorize": "x402_preauthorize",
    "ours-dump": "x402_dump",
    "mitmdump": "bare mitmdump, unpaid",
    "blockrun-litellm": "blockrun-litellm",
}
_FIRST = "Time to the first byte, one at a time"
_RATES = {cell: f"Requests per second, {cell.partition('-')[2]} at a time" for cell in ("rps-16", "rps-64")}


def _ratios(results: Results) -> tuple[_Ratio, ...]:
    """With mitmproxy 11 other aims hold: its own exchange takes less, and a hook that waits takes longer."""
    older = results.versions.get("mitmproxy", "").startswith("11.")
    first, rate = (1.1, 0.85) if older else (1.05, 0.9)
    return (
        _Ratio("ttfb-1", _first, "ours", "blockrun-litellm", "at most", 0.4, _FIRST),
        _Ratio("ttfb-1", _first, "ours", "mitmdump", "at most", first, _FIRST),
        _Ratio("ttfb-1", _first, "ours-preauthorize", "mitmdump", "at most", 0.8, _FIRST),
        _Ratio("ttfb-1", _first, "ours-dump", "ours", "at most", 1.1, _FIRST),
        *(
            _Ratio(cell, _per_second, candidate, reference, "at least", aim, what)
            for cell, what in _RATES.items()
            for candidate, reference, aim in (
                ("ours", "blockrun-litellm", 3),
                ("ours", "mitmdump", rate),
                ("ours-preauthorize", "mitmdump", 1.1),
                ("ours-dump", "ours", 0.85),
            )
        ),
    )


def targets(results: Results) -> list[Target]:
    """All of them, in the order in which they were set."""
    return [
        *(ratio.judge(results) for ratio in _ratios(results)),
        *_far(results),
        *_signing(results),
        *_reading(results),
        *_streams(results),
        *_memory(results),
        *_start_up(results),
    ]


def _far(results: Results) -> Iterator[Target]:
    what, aim = "Time to the first byte, 30 ms away, connections kept : two round trips", "at most 1.05"
    rows = results.cells.get("far-1", {})
    if "ours" not in rows or "direct" not in rows:
        yield Target(what, aim, "", None)
        return
    measured = ratios(rows["ours"].first, [2 * value for value in rows["direct"].first])
    nominal = statistics.median(rows["ours"].first) / 60
    yield Target(what, aim, f"{measured}; of 60 ms sharp: {nominal:.2f}", measured.median <= 1.05)


def _signing(results: Results) -> Iterator[Target]:
    for network, name, aim in (("base", "EVM", 0.35), ("solana", "Solana", 0.5)):
        times = results.signing.get(network)
        what = f"From header bytes to header bytes, {name}, ms"
        found = "" if times is None else f"{times[0]:.2f} (p99 {times[1]:.2f})"
        yield Target(what, f"at most {aim}", found, None if times is None else times[0] <= aim)
    others = {hook: times for hook, times in results.hooks.items() if hook != "x402_challenge"}
    what = "Anything else of this addon on the event loop, a request, ms"
    if not others:
        yield Target(what, "at most 1", "", None)
        return
    slowest = max(others, key=lambda hook: others[hook][0])
    text = ", ".join(f"{hook} {times[0]:.2f} (p99 {times[1]:.2f})" for hook, times in others.items())
    yield Target(what, "at most 1", text, others[slowest][1] <= 1)


def _reading(results: Results) -> Iterator[Target]:
    for what, most, found in (
        ("Reading 4 MB of events, the slowest dialect, ms of CPU", 200, results.reading),
        ("A view of 4 MB of events, at once on the event loop, the slowest dialect, ms of CPU", 20, results.views),
    ):
        slowest = max(found, key=lambda dialect: found[dialect][0], default="")
        text = f"{found[slowest][0]:.1f} ({slowest})" if slowest else ""
        yield Target(what, f"at most {most}", text, found[slowest][0] <= most if slowest else None)


def _streams(results: Results) -> Iterator[Target]:
    for cell in ("stream-1", "stream-16", "stream-64"):
        rows = results.cells.get(cell, {})
        what = f"Delay added to an event, streams at once: {cell.partition('-')[2]}, this proxy : bare mitmdump"
        if not {"ours", "mitmdump-stream", "direct"} <= rows.keys():
            yield Target(what, "at most 1.1", "", None)
            continue
        found = ratios(_added(rows, "ours"), _added(rows, "mitmdump-stream"))
        yield Target(what, "at most 1.1", str(found), found.median <= 1.1)
    for cell in ("stream-1", "stream-16"):
        rows = results.cells.get(cell, {})
        what = f"Events merged, streams at once: {cell.partition('-')[2]}"
        aim = f"at most {NOISE:.1%} more than bare mitmdump"
        if not {"ours", "mitmdump-stream"} <= rows.keys():
            yield Target(what, aim, "", None)
            continue
        ours, bare = rows["ours"].merged, rows["mitmdump-stream"].merged
        text = f"{ours:.2%}, bare mitmdump {bare:.2%}"
        yield Target(what, aim, text, ours <= bare + NOISE)


NOISE = 0.005
"""Share of events that two runs of the same program may differ by."""


def _added(rows: dict[str, Row], candidate: str) -> list[float]:
    """Beyond what the way without any proxy takes."""
    return [value - floor for value, floor in zip(rows[candidate].delay, rows["direct"].delay, strict=False)]


def _memory(results: Results) -> Iterator[Target]:
    large = results.large.get("ours")
    yield Target(
        "Memory for an answer of 100 MB, MB",
        "under 20",
        _spread_of(large),
        None if not large else statistics.median(large) < 20,
    )
    ours, bare = results.streams.get("ours"), results.streams.get("mitmdump-stream")
    what = "Memory for each of 500 open streams above bare mitmdump, KB"
    if not ours or not bare:
        yield Target(what, "under 60", "", None)
        return
    above = [one - other for one, other in zip(ours, bare, strict=False)]
    yield Target(what, "under 60", _spread_of(above), statistics.median(above) < 60)


def _start_up(results: Results) -> Iterator[Target]:
    ours, bare = results.start_up.get("ours"), results.start_up.get("mitmdump")
    what = "Start-up above bare mitmdump's, until it listens, s"
    if not ours or not bare:
        yield Target(what, "at most 0.5", "", None)
        return
    above = [one[0] - other[0] for one, other in zip(ours, bare, strict=False)]
    yield Target(what, "at most 0.5", _spread_of(above), statistics.median(above) <= 0.5)


def _spread_of(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    return str(Spread(statistics.median(values), min(values), max(values)))
