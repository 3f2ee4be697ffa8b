"""The index of hooks changes nothing but the time: same addons, same order, same way with errors."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import exceptions, hooks, options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.proxy.layers.http import HttpErrorHook, HttpRequestHook, HttpResponseHook
from mitmproxy.proxy.layers.tls import TlsClienthelloHook
from mitmproxy.test import tflow

from mitmproxy_x402.proxy import dispatch
from mitmproxy_x402.proxy.dispatch import StandIn, index_of, run_at_once
from mitmproxy_x402.proxy.exchange import X402ChallengeHook
from mitmproxy_x402.proxy.startup import fast_path
from support.running.masters import DumpMaster, Master, ScriptLoader, fast


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


@pytest.fixture(params=["mitmproxy's own", "fast"])
def master(request: pytest.FixtureRequest) -> Iterator[Master]:
    """Each test must hold for both."""
    loop = asyncio.new_event_loop()
    try:
        with fast() if request.param == "fast" else contextlib.nullcontext():
            yield Master(options.Options(), event_loop=loop)
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


def test_sees_what_is_done_to_the_chain_and_to_addons_themselves(master: Master) -> None:
    """All of it is done without asking the addon manager, and mitmproxy itself looks anew each time."""
    log: list[str] = []
    parent, other = Noted("a", log), Noted("b", log)
    master.addons.add(parent, other)  # type: ignore[no-untyped-call]

    def asked() -> list[str]:
        log.clear()
        _fire(master, HttpRequestHook(tflow.tflow()))
        return list(log)

    assert asked() == ["a", "b"]
    parent.addons.append(Noted("a1", log))
    assert asked() == ["a", "a1", "b"]
    master.addons.chain.insert(0, Noted("first", log))
    assert asked() == ["first", "a", "a1", "b"]
    master.addons.chain.reverse()
    assert asked() == ["b", "a", "a1", "first"]
    parent.addons.clear()
    other.request = lambda _flow: log.append("b's new")  # type: ignore[method-assign]
    assert asked() == ["b's new", "a", "first"]
    other.request = None  # type: ignore[method-assign, assignment]
    assert asked() == ["a", "first"]


def test_a_hook_that_comes_later_is_called(master: Master) -> None:
    log: list[str] = []
    bare = type("Bare", (), {})()
    master.addons.add(bare)  # type: ignore[no-untyped-call]
    _fire(master, HttpRequestHook(tflow.tflow()))
    bare.request = lambda _flow: log.append("came later")
    _fire(master, HttpRequestHook(tflow.tflow()))
    assert log == ["came later"]


def test_what_is_no_hook_is_told_or_passed_over(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    wrong, module = Noted("a", log), Noted("b", log)
    wrong.request = 7  # type: ignore[method-assign, assignment]
    module.request = asyncio  # type: ignore[method-assign, assignment]
    master.addons.add(wrong, module, Noted("c", log))  # type: ignore[no-untyped-call]
    _fire(master, HttpRequestHook(tflow.tflow()))
    assert log == ["c"]
    assert "Addon handler request" in caplog.text
    assert "not callable" in caplog.text


@pytest.fixture
def made() -> Iterator[Any]:
    """mitmdump's own addons, with the fast path."""
    loop = asyncio.new_event_loop()
    with fast():
        yield DumpMaster(options.Options(), loop=loop, with_termlog=False)
    loop.close()


def test_every_default_addon_that_has_a_hook_is_asked(made: Any) -> None:
    """Against mitmproxy's own list, for every hook there is; a stand-in counts for what it stands in for."""
    for name, event in hooks.all_hooks.items():
        hook = event.__new__(event)
        expected = [a for each in made.addons.chain for a, _ in AddonManager._iter_hooks(made.addons, each, hook)]
        asked = [a for family in index_of(made.addons).asked(name) for a in family if getattr(a, name, None)]
        assert [each.addon if isinstance(each, StandIn) else each for each in asked] == expected, name


def test_the_page_with_the_certificate_is_served(made: Any) -> None:
    flow = tflow.tflow()
    flow.request.host = flow.request.headers["host"] = "mitm.it"
    flow.request.path = "/"
    _fire(made, HttpRequestHook(flow))
    assert flow.response is not None
    assert b"mitmproxy" in (flow.response.content or b"")
    made.options.update(onboarding=False)
    flow.response = None
    _fire(made, HttpRequestHook(flow))
    assert flow.response is None
    other = HttpRequestHook(tflow.tflow())
    made.options.update(onboarding=True)
    assert run_at_once(made.addons, other)


