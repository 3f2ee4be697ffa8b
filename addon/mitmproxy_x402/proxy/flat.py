"""Runs what the children of mitmproxy's HTTP layer do from one loop, where mitmproxy nests a generator in another.

In mitmproxy, a command passes through some ten generators on its way from a stream to a connection, and each of them is
resumed for it. Here only the innermost generator is resumed; the others wait on a stack. The order of events and
commands is mitmproxy's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .arrival import Steps
from .http1 import Http1Client, Http1Server
from .internals import (
    DropStream,
    GetHttpConnection,
    HttpCommand,
    HttpLayer,
    ReceiveHttp,
    RegisterHttpConnection,
    RequestHeaders,
    SendHttp,
    commands,
    events,
    layer,
)
from .repairs import failures
from .stream import X402Stream

FLAT = frozenset((X402Stream, Http1Client, Http1Server))
"""Children whose waiting for replies, the work of `Layer.handle_event`, is done here as well."""

_BY_EVENT, _BY_REPLY, _TRANSLATED = range(3)
"""What began a generator: an event, a reply that its layer waited for, or `X402Stream.translated`."""

_NOTHING: Iterator[commands.Command] = iter(())


class _ToChild(commands.Command):
    """Asks `FlatHttpLayer.flattened` to have `child` handle `event` before anything else goes on."""

    def __init__(self, child: Any, event: events.Event) -> None:
        self.child = child
        self.event = event


class HookOver(events.Event):
    """Takes the place of mitmproxy's HookCompleted, which costs more, for a hook that was called at once."""

    reply = None

    def __init__(self, command: commands.StartHook) -> None:
        self.command = command


class FlatHttpLayer(HttpLayer):
    """mitmproxy's HTTP layer without nested generators. All of its steps have to go through `flattened`."""

    def event_to_child(self, child: Any, event: events.Event) -> Any:
        """Have `flattened` give `event` to `child`. mitmproxy does `yield from` what this returns."""
        return (_ToChild(child, event),)

    def flattened(self, steps: Iterator[commands.Command]) -> Steps:  # noqa: PLR0912  # every call in the loop costs
        """Run `steps` of this layer, and those of its children that they lead to. Yields what is for others.

        Does with each command of a child what mitmproxy's `event_to_child` does.
        """
        child: Any = None  # whose steps these are; None: this layer's
        begun, reply = _BY_EVENT, None
        outer: list[tuple[Any, Iterator[commands.Command], int]] = []
        while True:
            try:
                command: Any = next(steps, None) if reply is None else _send(steps, reply)
                reply = None
                if command is None:
                    if begun == _BY_REPLY and child._paused is None and child._paused_event_queue:
                        steps = child._handle_event(child._paused_event_queue.popleft())
                    elif outer:
                        child, steps, begun = outer.pop()
                    else:
                        return
                    continue
                kind, to = type(command), None
                if child is not None:
                    others = child.translated(command) if type(child) is X402Stream and begun != _TRANSLATED else None
                    if others is not None:
                        outer.append((child, steps, begun))
                        steps, begun = iter(others), _TRANSLATED
                        continue
                    if command.blocking or kind is commands.RequestWakeup:
                        self.command_sources[command] = child
                        if command.blocking is True and type(child) in FLAT and child.debug is None:
                            command.blocking = child
                            child._paused = layer.Paused(command, steps)  # type: ignore[arg-type]  # to go on there
                            steps, begun = _NOTHING, _BY_EVENT
                if kind is SendHttp:
                    to = self.connections[command.connection]
                elif kind is ReceiveHttp and not isinstance(command.event, RequestHeaders):
                    to = self.streams.get(command.event.stream_id)
                    if to is None:  # over already: https://github.com/mitmproxy/mitmproxy/issues/5343
                        continue
                elif kind is _ToChild:
                    to = command.child
                elif not isinstance(command, HttpCommand):
                    if kind is commands.OpenConnection:
                        self.connections[command.connection] = child
                    yield command
                    continue
                outer.append((child, steps, begun))
                child = to
                if child is None:
                    steps, begun = self._own_steps(command), _BY_EVENT
                else:
                    steps, begun, reply = _begin(child, command.event)
            except Exception as error:  # whatever a layer raises ends only what depends on it
                steps, begun, reply = failures.end(self, child or self, error), _BY_EVENT, None
                child = None

    def after_hook(self, hook: commands.StartHook) -> Iterator[commands.Command]:
        """The steps for `flattened` that follow when a hook of a child's is over, which was called at once."""
        child = self.command_sources.pop(hook)
        is_flat = type(child) in FLAT and child.debug is None
        return iter((_ToChild(child, HookOver(hook) if is_flat else events.HookCompleted(hook)),))

    def _own_steps(self, command: Any) -> Steps:
        """What a child asks of this layer itself."""
        if isinstance(command, DropStream):
            self.streams.pop(command.stream_id, None)
        elif isinstance(command, GetHttpConnection):
            yield from self.get_connection(command)
        elif isinstance(command, RegisterHttpConnection):
            yield from self.register_connection(command)
        elif isinstance(command, ReceiveHttp):
            yield from self.make_stream(command.event.stream_id)
            yield _ToChild(self.streams[command.event.stream_id], command.event)
        else:
            raise AssertionError(f"Unexpected command: {command}")


def _begin(child: Any, event: events.Event) -> tuple[Iterator[commands.Command], int, Any]:
    """The steps by which `child` handles `event`, what began them, and the reply that they are to be sent first.

    Does what `Layer.handle_event` does.
    """
    if type(child) not in FLAT or child.debug is not None:
        return child.handle_event(event), _BY_EVENT, None
    if type(child) is X402Stream:
        seen = child.received(event)
        if seen is None:
            return _NOTHING, _BY_EVENT, None
        event = seen
    paused = child._paused
    if paused is None:
        return child._handle_event(event), _BY_EVENT, None
    if isinstance(event, (HookOver, events.CommandCompleted)) and event.command is paused.command:
        child._paused = None
        return paused.generator, _BY_REPLY, event.reply
    child._paused_event_queue.append(event)
    return _NOTHING, _BY_EVENT, None


def _send(steps: Any, reply: Any) -> commands.Command | None:
    try:
        command: commands.Command = steps.send(reply)
    except StopIteration:
        return None
    return command
