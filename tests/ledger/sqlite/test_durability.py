"""What of the ledger's file is on the disk before a payment leaves, and what a power cut can take."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.interface import Intent, LedgerError
from mitmproxy_x402.ledger.sqlite import durability
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sqlite.syncing import ProcessSync, Sync, ThreadSync, sync_of
from mitmproxy_x402.limits.limits import Budget
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from support.ledger.disks import SlowDisk, waited_for
from support.patience import BusyLoop

DAY = Budget(10**9, "day")


def intent(nonce: str = "0xnonce", micro: int = 10) -> Intent:
    network = Caip2("eip155:8453")
    return Intent("POST", "h", "/v1/x", "m-1", network, "0xa", "0xb", AtomicUnits(micro), micro, nonce=nonce)


@pytest.mark.usefixtures("at_once")
class TestSharing:
    def test_those_who_come_while_a_sync_runs_share_the_next(self, ledger: SqliteLedger, disk: SlowDisk) -> None:
        async def pay() -> None:
            tasks = []
            for _ in range(10):
                ledger.reserve(intent(), [])
                tasks.append(asyncio.ensure_future(waited_for(ledger)))
                await asyncio.sleep(0)
            assert disk.begun == 1
            disk.finish()
            await tasks[0]
            assert disk.begun == 2
            assert not any(task.done() for task in tasks[1:])
            disk.finish()
            await asyncio.gather(*tasks)
            assert disk.begun == 2

        asyncio.run(pay())

    def test_a_sync_that_is_over_takes_no_turn_of_the_event_loop(self, ledger: SqliteLedger, disk: SlowDisk) -> None:
        async def pay() -> None:
            waiting = waited_for(ledger)
            disk.finish()
            with pytest.raises(StopIteration):
                waiting.send(None)

        asyncio.run(pay())

    def test_a_client_that_leaves_takes_no_sync_from_others(self, ledger: SqliteLedger, disk: SlowDisk) -> None:
        async def pay() -> None:
            leaves, stays = asyncio.ensure_future(waited_for(ledger)), asyncio.ensure_future(waited_for(ledger))
            await asyncio.sleep(0)
            leaves.cancel()
            for _ in range(2):
                disk.finish()
                await asyncio.sleep(0.01)
            await stays

        asyncio.run(pay())

    def test_one_ledger_serves_one_event_loop_after_another(self, ledger: SqliteLedger, disk: SlowDisk) -> None:
        async def pay() -> None:
            task = asyncio.ensure_future(waited_for(ledger))
            await asyncio.sleep(0)
            disk.finish()
            await task

        for _ in range(3):
            asyncio.run(pay())
        assert disk.begun == 3


async def begun(disk: SlowDisk, number: int) -> None:
    """Wait until `number` syncs have begun; the event loop has nothing to do meanwhile."""
    for _ in range(20_000):
        if disk.begun >= number:
            break
        await asyncio.sleep(0.001)
    assert disk.begun == number


class TestGroups:
    """A sync begins after what the event loop has to do, so that all who pay meanwhile share it."""

    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(durability, "GROUP_SECONDS", 60)

    def test_those_who_come_while_the_loop_is_busy_share_one(self, ledger: SqliteLedger, disk: SlowDisk) -> None:
        async def pay() -> None:
            busy, tasks = BusyLoop(), []
            for _ in range(10):
                ledger.reserve(intent(), [])
                tasks.append(asyncio.ensure_future(waited_for(ledger)))
                await busy.wait(3)
            assert disk.begun == 0
            busy.stop()
            await begun(disk, 1)
            assert not any(task.done() for task in tasks)
            disk.finish()
            await asyncio.gather(*tasks)
            assert disk.begun == 1

        asyncio.run(pay())

    def test_in_an_idle_loop_it_begins_at_once(self, ledger: SqliteLedger, disk: SlowDisk) -> None:
        async def pay() -> None:
            ledger.durable_soon()
            assert disk.begun == 1

        asyncio.run(pay())

    def test_it_does_not_wait_for_ever(
        self, ledger: SqliteLedger, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(durability, "GROUP_SECONDS", 0.01)

        async def pay() -> None:
            busy = BusyLoop()
            for number in range(3):
                task = asyncio.ensure_future(waited_for(ledger))
                while disk.begun == number:
                    await busy.wait(1)
                disk.finish()
                await task
            busy.stop()

        asyncio.run(pay())

    def test_those_who_come_while_one_runs_share_the_next(self, ledger: SqliteLedger, disk: SlowDisk) -> None:
        async def pay() -> None:
            first = asyncio.ensure_future(waited_for(ledger))
            await begun(disk, 1)
            busy = BusyLoop()
            later = [asyncio.ensure_future(waited_for(ledger)) for _ in range(3)]
            await busy.wait(3)
            disk.finish()
            await first
            later.append(asyncio.ensure_future(waited_for(ledger)))
            await busy.wait(3)
            assert disk.begun == 1
            busy.stop()
            await begun(disk, 2)
            disk.finish()
            await asyncio.gather(*later)

        asyncio.run(pay())

    def test_one_that_its_event_loop_did_not_come_to_is_done_by_the_next(
        self, ledger: SqliteLedger, disk: SlowDisk
    ) -> None:
        async def leave() -> None:
            asyncio.get_running_loop().call_soon(int)
            ledger.durable_soon()
            assert disk.begun == 0

        async def pay() -> None:
            task = asyncio.ensure_future(waited_for(ledger))
            await begun(disk, 1)
            disk.finish()
            await task

        asyncio.run(leave())
        asyncio.run(pay())
        assert disk.begun == 1

    def test_who_waits_for_one_that_has_not_begun_when_the_ledger_is_closed_is_not_left_waiting(
        self, ledger: SqliteLedger, disk: SlowDisk
    ) -> None:
        async def pay() -> None:
            busy = BusyLoop()
            task = asyncio.ensure_future(waited_for(ledger))
            await busy.wait(3)
            ledger.close()
            with pytest.raises(LedgerError, match="it was closed"):
                await task
            await busy.wait(3)
            busy.stop()
            assert disk.begun == 0

        asyncio.run(pay())


class TestIdle:
    """A payment waits on the spot while the event loop has nothing else to do."""

    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(durability, "IDLE_SECONDS", 20)

    @pytest.fixture
    def finishing(self, disk: SlowDisk) -> Iterator[threading.Timer]:
        timer = threading.Timer(0.5, disk.finish)
        yield timer
        timer.join()  # before the disk is closed

    def test_alone_it_takes_no_turn_of_the_event_loop(self, ledger: SqliteLedger, finishing: threading.Timer) -> None:
        async def pay() -> None:
            waiting = waited_for(ledger)
            finishing.start()
            with pytest.raises(StopIteration):
                waiting.send(None)

        asyncio.run(pay())

    def test_what_is_ready_in_the_loop_is_not_held_up(self, ledger: SqliteLedger, finishing: threading.Timer) -> None:
        async def pay() -> None:
            wait = ledger.durable_soon()
            assert isinstance(wait, durability.Durable)
            finishing.start()
            asyncio.get_running_loop().call_soon(int)
            assert not wait.is_done()
            await wait

        asyncio.run(pay())

    def test_what_comes_from_elsewhere_ends_it(self, ledger: SqliteLedger, finishing: threading.Timer) -> None:
        async def pay() -> None:
            loop, read = asyncio.get_running_loop(), asyncio.Event()
            near, far = socket.socketpair()
            with near, far:
                loop.add_reader(near, lambda: (near.recv(1), read.set()))
                wait = ledger.durable_soon()
                assert isinstance(wait, durability.Durable)
                finishing.start()
                far.send(b"!")
                assert not wait.is_done()
                await read.wait()  # it was not taken away
                loop.remove_reader(near)
            await wait

        asyncio.run(pay())

    def test_it_does_not_wait_for_ever(
        self, ledger: SqliteLedger, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(durability, "IDLE_SECONDS", 0.001)

        async def pay() -> None:
            wait = ledger.durable_soon()
            assert isinstance(wait, durability.Durable)
            assert not wait.is_done()
            disk.finish()
            await wait

        asyncio.run(pay())

    def test_in_a_loop_of_another_kind_it_waits_in_the_ordinary_way(
        self, ledger: SqliteLedger, finishing: threading.Timer
    ) -> None:
        async def pay() -> None:
            loop = vars(asyncio.get_running_loop())
            wait = ledger.durable_soon()
            assert isinstance(wait, durability.Durable)
            selector = loop.pop("_selector")
            assert not wait.is_done()
            loop["_selector"] = selector
            finishing.start()
            await wait

        asyncio.run(pay())


@pytest.mark.usefixtures("at_once")
class TestFailure:
    def test_who_waits_for_a_sync_that_fails_hears_why(self, ledger: SqliteLedger, disk: SlowDisk) -> None:
        async def pay() -> None:
            task = asyncio.ensure_future(waited_for(ledger))
            await asyncio.sleep(0)
            disk.error = OSError(5, "Input/output error")
            disk.finish()
            with pytest.raises(LedgerError, match="cannot be used: Input/output error"):
                await task
            disk.error = None
            await waited_for(ledger)  # the log is written again
            task = asyncio.ensure_future(waited_for(ledger))
            await asyncio.sleep(0)
            disk.finish()
            await task

        asyncio.run(pay())

    def test_who_waits_for_a_disk_that_does_not_answer_hears_so(
        self, ledger: SqliteLedger, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(durability, "STALLED_SECONDS", 0.05)

        async def pay() -> None:
            for _ in range(2):
                with pytest.raises(LedgerError, match=r"the disk has not answered for 0\.05 seconds"):
                    await waited_for(ledger)
            assert disk.begun == 1  # which is still awaited
            monkeypatch.setattr(durability, "STALLED_SECONDS", 60)
            task = asyncio.ensure_future(waited_for(ledger))
            disk.finish()
            await begun(disk, 2)
            disk.finish()
            await task

        asyncio.run(pay())

    def test_who_waits_for_a_sync_that_cannot_be_begun_hears_why(self, ledger: SqliteLedger, disk: SlowDisk) -> None:
        disk.error = OSError(5, "Input/output error")
        with pytest.raises(LedgerError, match="cannot be used: Input/output error"):
            asyncio.run(waited_for(ledger))

    def test_while_the_log_cannot_be_written_again_nobody_is_told_that_it_is_durable(
        self, ledger: SqliteLedger, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(file: int, data: bytes, place: int) -> int:
            raise OSError(28, "No space left on device")

        async def pay() -> None:
            task = asyncio.ensure_future(waited_for(ledger))
            await asyncio.sleep(0)
            disk.error = OSError(5, "Input/output error")
            disk.finish()
            with pytest.raises(LedgerError, match="Input/output error"):
                await task
            disk.error = None
            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", full)
                for _ in range(3):
                    with pytest.raises(LedgerError, match="No space left"):
                        await waited_for(ledger)
                    with pytest.raises(LedgerError, match="No space left"):
                        ledger.durable_now()
            await waited_for(ledger)

        asyncio.run(pay())

    def test_who_waits_when_the_ledger_is_closed_is_not_left_waiting(self, ledger: SqliteLedger) -> None:
        async def pay() -> None:
            task = asyncio.ensure_future(waited_for(ledger))
            await asyncio.sleep(0)
            ledger.close()
            with pytest.raises(LedgerError, match="it was closed"):
                await task

        asyncio.run(pay())


WAYS: list[Callable[[int], Sync]] = [ThreadSync, ProcessSync, sync_of]


@pytest.mark.parametrize("way", WAYS)
class TestWays:
    def test_it_tells_by_its_descriptor_when_a_sync_has_ended(self, way: Callable[[int], Sync], tmp_path: Path) -> None:
        with (tmp_path / "file").open("wb") as file:
            sync = way(file.fileno())
            assert not sync.ended()
            for _ in range(3):
                file.write(b"x" * 10_000)
                file.flush()
                sync.begin()
                assert select.select([sync.fd], [], [], 30)[0]
                assert sync.ended()
                assert not sync.ended()
            sync.begin()
            sync.close()
            sync.close()

    def test_what_cannot_be_synced_is_an_error(self, way: Callable[[int], Sync]) -> None:
        def try_it(file: int) -> None:
            with closing(way(file)) as sync:
                sync.begin()
                select.select([sync.fd], [], [], 30)
                sync.ended()

        near, far = os.pipe()
        with pytest.raises(OSError, match="Invalid argument"):
            try_it(far)
        os.close(near)
        os.close(far)

    def test_payments_wait_for_it(self, way: Callable[[int], Sync], path: Path) -> None:
        async def pay(ledger: SqliteLedger) -> None:
            for _ in range(20):
                ledger.reserve(intent(), [])
                await waited_for(ledger)

        with closing(SqliteLedger(path, make_sync=way)) as ledger:
            ledger.prepare_sync()
            asyncio.run(pay(ledger))
