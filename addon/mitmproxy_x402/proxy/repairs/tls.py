"""Closes a connection whose TLS session is dead: a fatal alert came, or a record that cannot be decrypted.

mitmproxy logs that and goes on. Nothing can be delivered on such a connection any more, so a challenge would be paid
for a client that gets nothing, and the attempt to answer it raises an exception.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

from OpenSSL import SSL

from ..internals import ClientTLSLayer, ConnectionState, Context, ServerTLSLayer, TLSLayer, commands, events

_Commands = Generator[commands.Command, Any, None]
FAILED = "TLS Error: "
"""How mitmproxy's log line about a session that has died begins."""


class _Closing(TLSLayer):
    """An established TLS layer that closes its connection with its session."""

    x402_is_dead = False

    def receive_data(self, data: bytes) -> _Commands:
        """Pass on what arrived before the session died; nothing after that."""
        if self.x402_is_dead:
            return
        steps, reply = super().receive_data(data), None
        while True:
            try:
                command = steps.send(reply)
            except StopIteration:
                break
            if isinstance(command, commands.Log) and command.message.startswith(FAILED):
                self.x402_is_dead = True
            reply = yield command
        if self.x402_is_dead:
            yield from self._close()

    def receive_close(self) -> _Commands:
        """Say that the connection is closed, also after an alert, which mitmproxy takes for the end of a session."""
        if self.x402_is_dead:
            yield from self.event_to_child(events.ConnectionClosed(self.conn))
        else:
            yield from super().receive_close()

    def send_data(self, data: bytes) -> _Commands:
        """Send nothing, and close, where the session is dead."""
        if self.x402_is_dead:
            return
        try:
            yield from super().send_data(data)
        except SSL.Error as error:
            self.x402_is_dead = True
            yield commands.Log(f"{FAILED}{error}", logging.WARNING)
            yield from self._close()

    def _close(self) -> _Commands:
        if self.conn.state is not ConnectionState.CLOSED:
            yield commands.CloseConnection(self.conn)


class _ClosingClient(_Closing, ClientTLSLayer):
    pass


class _ClosingServer(_Closing, ServerTLSLayer):
    pass


def repair(context: Context) -> None:
    """Have the TLS layers of `context` close their connections with their sessions."""
    for each in context.layers:
        if type(each) is ClientTLSLayer:
            each.__class__ = _ClosingClient
        elif type(each) is ServerTLSLayer:
            each.__class__ = _ClosingServer
