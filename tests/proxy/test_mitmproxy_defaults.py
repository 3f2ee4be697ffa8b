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
    monkeypatch.setattr(hosting, "own_process", True)
    monkeypatch.setattr(hosting, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))

    async def settle() -> None:
        hosting.settle(lambda: next(answers))
        while next(left):
            assert not frozen
            await asyncio.sleep(0)

    left = iter(range(looks - 1, -1, -1))
    asyncio.run(settle())
    assert frozen == [1]


def test_in_another_ones_process_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "freeze", lambda: pytest.fail("frozen"))
    hosting.settle(lambda: False)
