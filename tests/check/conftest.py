"""A machine to check, and a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.running.checking import Machine


@pytest.fixture
def machine(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    return Machine(home, monkeypatch, capsys)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxConfig(networks=("base-sepolia", "solana-devnet"))).run_in_thread() as running:
        yield running
