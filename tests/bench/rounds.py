"""Runs the cells: all candidates side by side, block after block in turn, so that a drift of the machine hits all.

Each round has processes of its own: one and the same program is up to a tenth faster or slower from start to start, as
its memory happens to lie.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from .candidates import AbsentError, Candidate, Running, Way
from .cells import CLOSELY, Cell
from .outcome.stats import percentile
from .place import Place
from .processes import Worker, cpu_seconds, forget_peak, memory, waited_seconds
from .sides.load import Found, Job
from .sides.work import Work

WARM_REQUESTS = 60


@dataclass
class Block:
    """One cell for one candidate in one round."""

    first: list[float]
    total: list[float]
    """Milliseconds, of every request."""
    per_second: float
    cpu: float | None
    """Seconds per 1,000 requests."""
    delays: list[float] = field(default_factory=list)
    merged: int = 0
    sent: int = 0
    challenges: int = 0
    """Times that the gateway asked for a payment."""
    doubles: int = 0
    """Payments beyond one for each request."""
    overpaid: int = 0
    """Payments above the price."""
    peak: int | None = None
    """Bytes of memory, at most."""
    waited: float = 0.0
    """Share of the time in which it could have run that it had no processor: how disturbed the machine was."""


@dataclass
class Outcome:
    """What a run has measured."""

    blocks: dict[tuple[str, str], list[Block]] = field(default_factory=dict)
    """By cell and candidate, a block a round."""
    absent: dict[tuple[str, str], str] = field(default_factory=dict)
    """By cell and candidate: why there is nothing."""
    repeated: list[str] = field(default_factory=list)
    """Which blocks failed, why, and were measured once more."""


def say(text: str) -> None:
    """Progress, for a person who waits."""
    print(text, file=sys.stderr, flush=True)


class Run:
    """Goes through cells with candidates; `outcome` grows.

    A block has one `part`-th of its cell's requests, or `requests` of them.
    """

    def __init__(self, place: Place, candidates: Sequence[Candidate], *, part: int = 1, requests: int = 0) -> None:
        self.outcome = Outcome()
        self._place = place
        self._candidates = candidates
        self._part = part
        self._requests = requests
        self._load = Worker()
        self._running: dict[str, Running] = {}

    def cells(self, cells: Sequence[Cell], rounds: int, *, closely: bool = False) -> None:
        """`rounds` blocks of every cell for every candidate that takes part in it; with `closely`, `CLOSELY` times as
        many of what is compared closely.
        """
        try:
            self._rounds(cells, range(rounds))
            if closely:
                self._rounds([cell.close for cell in cells if cell.closely], range(rounds, rounds * CLOSELY))
        finally:
            self._load.stop()

    def _rounds(self, cells: Sequence[Cell], numbers: range) -> None:
        """Each with new processes."""
        for way, number in itertools.product(dict.fromkeys(cell.way for cell in cells), numbers):
            here = [cell for cell in cells if cell.way == way]
            with ExitStack() as stack:
                self._start(way, here, stack)
                for cell in here:
                    self._round(cell, number, stack)

    def _start(self, way: Way, cells: Sequence[Cell], stack: ExitStack) -> None:
        """Start and warm every candidate that `cells` name; who cannot is absent from all of them."""
        self._running.clear()
        for candidate in self._candidates:
            taking_part = [cell for cell in cells if candidate.name in cell.candidates]
            if all((cell.name, candidate.name) in self.outcome.absent for cell in taking_part):
                continue
            why = self._start_one(candidate, way, stack)
            if why:
                say(f"absent: {candidate.title}: {why}")
                for cell in taking_part:
                    self._leave_out((cell.name, candidate.name), why)
        self._place.counts()

    def _start_one(self, candidate: Candidate, way: Way, stack: ExitStack) -> str:
        """Returns why it cannot take part; empty if it can."""
        try:
            one = candidate.start(self._place, way)
            stack.callback(one.stop)
            work = Work(varied=way.network == "metered")
            self._ask(
                one, Job(one.port, self._requests or (4 if way.far else WARM_REQUESTS), 4, work=work, tls=one.tls)
            )
        except (AbsentError, RuntimeError) as error:
            return str(error)
        self._running[candidate.name] = one
        return ""

    def _ask(self, one: Running, job: Job) -> Found:
        """Raises AbsentError: it did not answer as it should."""
        found = (one.worker or self._load).run(job)
        if found.errors:
            words = one.process.last_words() if one.process is not None else ""
            raise AbsentError(f"failed: {found.errors[0]}" + (f"; its last words: {words}" if words else ""))
        return found

    def _round(self, cell: Cell, number: int, stack: ExitStack) -> None:
        """One block for each, beginning with another one each time."""
        here = [c for c in self._candidates if c.name in cell.candidates and c.name in self._running]
        start = number % max(1, len(here))
        said = []
        for candidate in (*here[start:], *here[:start]):
            key = cell.name, candidate.name
            if key in self.outcome.absent:
                continue
            try:
                block = self._block_or_again(cell, candidate, number, stack)
            except (AbsentError, RuntimeError) as error:
                say(f"{cell.name}: {candidate.name}: {error}")
                self._leave_out(key, str(error))
                continue
            self.outcome.blocks.setdefault(key, []).append(block)
            said.append(f"{candidate.name} {percentile(block.first, 50):.2f}")
        say(f"round {number + 1}, {cell.name}, ms to the first byte: {', '.join(said)}")

    def _block_or_again(self, cell: Cell, candidate: Candidate, number: int, stack: ExitStack) -> Block:
        """A block; one that fails is measured once more, with a new process, and told of in the end."""
        one = self._running[candidate.name]
        try:
            return self._block(cell, one, number)
        except (AbsentError, RuntimeError) as error:
            failed = f"{candidate.title}: round {number + 1} of {cell.name} {error}"
        say(f"once more: {failed}")
        self.outcome.repeated.append(failed)
        one.stop()
        why = self._start_one(candidate, cell.way, stack)
        if why:
            raise AbsentError(why)
        self._place.counts()
        return self._block(cell, self._running[candidate.name], number)

    def _leave_out(self, key: tuple[str, str], why: str) -> None:
        self.outcome.absent[key] = why
        self.outcome.blocks.pop(key, None)

    def _block(self, cell: Cell, one: Running, number: int) -> Block:
        size = self._requests or cell.job.requests // self._part
        job = cell.job_for(one.port, tls=one.tls, requests=size, seed=number * 10_000)
        if one.pid is None:
            found, cpu, waited, peak = self._ask(one, job), None, 0.0, None
        else:
            forget_peak(one.pid)
            cpu_before, waited_before = cpu_seconds(one.pid), waited_seconds(one.pid)
            found = self._ask(one, job)
            cpu_after, waited = cpu_seconds(one.pid), waited_seconds(one.pid) - waited_before
            cpu = None if cpu_before is None or cpu_after is None else cpu_after - cpu_before
            peak = memory(one.pid, "VmHWM")
        counts = self._place.counts()
        return Block(
            first=found.first,
            total=found.total,
            per_second=len(found.total) / found.elapsed,
            cpu=None if cpu is None else cpu / found.sent * 1000,
            delays=found.delays,
            merged=found.merged,
            sent=found.sent,
            challenges=counts["challenges"],
            doubles=max(0, counts["distinct"] - found.sent),
            overpaid=counts["overpaid"],
            peak=peak,
            waited=waited / (waited + cpu) if cpu else 0.0,
        )
