"""What a power cut or a killed process leaves of the ledger's file, and the log that is filled up before payments."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.interface import LedgerError, Outcome
from mitmproxy_x402.ledger.reading import read_entries
from mitmproxy_x402.ledger.sqlite.durability import LOG_BYTES
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sqlite.syncing import Sync
from mitmproxy_x402.limits.limits import Budget
from support.ledger.disks import SlowDisk
from support.ledger.ledgers import MachineTimes, query
from support.ledger.payments import intent

DAY = Budget(10**9, "day")


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite3"


async def waited_for(ledger: SqliteLedger) -> None:
    wait = ledger.durable_soon()
    assert wait is not None
    await wait


class CutDisk:
    """A `Sync` that keeps what would be left if the power failed: all that was there when the last sync began."""

    def __init__(self, path: Path, _: int) -> None:
        self._path = path
        self.left = path.with_name("left")
        self._pending = path.with_name("pending")
        self._sync = SlowDisk()
        self.fd = self._sync.fd

    def begin(self) -> None:
        shutil.rmtree(self._pending, ignore_errors=True)
        self._pending.mkdir()
        for file in (self._path, log_of(self._path)):
            shutil.copy(file, self._pending)
        self._sync.finish()

    def ended(self) -> bool:
        if not self._sync.ended():
            return False
        shutil.rmtree(self.left, ignore_errors=True)
        self._pending.rename(self.left)
        return True

    def close(self) -> None:
        self._sync.close()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_has_left_counts_after_a_power_cut(path: Path, seed: int) -> None:
    """Payments side by side, in states of all kinds, with checkpoints in between; then the power fails."""
    chance, times = random.Random(seed), MachineTimes()
    disks: list[CutDisk] = []
    left: list[str] = []

    def make(file: int) -> Sync:
        disks.append(CutDisk(path, file))
        return disks[0]

    async def pay(ledger: SqliteLedger, number: int) -> None:
        nonce = f"0x{number}"
        row = ledger.reserve(intent(nonce=nonce), [DAY])
        wait = ledger.durable_soon()
        assert wait is not None
        if chance.random() < 0.2:
            ledger.release(row)
            return
        await wait
        if chance.random() < 0.3:
            await asyncio.sleep(0)
        record = chance.choice((ledger.record_sent, ledger.record_departure))
        record(row, nonce, 0)
        left.append(nonce)
        if chance.random() < 0.5:
            ledger.finish(row, Outcome("settled", "0xt"))

    async def all_of_them(ledger: SqliteLedger) -> None:
        for begin in range(0, 40, 8):
            await asyncio.gather(*(pay(ledger, number) for number in range(begin, begin + chance.randint(1, 8))))
            if chance.random() < 0.5:
                with closing(sqlite3.connect(path)) as db:
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        for number in range(100, 103):  # these wait in vain
            ledger.reserve(intent(nonce=f"0x{number}"), [DAY])

    with closing(SqliteLedger(path, times.clock, make)) as ledger:
        if chance.random() < 0.5:
            ledger.prepare_sync()
        asyncio.run(all_of_them(ledger))
    times.boot, times.uptime = "second", 10
    after = disks[0].left / path.name
    with closing(SqliteLedger(after, times.clock)) as ledger:
        counting = {nonce for nonce, state in query(after, "nonce, state") if state in ("unknown", "settled")}
        assert set(left) <= counting
        assert ledger.spent(DAY) == 10 * len(counting)
        assert not counting & {"0x100", "0x101", "0x102"}


class TestLongLog:
    """The log is filled up once, so that syncs write nothing but data."""

    def test_payments_do_not_make_it_longer(self, path: Path) -> None:
        with closing(SqliteLedger(path)) as ledger:
            ledger.prepare_sync()
            for _ in range(100):
                ledger.record_sent(ledger.reserve(intent(nonce="0xnonce"), [DAY]), "0xnonce", 0)
            assert log_of(path).stat().st_size == LOG_BYTES

    def test_it_is_filled_once(self, path: Path) -> None:
        with closing(SqliteLedger(path)) as first, closing(SqliteLedger(path)) as second:
            for ledger in (first, second, first):
                row = ledger.reserve(intent(nonce="0xnonce"), [])
                ledger.prepare_sync()
                ledger.record_sent(row, "0xnonce", 0)
                assert log_of(path).stat().st_size == LOG_BYTES
            assert len(read_entries(path)) == 3

    def test_what_is_in_it_outlives_a_killed_process(self, path: Path) -> None:
        killed = """if True:
            import os, sys
            from pathlib import Path
            from test_power_cut import SqliteLedger, intent
            ledger = SqliteLedger(Path(sys.argv[1]))
            ledger.reserve(intent(nonce="0xnonce"), [])
            ledger.prepare_sync()
            ledger.record_sent(ledger.reserve(intent(nonce="0xnonce"), []), "0xnonce", 0)
            os._exit(9)
        """
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", killed, path], env=environ, check=False, cwd=Path(__file__).parent)
        assert log_of(path).stat().st_size == LOG_BYTES
        with closing(SqliteLedger(path)) as ledger:
            assert query(path, "state") == [("released",), ("unknown",)]
            assert ledger.spent(DAY) == 10
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_a_disk_without_room_for_it_still_takes_payments(self, path: Path) -> None:
        limited = resource.getrlimit(resource.RLIMIT_FSIZE)
        with closing(SqliteLedger(path)) as ledger:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LOG_BYTES // 4, limited[1]))
            try:
                with pytest.raises(LedgerError, match="File too large"):
                    ledger.prepare_sync()
                asyncio.run(waited_for(ledger))
                ledger.record_sent(ledger.reserve(intent(nonce="0xnonce"), [DAY]), "0xnonce", 0)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limited)
            assert ledger.spent(DAY) == 10

    def test_another_process_that_writes_is_not_disturbed(self, path: Path) -> None:
        with closing(SqliteLedger(path)) as ledger:
            ledger.reserve(intent(nonce="0xnonce"), [])
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                other.execute("UPDATE payment SET client = 'other'")
                with pytest.raises(LedgerError, match="locked by another program"):
                    ledger.prepare_sync()
                other.execute("COMMIT")
            ledger.prepare_sync()
            assert query(path, "client") == [("other",)]
