"""mitmproxy's HTTP layer with our streams: time-outs, joined writes, hooks called at once; and its installation."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, cast

from mitmproxy import http
from mitmproxy.connection import Connection, ConnectionState, Server

from ..settings.timeouts import Timeouts
from .arrival import AtOnce, Steps
from .dispatch import finish, is_begun, run_at_once
from .exchange import X402LeavingHook, shallow_copy
from .fairness.chunks import MAX_JOINED
from .fairness.http2 import Http2Client, calm
from .fairness.http3 import bound
from .fairness.reader import LEAST, worked
from .flat import FlatHttpLayer
from .http1 import Http1Client, Http1Server, join
from .internals import (
    AddonManager,
    HttpClient,
    HttpLayer,
    ReverseMode,
    _http1,
    _http2,
    _http3,
    commands,
    events,
    layer,
)
from .repairs import http3, tls
from .repairs.failures import disconnect, lost
from .repairs.http3 import Http3Client
from .stream import X402Stream
from .veil import without_quotes

_LEAST_WAIT = 0.01
"""Seconds between two looks for what has timed out."""
_tasks: set[asyncio.Task[None]] = set()
"""The tasks that are running: the event loop itself keeps weak references only."""


class X402Layer(FlatHttpLayer):
    """mitmproxy's HTTP layer with our streams, and one timer for all streams that wait for their upstream."""

    timeouts: Timeouts
    at_once: AtOnce | None = None
    addons: AddonManager | None
    """The addons whose hooks are called without a task where possible; None: mitmproxy calls them all."""
    _alarm: commands.RequestWakeup | None

    def make_stream(self, stream_id: int) -> Steps:
        """Make an `X402Stream`, where mitmproxy makes an HttpStream."""
        self._forget_closed()
        context = shallow_copy(self.context)  # its `fork` makes a connection, and throws it away
        context.layers = self.context.layers.copy()
        self.streams[stream_id] = X402Stream(context, stream_id, self.timeouts, self.at_once)
        yield from self.event_to_child(self.streams[stream_id], events.Start())

    def ready_connection(self, flow: http.HTTPFlow) -> Connection | None:
        """The connection that `get_connection` would give to `flow` at once. None: it has to be asked."""
        if self.context.client.alpn == b"h2":  # may need a connection for each request
            return None
        request, preset = flow.request, flow.server_conn
        for each in self.connections:
            if (
                isinstance(each, Server)
                and each.address == (request.host, request.port)
                and each.tls == (request.scheme == "https")
                and each.via == preset.via
                and each.transport_protocol == preset.transport_protocol
            ):
                is_ready = each.connected and not each.error and each not in self.waiting_for_establishment
                return each if is_ready and type(self.connections[each].context.layers[-1]) is Http1Client else None
        return None

    def repair(self, connection: Connection) -> None:
        """Replace mitmproxy's HTTP/1.1 client of an upstream `connection` by our `Http1Client`."""
        context = self.connections[connection].context
        client = context.layers[-1]
        if type(client) is _http1.Http1Client:
            tls.repair(context)
            client.__class__ = Http1Client
            cast(Http1Client, client).streams = self.streams
            if getattr(client.state, "__func__", None) is _http1.Http1Client.read_headers:
                client.state = client.read_headers
            if type(self.connections[connection]) is HttpClient:  # which only passes events on to it by now
                self.connections[connection] = client
        elif type(client) is _http2.Http2Client:
            tls.repair(context)
            calm(client)
        elif type(client) is _http3.Http3Client:
            http3.repair(client)

    def has_begun(self, stream: X402Stream) -> bool:
        """Whether the upstream of `stream` may have begun to answer its current leg."""
        upstream = self.connections.get(stream.context.server)
        client: Any = None if upstream is None else upstream.context.layers[-1]
        return not isinstance(client, Http1Client | Http2Client | Http3Client) or client.has_begun(stream.leg_id)

    def _repair_client(self) -> None:
        """Replace mitmproxy's HTTP/1.1 server, which faces the client, by our `Http1Server`."""
        server = self.connections[self.context.client]
        if type(server) is _http1.Http1Server:
            server.__class__ = Http1Server
            server.state = cast(Http1Server, server).read_headers
        elif type(server) is _http2.Http2Server:
            calm(server)
        elif type(server) is _http3.Http3Server:
            bound(self.context)

    def handle_event(self, event: events.Event) -> Steps:
        """Handle an event; this layer itself never waits for a reply."""
        return self._handle_event(event) if self.debug is None else super().handle_event(event)

    def _handle_event(self, event: events.Event) -> Steps:
        read = event.connection if isinstance(event, events.DataReceived) and len(event.data) > LEAST else None
        began = 0.0 if read is None else time.thread_time()
        if isinstance(event, events.Wakeup) and event.command is self._alarm:
            self._alarm = None
            yield from self.flattened(self._cut_overdue())
        elif isinstance(event, events.ConnectionClosed) and self._is_forgotten(event.connection):
            return
        else:
            yield from self._go_on(event)
            if isinstance(event, events.Start):
                self._repair_client()
        if self._alarm is None and self.streams:
            now = time.monotonic()
            nearest = min((each.deadline for each in self._own_streams() if not each.exchange.timed_out), default=inf)
            # A wait that begins later cannot end before the shortest time-out from now.
            self._alarm = commands.RequestWakeup(min(max(nearest - now, _LEAST_WAIT), self.timeouts.shortest))
            yield self._alarm
        if read is not None:
            worked(read, began)

    def _go_on(self, event: events.Event) -> Steps:
        """Handle an event as mitmproxy does, with fewer writes and fewer tasks.

        Consecutive writes to one connection are joined, such as a head and its body: one system call instead of two.
        Nothing is held back for later events, and data is written as soon as there is as much of it as came in.

        Hooks that await nothing are called here. What follows a hook is handled after everything else that the event
        caused, which is mitmproxy's own order.
        """
        todo: deque[Iterator[commands.Command]] = deque((super()._handle_event(event),))
        held: commands.SendData | None = None
        whole = len(event.data) if isinstance(event, events.DataReceived) else MAX_JOINED
        while todo:
            for command in self.flattened(todo.popleft()):
                if held is not None and not join(held, command):
                    yield held
                    held = None
                if held is None and isinstance(command, commands.SendData):
                    held = command
                if held is not None:
                    if len(held.data) >= whole:
                        yield held
                        held = None
                    continue
                hook = command if isinstance(command, commands.StartHook) else None
                if hook is not None and self.addons is not None and run_at_once(self.addons, hook):
                    todo.append(self.after_hook(hook))
                    continue
                if isinstance(hook, X402LeavingHook) and self._is_finished_apart(hook):
                    continue
                if isinstance(command, commands.Log):
                    command.message = without_quotes(command.message)
                yield command
        if held is not None:
            yield held

    def _is_finished_apart(self, hook: X402LeavingHook) -> bool:
        """Whether a hook that waits for the ledger is finished without mitmproxy's task, which costs more."""
        proxyserver: Any = None if self.addons is None else self.addons.get("proxyserver")
        handler = None if proxyserver is None else proxyserver.connections.get(self.context.client.id)
        if handler is None or self.addons is None or not is_begun(hook):
            return False
        task = asyncio.get_running_loop().create_task(finish(self.addons, hook, handler.server_event))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        return True

    def _forget_closed(self) -> None:
        """Forget upstream connections that are closed; mitmproxy keeps them until the client's connection ends.

        mitmproxy would also reuse the failure of a connection that could not be made for all later requests.
        """
        for connection in self.connections:
            if connection.state is ConnectionState.CLOSED:
                break
        else:
            return
        needed = {self.context.client, self.context.server, *self.waiting_for_establishment}
        needed |= {each.context.server for each in self.streams.values()}
        for connection in set(self.connections) - needed:
            if connection.state is ConnectionState.CLOSED:
                del self.connections[connection]

    def _is_forgotten(self, connection: Connection) -> bool:
        return connection is not self.context.server and connection not in self.connections

    def _own_streams(self) -> list[X402Stream]:
        return [each for each in self.streams.values() if isinstance(each, X402Stream)]

    def _cut_overdue(self) -> Steps:
        """Close the upstream connection of each stream that has timed out; the stream sees a lost upstream."""
        now = time.monotonic()
        for stream in self._own_streams():
            if stream.deadline > now or stream.exchange.timed_out:
                continue
            connection = self._upstream_of(stream)
            is_made = stream.waits_for != "connect"
            if connection is None and not is_made:
                continue
            stream.exchange.timed_out = reason = stream.overdue()
            is_closed = is_made and (connection is None or not connection.state & ConnectionState.CAN_READ)
            if connection is not None and not (is_closed and connection.state is ConnectionState.CLOSED):
                yield from disconnect(self, stream, connection, reason)
            if is_closed:  # mitmproxy tells of it once
                yield from self.event_to_child(stream, lost(stream, reason))

    def _upstream_of(self, stream: X402Stream) -> Connection | None:
        """The connection that `stream` waits for, or uses."""
        if stream.waits_for != "connect":
            return stream.context.server if stream.context.server in self.connections else None
        for connection, waiting in self.waiting_for_establishment.items():
            if any(self.command_sources.get(command) is stream for command in waiting):
                return connection
        return None


def install(
    next_layer: layer.NextLayer,
    decide: Callable[[layer.NextLayer], None],
    timeouts: Timeouts,
    addons: AddonManager | None = None,
    at_once: AtOnce | None = None,
) -> None:
    """Make the HTTP layers of a reverse-proxied connection build our streams; `decide` is mitmproxy's own next_layer.

    Client replay does not come through here, so a replayed flow never pays.
    """
    decide(next_layer)
    if not isinstance(next_layer.context.client.proxy_mode, ReverseMode):
        return
    tls.repair(next_layer.context)
    for each in next_layer.context.layers:
        if type(each) is HttpLayer:
            each.__class__ = X402Layer
            ours = cast(X402Layer, each)
            ours.timeouts, ours.at_once, ours._alarm = timeouts, at_once, None
            ours.addons = addons
