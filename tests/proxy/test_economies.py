"""What is left out of each request where the process is ours: nothing that anybody could notice but the time."""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import hooks, http, optmanager
from mitmproxy.log import AddLogHook, LogEntry
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpErrorHook, HttpRequestHook, HttpResponseHook
from mitmproxy.proxy.layers.websocket import WebsocketEndHook, WebsocketMessageHook
from mitmproxy.test import tflow

from mitmproxy_x402.deferred import DELAY, LATE, MOST
from mitmproxy_x402.proxy import fast_path
from mitmproxy_x402.proxy import header_index as heads
from mitmproxy_x402.proxy.exchange import shallow_copy
from mitmproxy_x402.proxy.fast_path import CHEAPER, _fork, economise
from mitmproxy_x402.proxy.self_check import self_check
from support.masters import DumpMaster, Master, lend

_OURS = {(owner, name): getattr(ours, "__func__", ours) for owner, name, ours in CHEAPER}
_THEIRS = {(owner, name): getattr(owner, name) for owner, name, _ in CHEAPER}


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> Iterator[Master]:
    """One whose process is ours; the rest of the tests shall not be."""
    lend(monkeypatch)
    loop = asyncio.new_event_loop()
    made = DumpMaster(Options(), loop=loop, with_termlog=False)
    made._legacy_log_events._initiated_in_test = None  # it would be silent in the next phase of the test
    economise(made)
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
_fields = st.lists(st.tuples(_names.map(lambda name: name.encode("utf-8", "surrogatepass")), _values), max_size=6)


def _looked_up(headers: http.Headers, name: str) -> dict[str, tuple[object, object]]:
    """What our look-ups find beside what mitmproxy's own do."""
    return {
        how: (_OURS[http.Headers, how](headers, name), _THEIRS[http.Headers, how](headers, name))
        for how in ("get_all", "get", "__contains__")
    }


@given(_fields, _names.filter(str.isascii), st.sampled_from(["set", "del", "insert", "fields", "list"]))
def test_headers_are_found_as_ever(fields: list[tuple[bytes, bytes]], name: str, change: str) -> None:
    """Also when they have been changed, in any of the ways there are."""
    headers = http.Headers(fields)
    for _ in range(2):
        for key in (name, name.upper(), "x"):
            for ours, theirs in _looked_up(headers, key).values():
                assert ours == theirs
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


@given(_fields)
def test_headers_are_made_as_ever(fields: list[tuple[bytes, bytes]]) -> None:
    for given_ in (fields, tuple(fields), [list(field) for field in fields], iter(fields)):
        ours, theirs = http.Headers.__new__(http.Headers), http.Headers(fields)
        _OURS[http.Headers, "__init__"](ours, given_)
        assert (ours.fields, type(ours.fields)) == (theirs.fields, tuple)
    ours, theirs = http.Headers.__new__(http.Headers), http.Headers(fields, content_type="x")
    _OURS[http.Headers, "__init__"](ours, fields, content_type="x")
    assert ours.fields == theirs.fields
    for wrong in ([("a", b"b")], [(b"a", "b")], [(b"a", None)]):
        with pytest.raises(TypeError, match="must be bytes"):
            _OURS[http.Headers, "__init__"](ours, wrong)


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


def test_a_script_that_is_loaded_again_finds_everything_in_place(master: Master) -> None:
    assert http.Headers.get is heads.get  # type: ignore[comparison-overlap]
    self_check()
    economise(master)
    self_check()


def test_contexts_fork_as_ever(master: Master) -> None:
    context = Context(tflow.tclient_conn(), master.options)
    context.layers.append(cast(Any, "a layer"))
    theirs, ours = _THEIRS[Context, "fork"](context), context.fork()
    assert type(ours) is Context
    assert vars(ours) == vars(theirs)
    assert ours.layers is not context.layers
    assert context.fork.__func__ is _fork  # type: ignore[attr-defined]


def test_hooks_and_their_ends_are_made_as_ever(master: Master) -> None:
    flow = tflow.tflow()
    hook = HttpRequestHook(flow)
    assert (hook.flow, hook.args(), hook.name, hook.blocking) == (flow, [flow], "request", True)
    ended = events.HookCompleted(hook)
    assert (ended.command, ended.reply) == (hook, None)
    answered = events.OpenConnectionCompleted(commands.OpenConnection(flow.server_conn), "refused")
    assert answered.reply == "refused"


def test_a_copy_is_a_copy() -> None:
    request = tflow.tflow().request
    ours, theirs = shallow_copy(request), copy.copy(request)
    assert type(ours) is type(theirs)
    assert vars(ours) == vars(theirs)
    assert vars(ours) is not vars(request)
    assert vars(shallow_copy(request.data)) == vars(request.data)


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
    assert http.MessageData.__post_init__.__module__ == fast_path.__name__


