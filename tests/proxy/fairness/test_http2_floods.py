"""HTTP/2 peers that flood are told to calm down; what busy but honest ones do is let through."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h2.errors
import hpack
import pytest
from hyperframe import frame
from mitmproxy import http, options
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _events, _http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.test import tflow

from mitmproxy_x402.proxy.fairness import http2, turns
from mitmproxy_x402.proxy.fairness.http2 import ALLOWANCE, calm
from support.patience import eventually
from support.proxy import Proxy
from support.running import certs
from support.wire import TIMEOUT, Client, Upstream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame.SettingsFrame(0).serialize()
REQUEST = ((":method", "GET"), (":scheme", "https"), (":authority", "127.0.0.1"), (":path", "/v1/models"))


def headers(stream: int, *fields: tuple[str, str], ends: bool = True) -> bytes:
    block = hpack.Encoder().encode(fields, huffman=False)
    made = frame.HeadersFrame(stream, block, flags=["END_HEADERS"])
    if ends:
        made.flags.add("END_STREAM")
    return made.serialize()


def cancelled(stream: int) -> bytes:
    return headers(stream, *REQUEST) + frame.RstStreamFrame(stream, error_code=8).serialize()


def unknown(_: int) -> bytes:
    return b"\0\0\0\xbb\0" + bytes(4)


JUNK = {
    "ping": lambda _: frame.PingFrame(0, opaque_data=b"12345678").serialize(),
    "settings": lambda _: frame.SettingsFrame(0).serialize(),
    "priority": lambda n: frame.PriorityFrame(2 * n + 3, depends_on=0, stream_weight=1).serialize(),
    "window": lambda _: frame.WindowUpdateFrame(0, window_increment=1).serialize(),
    "unknown": unknown,
    "empty data": lambda _: frame.DataFrame(1).serialize(),
    "padding": lambda _: frame.DataFrame(1, flags=["PADDED"], pad_length=200).serialize(),
    "resets of one stream": lambda _: frame.RstStreamFrame(1, error_code=8).serialize(),
}
CLIENTS = {
    **JUNK,
    "data of a closed stream": lambda _: frame.DataFrame(3, b"x").serialize(),
    "rapid reset": lambda n: cancelled(2 * n + 3),
}
UPSTREAMS = {**JUNK, "interim": lambda _: headers(1, (":status", "103"), ends=False)}
for _kind in ("priority",):
    del UPSTREAMS[_kind]  # h2 calls each a fault where it is a client


class Side:
    """One of our HTTP/2 connections, without a network; `work` is what each of its events costs, in seconds."""

    def __init__(self, connection: Any, work: float = 0.0, clock: list[float] | None = None) -> None:
        self.layer, self.conn, self.work, self.clock = connection, connection.conn, work, clock
        calm(connection)
        self.sent, self.logged, self.received, self.waits = bytearray(), [], [], []
        self.closed = False
        self.give(events.Start())

    def give(self, event: events.Event) -> None:
        for command in self.layer.handle_event(event):
            if isinstance(command, commands.SendData):
                self.sent += command.data
            elif isinstance(command, commands.Log):
                self.logged.append(command.message)
            elif isinstance(command, ReceiveHttp):
                self.received.append(command.event)
                if self.clock is not None:
                    self.clock[0] += self.work
            elif isinstance(command, commands.CloseConnection):
                self.closed = True
            elif isinstance(command, commands.RequestWakeup):
                self.waits.append(command)

    def data(self, data: bytes) -> None:
        self.give(events.DataReceived(self.conn, data))

    def turn(self) -> None:
        self.give(events.Wakeup(self.waits.pop(0)))

    def all_turns(self) -> None:
        while self.waits:
            self.turn()

    def requests(self) -> int:
        return sum(isinstance(event, _events.RequestHeaders) for event in self.received)

    def frames(self) -> list[frame.Frame]:
        left, frames = memoryview(bytes(self.sent).removeprefix(PREFACE[:24])), []
        while left:
            found, length = frame.Frame.parse_frame_header(left[:9])
            found.parse_body(left[9 : 9 + length])
            left = left[9 + length :]
            frames.append(found)
        return frames

    def goaways(self) -> list[int]:
        return [each.error_code for each in self.frames() if isinstance(each, frame.GoAwayFrame)]


def context() -> Context:
    made = Context(tflow.tclient_conn(), options.Options())
    made.server = tflow.tserver_conn()
    made.options.add_option("validate_inbound_headers", bool, True, "")
    made.options.add_option("http2_ping_keepalive", int, 0, "")
    return made


def facing_client(**more: Any) -> Side:
    side = Side(_http2.Http2Server(context()), **more)
    side.data(PREFACE)
    return side


def facing_upstream() -> Side:
    side = Side(_http2.Http2Client(context()))
    side.data(frame.SettingsFrame(0).serialize())
    ask = http.Request.make("GET", "https://127.0.0.1/v1/models")
    side.give(_events.RequestHeaders(1, ask, end_stream=True))
    return side


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_that_floods_is_told_to_calm_down(kind: str) -> None:
    side = facing_client()
    side.data(headers(1, *REQUEST, ends=False))
    side.data(headers(3, *REQUEST))
    side.data(frame.RstStreamFrame(3, error_code=8).serialize())
    for n in range(2 * ALLOWANCE):
        side.data(CLIENTS[kind](n + 1))
        side.all_turns()
    assert side.closed
    assert set(side.goaways()) == {h2.errors.ErrorCodes.ENHANCE_YOUR_CALM}
    assert len(side.logged) <= 2
    assert "flood" in side.logged[-1]


@pytest.mark.parametrize("kind", UPSTREAMS)
def test_an_upstream_that_floods_is_told_to_calm_down(kind: str) -> None:
    side = facing_upstream()
    if "data" in kind or kind == "padding":
        side.data(headers(1, (":status", "200"), ends=False))
    for n in range(2 * ALLOWANCE):
        side.data(UPSTREAMS[kind](n))
        side.all_turns()
    assert side.closed
    assert set(side.goaways()) == {h2.errors.ErrorCodes.ENHANCE_YOUR_CALM}
    assert isinstance(side.received[-1], _events.ResponseProtocolError)  # its requests learn of it


def test_a_busy_client_is_no_flood() -> None:
    side = facing_client()
    for n in range(100):
        side.data(headers(2 * n + 1, *REQUEST))
        side.data(frame.RstStreamFrame(2 * n + 1, error_code=8).serialize())  # all that can be open at once
        side.all_turns()
    stream = 201
    side.data(headers(stream, *REQUEST))
    side.give(_events.ResponseHeaders(stream, http.Response.make(200), end_stream=False))
    for _ in range(2 * ALLOWANCE):
        side.give(_events.ResponseData(stream, b"data: word\n\n"))
        for kind in ("window", "window", "ping"):
            side.data(JUNK[kind](0))
            side.all_turns()
    assert not side.closed
    assert side.requests() == 101


def returns_all(side: Side, stream: int, parts: int = 1) -> int:
    """Returns the window of each DATA frame in so many parts, until none comes; the bytes of all of them."""
    sent = 0
    while lengths := [each.body_len for each in side.frames() if isinstance(each, frame.DataFrame)]:
        side.sent.clear()
        sent += sum(lengths)
        pieces = [*(n // parts for n in lengths for _ in range(parts)), *(n % parts for n in lengths)]
        made = [frame.WindowUpdateFrame(s, window_increment=n) for n in pieces if n for s in (0, stream)]
        side.data(b"".join(each.serialize() for each in made))
        side.all_turns()
    return sent


@pytest.mark.parametrize(
    ("window", "pieces"),
    [(1000, [bytes(700_000)]), (100, [bytes(100_000)]), (65_535, [b"x"] * 5000), (1000, [bytes(700)] * 1000)],
    ids=["small windows", "tiny windows", "pieces of a byte", "many pieces"],
)
def test_a_client_that_returns_what_it_has_read_is_no_flood(window: int, pieces: list[bytes]) -> None:
    """However late that is: everything that the window has room for is sent before it returns any of it."""
    side = facing_client()
    side.data(frame.SettingsFrame(0, settings={frame.SettingsFrame.INITIAL_WINDOW_SIZE: window}).serialize())
    side.data(headers(1, *REQUEST))
    side.all_turns()
    side.give(_events.ResponseHeaders(1, http.Response.make(200), end_stream=False))
    for piece in pieces:
        side.give(_events.ResponseData(1, piece))
    assert returns_all(side, 1) == sum(map(len, pieces))
    assert not side.closed


@pytest.mark.parametrize(("window", "parts"), [(1000, 1), (65_535, 1), (65_535, 8), (1 << 20, 8)])
def test_an_upstream_that_returns_what_it_has_read_is_no_flood(window: int, parts: int) -> None:
    """Servers of Go's return their window twice for each 4 KB that they have read."""
    side = facing_upstream()
    side.data(frame.SettingsFrame(0, settings={frame.SettingsFrame.INITIAL_WINDOW_SIZE: window}).serialize())
    ask = http.Request.make("POST", "https://127.0.0.1/v1/x")
    side.give(_events.RequestHeaders(3, ask, end_stream=False))
    whole = 1_000_000 if window == 1000 else 5_000_000
    side.give(_events.RequestData(3, bytes(whole)))
    assert returns_all(side, 3, parts) == whole
    assert not side.closed


