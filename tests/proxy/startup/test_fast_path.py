"""The fast path changes nothing but the time: each function that it replaces, and how it comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.addonmanager import AddonManager
from mitmproxy.log import LogEntry
from mitmproxy.options import Options
from mitmproxy.optmanager import OptManager
from mitmproxy.test import tflow

from mitmproxy_x402.proxy import dispatch
from mitmproxy_x402.proxy.exchange import shallow_copy
from mitmproxy_x402.proxy.heads import header_index
from mitmproxy_x402.proxy.startup import fast_path
from mitmproxy_x402.proxy.startup.fast_path import PATCHES
from support.patience import eventually
from support.paying.spenders import sell
from support.proxy import Proxy
from support.running.masters import DumpMaster, Master, fast
from support.wire import Upstream, request

_THEIRS = {patch.name: getattr(patch.owner(), patch.attribute) for patch in PATCHES}
_IDS = [patch.name for patch in PATCHES]


def _now(patch: fast_path.Patch) -> Any:
    return inspect.getattr_static(patch.owner(), patch.attribute)


class TestComingAndGoing:
    def test_every_row_is_for_this_mitmproxy(self) -> None:
        """mitmproxy's functions read as they did when the rows were written; else write the rows anew."""
        assert {patch.name: fast_path.digest(patch) in patch.sources for patch in PATCHES} == dict.fromkeys(_IDS, True)

    def test_all_is_as_before_when_it_is_taken_back(self) -> None:
        before = [_now(patch) for patch in PATCHES]
        with fast():
            assert [_now(patch) for patch in PATCHES] == [patch.function for patch in PATCHES]
            assert fast_path.apply() == []  # as a script that is loaded again does
        assert [_now(patch) for patch in PATCHES] == before

    @pytest.mark.parametrize("patch", PATCHES, ids=_IDS)
    def test_what_somebody_else_has_replaced_is_left_alone(
        self, patch: fast_path.Patch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @functools.wraps(_THEIRS[patch.name])
        def another(*_: Any, **__: Any) -> None:
            raise AssertionError("not called here")

        monkeypatch.setattr(patch.owner(), patch.attribute, another)
        try:
            assert fast_path.apply() == [patch.name]
            assert _now(patch) is another
        finally:
            fast_path.undo(lambda call: call())
        assert _now(patch) is another

    def test_what_somebody_else_replaces_later_stays_and_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found: list[str] = []
        monkeypatch.setattr(http.Headers, "get_all", http.Headers.get_all)  # what it is set to at the end
        with fast():
            faster = http.Headers.get_all

            def noted(self: http.Headers, name: str) -> list[str]:
                found.append(name)
                return faster(self, name)

            http.Headers.get_all = noted  # type: ignore[method-assign, assignment]
            assert http.Headers(a="1").get_all("a") == ["1"]
        assert http.Headers.get_all is noted  # type: ignore[comparison-overlap]
        assert http.Headers(a="1").get_all("a") == ["1"]
        assert found == ["a", "a"]

    @pytest.mark.parametrize("moved", ["module", "class", "function", "source"])
    def test_without_a_row_that_mitmproxy_has_moved(self, moved: str, monkeypatch: pytest.MonkeyPatch) -> None:
        row = {
            "module": fast_path.Patch("mitmproxy.gone", "Headers.gone", None, frozenset(), ""),
            "class": fast_path.Patch("mitmproxy.http", "Gone.get_all", None, frozenset(), ""),
            "function": fast_path.Patch("mitmproxy.http", "Headers.gone", None, frozenset(), ""),
            "source": fast_path.Patch("mitmproxy.http", "Headers.get_all", None, frozenset(["another"]), ""),
        }[moved]
        monkeypatch.setattr(fast_path, "PATCHES", (row, PATCHES[0]))
        assert fast_path.apply() == [row.name]
        assert AddonManager.trigger_event is PATCHES[0].function
        fast_path.undo(lambda call: call())
        assert AddonManager.trigger_event is _THEIRS["AddonManager.trigger_event"]
        assert http.Headers.get_all is _THEIRS["Headers.get_all"]


@pytest.fixture
def master() -> Iterator[Master]:
    """One with the fast path; the rest of the tests shall not have it."""
    loop = asyncio.new_event_loop()
    made = DumpMaster(Options(), loop=loop, with_termlog=False)
    made._legacy_log_events._initiated_in_test = None  # mitmproxy's: it would be silent in the next phase of the test
    with fast():
        yield made
    made._legacy_log_events.uninstall()
    loop.close()


_names = st.sampled_from(["Set-Cookie", "set-cookie", "X-Über", "x", ""]) | st.text(max_size=5)
_values = st.binary(max_size=8)
_fields = st.lists(st.tuples(_names.map(lambda name: name.encode("utf-8", "surrogatepass")), _values), max_size=6)


@given(_fields, _names.filter(str.isascii), st.sampled_from(["set", "del", "insert", "fields", "list"]))
def test_headers_are_found_as_ever(fields: list[tuple[bytes, bytes]], name: str, change: str) -> None:
    """Also when they have been changed, in any of the ways there are."""
    headers = http.Headers(fields)
    with fast():
        for _ in range(2):
            for key in (name, name.upper(), name.encode(), "x"):
                assert headers.get_all(key) == _THEIRS["Headers.get_all"](headers, key)  # type: ignore[arg-type]
            if change == "set":
                headers[name] = "new"
            elif change == "del":
                headers.pop(name, None)
            elif change == "insert":
                headers.insert(0, name, "first")
            elif change == "fields":
                headers.fields = ((name.encode(), b"only"),)
            else:
                headers.fields = cast(Any, [*headers.fields, (name.encode(), b"later")])
                headers.fields.append((b"x", b"last"))  # type: ignore[attr-defined]
        assert headers.copy().fields == tuple(headers.fields)


def test_headers_in_use(master: Master) -> None:
    headers = http.Headers([(b"A", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert (headers["a"], headers.get_all("A"), headers.get("c"), "B" in headers) == ("1, 3", ["1", "3"], None, True)
    assert (headers.get("c", "none"), headers.get(b"B"), "c" in headers, b"a" in headers) == ("none", "2", False, True)
    headers["B"] = "4"
    del headers["a"]
    assert (headers["b"], headers.get("a"), dict(headers.copy())) == ("4", None, {"b": "4"})
    found = headers.get_all("b")
    found.append("mine")
    assert headers.get_all("b") == ["4"]
    missing = headers.get_all("a")
    missing.append("mine")
    assert headers.get_all("a") == []


def test_options_are_read_as_ever() -> None:
    kinds = {"flag": (bool, True), "text": (str, ""), "some": (Sequence[str], ["a"]), "maybe": (int | None, None)}
    changed = {"flag": False, "text": "x", "some": ["b"], "maybe": 3}
    found = []
    for faster in (fast(), contextlib.nullcontext()):
        with faster:
            options = OptManager()
            for name, (kind, default) in kinds.items():
                options.add_option(name, kind, default, "")
            for values in ({}, changed):
                options.update(**values)
                found.append({name: getattr(options, name) for name in kinds})
            options.some.append("mine")  # of a copy
            assert options.some == ["b"]
            options.reset()
            found.append({name: getattr(options, name) for name in kinds})
            with pytest.raises(AttributeError, match=r"^No such option: more$"):
                _ = options.more
            assert getattr(options, "more", 1) == 1
    assert found[0] == {name: default for name, (_, default) in kinds.items()}
    assert found[1] == changed
    assert found[:3] == found[3:]


def test_a_copy_is_a_copy() -> None:
    request = tflow.tflow().request
    ours, theirs = shallow_copy(request), copy.copy(request)
    assert type(ours) is type(theirs)
    assert vars(ours) == vars(theirs)
    assert vars(ours) is not vars(request)
    assert vars(shallow_copy(request.data)) == vars(request.data)


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def add_log(self, entry: LogEntry) -> None:
        self.heard.append(entry.msg)


def test_the_log_is_told_to_those_who_listen(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    log, listener = logging.getLogger("test_fast_path"), Listener()
    log.setLevel(logging.INFO)
    wakeups: list[object] = []
    schedule = master.event_loop.call_soon_threadsafe

    def noted(*given: Any, **more: Any) -> Any:
        wakeups.append(given)
        return schedule(*given, **more)

    monkeypatch.setattr(master.event_loop, "call_soon_threadsafe", noted)

    async def say(text: str, *, wakes: bool) -> None:
        wakeups.clear()
        log.info(text)
        assert bool(wakeups) == wakes
        await asyncio.sleep(0)

    async def all_day() -> None:
        await say("nobody listens", wakes=False)
        master.addons.add(listener)  # type: ignore[no-untyped-call]
        await say("from here", wakes=True)
        thread = threading.Thread(target=log.info, args=("from a thread",))
        thread.start()
        thread.join()
        await asyncio.sleep(0)
        master.addons.remove(listener)  # type: ignore[no-untyped-call]
        await say("nobody listens any more", wakes=False)

    master.event_loop.run_until_complete(all_day())
    heard = [line.partition("] ")[2] for line in listener.heard]
    assert [line for line in heard if line.startswith("from")] == ["from here", "from a thread"]


def test_heads_are_made_as_ever(master: Master) -> None:
    made = http.Request.make("GET", "http://127.0.0.1/", b"x", {"a": "1"})
    assert (made.method, made.raw_content, made.headers["a"]) == ("GET", b"x", "1")
    assert http.Request.from_state(made.get_state()).get_state() == made.get_state()


_WATCH = """
import json, pathlib, sys

called = set()

def note(frame, event, _):
    if event == "call":
        called.add(f"{frame.f_globals.get('__name__')}:{frame.f_code.co_name}")

def requestheaders(flow):
    sys.setprofile(note)

def response(flow):
    sys.setprofile(None)
    pathlib.Path("part").write_text(json.dumps(sorted(called)))
    pathlib.Path("part").rename("called")
"""


def test_a_paid_request_takes_it_from_end_to_end(home: Path) -> None:
    """Both legs, in a user's mitmdump: nothing that is loaded with the addon keeps mitmproxy's functions in use."""
    (home / "watch.py").write_text(_WATCH)
    with (
        Upstream(sell) as upstream,
        Proxy(upstream.url, "-s", "watch.py", home=home) as proxy,
        proxy.client() as client,
    ):
        assert client.ask(request("POST", "/v1/x", b"{}")).body == b"ok"
        eventually((home / "called").exists)
    called = set(json.loads((home / "called").read_text()))
    theirs = {f"{patch.module}:{patch.attribute}" for patch in PATCHES}
    assert (
        called & (theirs | {f"{AddonManager.__module__}:{name}" for name in ("invoke_addon", "_iter_hooks")}) == set()
    )
    assert called >= {f"{each.__module__}:{each.__name__}" for each in (header_index.get_all, dispatch.run_at_once)}
