"""What was settled <= what the ledger counts <= the budget, whatever happens in whatever order.

Each sequence is a small world: two proxies with one ledger, a gateway that settles at once, late or never, clients
that leave and come back, processes that die between any two steps, reboots, and a wall clock that jumps. In every
other world payments go ahead of their challenges, and the gateway changes its prices. Time itself is simulated; the
payer, the purchases, the forecast, the retained payments and the ledger are the real ones, once in a file and once in
a database, where the two proxies are on two machines and share retained payments.

`pytest --sequences 50000` runs more of them; a failure names its seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mitmproxy_x402.settings.settings import Settings
from mitmproxy_x402.wallet.sources import Wallets
from support import effort
from support.ledger.postgres import Postgres
from support.paying.money_world import SharedWorld, World

BATCH = 100
"""Sequences a test."""
SLOWER, SHARED_BATCH = 100, 10
"""In a database fewer are tried, and fewer a test."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    asked = metafunc.config.getoption("--sequences")
    if "batch" in metafunc.fixturenames:
        metafunc.parametrize("batch", effort.batches(asked, 2000, BATCH, quick=2))
    if "shared_batch" in metafunc.fixturenames:
        metafunc.parametrize("shared_batch", effort.batches(asked, 2000, SLOWER * SHARED_BATCH, quick=1))


@contextmanager
def named(seed: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}") if hasattr(error, "add_note") else print(f"seed {seed}")
        raise


def test_the_invariant(batch: int, tmp_path: Path, settings: Settings, wallets: Wallets) -> None:
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        world = World(seed, tmp_path / f"{seed}.sqlite3", settings, wallets, ahead=bool(seed % 2))
        with named(seed), closing(world):
            world.play()


def test_the_invariant_on_two_machines(
    shared_batch: int, postgres: Postgres, settings: Settings, wallets: Wallets
) -> None:
    for seed in range(shared_batch * SHARED_BATCH, (shared_batch + 1) * SHARED_BATCH):
        with named(seed):
            SharedWorld(seed, postgres.empty(), settings, wallets)


def test_the_worlds_in_which_payments_go_ahead_see_all_of_it(
    tmp_path: Path, settings: Settings, wallets: Wallets
) -> None:
    sent_ahead, seen = 0, set()
    for seed in range(1, 121, 2):
        with closing(World(seed, tmp_path / f"{seed}.sqlite3", settings, wallets, ahead=True)) as world:
            world.play()
            sent_ahead += world.sent_ahead
            seen |= set(world.query("state, code", ""))
    assert sent_ahead > 100
    assert {("superseded", None), ("superseded", "PAYMENT_UNDERPAID")} <= seen
    assert {"settled", "unknown", "rejected", "released", "expired"} <= {state for state, _ in seen}
