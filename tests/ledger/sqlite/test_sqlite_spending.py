"""What counts against a budget, compared with a sum over all payments; and that no sum over all is ever made."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.ledger.interface import (
    Intent,
    Ledger,
    LedgerError,
    Outcome,
    OverBudget,
    Validity,
)
from mitmproxy_x402.ledger.opening import make_ready
from mitmproxy_x402.ledger.sqlite import spending as sqlite_spending
from mitmproxy_x402.ledger.sqlite.schema import MIGRATIONS, statements
from mitmproxy_x402.ledger.sqlite.spending import KEPT_MS
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.limits.limits import Budget, Period, Scope
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.settings.settings import read_settings
from support import effort
from support.ledger.history import BASE, PERIODS, History, history
from support.ledger.ledgers import MachineTimes, place_of

SEEDS = {"sqlite": range(15), "postgres": range(2)}
STEPS = {"sqlite": 150, "postgres": 50}
HISTORIES = [(kind, seed) for kind, seeds in SEEDS.items() for seed in seeds]


@pytest.mark.parametrize(("kind", "seed"), effort.chosen(HISTORIES, *HISTORIES[:6], ("postgres", 0)))
def test_what_counts_is_what_a_sum_over_all_payments_says(
    kind: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with history(seed, place_of(kind, tmp_path, request)) as one:
        for number in range(STEPS[kind]):
            one.step()
            if number % 5 == 0:
                one.check(one.budget())
        for _ in range(20):
            one.check(one.budget())


def pay(ledger: Ledger, model: str | None = "m", path: str = "/v1/x", *budgets: Budget) -> None:
    intent = Intent("POST", "h", path, model, Caip2("eip155:1"), "0xa", "0xb", AtomicUnits(1), 1)
    ledger.record_sent(ledger.reserve(intent, budgets), "nonce", 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite3"


@pytest.fixture
def times() -> MachineTimes:
    return MachineTimes()


@pytest.fixture
def ledger(place: Path, times: MachineTimes) -> Iterator[SqliteLedger]:
    with closing(SqliteLedger(place, times.clock)) as one:
        yield one


def asked(ledger: SqliteLedger, statement: str, values: dict[str, Any] | None = None) -> list[Any]:
    """What the ledger's file says, over a connection of its own."""
    with closing(sqlite3.connect(ledger.path)) as file:
        return file.execute(statement, values or {}).fetchall()


def scopes(ledger: SqliteLedger) -> dict[tuple[str, str], int]:
    """The scopes that the ledger keeps sums of."""
    return {(model, path): number for number, model, path in asked(ledger, "SELECT id, model, path FROM scope")}


def is_summed_up(ledger: SqliteLedger, budget: Budget) -> bool:
    return budget.scope.patterns in scopes(ledger)


def test_nothing_goes_through_all_payments(ledger: SqliteLedger) -> None:
    values = {"scope": 1, "begin": 5, "end": 9}
    for statement in (sqlite_spending.SPENT, sqlite_spending.PARTS, *sqlite_spending.WITHIN.values()):
        plan = [row[-1] for row in asked(ledger, f"EXPLAIN QUERY PLAN {statement}", values)]
        looked_up = [line for line in plan if " payment" in line or " spending" in line]
        indexes = tuple(f"payment_{its} (counted_at>? AND counted_at<?)" for its in ("counted_at", "outliving"))
        indexes = (*indexes, "(scope=? AND level=? AND span>? AND span<?)")
        assert looked_up, plan
        assert all("USING" in line and line.endswith(indexes) for line in looked_up), plan


def test_what_was_given_back_is_found_by_indexes(ledger: SqliteLedger) -> None:
    values = {"scope": 1, "begin": 5, "watched": ""}
    plan = [row[-1] for row in asked(ledger, f"EXPLAIN QUERY PLAN {sqlite_spending.FORGIVEN}", values)]
    used = [line.split("payment_")[1] for line in plan if " payment" in line]
    assert used == [
        *("forgiven (counted_at>?)", "given_back (counted_at>?)", "outliving (counted_at>? AND counted_at<?)")
    ], plan


