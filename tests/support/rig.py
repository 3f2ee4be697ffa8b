"""A running proxy and the scripted upstream behind it."""

from __future__ import annotations

from dataclasses import dataclass

from .proxy import Proxy
from .wire import Client, Script, Upstream


@dataclass
class Rig:
    proxy: Proxy
    upstream: Upstream
    mode: str = ""
    """How the proxy was set up, where a fixture starts several."""

    def script(self, script: Script) -> None:
        """From now on new connections to the upstream meet `script`, and counting starts anew."""
        self.upstream.script = script
        self.upstream.requests.clear()
        self.upstream.connections = 0

    def client(self) -> Client:
        return self.proxy.client()
