"""Starts programs of mitmproxy and our verbs in a fifth of the time: each is forked off a process with all imports.

A test's proxy spends more than a second on imports, a verb half of one, and there are hundreds of them. What runs after
the fork is the same script or module with the same arguments and environment, and it ends as a process of its own does,
except that Python leaves its memory to the system. A `--thorough` run starts each as a user does; so does, always,
`tests/system/test_one_payment.py`.
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
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from support import effort

_SERVER = Path(__file__).with_name("warm_server.py")
_one_at_a_time = threading.Lock()
_END_SECONDS = 10
VERB = (sys.executable, "-I", "-m", "mitmproxy_x402")
"""How the tests run a verb; followed by its name."""
CODE = (sys.executable, "-I", "-c")
"""How they run code that starts a proxy as a verb does; followed by it."""
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


def can_start(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether it is a program of mitmproxy's, a verb of ours or code, in an environment that says nothing to Python."""
    tool = Path(command[0])
    is_tool = tool.parent == Path(sys.executable).parent and tool.name in ("mitmdump", "mitmweb")
    is_ours = tuple(command[:4]) == VERB or tuple(command[:3]) == CODE
    foreign = {name for name in environ if name.startswith(("PYTHON", "COVERAGE", "LC_"))} - {"PYTHONUNBUFFERED"}
    same = all(environ.get(name) == os.environ.get(name) for name in _KEPT if name in environ or is_tool)
    return sys.platform == "linux" and (is_tool or is_ours) and not foreign and same


def is_wanted(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether it can be started here, and need not be started as a user does."""
    return not effort.thorough and can_start(command, environ)


class Warm:
    """A process that was forked; used as `subprocess.Popen` is, as far as `Process` says.

    Has the package imported already if it is `ours`. `stdin`, `stdout` and `stderr` are open files; without them it
    reads nothing, and what it prints and its errors come together from the attribute `stdout`. If `stdin` is a
    terminal, the process sits at it.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        *,
        ours: bool,
        streams: tuple[IO[bytes], IO[bytes], IO[bytes]] | None = None,
    ) -> None:
        self._status, told = os.pipe()
        with contextlib.ExitStack() as its_own:
            its_own.callback(os.close, told)
            if streams is None:
                nothing = its_own.enter_context(open(os.devnull, "rb"))  # noqa: PTH123
                out, into = os.pipe()
                its_own.callback(os.close, into)
                self.stdout: IO[str] = open(out, errors="replace")  # noqa: PTH123, SIM115  (its reader closes it)
                files = [nothing.fileno(), into, into]
            else:
                files = [stream.fileno() for stream in streams]
            request = {"command": [*command], "environ": dict(environ), "folder": str(folder)}
            with _one_at_a_time:
                server = _server(ours)
                socket.send_fds(server, [json.dumps(request).encode()], [told, *files])
                self.pid = int(server.recv(100))
        self.returncode: int | None = None

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


def run(
    command: Sequence[str], environ: Mapping[str, str], folder: Path, *, typed: str = "", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end, as `subprocess.run` does, with `typed` as its input."""
    if not is_wanted(command, environ):
        return subprocess.run(
            command, env=environ, cwd=folder, input=typed, capture_output=True, text=True, timeout=timeout, check=False
        )
    with contextlib.ExitStack() as files:
        streams = given, out, errors = tuple(files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(typed.encode())
        given.seek(0)
        process = Warm(command, environ, folder, ours=True, streams=streams)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        said = []
        for stream in (out, errors):
            stream.seek(0)
            said.append(stream.read().decode())
        return subprocess.CompletedProcess([*command], code, *said)


@functools.cache
def _server(with_package: bool) -> socket.socket:
    """The process to fork off: at most two for each process of pytest, for as long as that runs."""
    control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        if with_package:
            first = _server(False)
            _status, told = os.pipe()  # says nothing before the end of the tests
            socket.send_fds(first, [b"{}"], [told, its.fileno()])
            first.recv(100)
            os.close(told)
            atexit.register(control.close)
            return control
        process = subprocess.Popen(
            [sys.executable, str(_SERVER), str(its.fileno())],
            env={k: v for k, v in os.environ.items() if k in _KEPT} | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
        )

    @atexit.register
    def _end() -> None:
        control.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # another process has inherited `control`
            process.kill()
            process.wait()

    return control
