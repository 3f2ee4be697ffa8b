"""A payment leaves when its reservation is on the disk, and until then blocks nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_paying_ahead import Desk, read

from mitmproxy_x402.ledger.interface import LedgerError, Outcome
from mitmproxy_x402.payment.purchase import Purchase
from support import challenges
from support.ledger.disks import SlowDisk


class Disk(SlowDisk):
    """Syncs at once, until it `holds`."""

    holds = False

    def begin(self) -> None:
        super().begin()
        if not self.holds:
            self.finish()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def desk(tmp_path: Path, disk: Disk) -> Iterator[Desk]:
    desk = Desk(tmp_path, lambda _: disk)
    desk.teach(challenges.evm("1000"))
    disk.holds = True
    yield desk
    desk.loop.close()
    desk.ledger.close()


async def waits(purchase: Purchase) -> asyncio.Task[None]:
    """What waits for the disk on behalf of `purchase`, while the loop turns."""
    assert purchase.waits
    task = asyncio.get_running_loop().create_task(purchase.durable())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def waiting(desk: Desk) -> tuple[Purchase, asyncio.Task[None]]:
    """A purchase that waits for the disk, while the loop turns."""
    purchase = desk.purchase()
    assert purchase.predict()
    return purchase, await waits(purchase)


def test_it_waits_for_the_disk_and_others_do_not(desk: Desk, disk: Disk) -> None:
    async def run() -> None:
        purchase, task = await waiting(desk)
        disk.finish()
        await task
        assert not purchase.waits
        purchase.sending()
        assert purchase.sent

    desk.loop.run_until_complete(run())


def test_one_that_is_not_on_the_disk_is_withdrawn_and_the_challenge_paid(desk: Desk, disk: Disk) -> None:
    async def run() -> Purchase:
        purchase, task = await waiting(desk)
        disk.error = OSError(5, "I/O error")
        disk.finish()
        await task
        assert (purchase.payment, purchase.ahead, purchase.is_new) == (None, False, True)
        disk.error, disk.holds = None, False
        assert desk.states(1) == ["released"]
        await purchase.buy(read(challenges.evm("1000")))
        await purchase.durable()  # meanwhile a thread writes the log again, and keeps other writers out
        purchase.sending()
        return purchase

    assert desk.loop.run_until_complete(run()).sent


def test_where_nobody_has_waited_it_is_on_the_disk_all_the_same(desk: Desk) -> None:
    async def run() -> None:
        purchase = desk.purchase()
        assert purchase.predict()
        purchase.sending()
        assert not purchase.waits

    desk.loop.run_until_complete(run())


def test_one_that_is_refused_meanwhile_is_released(desk: Desk, disk: Disk) -> None:
    async def run() -> None:
        purchase, task = await waiting(desk)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        purchase.finish(Outcome("unknown"), complete=False)
        disk.finish()

    desk.loop.run_until_complete(run())
    assert desk.states(1) == ["released"]


async def bought(desk: Desk) -> tuple[Purchase, asyncio.Task[None]]:
    """A purchase after its challenge, which waits for the disk."""
    purchase = desk.purchase()
    await purchase.buy(read(challenges.evm("1000")))
    return purchase, await waits(purchase)


def test_after_a_challenge_it_waits_until_it_is_about_to_leave(desk: Desk, disk: Disk) -> None:
    async def run() -> None:
        purchase, task = await bought(desk)
        disk.finish()
        await task
        purchase.sending()

    desk.loop.run_until_complete(run())


def test_a_disk_that_is_done_by_then_is_not_waited_for(desk: Desk, disk: Disk) -> None:
    async def run() -> None:
        purchase = desk.purchase()
        await purchase.buy(read(challenges.evm("1000")))
        disk.finish()
        assert not purchase.waits
        purchase.sending()

    desk.loop.run_until_complete(run())


def test_after_a_challenge_nothing_leaves_that_is_not_on_the_disk(desk: Desk, disk: Disk) -> None:
    async def run() -> None:
        purchase, task = await bought(desk)
        disk.error = OSError(5, "I/O error")
        disk.finish()
        await task
        for _ in range(2):
            with pytest.raises(LedgerError, match="cannot be used"):
                purchase.sending()
        assert not purchase.sent
        purchase.finish(Outcome("unknown"), complete=False)

    desk.loop.run_until_complete(run())
    assert desk.states(1) == ["released"]
