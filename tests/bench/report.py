"""What a run has measured, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .candidates import Candidate
from .cells import Cell
from .rounds import Block, Outcome
from .stats import percentile, ratios, spread

HEAD = (
    "| | first byte p50, ms | p99 | total p50, ms | p99 | requests/s | CPU s per 1,000 "
    "| first byte, ratio | requests/s, ratio | CPU, ratio |"
)


def tables(outcome: Outcome, cells: Sequence[Cell], candidates: Sequence[Candidate]) -> str:
    """A table for each cell."""
    parts = []
    for cell in cells:
        rows = [row for candidate in candidates for row in _rows(outcome, cell, candidate)]
        if rows:
            parts.append(
                f"### {cell.name}: {cell.title}\n\n{HEAD}\n|---|---|---|---|---|---|---|---|---|---|\n"
                + "\n".join(rows)
            )
    return "\n\n".join(parts)


def _rows(outcome: Outcome, cell: Cell, candidate: Candidate) -> list[str]:
    if candidate.name not in cell.candidates:
        return []
    blocks = outcome.blocks.get((cell.name, candidate.name))
    if not blocks:
        return [f"| {candidate.title} | absent: {outcome.absent.get((cell.name, candidate.name), 'not asked')} |"]
    first = [value for block in blocks for value in block.first]
    total = [value for block in blocks for value in block.total]
    cpu = [block.cpu for block in blocks if block.cpu is not None]
    figures = [
        f"{percentile(first, 50):.2f}",
        f"{percentile(first, 99):.2f}",
        f"{percentile(total, 50):.2f}",
        f"{percentile(total, 99):.2f}",
        f"{spread([block.per_second for block in blocks]).median:.0f}",
        f"{sum(cpu) / len(cpu):.2f}" if cpu else "",
        _ratio(outcome, cell, blocks, lambda block: percentile(block.first, 50)),
        _ratio(outcome, cell, blocks, lambda block: block.per_second),
        _ratio(outcome, cell, blocks, lambda block: block.cpu or 0.0),
    ]
    return [f"| {candidate.title} | {' | '.join(figures)} |"]


def _ratio(outcome: Outcome, cell: Cell, blocks: Sequence[Block], figure: Callable[[Block], float]) -> str:
    references = outcome.blocks.get((cell.name, cell.reference), [])
    if not references:
        return ""
    if not all(map(figure, references)):
        return ""
    return str(ratios([figure(block) for block in blocks], [figure(block) for block in references]))
