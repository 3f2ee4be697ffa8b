"""A disk that is as slow as a test wants, and how to wait for it."""

from __future__ import annotations

import os

from mitmproxy_x402.ledger.sqlite.store import SqliteLedger


class SlowDisk:
    """A `Sync` whose syncs end when the test says so."""

    def __init__(self, _: int = -1) -> None:
        self.fd, self._end = os.pipe()
        os.set_blocking(self.fd, False)
        self.begun = 0
        self.error: OSError | None = None

    def begin(self) -> None:
        if self.error is not None:
            raise self.error
        self.begun += 1

    def finish(self) -> None:
        os.write(self._end, b"!")

    def ended(self) -> bool:
        try:
            os.read(self.fd, 1)
        except BlockingIOError:
            return False
        if self.error is not None:
            raise self.error
        return True

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._end)


async def waited_for(ledger: SqliteLedger) -> None:
    """All that is written so far is on the disk. Raises LedgerError."""
    wait = ledger.durable_soon()
    assert wait is not None
    await wait
