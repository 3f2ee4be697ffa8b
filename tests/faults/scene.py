"""The real proxy before as many scripted gateways as there are tries, and what a test can do to its machine."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mitmproxy_x402.chain.solana_rpc import CACHE_SECONDS
from support.proxy import EVM_KEY, Proxy, svm_key
from support.wire import Client, Peer

from .sides.doors import HOST, new_port
from .sides.gateway import PATIENCE, Gateway
from .sides.rpc import Rpc

INSIDE = Path(__file__).parent / "inside"
SHORT: Mapping[str, float] = {"connect": 2, "first_byte": 2, "idle": 2, "total": 4, "rpc": 1.5}
"""Seconds, in the options that are named after them; for tries that wait for one of these to end."""
LONG: Mapping[str, float] = {**dict.fromkeys(SHORT, 60), "rpc": 1.5}
"""For tries in which nothing may take too long by itself, however busy the machine is."""


class Control:
    """Where the holds inside the proxy announce themselves, by the path of their request."""

    def __init__(self) -> None:
        self._sock = socket.create_server((HOST, 0), backlog=64)
        self._held: dict[str, Peer] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer = Peer(self._sock.accept()[0])
                path = peer.until(b"\n").decode().strip()
                with self._changed:
                    self._held[path] = peer
                    self._changed.notify_all()

    def wait_for(self, path: str) -> None:
        """Until the request for `path` is held."""
        with self._changed:
            assert self._changed.wait_for(lambda: path in self._held, PATIENCE), f"{path} was never held"

    def let_go(self, path: str) -> None:
        with self._changed:
            peer = self._held.pop(path, None)
        if peer is not None:
            peer.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for path in list(self._held):
            self.let_go(path)


class Scene:
    """A proxy, started on entering, with a port for each of `gateways`; the first one is for ordinary requests."""

    def __init__(
        self,
        home: Path,
        gateways: Sequence[Gateway],
        *,
        rpc: Rpc,
        control: Control,
        timeouts: Mapping[str, float],
        pem: Path,
    ) -> None:
        self.home, self.gateways, self.rpc, self.control = home, gateways, rpc, control
        self.ports = {id(gateway): new_port() for gateway in gateways}
        (home / "control.port").write_text(str(control.port))
        self._clock, self._passed = home / "clock.offset", 0.0
        self._clock.write_bytes(struct.pack("d", 0))
        options: dict[str, object] = {f"x402_{name}_timeout": value for name, value in timeouts.items()}
        options |= {
            "x402_drain": 0,
            "x402_budget": 1000,
            "x402_solana_rpc": rpc.url,
            "ssl_verify_upstream_trusted_ca": pem,
        }
        arguments = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
        modes = [
            f"reverse:{'https' if gateway.tls else 'http'}://{HOST}:{gateway.door.port}@{self.ports[id(gateway)]}"
            for gateway in gateways
        ]
        self.proxy = Proxy(
            modes[0].removeprefix("reverse:"),
            *("--listen-host", HOST, "-s", str(INSIDE / "late.py"), *arguments),
            *(part for mode in modes[1:] for part in ("--mode", mode)),
            home=home,
            keys={"BLOCKRUN_WALLET_KEY": EVM_KEY, "SOLANA_WALLET_KEY": svm_key()},
        )
        self.proxy.load_first(INSIDE / "early.py")  # time.time, before anybody keeps it

    def __enter__(self) -> Scene:
        self.proxy.__enter__()
        try:
            for gateway in self.gateways:
                self.proxy.wait_for(f"listening at {HOST}:{self.ports[id(gateway)]}\\.")
        except BaseException:
            self.proxy.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.__exit__()

    def client(self, gateway: Gateway) -> Client:
        return Client(HOST, self.ports[id(gateway)])

    # The ledger.

    @property
    def ledger(self) -> Path:
        return self.home / ".local" / "state" / "mitmproxy-x402" / "ledger.sqlite3"

    def rows(self, path: str) -> list[tuple[str, int, str]]:
        """State, sends and reference of each payment for `path`, in the order in which they were made."""
        with closing(sqlite3.connect(self.ledger)) as db:
            asked = "SELECT state, sends, reference FROM payment WHERE path = ? ORDER BY id"
            return db.execute(asked, (path,)).fetchall()

    def settled_rows(self, path: str, open_rows: int) -> list[tuple[str, int, str]]:
        """The same, when all but so many are over."""
        end = time.monotonic() + PATIENCE
        while True:
            rows = self.rows(path)
            under_way = sum(state in ("reserved", "sent") for state, *_ in rows)
            if under_way <= open_rows or time.monotonic() > end:
                return rows
            time.sleep(0.02)

    # The machine.

    def jump(self, seconds: float) -> None:
        """Set the proxy's wall clock so far from where it belongs."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("d", self._passed + seconds))

    def forget_blockhash(self) -> None:
        """Let so much time pass on the wall clock that the RPC is asked again."""
        self._passed += CACHE_SECONDS + 1
        self.jump(0)

    @contextmanager
    def disk_full(self) -> Iterator[Callable[[], None]]:
        """No file of the proxy can be written beyond its beginning."""
        pid = self.proxy.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield lambda: None
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    @contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Another process writes into the ledger, until the block ends or what it is given is called."""
        with closing(sqlite3.connect(self.ledger, isolation_level=None, timeout=PATIENCE)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield db.rollback

    def kill(self) -> None:
        os.kill(self.proxy.process.pid, signal.SIGKILL)
        self.proxy.wait_for_end()
