"""Syncs one file to the disk each time it is asked to. Runs as a process of its own, or serves as a module.

As a process (`python -I -S sync_process.py FILE ASKED ANSWER`, three file descriptors) it has nothing of the proxy's
but these: no environment, no terminal, no other file. It ends when nobody has the other end of `ASKED` any more:
with the proxy, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys

_FULL_FSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""The macOS call that does what `fsync` does elsewhere."""


def sync_now(file: int) -> None:
    """Sync `file`, and block until that is done. Raises OSError."""
    if _FULL_FSYNC is None:
        os.fdatasync(file)
    else:
        fcntl.fcntl(file, _FULL_FSYNC)


def serve(file: int, asked: int, answer: int) -> None:
    """Sync `file` for each byte from `asked`, and answer with one byte: 0, or the number of the error."""
    while os.read(asked, 1):
        failed = 0
        try:
            sync_now(file)
        except OSError as error:
            failed = error.errno or 255
        os.write(answer, bytes((min(failed, 255),)))


if __name__ == "__main__":
    # Whoever ends the proxy often signals all of its processes: payments under way still have to be synced.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        serve(*map(int, sys.argv[1:]))
    except OSError:  # the proxy has ended
        sys.exit()
