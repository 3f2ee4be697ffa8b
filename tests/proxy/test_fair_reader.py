"""How much is read at once, by how long the last piece was worked on."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy.connection import ConnectionState
from mitmproxy.test import tflow

from mitmproxy_x402.proxy.fair_reader import FIRST, LEAST, LONG, MOST, FairReader


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
