"""The recorder's threads, which do all disk work so that no stream waits for it.

One thread writes the data that the event loop passes to it; another does the work at the end of a flow, which can take
seconds for a large one. The queue is bounded: if the disk is too slow, a recording loses its end, but no client's
stream is delayed.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import Folder, OpenFiles, Piece
from .format import RecordingError
from .har import HarFiles
from .snapshot import Known, Snapshot

if TYPE_CHECKING:
    from .mitm import FlowFile

MAX_WAITING = 32 << 20
"""Most bytes that wait for the disk."""
OVERHEAD = 200
"""Bytes that a waiting message counts for in addition to its data."""
PAUSE = 0.1
"""Seconds that a message waits for others, so that a short recording is written in one go."""
HURRY = 1 << 20
"""Waiting bytes from which on there is no pause."""
ROUND = 1 << 20
"""Most bytes that are taken from the queue at once; joining them needs the same memory again."""
SHORT = 1 << 20
"""Most bytes of an answer whose recording is ended in the writing thread instead of the other one."""
TELL_AGAIN = 60.0
"""Seconds before the same trouble is logged again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """The formats that recordings are written in."""

    native: bool
    """Whether the folders are kept."""
    har: HarFiles | None = None
    mitm: FlowFile | None = None

    @property
    def is_plain(self) -> bool:
        """Whether only folders are written."""
        return self.native and self.har is None and self.mitm is None


@dataclass(eq=False)
class Job:
    """One recording in the thread."""

    parent: Path
    name: str
    outputs: Outputs
    folder: Folder | None = None
    trouble: str = ""
    """Why writing it was given up; empty: it was not."""

    @property
    def is_short(self) -> bool:
        """Whether it can be ended quickly."""
        return self.outputs.is_plain and (self.folder is None or self.folder.size <= SHORT)


@dataclass(eq=False, slots=True)
class Begin:
    """The request is known, the answer perhaps not yet."""

    job: Job
    known: Known = field(repr=False)
    kind: str
    """The content type of the body."""
    body: bytes | None = field(repr=False)


@dataclass(eq=False, slots=True)
class Request:
    """The request's body has been changed by another addon."""

    job: Job
    known: Known = field(repr=False)
    kind: str
    """The content type of the body."""
    body: bytes | None = field(repr=False)


@dataclass(eq=False, slots=True)
class Response:
    """The answer's head is known."""

    job: Job
    known: Known = field(repr=False)
    kind: str
    coding: str


@dataclass(eq=False, slots=True)
class End:
    """The flow is over."""

    job: Job
    known: Snapshot = field(repr=False)
    state: dict[str, Any] | None = field(default=None, repr=False)
    """mitmproxy's state of the flow without the answer's body, if a format or the filter needs it."""
    wanted: Callable[[dict[str, Any], Path | None], bool] | None = field(default=None, repr=False)
    """Returns whether to keep the recording, given that state and the file with the body."""
    size: int = 0
    """Bytes of the message."""


Chunk = tuple[Job, float, bytes]
Message = Begin | Request | Response | End | Chunk


def _size(message: Message) -> int:
    if isinstance(message, tuple):
        return OVERHEAD + len(message[2])
    if isinstance(message, Begin | Request):
        return OVERHEAD + len(message.body or b"")
    return OVERHEAD + (message.size if isinstance(message, End) else 0)


