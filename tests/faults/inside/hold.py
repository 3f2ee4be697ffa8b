"""A hold within the proxy: the request for a path is announced to the test, and goes on when the test says so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mitmproxy import http

_port = int(Path("control.port").read_text())
_waiting: set[Any] = set()  # asyncio itself keeps no hold of a task that waits for a stream


async def hold(flow: http.HTTPFlow, where: str) -> None:
    """Wait until the test lets go, where the client asked to be held there; once."""
    if flow.request.headers.get("x-hold") != where or flow.metadata.get("held"):
        return
    flow.metadata["held"] = True
    streams = await asyncio.open_connection("127.0.0.1", _port)
    _waiting.add(streams)
    reader, writer = streams
    writer.write(f"{flow.request.path}\n".encode())
    await reader.read()
    writer.close()
    _waiting.discard(streams)
