"""Tells the guard who is really behind a connection that this process itself has opened to its own port.

With `--mode reverse:https://... --mode regular@0.0.0.0:8080` a client on another machine can ask the regular proxy for
http://127.0.0.1:4402/. To the reverse proxy that looks like a program on this machine. So does a flow that is edited
in mitmweb and replayed; behind a replay there is no client, so it counts as a stranger's and never pays.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable
from typing import Any

from mitmproxy import connection

_End = tuple[str, int]


class Peers:
    """An addon, loaded by X402Addon, that records the connections that this process opens.

    `is_live` says whether a client is connected now.
    """

    name = "x402peers"

    def __init__(self, is_live: Callable[[connection.Client], bool]) -> None:
        self._is_live = is_live
        self._opened: dict[tuple[_End, _End], connection.Client | None] = {}
        """By the two ends of a connection, the client that it was opened for; None: a replay, which has no client."""

    def server_connected(self, data: Any) -> None:
        """Record an opened connection, before anything is sent through it."""
        ends = _ends(data.server.sockname, data.server.peername)
        if ends is not None:
            self._opened[ends] = data.client if self._is_live(data.client) else None

    def server_disconnected(self, data: Any) -> None:
        """Forget a closed connection."""
        ends = _ends(data.server.sockname, data.server.peername)
        if ends is not None:
            self._opened.pop(ends, None)

    def of(self, client: connection.Client) -> str:
        """The IP address of the real client behind `client`, through any number of this process's modes.

        Empty if it cannot be determined; such a client is treated as a stranger.
        """
        for _ in range(len(self._opened) + 1):
            ends = _ends(client.peername, client.sockname)
            if ends is None or ends not in self._opened:
                return client.peername[0] if client.peername else ""
            through = self._opened[ends]
            if through is None:
                return ""
            client = through
        return ""  # a cycle


def _ends(near: Any, far: Any) -> tuple[_End, _End] | None:
    return (_end(near), _end(far)) if near and far else None


def _end(address: Any) -> _End:
    """Address and port of a socket address; the address in its canonical form, without an IPv6 zone."""
    return _canonical(str(address[0])), int(address[1])


@functools.lru_cache(maxsize=256)
def _canonical(host: str) -> str:
    host = host.partition("%")[0]
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
