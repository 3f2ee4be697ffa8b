"""No test leaves this machine, and what tests share of the running proxy."""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mitmproxy_x402.fixtures import plugin

if TYPE_CHECKING:
    from support.postgres import Postgres


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ledger", default="sqlite", help="what the proxies of tests keep it in: sqlite or postgres")
    parser.addoption("--sequences", default="2000", help="how many random sequences the ledger's invariant is tried on")


def pytest_configure(config: pytest.Config) -> None:
    """Where the package is linked instead of installed, pytest has not found its plugin by itself."""
    if not config.pluginmanager.has_plugin("x402_fixtures"):
        config.pluginmanager.register(plugin, "x402_fixtures")


_connect = socket.socket.connect


def _guarded(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"a test tried to reach {address!r}; nothing in tests leaves 127.0.0.1")
    _connect(self, address)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _guarded)
    yield
    patch.undo()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder, and the working folder of the proxy."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True, scope="session")
def _ledgers(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--ledger postgres`, a database for each home."""
    if request.config.getoption("--ledger") != "postgres":
        yield
        return
    from support.proxy import Proxy  # noqa: PLC0415

    server = request.getfixturevalue("postgres")
    patch = pytest.MonkeyPatch()
    patch.setattr(Proxy, "ledgers", staticmethod(functools.cache(lambda _: server.fresh())))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of the tests' own."""
    from support.postgres import Postgres  # noqa: PLC0415  (only where a test needs it)

    server = Postgres()
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.close()
