"""Puts a network's way between two ports: `python -m tests.bench.sides.delay SECONDS '{"name": PORT, ...}'`.

Every byte arrives that many seconds later, in both directions. Prints one line of JSON: the port that stands before
each.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from typing import cast

from .selecting import run


class End(asyncio.Protocol):
    """One end of a connection; what it receives is written to the other end later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        for data in self._early:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self.delay, self._pass_on, data)

    def _pass_on(self, data: bytes) -> None:
        assert self.other is not None
        if self.other.transport is None:
            self.other._early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        asyncio.get_running_loop().call_later(self.delay, self._close_other)

    def _close_other(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Near(End):
    """The client's end: connecting takes one way there and one back, as on a network."""

    def __init__(self, delay: float, port: int) -> None:
        super().__init__(delay)
        self._port = port
        self.other = End(delay)
        self.other.other = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).pause_reading()
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        # The kernel has accepted at once, where a network would have taken a round trip.
        await asyncio.sleep(2 * self.delay)
        other = self.other
        assert other is not None
        assert self.transport is not None
        await asyncio.get_running_loop().create_connection(lambda: other, "127.0.0.1", self._port)
        self.transport.resume_reading()


async def serve(delay: float, doors: dict[str, int]) -> None:
    """Listen before every door, tell where, and go on until the standard input ends."""
    loop = asyncio.get_running_loop()
    ports = {}
    for name, port in doors.items():
        server = await loop.create_server(functools.partial(Near, delay, port), "127.0.0.1", 0, backlog=1024)
        ports[name] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    run(serve(float(sys.argv[1]), json.loads(sys.argv[2])))
