"""A ledger of each kind, with clocks that tests set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.ledger.interface import Ledger
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl
from support.ledger.ledgers import KINDS, DatabaseTimes, MachineTimes, Times, open_with, place_of
from support.ledger.postgres import Postgres


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerPlace:
    return place_of(request.param, tmp_path, request)


@pytest.fixture
def url(postgres: Postgres) -> PostgresUrl:
    """An empty database."""
    return postgres.empty()


@pytest.fixture
def boot() -> str:
    """The name of the boot; empty: that of this machine."""
    return "first"


@pytest.fixture
def times(path: LedgerPlace, boot: str) -> Iterator[Any]:
    if isinstance(path, PostgresUrl):
        open_with(path).close()
        with closing(DatabaseTimes(path)) as database:
            yield database
    else:
        yield MachineTimes(boot=boot)


@pytest.fixture
def ledger(path: LedgerPlace, times: Times) -> Iterator[Ledger]:
    with closing(open_with(path, times)) as one:
        yield one
