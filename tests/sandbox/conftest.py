"""One sandbox for tests that only talk to it; others start their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.chains.reference_payer import Shopper

BASE, SOLANA = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
Start = Callable[..., tuple[Sandbox, Shopper]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sandboxes: `start(network=..., **config)`, each with a shopper who pays on that network."""
    with ExitStack() as running:

        def run(network: str = BASE, **config: Any) -> tuple[Sandbox, Shopper]:
            sandbox = Sandbox(SandboxConfig(networks=("base-sepolia", "solana-devnet"), **config))
            running.enter_context(sandbox.run_in_thread())
            return sandbox, running.enter_context(Shopper(sandbox.url, network))

        yield run


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxConfig(networks=("base-sepolia", "solana-devnet"))).run_in_thread() as running:
        yield running