def test_many_payments_are_few_parts(ledger: SqliteLedger, times: MachineTimes) -> None:
    """3000 payments in a month are summed in fewer than a hundred parts, each a span of time."""
    for _ in range(3000):
        times.pass_by(863)
        pay(ledger)
    budget = Budget(1, "month")
    assert ledger.spent(budget) == 3000
    values = {"scope": scopes(ledger)[budget.scope.patterns], "begin": ledger.now_ms() - 2_591_000_000}
    parts = asked(ledger, sqlite_spending.PARTS, values)
    assert len(parts) < 100
    assert sum(part[2] for part in parts) == 3000


def test_room_returns_to_the_millisecond_whatever_lies_between(ledger: SqliteLedger, times: MachineTimes) -> None:
    reserved = []
    for seconds in (0, 0.001, 0.7, 3, 80, 5000, 90_000, 400_000, 400_000, 1_000_000):
        times.pass_by(seconds)
        pay(ledger, None, "/v1/y")
        pay(ledger)
        reserved.append(ledger.now_ms())
    for needed in range(1, 11):
        budget = Budget(11 - needed, "month", Scope("m"))
        with pytest.raises(OverBudget) as caught:
            pay(ledger, "m", "/v1/x", budget)
        returns_in = (reserved[needed - 1] - ledger.now_ms()) / 1000 + 30 * 86_400
        assert caught.value.returns_in == pytest.approx(returns_in, abs=1e-6)


@pytest.mark.parametrize(
    ("lives", "returns_in"),
    [((300, 300, 300), 3600), ((604_800,) * 3, 604_800 + 3600), ((300, 604_800, 2000), 3600), ((2000,) * 3, 5600)],
)
def test_room_returns_when_signatures_that_outlive_the_period_have_ended(
    ledger: SqliteLedger, lives: tuple[int, ...], returns_in: int
) -> None:
    """As those of Circle Gateway, which live a week; also those that have left a moment ago."""
    hour = Budget(3, "hour")
    intent = Intent("POST", "h", "/v1/x", "m", Caip2("eip155:1"), "0xa", "0xb", AtomicUnits(1), 1)

    async def leave_at_once() -> OverBudget:
        for each in lives:
            ledger.record_departure(ledger.reserve(intent, [hour]), "nonce", 0, Validity(dies_in=each))
        with pytest.raises(OverBudget) as caught:
            ledger.reserve(intent, [hour])
        return caught.value

    assert asyncio.run(leave_at_once()).returns_in == returns_in


@pytest.mark.parametrize("period", ["day", ""])
def test_room_returns_when_rejected_payments_expire(ledger: SqliteLedger, times: MachineTimes, period: Period) -> None:
    """Where nobody asks the chain: then they are forgiven, up to the size of the budget."""
    budget = Budget(3, period)
    intent = Intent("POST", "h", "/v1/x", "m", BASE, "0xa", "0xb", AtomicUnits(1), 1, wallet="0xw")

    def refused(micro_usd: int = 1) -> float | None:
        with pytest.raises(OverBudget) as caught:
            ledger.reserve(replace(intent, micro_usd=micro_usd), [budget])
        return caught.value.returns_in

    for seconds in (300, 400, 500):
        row = ledger.reserve(intent, [budget])
        ledger.record_sent(row, "nonce", 0)
        ledger.finish(row, Outcome("rejected", counts_for=seconds))
    assert [refused(1), refused(2), refused(3)] == [300, 400, 500]
    ledger.watch([BASE])
    assert refused() == (86_400 if period else None)
    ledger.watch([])
    times.pass_by(300)
    ledger.record_sent(ledger.reserve(intent, [budget]), "nonce", 0)
    assert refused() == 100
    times.pass_by(200)
    for _ in range(2):
        ledger.record_sent(ledger.reserve(intent, [budget]), "nonce", 0)
    assert refused() == (86_400 - 200 if period else None)  # as much is forgiven as the budget has


def test_a_refusal_keeps_what_was_summed_up_for_it(ledger: SqliteLedger) -> None:
    budget = Budget(0, "day", Scope("m"))
    with pytest.raises(OverBudget):
        pay(ledger, "m", "/v1/x", budget)
    assert is_summed_up(ledger, budget)


def test_new_scopes_are_summed_up_at_the_start(ledger: SqliteLedger, tmp_path: Path) -> None:
    (tmp_path / "x402.toml").write_text('[[limit]]\nmodel = "m-*"\nbudget = "1/day"\n')
    settings = read_settings({}, {}, cwd=tmp_path, home=tmp_path)
    make_ready(ledger, settings)
    budgets = [*settings.budgets, *settings.limits[0].budgets]
    assert len(budgets) == 2
    assert all(is_summed_up(ledger, budget) for budget in budgets)


