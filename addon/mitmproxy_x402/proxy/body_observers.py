"""Observers of response chunks: the recorder and the views. The client gets every chunk as it came."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mitmproxy import http

logger = logging.getLogger(__name__)

Receiver = Callable[[bytes], None]


def tap(flow: http.HTTPFlow, receive: Receiver) -> None:
    """From an addon's `responseheaders`: `receive` gets each chunk of the upstream's answer, and b"" at its end.

    It is called on the event loop, between the chunk's arrival and its leaving, so it must not read, write or parse.
    One that raises is let go with a line in the log; the stream goes on. An answer that is not streamed, because an
    addon made it, has no chunks: it is whole in `flow.response` by the time of `response`.
    """
    assert flow.response is not None
    if not flow.response.stream:
        return
    if not isinstance(flow.response.stream, Tee):
        flow.response.stream = Tee(flow.response.stream)
    flow.response.stream.receivers.append(receive)


class Tee:
    """What mitmproxy calls with each chunk; never raises, since that would leave the client waiting for ever."""

    def __init__(self, before: object) -> None:
        self.receivers: list[Receiver] = []
        self._before = before  # another addon's own stream function, or True

    @property
    def only_observes(self) -> bool:
        """Whether every chunk leaves as it came."""
        return self._before is True

    def __call__(self, data: bytes) -> bytes:
        """Show `data` to every receiver; gives what goes to the client."""
        for receive in self.receivers:
            self._show(receive, data)
        if callable(self._before):
            changed: bytes = self._before(data)
            return changed
        return data

    def _show(self, receive: Receiver, data: bytes) -> None:
        try:
            receive(data)
        except Exception as error:  # whatever it is, the stream goes on
            self.receivers = [each for each in self.receivers if each is not receive]
            logger.error("x402: stopped looking at an answer (%s); the answer goes on.", type(error).__name__)
