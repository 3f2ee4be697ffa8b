"""Starts programs of mitmproxy in a third of the time: each is forked off a process that has imported what they import.

A test's proxy spends a second on imports, and there are hundreds of them. What runs after the fork is the same script
with the same arguments and environment. A `--thorough` run starts each as a user does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

_SERVER = Path(__file__).with_name("warm_server.py")
_one_at_a_time = threading.Lock()
_END_SECONDS = 10
_KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH")
"""Of the environment, what a process reads before anything of its own can change it."""


class Process(Protocol):
    """What is asked of a process that was started, by `subprocess` or here."""

    pid: int
    returncode: int | None

    @property
    def stdout(self) -> IO[str] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def can_start(command: list[str], environ: Mapping[str, str]) -> bool:
    """Whether it is one of mitmproxy's programs, in an environment that says nothing to Python itself."""
    tool = Path(command[0])
    is_ours = tool.parent == Path(sys.executable).parent and tool.name in ("mitmdump", "mitmweb")
    foreign = [name for name in environ if name.startswith(("PYTHON", "COVERAGE"))]
    same = all(environ.get(name) == os.environ.get(name) for name in _KEPT)
    return sys.platform == "linux" and is_ours and foreign == ["PYTHONUNBUFFERED"] and same


class Warm:
    """A process that was forked; used as `subprocess.Popen` is, as far as `Process` says."""

    def __init__(self, command: list[str], environ: Mapping[str, str], folder: Path) -> None:
        out, into = os.pipe()
        self._status, told = os.pipe()
        try:
            request = {"command": command, "environ": dict(environ), "folder": str(folder)}
            with _one_at_a_time:
                server = _server()
                socket.send_fds(server, [json.dumps(request).encode()], [into, told])
                self.pid = int(server.recv(100))
        finally:
            os.close(into)
            os.close(told)
        self.returncode: int | None = None
        self.stdout: IO[str] = open(out, errors="replace")  # noqa: PTH123, SIM115  (its reader closes it)

    def poll(self) -> int | None:
        return self._ask(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ask(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def _ask(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status, 100))
            os.close(self._status)
        return self.returncode

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> socket.socket:
    """The process to fork off: one for each process of pytest, for as long as that runs."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, str(_SERVER), str(its.fileno())],
            env={k: v for k, v in os.environ.items() if k in _KEPT} | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
        )

    @atexit.register
    def _end() -> None:
        ours.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # another process has inherited `ours`
            process.kill()
            process.wait()

    return ours