def test_a_scope_that_nobody_uses_is_forgotten_when_another_one_comes(
    ledger: SqliteLedger, times: MachineTimes
) -> None:
    old, used, new = (Budget(9, "", Scope(model)) for model in ("a*", "m", "*"))
    for budget in (old, used):
        pay(ledger, "m", "/v1/x", budget)
    for _ in range(2):
        times.pass_by(KEPT_MS / 1000 - 5)
        pay(ledger, "m", "/v1/x", used)
    assert is_summed_up(ledger, old)
    pay(ledger, "m", "/v1/x", new)
    assert [is_summed_up(ledger, budget) for budget in (old, used, new)] == [False, True, True]
    summed_up = {scope for (scope,) in asked(ledger, "SELECT scope FROM spending")}
    assert summed_up == {scopes(ledger)[budget.scope.patterns] for budget in (used, new)}
    pay(ledger, "all", "/v1/x", old)
    assert [ledger.spent(budget) for budget in (old, used, new)] == [1, 5, 6]


def test_a_pattern_that_nothing_can_be_compared_with_stops_nobody_else(ledger: SqliteLedger) -> None:
    for pattern in ("*" * 10_001, "\U0001f600" * 9_999 + "xyz"):
        with pytest.raises(LedgerError, match="cannot be used"):
            ledger.spent(Budget(1, "day", Scope(pattern)))
    longest = Budget(1, "day", Scope(path="\U0001f600" * 10_000))
    pay(ledger, "m", "/v1/x", longest)
    assert ledger.spent(longest) == 0


class TestOldFile:
    """A ledger of the version before, which is full."""

    COLUMNS = "time, counted_at, process, method, host, path, model, network, asset, pay_to, amount, micro_usd"

    def write(self, db: sqlite3.Connection, at: int, model: str | None, path: str, state: str) -> None:
        (total,) = db.execute("SELECT COALESCE(MAX(cumulative), 0) FROM payment").fetchone()
        values = (at, at, "x 1", "POST", "h", path, model, "eip155:1", "0xa", "0xb", "10", 10, total + 10, state)
        db.execute(
            f"INSERT INTO payment ({self.COLUMNS}, cumulative, state) VALUES ({', '.join('?' * 14)})",
            values,
        )

    @pytest.fixture
    def old(self, place: Path) -> Iterator[sqlite3.Connection]:
        place.parent.mkdir()
        with closing(sqlite3.connect(place, isolation_level=None)) as db:
            for script in MIGRATIONS[:3]:
                for statement in statements(script):
                    db.execute(statement)
            db.execute("PRAGMA user_version = 3")
            yield db

    def test_what_it_holds_counts(self, old: sqlite3.Connection, place: Path, times: MachineTimes) -> None:
        now = int(times.wall * 1000)
        for number in range(200):
            state = ("settled", "unknown", "rejected", "released", "expired", "sent")[number % 6]
            at = now - (200 - number) * 1_000_000
            self.write(old, at, ("m", None)[number % 2], f"/v1/x/{number % 5}", state)
        with closing(SqliteLedger(place, times.clock)) as ledger:
            one = History(1, place, times, [ledger])
            for period in PERIODS:
                for scope in (Scope(), Scope("m"), Scope("", "/v1/x/1"), Scope("m", "/v1/*")):
                    one.check(Budget(1, period, scope))

    def test_a_proxy_of_its_version_that_still_runs_is_counted(
        self, old: sqlite3.Connection, place: Path, times: MachineTimes
    ) -> None:
        with closing(SqliteLedger(place, times.clock)) as ledger:
            budgets = Budget(1, "day"), Budget(1, "day", Scope("m"))
            assert ledger.spent_of(budgets) == [0, 0]
            self.write(old, int(times.wall * 1000), "m", "/", "reserved")
            self.write(old, int(times.wall * 1000), "n", "/", "reserved")
            assert ledger.spent_of(budgets) == [20, 10]
            old.execute("UPDATE payment SET state = 'released' WHERE id = 1")
            assert ledger.spent_of(budgets) == [10, 0]
