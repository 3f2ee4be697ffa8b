"""A gateway whose jobs are paid for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paying.jobs import Gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.payer.ledger.close()
