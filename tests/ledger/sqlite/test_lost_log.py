"""A log of which the system has lost what a failed sync had not written."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.interface import LedgerError
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from support.ledger.disks import SlowDisk, waited_for
from support.ledger.payments import intent


def drop(log: Path, before: bytes, which: str) -> None:
    """Put back on the disk what `log` was before, where it has changed."""
    now = log.read_bytes()
    changed = [place for place in range(0, len(now), 4096) if now[place : place + 4096] != before[place : place + 4096]]
    places = {"its last pages": changed, "pages in the middle": changed[1:3], "a whole page of data": changed[2:3]}[
        which
    ]
    with log.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(before[place : place + 4096])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("lost", ["its last pages", "pages in the middle", "a whole page of data"])
def test_what_the_system_has_dropped_before_it_is_written_again_is_noticed(
    ledger: SqliteLedger, disk: SlowDisk, path: Path, lost: str
) -> None:
    """A failed sync leaves its pages clean in memory: dropped there, they are what the disk has."""
    log = Path(f"{path}-wal")
    ledger.reserve(intent(), [])
    before = log.read_bytes()
    ledger.reserve(intent(), [])

    async def pay() -> None:
        task = asyncio.ensure_future(waited_for(ledger))
        await asyncio.sleep(0)
        disk.error = OSError(5, "Input/output error")
        disk.finish()
        with pytest.raises(LedgerError, match="Input/output error"):
            await task
        disk.error = None
        drop(log, before, lost)
        for _ in range(2):
            with pytest.raises(LedgerError, match="has lost a part of the ledger's log"):
                await waited_for(ledger)

    asyncio.run(pay())
    ledger.close()
    # Before 3.12, SQLite brings into the file what it finds, and the file may be damaged.
    if sys.version_info >= (3, 12):
        with closing(SqliteLedger(path)) as after:
            after.reserve(intent(), [])
            after.durable_now()