def test_an_upstream_that_streams_bytes_is_no_flood() -> None:
    side = facing_upstream()
    side.data(headers(1, (":status", "200"), ends=False))
    for _ in range(5 * ALLOWANCE):
        side.data(frame.DataFrame(1, b"x").serialize())
        side.all_turns()
    assert not side.closed
    assert len(side.received) == 1 + 5 * ALLOWANCE


def answered(side: Side) -> bytes:
    """What of the answer's body has been passed on."""
    return b"".join(event.data for event in side.received if isinstance(event, _events.ResponseData))


def test_short_frames_in_a_row_are_passed_on_together() -> None:
    side = facing_upstream()
    frames = [frame.DataFrame(1, b"%07d" % number) for number in range(2000)]
    frames[-1].flags.add("END_STREAM")
    side.data(headers(1, (":status", "200"), ends=False) + b"".join(each.serialize() for each in frames))
    side.all_turns()
    assert answered(side) == b"".join(each.data for each in frames)
    assert isinstance(side.received[-1], _events.ResponseEndOfMessage)
    assert len(side.received) < 200


def test_frames_of_two_streams_stay_apart() -> None:
    side = facing_upstream()
    side.give(_events.RequestHeaders(3, http.Request.make("GET", "https://127.0.0.1/v1/x"), end_stream=True))
    begun = headers(1, (":status", "200"), ends=False) + headers(3, (":status", "200"), ends=False)
    pieces = b"".join(frame.DataFrame(stream, bytes((65 + stream,))).serialize() for stream in (1, 1, 3, 3, 3, 1))
    side.data(begun + pieces)
    side.all_turns()
    got = [(event.stream_id, event.data) for event in side.received if isinstance(event, _events.ResponseData)]
    assert got == [(1, b"BB"), (3, b"DDD"), (1, b"B")]


