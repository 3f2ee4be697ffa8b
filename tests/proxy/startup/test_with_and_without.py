"""mitmproxy's own behaviours are the same with the fast path and without it: one day of a proxy, lived twice."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import challenges
from support.proxy import DOOR, Proxy
from support.wire import Peer, Upstream, read_message, request

SCRIPT = '''
import asyncio, logging
from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import AddonManager

NAME, VERSION = "{name}", 1

def note(what, flow=None):
    with open("notes.txt", "a") as notes:
        replayed = " replayed" if flow is not None and flow.is_replay else ""
        said = "" if flow is None or flow.response is None else f" {{flow.response.status_code}}"
        path = "" if flow is None else flow.request.path
        notes.write(f"{{NAME}}{{VERSION}} {{what}} {{path}}{{said}}{{replayed}}\\n")

class Guest:
    """Comes and goes while the proxy runs."""

    def request(self, flow):
        note("guest of request", flow)

    def response(self, flow):
        note("guest of response", flow)

guest = Guest()

def load(loader): note("load")
def running(): note("running")
def done(): note("done")

def requestheaders(flow):
    note("requestheaders", flow)
    if flow.request.path == "/raise/" + NAME:
        raise ValueError("raised on purpose")
    if flow.request.path == "/halt/" + NAME:
        raise exceptions.AddonHalt

{asynchronous}def request(flow):
    note("request", flow)
    path = flow.request.path
    if path == "/wait/" + NAME:
        {waits}
        note("has waited", flow)
    elif path == "/hold/" + NAME:
        flow.intercept()
        asyncio.get_running_loop().call_later(0.05, flow.resume)
    elif path == "/kill/" + NAME:
        flow.kill()
    elif path == "/answer/" + NAME:
        flow.response = http.Response.make(203, b"from " + NAME.encode(), {{"X-From": NAME}})
    elif path == "/guest/comes/" + NAME:
        ctx.master.addons.add(guest)
    elif path == "/guest/goes/" + NAME:
        ctx.master.addons.remove(guest)
    elif path == "/replay/" + NAME and not flow.is_replay:
        again = flow.copy()
        again.request.path += "/again"
        ctx.master.commands.call("replay.client", [again])
    elif path == "/stop":
        ctx.options.update(scripts=[each for each in ctx.options.scripts if "door" not in each])
    elif path == "/whose":
        flow.response = http.Response.make(200, AddonManager.trigger_event.__module__)

def responseheaders(flow):
    note("responseheaders", flow)
    if flow.request.path == "/upper/" + NAME:
        flow.response.stream = lambda data: data.upper()
    elif flow.request.path == "/whole/" + NAME:
        flow.response.stream = False

def response(flow):
    note("response", flow)
    flow.comment = NAME
    if flow.request.path.startswith("/log"):
        logging.info("a line of the log")

def error(flow):
    note(f"error {{flow.error.msg}}", flow)

def add_log(entry):
    if "a line of the log" in entry.msg:
        note("add_log")
'''


DOOR_TEXT = """
from pathlib import Path
from mitmproxy_x402.addon import X402Addon

with Path("notes.txt").open("a") as notes:
    notes.write("door {version}\\n")
