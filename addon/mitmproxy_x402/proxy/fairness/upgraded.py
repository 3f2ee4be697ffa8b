"""Passes on what follows `101 Switching Protocols` in turns: WebSocket frames of two bytes take long to process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from typing import Any

from ..internals import (
    HttpStream,
    RequestData,
    RequestEndOfMessage,
    ResponseData,
    ResponseEndOfMessage,
    WebsocketConnection,
    WebsocketLayer,
    commands,
    events,
    layer,
)
from .reader import MOST, set_waiting
from .turns import LONG, TURNS

_DATA = (RequestData, ResponseData)
_READ = (*_DATA, RequestEndOfMessage, ResponseEndOfMessage)
_LEAST = 64
"""Fewest bytes that are processed at once: some twenty frames."""


MOST_FRAGMENTS = 100
"""Fragments of a message that are kept as they came; further ones are joined until they have `LEAST_JOINED` bytes."""
LEAST_JOINED = 16 << 10


class Fragments(list[bytearray]):
    """The fragments of a message so far. An intermediary may join them (RFC 6455, section 5.4).

    mitmproxy sends a message's fragments in one go when it is complete: 200,000 empty ones took seconds. The byte
    arrays, too, are for its sake: it adds to the last fragment with each piece that arrives.
    """

    def append(self, _: object) -> None:
        """Begin the next fragment, unless the last one is to be longer."""
        if len(self) < MOST_FRAGMENTS or len(self[-1]) >= LEAST_JOINED:
            super().append(bytearray())


class _Joining(WebsocketConnection):
    """mitmproxy's end of a WebSocket, which keeps no more fragments of a message than are worth it."""

    _fragments: Fragments

    @property
    def frame_buf(self) -> Any:
        """What mitmproxy adds to, and sets anew after each message."""
        return self._fragments

    @frame_buf.setter
    def frame_buf(self, _: Any) -> None:
        self._fragments = Fragments([bytearray()])


def _join_fragments(child: layer.Layer) -> None:
    """Have both ends of a WebSocket, whose layer has begun, join fragments."""
    for end in (vars(child).get("client_ws"), vars(child).get("server_ws")):
        if type(end) is WebsocketConnection:
            end.__class__ = _Joining
            end.frame_buf = []


class UpgradedInTurns(HttpStream):
    """mitmproxy's HTTP stream, which processes WebSocket frames for a few milliseconds, then lets others go on."""

    _left: deque[Any] | None = None
    """What was read and is not processed yet."""
    _turn: commands.RequestWakeup | None = None
    """The turn that is waited for."""
    _holds_back = False
    turn_ends = 0.0
    """When the current turn ends (monotonic clock)."""
    _piece = _LEAST
    """Bytes that are processed at once: twice as many as the last time, or half, depending on how long that took."""
    _joins = False
    """Whether the ends of the WebSocket, if it is one, join fragments."""
    _began: float | None = None
    """When the last piece was begun (processor time). A hook may lie between its begin and its end."""

    def passthrough(self, event: events.Event) -> Generator[commands.Command, Any, None]:
        """Handle an event after the upgrade."""
        if isinstance(event, events.Wakeup) and event.command is self._turn:
            self._turn, self.turn_ends = None, time.monotonic() + LONG
        elif isinstance(event, _READ):
            if self._left is None:
                self._left = deque()
            if not self._left:
                self.turn_ends = time.monotonic() + LONG
            if isinstance(event, _DATA):
                event.data = bytes(event.data)  # what came with the head is a bytearray, which `-w` cannot write
            self._left.append(event)
        else:
            yield from super().passthrough(event)
        if self._left is not None and self._turn is None:
            yield from self._process()

    def _process(self) -> Generator[commands.Command, Any, None]:
        assert self.child_layer is not None
        while True:
            if self.child_layer._paused is not None:  # mitmproxy would read on while a hook runs
                self._hold_back(waits=True)
                return
            if not self._joins:
                self._joins = True
                _join_fragments(self.child_layer)
            if self._began is not None:
                took, self._began = time.thread_time() - self._began, None
                self._piece = max(_LEAST, self._piece // 2) if took > LONG / 2 else min(MOST, self._piece * 2)
            if not self._left:
                self._hold_back(waits=False)
                return
            if time.monotonic() > self.turn_ends:
                self._turn = commands.RequestWakeup(TURNS.take())
                self._hold_back(waits=True)
                yield self._turn
                return
            self._began = time.thread_time()
            yield from super().passthrough(self._take(self._left))

    def _take(self, left: deque[Any]) -> events.Event:
        event: Any = left.popleft()
        most = self._piece if isinstance(self.child_layer, WebsocketLayer) else MOST
        if isinstance(event, _DATA) and len(event.data) > most:
            left.appendleft(type(event)(event.stream_id, event.data[most:]))
            event = type(event)(event.stream_id, event.data[:most])
        taken: events.Event = event
        return taken

    def _hold_back(self, *, waits: bool) -> None:
        """Read nothing more meanwhile; or go on reading."""
        if waits is self._holds_back:
            return
        self._holds_back = waits
        for connection in (self.context.client, self.context.server):
            set_waiting(connection, waits=waits)
