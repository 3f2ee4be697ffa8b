"""What a run has found, small enough to be kept as JSON beside the tables that are made of it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..blocks import Blocks
from ..resources import StartUp
from ..rounds import Block, Outcome
from .stats import percentile

Three = tuple[float, float, float]
"""Median, 99th percentile and most."""


@dataclass
class Row:
    """One candidate in one cell. Lists have a figure a round; times are in milliseconds."""

    first: list[float]
    """To the first byte of the answer, median of the block."""
    first_99: float
    """99th percentile of all rounds' requests together."""
    total: list[float]
    total_99: float
    per_second: list[float]
    cpu: list[float]
    """Seconds per 1,000 requests; empty where nobody's was counted."""
    delay: list[float]
    """Of an event of a stream, from the gateway to the client, median of the block; empty without streams."""
    delay_99: list[float]
    merged: float
    """Share of the events that arrived together with the one before."""
    sent: int
    """Requests of the client."""
    challenges: int
    """Times that the gateway asked for a payment."""
    doubles: int
    """Payments beyond one for each request."""
    overpaid: int
    """Payments above the price."""
    peak: float
    """Megabytes of memory, at most; 0 where nobody's was counted."""
    waited: float
    """Share of the time in which it could have run that it had no processor."""


@dataclass
class Results:
    """One run."""

    date: str
    minutes: float
    machine: dict[str, str]
    versions: dict[str, str]
    rounds: int
    cells: dict[str, dict[str, Row]] = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)
    """By cell and candidate: why there is nothing."""
    repeated: list[str] = field(default_factory=list)
    """Which blocks failed, why, and were measured once more."""
    missing: dict[str, str] = field(default_factory=dict)
    """By figure: why there is nothing."""
    signing: dict[str, Three] = field(default_factory=dict)
    """By network, milliseconds from header bytes to header bytes."""
    reading: dict[str, Three] = field(default_factory=dict)
    """By dialect, milliseconds of CPU for 4 MB of events."""
    views: dict[str, Three] = field(default_factory=dict)
    """By dialect, milliseconds of CPU that the event loop spends at once on the view of 4 MB of events."""
    longest: dict[str, Three] = field(default_factory=dict)
    """By candidate, milliseconds of the event loop's longest callback while a request was under way."""
    hooks: dict[str, Three] = field(default_factory=dict)
    """By hook of this addon's, milliseconds of a call."""
    start_up: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """By candidate, seconds until it listened and until it had answered, for every start."""
    large: dict[str, list[float]] = field(default_factory=dict)
    """By candidate, megabytes that an answer of 100 MB took."""
    streams: dict[str, list[float]] = field(default_factory=dict)
    """By candidate, kilobytes for each of the streams that were open at once."""
    kept: dict[str, list[float]] = field(default_factory=dict)
    """By candidate, kilobytes of memory that every request leaves behind."""
    ledger: list[tuple[str, float, float]] = field(default_factory=list)
    """Write, milliseconds with few rows in the ledger, and with many."""

    def add(self, outcome: Outcome) -> None:
        """Take over what the cells brought."""
        for (cell, candidate), blocks in outcome.blocks.items():
            self.cells.setdefault(cell, {})[candidate] = row(blocks)
        for (cell, candidate), why in outcome.absent.items():
            self.absent.setdefault(cell, {})[candidate] = why
        self.repeated += outcome.repeated

    def add_blocks(self, found: Mapping[str, Blocks]) -> None:
        for candidate, one in found.items():
            self.longest[candidate] = three(one.longest)
            self.hooks.update({hook: three(times) for hook, times in one.hooks.items()})

    def add_start_up(self, found: Mapping[str, Sequence[StartUp]]) -> None:
        for candidate, starts in found.items():
            self.start_up[candidate] = [(round(one.listening, 3), round(one.answered, 3)) for one in starts]

    @property
    def waited(self) -> float:
        """Median over the cells of one request at a time: with several, proxies also wait for the client."""
        alone = [
            row.waited for cell, rows in self.cells.items() if cell.endswith("-1") for row in rows.values() if row.cpu
        ]
        return statistics.median(alone) if alone else 0.0

    def write(self, file: Path) -> None:
        """One line for each row, so that two runs can be compared."""
        told = asdict(self)
        cells = told.pop("cells")
        told["cells"] = {}
        text = json.dumps(told, indent=1, default=str)
        rows = ",\n".join(
            f'  "{cell}": {{\n' + ",\n".join(f'   "{name}": {json.dumps(one)}' for name, one in by.items()) + "\n  }"
            for cell, by in cells.items()
        )
        file.write_text(text.removesuffix("{}\n}") + "{\n" + rows + "\n }\n}\n")


def read(file: Path) -> Results:
    """What `write` wrote."""
    told: dict[str, Any] = json.loads(file.read_text())
    told["cells"] = {
        cell: {name: Row(**one) for name, one in by_candidate.items()} for cell, by_candidate in told["cells"].items()
    }
    return Results(**told)


def row(blocks: Sequence[Block]) -> Row:
    """All rounds of one candidate in one cell."""
    pooled = [value for block in blocks for value in block.first]
    totals = [value for block in blocks for value in block.total]
    events = sum(len(block.delays) for block in blocks)
    return Row(
        first=_rounded(percentile(block.first, 50) for block in blocks),
        first_99=round(percentile(pooled, 99), 3),
        total=_rounded(percentile(block.total, 50) for block in blocks),
        total_99=round(percentile(totals, 99), 3),
        per_second=_rounded(block.per_second for block in blocks),
        cpu=_rounded(block.cpu for block in blocks if block.cpu is not None),
        delay=_rounded(percentile(block.delays, 50) for block in blocks if block.delays),
        delay_99=_rounded(percentile(block.delays, 99) for block in blocks if block.delays),
        merged=round(sum(block.merged for block in blocks) / events, 5) if events else 0.0,
        sent=sum(block.sent for block in blocks),
        challenges=sum(block.challenges for block in blocks),
        doubles=sum(block.doubles for block in blocks),
        overpaid=sum(block.overpaid for block in blocks),
        peak=round(max((block.peak or 0) for block in blocks) / 1e6, 1),
        waited=round(statistics.median(block.waited for block in blocks), 3),
    )


def three(values: Sequence[float]) -> Three:
    """Median, 99th percentile and most."""
    return (round(percentile(values, 50), 4), round(percentile(values, 99), 4), round(max(values, default=0.0), 4))


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
