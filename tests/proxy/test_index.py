"""The index of hooks changes nothing but the time: same addons, same order, same way with errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import exceptions, hooks, options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.proxy.layers.http import HttpRequestHook, HttpResponseHook
from mitmproxy.proxy.layers.tls import TlsClienthelloHook
from mitmproxy.test import tflow

from mitmproxy_x402.proxy.dispatch import IndexedAddons
from mitmproxy_x402.proxy.exchange import X402ChallengeHook
from mitmproxy_x402.proxy.fast_path import economise
from support.masters import DumpMaster, Master, ScriptLoader, lend


class Noted:
    """Writes its name down for each hook that it has."""

    def __init__(self, name: str, log: list[str], *children: Any) -> None:
        self.name, self.log = name, log
        self.addons = list(children)

    def request(self, _flow: Any) -> None:
        self.log.append(self.name)


class Slow(Noted):
    async def request(self, _flow: Any) -> None:
        await asyncio.sleep(0)
        self.log.append(self.name)


class Broken(Noted):
    def request(self, _flow: Any) -> None:
        super().request(_flow)
        raise ValueError("broken on purpose")


class Halting(Noted):
    def request(self, _flow: Any) -> None:
        super().request(_flow)
        raise exceptions.AddonHalt


@pytest.fixture(params=["mitmproxy's own", "indexed"])
def master(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Master]:
    """Each test must hold for both."""
    loop = asyncio.new_event_loop()
    try:
        made = Master(options.Options(), event_loop=loop)
        lend(monkeypatch)
        if request.param == "indexed":
            economise(made)
            assert type(made.addons) is not AddonManager
        yield made
    finally:
        loop.close()


def _fire(master: Master, event: hooks.Hook) -> None:
    master.event_loop.run_until_complete(master.addons.trigger_event(event))


def test_asks_all_in_order_children_behind_their_parent(master: Master) -> None:
    log: list[str] = []
    master.addons.add(  # type: ignore[no-untyped-call]
        Noted("a", log, Slow("a1", log, Noted("a11", log)), Noted("a2", log)), Slow("b", log)
    )
    for _ in range(2):
        log.clear()
        _fire(master, HttpRequestHook(tflow.tflow()))
        assert log == ["a", "a1", "a11", "a2", "b"]
    log.clear()
    _fire(master, HttpResponseHook(tflow.tflow(resp=True)))
    assert log == []


def test_an_error_skips_the_rest_of_its_family_only(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    master.addons.add(Noted("a", log, Broken("a1", log), Noted("a2", log)), Noted("b", log))  # type: ignore[no-untyped-call]
    _fire(master, HttpRequestHook(tflow.tflow()))
    assert log == ["a", "a1", "b"]
    assert "broken on purpose" in caplog.text


def test_a_halt_ends_the_hook_for_all(master: Master) -> None:
    log: list[str] = []
    master.addons.add(Noted("a", log, Halting("a1", log)), Noted("b", log))  # type: ignore[no-untyped-call]
    _fire(master, HttpRequestHook(tflow.tflow()))
    assert log == ["a", "a1"]


def test_sees_addons_that_come_and_go(master: Master) -> None:
    log: list[str] = []
    first, second = Noted("a", log), Noted("b", log)
    master.addons.add(first)  # type: ignore[no-untyped-call]
    _fire(master, HttpRequestHook(tflow.tflow()))
    master.addons.add(second)  # type: ignore[no-untyped-call]
    _fire(master, HttpRequestHook(tflow.tflow()))
    master.addons.remove(first)  # type: ignore[no-untyped-call]
    _fire(master, HttpRequestHook(tflow.tflow()))
    assert log == ["a", "a", "b", "b"]
    master.addons.clear()  # type: ignore[no-untyped-call]
    _fire(master, HttpRequestHook(tflow.tflow()))
    assert log == ["a", "a", "b", "b"]


def test_sees_scripts_that_are_reordered(master: Master, tmp_path: Path) -> None:
    scripts = []
    for name in "ab":
        script = tmp_path / f"{name}.py"
        script.write_text(f"def request(flow): flow.comment += '{name}'\n")
        scripts.append(str(script))

    async def ask() -> str:
        flow = tflow.tflow()
        flow.comment = ""
        await master.addons.trigger_event(HttpRequestHook(flow))
        return flow.comment

    async def expect(order: list[str], expected: str) -> None:
        master.options.update(scripts=order)
        for _ in range(500):  # mitmproxy loads a script in a task of its own
            if await ask() == expected:
                break
            await asyncio.sleep(0.01)
        assert [await ask(), await ask()] == [expected] * 2

    loop = master.event_loop
    master.addons.add(ScriptLoader())  # type: ignore[no-untyped-call]
    _fire(master, hooks.RunningHook())
    for order, expected in ((scripts, "ab"), (scripts[::-1], "ba"), (scripts[1:], "b"), ([], "")):
        loop.run_until_complete(expect(order, expected))


def test_hooks_that_fire_at_once_still_do(master: Master) -> None:
    log: list[str] = []
    master.addons.add(Noted("a", log))  # type: ignore[no-untyped-call]
    master.addons.trigger(HttpRequestHook(tflow.tflow()))
    assert log == ["a"]


def test_every_default_addon_that_has_a_hook_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against mitmproxy's own list, for every hook there is. All of them have something to do here."""
    monkeypatch.setattr(IndexedAddons, "_is_idle", lambda *_: False)
    lend(monkeypatch)
    loop = asyncio.new_event_loop()
    made = DumpMaster(options.Options(), loop=loop, with_termlog=False)
    loop.close()
    economise(made)
    addons = made.addons
    for name, event in hooks.all_hooks.items():
        hook = event.__new__(event)
        expected = [found for each in addons.chain for _, found in AddonManager._iter_hooks(addons, each, hook)]
        asked = [found for family in addons._asked(hook) for found in family]  # type: ignore[attr-defined]
        assert asked == expected, name


