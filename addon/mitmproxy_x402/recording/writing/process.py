"""Starts a process that writes recordings (`writer_process`), and hands them to it.

A thread that writes takes Python's global lock before and after each system call, dozens of times for each recording,
and the event loop has to wait for it each time. The process shares nothing with the proxy but a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from ...machine.own_process import start
from . import writer_process
from .parts import Part, pack
from .store import STANDSTILL, Tell

START_SECONDS = 5
"""Seconds that the process has for its start, which takes some 50 milliseconds."""
TOGETHER = 1 << 17
"""Bytes of a frame up to which its buffers are joined: that costs less than to hand over many."""
AT_ONCE = 64
"""Most buffers that one system call takes."""
SOCKET = 1 << 18
"""Bytes that the socket holds, if the system allows that."""


class ProcessWriter:
    """Writes in a process (`writer_process`). Raises OSError if none can be started.

    It is used on the event loop `loop` and never blocks it. `changed` is called when it has become ready or gone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Tell, changed: Callable[[], object]) -> None:
        self._loop = loop
        self._tell = tell
        self._changed = changed
        self.is_ready = False
        """Whether it takes parts."""
        self.has_been_ready = False
        self.is_gone = False
        """Whether it has ended, and what it was given last may be lost."""
        self._given = 0  # bytes
        self._taken = 0
        self._buffers: deque[bytes | memoryview] = deque()
        self._feeder: threading.Thread | None = None
        self._is_fed = False
        """Whether the feeder sends, and nobody else."""
        self._lock = threading.Lock()
        """Held to change that."""
        self._has_food = threading.Semaphore(0)
        self._is_empty = threading.Event()
        self._answers = b""
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = start(writer_process.__file__, theirs.fileno(), imports=True)
        except BaseException:
            self._socket.close()
            raise
        self.pid = self._process.pid
        with contextlib.suppress(OSError):  # macOS gives it 8 KB
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET)
        self._loop.add_reader(self._socket, self._on_readable)
        self._patience = self._loop.call_later(START_SECONDS, self._give_up)

    @property
    def waiting(self) -> int:
        """Bytes that it has not taken yet."""
        return 0 if self.is_gone else self._given - self._taken

    def write(self, parts: Sequence[Part]) -> None:
        """Write `parts`, in order."""
        buffers = pack(parts)
        total = sum(map(len, buffers))
        self._given += total
        with self._lock:
            self._buffers.extend([b"".join(buffers)] if total <= TOGETHER else buffers)
            if self._is_fed:
                return
        try:
            while self._buffers:
                self._send_some(socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._feed()
        except OSError:
            self._give_up()

    def _send_some(self, flags: int = 0) -> None:
        """Send as much as one system call takes. Raises OSError."""
        buffers = self._buffers
        sent = self._socket.sendmsg(list(islice(buffers, AT_ONCE)), [], flags)
        self._taken += sent
        while buffers and sent >= len(buffers[0]):
            sent -= len(buffers.popleft())
        if sent:
            buffers[0] = memoryview(buffers[0])[sent:]

    def _feed(self) -> None:
        """Have the feeder send the rest, in large calls that block; the event loop could send only small pieces."""
        self._is_fed = True
        self._is_empty.clear()
        if self._feeder is None:
            self._feeder = threading.Thread(target=self._run_feeder, name="x402 recorder", daemon=True)
            try:
                self._feeder.start()
            except RuntimeError:  # this user may have no more threads
                self._give_up()
                return
        self._has_food.release()

    def _run_feeder(self) -> None:
        with contextlib.suppress(OSError, IndexError):  # it is gone, which the event loop hears, too
            while self._has_food.acquire() and not self.is_gone:
                while self._is_fed:
                    self._send_some()
                    with self._lock:
                        self._is_fed = bool(self._buffers)
                self._is_empty.set()
        self._is_empty.set()

    def _on_readable(self) -> None:
        if not self._hear():
            self._give_up()

    def _hear(self) -> bool:
        """Take what the process says: that it is ready, or cannot write. Returns whether it may say more."""
        try:
            said = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        *lines, self._answers = (self._answers + said).split(b"\n")
        for line in lines:
            if line:
                folder, cause = (bytes.fromhex(part.decode()) for part in line.split(b" "))
                self._tell(os.fsdecode(folder), cause.decode("utf-8", "replace"))
            elif not self.is_ready:
                self.is_ready = self.has_been_ready = True
                self._patience.cancel()
                self._changed()
        return bool(said)

    @property
    def how_it_ended(self) -> str:
        """The signal or exit code that ended it, for people."""
        code = self._process.poll()
        return "no longer heard of" if code is None else f"signal {-code}" if code < 0 else f"code {code}"

    def _give_up(self) -> None:
        """Count the process as gone: it has ended, or does not start."""
        if not self.is_gone:
            self._leave()
            self._changed()

    def _leave(self) -> None:
        """Kill the process, if it still runs, and stop listening to it."""
        self.is_gone, self.is_ready = True, False
        self._patience.cancel()
        self._loop.remove_reader(self._socket)
        self._process.kill()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # so that the feeder does not wait
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that a disk holds up does not even die
            self._process.wait(0.1)
        if self._feeder is not None:
            self._has_food.release()
            self._feeder.join(0.1)
        self._buffers.clear()
        self._socket.close()

    def wait_until_ready(self, timeout: float) -> None:
        """Block until it is ready, for at most `timeout` seconds: after that it counts as gone."""
        deadline = time.monotonic() + timeout
        while not self.is_ready:
            if not self._listen(deadline):
                self._give_up()
                return

    def _listen(self, deadline: float) -> bool:
        """Wait for what the process says next. Returns whether it may say more."""
        readable, _, _ = select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))
        return bool(readable) and self._hear()

    def close(self, timeout: float) -> int | None:
        """Write what waits, and end the process. Returns None if it wrote everything, or the bytes known to be lost.

        Waits for at most `timeout` seconds, and not for a disk that takes nothing for STANDSTILL.
        """
        if self.is_gone:
            return None  # who uses it knows what was lost
        deadline = time.monotonic() + timeout
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGCONT)  # whoever has stopped it does not mean to lose anything
        taken = self._taken
        while self._is_fed and not self._is_empty.wait(max(0.0, min(STANDSTILL, deadline - time.monotonic()))):
            if self._taken == taken or time.monotonic() >= deadline:
                return self._lose()
            taken = self._taken
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        deadline = min(deadline, time.monotonic() + STANDSTILL)
        while self._listen(deadline):
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, min(1, deadline - time.monotonic())))
        if self._process.poll() != 0 or self._buffers:
            return self._lose()
        self._leave()
        return None

    def _lose(self) -> int:
        """Give up what waits. Returns its bytes, at least one: what the process has taken may be lost, too."""
        lost = max(1, self.waiting)
        self._leave()
        return lost
