"""Passes response chunks to observers (recorder and views). The client gets every chunk as it came."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mitmproxy import http

logger = logging.getLogger(__name__)

Receiver = Callable[[bytes], None]


def tap(flow: http.HTTPFlow, receive: Receiver) -> None:
    """Have `receive` called with each chunk of the upstream's answer, and with b"" at its end.

    To be called from an addon's `responseheaders`. `receive` runs on the event loop before the chunk is passed on, so
    it must not do I/O or parse. If it raises, that is logged and it is not called again; the stream goes on. An answer
    made by an addon is not streamed and has no chunks: it is complete in `flow.response` when `response` is called.
    """
    assert flow.response is not None
    if not flow.response.stream:
        return
    if not isinstance(flow.response.stream, Tee):
        flow.response.stream = Tee(flow.response.stream)
    flow.response.stream.receivers.append(receive)


class Tee:
    """The stream function that mitmproxy calls with each chunk. Never raises: the client would wait for ever."""

    def __init__(self, before: object) -> None:
        self.receivers: list[Receiver] = []
        self._before = before  # another addon's own stream function, or True

    @property
    def only_observes(self) -> bool:
        """Whether every chunk is passed on unchanged."""
        return self._before is True

    def __call__(self, data: bytes) -> bytes:
        """Give `data` to every receiver; returns the bytes for the client."""
        for receive in self.receivers:
            self._show(receive, data)
        if callable(self._before):
            changed: bytes = self._before(data)
            return changed
        return data

    def _show(self, receive: Receiver, data: bytes) -> None:
        try:
            receive(data)
        except Exception as error:  # no fault of an observer may stop the stream
            self.receivers = [each for each in self.receivers if each is not receive]
            logger.error("x402: stopped looking at an answer (%s); the answer goes on.", type(error).__name__)