class Waiting(Noted):
    """Waits for what the test gives, and may not like it."""

    def __init__(self, name: str, log: list[str], error: Exception | None = None) -> None:
        super().__init__(name, log)
        self.error = error

    def request(self, flow: Any) -> Any:
        super().request(flow)
        return self._wait()

    async def _wait(self) -> None:
        await asyncio.sleep(0)
        self.log.append(f"{self.name} waited")
        if self.error is not None:
            raise self.error


@pytest.fixture
def indexed(master: Master) -> Any:
    if type(master.addons) is AddonManager:
        economise(master)
    return master.addons


def test_what_waits_for_nothing_is_done_at_once(master: Master, indexed: Any) -> None:
    log: list[str] = []
    master.addons.add(Noted("a", log), Noted("b", log))  # type: ignore[no-untyped-call]
    assert indexed.done_at_once(HttpRequestHook(tflow.tflow()))
    assert log == ["a", "b"]
    assert indexed.done_at_once(X402ChallengeHook(tflow.tflow()))
    assert not indexed.done_at_once(TlsClienthelloHook(object()))


@pytest.mark.parametrize("error", [None, ValueError("broken on purpose"), exceptions.AddonHalt()])
def test_the_rest_is_left_to_where_it_can_wait(master: Master, indexed: Any, error: Exception | None) -> None:
    log: list[str] = []
    master.addons.add(Noted("a", log), Waiting("b", log, error), Slow("c", log))  # type: ignore[no-untyped-call]
    event = HttpRequestHook(tflow.tflow())
    assert not indexed.done_at_once(event)
    assert log == ["a", "b"]
    _fire(master, event)
    assert log == ["a", "b", "b waited", *(["c"] if not isinstance(error, exceptions.AddonHalt) else [])]


def test_a_flow_that_is_held_up_is_waited_for(master: Master, indexed: Any) -> None:
    log: list[str] = []

    class Intercepting:
        def request(self, flow: Any) -> None:
            flow.intercept()

    master.addons.add(Intercepting(), Noted("a", log))  # type: ignore[no-untyped-call]
    event = HttpRequestHook(tflow.tflow())
    assert not indexed.done_at_once(event)
    _fire(master, event)
    assert log == ["a"]


def test_screens_are_brought_up_to_date(master: Master, indexed: Any) -> None:
    """Who wants to know of each update of a flow gets to know it, in mitmproxy's own way."""
    log: list[str] = []

    class Screen:
        def update(self, _flows: Any) -> None:
            log.append("seen")

    master.addons.add(Noted("a", log), Screen())  # type: ignore[no-untyped-call]
    event = HttpRequestHook(tflow.tflow())
    assert not indexed.done_at_once(event)
    master.event_loop.run_until_complete(master.addons.handle_lifecycle(event))
    assert log == ["a", "seen"]
