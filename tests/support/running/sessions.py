"""Verbs of the program as a user runs them at a terminal: to their end, or in a process group that a signal ends."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
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
