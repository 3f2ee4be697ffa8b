"""One soak: gateway, proxy and clients, from the first request to the last look at the books."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from solders.keypair import Keypair

from ..candidates import SERVE
from ..place import make_authority
from ..processes import Process, Server, memory, waited_seconds
from .client import Clients, Diary
from .plan import DOORS, Door

CLIENTS = 64
LOYAL = 8
"""Of the clients: those that keep their connections to the end, also while nothing is under way."""
WARM_UP = 1500
"""Attempts of the same load before anything is compared, or more, until what is remembered has reached its bounds."""
WARM_SECONDS = 150.0
"""For which the warm-up lasts at most."""
PARTS = 5
"""Times that the load pauses, the end included, to see what is left when nothing is under way."""
QUIET = 20.0
"""Seconds, at most, until nothing is under way any more when the clients have gone."""
ALARM = 4.0
"""Seconds until the last alarm of a stream that has ended has rung, see TIMEOUTS."""
LAST_LOAD = 1.0
"""Seconds of load before the proxy is stopped in the middle of it."""
BETWEEN_SIGNALS = 0.1
LOOK = 10.0
"""Seconds between two looks into the proxy while it works."""
REMEMBERED = 80
"""Failed requests, and live jobs, that the proxy remembers at a time, see `census`."""
REMEMBERED_KINDS = ("mitmproxy_x402.payment.retained.store.Memory", "mitmproxy_x402.payment.jobs.Job")
TIMEOUTS = {"connect": 3, "first_byte": 3, "idle": 3, "total": 30}
BELOW_EPHEMERAL = range(18000, 32000)
"""Ports that no connection is given while the proxy starts."""
CENSUS = Path(__file__).with_name("census.py")


@dataclass(frozen=True)
class Sample:
    """The proxy from outside, at one moment."""

    at: float
    """Seconds since the load began."""
    resident: int
    """Bytes of memory."""
    files: int
    """Open file descriptors, sockets among them."""
    threads: int


@dataclass
class Found:
    """All that a soak has brought."""

    seed: int
    seconds: float
    diary: Diary
    quiet: list[dict[str, Any]] = field(default_factory=list)
    """The census each time that all was quiet, after the warm-up first, with `outside`, the sample of that moment, and
    `clients`, the connections that clients have open."""
    samples: list[Sample] = field(default_factory=list)
    """One a second under load, the warm-up left out."""
    during: list[dict[str, Any]] = field(default_factory=list)
    """Censuses under load."""
    warm_attempts: int = 0
    """Of the warm-up."""
    warm_seconds: float = 0.0
    books: dict[Door, dict[str, Any]] = field(default_factory=dict)
    """The gateway's."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The ledger's."""
    log: str = ""
    """What the proxy has printed."""
    exit_code: int | None = None
    waited: float = 0.0
    """Share of the time in which the proxy could have run that it had no processor."""


class Soak:
    """The processes of one soak, and what is seen of them."""

    def __init__(self, folder: Path, seed: int, seconds: float) -> None:
        authority, pem = make_authority(folder)
        self._books = folder / "books.json"
        self._ledger = folder / "ledger.sqlite3"
        self._home = folder / "home"
        self._home.mkdir()
        self.gateway = Server("soak.gateway", str(pem), str(self._books))
        base, solana = self.gateway.ports["base"], self.gateway.ports["solana"]
        self._ports = ports = dict(zip(DOORS, random.sample([*filter(_is_free, BELOW_EPHEMERAL)], 2), strict=True))
        options = {
            **{f"x402_{name}_timeout": seconds for name, seconds in TIMEOUTS.items()},
            "x402_budget": "1000000/day",
            "x402_ledger": self._ledger,
            "x402_solana_rpc": f"https://127.0.0.1:{solana}/v1/solana/rpc",
            "ssl_verify_upstream_trusted_ca": authority,
        }
        command = [
            *(*SERVE, "-s", str(CENSUS), "--mode", f"reverse:http://127.0.0.1:{base}"),
            *("-p", str(ports["base"]), "--mode", f"reverse:https://127.0.0.1:{solana}@{ports['solana']}"),
            *(part for name, value in options.items() for part in ("--set", f"{name}={value}")),
        ]
        self.proxy = Process(command, self._home, _environ(self._home))
        self.clients = Clients(ports, seed, CLIENTS, LOYAL)
        self.found = Found(seed, seconds, self.clients.diary)
        self._begun = 0.0

    def stop(self) -> None:
        self.proxy.stop()
        self.gateway.stop()

    async def run(self, seconds: float) -> Found:
        """The whole of it. Raises RuntimeError: the proxy did not start, or has ended."""
        for port in self._ports.values():
            self.proxy.wait_until_it_listens(port, b"listening at")
        found = self.found
        begun = time.monotonic()
        await self._warm_up()
        found.warm_attempts, found.warm_seconds = found.diary.attempts, time.monotonic() - begun
        self._begun = time.monotonic()
        found.quiet.append(await self._quiet())
        for _ in range(PARTS):
            async with self._watched():
                await self._load(seconds / PARTS)
            found.quiet.append(await self._quiet())
        found.waited = waited_seconds(self.proxy.pid) / (time.monotonic() - begun)
        await self._stop_under_load()
        self._end()
        return found

    async def _warm_up(self) -> None:
        goes_on = asyncio.Event()
        goes_on.set()
        load = asyncio.ensure_future(self.clients.run(goes_on))
        deadline = time.monotonic() + WARM_SECONDS
        while not await self._is_warm() and time.monotonic() < deadline:
            await asyncio.wait([load], timeout=2)
        goes_on.clear()
        await load

    async def _is_warm(self) -> bool:
        if self.found.diary.attempts < WARM_UP:
            return False
        census = await self._census(signal.SIGUSR1)
        return min(census["kinds"].get(kind, 0) for kind in REMEMBERED_KINDS) >= REMEMBERED

    async def _load(self, seconds: float) -> None:
        goes_on = asyncio.Event()
        goes_on.set()
        asyncio.get_running_loop().call_later(seconds, goes_on.clear)
        await self.clients.run(goes_on)

    async def _stop_under_load(self) -> None:
        """Two SIGTERMs: the first takes no more requests, the second cuts off what is under way."""
        load = asyncio.ensure_future(self._load(LAST_LOAD + 2 * BETWEEN_SIGNALS))
        await asyncio.sleep(LAST_LOAD)
        self.clients.may_be_refused = True
        for _ in range(2):
            self.proxy.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(BETWEEN_SIGNALS)
        await load

    # What is seen.

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        watching = [asyncio.ensure_future(self._sample()), asyncio.ensure_future(self._look_on())]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _sample(self) -> None:
        while True:
            self.found.samples.append(self.sample())
            await asyncio.sleep(1)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            self.found.during.append(await self._census(signal.SIGUSR1))

    def sample(self) -> Sample:
        """The proxy as it is now. Raises RuntimeError: it has ended."""
        resident = memory(self.proxy.pid)
        if resident is None or self.proxy.process.poll() is not None:
            raise RuntimeError(f"the proxy has ended: {self.proxy.last_words()}")
        process = Path(f"/proc/{self.proxy.pid}")
        files, threads = (sum(1 for _ in (process / kind).iterdir()) for kind in ("fd", "task"))
        return Sample(time.monotonic() - self._begun, resident, files, threads)

    async def _census(self, how: signal.Signals) -> dict[str, Any]:
        file = self._home / "census.json"
        file.unlink(missing_ok=True)
        self.proxy.process.send_signal(how)
        deadline = time.monotonic() + QUIET
        while not file.exists():
            self.sample()
            if time.monotonic() > deadline:
                raise RuntimeError("the proxy does not take a signal")
            await asyncio.sleep(0.02)
        told: dict[str, Any] = json.loads(file.read_text())
        return told

    async def _quiet(self) -> dict[str, Any]:
        """What is left when the clients have gone, as soon as nothing is under way, or when it should not be."""
        deadline = time.monotonic() + QUIET
        await asyncio.sleep(ALARM)
        while True:
            found = await self._census(signal.SIGUSR2)
            if (
                found["connections"] <= self.clients.connections and not self._open_rows()
            ) or time.monotonic() > deadline:
                found["outside"], found["clients"] = self.sample(), self.clients.connections
                return found
            await asyncio.sleep(0.5)

    # The books.

    def _open_rows(self) -> int:
        return sum(row["state"] in ("reserved", "sent") for row in self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(f"file:{self._ledger}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM payment")]

    def _end(self) -> None:
        self.proxy.stop()
        self.found.exit_code = self.proxy.process.returncode
        self.found.rows = self._rows()
        self.found.log = self.proxy.log.read_text(errors="replace")
        gateway = self.gateway.process
        assert gateway.stdin is not None
        gateway.stdin.close()
        gateway.wait(QUIET)
        self.found.books = json.loads(self._books.read_text())


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _environ(home: Path) -> Mapping[str, str]:
    return {
        "HOME": str(home),
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "SOAK_REMEMBERED": f"{REMEMBERED}",
        "BLOCKRUN_WALLET_KEY": "0x" + secrets.token_hex(32),
        "SOLANA_WALLET_KEY": str(Keypair()),
    }


def soak(seconds: float, seed: int) -> Found:
    """Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="x402-soak-") as folder:
        one = Soak(Path(folder), seed, seconds)
        try:
            return asyncio.run(one.run(seconds))
        except OSError as error:
            ended = one.proxy.process.poll()
            raise RuntimeError(
                f"{error}; the proxy's exit code: {ended}; its last words: {one.proxy.last_words()}"
            ) from error
        finally:
            one.stop()
