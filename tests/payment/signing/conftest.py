"""A wallet whose balance and allowance a test sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.chains.token_rpc import TokenRpc
from support.paying.ceilings import Shop


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def make(balance: int = 1_000_000, allowance: int = 0, nonce: int | None = 7, **options: str) -> Any:
            rpc = stack.enter_context(TokenRpc(8453, balance, allowance, nonce))
            shop = Shop(tmp_path, rpc, **options)
            stack.callback(shop.ledger.close)
            return shop, rpc

        yield make
