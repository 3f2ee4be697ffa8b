"""What was loaded at the start leaves the garbage collector's rounds, and a process ends without needless work."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import logging
import subprocess
import sys

import pytest
from mitmproxy.optmanager import OptManager

from mitmproxy_x402.proxy.startup import mitmproxy_defaults as hosting


@pytest.mark.parametrize("looks", [1, 3])
def test_it_settles_as_soon_as_nobody_is_served(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []
    answers = iter([True] * (looks - 1) + [False])
    monkeypatch.setattr(hosting, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))

    async def settle() -> None:
        hosting.settle(lambda: next(answers), lambda: True)
        while next(left):
            assert not frozen
            await asyncio.sleep(0)

    left = iter(range(looks - 1, -1, -1))
    asyncio.run(settle())
    assert frozen == [1]


def test_where_it_is_not_wanted_nothing_is_done() -> None:
    before = gc.get_freeze_count()
    hosting.settle(lambda: False, lambda: False)
    assert gc.get_freeze_count() == before


def test_it_is_undone_once() -> None:
    gc.unfreeze()
    hosting.settle(lambda: False, lambda: True)
    assert gc.get_freeze_count()
    hosting.thaw()
    assert not gc.get_freeze_count()
    gc.freeze()  # somebody else's
    hosting.thaw()
    assert gc.get_freeze_count()  # and stays: so the tests began


def test_options_that_are_declared_together_are_announced_once() -> None:
    told: list[set[str]] = []

    def hear(updated: set[str]) -> None:
        told.append(updated)

    options = OptManager()
    options.changed.connect(hear)
    with hosting.announced_together(options):
        options.add_option("first", str, "", "")
        options.add_option("second", str, "", "")
        assert not told
    assert told == [{"first", "second"}]
    with hosting.announced_together(options):
        pass
    with contextlib.suppress(AttributeError), hosting.announced_together(options):
        options.add_option("third", str, "", "")
        options.there_is_no_such_option()
    options.add_option("fourth", str, "", "")
    assert told[1:] == [{"third"}, {"fourth"}]


ENDING = """
import gc
from mitmproxy_x402.proxy.startup import mitmproxy_defaults

class Garbage:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("collected")

gc.disable()
if {quietly}:
    mitmproxy_defaults.end_quietly()
Garbage()
"""


@pytest.mark.parametrize("quietly", [False, True])
def test_nothing_is_collected_as_the_process_ends(quietly: bool) -> None:
    ending = [sys.executable, "-c", ENDING.format(quietly=quietly)]
    out = subprocess.run(ending, capture_output=True, text=True, check=True, timeout=60).stdout
    assert out == ("" if quietly else "collected\n")


def test_a_task_that_is_cut_off_at_the_end_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Python up to 3.11 asks a cancelled task for its exception, in a callback."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])

    async def fail(error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "in a callback", "exception": error})

    asyncio.run(fail(asyncio.CancelledError()))
    assert len(caplog.records) == 1
    hosting.end_quietly()
    atexit.unregister(gc.freeze)  # this process goes on
    asyncio.run(fail(asyncio.CancelledError()))
    assert len(caplog.records) == 1
    asyncio.run(fail(ValueError()))
    assert len(caplog.records) == 2
