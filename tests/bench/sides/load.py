"""The client's side: `python -m tests.bench.sides.load` takes a job a line and answers with a line.

Raw sockets and a parser that knows just enough HTTP/1.1, because at one request at a time an HTTP client of the usual
kind takes longer than the proxy that is measured.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import ssl
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from .work import PATH, Work, stamps

TIMEOUT = 120
"""Seconds that one job may take."""


@dataclass(frozen=True)
class Job:
    """So many equal requests, `concurrency` at a time."""

    port: int
    requests: int
    concurrency: int = 1
    keep_alive: bool = True
    """False: every request comes on a connection of its own."""
    warm: int = 1
    """Requests sent before on every connection that is kept, and not counted; at the front where none is kept."""
    work: Work = field(default_factory=Work)
    tls: bool = False
    seed: int = 0
    """What the sizes of varied work depend on."""


@dataclass
class Found:
    """What one job brought. Times in milliseconds, in the order in which the requests ended."""

    first: list[float] = field(default_factory=list)
    """From the beginning of the request to the first byte of the answer."""
    total: list[float] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    """Seconds on the monotonic clock, of each request."""
    elapsed: float = 0.0
    """Seconds for all of them."""
    delays: list[float] = field(default_factory=list)
    """Of the events of the steady part of a stream, from the gateway's sending to their arrival here."""
    merged: int = 0
    """How many of those events arrived together with the one before."""
    sent: int = 0
    """Requests, those for warming included."""
    errors: list[str] = field(default_factory=list)

    def note(self, events: list[tuple[int, int, int]], now: int, steady: int) -> None:
        """`events`, as `stamps` finds them, have arrived together; those before number `steady` are not counted."""
        delays = [(now - sent) / 1e6 for number, sent, _ in events if number >= steady]
        self.delays += delays
        self.merged += max(0, len(delays) - 1)


class Answer:
    """Reads one answer; `feed` says when it is over."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.size = 0
        self._head = bytearray()
        self._left = -1
        """Bytes to come of the body or of this chunk; -1: unknown."""
        self._chunked = False
        self._last = False
        """The last chunk was seen: trailers come, and an empty line."""
        self._line = bytearray()

    def feed(self, data: bytes) -> bool:
        """Takes what came. True: complete. Raises ValueError: for what is no HTTP."""
        if not self.status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            data = bytes(self._head[end + 4 :])
            self._read_head(bytes(self._head[:end]))
        return self._feed_chunks(data) if self._chunked else self._feed_length(data)

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        self.status = int(first.split(b" ", 2)[1])
        for line in lines:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                self._left = int(value)
            elif name.lower() == b"transfer-encoding":
                self._chunked = True
                self._left = 0
        if self._left < 0:
            raise ValueError("an answer with neither length nor chunks")

    def _feed_length(self, data: bytes) -> bool:
        self._left -= len(data)
        self._keep(data)
        return self._left <= 0

    def _feed_chunks(self, data: bytes) -> bool:
        at = 0
        while at < len(data):
            if self._left:
                part = data[at : at + self._left]
                self._keep(part)
                self._left -= len(part)
                at += len(part)
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._line += data[at:]
                return False
            line, self._line = bytes(self._line + data[at:end]).strip(), bytearray()
            at = end + 1
            if self._last:
                if not line:
                    return True
            elif line:
                self._left = int(line.partition(b";")[0], 16)
                self._last = not self._left
        return False

    def _keep(self, data: bytes) -> None:
        self.size += len(data)
        if len(self.body) < 65536:
            self.body += data


class Connection(asyncio.Protocol):
    """Sends one request at a time, and keeps the times of what comes back."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.counts = False
        self.lost = False
        self._answer: Answer | None = None
        self._done: asyncio.Future[None] | None = None
        self._begun = self._first_at = 0
        self._streams, self._steady = False, 0
        self._tail = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._answer is None:
            return self._fail("bytes that nobody asked for")
        if not self._first_at:
            self._first_at = now
        if self.counts and self._streams:
            self._note_events(data, now)
        try:
            if self._answer.feed(data):
                self._end(now)
        except ValueError as error:
            self._fail(f"no HTTP: {error}")
        return None

    def _note_events(self, data: bytes, now: int) -> None:
        self._tail += data
        found = stamps(bytes(self._tail))
        if found:
            del self._tail[: found[-1][2]]
            self.found.note(found, now, self._steady)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._done is not None and not self._done.done():
            self._fail(f"the connection was lost ({error!r})")

    def _end(self, now: int) -> None:
        answer, self._answer = self._answer, None
        assert answer is not None
        if answer.status != 200:
            self.found.errors.append(f"{answer.status}: {bytes(answer.body[:300]).decode('utf8', 'replace')}")
        elif self.counts:
            self.found.first.append((self._first_at - self._begun) / 1e6)
            self.found.total.append((now - self._begun) / 1e6)
            self.found.begun.append(self._begun / 1e9)
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, what: str) -> None:
        self.found.errors.append(what)
        self._answer = None
        self.transport.abort()
        self.lost = True
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def ask(self, request: bytes, begun: int, work: Work) -> None:
        """Send `request` and wait until its answer is over; `begun` is when it began, in nanoseconds."""
        self._begun, self._first_at = begun, 0
        self._streams, self._steady = bool(work.events), work.steady
        self._tail = bytearray()
        self._answer = Answer()
        self._done = asyncio.get_running_loop().create_future()
        self.found.sent += 1
        self.transport.write(request)
        await self._done


