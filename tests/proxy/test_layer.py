"""Our HTTP layer between two connections of which only the bytes are there: as much arrives as by mitmproxy's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy import http
from mitmproxy.addonmanager import AddonManager
from mitmproxy.connection import Client, Connection, ConnectionState
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode
from mitmproxy.proxy.mode_specs import ReverseMode

from mitmproxy_x402.proxy.body_observers import tap
from mitmproxy_x402.proxy.exchange import exchange_of
from mitmproxy_x402.proxy.fairness.chunks import MAX_JOINED
from mitmproxy_x402.proxy.layer import install
from mitmproxy_x402.proxy.stream import X402Stream
from mitmproxy_x402.settings.timeouts import Timeouts
from support.running.masters import Master, fast
from support.running.versions import IS_12
from support.showing.console import Proxyserver, taddons

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"
TO_THE_END = b"HTTP/1.1 200 OK\r\n\r\n"
ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
ASKED_1_0 = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"


@dataclass
class Case:
    """An answer, in the reads in which it comes."""

    reads: list[bytes]
    stream: bool | Callable[[bytes], bytes] = True
    asked: bytes = ASKED
    keeps: bool = False
    """Whether mitmproxy is to store what it streams, which it can from 12 on."""
    observed: bool = False
    """Whether somebody looks on, as the recorder does."""
    late: bool = False
    """Whether the answer's hook is over only when all has been read."""


CASES = {
    "chunks": Case([CHUNKED, b"5\r\nhello\r\n", b"7\r\n, world\r\n", b"0\r\n\r\n"]),
    "cut": Case([CHUNKED, b"5\r\nhe", b"llo\r\n7\r", b"\n, world\r\n0\r\n\r\n"]),
    "several": Case([CHUNKED, b"5\r\nhello\r\n2\r\n, \r\n5\r\nworld\r\n0\r\n\r\n"]),
    "length": Case([LENGTH, b"hello", b", world"]),
    "to the end": Case([TO_THE_END, b"hello", b", world", b""]),
    "to the end, HTTP/1.0": Case([TO_THE_END, b"hello", b", world", b""], asked=ASKED_1_0),
    "with the head": Case([CHUNKED + b"5\r\nhello\r\n", b"7\r\n, world\r\n0\r\n\r\n"]),
    "paused": Case([CHUNKED, b"5\r\nhello\r\n", b"7\r\n, world\r\n0\r\n\r\n"], late=True),
    "changed": Case([CHUNKED, b"5\r\nhello\r\n", b"7\r\n, world\r\n0\r\n\r\n"], stream=bytes.upper),
    "observed": Case([CHUNKED, b"5\r\nhello\r\n", b"7\r\n, world\r\n0\r\n\r\n"], observed=True),
    "changed and observed": Case(
        [CHUNKED, b"5\r\nhello\r\n", b"7\r\n, world\r\n0\r\n\r\n"], stream=bytes.upper, observed=True
    ),
    "kept": Case([LENGTH, b"hello", b", world"], keeps=IS_12),
    "not streamed": Case([LENGTH, b"hello", b", world"], stream=False),
}


async def _options() -> Options:
    with taddons.context(Proxyserver()) as loaded:
        return loaded.options


