"""The plot: three panels of bars in relation to bare mitmdump, as an SVG that reads on light and on dark pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from ..candidates import Candidate
from .results import Results, Row
from .stats import Spread, ratios

_WIDTH = 860
_LABELS = 310
_BAR, _GAP, _HEAD = 18, 8, 46
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 14px }
.ours { fill: #0969da } .floor { fill: #8c959f } .peer { fill: #bf8700 }
.one { stroke: #57606a; stroke-dasharray: 3 3 } .spread { stroke: #24292f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .ours { fill: #4493f8 } .floor { fill: #6e7681 } .peer { fill: #d29922 }
  .one { stroke: #8d96a0 } .spread { stroke: #e6edf3 }
}"""
_PANELS: tuple[tuple[str, str, Callable[[Row], Sequence[float]]], ...] = (
    ("ttfb-1", "Time to the first byte, one request at a time (less is better)", lambda row: row.first),
    ("rps-16", "Requests per second, 16 at a time (more is better)", lambda row: row.per_second),
    ("rps-16", "CPU time per request, 16 at a time (less is better)", lambda row: row.cpu),
)


def plot(results: Results, candidates: Sequence[Candidate]) -> str:
    """The SVG's text."""
    height, parts = 10, []
    for cell, title, figure in _PANELS:
        bars = _bars(results.cells.get(cell, {}), candidates, figure)
        if bars:
            parts.append(_panel(f"{title}, bare mitmdump's unpaid exchange = 1", bars, height))
            height += _HEAD + len(bars) * (_BAR + _GAP) + 14
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">\n'
        f"<title>Time to the first byte, requests per second and CPU time beside bare mitmdump's</title>\n"
        f"<style>\n{_STYLE}\n</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _bars(
    rows: dict[str, Row], candidates: Sequence[Candidate], figure: Callable[[Row], Sequence[float]]
) -> list[tuple[Candidate, Spread]]:
    bare = rows.get("mitmdump")
    if bare is None or not figure(bare):
        return []
    return [
        (one, ratios(figure(rows[one.name]), figure(bare)))
        for one in candidates
        if one.name in rows and one.name != "direct" and figure(rows[one.name])
    ]


def _panel(title: str, bars: Sequence[tuple[Candidate, Spread]], top: int) -> str:
    most = max(1.0, *(spread.high for _, spread in bars))
    scale = (_WIDTH - _LABELS - 90) / most
    first = top + _HEAD - 12
    x, bottom = _LABELS + scale, first + len(bars) * (_BAR + _GAP) - _GAP
    lines = [
        f'<text class="title" x="10" y="{top + 20}">{escape(title)}</text>',
        f'<path class="one" d="M{x:.1f} {first - 4}V{bottom + 4}"/>',
    ]
    for number, (candidate, spread) in enumerate(bars):
        y = first + number * (_BAR + _GAP)
        kind = "ours" if candidate.name.startswith("ours") else "peer" if candidate.peer else "floor"
        end = _LABELS + spread.median * scale
        low, high = (_LABELS + value * scale for value in (spread.low, spread.high))
        middle = y + _BAR / 2
        lines += [
            f'<text x="{_LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(candidate.title)}</text>',
            f'<rect class="{kind}" x="{_LABELS}" y="{y}" width="{spread.median * scale:.1f}" height="{_BAR}" rx="2"/>',
            f'<path class="spread" d="M{low:.1f} {middle}H{high:.1f}"/>',
            f'<text x="{max(end, high) + 6:.1f}" y="{y + 14}">{spread.median:.2f}</text>',
        ]
    return "\n".join(lines)