addons = [X402Addon()]
"""
PATHS = (
    *("/free", "/paid", "/log", "/modified", "/mapped", "/paid/modified"),
    *(
        f"/{what}/{name}"
        for name in ("before", "behind")
        for what in ("wait", "hold", "kill", "answer", "raise", "halt", "upper", "whole", "paid/wait")
    ),
)


class Day:
    """A proxy with a script before ours and one behind it, and what becomes of requests."""

    def __init__(self, home: Path, proxy: Proxy) -> None:
        self.home, self._proxy = home, proxy
        self.seen: list[tuple[str, bytes, bytes]] = []

    def ask(self, path: str) -> bytes:
        """On a connection of its own, since some of them are cut."""
        head = body = b""
        with self._proxy.client() as client, contextlib.suppress(EOFError, ConnectionError):
            client.send(request("POST", path, b"hello world"))
            answer = read_message(client)
            head, body = answer.head, answer.body
        self.seen.append((path, head, body))
        return body

    @property
    def notes(self) -> list[str]:
        """What the scripts have written down."""
        return (self.home / "notes.txt").read_text().splitlines()

    def wait_for(self, line: str, times: int = 1) -> None:
        """Until that line has been written down so often."""
        until = time.monotonic() + 30
        while self.notes.count(line) < times:
            assert time.monotonic() < until, (line, self.notes)
            time.sleep(0.01)

    def edit(self, script: str, before: str, after: str, note: str) -> None:
        """Edit a script, and wait until mitmproxy has loaded it again, which writes `note` down."""
        file = self.home / script
        file.write_text(file.read_text().replace(before, after))
        later = file.stat().st_mtime + 5  # Python takes its compiled form for a file of the same second and length
        os.utime(file, (later, later))
        self.wait_for(note)


def upstream(peer: Peer, upstream: Upstream) -> None:
    """What begins with /paid costs something; all is answered in pieces, with what was asked."""
    while True:
        asked = upstream.read(peer)
        path = asked.start.split()[1]
        if path.startswith(b"/paid") and asked.get(b"payment-signature") is None:
            peer.send(challenges.answer(challenges.evm()))
            continue
        pieces = [path, b" got ", asked.body, b" added " + (asked.get(b"x-added") or b"nothing")]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Up: 1\r\n\r\n" + chunks + b"0\r\n\r\n")


@contextlib.contextmanager
def a_day(home: Path, *, fast: bool, waits: bool) -> Iterator[Day]:
    """With scripts whose hooks may have to be waited for, or not."""
    home.mkdir()
    for name in ("before", "behind"):
        how = (
            {"asynchronous": "async ", "waits": "await asyncio.sleep(0.01)"}
            if waits
            else {"asynchronous": "", "waits": "pass"}
        )
        (home / f"{name}.py").write_text(SCRIPT.format(name=name, **how))
    (home / "door.py").write_text(DOOR_TEXT.format(version=1))
    with Upstream(upstream) as here, Upstream(upstream) as elsewhere:
        proxy = Proxy(
            here.url,
            *("-s", str(home / "behind.py"), "--set", f"x402_fast_path={str(fast).lower()}"),
            *("--set", "modify_body=|~q & ~u modified|hello|good bye", "--set", "modify_headers=|~q|X-Added|yes"),
            *("--set", f"map_remote=|{here.url}/mapped|{elsewhere.url}/arrived"),
            home=home,
        )
        door = proxy.command.index(str(DOOR))
        proxy.command[door] = str(home / "door.py")
        proxy.command[door - 1 : door - 1] = ["-s", str(home / "before.py")]
        with proxy:
            yield Day(home, proxy)


def live(one: Day) -> list[bytes]:
    """Everything once. Gives whose way of calling hooks was in use: at first, after loading again, and at the end."""
    whose = [one.ask("/whose")]
    for path in PATHS:
        one.ask(path)
    one.wait_for("behind1 add_log ")
    for name in ("before", "behind"):
        for path in (f"/guest/comes/{name}", "/free", f"/guest/goes/{name}", "/free"):
            one.ask(path)
    one.ask("/replay/behind")
    one.wait_for("behind1 response /replay/behind/again 200 replayed")
    one.edit("before.py", '"before", 1', '"before", 2', "before2 running ")
    one.edit("behind.py", '"behind", 1', '"behind", 2', "behind2 running ")
    one.ask("/paid/after/all")
    one.edit("door.py", "door 1", "door 2", "door 2")
    one.ask("/paid/again")
    whose.append(one.ask("/whose"))
    one.ask("/stop")
    one.ask("/paid/for/nothing")
    whose.append(one.ask("/whose"))
    return whose


def by_request(notes: list[str]) -> dict[str, list[str]]:
    """What was written down of each: two that are under way at once come in any order."""
    found: dict[str, list[str]] = {}
    for note in notes:
        about = [word for word in note.split() if word.startswith("/") or word in ("replayed", "add_log")]
        found.setdefault(" ".join(about), []).append(note)
    return found


@pytest.mark.parametrize("waits", [False, True], ids=["plain hooks", "hooks that wait"])
def test_all_is_the_same(tmp_path: Path, waits: bool) -> None:
    lived = {}
    for fast in (False, True):
        with a_day(tmp_path / str(fast), fast=fast, waits=waits) as one:
            lived[fast] = live(one), [each for each in one.seen if each[0] != "/whose"], by_request(one.notes)
    (slow_whose, slow_seen, slow_notes), (fast_whose, fast_seen, fast_notes) = lived[False], lived[True]
    assert fast_seen == slow_seen
    assert fast_notes == slow_notes
    own, ours = b"mitmproxy.addonmanager", b"mitmproxy_x402.proxy.dispatch"
    assert (slow_whose, fast_whose) == ([own] * 3, [ours, ours, own])
    answers = {path: (head.split(b"\r\n")[0], body) for path, head, body in fast_seen}
    assert answers["/paid/modified"] == (b"HTTP/1.1 200 OK", b"/paid/modified got good bye world added yes")
    assert answers["/mapped"] == (b"HTTP/1.1 200 OK", b"/arrived got hello world added yes")
    assert answers["/kill/behind"] == (b"", b"")
    assert answers["/answer/before"] == (b"HTTP/1.1 203 Non-Authoritative Information", b"from before")
    assert answers["/upper/behind"][1] == b"/UPPER/BEHIND GOT HELLO WORLD ADDED YES"
    assert answers["/paid/again"][0] == b"HTTP/1.1 200 OK"
    assert answers["/paid/for/nothing"][0] == b"HTTP/1.1 402 Payment Required"


ANOTHER_WAY = """
from mitmproxy import http

theirs = http.Headers.get_all
http.Headers.get_all = lambda headers, name: theirs(headers, name)
"""


def test_what_another_script_does_its_own_way_is_left_alone(home: Path) -> None:
    (home / "before.py").write_text(ANOTHER_WAY)
    with Upstream(upstream) as here:
        proxy = Proxy(here.url, home=home)
        proxy.load_first(home / "before.py")
        with proxy, proxy.client() as client:
            proxy.wait_for(r"not replaced, since another addon or this mitmproxy has changed it: Headers\.get_all$")
            client.send(request("POST", "/paid", b"hello"))
            assert read_message(client).body == b"/paid got hello added nothing"