class Driven:
    """An HTTP layer between two connections of which only the bytes are there: `ours`, or mitmproxy's."""

    def __init__(self, case: Case, *, ours: bool = True, addons: AddonManager | None = None) -> None:
        self.case = case
        self.written: list[bytes] = []
        """To the client, in the pieces in which it leaves."""
        self.asked: list[bytes] = []
        """Of the upstream, likewise."""
        self.observed: list[bytes] = []
        self.flow: http.HTTPFlow | None = None
        self._left: list[events.Event] = []
        client = Client(peername=("client", 1), sockname=("", 2), state=ConnectionState.OPEN, timestamp_start=0.0)
        self.context = Context(client, asyncio.run(_options()))
        if case.keeps:
            self.context.options.store_streamed_bodies = True
        self.server: Connection = self.context.server
        self.context.server.address = ("localhost", 80)
        client.proxy_mode = ReverseMode.parse("reverse:http://localhost:80")
        self.layer = HttpLayer(self.context, HTTPMode.transparent)
        if ours:
            next_layer = cast(Any, SimpleNamespace(context=self.context))
            install(next_layer, lambda _: None, Timeouts(60, 60, 60, 60), addons)

    def run(self) -> Driven:
        for number in range(len(self.case.reads) + 1):
            self.step(number)
        while self._left:
            self.happens(self._left.pop(0))
        return self

    def step(self, number: int) -> None:
        """The request comes, or one read of the answer."""
        if number == 0:
            self.happens(events.Start())
            self.happens(events.DataReceived(self.context.client, self.case.asked))
        elif self.case.reads[number - 1]:
            self.happens(events.DataReceived(self.server, self.case.reads[number - 1]))
        else:
            self.server.state = ConnectionState.CLOSED
            self.happens(events.ConnectionClosed(self.server))

    def happens(self, event: events.Event) -> None:
        for command in self.layer.handle_event(event):
            reply = self._reply(command)
            if reply is not None:
                self.happens(reply)

    def _reply(self, command: commands.Command) -> events.Event | None:
        if isinstance(command, commands.SendData) and command.connection is self.context.client:
            self.written.append(command.data)
        elif isinstance(command, commands.SendData):
            self.asked.append(command.data)
        elif isinstance(command, commands.OpenConnection):
            self.server = command.connection
            self.server.state = ConnectionState.OPEN
            return events.OpenConnectionCompleted(command, None)
        elif isinstance(command, commands.RequestWakeup) and command.delay < 1:  # a turn for others, on a busy machine
            self._left.append(events.Wakeup(command))
        elif isinstance(command, commands.StartHook):
            self.flow = getattr(command, "flow", self.flow)
            done = events.HookCompleted(command)
            if command.name == "responseheaders":
                assert self.flow is not None
                assert self.flow.response is not None
                self.flow.response.stream = self.case.stream
                if self.case.observed:
                    tap(self.flow, self.observed.append)
                if self.case.late:
                    self._left.append(done)
                    return None
            return done
        return None


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_are_those_of_mitmproxy_s_own_layer(name: str) -> None:
    case = CASES[name]
    ours, theirs = Driven(case).run(), Driven(case, ours=False).run()
    if name == "to the end":  # comes in chunks: else nobody could tell its end from being cut off
        head, _, body = b"".join(ours.written).partition(b"\r\n\r\n")
        assert head == TO_THE_END[:-4] + b"\r\ntransfer-encoding: chunked"
        assert body == b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
    else:
        assert b"".join(ours.written) == b"".join(theirs.written)
    assert b"world" in b"".join(ours.written).lower()
    assert ours.observed == theirs.observed == ([b"hello", b", world", b""] if case.observed else [])
    assert ours.flow is not None
    assert theirs.flow is not None
    assert ours.flow.response is not None
    assert theirs.flow.response is not None
    assert ours.flow.response.raw_content == theirs.flow.response.raw_content
    assert (ours.flow.error, theirs.flow.error) == (None, None)


@pytest.mark.parametrize("name", ["chunks", "length"])
def test_a_piece_leaves_as_it_comes(name: str) -> None:
    """With the read that brought it, and in one piece."""
    driven = Driven(CASES[name])
    seen = []
    for number in range(len(driven.case.reads) + 1):
        driven.written.clear()
        driven.step(number)
        seen.append(list(driven.written))
    assert all(len(pieces) <= 1 for pieces in seen)
    assert sum(b"hello" in b"".join(pieces) for pieces in seen) == 1


def test_bytes_that_come_straight_are_counted() -> None:
    flow = Driven(CASES["several"]).run().flow
    assert flow is not None
    exchange = exchange_of(flow)
    assert exchange is not None
    assert exchange.received == len("hello, world")


def test_a_leg_that_was_left_behind_reaches_nobody() -> None:
    driven = Driven(Case([CHUNKED, b"5\r\nhello\r\n"])).run()
    (stream,) = set(driven.layer.streams.values())
    assert isinstance(stream, X402Stream)
    stream.leg_id = -1
    before = len(driven.written)
    driven.happens(events.DataReceived(driven.server, b"7\r\n, world\r\n"))
    assert len(driven.written) == before


def _posted(body: bytes) -> list[bytes]:
    """In which pieces the upstream gets a request with that body, which has come in one read."""
    asked = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return Driven(Case([LENGTH, b"hello", b", world"], asked=asked)).run().asked


def test_a_request_s_head_leaves_with_its_body() -> None:
    (piece,) = _posted(b"some body")
    assert piece.endswith(b"\r\n\r\nsome body")


def test_a_long_body_is_not_copied_to_leave_with_its_head() -> None:
    head, body = _posted(bytes(MAX_JOINED))
    assert head.endswith(b"\r\n\r\n")
    assert body == bytes(MAX_JOINED)


def test_what_came_in_one_read_leaves_in_one_piece_and_before_the_last_hook() -> None:
    """Also a head with what follows it, where no hook has to be waited for."""
    rest, end = b"5\r\nhello\r\n7\r\n, world\r\n", b"0\r\n\r\n"
    loop = asyncio.new_event_loop()
    try:
        with fast():
            master = Master(Options(), event_loop=loop)
            master.addons.add(_Streaming())  # type: ignore[no-untyped-call]
            driven = Driven(Case([CHUNKED + rest + end]), addons=master.addons).run()
    finally:
        loop.close()
    assert driven.written == [CHUNKED + rest, end]


class _Streaming:
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = True