def test_a_local_file_is_served_from_when_the_option_is_set(made: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("local")
    for value, body in (([], None), ([f"|example|{tmp_path}/file"], b"local"), ([], None)):
        made.options.update(map_local=value)
        flow = tflow.tflow()
        flow.request.host = flow.request.headers["host"] = "example.org"
        _fire(made, HttpRequestHook(flow))
        assert (flow.response and flow.response.content) == body


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


class TestAtOnce:
    @pytest.fixture
    def master(self) -> Iterator[Master]:
        loop = asyncio.new_event_loop()
        with fast():
            yield Master(options.Options(), event_loop=loop)
        loop.close()

    def test_what_waits_for_nothing_is_done(self, master: Master) -> None:
        log: list[str] = []
        master.addons.add(Noted("a", log), Noted("b", log))  # type: ignore[no-untyped-call]
        assert run_at_once(master.addons, HttpRequestHook(tflow.tflow()))
        assert log == ["a", "b"]
        assert run_at_once(master.addons, X402ChallengeHook(tflow.tflow()))
        assert not run_at_once(master.addons, TlsClienthelloHook(object()))  # type: ignore[arg-type]

    def test_no_hook_of_a_later_request_overtakes_the_end_of_an_earlier_one(self, master: Master) -> None:
        """Before Python 3.12 a task would begin only after it: the same request, sent again, would pay twice."""
        log: list[str] = []

        class Ends:
            def error(self, flow: Any) -> None:
                log.append(str(flow.error))

        master.addons.add(Ends())  # type: ignore[no-untyped-call]
        assert run_at_once(master.addons, HttpErrorHook(tflow.tflow(err=True)))
        assert log == [str(tflow.terr())]

    @pytest.mark.parametrize("error", [None, ValueError("broken on purpose"), exceptions.AddonHalt()])
    def test_the_rest_is_left_to_where_it_can_wait(self, master: Master, error: Exception | None) -> None:
        log: list[str] = []
        master.addons.add(Noted("a", log), Waiting("b", log, error), Slow("c", log))  # type: ignore[no-untyped-call]
        event = HttpRequestHook(tflow.tflow())
        assert not run_at_once(master.addons, event)
        assert log == ["a", "b"]
        _fire(master, event)
        assert log == ["a", "b", "b waited", *(["c"] if not isinstance(error, exceptions.AddonHalt) else [])]

    def test_a_flow_that_is_held_up_is_waited_for(self, master: Master) -> None:
        log: list[str] = []

        class Intercepting:
            def request(self, flow: Any) -> None:
                flow.intercept()

        master.addons.add(Intercepting(), Noted("a", log))  # type: ignore[no-untyped-call]
        event = HttpRequestHook(tflow.tflow())
        assert not run_at_once(master.addons, event)
        _fire(master, event)
        assert log == ["a"]

    def test_what_hooks_bind_to_their_context_ends_with_them(self, master: Master) -> None:
        seen: list[str] = []
        asked: contextvars.ContextVar[str] = contextvars.ContextVar("asked", default="nothing")

        class Binding:
            def request(self, _flow: Any) -> None:
                asked.set("something")

        class Reading:
            def request(self, _flow: Any) -> None:
                seen.append(asked.get())

        master.addons.add(Binding(), Reading())  # type: ignore[no-untyped-call]
        assert run_at_once(master.addons, HttpRequestHook(tflow.tflow()))
        assert (seen, asked.get()) == (["something"], "nothing")

    def test_screens_are_brought_up_to_date(self, master: Master) -> None:
        """Who wants to know of each update of a flow gets to know it, in mitmproxy's own way."""
        log: list[str] = []

        class Screen:
            def update(self, _flows: Any) -> None:
                log.append("seen")

        master.addons.add(Noted("a", log), Screen())  # type: ignore[no-untyped-call]
        event = HttpRequestHook(tflow.tflow())
        assert not run_at_once(master.addons, event)
        master.event_loop.run_until_complete(master.addons.handle_lifecycle(event))
        assert log == ["a", "seen"]

    @pytest.mark.parametrize("name", ["trigger_event", "handle_lifecycle"])
    @pytest.mark.parametrize("where", ["class", "instance"])
    def test_steps_aside_for_who_calls_hooks_in_another_way(
        self, master: Master, monkeypatch: pytest.MonkeyPatch, name: str, where: str
    ) -> None:
        log: list[str] = []
        master.addons.add(Noted("a", log))  # type: ignore[no-untyped-call]
        theirs = getattr(AddonManager, name)

        async def timed(self: AddonManager, event: Any) -> None:
            log.append("begins")
            await theirs(self, event)
            log.append("ends")

        if where == "class":
            monkeypatch.setattr(AddonManager, name, timed)
        else:
            monkeypatch.setattr(master.addons, name, functools.partial(timed, master.addons))
        event = HttpRequestHook(tflow.tflow())
        assert not run_at_once(master.addons, event)
        assert log == []
        master.event_loop.run_until_complete(master.addons.handle_lifecycle(event))
        assert log[:3] == ["begins", "a", "ends"]

    def test_what_has_begun_is_ended_also_when_the_fast_path_is_taken_back_meanwhile(self, master: Master) -> None:
        log: list[str] = []
        master.addons.add(Noted("a", log), Slow("b", log), Noted("c", log))  # type: ignore[no-untyped-call]

        async def meanwhile() -> None:
            event = HttpRequestHook(tflow.tflow())
            assert not run_at_once(master.addons, event)
            ending = asyncio.ensure_future(master.addons.handle_lifecycle(event))
            fast_path.undo(master.event_loop.call_soon)
            await ending
            assert AddonManager.trigger_event is not dispatch.trigger_event

        master.event_loop.run_until_complete(meanwhile())
        assert log == ["a", "b", "c"]

    def test_a_script_that_is_loaded_again_meanwhile_keeps_it(self, master: Master) -> None:
        master.addons.add(Slow("a", []))  # type: ignore[no-untyped-call]

        async def meanwhile() -> None:
            event = HttpRequestHook(tflow.tflow())
            assert not run_at_once(master.addons, event)
            fast_path.undo(master.event_loop.call_soon)
            fast_path.apply()
            await master.addons.handle_lifecycle(event)
            await asyncio.sleep(0)

        master.event_loop.run_until_complete(meanwhile())
        assert AddonManager.trigger_event is dispatch.trigger_event
