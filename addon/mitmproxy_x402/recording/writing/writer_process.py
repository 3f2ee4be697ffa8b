"""Writes recordings in a process of its own: `python -I -S writer_process.py SOCKET PATH...`.

SOCKET is a file descriptor that brings frames of `parts`; PATH is where Python finds this package and what it uses.
The process has nothing else of the proxy's: no environment, no terminal, no other file. It writes what it has been
given, and ends with the proxy, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import BinaryIO, cast

HELLO = b"\n"
"""The first line that the process sends: it is ready."""


def serve(connection: socket.socket) -> None:
    """Write all that comes through `connection`, and answer with a line for each trouble: folder, cause, in hex."""
    from mitmproxy_x402.recording.writing.parts import read_frame  # noqa: PLC0415  # found only now
    from mitmproxy_x402.recording.writing.store import Store  # noqa: PLC0415

    def tell(folder: str, cause: str) -> None:
        words = os.fsencode(folder).hex(), cause.encode("utf-8", "replace").hex()
        with contextlib.suppress(OSError):  # the proxy has ended; what it gave before is still to be written
            connection.sendall(" ".join(words).encode() + b"\n")

    store = Store(tell)
    connection.sendall(HELLO)
    with cast(BinaryIO, connection.makefile("rb", buffering=1 << 18)) as stream:
        while (parts := read_frame(stream)) is not None:
            for part in parts:
                store.add(part)
                if part.is_over:
                    store.finish(part)


def main(arguments: Sequence[str]) -> None:
    """Serve until the proxy has ended."""
    # Whoever ends the proxy often signals all of its processes: what it still hands over has to be written.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.path[:] = arguments[1:]
    with socket.socket(fileno=int(arguments[0])) as connection:
        serve(connection)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError:  # the proxy has ended
        sys.exit()
