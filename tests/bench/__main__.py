"""`python -m tests.bench`: see `--help`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .candidates import OWN, Candidate
from .cells import CELLS, cells_named
from .peers import PEERS
from .place import Place
from .report import tables
from .rounds import Run

INTERRUPTED = 130


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends with 2 for one that is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures this proxy beside its floors and its peers: one run, one machine, one gateway, all "
        "candidates interleaved. Prints Markdown tables.",
    )
    parser.add_argument("--quick", action="store_true", help="smaller blocks and fewer rounds, about two minutes")
    parser.add_argument("--cells", default="", help=f"only these kinds of load: {', '.join(c.name for c in CELLS)}")
    parser.add_argument("--candidates", default="", help=f"only these: {', '.join(c.name for c in (*OWN, *PEERS))}")
    parser.add_argument("--rounds", type=int, default=0, help="how often every block is measured (7, or 5 if --quick)")
    return parser.parse_args(argv)


def candidates_named(names: str) -> list[Candidate]:
    """Raises ValueError: for one that does not exist."""
    known = {candidate.name: candidate for candidate in (*OWN, *PEERS)}
    for name in filter(None, names.split(",")):
        if name not in known:
            raise ValueError(f"there is no candidate {name!r}; known are {', '.join(known)}")
    return [known[name] for name in names.split(",")] if names else list(known.values())


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    given = read_arguments(argv)
    try:
        cells = cells_named(given.cells) if given.cells else list(CELLS)
        candidates = candidates_named(given.candidates)
    except ValueError as error:
        print(f"python -m tests.bench: {error}", file=sys.stderr)
        return 2
    rounds = given.rounds or (5 if given.quick else 7)
    with tempfile.TemporaryDirectory(prefix="x402-bench-") as name, Place(Path(name)) as place:
        run = Run(place, candidates, quick=given.quick)
        run.cells(cells, rounds)
    print(tables(run.outcome, cells, candidates))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
    sys.exit(INTERRUPTED)
