"""What is left out of each request where the process is ours: nothing that anybody could notice but the time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import hooks, http, optmanager
from mitmproxy.log import AddLogHook, LogEntry
from mitmproxy.options import Options
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.test import tflow

from mitmproxy_x402 import handshake
from support.masters import DumpMaster, Master

_GET_ALL = http.Headers.get_all


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> Iterator[Master]:
    """One whose process is ours; the rest of the tests shall not be."""
    monkeypatch.setattr(http.Headers, "get_all", http.Headers.get_all)
    monkeypatch.setattr(http.MessageData, "__post_init__", http.MessageData.__post_init__)
    loop = asyncio.new_event_loop()
    made = DumpMaster(Options(), loop=loop, with_termlog=False)
    made._legacy_log_events._initiated_in_test = None  # it would be silent in the next phase of the test
    handshake.economise(made)
    yield made
    made._legacy_log_events.uninstall()
    loop.close()


def test_options_read_as_ever(master: Master) -> None:
    """Each of mitmproxy's own: equal to its default, changed to what it is set to, and nobody can change it unasked."""
    for name, option in master.options._options.items():
        assert getattr(master.options, name) == optmanager._Option.current(option), name
    assert master.options.mode == ["regular"]
    master.options.mode.append("socks5")
    assert master.options.mode == ["regular"]
    master.options.update(flow_detail=3, mode=["reverse:http://127.0.0.1:9"])
    assert (master.options.flow_detail, master.options.mode) == (3, ["reverse:http://127.0.0.1:9"])
    with pytest.raises(AttributeError):
        _ = master.options.no_such_option


_names = st.sampled_from(["Set-Cookie", "set-cookie", "X-Über", "x", ""]) | st.text(max_size=5)
_values = st.binary(max_size=8)


@given(st.lists(st.tuples(_names, _values), max_size=6), _names)
def test_headers_are_found_as_ever(fields: list[tuple[str, bytes]], name: str) -> None:
    headers = http.Headers([(key.encode("utf-8", "surrogatepass"), value) for key, value in fields])
    if name.isascii():
        assert handshake._get_all(headers, name) == _GET_ALL(headers, name)
        assert handshake._get_all(headers, name.encode()) == _GET_ALL(headers, name.encode())


def test_headers_in_use(master: Master) -> None:
    headers = http.Headers([(b"A", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert (headers["a"], headers.get_all("A"), headers.get("c"), "B" in headers) == ("1, 3", ["1", "3"], None, True)


def test_an_addon_with_nothing_to_replace_is_not_asked(master: Master) -> None:
    idle = {"MapLocal", "MapRemote", "ModifyBody", "ModifyHeaders", "Onboarding"}
    master.options.update(onboarding=False)

    def asked(event: hooks.Hook) -> set[str]:
        families: list[list[Any]] = master.addons._asked(event)  # type: ignore[attr-defined]
        return {type(hook.__self__).__name__ for family in families for hook in family} & idle

    request = HttpRequestHook(tflow.tflow())
    assert asked(request) == set()
    assert asked(hooks.ConfigureHook(set())) == idle
    master.options.update(onboarding=True)
    assert asked(request) == {"Onboarding"}
    master.options.update(onboarding=False)
    master.options.update(map_local=["|example.com|/"], modify_body=["/x/y"])
    assert asked(request) == {"MapLocal", "ModifyBody"}
    master.options.update(map_local=[], modify_body=[])
    assert asked(request) == set()


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def add_log(self, entry: LogEntry) -> None:
        self.heard.append(entry.msg)


def _turn(master: Master) -> None:
    master.event_loop.run_until_complete(asyncio.sleep(0))


def test_the_log_is_told_to_those_who_listen(master: Master) -> None:
    log = logging.getLogger("test_economies")
    log.setLevel(logging.INFO)
    log.info("nobody listens")
    assert not master.event_loop._ready  # type: ignore[attr-defined]
    listener = Listener()
    master.addons.add(listener)  # type: ignore[no-untyped-call]
    log.info("from here")
    _turn(master)
    thread = threading.Thread(target=log.info, args=("from a thread",))
    thread.start()
    thread.join()
    _turn(master)
    heard = [line.partition("] ")[2] for line in listener.heard]
    assert [line for line in heard if line.startswith("from")] == ["from here", "from a thread"]
    master.addons.remove(listener)  # type: ignore[no-untyped-call]
    log.info("nobody listens any more")
    assert not master.event_loop._ready  # type: ignore[attr-defined]
    assert AddLogHook.name == "add_log"


def test_heads_are_made_without_a_look_at_their_types(master: Master) -> None:
    assert http.Request.make("GET", "http://127.0.0.1/").method == "GET"
    assert http.MessageData.__post_init__.__module__ == handshake.__name__
