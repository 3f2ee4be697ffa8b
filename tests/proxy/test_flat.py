"""The layer without nested generators does what mitmproxy's does, in its order, whatever its children do."""

import asyncio
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as mhttp
from mitmproxy.proxy.layers.http import HTTPMode, _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestData

from mitmproxy_x402.proxy import flat
from support.showing.console import Proxyserver, taddons


class Asked(commands.Command):
    """A command that waits for its reply."""

    blocking: Any = True

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(repr=False)
class Replied(events.CommandCompleted):
    """The reply to it."""

    command: Asked
    reply: Any


Script = dict[str, list[list[str]]]
"""What each child does at its first event, its second, and so on: `up` (to the stream), `down` (to the upstream),
`back` (to the client), `ask` (and wait), `wake` or `say`."""


class Child(layer.Layer):
    """Notes what happens to it, and does what its script says."""

    def __init__(self, context: Context, name: str, play: "Play") -> None:
        super().__init__(context)
        self.name, self.play = name, play

    def _handle_event(self, event: events.Event) -> Any:
        self.play.seen.append(f"{self.name} gets {_number(event)}")
        steps = self.play.script[self.name]
        for step in steps.pop(0) if steps else []:
            number = self.play.count()
            self.play.seen.append(f"{self.name}: {step} {number}")
            if step == "ask":
                reply = yield Asked(number)
                self.play.seen.append(f"{self.name} is told {reply}")
            else:
                yield self.play.command(step, number)
        self.play.seen.append(f"{self.name} is done")


def _number(event: events.Event) -> Any:
    return getattr(event, "data", type(event).__name__)


class Play:
    """Three children of an HTTP layer, `client`, `stream` and `server`, play a script; `seen` is what happened."""

    def __init__(self, script: Script, kind: type[mhttp.HttpLayer], options: Options) -> None:
        self.script = {name: [list(each) for each in does] for name, does in script.items()}
        self.seen: list[str] = []
        self._count = 0
        client = Client(peername=("client", 1), sockname=("", 2), state=ConnectionState.OPEN, timestamp_start=0.0)
        context = Context(client, options)
        self.server = Server(address=("localhost", 80))
        self.layer = kind(context, HTTPMode.transparent)
        self.layer.connections = {
            client: Child(context, "client", self),
            self.server: Child(context, "server", self),
        }
        self.layer.streams = {1: Child(context, "stream", self)}  # type: ignore[dict-item]
        self._waiting: list[Asked] = []

    def count(self) -> int:
        self._count += 1
        return self._count

    def command(self, step: str, number: int) -> commands.Command:
        event = RequestData(1, number)  # type: ignore[arg-type]  # only noted
        if step == "up":
            return ReceiveHttp(event)
        if step in ("down", "back"):
            return mhttp.SendHttp(event, self.server if step == "down" else self.layer.context.client)
        return commands.RequestWakeup(number) if step == "wake" else commands.Log(f"{number}")

    def run(self, replies: list[int]) -> list[str]:
        """Something comes from either side, and is answered; `replies` says which question next."""
        for connection in (self.layer.context.client, self.server, self.layer.context.client):
            self._happens(events.DataReceived(connection, b"read"))
        for which in replies:
            if self._waiting:
                asked = self._waiting.pop(which % len(self._waiting))
                self.seen.append(f"reply to {asked.number}")
                self._happens(Replied(asked, asked.number if which % 2 else None))
        return self.seen

    def _happens(self, event: events.Event) -> None:
        steps = self.layer.handle_event(event)
        if isinstance(self.layer, flat.FlatHttpLayer):
            steps = self.layer.flattened(self.layer._handle_event(event))
        for command in steps:
            self.seen.append(f"out: {getattr(command, 'number', None) or vars(command)}".split(", 'blocking'")[0])
            if isinstance(command, Asked):
                self._waiting.append(command)


async def _options() -> Options:
    with taddons.context(Proxyserver()) as loaded:
        return loaded.options


@pytest.fixture(scope="module")
def options() -> Options:
    return asyncio.run(_options())


_steps = st.lists(st.sampled_from(["up", "down", "back", "ask", "ask", "wake", "say"]), max_size=3)
_scripts = st.fixed_dictionaries({name: st.lists(_steps, max_size=5) for name in ("client", "stream", "server")})


@pytest.mark.parametrize("waits_here", [True, False])
@given(script=_scripts, replies=st.lists(st.integers(0, 5), max_size=8))
def test_all_happens_in_mitmproxy_s_order(
    options: Options, waits_here: bool, script: Script, replies: list[int]
) -> None:
    """Also where the waiting of a child is done by the loop, in place of `Layer.handle_event`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "FLAT", frozenset((Child,)) if waits_here else frozenset())
        ours = Play(script, flat.FlatHttpLayer, options).run(replies)
    assert ours == Play(script, mhttp.HttpLayer, options).run(replies)


_DONE_BY_US: dict[Any, str] = {
    layer.Layer.handle_event: "fd88b0fb09ce",
    vars(layer.Layer)["_Layer__continue"]: "1b275367b37b",
    vars(layer.Layer)["_Layer__process"]: "37153ddd561f",
    mhttp.HttpLayer.event_to_child: "1095f6e1581d",
    mhttp.HttpStream._handle_event: "e3cbfef7310a",
    _http1.Http1Connection._handle_event: "2ac8db3e43ae",
    _http1.Http1Connection.mark_done: "dc5ed395ce4f",
    _http1.Http1Server.mark_done: "94fd7ea388c8",
    _http1.Http1Client.send: "35d961e20d48",
    _http1.should_make_pipe: "a6c0dc00208d",
}
"""mitmproxy's functions by a hash of their sources."""


@pytest.mark.parametrize("function", _DONE_BY_US, ids=lambda function: function.__qualname__)
def test_what_is_done_in_mitmproxy_s_place_reads_as_it_did(function: Callable[..., Any]) -> None:
    """If not, look whether `flat` and `http1` still do the same, and write down the new hash."""
    source = inspect.getsource(inspect.unwrap(function))
    assert hashlib.sha256(source.encode()).hexdigest()[:12] == _DONE_BY_US[function]
