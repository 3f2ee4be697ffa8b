"""What a power cut or a killed process leaves of the ledger's file, and the log that is filled up before payments."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.interface import LedgerError, Outcome
from mitmproxy_x402.ledger.reading import read_entries
from mitmproxy_x402.ledger.sqlite import durability
from mitmproxy_x402.ledger.sqlite.durability import LOG_BYTES
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sqlite.syncing import Sync
from mitmproxy_x402.limits.limits import Budget
from support.ledger.disks import SlowDisk, waited_for
from support.ledger.ledgers import MachineTimes, query
from support.ledger.payments import intent

DAY = Budget(10**9, "day")


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


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


class LosingDisk:
    """A `Sync` over a disk that fails some syncs, after which the system takes for written what was to be written.

    `left` has what is on the disk, as a folder: of the log, what was new at a failed sync is missing until the same
    place is written again, by SQLite or by `os.pwrite`.
    """

    def __init__(self, path: Path, fails: Callable[[], bool], patch: pytest.MonkeyPatch) -> None:
        self._path = path
        self._fails = fails
        self._failed = False
        self._old = b""
        """The log at the last sync, failed or not: what differs from it has been written since."""
        self._on_disk = bytearray()
        self.left = path.with_name("left")
        self._sync = SlowDisk()
        self.fd = self._sync.fd
        self._rewritten, self._log_fd = False, -1
        write, sync = os.pwrite, durability.sync_now

        def pwrite(file: int, data: bytes, place: int) -> int:
            self._rewritten |= log_of(path).exists() and os.path.sameopenfile(file, self._log())
            return write(file, data, place)

        def sync_now(file: int) -> None:
            sync(file)
            self._keep()

        patch.setattr(os, "pwrite", pwrite)
        patch.setattr(durability, "sync_now", sync_now)

    def _log(self) -> int:
        if self._log_fd < 0:
            self._log_fd = os.open(log_of(self._path), os.O_RDONLY)
        return self._log_fd

    def begin(self) -> None:
        self._failed = self._fails()
        if self._failed:
            self._old = log_of(self._path).read_bytes()
        else:
            self._keep()
        self._sync.finish()

    def _keep(self) -> None:
        """What was written since the last sync is on the disk now."""
        now = log_of(self._path).read_bytes()
        old = self._old.ljust(len(now), b"\0")
        self._on_disk.extend(bytes(max(len(now) - len(self._on_disk), 0)))
        for place in range(0, len(now), 512):
            block = now[place : place + 512]
            if self._rewritten or block != old[place : place + 512]:
                self._on_disk[place : place + 512] = block
        self._old, self._rewritten = now, False
        shutil.rmtree(self.left, ignore_errors=True)
        self.left.mkdir()
        shutil.copy(self._path, self.left)
        log_of(self.left / self._path.name).write_bytes(self._on_disk)

    def ended(self) -> bool:
        if not self._sync.ended():
            return False
        if self._failed:
            raise OSError(28, "No space left on device")
        return True

    def close(self) -> None:
        """Does nothing: the next process has the same disk."""

    def end(self) -> None:
        os.close(self._log_fd)
        self._sync.close()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_what_has_left_after_a_sync_that_failed_counts_after_a_power_cut(
    path: Path, seed: int, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, times = random.Random(seed), MachineTimes()
    left: list[str] = []
    failing = {chance.randrange(3, 12) for _ in range(3)}
    begun = itertools.count()
    disk = LosingDisk(path, lambda: next(begun) in failing, monkeypatch)

    async def pay(ledger: SqliteLedger, numbers: range) -> None:
        for number in numbers:
            nonce = f"0x{number}"
            row = ledger.reserve(intent(nonce=nonce), [DAY])
            wait = ledger.durable_soon()
            assert wait is not None
            try:
                await wait
            except LedgerError:
                ledger.release(row)
            else:
                ledger.record_departure(row, nonce, 0)
                left.append(nonce)

    with ExitStack() as stack:
        stack.callback(disk.end)
        ledger = stack.enter_context(closing(SqliteLedger(path, times.clock, lambda _: disk)))
        asyncio.run(pay(ledger, range(20)))
        if restarted:  # the first one has not closed its ledger, as if it had been killed just after a failed sync
            reader = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            reader.execute("BEGIN")
            reader.execute("SELECT COUNT(*) FROM payment").fetchone()  # which keeps the log from being begun anew
            failing.add(next(begun) + 1)
            asyncio.run(pay(ledger, range(20, 21)))
            with closing(SqliteLedger(path, times.clock, lambda _: disk)) as second:
                asyncio.run(pay(second, range(21, 25)))
                counting = after_a_power_cut(disk.left / path.name)
        else:
            counting = after_a_power_cut(disk.left / path.name)
    assert len(left) >= 17
    assert set(left) <= counting


def after_a_power_cut(left: Path) -> set[str]:
    """The payments that count."""
    path = shutil.copytree(left.parent, left.parent.with_name("cut")) / left.name
    later = MachineTimes(boot="second", uptime=10)
    with closing(SqliteLedger(path, later.clock)):
        return {nonce for nonce, state in query(path, "nonce, state") if state in ("unknown", "settled")}


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
