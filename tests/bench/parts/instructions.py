"""Counts the machine instructions of one request, by valgrind: the same on every machine and under every load.

`python -m tests.bench.parts.instructions` measures bare mitmdump, the addon without its fast path, with all of it,
with each row of it alone, and with all but that row. Instructions in the kernel are not counted.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mitmproxy_x402.proxy.startup.fast_path import PATCHES

from ..candidates import SCRIPT
from ..place import Place
from ..processes import Process, Worker, free_port
from ..sides.load import Job

WARM = 60
PATIENCE = 600
"""Seconds for a start: under valgrind everything takes some fifty times as long."""


@dataclass(frozen=True)
class Way:
    """How a proxy is started."""

    title: str
    arguments: Sequence[str] = ()
    rows: Sequence[str] | None = None
    """Names of the rows of PATCHES that are put in place; None: all."""
    free: bool = False
    """Whether the gateway charges nothing."""


def instructions(place: Place, way: Way, requests: int, concurrency: int) -> float:
    """Of one request, in millions."""
    folder = place.new_home("instructions")
    port = free_port()
    scripts = []
    if way.rows is not None:
        chooser = folder / "choose.py"
        chooser.write_text(_CHOOSE.format(rows=list(way.rows)))
        scripts = ["-s", str(chooser)]
    command = [
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/callgrind.%p"),
        *(sys.executable, str(Path(sys.executable).with_name("mitmdump")), *scripts, *way.arguments),
        *("--mode", f"reverse:{place.url('free' if way.free else 'base', far=False)}", "-p", str(port)),
        *("--listen-host", "127.0.0.1", *place.trust),
    ]
    environ = {**place.environ(folder), "PYTHONPATH": str(Path(SCRIPT).parent), "PYTHONHASHSEED": "0"}
    process = Process(command, folder, environ)
    load = Worker()
    try:
        process.wait_until_it_listens(port, b"listening at", PATIENCE)
        _ask(load, Job(port, WARM, concurrency))
        _control("--instr=on", process.pid)
        _ask(load, Job(port, requests, concurrency, warm=0))
        _control("--instr=off", process.pid)
        _control("--dump", process.pid)
        counted = sum(_total(file) for file in folder.glob("callgrind.*"))
    finally:
        load.stop()
        process.stop()
    return counted / requests / 1e6


_CHOOSE = """\
from mitmproxy_x402.proxy.startup import fast_path

fast_path.PATCHES = tuple(
    patch for patch in fast_path.PATCHES if patch.name in {rows}
)
"""


def _ask(load: Worker, job: Job) -> None:
    found = load.run(job)
    if found.errors:
        raise RuntimeError(found.errors[0])


def _control(what: str, pid: int) -> None:
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True)


def _total(file: Path) -> int:
    found = re.search(r"^totals: (\d+)", file.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def main() -> None:
    """Prints a line for each way as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--only", default="bare,none,all,alone,without", help="some of these")
    parser.add_argument("--set", action="append", default=[], help="more options of mitmproxy's, as in x402_dump=DIR")
    given = parser.parse_args()
    names = [patch.name for patch in PATCHES]
    ours = ["-s", SCRIPT, *(part for option in given.set for part in ("--set", option))]
    ways = {
        "bare": [Way("bare mitmdump, unpaid", free=True)],
        "none": [Way("x402_fast_path=false", [*ours, "--set", "x402_fast_path=false"])],
        "all": [Way("all", ours)],
        "alone": [Way(f"{name} alone", ours, [name]) for name in names],
        "without": [Way(f"without {name}", ours, [each for each in names if each != name]) for name in names],
    }
    with tempfile.TemporaryDirectory() as folder, Place(Path(folder)) as place:
        for kind in given.only.split(","):
            for way in ways[kind]:
                counted = instructions(place, way, given.requests, given.concurrency)
                print(f"{counted:8.3f}  {way.title}", flush=True)


if __name__ == "__main__":
    main()
