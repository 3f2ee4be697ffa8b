"""What was loaded at the start leaves the garbage collector's rounds, and nothing that somebody is served with does."""

from __future__ import annotations

import asyncio
import gc

import pytest

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
    assert gc.get_freeze_count()
    gc.unfreeze()
