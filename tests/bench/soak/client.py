"""The clients: each runs one errand after the other, on connections of its own, and notes how every attempt ended."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .plan import Door, Errand, draw, request

PATIENCE = 40
"""Seconds that a client waits for an attempt to end; the proxy's time-outs are all shorter."""
POLLS = 6
"""Times that a job is asked for its result."""
BETWEEN_POLLS = 0.05
SLOW = 0.02
"""Seconds between two reads of a client that is slow."""
_READ = 32 * 1024


class LeftError(Exception):
    """The client has left, as it was to do."""


class StaleError(Exception):
    """A connection that was kept has been closed meanwhile: as every client does, ask on another one."""


@dataclass(frozen=True)
class Whole:
    """A 200 that came whole, to be compared with what the gateway sent."""

    door: Door
    request_id: str
    size: int
    digest: str


@dataclass
class Diary:
    """What the clients have seen."""

    ends: Counter[str] = field(default_factory=Counter)
    """How attempts ended."""
    wholes: list[Whole] = field(default_factory=list)
    errands: int = 0
    attempts: int = 0
    open: int = 0
    """Attempts under way."""
    wrong: list[str] = field(default_factory=list)


class Answer:
    """The head of an answer, and of its body the size and the digest."""

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        self.status = int(first.split(" ", 2)[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.size = 0
        self.start = bytearray()
        """The first bytes of the body: enough for a small object."""
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def json(self) -> Any:
        """The body of a small answer."""
        data = bytes(self.start)
        return json.loads(gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._digest.update(data)
        if len(self.start) < _READ:
            self.start += data


class Connection:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._is_used = False
        self.is_over = False

    async def ask(self, errand: Errand, head: bytes, body: bytes) -> Answer:
        """Send a request and read its answer.

        Raises LeftError, StaleError, and OSError or asyncio.IncompleteReadError where the answer ends early.
        """
        self.is_over = True  # unless all goes well
        whole = head + body
        if errand.leaves == "asking":
            self._writer.write(whole[: int(len(whole) * errand.after)])
            raise LeftError
        self._writer.write(whole)
        await self._writer.drain()
        if errand.leaves == "waiting":
            await asyncio.sleep(errand.after)
            raise LeftError
        answer = Answer(await self._read_head())
        await self._read_body(answer, errand)
        self._is_used = True
        self.is_over = answer.headers.get("connection", "").lower() == "close"
        return answer

    async def _read_head(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError) as error:
            if self._is_used and not getattr(error, "partial", b""):
                raise StaleError from None
            raise

    async def _read_body(self, answer: Answer, errand: Errand) -> None:
        if answer.headers.get("transfer-encoding") == "chunked":
            while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await self._read(answer, errand, size)
                await self._reader.readexactly(2)
            await self._reader.readuntil(b"\r\n")
        else:
            await self._read(answer, errand, int(answer.headers["content-length"]))

    async def _read(self, answer: Answer, errand: Errand, size: int) -> None:
        while size:
            data = await self._reader.readexactly(min(size, _READ))
            answer.add(data)
            size -= len(data)
            if errand.leaves == "reading" and answer.size > errand.after:
                raise LeftError
            if errand.is_slow:
                await asyncio.sleep(SLOW)

    def close(self, *, reset: bool = False) -> None:
        self.is_over = True
        sock = self._writer.get_extra_info("socket")
        if reset and sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()


class Clients:
    """So many clients side by side, who share a plan and a diary. The loyal ones keep their connections for ever."""

    def __init__(self, ports: Mapping[Door, int], seed: int, count: int, loyal: int) -> None:
        self.diary = Diary()
        self.may_be_refused = False
        """Whether the proxy may be gone."""
        self._ports = ports
        self._seed = seed
        self._numbers: Iterator[int] = itertools.count()
        self._kept: list[dict[Door, Connection]] = [{} for _ in range(count)]
        self._loyal = loyal

    @property
    def connections(self) -> int:
        """Open ones."""
        return sum(not connection.is_over for kept in self._kept for connection in kept.values())

    async def run(self, goes_on: asyncio.Event) -> None:
        """Until `goes_on` is cleared; errands that have begun are run to their end."""
        await asyncio.gather(
            *(self._work(goes_on, kept, loyal=number < self._loyal) for number, kept in enumerate(self._kept))
        )

    async def _work(self, goes_on: asyncio.Event, kept: dict[Door, Connection], *, loyal: bool) -> None:
        while goes_on.is_set():
            errand = draw(self._seed, next(self._numbers), loyal=loyal)
            self.diary.errands += 1
            await self._run(errand, kept)
            if not errand.keeps and errand.door in kept:
                kept.pop(errand.door).close()
        for connection in [] if loyal else kept.values():
            connection.close()

    async def _run(self, errand: Errand, kept: dict[Door, Connection]) -> None:
        dice = random.Random(errand.number)
        method, target, body = request(errand)
        for _ in range(1 + errand.repeats):
            answer = await self._attempt(errand, kept, method, target, body)
            if answer is not None and answer.status < 500 and answer.status not in (402, 429):
                break
            await asyncio.sleep(dice.uniform(0.02, 0.3))
        if answer is None or answer.status != 202:
            return
        where = answer.json()["poll_url"]
        for _ in range(POLLS):
            await asyncio.sleep(BETWEEN_POLLS)
            polled = await self._attempt(errand, kept, "GET", where, b"")
            if polled is not None and polled.status != 202:
                break

    async def _attempt(
        self, errand: Errand, kept: dict[Door, Connection], method: str, target: str, body: bytes
    ) -> Answer | None:
        """The answer, where one came whole."""
        self.diary.attempts += 1
        self.diary.open += 1
        try:
            end, answer = await asyncio.wait_for(self._ask(errand, kept, method, target, body), PATIENCE)
        except asyncio.TimeoutError:
            end, answer = "waits for ever", None
            self.diary.wrong.append(f"{errand} waits for ever")
            if errand.door in kept:
                kept.pop(errand.door).close(reset=True)
        self.diary.open -= 1
        self.diary.ends[end] += 1
        return answer

    async def _ask(
        self, errand: Errand, kept: dict[Door, Connection], method: str, target: str, body: bytes
    ) -> tuple[str, Answer | None]:
        head = self._head(errand, method, target, len(body))
        while True:
            connection = kept.get(errand.door)
            if connection is None or connection.is_over:
                try:
                    streams = await asyncio.open_connection("127.0.0.1", self._ports[errand.door])
                except (ConnectionRefusedError, ConnectionResetError):  # reset: it waited to be accepted
                    if not self.may_be_refused:
                        raise
                    return "refused", None
                connection = kept[errand.door] = Connection(*streams)
            try:
                answer = await connection.ask(errand, head, body)
            except StaleError:
                connection.close()
                self.diary.ends["stale"] += 1
                continue
            except LeftError:
                connection.close(reset=errand.resets)
                return f"left while {errand.leaves}", None
            except (asyncio.IncompleteReadError, OSError) as error:
                connection.close()
                return "reset" if isinstance(error, OSError) else "broken off", None
            if answer.status == 200:
                request_id = answer.headers.get("x-request-id", "")
                self.diary.wholes.append(Whole(errand.door, request_id, answer.size, answer.digest))
            return f"{answer.status}", answer

    def _head(self, errand: Errand, method: str, target: str, length: int) -> bytes:
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: 127.0.0.1:{self._ports[errand.door]}",
            "Content-Type: application/json",
            "Authorization: Bearer soak",
            f"x-soak: {errand.name}",
            *([f"x-sandbox-fault: {errand.faults}"] if errand.faults else []),
            f"Content-Length: {length}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()