class Load:
    """Runs one job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.found = Found()
        varied = job.work.varied
        self._numbers = itertools.count()
        total = job.requests + job.warm * max(job.concurrency, 1)
        self._requests = [self._request(job.seed + number) for number in range(total if varied else 1)]
        self._left = job.requests
        self._context: ssl.SSLContext | None = None
        if job.tls:
            self._context = ssl.create_default_context()
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE

    def _request(self, number: int) -> bytes:
        body = self.job.work.body(number)
        lines = [
            f"POST {PATH} HTTP/1.1",
            f"Host: 127.0.0.1:{self.job.port}",
            "Content-Type: application/json",
            "Authorization: Bearer bench",
            f"Content-Length: {len(body)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body

    async def run(self) -> Found:
        """All requests. Raises TimeoutError, in words."""
        try:
            await asyncio.wait_for(self._all(), TIMEOUT)
        except asyncio.TimeoutError:
            answered = len(self.found.total)
            raise TimeoutError(f"{answered} of {self.job.requests} requests answered in {TIMEOUT} s") from None
        return self.found

    async def _all(self) -> None:
        job = self.job
        connections: list[Connection] = []
        if job.keep_alive:
            connections = [await self._connect() for _ in range(job.concurrency)]
            for _ in range(job.warm):
                await asyncio.gather(*(self._ask(connection) for connection in connections))
        else:
            for _ in range(job.warm):
                await self._ask_alone(counts=False)
        for connection in connections:
            connection.counts = True
        begun = time.monotonic()
        if job.keep_alive:
            await asyncio.gather(*(self._go_on(connection) for connection in connections))
        else:
            await asyncio.gather(*(self._go_on_alone() for _ in range(job.concurrency)))
        self.found.elapsed = time.monotonic() - begun
        for connection in connections:
            connection.transport.abort()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        make = functools.partial(Connection, self.found)
        return (await loop.create_connection(make, "127.0.0.1", self.job.port, ssl=self._context))[1]

    async def _ask(self, connection: Connection, begun: int = 0) -> None:
        request = self._requests[next(self._numbers) % len(self._requests)]
        begun = begun or time.monotonic_ns()
        await connection.ask(request, begun, self.job.work)

    async def _ask_alone(self, *, counts: bool) -> None:
        begun = time.monotonic_ns()
        connection = await self._connect()
        connection.counts = counts
        await self._ask(connection, begun)
        connection.transport.close()

    async def _go_on(self, connection: Connection) -> None:
        while self._left > 0 and not connection.lost and len(self.found.errors) < 5:
            self._left -= 1
            await self._ask(connection)

    async def _go_on_alone(self) -> None:
        while self._left > 0 and len(self.found.errors) < 5:
            self._left -= 1
            await self._ask_alone(counts=True)


def job_from(given: dict[str, Any]) -> Job:
    """The job that `asdict` made `given` of."""
    return Job(**{**given, "work": Work(**given["work"])})


def main() -> None:
    """A job a line, until the input ends."""
    for line in sys.stdin:
        try:
            found = asyncio.run(Load(job_from(json.loads(line))).run())
        except Exception as error:
            found = Found(errors=[f"{type(error).__name__}: {error}"])
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
