"""Who is measured: how each is started before the gateway, and what is asked of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mitmproxy_x402.settings.options import OPTIONS

from .place import Place
from .processes import ROOT, Process, Worker, free_port

Network = Literal["base", "solana", "solana-rpc", "metered"]


class AbsentError(Exception):
    """This candidate cannot take part; the text says why."""


@dataclass(frozen=True)
class Way:
    """Which of the gateway's doors stands behind a candidate."""

    network: Network = "base"
    far: bool = False
    """Behind TLS and the delay."""


NEAR = Way()


@dataclass
class Running:
    """A candidate that takes requests."""

    port: int
    pid: int | None
    """Whose CPU and memory are counted; None: nobody's."""
    tls: bool = False
    """Whether it is asked by TLS: the gateway itself, behind the delay."""
    worker: Worker | None = None
    """Its own client, instead of the benchmark's."""
    process: Process | None = None

    def stop(self) -> None:
        for part in (self.worker, self.process):
            if part is not None:
                part.stop()


Start = Callable[[Place, Way], Running]
"""Raises AbsentError."""


@dataclass(frozen=True)
class Candidate:
    """One row of the tables."""

    name: str
    title: str
    start: Start = field(repr=False)
    ahead: bool = False
    """Whether it may send the payment with the first request."""
    peer: bool = False
    """Somebody else's, installed by the benchmark."""


def _direct(place: Place, way: Way) -> Running:
    return Running(place.port("free", far=way.far), None, tls=way.far)


def _proxy(place: Place, name: str, make: Callable[[int], list[str]]) -> Running:
    folder = place.new_home(name)
    port = free_port()
    process = Process(make(port), folder, place.environ(folder))
    try:
        # Its port is open before it is ready, and a request that comes in between may end it.
        process.wait_until_it_listens(port, b"listening at")
    except RuntimeError as error:
        process.stop()
        raise AbsentError(str(error)) from None
    return Running(port, process.pid, process=process)


def mitmdump(*arguments: str) -> Start:
    """mitmproxy without the addon, one unpaid exchange."""

    def start(place: Place, way: Way) -> Running:
        upstream = place.url("free", far=way.far)
        return _proxy(
            place,
            "mitmdump",
            lambda port: [
                *(_beside_python("mitmdump"), "--mode", f"reverse:{upstream}", "-p", str(port)),
                *("--listen-host", "127.0.0.1", *place.trust, *arguments),
            ],
        )

    return start


SCRIPT = str(ROOT / "addon" / "x402.py")
SERVE = (sys.executable, "-I", "-m", "mitmproxy_x402", "serve")
"""What `./run.sh serve` does in the end."""


def ours(*arguments: str, free: bool = False, how: Sequence[str] = (), script: str = SCRIPT) -> Start:
    """The addon in mitmdump, which loads `script`; or as `how` starts it. `free`: the gateway charges nothing."""

    def start(place: Place, way: Way) -> Running:
        _must_exist(arguments)
        upstream = place.url("free" if free else way.network, far=way.far)
        given = [*place.trust, *place.rpc, *(argument.replace("FOLDER", str(place.folder)) for argument in arguments)]

        def serve(port: int) -> list[str]:
            if how:
                return [*how, "--upstream", upstream, "-p", str(port), *given]
            return [
                *(_beside_python("mitmdump"), "-s", script, "--mode", f"reverse:{upstream}"),
                *("-p", str(port), "--listen-host", "127.0.0.1", *given),
            ]

        return _proxy(place, "ours", serve)

    return start


def _must_exist(arguments: tuple[str, ...]) -> None:
    """Raises AbsentError: for an option that this version does not have."""
    known = {option.name for option in OPTIONS}
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("x402_") and name not in known:
            raise AbsentError(f"this version has no option {name}")


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def baseline(checkout: Path) -> Candidate:
    """Another checkout of this project, before or after a change, with the packages of this environment."""
    start = ours(script=str(checkout.resolve() / "addon" / "x402.py"))
    return Candidate("baseline", f"the proxy in {checkout.name}, paid", start)


OWN: tuple[Candidate, ...] = (
    Candidate("direct", "straight to the gateway, unpaid", _direct),
    Candidate("mitmdump", "bare mitmdump, unpaid", mitmdump()),
    Candidate("mitmdump-stream", "bare mitmdump, streaming, unpaid", mitmdump("--set", "stream_large_bodies=1")),
    Candidate("ours", "this proxy, paid", ours()),
    Candidate("ours-run", "this proxy by ./run.sh, paid", ours(how=SERVE)),
    Candidate("ours-free", "this proxy, unpaid", ours(free=True)),
    Candidate("ours-preauthorize", "with x402_preauthorize, paid", ours("--set", "x402_preauthorize=true"), ahead=True),
    Candidate("ours-dump", "with x402_dump, paid", ours("--set", "x402_dump=FOLDER/dump")),
    Candidate("ours-unsynced", "with x402_ledger_sync=false, paid", ours("--set", "x402_ledger_sync=false")),
)
