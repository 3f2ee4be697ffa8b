"""Finds the real client of a connection that comes from this very process, through another of its modes.

With `--mode reverse:https://... --mode regular@0.0.0.0:8080` a client of another machine can ask the second for
http://127.0.0.1:4402/. Seen from the first, that is a program of this machine.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from mitmproxy import connection

_End = tuple[str, int]


class Peers:
    """An addon of its own, that X402Addon brings along: knows the connections that this process opens."""

    name = "x402peers"

    def __init__(self) -> None:
        self._opened: dict[tuple[_End, _End], connection.Client] = {}

    def server_connected(self, data: Any) -> None:
        """A connection has been opened. It is known before anything is sent through it."""
        ends = _ends(data.server.sockname, data.server.peername)
        if ends is not None:
            self._opened[ends] = data.client

    def server_disconnected(self, data: Any) -> None:
        """A connection is closed."""
        ends = _ends(data.server.sockname, data.server.peername)
        if ends is not None:
            self._opened.pop(ends, None)

    def of(self, client: connection.Client) -> str:
        """The address of whoever asks through `client`, however many of this process' modes lie between.

        Empty where it cannot be told: a stranger's.
        """
        for _ in range(len(self._opened) + 1):
            ends = _ends(client.peername, client.sockname)
            through = self._opened.get(ends) if ends is not None else None
            if through is None:
                return client.peername[0] if client.peername else ""
            client = through
        return ""  # a circle


def _ends(near: Any, far: Any) -> tuple[_End, _End] | None:
    return (_end(near), _end(far)) if near and far else None


def _end(address: Any) -> _End:
    """Address and port, the former in one spelling; what IPv6 adds to them is left out."""
    host = str(address[0]).partition("%")[0]
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return host, int(address[1])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed), int(address[1])
