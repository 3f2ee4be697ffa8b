"""Ledgers that are written for a report, and closed after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.showing.reports import Written


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while Written.opened:
        Written.opened.pop().close()


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path / "ledger.sqlite3")
