"""Asks RPCs over HTTPS that fail."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from mitmproxy_x402.chain.json_rpc import Unreachable, ask


@pytest.mark.parametrize("late", [b"this is no TLS\r\n", b""])
def test_a_handshake_that_fails_after_the_time_out_logs_no_error(late: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Who asked was told of the time-out already."""

    async def play() -> None:
        gone, is_over = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await gone.wait()
            writer.write(late)
            writer.write_eof()
            with contextlib.suppress(OSError):  # reset
                while await reader.read(1 << 16):
                    pass
            writer.close()
            is_over.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Unreachable, match="no answer within"):
                await ask(f"https://127.0.0.1:{port}/", 0.2)
            gone.set()
            await is_over.wait()

    asyncio.run(play())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
