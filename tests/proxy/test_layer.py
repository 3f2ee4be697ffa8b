"""A piece of an answer goes straight to the client, with the same bytes as by mitmproxy's long way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from mitmproxy import http
from mitmproxy.connection import Client, Connection, ConnectionState
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HTTPMode, HttpStream
from mitmproxy.proxy.layers.http._events import ResponseData

from mitmproxy_x402.proxy.exchange import exchange_of
from mitmproxy_x402.proxy.layer import X402Layer
from mitmproxy_x402.proxy.stream import Steps, X402Stream
from mitmproxy_x402.settings.timeouts import Timeouts
from support.console import Proxyserver, taddons
from support.versions import IS_12

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"
TO_THE_END = b"HTTP/1.1 200 OK\r\n\r\n"
ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
ASKED_1_0 = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"


@dataclass
class Case:
    """An answer, and how many of its pieces take the long way."""

    reads: list[bytes]
    long: int = 0
    stream: bool | Callable[[bytes], bytes] = True
    asked: bytes = ASKED
    keeps: bool = False
    """Whether mitmproxy is to store what it streams, which it can from 12 on."""
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
    "paused": Case([CHUNKED, b"5\r\nhello\r\n", b"7\r\n, world\r\n0\r\n\r\n"], long=2, late=True),
    "changed": Case([CHUNKED, b"5\r\nhello\r\n", b"7\r\n, world\r\n0\r\n\r\n"], long=2, stream=bytes.upper),
    "kept": Case([LENGTH, b"hello", b", world"], long=2 if IS_12 else 0, keeps=IS_12),
    "not streamed": Case([LENGTH, b"hello", b", world"], stream=False),
}


async def _options() -> Options:
    with taddons.context(Proxyserver()) as loaded:
        return loaded.options


class Driven:
    """An HTTP layer of ours between two connections of which only the bytes are there."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.written: list[bytes] = []
        """To the client, in the pieces in which it leaves."""
        self.flow: http.HTTPFlow | None = None
        self._left: list[events.Event] = []
        client = Client(peername=("client", 1), sockname=("", 2), state=ConnectionState.OPEN, timestamp_start=0.0)
        self.context = Context(client, asyncio.run(_options()))
        if case.keeps:
            self.context.options.store_streamed_bodies = True
        self.server: Connection = self.context.server
        self.context.server.address = ("localhost", 80)
        self.layer = X402Layer(self.context, HTTPMode.transparent)
        self.layer.timeouts, self.layer._alarm, self.layer.addons = Timeouts(60, 60, 60, 60), None, None

    def run(self) -> Driven:
        self._happens(events.Start())
        self._happens(events.DataReceived(self.context.client, self.case.asked))
        for data in self.case.reads:
            if data:
                self._happens(events.DataReceived(self.server, data))
            else:
                self.server.state = ConnectionState.CLOSED
                self._happens(events.ConnectionClosed(self.server))
        while self._left:
            self._happens(self._left.pop(0))
        return self

    def _happens(self, event: events.Event) -> None:
        for command in self.layer.handle_event(event):
            reply = self._reply(command)
            if reply is not None:
                self._happens(reply)

    def _reply(self, command: commands.Command) -> events.Event | None:
        if isinstance(command, commands.SendData) and command.connection is self.context.client:
            self.written.append(command.data)
        elif isinstance(command, commands.OpenConnection):
            self.server = command.connection
            self.server.state = ConnectionState.OPEN
            return events.OpenConnectionCompleted(command, None)
        elif isinstance(command, commands.StartHook):
            self.flow = getattr(command, "flow", self.flow)
            done = events.HookCompleted(command)
            if command.name == "responseheaders":
                assert self.flow is not None
                assert self.flow.response is not None
                self.flow.response.stream = self.case.stream
                if self.case.late:
                    self._left.append(done)
                    return None
            return done
        return None


@pytest.fixture
def long_ways(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pieces of bodies that mitmproxy's own stream has been given."""
    given: list[bytes] = []
    own = HttpStream.state_stream_response_body

    def state_stream_response_body(self: HttpStream, event: events.Event) -> Steps:
        if isinstance(event, ResponseData):
            given.append(event.data)
        yield from own(self, event)

    monkeypatch.setattr(HttpStream, "state_stream_response_body", state_stream_response_body)
    return given


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_are_those_of_the_long_way(
    name: str, long_ways: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    straight = Driven(case).run()
    assert len(long_ways) == case.long
    monkeypatch.setattr(X402Stream, "pass_on", lambda *_: None)
    long = Driven(case).run()
    assert straight.written == long.written
    body = b"".join(straight.written).partition(b"\r\n\r\n")[2]
    assert b"world" in body.lower()
    assert straight.flow is not None
    assert long.flow is not None
    assert straight.flow.response is not None
    assert long.flow.response is not None
    assert straight.flow.response.raw_content == long.flow.response.raw_content
    assert (straight.flow.error, long.flow.error) == (None, None)


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
    driven._happens(events.DataReceived(driven.server, b"7\r\n, world\r\n"))
    assert len(driven.written) == before
