"""The real proxy before a sandbox, and the ledger between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig

from .ledger.ledgers import query
from .patience import eventually
from .proxy import Proxy, svm_key


class Place:
    """A proxy before a sandbox, and the ledger between them."""

    def __init__(self, home: Path, sandbox: Sandbox, proxy: Proxy) -> None:
        self.home, self.sandbox, self.proxy = home, sandbox, proxy

    def rows(self, columns: str = "state, sends") -> list[tuple[Any, ...]]:
        return query(self.proxy.ledger, columns)

    def expect(self, since: int, expected: list[tuple[Any, ...]], columns: str = "state, sends") -> None:
        """The rows after the first `since` are, or soon become, as expected: the client sees its answer first."""
        eventually(lambda: self.rows(columns)[since:] == expected, lambda: self.rows(columns)[since:])

    def outcomes(self, since: int) -> list[str]:
        """The states of the rows after the first `since`, when nothing is under way any more."""
        eventually(lambda: not {("reserved",), ("sent",)} & set(self.rows("state")[since:]), self.rows)
        return [state for (state,) in self.rows("state")[since:]]

    def expect_settled(self, since: int, count: int) -> None:
        """So many payments were settled after the first `since`, or soon are: a stream's are, when it is over."""
        eventually(lambda: len(self.sandbox.settled) - since >= count, lambda: len(self.sandbox.settled) - since)
        assert len(self.sandbox.settled) - since == count

    def wait_for_payments(self, count: int) -> None:
        """Until the ledger has `count` rows that were sent."""
        eventually(lambda: sum(sends > 0 for (sends,) in self.rows("sends")) >= count, self.rows)

    def post(self, body: Any, fault: str = "", path: str = "/v1/chat/completions") -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **({"x-sandbox-fault": fault} if fault else {})}
        # No TLS here; without this each call would read the certificate authorities.
        return httpx.post(self.proxy.url + path, content=content, headers=headers, timeout=20, verify=False)


@contextmanager
def place(home: Path, *options: str, network: str = "base-sepolia", **config: Any) -> Iterator[Place]:
    with Sandbox(SandboxConfig(networks=(network,), **config)).run_in_thread() as sandbox:
        keys = {"SOLANA_WALLET_KEY": svm_key()} if network.startswith("solana") else None
        with Proxy(sandbox.url, *options, home=home, keys=keys) as proxy:
            yield Place(home, sandbox, proxy)
