"""How long the event loop is blocked for one request, by mitmproxy and by this addon's hooks; see watchdog.py."""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path

from .candidates import NEAR, mitmdump, ours
from .place import Place
from .processes import Worker
from .sides.load import Job
from .sides.work import Work

WATCHDOG = Path(__file__).parent / "sides" / "watchdog.py"


@dataclass
class Blocks:
    """Milliseconds, a figure for every request."""

    longest: list[float] = field(default_factory=list)
    """The longest callback of the event loop while the request was under way."""
    hooks: dict[str, list[float]] = field(default_factory=dict)
    """By hook: every call of this addon's."""


def blocks(place: Place, requests: int) -> dict[str, Blocks]:
    """Of bare mitmdump and of this proxy, one request at a time."""
    watched = ("-s", str(WATCHDOG))
    found = {}
    for name, start in (("mitmdump", mitmdump(*watched)), ("ours", ours(*watched))):
        one = start(place, NEAR)
        load = Worker()
        try:
            times = load.run(Job(one.port, requests, warm=60, work=Work()))
        finally:
            load.stop()
            one.stop()
        assert one.process is not None
        told = json.loads((one.process.folder / "blocks.json").read_text())
        found[name] = _blocks(told, list(zip(times.begun, times.total, strict=True)))
    return found


def _blocks(told: dict[str, list[list[float]]], requests: list[tuple[float, float]]) -> Blocks:
    starts = [begun for begun, _ in told["callbacks"]]
    found = Blocks()
    for begun, took in requests:
        inside = told["callbacks"][bisect_left(starts, begun) : bisect_left(starts, begun + took / 1000)]
        found.longest.append(max((length for _, length in inside), default=0.0))
    first = min((begun for begun, _ in requests), default=0.0)
    for began, length, name in told["hooks"]:
        if began >= first:
            found.hooks.setdefault(str(name), []).append(length)
    return found
