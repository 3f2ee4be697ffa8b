"""A ledger whose log is synced by a disk that takes its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.sqlite import durability
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from support.ledger.disks import SlowDisk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite3"


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
def ledger(path: Path, disk: SlowDisk) -> Iterator[SqliteLedger]:
    with closing(SqliteLedger(path, make_sync=lambda _: disk)) as one:
        yield one


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync begins at once, whatever else the event loop has to do."""
    monkeypatch.setattr(durability, "GROUP_SECONDS", 0)
