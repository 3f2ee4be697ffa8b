"""Asks a process (`search_process`) what stands in recorded bodies, for filters that are decided at the end."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Sequence

from ...machine.own_process import start
from . import search_process
from .search_process import Body

PATIENCE = 5
"""Seconds that one search may take."""


class CannotTell(Exception):
    """A search has failed or taken too long."""


class Searcher:
    """Searches in a process, which is started when it is needed first; where none can be started, here."""

    def __init__(self, patience: int | None = None) -> None:
        self._patience = patience or PATIENCE
        self.process: subprocess.Popen[bytes] | None = None
        """None: not needed yet, or ended."""
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self.close()

    def holds(self, pattern: re.Pattern[bytes], bodies: Sequence[Body], limit: int) -> bool:
        """Whether `pattern` is found in the first `limit` bytes of one of `bodies`, decoded.

        Blocks, but holds no other thread up. Raises CannotTell and OSError.
        """
        expression, files = pattern.pattern.decode("latin-1"), [tuple(body) for body in bodies]
        question = [expression, int(pattern.flags), files, limit, self._patience]
        with self._lock:
            try:
                process = self.process = self.process or _start()
            except OSError:
                return search_process.holds(pattern, bodies, limit)
            said = _ask(process, json.dumps(question).encode() + b"\n")
            if said not in (b"1\n", b"0\n", b"?\n"):
                self.close()
                raise CannotTell(f"a search took longer than {self._patience} seconds, or was ended")
        if said == b"?\n":
            raise CannotTell("a body cannot be read")
        return said == b"1\n"

    def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None and process.stdin is not None and process.stdout is not None:
            process.kill()
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.stdout.close()
            process.wait()


def _start() -> subprocess.Popen[bytes]:
    return start(search_process.__file__, talks=subprocess.PIPE, imports=True)


def _ask(process: subprocess.Popen[bytes], question: bytes) -> bytes:
    """The line that the process answers; empty: it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(question)
        process.stdin.flush()
        return process.stdout.readline()
    except OSError:
        return b""
