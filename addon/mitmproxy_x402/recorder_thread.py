"""The recorder's own thread: whatever touches the disk happens here, so that no stream ever waits for it.

The event loop hands over what passes and goes on. What waits here is bounded: when the disk is too slow, a recording
loses its end, never a client its stream.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .recorder_files import Folder, OpenFiles, Piece
from .recorder_har import HarFiles
from .recorder_mitm import FlowFile
from .recording import Recording, RecordingError

MAX_WAITING = 32 << 20
"""Bytes that may wait for the disk."""
OVERHEAD = 200
"""Bytes that a waiting message costs beside its data."""
PAUSE = 0.01
"""Seconds between two rounds while little waits: a round costs the event loop more than what it writes."""
HURRY = 1 << 20
"""Bytes waiting from which on there is no pause."""
TELL_AGAIN = 60.0
"""Seconds before the same trouble is worth another line in the log."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """Where recordings go beside their folders."""

    native: bool
    """Whether the folders stay."""
    har: HarFiles | None = None
    mitm: FlowFile | None = None


@dataclass(eq=False)
class Job:
    """One recording, as the thread sees it."""

    parent: Path
    name: str
    outputs: Outputs
    folder: Folder | None = None
    trouble: str = ""
    """Why nothing more of it is written."""


@dataclass(frozen=True)
class Begin:
    """The request is known, and perhaps not yet its answer."""

    job: Job
    recording: Recording
    body: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Request:
    """The request's body has been changed since."""

    job: Job
    recording: Recording
    body: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Response:
    """The answer's head is known."""

    job: Job
    recording: Recording


@dataclass(frozen=True)
class End:
    """The flow is over."""

    job: Job
    recording: Recording
    state: dict[str, Any] | None = field(default=None, repr=False)
    """The flow's state, where a format or the filter needs it; without the answer's body."""
    wanted: Callable[[dict[str, Any], Path | None], bool] | None = field(default=None, repr=False)
    """Whether the recording is to be kept, told from that state and the file with the body."""


Chunk = tuple[Job, float, bytes]
Message = Begin | Request | Response | End | Chunk | None


class Writer:
    """Takes messages from one thread, and writes them in another, in order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._files = OpenFiles()
        self._given = 0  # counted up by the one thread, _taken by the other: so neither needs a lock
        self._taken = 0
        self._told: dict[str, float] = {}

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may wait."""
        return self._given - self._taken + size <= MAX_WAITING

    def put(self, message: Message, size: int = 0) -> None:
        """Hand over a message that holds `size` bytes."""
        self._given += size + OVERHEAD
        self._queue.put(message)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="x402 recorder", daemon=True)
            self._thread.start()

    def close(self, timeout: float) -> bool:
        """Write what waits, for so many seconds at most. False: there was more."""
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            messages = [self._queue.get()]
            while not self._queue.empty():
                messages.append(self._queue.get())
            size = self._write(messages)
            self._taken += size
            if messages[-1] is None:
                return
            if size < HURRY:
                time.sleep(PAUSE)

    def _write(self, messages: list[Message]) -> int:
        """Write a round of messages: the chunks of a flow together. Gives the bytes that wait no longer."""
        pieces: dict[Job, list[Piece]] = {}
        size = 0
        for message in messages:
            if message is None:
                continue
            if isinstance(message, tuple):
                job, seconds, data = message
                pieces.setdefault(job, []).append((seconds, data))
                size += len(data)
            else:
                self._add(message.job, pieces.pop(message.job, []))
                self._try(message.job, functools.partial(self._do, message))
                size += len(message.body or b"") if isinstance(message, Begin | Request) else 0
        for job, some in pieces.items():
            self._add(job, some)
        return size + OVERHEAD * len(messages)

    def _add(self, job: Job, pieces: list[Piece]) -> None:
        folder = job.folder
        if pieces and folder is not None and not job.trouble:
            self._try(job, lambda: folder.add(pieces))

    def _do(self, message: Begin | Request | Response | End) -> None:
        job = message.job
        if isinstance(message, Begin):
            job.folder = Folder(job.parent, job.name, self._files)
            job.folder.begin(message.recording, message.body)
        elif job.folder is None:
            return
        elif isinstance(message, End):
            self._end(message, job.folder)
        elif job.trouble:
            return
        elif isinstance(message, Request):
            job.folder.write_request(message.recording, message.body)
        else:
            job.folder.begin_response(message.recording)

    def _end(self, message: End, folder: Folder) -> None:
        job, recording = message.job, message.recording
        if job.trouble:
            recording = replace(recording, state="incomplete", error=recording.error or job.trouble)
        recording = folder.end(recording)
        if message.wanted is not None and message.state is not None:
            body = recording.response.body if recording.response is not None else None
            if not message.wanted(message.state, None if body is None else recording.folder / body):
                folder.remove()
                return
        if job.trouble:
            return
        if job.outputs.har is not None:
            job.outputs.har.add(recording)
        if job.outputs.mitm is not None and message.state is not None:
            job.outputs.mitm.add(message.state, recording)
        if not job.outputs.native:
            folder.remove()
        self._told = {cause: told for cause, told in self._told.items() if time.monotonic() - told < TELL_AGAIN}

    def _try(self, job: Job, work: Callable[[], None]) -> None:
        """Do some of the work for a recording. Trouble ends that recording, with a line in the log for each cause."""
        try:
            work()
        except OSError as error:
            self._trouble(job, error.strerror or type(error).__name__)
        except RecordingError as error:
            self._trouble(job, error.message)
        except Exception as error:  # the thread must not end, and the text may hold anything
            self._trouble(job, f"a fault of the recorder: {type(error).__name__}")

    def _trouble(self, job: Job, cause: str) -> None:
        if job.trouble:
            return
        job.trouble = f"the recording broke off: {cause}"
        if cause not in self._told:
            self._told[cause] = time.monotonic()
            logger.error(
                "x402: cannot record into %s: %s. Nothing else is affected; later flows are recorded again as soon as "
                "that is mended (x402_dump).",
                job.parent,
                cause,
            )
