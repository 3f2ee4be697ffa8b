"""Doors that a connection meets: open, shut, or so full that nobody is let in. And ports that nobody else takes."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HOST = "127.0.0.1"
BELOW_EPHEMERAL = range(18000, 32000)
"""Nobody is given one of these who does not ask for it."""
BLOCK = 500
"""Ports that one process keeps others off, by listening on the first of them for as long as it lives."""
_SYN_SENT = "02"
_lock = threading.Lock()


def _ports() -> Iterator[int]:
    guards = list(BELOW_EPHEMERAL[::BLOCK])
    random.shuffle(guards)
    kept = []
    for guard in guards:
        with contextlib.suppress(OSError):
            kept.append(socket.create_server((HOST, guard)))
            yield from (port for port in range(guard + 1, guard + BLOCK) if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


_free_ports = _ports()


def new_port() -> int:
    """A port that was never given out here before, and that nobody listens on."""
    with _lock:
        return next(_free_ports)


def is_connecting_to(port: int) -> bool:
    """Whether a process of this machine waits for `port` to take its connection."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(fields[2] == wanted and fields[3] == _SYN_SENT for fields in (line.split() for line in lines))


class Door:
    """A port of our own; `serve` gets each connection in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.port = new_port()
        self._serve = serve
        self._listening: socket.socket | None = None
        self._fillers: list[socket.socket] = []

    def open(self) -> None:
        """Let everybody in, also those who wait before a full door."""
        listening, self._listening = self._listening, None
        if listening is None:
            listening = socket.create_server((HOST, self.port), backlog=64)
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        self._let_go()

    def shut(self) -> None:
        """Who comes now is refused; who is in stays."""
        listening, self._listening = self._listening, None
        self._let_go()
        if listening is not None:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # closing alone would not wake `accept`, and the port stayed open
            listening.close()

    def fill(self) -> None:
        """Who comes now gets no answer: the kernel drops what does not fit into the backlog, as a firewall would."""
        self.shut()
        self._listening = socket.create_server((HOST, self.port), backlog=0)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((HOST, self.port))
            self._fillers.append(filler)

    def wait_until_somebody_waits(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not is_connecting_to(self.port):
            assert time.monotonic() < end, "nobody came to the full door"
            time.sleep(0.01)

    def _let_go(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()