OVERLONG = {
    "a frame": b"\2\0\1\0\0\0\0\0\1only its beginning",
    "a page of HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("what", OVERLONG)
def test_an_upstream_that_begins_a_frame_longer_than_allowed_is_not_waited_for(what: str) -> None:
    side = facing_upstream()
    side.data(headers(1, (":status", "200"), ends=False) + frame.DataFrame(1, b"part").serialize() + OVERLONG[what])
    side.all_turns()
    assert side.closed
    assert answered(side) == b"part"
    assert isinstance(side.received[-1], _events.ResponseProtocolError)


def test_a_client_that_begins_a_frame_longer_than_allowed_is_closed() -> None:
    side = facing_client()
    side.data(OVERLONG["a frame"])
    assert side.closed


def test_a_frame_as_long_as_allowed_is_waited_for() -> None:
    side = facing_upstream()
    side.data(headers(1, (":status", "200"), ends=False) + b"\2\0\0\0\0\0\0\0\1only its beginning")
    side.all_turns()
    assert not side.closed


def test_a_client_that_uploads_bytes_is_no_flood() -> None:
    side = facing_client()
    side.data(headers(1, *REQUEST, ends=False))
    for _ in range(5 * ALLOWANCE):
        side.data(frame.DataFrame(1, b"x").serialize())
        side.all_turns()
    side.data(frame.DataFrame(1, b"", flags=["END_STREAM"]).serialize())
    assert not side.closed
    assert b"".join(e.data for e in side.received if isinstance(e, _events.RequestData)) == b"x" * 5 * ALLOWANCE
    assert isinstance(side.received[-1], _events.RequestEndOfMessage)


def test_an_upstream_of_several_streams_waits_until_the_client_has_room() -> None:
    async def run() -> None:
        side = facing_client()
        for stream in (1, 3, 5):
            side.data(headers(stream, *REQUEST))
            side.all_turns()
            side.give(_events.ResponseHeaders(stream, http.Response.make(200), end_stream=False))
            side.give(_events.ResponseData(stream, bytes(http2.MOST_SHARED)))
        waiting = [asyncio.ensure_future(side.layer.h2_conn.wait_for_room(stream)) for stream in (None, 1, 7)]
        await asyncio.sleep(0)
        assert [each.done() for each in waiting] == [False, False, True]
        side.data(b"".join(frame.WindowUpdateFrame(stream, window_increment=1 << 30).serialize() for stream in (0, 1)))
        side.all_turns()
        for _ in range(3):
            await asyncio.sleep(0)
        assert [each.done() for each in waiting] == [False, True, True]
        side.layer.h2_conn.reset_stream(3)
        await asyncio.wait_for(waiting[0], TIMEOUT)

    asyncio.run(run())


def test_what_is_used_up_comes_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(http2, "time", SimpleNamespace(monotonic=lambda: clock[0], thread_time=time.thread_time))
    side = facing_client()
    for _ in range(20):
        for _ in range(ALLOWANCE // 2):
            side.data(JUNK["ping"](0))
            side.all_turns()
        clock[0] += ALLOWANCE / 2 / http2.PER_SECOND
    assert not side.closed


def test_one_log_line_tells_of_all_unknown_frames() -> None:
    side = facing_client()
    for _ in range(100):
        side.data(unknown(0))
        side.all_turns()
    assert [line for line in side.logged if "unknown" in line] == side.logged
    assert len(side.logged) == 1


def test_requests_that_come_in_one_piece_are_taken_one_a_turn_if_they_are_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    now = SimpleNamespace(monotonic=lambda: clock[0], thread_time=lambda: clock[0])
    monkeypatch.setattr(http2, "time", now)
    monkeypatch.setattr(turns, "time", now)
    side = facing_client(work=2 * turns.LONG, clock=clock)
    side.data(b"".join(headers(2 * n + 1, *REQUEST) for n in range(50)))
    for n in range(50):
        assert side.requests() == n + 1
        side.all_turns() if n == 49 else _until_a_request(side)
    assert side.requests() == 50
    assert "x402_waiting" not in vars(side.conn)


@pytest.mark.parametrize("end", [frame.RstStreamFrame(1, error_code=8), frame.GoAwayFrame(0)])
@pytest.mark.parametrize("is_split", [False, True])
def test_what_is_cancelled_in_the_same_data_begins_nothing(end: frame.Frame, is_split: bool) -> None:
    side = facing_client()
    pieces = [headers(1, *REQUEST, ends=False), frame.DataFrame(1, b"x" * 100, flags=["END_STREAM"]).serialize()]
    for data in pieces[:1] if is_split else ():
        side.data(data)
    side.data(b"".join(pieces[is_split:]) + end.serialize())
    side.all_turns()
    kinds = [type(event) for event in side.received]
    assert kinds == ([_events.RequestHeaders, _events.RequestProtocolError] if is_split else [])


def test_the_end_of_a_connection_is_heard_of_though_nothing_can_be_sent() -> None:
    side = facing_client()
    side.data(headers(1, *REQUEST))
    vars(side.conn)["x402_transport"] = lambda: SimpleNamespace(is_closing=lambda: True)
    side.conn.state = ConnectionState.CLOSED
    side.give(events.ConnectionClosed(side.conn))
    assert isinstance(side.received[-1], _events.RequestProtocolError)


def _until_a_request(side: Side) -> None:
    before = side.requests()
    while side.requests() == before:
        side.turn()


def test_nothing_is_done_for_a_client_that_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(http2, "time", SimpleNamespace(monotonic=lambda: 0.0, thread_time=lambda: clock[0]))
    side = facing_client(work=2 * turns.LONG, clock=clock)
    side.data(b"".join(headers(2 * n + 1, *REQUEST) for n in range(50)))
    side.conn.state = ConnectionState.CLOSED
    side.give(events.ConnectionClosed(side.conn))
    side.all_turns()
    assert side.requests() == 1


def test_nothing_is_done_for_a_client_to_whom_nothing_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has sent is still in our buffers, and its end is behind that."""
    clock = [0.0]
    monkeypatch.setattr(http2, "time", SimpleNamespace(monotonic=lambda: 0.0, thread_time=lambda: clock[0]))
    side = facing_client(work=2 * turns.LONG, clock=clock)
    side.data(b"".join(headers(2 * n + 1, *REQUEST) for n in range(50)))
    vars(side.conn)["x402_transport"] = lambda: SimpleNamespace(is_closing=lambda: True)
    side.all_turns()
    assert side.requests() == 1
    assert "x402_waiting" not in vars(side.conn)  # the reader sees the end


def test_turns_do_not_coincide(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [7.0]
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    made = turns.Turns()
    assert [made.take() for _ in range(4)] == pytest.approx([2 * n * turns.LONG for n in range(4)])
    clock[0] += 1
    assert made.take(1.0) == 0  # nobody else has asked
    assert made.take() == pytest.approx(2)  # as long as others had nothing, and once more


def test_a_flood_through_the_proxy(home: Path) -> None:
    """It goes on until the proxy closes the connection, however fast either is."""
    closed = ": HTTP/2 connection closed for a flood"  # a flow that was under way says so, too, after an arrow
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, home=home) as proxy:
        for number, kind in enumerate(("rapid reset", "unknown", "ping")):
            with Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("h2")) as client:
                client.send(PREFACE)
                with contextlib.suppress(OSError):
                    for begin in range(0, 1_000_000, 100):
                        client.send(b"".join(CLIENTS[kind](n) for n in range(begin, begin + 100)))
            eventually(lambda number=number: proxy.log.count(closed) > number)
            with proxy.client() as other:
                assert b" 200 " in other.ask(b"GET /x402/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").start
        assert proxy.log.count("unknown types") == 1
        assert proxy.log.count(closed) == 3
