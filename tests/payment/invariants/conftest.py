"""Budgets of a few units, and a wallet that pays from them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mitmproxy_x402.settings.settings import Settings, read_settings
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from support.proxy import EVM_KEY

ROOM = 20_000_000
"""Bytes that the ledgers of one test take at most; each is removed when its world ends."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    return read_settings(
        {"x402_budget": "0.000200/hour, 0.000900", "x402_ledger_sync": "false"}, {}, cwd=home, home=home
    )


@pytest.fixture(scope="module")
def wallets(tmp_path_factory: pytest.TempPathFactory) -> Wallets:
    return load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, tmp_path_factory.mktemp("keys")))


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of ledgers are made here, and no disk is tested."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < ROOM:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)
