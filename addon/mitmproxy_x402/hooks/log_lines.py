"""Logs lines about a flow (`say`), and filters mitmproxy's: adds dates, removes quoted data, drops health checks."""

from __future__ import annotations

import logging
import traceback
from collections import OrderedDict
from typing import Any

from mitmproxy import http

from ..proxy.veil import without_bytes

logger = logging.getLogger(__name__)

CONNECTED, LEFT = "client connect", "client disconnect"
"""How mitmproxy's log lines about a client's connection begin."""
_MOST = 10_000
"""Most connections whose first line is held back."""


def add_dates(formatter: logging.Formatter | None) -> None:
    """Begin each line with the date, where mitmproxy writes only the time: logs cover more than a day."""
    if formatter is not None and formatter.default_time_format == "%H:%M:%S":
        formatter.default_time_format = "%Y-%m-%d %H:%M:%S"


def printable(text: str) -> str:
    """`text`, which a client wrote, for logs and tables: at most 400 characters, unprintable ones as `?`."""
    shown = text[:400]
    return shown if shown.isprintable() else "".join(char if char.isprintable() else "?" for char in shown)


def say(level: int, flow: http.HTTPFlow, message: str, *arguments: object) -> None:
    """Log a line about `flow`: the client's address, as in mitmproxy's lines, the message, and the request."""
    asked = printable(f"{flow.request.method} {flow.request.path.partition('?')[0]}")
    logger.log(level, f"x402: {message} (%s)", *arguments, asked, extra={"client": flow.client_conn.peername})


def _leave_data_out(record: logging.LogRecord) -> None:
    """Remove quoted bytes from a line of mitmproxy's, and from a traceback the error's text, which may quote some."""
    if isinstance(record.msg, str) and not record.args:
        record.msg = without_bytes(record.msg)
    if record.exc_info and record.exc_info[0] is not None:
        frames = "".join(traceback.format_tb(record.exc_info[2]))
        record.msg = f"{record.getMessage()}\n{frames}{record.exc_info[0].__name__}"
        record.exc_info, record.args = None, ()


class QuietProbes(logging.Filter):
    """Holds a connection's first line back until there is another; if only its last one comes, both are dropped.

    Also leaves out what mitmproxy quotes of received data.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: OrderedDict[Any, logging.LogRecord] = OrderedDict()
        self._logger = logging.getLogger("mitmproxy.proxy.server")

    def install(self) -> None:
        """Start filtering mitmproxy's log lines."""
        self._logger.addFilter(self)

    def uninstall(self) -> None:
        """Stop filtering, and write the lines held back."""
        self._logger.removeFilter(self)
        for client in list(self._held):
            self.speak(client)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written now (a `logging.Filter`)."""
        _leave_data_out(record)
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
        """Write the first line of `client`'s connection, because a request came through it."""
        record = self._held.pop(client, None)
        if record is not None and self._logger.isEnabledFor(record.levelno):
            self._logger.callHandlers(record)
