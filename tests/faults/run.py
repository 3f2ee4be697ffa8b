"""Runs the tries (`tries`), as many at a time as one proxy can serve without the fault of one hitting another."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from .attempts import account, ask, result, strike
from .plan import cells
from .scene import LONG, SHORT, Scene
from .sides.gateway import PATIENCE
from .stage import Stage
from .tries import Result, Seen, Trial, Try, read_answer, tries_of

GROUPS = ("slow", "gateway", "rpc", "ledger", "clock", "kill")
BESIDE = 24
"""Tries at a time."""
LOCKED = 0.05
"""Seconds for which the ledger is locked in a stall: it waits longer than that."""


_ENDLESS = ("402-head", "402-body", "head")
"""Points at which garbage may be the beginning of an answer, so that only a time-out ends it."""


def group_of(what: Try) -> str:
    """The one of GROUPS in which `what` runs."""
    if what.fault in ("kill", "clock"):
        return what.fault
    if what.point == "rpc":
        return "rpc"
    if what.point in ("reserve", "send", "outcome") or what.fault == "disk":
        return "ledger"
    ends_by_a_timeout = what.fault in ("timeout", "drip") or (what.fault == "garbage" and what.point in _ENDLESS)
    return "slow" if ends_by_a_timeout else "gateway"


def tries_in(group: str) -> list[Try]:
    """Every try of a group, in the order of the table."""
    return [what for cell in cells() for what in tries_of(*cell) if group_of(what) == group]


def run(group: str) -> list[Result]:
    """Run a group, in a new folder, with a proxy of its own."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stage = Stage(Path(folder), stack, tries_in(group))
        return _RUNS[group](stage)


def _slow(stage: Stage) -> list[Result]:
    return _beside(stage, SHORT)


def _gateway(stage: Stage) -> list[Result]:
    return _beside(stage, LONG)


def _beside(stage: Stage, timeouts: Mapping[str, float]) -> list[Result]:
    with stage.scene(timeouts) as scene, ThreadPoolExecutor(BESIDE) as pool:
        return list(pool.map(lambda trial: strike(scene, trial), stage.trials))


# The RPC. One after the other: a blockhash that was given is used for ten seconds.


def _rpc(stage: Stage) -> list[Result]:
    with stage.scene() as scene:
        return [_strike_rpc(scene, trial) for trial in stage.trials]


def _strike_rpc(scene: Scene, trial: Trial) -> Result:
    what, rpc = trial.what, scene.rpc
    rpc.fault, rpc.lie = "hold" if what.fault == "disk" else what.fault, what.lie
    rpc.asked.clear()
    if what.fault == "refused":
        rpc.door.shut()
    trial.begin()
    with scene.client(trial.gateway) as client:
        client.send(trial.request())
        if what.fault == "disk":
            assert rpc.asked.wait(PATIENCE)
            with scene.disk_full():
                rpc.let_go("reset")
                seen = read_answer(client)
        else:
            seen = read_answer(client)
    if what.fault == "refused":
        rpc.door.open()
    rpc.fault = ""
    scene.forget_blockhash()
    done = result(scene, trial, seen, _open_rows(trial))
    scene.forget_blockhash()
    return done


# The ledger's file. One after the other: it is the same one for all.


def _ledger(stage: Stage) -> list[Result]:
    with stage.scene() as scene:
        return [_strike_file(scene, trial) for trial in stage.trials]


def _strike_file(scene: Scene, trial: Trial) -> Result:
    what = trial.what
    if what.point == "held":
        account(scene, trial, ask(scene, trial))
    trial.begin()
    with scene.client(trial.gateway) as client:
        if what.hold:
            client.send(trial.request(held=True))
            scene.control.wait_for(what.path)
        with scene.disk_full() if what.fault == "disk" else scene.locked() as unlock:
            if what.hold:
                scene.control.let_go(what.path)
            else:
                client.send(trial.request())
            if what.fault == "stall":
                threading.Event().wait(LOCKED)
                unlock()
            seen = read_answer(client)
            if what.point == "outcome":
                scene.proxy.wait_for(f"for POST {what.path}.*; left: ")
    return result(scene, trial, seen, _open_rows(trial))


def _open_rows(trial: Trial) -> int:
    """How many rows of `trial` stay open, because their outcome could not be written."""
    return int((trial.what.point, trial.what.fault) in (("rpc", "disk"), ("send", "disk")))


# The clock and the kill. All tries wait at their points at once; then it happens to all of them.


def _muster(scene: Scene, trials: Sequence[Trial], pool: ThreadPoolExecutor) -> list[Future[Seen]]:
    """Bring each to its point, where it waits; where that comes after a first attempt, the second is not begun."""
    scene.forget_blockhash()
    scene.rpc.fault = "hold"
    scene.rpc.asked.clear()
    ends = [pool.submit(_ask_held, scene, trial) for trial in trials]
    for trial, end in zip(trials, ends, strict=True):
        _wait_until_held(scene, trial, end)
    return ends


def _ask_held(scene: Scene, trial: Trial) -> Seen:
    trial.begin()
    with scene.client(trial.gateway) as client:
        client.send(trial.request(held=True))
        return read_answer(client)


def _wait_until_held(scene: Scene, trial: Trial, end: Future[Seen]) -> None:
    what = trial.what
    if what.point == "held":
        account(scene, trial, end.result())
    elif what.hold:
        scene.control.wait_for(what.path)
    elif what.point == "rpc":
        assert scene.rpc.asked.wait(PATIENCE)
    elif what.point in ("connect", "again"):
        trial.gateway.door.wait_until_somebody_waits(PATIENCE)
    else:
        assert trial.gateway.arrived.wait(PATIENCE), f"{what.name}: never came to its point"


def _let_go(scene: Scene, trial: Trial) -> None:
    trial.gateway.heal()
    scene.control.let_go(trial.what.path)


def _clock(stage: Stage) -> list[Result]:
    with stage.scene({**LONG, "rpc": 60}) as scene, ThreadPoolExecutor(BESIDE) as pool:
        jumps = dict.fromkeys(trial.what.jump for trial in stage.trials)
        return [each for jump in jumps for each in _jump(scene, stage.trials, jump, pool)]


def _jump(scene: Scene, trials: Sequence[Trial], jump: int, pool: ThreadPoolExecutor) -> list[Result]:
    trials = [trial for trial in trials if trial.what.jump == jump]
    ends = _muster(scene, trials, pool)
    scene.jump(jump)
    scene.rpc.let_go("")
    for trial in trials:
        _let_go(scene, trial)
    seen = [
        ask(scene, trial) if trial.what.point == "held" else end.result()
        for trial, end in zip(trials, ends, strict=True)
    ]
    scene.jump(0)
    return [result(scene, trial, each) for trial, each in zip(trials, seen, strict=True)]


def _kill(stage: Stage) -> list[Result]:
    """One kill for all of them, and one proxy that comes after."""
    with ThreadPoolExecutor(len(stage.trials)) as pool:
        with stage.scene({**LONG, "rpc": 60}) as scene:
            ends = _muster(scene, stage.trials, pool)
            scene.kill()
            seen = [end.result() for end in ends]
        scene.rpc.let_go("")
        for trial in stage.trials:
            _let_go(scene, trial)
        with stage.scene() as after:
            return [result(after, trial, each) for trial, each in zip(stage.trials, seen, strict=True)]


_RUNS: Mapping[str, Callable[[Stage], list[Result]]] = {
    "slow": _slow,
    "gateway": _gateway,
    "rpc": _rpc,
    "ledger": _ledger,
    "clock": _clock,
    "kill": _kill,
}
