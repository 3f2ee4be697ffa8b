"""Verbs of the program as a user runs them: to their end, in a process group that a signal ends, or at a terminal."""

from __future__ import annotations

import os
import pty
import queue
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import warm

SECONDS = 120
"""For what must happen; nothing waits this long unless it fails."""


def command(*arguments: str) -> list[str]:
    return [*warm.VERB, *arguments]


def environment(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **more}


def run(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    answer = warm.run(command(*arguments), environment(home, **more), home, timeout=SECONDS)
    assert "Traceback" not in answer.stderr
    return answer


class Session:
    """A program in a process group of its own, as a terminal would start it, and what it says."""

    def __init__(self, home: Path, *arguments: str, **more: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            env=environment(home, **more),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self.process.stdout.close()
        self._lines.put(None)

    def await_line(self, part: str) -> str:
        while True:
            line = self._lines.get(timeout=SECONDS)
            assert line is not None, f"ended without saying {part!r}:\n{''.join(self.said)}"
            self.said.append(line)
            if part in line:
                return line

    def end(self) -> tuple[int, str]:
        """Its exit code and everything it said, once it and all that it started have closed their output."""
        while (line := self._lines.get(timeout=SECONDS)) is not None:
            self.said.append(line)
        return self.process.wait(SECONDS), "".join(self.said)

    def has_orphans(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@contextmanager
def session(home: Path, *arguments: str, **more: str) -> Iterator[Session]:
    started = Session(home, *arguments, **more)
    try:
        yield started
    finally:
        if started.has_orphans():
            os.killpg(started.process.pid, signal.SIGKILL)
        started.process.wait()


class Person:
    """Sits at a terminal: reads until something is asked, and types."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], home: Path) -> None:
        self._process: warm.Warm | None = None
        if warm.is_wanted(command, environ):
            self.terminal, its = pty.openpty()
            with os.fdopen(its, "r+b", buffering=0) as file:
                self._process = warm.Warm(command, environ, home, ours=True, streams=(file, file, file))
        else:
            self._pid, self.terminal = pty.fork()
            if not self._pid:
                os.chdir(home)
                os.execve(command[0], command, environ)
        self.seen = ""

    def read_until(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < end, self.seen
            assert self._read(end), self.seen
        self.seen = self.seen[found.end() :]
        return found

    def _read(self, end: float) -> bool:
        if not select.select([self.terminal], [], [], max(0, end - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self.terminal, 65536)
        except OSError:  # Linux says so at the end
            return False
        self.seen += data.decode()
        return bool(data)

    def types(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def ends(self) -> int:
        end = time.monotonic() + 30
        while self._read(end):
            pass
        if self._process is None:
            code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        else:
            code = self._process.wait(30)
        os.close(self.terminal)
        return code
