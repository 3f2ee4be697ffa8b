"""Formats the log: dates, and no lines for health checks."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

from mitmproxy import http

from .answers import printable

logger = logging.getLogger(__name__)

CONNECTED, LEFT = "client connect", "client disconnect"
"""What mitmproxy says of each connection of a client."""
_MOST = 10_000
"""Connections whose first line is held back at once."""


def add_dates(formatter: logging.Formatter | None) -> None:
    """Have the lines begin with the date, where mitmproxy writes the time alone: a log lasts longer than a day."""
    if formatter is not None and formatter.default_time_format == "%H:%M:%S":
        formatter.default_time_format = "%Y-%m-%d %H:%M:%S"


def say(level: int, flow: http.HTTPFlow, message: str, *arguments: object) -> None:
    """A line about `flow`: its client's address before it, as in mitmproxy's own lines, and the request behind."""
    asked = printable(f"{flow.request.method} {flow.request.path.partition('?')[0]}")
    logger.log(level, f"x402: {message} (%s)", *arguments, asked, extra={"client": flow.client_conn.peername})


class QuietProbes(logging.Filter):
    """Holds a connection's first line back until there is another one about it; without one, its last is not said."""

    def __init__(self) -> None:
        super().__init__()
        self._held: OrderedDict[Any, logging.LogRecord] = OrderedDict()
        self._logger = logging.getLogger("mitmproxy.proxy.server")

    def install(self) -> None:
        """Begin to look at mitmproxy's lines."""
        self._logger.addFilter(self)

    def uninstall(self) -> None:
        """End that, and say what is held back."""
        self._logger.removeFilter(self)
        for client in list(self._held):
            self.speak(client)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be written now."""
        client = getattr(record, "client", None)
        if client is None or record.levelno != logging.INFO:
            return True
        if record.msg == CONNECTED:
            self._held[client] = record
            if len(self._held) > _MOST:
                self._held.popitem(last=False)
            return False
        if record.msg == LEFT and self._held.pop(client, None) is not None:
            return False
        self.speak(client)
        return True

    def speak(self, client: Any) -> None:
        """Something is asked through the connection of `client`: write its first line."""
        record = self._held.pop(client, None)
        if record is not None and self._logger.isEnabledFor(record.levelno):
            self._logger.callHandlers(record)
