"""Collects what is new of each recording on the event loop, and hands it to a writer, many recordings together.

A recording that is over soon is handed over whole, at its end: to write it in one go costs far less. What waits is
bounded: if the disk is too slow, a recording loses its end, but no client's stream is delayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator

from mitmproxy import http

from .plan import Plan
from .snapshot import Snapshot
from .writing.parts import Part
from .writing.process import START_SECONDS, ProcessWriter
from .writing.store import STANDSTILL, Complaints
from .writing.thread import Finish, ThreadWriter

MAX_WAITING = 64 << 20
"""Most bytes that wait for the disk."""
OVERHEAD = 200
"""Bytes that a piece of news counts for in addition to its data."""
PAUSE = 0.1
"""Seconds that news wait for others. A recording that has just begun waits twice as long: most are over by then."""
HURRY = 1 << 20
"""Waiting bytes from which on there is no pause."""
MOST = 16
"""Most recordings of a kind, over or not, that are handed over at once, which takes about half a millisecond; when so
many are over, that is done without a pause."""
LONGEST = 0.003
"""Seconds after which the event loop goes on with other work: heads can be long."""
LEAST = 4 << 20
"""Bytes of room below which no beginning of a long request is recorded: it is left for answers."""
FOR_HEADS = 1 << 20
"""Bytes beyond MAX_WAITING for the heads of what comes when there is no room left."""
TOO_SLOW = f"more came than the disk has taken so far: {MAX_WAITING >> 20} MB were waiting for it"
TOO_LARGE = (
    f"of a request that does not fit in the {MAX_WAITING >> 20} MB that may wait, only the beginning is recorded"
)

logger = logging.getLogger(__name__)

Writer = ProcessWriter | ThreadWriter


class Job:
    """One recording, and what is new of it."""

    __slots__ = (
        *("__weakref__", "answer_is_known", "asked", "began", "body", "body_is_new", "data", "end", "finish", "flow"),
        *("has_answer", "has_waited", "is_queued", "lost", "number", "outbox", "plan", "size", "sizes", "tapped"),
        *("times", "whole", "writer"),
    )

    def __init__(self, outbox: Outbox, plan: Plan, number: int, flow: http.HTTPFlow, began: float) -> None:
        self.writer: Writer | None = None
        """The writer that has been given it; None: none yet."""
        self.end: Snapshot | None = None
        """What the final head says."""
        self.outbox = outbox
        self.plan = plan
        self.number = number
        self.flow: http.HTTPFlow | None = flow
        """None once it is over."""
        self.began = began
        """When the request began (monotonic clock)."""
        self.asked = flow.request.raw_content or b""
        """The request's body, until it is over."""
        self.whole = len(self.asked)
        """Bytes of that."""
        self.body: bytes | memoryview = self.asked
        """As much of it as is recorded."""
        self.body_is_new = True
        self.has_answer = False
        """Whether the head of the client's answer has come."""
        self.answer_is_known = False
        """Whether the writer knows that."""
        self.tapped = False
        self.times: list[float] = []
        self.sizes: list[int] = []
        self.data: list[bytes] = []
        self.size = 0
        """Bytes that its news count for while they wait."""
        self.lost = False
        """Whether chunks were dropped because the disk is too slow."""
        self.finish: Finish | None = None
        self.is_queued = False
        self.has_waited = False
        """Whether it has been passed over once, because it may end soon."""

    def __del__(self) -> None:
        if self.writer is not None and self.end is None:  # mitmproxy has dropped the flow without a word
            self.outbox.forgotten.append(self)

    def take_body(self, body: bytes) -> bool:
        """Record `body`, its beginning, or nothing of it: as much as there is room for.

        Returns False: there is none even for the request's head.
        """
        room = self.outbox.room - OVERHEAD
        self.asked = self.body = body
        self.whole = len(body)
        self.body_is_new = True
        times = 2 if self.plan.needs_state else 1  # that it waits: the whole flow is handed over once more, at its end
        size = OVERHEAD
        if len(body) * times > room:
            self.outbox.complain(self.plan, TOO_LARGE if room >= LEAST else TOO_SLOW)
            if room < LEAST:
                size += 0 if self.flow is None else sum(len(name) + len(value) for name, value in _head_of(self.flow))
                if room + FOR_HEADS < size:
                    return False
            # The rest is for answers.
            self.body = memoryview(body)[: room // (times + 1)] if room >= LEAST else b""
        self.outbox.add(self, size + len(self.body))
        return True

    def receive(self, data: bytes) -> None:
        """Record a chunk of the answer, as it comes."""
        if not data or self.lost or self.end is not None:
            return
        size = OVERHEAD + len(data)
        if self.outbox.room < size:
            self.lost = True
            self.outbox.complain(self.plan)
            return
        self.times.append(time.monotonic() - self.began)
        self.sizes.append(len(data))
        self.data.append(data)
        self.outbox.add(self, size)

    def part(self) -> Part:
        """Make a Part of all that is new, without secrets. `drop` then forgets it."""
        end = self.end
        if end is None:
            assert self.flow is not None
            known = Snapshot(self.flow, self.plan.redactor, answered=self.has_answer)
        else:
            known = end
        is_new, body_is_new = self.writer is None, self.body_is_new
        begins = known.is_answered and not self.answer_is_known
        part = Part(
            self.number,
            place=(self.plan.path, known.place(self.number)) if is_new else None,
            request=known.request_extension if body_is_new else None,
            body=self.body if body_is_new else b"",
            left_out=self.whole - len(self.body) if body_is_new else 0,
            answer=(known.answer_extension, known.coding) if begins else None,
            times=tuple(self.times),
            sizes=tuple(self.sizes),
            data=self.data,
            head=known.head() if end is not None or is_new or body_is_new or begins else None,
            is_over=end is not None,
        )
        self.body_is_new, self.answer_is_known = False, known.is_answered
        return part

    def drop(self) -> int:
        """Forget what is new. Returns the bytes that it counted for."""
        self.times, self.sizes, self.data = [], [], []
        size, self.size = self.size, 0
        return size


def _head_of(flow: http.HTTPFlow) -> Iterator[tuple[bytes, bytes]]:
    yield from flow.request.data.headers.fields
    yield flow.request.data.method, flow.request.data.path


class Outbox:
    """What waits to be handed over; belongs to an event loop. Writers are started when they are needed first."""

    def __init__(self) -> None:
        self.forgotten: deque[Job] = deque()
        """Recordings whose flow mitmproxy has dropped before its end."""
        self._complaints = Complaints(_log)
        self._ended: deque[Job] = deque()
        self._growing: deque[Job] = deque()
        self._round = 0
        """How many of those are still to be looked at."""
        self.size = 0
        """Bytes that wait here, and not with a writer."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Handle | None = None
        self._is_due = False
        self.process: ProcessWriter | None = None
        """The writer of folders; None: not started, or gone."""
        self._is_closed = False
        self._has_tried = False
        """Whether a process was started."""
        self.thread: ThreadWriter | None = None
        """The writer of everything else; None: not needed yet."""

    @property
    def room(self) -> int:
        """How many more bytes may wait."""
        process, thread = self.process, self.thread
        waiting = self.size + (0 if process is None else process.waiting) + (0 if thread is None else thread.waiting)
        return MAX_WAITING - waiting

    def complain(self, plan: Plan, cause: str = TOO_SLOW) -> None:
        """Log that not all is recorded, and why, unless that was done just before."""
        self._complaints.add(str(plan.folder), cause)

    def add(self, job: Job, size: int) -> None:
        """Hand over what is new of `job`, soon; it counts for `size` bytes more."""
        if not job.is_queued:
            job.is_queued = True
            self._growing.append(job)
        self._count(job, size)

    def end(self, job: Job, known: Snapshot, finish: Finish | None) -> None:
        """Hand over the end of `job`, soon."""
        job.end, job.finish, job.flow, job.asked = known, finish, None, b""
        self._ended.append(job)
        self._count(job, OVERHEAD + (0 if finish is None else finish.size))
        if len(self._ended) >= MOST:
            self._go_on_soon()

    def _count(self, job: Job, size: int) -> None:
        job.size += size
        self.size += size
        if self._timer is None:
            loop = self._loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PAUSE, self._on_time)
            if job.plan.is_plain and not self._has_tried:
                self._has_tried = True
                loop.call_soon(self._start, loop)
        if self.size >= HURRY:
            self._go_on_soon()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the process; without one, threads do its work."""
        if self._is_closed:
            return
        with contextlib.suppress(OSError):
            self.process = ProcessWriter(loop, _log, self._on_change)

    def _on_change(self) -> None:
        process = self.process
        if process is not None and process.is_gone:
            self.process = None
            if process.has_been_ready:
                logger.error(
                    "x402: the process that writes recordings has ended (%s): what it was writing stays as it is. The "
                    "proxy writes later flows itself, which takes more of its time.",
                    process.how_it_ended,
                )
        self._go_on_soon()

    def _on_time(self) -> None:
        self._timer = None
        self._round = len(self._growing)
        self._go_on_soon()

    def _go_on_soon(self) -> None:
        if not self._is_due and self._loop is not None:
            self._is_due = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Hand over some of what is due, and see to the rest."""
        self._is_due = False
        if self.process is not None and not self.process.is_ready:  # `_on_change` comes when it is
            return
        self._hand_over(self._some(hurry=self.size >= HURRY))
        if self._ended or self._round:
            self._go_on_soon()
        elif self._growing and self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(PAUSE, self._on_time)

    def _some(self, *, hurry: bool) -> Iterator[Job]:
        """Take recordings that are due, at most MOST of either kind; with `hurry`, all that have news are."""
        if hurry:
            self._round = len(self._growing)
        for _ in range(MOST):
            job = self._next_of_round(hurry=hurry)
            if job is not None:
                yield job
            if self._ended:
                yield self._ended.popleft()

    def _next_of_round(self, *, hurry: bool) -> Job | None:
        """Take the next recording that goes on and is due; None: there is none in this round."""
        while self._round:
            self._round -= 1
            job = self._growing.popleft()
            if job.end is not None:
                continue
            if job.writer is None and not (hurry or job.has_waited):
                job.has_waited = True
                self._growing.append(job)
                continue
            job.is_queued = False
            return job
        return None

    def _hand_over(self, jobs: Iterator[Job]) -> None:
        """Give what is new of `jobs` to their writers, as many as LONGEST allows, but one at least."""
        loads: dict[Writer, _Load] = {}
        until = time.monotonic() + LONGEST
        for job in jobs:
            writer = job.writer or self._writer_for(job)
            if not writer.is_gone:
                loads.setdefault(writer, _Load()).add(job)
            job.writer = writer
            self.size -= job.drop()
            if time.monotonic() >= until:
                break
        while self.forgotten:
            job = self.forgotten.popleft()
            if job.writer is not None and not job.writer.is_gone:
                loads.setdefault(job.writer, _Load()).parts.append(Part(job.number, is_over=True))
        for writer, load in loads.items():
            if isinstance(writer, ProcessWriter):
                writer.write(load.parts)
            else:
                writer.write(load.parts, load.size, load.ends)

    def _writer_for(self, job: Job) -> Writer:
        """The writer for a new recording."""
        if job.plan.is_plain and self.process is not None:
            return self.process
        if self.thread is None:
            self.thread = ThreadWriter(_log)
        return self.thread

    def close(self, timeout: float) -> int | None:
        """Have everything written, and end the writers. Returns None if all was, or the bytes known to be lost.

        Waits for at most `timeout` seconds, and for a disk that takes nothing at all for STANDSTILL.
        """
        deadline = time.monotonic() + timeout
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self.process is not None:
            self.process.wait_until_ready(min(timeout, START_SECONDS, STANDSTILL))
        while self._ended or self._growing:
            self._hand_over(self._some(hurry=True))
        writers, self.process, self.thread = (self.process, self.thread), None, None
        lost = [writer.close(deadline - time.monotonic()) for writer in writers if writer is not None]
        return sum(filter(None, lost)) if any(one is not None for one in lost) else None


class _Load:
    """What one writer is given at once."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ends: dict[int, Finish] = {}
        self.size = 0

    def add(self, job: Job) -> None:
        """Add what is new of `job`."""
        try:
            part = job.part()
        except Exception as error:  # not logged in full, because its text may contain secrets
            job.lost = True
            logger.error("x402: a flow is not recorded: a fault of the recorder (%s)", type(error).__name__)
            return
        self.parts.append(part)
        self.size += job.size
        if job.finish is not None and part.is_over:
            self.ends[job.number] = job.finish


def _log(folder: str, cause: str) -> None:
    logger.error(
        "x402: cannot record into %s: %s. Nothing else is affected; later flows are recorded again as soon as that is "
        "mended (x402_dump).",
        folder,
        cause,
    )
