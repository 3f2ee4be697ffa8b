"""Payers with real wallets, one for each set of options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.paying.payers import Bench


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Makes a bench for each set of options once."""
    made: dict[Any, Bench] = {}
    home = tmp_path_factory.mktemp("home")

    def get(families: str = "evm svm", **options: str) -> Bench:
        key = (families, *sorted(options.items()))
        if key not in made:
            made[key] = Bench(home, families, **options)
        return made[key]

    yield get
    for bench in made.values():
        bench.loop.close()
        bench.ledger.close()
