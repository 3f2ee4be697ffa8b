"""Processes of the benchmark, and what /proc says about them (Linux; elsewhere those figures are missing)."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from .sides.load import Found, Job

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree(pid: int) -> Iterator[int]:
    """`pid` and all that it started and that still runs."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from tree(int(child))


def cpu_seconds(pid: int) -> float | None:
    """User and system time of `pid` and what it started and still runs, to the microsecond."""
    seconds = 0.0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            # clock_getcpuclockid(3), which Python has for threads alone.
            seconds += time.clock_gettime((~one << 3) | 2)
    return seconds or None


def waited_seconds(pid: int) -> float:
    """For how long threads of `pid`, and of what it started, could have run and had no processor; 0 if not known."""
    nanoseconds = 0
    for one in tree(pid):
        for file in Path(f"/proc/{one}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                nanoseconds += int(file.read_text().split()[1])
    return nanoseconds / 1e9


def memory(pid: int, key: str = "VmRSS") -> int | None:
    """Bytes of `pid` and what it started: `VmRSS` now, `VmHWM` at most since the start or since `forget_peak`."""
    kilobytes = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith(f"{key}:"):
                    kilobytes += int(line.split()[1])
    return kilobytes * 1024 or None


def forget_peak(pid: int) -> None:
    """Let VmHWM begin anew."""
    for one in tree(pid):
        with contextlib.suppress(OSError):
            Path(f"/proc/{one}/clear_refs").write_text("5")


class Process:
    """A process with its output in a file; ended when left, and waited for."""

    def __init__(self, command: Sequence[str], folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.folder = folder
        self.listening_after = 0.0
        """Seconds until its port took a connection."""
        self.log = folder / "output.log"
        self.started = time.monotonic()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=folder,
                env=None if environ is None else dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def wait_until_it_listens(self, port: int, says: bytes = b"", patience: float = 60) -> None:
        """Until it has printed `says` and takes connections at `port`. Raises RuntimeError: it ended, or never did."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if says in self.log.read_bytes():
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        self.listening_after = time.monotonic() - self.started
                        return
            if self.process.poll() is not None:
                raise RuntimeError(f"ended with {self.process.returncode}: {self.last_words()}")
            time.sleep(0.002)
        raise RuntimeError(f"does not listen after {patience:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its output."""
        return " / ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])[-400:]

    def stop(self) -> None:
        stop(self.process)


def stop(process: subprocess.Popen[Any]) -> None:
    """Ask it to end, and insist after ten seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


class Server:
    """A helper of ours that tells in its first line where it listens, and ends with its input."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tests.bench.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the benchmark, which ends what it started
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} did not start")
        self.ports: dict[str, int] = json.loads(line)
        self.pid = self.process.pid

    def stop(self) -> None:
        stop(self.process)


class Worker:
    """A process that runs jobs, a line each way: `tests.bench.sides.load`, or a client that pays by itself."""

    def __init__(self, command: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            list(command or [sys.executable, "-m", "tests.bench.sides.load"]),
            cwd=ROOT,
            env=None if environ is None else dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the benchmark, which ends what it started
        )
        self.pid = self.process.pid

    def begin(self, job: Job) -> None:
        """Hand a job over."""
        pipe = self._pipe(self.process.stdin)
        pipe.write(json.dumps(asdict(job)) + "\n")
        pipe.flush()

    def result(self) -> Found:
        """Wait for what it brought. Raises RuntimeError: the worker is gone."""
        line = self._pipe(self.process.stdout).readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self.process.wait(10)}")
        return Found(**json.loads(line))

    def run(self, job: Job) -> Found:
        self.begin(job)
        return self.result()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def stop(self) -> None:
        stop(self.process)
