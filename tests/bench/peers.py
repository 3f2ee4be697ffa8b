"""Other paying clients and proxies, each installed by name from its registry into a folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .candidates import AbsentError, Candidate, Running, Start, Way
from .place import Place
from .processes import ROOT, Process, Worker, free_port

CACHE = ROOT / ".bench"
"""Everything that is installed; safe to delete."""
PATIENCE = 900
"""Seconds that an installation may take."""


def python_with(name: str, requirements: Sequence[str]) -> Path:
    """The Python of a venv that holds `requirements`; made where it is not there yet. Raises AbsentError."""
    folder = CACHE / name
    wanted = "\n".join(requirements)
    python = folder / "bin" / "python"
    if not _holds(folder, wanted):
        print(f"installing {name} into {CACHE}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        _install([sys.executable, "-I", "-m", "venv", str(folder)], folder.parent)
        pip = [str(python), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        _install([*pip, *requirements], folder)
        (folder / "wanted").write_text(wanted)
    return python


def node_with(name: str, requirements: Sequence[str]) -> Path:
    """A folder whose node_modules hold `requirements`. Raises AbsentError."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise AbsentError("node is not installed")
    folder = CACHE / name
    wanted = "\n".join(requirements)
    if not _holds(folder, wanted):
        print(f"installing {name} into {CACHE}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true}')
        _install([npm, "install", "--no-audit", "--no-fund", *requirements], folder)
        (folder / "wanted").write_text(wanted)
    return folder


def _holds(folder: Path, wanted: str) -> bool:
    mark = folder / "wanted"
    return mark.is_file() and mark.read_text() == wanted


def _install(command: list[str], folder: Path) -> None:
    try:
        ended = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AbsentError(f"cannot be installed: {type(error).__name__}") from None
    if ended.returncode:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or ["no word"]
        raise AbsentError(f"cannot be installed: {lines[-1][:200]}")


def versions_in(venv: Path, packages: Sequence[str]) -> dict[str, str]:
    """What is installed in `venv` of `packages`; nothing where there is no venv."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    try:
        ended = subprocess.run(
            [str(venv / "bin" / "python"), "-I", "-c", code, *packages], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    found: dict[str, str] = json.loads(ended.stdout)
    return found


def _only_near_base(way: Way) -> None:
    if way != Way():
        raise AbsentError("measured on Base without delay only")


def _litellm(place: Place, way: Way) -> Running:
    _only_near_base(way)
    python = python_with("blockrun-litellm", LITELLM)
    home, port = place.new_home("blockrun-litellm"), free_port()
    command = [
        *(str(python.with_name("blockrun-litellm-proxy")), "--port", str(port), "--log-level", "warning"),
        *("--chain", "base", "--api-url", place.url("base", far=False)),
    ]
    # Otherwise it asks a host on the internet for a price list before it listens.
    environ = {**place.environ(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return _started(Process(command, home, environ), port)


def _fetch(place: Place, way: Way) -> Running:
    _only_near_base(way)
    folder = node_with("x402-fetch", FETCH)
    port = free_port()
    script = Path(__file__).with_name("peer_fetch.mjs")
    command = ["node", str(script), str(port), place.url("base", far=False)]
    home = place.new_home("x402-fetch")
    (home / "package.json").symlink_to(folder / "package.json")
    (home / "node_modules").symlink_to(folder / "node_modules")
    return _started(Process(command, home, place.environ(home)), port)


def _started(process: Process, port: int) -> Running:
    try:
        process.wait_until_it_listens(port)
    except RuntimeError as error:
        process.stop()
        raise AbsentError(f"does not start: {error}") from None
    return Running(port, process.pid, process=process)


def _httpx(name: str, *requirements: str) -> Start:
    def start(place: Place, way: Way) -> Running:
        _only_near_base(way)
        python = python_with(name, requirements)
        worker = Worker([str(python), "-m", "tests.bench.sides.peer_httpx"], place.environ(place.new_home(name)))
        return Running(place.port("base", far=False), worker.pid, worker=worker)

    return start


LITELLM = ("blockrun-litellm[proxy]",)
HTTPX = ("x402[evm,httpx]",)
FETCH = ("@x402/fetch", "@x402/evm", "viem")
PEERS: tuple[Candidate, ...] = (
    Candidate("blockrun-litellm", "blockrun-litellm, paid", _litellm, peer=True),
    Candidate("x402-httpx", "x402 httpx client, no proxy", _httpx("x402-httpx", *HTTPX), peer=True),
    Candidate(
        "x402-httpx-coincurve",
        "x402 httpx client with coincurve, no proxy",
        _httpx("x402-httpx-coincurve", *HTTPX, "coincurve"),
        peer=True,
    ),
    Candidate("x402-fetch", "@x402/fetch behind a Node relay, paid", _fetch, peer=True),
)