class Writer:
    """Takes messages from one thread, and writes them in another, in order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[End | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._files = OpenFiles()
        self._young: dict[Job, list[Message]] = {}
        """Messages of recordings that began in the last round: most of them end in the next one."""
        self._hurry = threading.Event()
        self._given = 0  # bytes; counted up by one thread each, so that none needs a lock
        self._taken = 0
        self._finished = 0
        self._ends_given = 0  # to the other thread; while it has any, it gets all, for the sake of their order
        self._ends_taken = 0
        self._told: dict[str, float] = {}

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes may wait."""
        return self._given - self._taken - self._finished + size <= MAX_WAITING

    def _waiting(self) -> int:
        return self._given - self._taken - self._finished

    def put(self, message: Message) -> None:
        """Queue a message for the writing thread."""
        self._given = given = self._given + _size(message)
        self._queue.put(message)
        if given - self._taken - self._finished >= HURRY and not self._hurry.is_set():
            self._hurry.set()
        if not self._threads:
            for work in (self._run, self._run_ends):
                thread = threading.Thread(target=work, name="x402 recorder", daemon=True)
                self._threads.append(thread)
                thread.start()

    def close(self, timeout: float) -> bool:
        """Write what is queued, for at most `timeout` seconds. Returns whether everything was written."""
        deadline = time.monotonic() + timeout
        self._queue.put(None)
        self._hurry.set()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        over = False
        while not over:
            messages: list[Message] = []
            if not self._young:
                first = self._queue.get()
                over = first is None
                messages = [first] if first is not None else []
            if not over:
                self._hurry.wait(PAUSE)
            size = sum(map(_size, messages))
            while not over and size < ROUND and not self._queue.empty():
                message = self._queue.get()
                if message is None:
                    over = True
                else:
                    messages.append(message)
                    size += _size(message)
            hurry = self._waiting() - size >= HURRY
            if not hurry:
                self._hurry.clear()
            self._taken += self._write(messages, wait=not (over or hurry))
        self._ended.put(None)

    def _run_ends(self) -> None:
        while (message := self._ended.get()) is not None:
            self._try(message.job, self._end, message)
            self._finished += _size(message)
            self._ends_taken += 1

    def _write(self, messages: Sequence[Message], *, wait: bool = False) -> int:
        """Write a round of messages, grouped by recording. Returns the bytes that no longer wait.

        With `wait`, hold back recordings that have just begun: writing one that is over costs far less.
        """
        young, self._young = self._young, {}
        parts: dict[Job, list[Message]] = dict(young)
        size = 0
        for message in messages:
            job = message[0] if isinstance(message, tuple) else message.job
            if isinstance(message, End):
                size += self._write_some(job, parts.pop(job, []), over=True)
                size += self._finish(message)
            else:
                parts.setdefault(job, []).append(message)
        for job, some in parts.items():
            if wait and job.folder is None and job not in young:
                self._young[job] = some
            else:
                size += self._write_some(job, some, over=False)
        return size

    def _write_some(self, job: Job, messages: Sequence[Message], *, over: bool) -> int:
        """Write the messages of one recording, its chunks together; `over`: it has ended. Returns their bytes."""
        pieces: list[Piece] = []
        size = 0
        for message in messages:
            size += _size(message)
            if isinstance(message, tuple):
                pieces.append(message[1:])
            else:
                self._add(job, pieces, last=False)
                pieces = []
                self._try(job, self._do, message)
        self._add(job, pieces, last=over)
        if job.folder is not None and not (over or job.trouble):
            self._try(job, job.folder.flush)
        return size

    def _finish(self, message: End) -> int:
        """End a recording, here or in the other thread. Returns the bytes that no longer wait."""
        job = message.job
        if job.folder is not None:
            self._try(job, job.folder.close)
        if message.wanted is not None or not job.is_short or self._ends_taken < self._ends_given:
            self._ends_given += 1
            self._ended.put(message)
            return 0
        self._try(job, self._end, message)
        return _size(message)

    def _add(self, job: Job, pieces: list[Piece], *, last: bool) -> None:
        folder = job.folder
        if pieces and folder is not None and not job.trouble:
            self._try(job, folder.add, pieces, last)

    def _do(self, message: Begin | Request | Response) -> None:
        job = message.job
        if isinstance(message, Begin):
            job.folder = Folder(job.parent, job.name, self._files)
            job.folder.begin(message.known, message.kind, message.body)
        elif job.folder is None or job.trouble:
            return
        elif isinstance(message, Request):
            job.folder.write_request(message.known, message.kind, message.body)
        else:
            job.folder.begin_response(message.known, message.kind, message.coding)

    def _end(self, message: End) -> None:
        job, folder = message.job, message.job.folder
        if folder is None:
            return
        known = message.known
        if job.trouble:
            known.state, known.error = "incomplete", known.error or job.trouble
        files = folder.end(known)
        if self._told:
            self._told = {cause: told for cause, told in self._told.items() if time.monotonic() - told < TELL_AGAIN}
        if job.outputs.is_plain and message.wanted is None:
            return
        recording = known.recording(files)
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

    def _try(self, job: Job, work: Callable[..., None], *given: Any) -> None:
        """Call `work` with `given`. An error ends the recording, and each cause is logged."""
        try:
            work(*given)
        except OSError as error:
            self._trouble(job, error.strerror or type(error).__name__)
        except RecordingError as error:
            self._trouble(job, error.message)
        except Exception as error:  # the thread must go on, and the text may contain secrets
            self._trouble(job, f"a fault of the recorder: {type(error).__name__}")

    def _trouble(self, job: Job, cause: str) -> None:
        if job.trouble:
            return
        job.trouble = f"the recording broke off: {cause}"
        self.complain(job.parent, cause)

    def complain(self, folder: Path, cause: str) -> None:
        """Log a cause of trouble, at most once within TELL_AGAIN seconds."""
        if cause not in self._told:
            self._told[cause] = time.monotonic()
            logger.error(
                "x402: cannot record into %s: %s. Nothing else is affected; later flows are recorded again as soon as "
                "that is mended (x402_dump).",
                folder,
                cause,
            )
