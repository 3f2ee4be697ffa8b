"""`python -m tests.bench`: see `--help`."""

from __future__ import annotations

import argparse
import contextlib
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import machine
from .blocks import blocks
from .candidates import OWN, AbsentError, Candidate, baseline
from .cells import CELLS, CLOSELY, cells_named
from .outcome import plot, report, results
from .outcome.results import Results, three
from .parts.ledger_writes import ledger_writes
from .parts.reading import reading, views
from .parts.signing import signing
from .peers import PEERS
from .place import Place
from .processes import ROOT
from .profiles import profile
from .resources import kept, large_answer, open_streams, start_up
from .rounds import Run, say
from .soak import page, verdict
from .soak.run import soak

INTERRUPTED = 130
DOCS = ROOT / "docs" / "benchmark"
FILES = 16384
"""Files that may be open at once: 500 streams are two connections each."""


class WrongUseError(Exception):
    """The command line; the text says what is wrong."""


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends with 2 for one that is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures this proxy beside its floors and its peers: one run, one machine, one gateway, all "
        "candidates interleaved. Prints Markdown. The peers are installed by name from their registries into .bench/.",
    )
    cells, candidates = ", ".join(c.name for c in CELLS), ", ".join(c.name for c in (*OWN, *PEERS))
    parser.add_argument("--quick", action="store_true", help="smaller blocks, fewer rounds; about two minutes")
    parser.add_argument(
        "--cells",
        default="",
        metavar="NAMES",
        help=f"only these, separated by commas: {cells}, or figures: {', '.join(FIGURES)}; rps means all of rps-...",
    )
    parser.add_argument("--candidates", default="", metavar="NAMES", help=f"only these in the cells: {candidates}")
    closely = ", ".join(cell.name for cell in CELLS if cell.closely)
    parser.add_argument(
        "--rounds",
        type=int,
        default=0,
        metavar="N",
        help=f"how often each block is measured; {CLOSELY} times as often, but for --quick, what targets compare "
        f"closely in {closely}",
    )
    parser.add_argument("--requests", type=int, default=0, metavar="N", help="requests a block, instead of its own")
    parser.add_argument(
        "--baseline", type=Path, metavar="DIR", help="another checkout of this project, measured beside this one"
    )
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=DOCS,
        metavar="DIR",
        help="write README.md, overview.svg and results.json, into docs/benchmark unless DIR is given; then README has "
        "the figures of `mitmdump -s`, too",
    )
    parser.add_argument(
        "--render", action="store_true", help="measure nothing: write the page anew from docs/benchmark/results.json"
    )
    parser.add_argument(
        "--profile", metavar="NAME", help="measure nothing: where the time of this candidate goes, by py-spy"
    )
    parser.add_argument(
        "--soak",
        nargs="?",
        type=int,
        const=600,
        metavar="SECONDS",
        help="measure nothing: load with faults for so long (600); does anything leak, do the books agree? Exit code "
        "1: not so. With --write, into docs/benchmark/soak.md",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what a soak's requests and faults depend on")
    return parser.parse_args(argv)


class Bench:
    """One run of what the command line asks for."""

    def __init__(self, given: argparse.Namespace, candidates: Sequence[Candidate]) -> None:
        self._given = given
        self._candidates = candidates
        self._rounds = given.rounds or (5 if given.quick and given.cells else 2 if given.quick else 7)
        self.results = Results(time.strftime("%Y-%m-%d"), 0.0, machine.machine(), machine.versions(), self._rounds)

    def run(self, place: Place, names: Sequence[str]) -> None:
        """The cells and figures of `names`. A figure that cannot be had is noted, and does not end the run."""
        begun = time.monotonic()
        cells = cells_named([name for name in names if name not in FIGURES])
        run = Run(place, self._candidates, part=3 if self._given.quick else 1, requests=self._given.requests)
        try:
            run.cells(cells, self._rounds, closely=not self._given.quick)
        finally:
            self.results.add(run.outcome)
        for name in names:
            if name in FIGURES:
                say(name)
                try:
                    FIGURES[name](self, place)
                except (AbsentError, RuntimeError, TimeoutError, OSError) as error:
                    self.results.missing[name] = f"{error}"
        self.results.minutes = round((time.monotonic() - begun) / 60, 1)

    def _repeat(self, usual: int) -> int:
        """How often a figure is taken."""
        return self._given.rounds or (1 if self._given.quick else usual)

    def signing(self, place: Place) -> None:
        times = signing(place, self._given.requests or (300 if self._given.quick else 2000))
        self.results.signing = {network: three(found) for network, found in times.items()}

    def reading(self, _: Place) -> None:
        self.results.reading = {dialect: three(found) for dialect, found in reading(self._repeat(9)).items()}
        self.results.views = {dialect: three(found) for dialect, found in views(self._repeat(9)).items()}

    def blocks(self, place: Place) -> None:
        self.results.add_blocks(blocks(place, self._given.requests or (200 if self._given.quick else 1000)))

    def start_up(self, place: Place) -> None:
        self.results.add_start_up(start_up(place, self._repeat(8)))

    def large_answer(self, place: Place) -> None:
        found = large_answer(place, self._repeat(3))
        self.results.large = {name: [round(value / 1e6, 2) for value in all_] for name, all_ in found.items()}

    def open_streams(self, place: Place) -> None:
        found = open_streams(place, self._repeat(3), 500)
        self.results.streams = {name: [round(value / 1e3, 1) for value in all_] for name, all_ in found.items()}

    def kept(self, place: Place) -> None:
        found = kept(place, self._repeat(2), self._given.requests or (500 if self._given.quick else 2000))
        self.results.kept = {name: [round(value / 1e3, 2) for value in all_] for name, all_ in found.items()}

    def ledger(self, place: Place) -> None:
        self.results.ledger = [
            (what, round(few, 4), round(many, 4)) for what, few, many in ledger_writes(place.new_home("ledger"))
        ]


FIGURES: dict[str, Callable[[Bench, Place], None]] = {
    "signing": Bench.signing,
    "reading": Bench.reading,
    "blocks": Bench.blocks,
    "start-up": Bench.start_up,
    "large-answer": Bench.large_answer,
    "open-streams": Bench.open_streams,
    "kept": Bench.kept,
    "ledger": Bench.ledger,
}
"""What is measured besides the cells: signing and reading in this process, what blocks the event loop, start-up, memory
over 100 MB, with 500 streams open and left behind by requests, the ledger's writes."""
QUICK_FIGURES = ("signing", "reading", "blocks", "start-up", "large-answer")


def candidates_named(names: str, checkout: Path | None) -> list[Candidate]:
    """Raises WrongUseError: for one that does not exist."""
    known = {one.name: one for one in OWN}
    if checkout is not None:
        if not (checkout / "addon" / "mitmproxy_x402").is_dir():
            raise WrongUseError(f"--baseline {checkout}: there is no addon/mitmproxy_x402 in it")
        known["baseline"] = baseline(checkout)
    known |= {one.name: one for one in PEERS}
    wanted = names.split(",") if names else list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise WrongUseError(f"there is no candidate {unknown[0]!r}; known are {', '.join(known)}")
    if names and checkout is not None and "baseline" not in wanted:
        wanted.append("baseline")
    return [one for name, one in known.items() if name in wanted]


def names_of(cells: str, *, quick: bool) -> list[str]:
    """Raises WrongUseError: for a cell or figure that does not exist."""
    if not cells:
        return [*(cell.name for cell in CELLS if cell.quick or not quick), *(FIGURES if not quick else QUICK_FIGURES)]
    try:
        cells_named([name for name in cells.split(",") if name not in FIGURES])
    except ValueError as error:
        known = ", ".join([*(cell.name for cell in CELLS), *FIGURES])
        raise WrongUseError(f"there is no cell or figure {error}; known are {known}") from None
    return cells.split(",")


def write(found: Results, candidates: Sequence[Candidate], folder: Path) -> None:
    """The page, the plot, and what both are made of."""
    folder.mkdir(parents=True, exist_ok=True)
    found.write(folder / "results.json")
    (folder / "README.md").write_text(report.page(found, candidates))
    (folder / "overview.svg").write_text(plot.plot(found, candidates))
    if folder == DOCS:
        report.write_readme(found)


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    given = read_arguments(argv)
    try:
        candidates = candidates_named(given.profile or given.candidates, given.baseline)
        names = names_of(given.cells, quick=given.quick)
    except WrongUseError as error:
        print(f"python -m tests.bench: {error}", file=sys.stderr)
        return 2
    if given.render:
        folder = given.write or DOCS
        write(results.read(folder / "results.json"), candidates, folder)
        return 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(FILES, hard)), hard))
    if given.soak:
        return _soak(given.soak, given.seed, given.write)
    with tempfile.TemporaryDirectory(prefix="x402-bench-") as name, Place(Path(name)) as place:
        if given.profile:
            return _profile(place, candidates[0])
        bench = Bench(given, candidates)
        bench.run(place, names)
    print(report.body(bench.results, candidates))
    if given.write:
        write(bench.results, candidates, given.write)
    return 0


def _soak(seconds: int, seed: int, folder: Path | None) -> int:
    say(f"{seconds} s of load, seed {seed}")
    try:
        found = soak(seconds, seed)
    except (RuntimeError, OSError) as error:
        print(f"python -m tests.bench: the soak came to no end: {error}", file=sys.stderr)
        return 1
    checks = verdict.checks(found)
    print(page.page(found, checks) if folder else page.table(checks))
    if folder:
        (folder / "soak.md").write_text(page.page(found, checks))
    for check in checks:
        if not check.holds:
            print(f"python -m tests.bench: {check.what}: {check.found}; must be: {check.aim}", file=sys.stderr)
    return 0 if all(check.holds for check in checks) else 1


def _profile(place: Place, candidate: Candidate) -> int:
    try:
        for concurrency in (1, 16):
            print(profile(place, candidate, concurrency) + "\n")
    except AbsentError as error:
        print(f"python -m tests.bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
    sys.exit(INTERRUPTED)