class Terminal:
    """What mitmdump shows. With `late` as where the process is ours; there no time passes but when it is asked to."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *, late: bool, **options: Any) -> None:
        self._capsys = capsys
        self._loop = asyncio.new_event_loop()
        self.calls: list[tuple[float, Callable[[], object]]] = []
        self.master = DumpMaster(Options(), loop=self._loop)
        self.master.options.update(**options)
        if late:
            self._loop.call_later = lambda *call: self.calls.append(call)  # type: ignore[assignment, arg-type, method-assign, return-value]
            economise(self.master)

    def happens(self, *given: hooks.Hook | str) -> str:
        """What is shown when all that has happened, log lines among it."""
        for each in given:
            if isinstance(each, str):
                logging.getLogger("test_economies").warning(each)
            else:
                self._loop.run_until_complete(self.master.addons.trigger_event(each))
        return self.shown()

    def shown(self) -> str:
        """What has been shown since."""
        return re.sub(r"\[[\d-]* ?\d\d:\d\d:\d\d\.\d+\]", "[now]", self._capsys.readouterr().out)

    def pass_by(self) -> None:
        while self.calls:
            self.calls.pop(0)[1]()

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.run_until_complete(self.master.done())
            self._loop.close()


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Open]:
    lend(monkeypatch)
    opened: list[Terminal] = []

    def terminal(*, late: bool = True, **options: Any) -> Terminal:
        opened.append(Terminal(capsys, late=late, **options))
        return opened[-1]

    yield terminal
    for each in opened:
        each.close()


def _answered(path: str = "/v1") -> HttpResponseHook:
    flow = tflow.tflow(resp=True)
    flow.request.path = path
    return HttpResponseHook(flow)


def _a_day() -> list[hooks.Hook | str]:
    """Of everything that is shown, answers among it."""
    chat, failed = tflow.twebsocketflow(), tflow.tflow(err=True)
    return [
        *(_answered("/a"), _answered("/b"), "a line of the log", _answered("/c"), HttpErrorHook(failed)),
        *(_answered("/d"), WebsocketMessageHook(chat), _answered("/e"), WebsocketEndHook(chat), _answered("/f")),
        hooks.DoneHook(),
        _answered("/after the end"),
    ]


@pytest.mark.parametrize("detail", [0, 1, 2, 3])
def test_flows_are_shown_as_ever(terminal: Open, detail: int) -> None:
    """Every line, and in its order among the others."""
    day = _a_day()
    theirs = terminal(late=False, flow_detail=detail)
    expected = theirs.happens(*day)
    theirs.close()
    assert terminal(flow_detail=detail).happens(*day) == expected
    assert expected.count("GET http") == (0 if detail == 0 else 8)


def test_lines_for_flows_wait_for_each_other(terminal: Open) -> None:
    late = terminal()
    assert late.happens(_answered("/a"), _answered("/b")) == ""
    assert [seconds for seconds, _ in late.calls] == [DELAY / 2]
    late.pass_by()
    assert re.findall(":22(/.*)", late.shown()) == ["/a", "/b"]


def test_lines_for_flows_are_not_all_written_in_one_go(terminal: Open) -> None:
    late = terminal()
    assert late.happens(*(_answered() for _ in range(2 * MOST + 1))) == ""
    for lines in (MOST, MOST, 1):
        late.calls.pop(0)[1]()
        assert late.shown().count("GET") == lines
    assert late.calls == []


def test_what_is_shown_in_more_detail_is_shown_at_once(terminal: Open) -> None:
    assert "header: qvalue" in terminal(flow_detail=2).happens(_answered())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what mitmproxy reads the filter with
def test_a_filter_is_asked_when_the_answer_is_there(terminal: Open) -> None:
    late = terminal(dumper_filter="~comment paid")
    paid, unpaid = _answered("/paid"), _answered("/unpaid")
    paid.flow.comment = "paid"
    late.happens(paid, unpaid)
    paid.flow.comment, unpaid.flow.comment = "", "paid"
    late.pass_by()
    assert re.findall(":22(/.*)", late.shown()) == ["/paid"]


def test_a_flow_that_cannot_be_shown_hides_no_other(terminal: Open) -> None:
    late = terminal()
    bad = _answered("/bad")
    bad.flow.request.data.method = None  # type: ignore[assignment]
    late.happens(_answered("/a"), bad, _answered("/b"))
    late.pass_by()
    assert re.findall(":22(/.*)|Addon (error)", late.shown()) == [("/a", ""), ("", "error"), ("/b", "")]


def test_a_late_line_waits_for_no_flow(terminal: Open) -> None:
    late = terminal()
    late.happens(_answered("/a"))
    logging.getLogger("test_economies").warning("paid", extra={LATE: True})
    assert re.findall("GET|paid", late.shown()) == ["paid"]


def test_another_thread_s_line_does_not_write_flows_there(terminal: Open) -> None:
    late = terminal()
    late.happens(_answered("/a"))
    thread = threading.Thread(target=logging.getLogger("test_economies").warning, args=("from a thread",))
    thread.start()
    thread.join()
    assert "GET" not in late.shown()
    late.pass_by()
    assert "GET" in late.shown()
