"""Budgets of a few units, and a wallet that pays from them."""

from __future__ import annotations

import pytest

from mitmproxy_x402.settings.settings import Settings, read_settings
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from support.proxy import EVM_KEY


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    return read_settings(
        {"x402_budget": "0.000200/hour, 0.000900", "x402_ledger_sync": "false"}, {}, cwd=home, home=home
    )


@pytest.fixture(scope="module")
def wallets(tmp_path_factory: pytest.TempPathFactory) -> Wallets:
    return load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, tmp_path_factory.mktemp("keys")))
