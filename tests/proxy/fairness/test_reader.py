"""How much is read at once, by how long the last piece was worked on."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.test import tflow

from mitmproxy_x402.proxy.fairness import http2
from mitmproxy_x402.proxy.fairness.http2 import InTurns
from mitmproxy_x402.proxy.fairness.reader import FIRST, LEAST, MOST, FairReader, set_waiting
from mitmproxy_x402.proxy.fairness.turns import LONG


def reader_of(data: bytes) -> tuple[FairReader, Any, list[bool]]:
    stream, connection, closed = asyncio.StreamReader(), tflow.tserver_conn(), []
    connection.state = ConnectionState.OPEN
    stream.feed_data(data)
    writer = SimpleNamespace(close=lambda: closed.append(True))
    return FairReader(stream, cast(asyncio.StreamWriter, writer), connection), connection, closed


def test_pieces_grow_while_they_are_cheap_and_shrink_when_they_are_dear() -> None:
    async def run() -> None:
        reader, connection, _ = reader_of(bytes(1 << 20))
        assert [len(await reader.read(65535)) for _ in range(4)] == [FIRST, 2 * FIRST, MOST, MOST]
        vars(connection)["x402_work"] = 10 * LONG
        assert len(await reader.read(65535)) == MOST // 20
        assert len(await reader.read(65535)) == 2 * (MOST // 20)
        vars(connection)["x402_work"] = 1000.0
        assert len(await reader.read(65535)) == LEAST

    asyncio.run(run())


def test_others_have_their_turn_after_a_dear_piece() -> None:
    async def run() -> None:
        reader, connection, _ = reader_of(bytes(1 << 20))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.get_running_loop().create_task(other())
        for _ in range(50):
            vars(connection)["x402_work"] = 2 * LONG
            await reader.read(65535)
            until = time.monotonic() + 2 * LONG
            while time.monotonic() < until:
                pass  # the work
        assert turns >= 48
        task.cancel()

    asyncio.run(run())


def test_what_we_have_closed_is_closed() -> None:
    async def run() -> None:
        reader, connection, closed = reader_of(b"more")
        connection.state = ConnectionState.CLOSED
        with pytest.raises(OSError, match="closed by us"):
            await reader.read(65535)
        assert closed == [True]

    asyncio.run(run())


class Written:
    """Stands for mitmproxy's connection: writes down what it is to process, which takes `cost` seconds a byte."""

    def __init__(self, clock: list[float], cost: float) -> None:
        self.conn, self.seen, self.clock, self.cost = tflow.tserver_conn(), [], clock, cost

    def _handle_event(self, event: events.Event) -> Any:
        self.seen.append(event)
        self.clock[0] += self.cost * len(getattr(event, "data", b""))
        yield from ()


class Slow(InTurns, Written):
    pass


@pytest.mark.parametrize("cost", [0.0, 4e-6, 1e-3])
def test_a_dear_piece_is_processed_in_turns_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, cost: float) -> None:
    clock = [0.0]
    monkeypatch.setattr(http2, "time", SimpleNamespace(thread_time=lambda: clock[0], monotonic=lambda: clock[0]))
    connection = Slow(clock, cost)
    data = bytes(range(256)) * 64
    todo: list[events.Event] = [
        events.DataReceived(connection.conn, data),
        events.DataReceived(connection.conn, b"more"),
        events.ConnectionClosed(connection.conn),
    ]
    turns, longest = 0, 0.0
    while todo:
        began = clock[0]
        for command in connection._handle_event(todo.pop(0)):
            assert isinstance(command, commands.RequestWakeup)
            todo.append(events.Wakeup(command))
        turns, longest = turns + 1, max(longest, clock[0] - began)
        assert ("x402_waiting" in vars(connection.conn)) == any(isinstance(event, events.Wakeup) for event in todo)
    *pieces, end = connection.seen
    assert b"".join(piece.data for piece in pieces) == data + b"more"
    assert isinstance(end, events.ConnectionClosed)
    assert longest <= 1.01 * max(3 * LONG, cost * http2.FIRST_SLICE)
    assert turns == 3 if cost == 0 else turns > 5


def test_what_is_over_is_not_processed() -> None:
    connection = Slow([0.0], 0.0)

    def close(event: events.Event) -> Any:
        connection.seen.append(event)
        vars(connection)["_handle_event"] = lambda _: iter(())  # as mitmproxy does
        yield from ()

    connection.__class__ = type(
        "Closing", (InTurns, type("Base", (Written,), {"_handle_event": lambda _, e: close(e)})), {}
    )
    list(connection._handle_event(events.DataReceived(connection.conn, bytes(10000))))
    assert len(connection.seen) == 1


def test_nothing_is_read_while_something_waits() -> None:
    async def run() -> None:
        reader, connection, _ = reader_of(b"more")
        set_waiting(connection, waits=True)
        task = asyncio.ensure_future(reader.read(10))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        set_waiting(connection, waits=False)
        assert await task == b"more"
        set_waiting(connection, waits=True)
        connection.state = ConnectionState.CLOSED
        with pytest.raises(OSError, match="closed by us"):
            await reader.read(10)

    asyncio.run(run())
