"""Where the time of a candidate goes under load, by py-spy, which is installed by name into a folder of its own."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

from .candidates import NEAR, AbsentError, Candidate
from .peers import python_with
from .place import Place
from .processes import Worker
from .sides.load import Job

SECONDS = 12
TOP = 30
FRAME = 0.95
"""Functions with a greater share than this are the frame that everything runs in."""


def profile(place: Place, candidate: Candidate, concurrency: int) -> str:
    """Tables: packages and functions by their own time, functions with all that they call. Raises AbsentError."""
    spy = python_with("py-spy", ["py-spy"]).with_name("py-spy")
    one = candidate.start(place, NEAR)
    load = Worker()
    try:
        load.run(Job(one.port, 200, 4))
        load.begin(Job(one.port, 1_000_000, concurrency))
        file = place.folder / "profile.txt"
        _record(spy, one.pid or 0, file)
        stacks = _read(file)
    finally:
        load.process.kill()
        load.stop()
        one.stop()
    return f"{candidate.title}, {concurrency} at a time, {SECONDS} s\n\n" + tables(stacks)


def _record(spy: Path, pid: int, file: Path) -> None:
    command = [str(spy), "record", "--pid", str(pid), "--duration", str(SECONDS), "--rate", "200"]
    ended = subprocess.run(
        [*command, "--format", "raw", "--function", "--output", str(file)], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise AbsentError(f"py-spy failed: {(ended.stderr.strip().splitlines() or ['no word'])[-1]}")


def _read(file: Path) -> list[tuple[list[str], int]]:
    """Stacks from the outermost function to the innermost, and how often each was seen."""
    found = []
    for line in file.read_text().splitlines():
        stack, _, times = line.rpartition(" ")
        found.append((stack.split(";"), int(times)))
    return found


def _package(function: str) -> str:
    """The package of `name (package/module.py:line)`."""
    return function.rpartition("(")[2].partition("/")[0].partition(":")[0]


def tables(stacks: list[tuple[list[str], int]]) -> str:
    """Shares of all samples: by package, by function, and by function with what it calls."""
    everything = sum(times for _, times in stacks) or 1
    packages: Counter[str] = Counter()
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for stack, times in stacks:
        packages[_package(stack[-1])] += times
        own[stack[-1]] += times
        for function in set(stack):
            within[function] += times
    for name in [name for name, times in within.items() if times > FRAME * everything]:
        del within[name]
    parts = []
    for title, counted in (("own time", packages), ("own time", own), ("with what it calls", within)):
        lines = [f"| {times / everything:.1%} | `{name}` |" for name, times in counted.most_common(TOP)]
        parts.append(f"| {title} | |\n|---|---|\n" + "\n".join(lines))
    return "\n\n".join(parts)
