"""Clocks around a ledger in a database: what a proxy's clock, or the database's, was fast for counts for as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from mitmproxy_x402.ledger.interface import Outcome, OverBudget, Validity
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.protocol.messages import AtomicUnits
from mitmproxy_x402.settings.ledger_place import PostgresUrl
from support.ledger.ledgers import DatabaseTimes
from support.ledger.payments import MUCH, budget, intent

NOW, FAST = 1.8e9, 3 * 3600
HOUR = budget(15, "hour")
OUTCOMES = {
    "unknown": Outcome("unknown"),
    "rejected": Outcome("rejected", counts_for=360),
    "cheap": Outcome("settled", "0xt", charged=AtomicUnits(0), charged_micro_usd=0),
}


class Proxies:
    """Ledgers of proxies whose clocks are apart from the database's by as much as the test says."""

    def __init__(self, url: PostgresUrl, times: DatabaseTimes) -> None:
        self.times = times
        self.fast = 0.0
        self.ledger = PostgresLedger(url, lambda: self.wall)

    @property
    def wall(self) -> float:
        return self.times.wall + self.fast

    def validity(self) -> Validity:
        return Validity(int(self.wall) + 300, dies_in=360)

    def pay(self, outcome: Outcome) -> int:
        row = self.ledger.reserve(intent(), [HOUR])
        self.ledger.record_sent(row, "nonce", 0, self.validity())
        self.ledger.finish(row, outcome)
        return row

    def is_full(self) -> bool:
        try:
            self.ledger.release(self.ledger.reserve(intent(), [HOUR]))
        except OverBudget:
            return True
        return False


@pytest.fixture
def proxies(url: PostgresUrl) -> Iterator[Proxies]:
    PostgresLedger(url).close()
    with closing(DatabaseTimes(url, NOW)) as times:
        its = Proxies(url, times)
        with closing(its.ledger):
            yield its


@pytest.mark.parametrize("kind", OUTCOMES)
def test_what_a_fast_proxy_has_signed_counts_until_its_end_by_the_databases_clock(proxies: Proxies, kind: str) -> None:
    proxies.fast = FAST
    proxies.pay(OUTCOMES[kind])
    proxies.fast = 0
    proxies.times.pass_by(3605)
    assert proxies.ledger.spent(HOUR) == 10
    assert proxies.is_full()
    proxies.times.pass_by(FAST + 300 + 120)
    assert not proxies.is_full()


def test_what_a_fast_proxy_signs_again_counts_as_long(proxies: Proxies) -> None:
    row = proxies.pay(Outcome("settled", "0xt"))
    proxies.times.pass_by(100)
    proxies.fast = FAST
    proxies.ledger.renew(row, 360, [HOUR])
    proxies.ledger.record_resent(row, proxies.validity())
    proxies.fast = 0
    proxies.times.pass_by(3700)
    assert proxies.ledger.spent(HOUR) == 10
    assert proxies.is_full()
    proxies.times.pass_by(FAST + 300 + 120)
    assert not proxies.is_full()


@pytest.mark.parametrize("kind", OUTCOMES)
def test_what_was_freed_by_a_database_that_was_fast_counts_again(proxies: Proxies, kind: str) -> None:
    proxies.times.wall = NOW + FAST
    for _ in range(3):
        proxies.pay(OUTCOMES[kind])
        proxies.times.pass_by(3605)
    assert proxies.ledger.spent(HOUR) == 0
    proxies.times.wall -= FAST
    for _ in range(2):
        assert proxies.is_full()
    assert [proxies.ledger.spent(HOUR), proxies.ledger.spent(budget(MUCH))] == [30, 30]
    proxies.times.pass_by(FAST + 300 + 3600 + 120)
    assert not proxies.is_full()


@pytest.mark.parametrize("back", [30, 5 * 366 * 24 * 3600])
def test_a_moment_and_a_clock_that_was_never_set_change_nothing(proxies: Proxies, back: float) -> None:
    proxies.pay(OUTCOMES["unknown"])
    proxies.times.pass_by(3601)
    proxies.times.wall -= back
    proxies.ledger.reserve(intent(), [])
    assert proxies.ledger.spent(budget(MUCH)) == 10 + 10
    assert proxies.times.ask("SELECT dead_at - counted_at FROM x402_payment ORDER BY id LIMIT 1") == [(360_000,)]


def test_payments_by_a_database_whose_clock_was_never_set_do_not_count_for_ever(proxies: Proxies) -> None:
    proxies.times.wall = 3600
    proxies.fast = NOW - 3600
    proxies.pay(OUTCOMES["unknown"])
    proxies.times.pass_by(3700)
    assert proxies.ledger.spent(HOUR) == 0
