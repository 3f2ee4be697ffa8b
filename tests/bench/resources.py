"""Start-up time, and memory: over a large answer, and with many streams open."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from .candidates import NEAR, SERVE, Start, mitmdump, ours
from .place import Place
from .processes import Worker, forget_peak, memory
from .sides.load import Job
from .sides.work import Work

STREAMING = ("--set", "stream_large_bodies=1")
LARGE = 100 * 1024 * 1024
PATIENCE = 60
"""Seconds until all streams must be open."""


@dataclass(frozen=True)
class StartUp:
    """Seconds from the start of the process."""

    listening: float
    answered: float
    """Until the first request had its answer; paid, where the candidate pays."""


def start_up(place: Place, rounds: int) -> dict[str, list[StartUp]]:
    """Several starts of each, in turn. All have been started before: settings, authority and ledger are there."""
    candidates: Mapping[str, Start] = {"mitmdump": mitmdump(), "ours": ours(), "ours-run": ours(how=SERVE)}
    found: dict[str, list[StartUp]] = {name: [] for name in candidates}
    load = Worker()
    place.keeps_homes = True
    try:
        for number in range(rounds + 1):
            for name, start in candidates.items():
                one = start(place, NEAR)
                assert one.process is not None
                try:
                    _must(load.run(Job(one.port, 1, warm=0)).errors)
                    answered = time.monotonic() - one.process.started
                finally:
                    one.stop()
                if number:
                    found[name].append(StartUp(one.process.listening_after, answered))
    finally:
        place.keeps_homes = False
        load.stop()
    return found


def large_answer(place: Place, rounds: int) -> dict[str, list[float]]:
    """Bytes of memory, at most, that an answer of 100 MB took beyond what a warm process has."""
    candidates: Mapping[str, Start] = {"mitmdump-stream": mitmdump(*STREAMING), "ours": ours()}
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for name, start in [item for _ in range(rounds) for item in candidates.items()]:
        with _Warm(place, start) as warm:
            before = memory(warm.pid)
            forget_peak(warm.pid)
            _must(warm.load.run(Job(warm.port, 1, warm=0, work=Work(answer_bytes=LARGE))).errors)
            most = memory(warm.pid, "VmHWM")
            if before is not None and most is not None:
                found[name].append(most - before)
    return found


def kept(place: Place, rounds: int, requests: int) -> dict[str, list[float]]:
    """Bytes of memory that each of `requests` requests leaves behind in a process that has served half as many."""
    candidates: Mapping[str, Start] = {"mitmdump": mitmdump(), "ours-free": ours(free=True), "ours": ours()}
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for name, start in [item for _ in range(rounds) for item in candidates.items()]:
        with _Warm(place, start) as warm:
            _must(warm.load.run(Job(warm.port, requests // 2, 8)).errors)
            before = memory(warm.pid)
            _must(warm.load.run(Job(warm.port, requests, 8)).errors)
            after = memory(warm.pid)
            if before is not None and after is not None:
                found[name].append((after - before) / requests)
    return found


def open_streams(place: Place, rounds: int, streams: int) -> dict[str, list[float]]:
    """Bytes of memory for each of `streams` streams that are open at once, beyond what a warm process has."""
    candidates: Mapping[str, Start] = {"mitmdump-stream": mitmdump(*STREAMING), "ours": ours()}
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for name, start in [item for _ in range(rounds) for item in candidates.items()]:
        with _Warm(place, start) as warm:
            before = memory(warm.pid)
            place.counts()
            warm.load.begin(Job(warm.port, streams, streams, warm=0, work=Work(events=12, interval=1000)))
            _wait_until_answered(place, streams)
            during = memory(warm.pid)
            _must(warm.load.result().errors)
            if before is not None and during is not None:
                found[name].append((during - before) / streams)
    return found


def _wait_until_answered(place: Place, streams: int) -> None:
    """Raises TimeoutError."""
    deadline, answers = time.monotonic() + PATIENCE, 0
    while answers < streams:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {answers} of {streams} streams were open after {PATIENCE} s")
        time.sleep(0.2)
        answers += place.counts()["answers"]
    time.sleep(1)  # one event of each passes


def _must(errors: list[str]) -> None:
    if errors:
        raise RuntimeError(f"failed: {errors[0]}")


class _Warm:
    """A process that has served some requests, and a client for it."""

    def __init__(self, place: Place, start: Start) -> None:
        self._one = start(place, NEAR)
        self.port = self._one.port
        assert self._one.pid is not None
        self.pid = self._one.pid
        self.load = Worker()

    def __enter__(self) -> _Warm:
        _must(self.load.run(Job(self.port, 60, 4)).errors)
        return self

    def __exit__(self, *_: object) -> None:
        self.load.stop()
        self._one.stop()
