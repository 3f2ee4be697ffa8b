"""No test leaves this machine, and what tests share of the running proxy."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mitmproxy_x402.fixtures import plugin
from support import effort
from support.running import certs

if TYPE_CHECKING:
    from support.ledger.postgres import Postgres


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ledger", default="sqlite", help="what the proxies of tests keep it in: sqlite or postgres")
    parser.addoption("--thorough", action="store_true", help="all there is: takes twice as long or more")
    parser.addoption("--own", action="store_true", help="start proxies as ./run.sh does, and not by mitmdump -s")
    parser.addoption("--without-postgres", action="store_true", help="leave out tests that start a database server")
    parser.addoption("--sequences", help="how many random sequences the ledger's invariant is tried on: 200, or 2000")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts its background jobs so; ours inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    effort.begin(is_thorough=config.getoption("--thorough"))
    config.addinivalue_line("markers", "thorough: of what is tried elsewhere in fewer ways; only runs with --thorough")
    config.addinivalue_line("markers", "more: tries more with --thorough")
    # Where the package is linked instead of installed, pytest has not found its plugin by itself.
    if not config.pluginmanager.has_plugin("x402_fixtures"):
        config.pluginmanager.register(plugin, "x402_fixtures")


def _import_a_share(config: pytest.Config) -> None:
    """Import this process's share of all modules, so that each is compiled by one process and not by all at once.

    A module that cannot be imported is reported when pytest collects it.
    """
    number = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if not number or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    modules = sorted(Path(__file__).parent.rglob("test_*.py"))
    for module in modules[int(number) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
        folder = module.parent
        while (folder / "__init__.py").is_file():
            folder = folder.parent
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))  # as pytest will
        with contextlib.suppress(Exception):
            importlib.import_module(".".join(module.relative_to(folder).with_suffix("").parts))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect tests without Python's garbage collection, which would look at all that there is over and over."""
    gc.disable()
    try:
        _import_a_share(session.config)
        return (yield)
    finally:
        gc.enable()
        gc.set_threshold(*gc.get_threshold()[:2], 1_000_000)  # nor look at all of it while they run


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if effort.thorough:
        effort.mark_thorough(items)

    def needs_postgres(item: pytest.Item) -> bool:
        called = getattr(item, "callspec", None)
        return "postgres" in getattr(item, "fixturenames", ()) or (called and "postgres" in called.params.values())

    def is_left_out(item: pytest.Item) -> bool:
        if config.getoption("--without-postgres") and needs_postgres(item):
            return True
        return not effort.thorough and item.get_closest_marker("thorough") is not None

    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        items[:] = [item for item in items if not is_left_out(item)]
        config.hook.pytest_deselected(items=left_out)


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


@pytest.fixture(autouse=True, scope="session")
def _no_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clients trust nobody's certificates here, and so need not read those of the world each time they are made."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SSL_CERT_FILE", str(certs.make(tmp_path_factory.mktemp("authority"))))
    yield
    patch.undo()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder, and the working folder of the proxy."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True, scope="session")
def _processes(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.config.getoption("--own"):
        yield
        return
    from support.proxy import Proxy  # noqa: PLC0415

    patch = pytest.MonkeyPatch()
    patch.setattr(Proxy, "own", True)
    patch.setattr(Proxy, "may_be_forked", False)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def started_anew() -> Iterator[None]:
    """Every proxy is started as a user starts it, here where others may be forked off a process with all imports."""
    from support.proxy import Proxy  # noqa: PLC0415

    patch = pytest.MonkeyPatch()
    patch.setattr(Proxy, "may_be_forked", False)
    yield
    patch.undo()


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
    from support.ledger.postgres import Postgres  # noqa: PLC0415  (only where a test needs it)

    server = Postgres()
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.close()
