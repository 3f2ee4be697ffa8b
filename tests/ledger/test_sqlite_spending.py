"""What counts against a budget, compared with a sum over all payments; and that no sum over all is ever made."""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.ledger.interface import (
    FREE,
    LONGEST_MS,
    PASSING,
    ChainWord,
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
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl
from mitmproxy_x402.settings.settings import read_settings
from support.ledger.ledgers import KINDS, DatabaseTimes, MachineTimes, open_with, place_of, query

MODELS = ("gpt-5", "gpt-5-mini", "GPT-5", "claude*", "", None)
PATHS = ("/v1/chat", "/api/v1/chat", "/v1/markets/1", "/api/v1/markets/2", "/api/api/v1/chat", "/apiary", "/")
MODEL_PATTERNS = ("", "", "gpt-5*", "gpt-?", "*", "none")
PATH_PATTERNS = ("", "", "/v1/chat", "/api/v1/chat", "/v1/markets/*", "/v1/chat/*", "/api", "/*", "/v1/market?/1")
BASE, SEPOLIA = Caip2("eip155:8453"), Caip2("eip155:84532")
PERIODS: tuple[Period, ...] = ("", "hour", "day", "month")
PAUSES = (0, 0, 0.001, 0.3, 1.024, 60, 301, 3599, 3600, 40_000, 86_400, 700_000, 2_592_000)
SEEDS = {"sqlite": 15, "postgres": 2}
STEPS = {"sqlite": 150, "postgres": 50}


class History:
    """A ledger to which anything happens, two proxies and a clock."""

    def __init__(self, seed: int, place: LedgerPlace, times: Any, ledgers: list[Ledger]) -> None:
        self.random = random.Random(seed)
        self.place, self.times, self.ledgers = place, times, ledgers
        self.watched: set[Caip2] = set(self.random.sample([BASE, SEPOLIA], self.random.randrange(3)))
        for ledger in ledgers:
            ledger.watch(self.watched)
        self.rows: list[tuple[Ledger, int]] = []

    @property
    def servers(self) -> list[Ledger]:
        """The ledgers whose reservations any of them lets lapse."""
        return [ledger for ledger in self.ledgers if not isinstance(ledger, SqliteLedger)]

    @property
    def now(self) -> int:
        ledger = self.ledgers[0]
        return ledger.now_ms() if isinstance(ledger, SqliteLedger) else round(self.times.wall * 1000)

    def budget(self, micro_usd: int = 1) -> Budget:
        scope = Scope(self.random.choice(MODEL_PATTERNS), self.random.choice(PATH_PATTERNS))
        return Budget(micro_usd, self.random.choice(PERIODS), scope)

    def step(self) -> None:
        chance = self.random.random()
        if chance < 0.4:
            self.reserve()
        elif chance < 0.85 and self.rows:
            self.go_on(*self.random.choice(self.rows[-8:]))
        else:
            self.times.pass_by(self.random.choice(PAUSES))

    def reserve(self) -> None:
        ledger, micro = self.random.choice(self.ledgers), self.random.choice((0, 1, 7, 1000))
        model, path = self.random.choice(MODELS), self.random.choice(PATHS)
        wanted = Intent(
            *("POST", "h", path, model, self.random.choice((BASE, SEPOLIA))),
            *("0xa", "0xb", AtomicUnits(micro), micro),
            scheme=self.random.choice(("exact", "exact", "upto", "gateway")),
            wallet=self.random.choice(("0xw", "0xw", "")),
            is_model_unclear=self.random.random() < 0.1,
        )
        budgets = [self.budget(self.random.choice((0, 5, 1500, 4000, 10**6))) for _ in range(self.random.randrange(3))]
        row, refusal = None, None
        try:
            row = ledger.reserve(wanted, budgets)
            self.rows.append((ledger, row))
        except OverBudget as over:
            refusal = over
        for budget in budgets:
            spent = sum(amount for _, amount in self.counting(budget, but=row, by=ledger)) + self.unforgiven(budget)
            if spent + micro > budget.micro_usd:
                assert refusal is not None, budget
                assert refusal.awaited == self.given_back(budget)[0]
                expected, returns_in = self.refusal(budget, micro, ledger)
                assert (refusal.budget, refusal.spent) == (budget, expected)
                self.check_return(ledger, refusal.returns_in, returns_in)
                return
        assert refusal is None

    def go_on(self, ledger: Ledger, row: int) -> None:
        step = self.random.randrange(6)
        try:
            if step == 0:
                ledger.release(row)
            elif step == 1:
                ledger.record_resent(row)
            elif step == 2:
                outcomes = (
                    *(Outcome("settled", "0xt"), Outcome("rejected", counts_for=300), Outcome("unknown")),
                    *(Outcome("superseded", counts_for=600), Outcome("rejected")),
                    Outcome("settled", "0xt", charged=AtomicUnits(0), charged_micro_usd=0),
                )
                ledger.finish(row, self.random.choice(outcomes))
            elif step == 3:
                verdict: Any = self.random.choice(("moved", "dead"))
                block_time = self.random.choice((None, self.now // 1000))
                ledger.record_chain([ChainWord(row, verdict, "", block_time, None, self.random.choice((None, 0, 3)))])
            else:
                dies_in = self.random.choice((None, 60, 900, 1501, 90_000, 600_000))
                ledger.record_sent(row, f"nonce {row}", 0, Validity(dies_in=dies_in))
        except LedgerError:
            pass

    # What is to be expected, from the rows alone.

    def counting(self, budget: Budget, but: int | None = None, by: Ledger | None = None) -> list[tuple[int, int]]:
        """When each payment that counts was reserved, and its amount, oldest first.

        When the ledger `by` reserves, old reservations lapse: in a file its own, since others may be about to send.
        """
        lapsing = {row for ledger, row in self.rows if by is not None and by in (ledger, *self.servers)}
        now = self.now
        begin = -1 if budget.seconds is None else now - budget.seconds * 1000
        columns = "id, counted_at, micro_usd, state, free_at, model, path, unclear, uncounted, charged_micro_usd"
        ends = self.ends()
        found = []
        for row, reserved, micro, state, free_at, model, path, unclear, *rest in query(self.place, columns):
            uncounted, charged = rest
            at = reserved if reserved > begin or reserved <= begin - LONGEST_MS else ends[row]
            if (
                at <= begin
                or row == but
                or state in FREE
                or (row in lapsing and state == "reserved" and at < now - 300_000)
            ):
                continue
            is_due = free_at is not None and free_at <= now
            if matches(budget.scope, None if unclear else model, path, bool(unclear)) and not (
                is_due and state in PASSING
            ):
                found.append((at, charged if is_due and state == "settled" else micro - uncounted))
        return sorted(found)

    def ends(self) -> dict[int, int]:
        """Until when each payment counts as made, where it is older than a budget's period."""
        columns = "id, time, counted_at, dead_at, chain_state, chain_time, state"
        found = {}
        for row, time, at, dead_at, chain_state, chain_time, state in query(self.place, columns):
            is_long = state == "unknown" if dead_at is None else dead_at - at > 1_500_000
            end = at + 90_000_000 if dead_at is None else dead_at
            if chain_state == "moved" and chain_time is not None:
                end = at + chain_time * 1000 - time
            found[row] = end if is_long else at
        return found

    def unforgiven(self, budget: Budget) -> int:
        """What was given back without the chain's word: all of it if that is asked, else beyond the budget's size."""
        awaited, others = self.given_back(budget)
        return awaited + max(others - budget.micro_usd, 0)

    def given_back(self, budget: Budget) -> tuple[int, int]:
        begin = -1 if budget.seconds is None else self.now - budget.seconds * 1000
        columns = """id, counted_at, CASE state WHEN 'expired' THEN micro_usd ELSE uncounted END, state, free_at,
            charged_micro_usd, micro_usd - uncounted, model, path, unclear, network, scheme, wallet"""
        ends = self.ends()
        found = [0, 0]
        for row, at, micro, *rest in query(self.place, columns, "WHERE chain_state IS NULL"):
            state, free_at, charged, counts, model, path, unclear, network, scheme, wallet = rest
            due = 0
            if free_at is not None and free_at <= self.now:  # is about to be
                due = counts - charged if state == "settled" else counts if state in PASSING else 0
            if (at > begin or (at > begin - LONGEST_MS and ends[row] > begin)) and matches(
                budget.scope, None if unclear else model, path, bool(unclear)
            ):
                found[0 if network in self.watched and scheme != "gateway" and wallet else 1] += micro + due
        return found[0], found[1]

    def check_return(self, ledger: Ledger, found: float | None, as_they_leave: float | None) -> None:
        """Room may return later than payments leave the period where signatures outlive it, and earlier by expiry."""
        ends = self.ends()
        earliest = latest = math.inf if as_they_leave is None else as_they_leave
        if any(ends[row] > at for row, at in query(self.place, "id, counted_at")):
            latest = math.inf
        if isinstance(ledger, SqliteLedger) and query(
            self.place, "id", "WHERE free_at IS NOT NULL AND chain_state IS NULL"
        ):
            earliest = 0
        assert earliest - 0.001 <= (math.inf if found is None else found) <= latest + 0.001

    def refusal(self, budget: Budget, wanted: int, by: Ledger) -> tuple[int, float | None]:
        """What is spent, and in how many seconds enough payments have left the period."""
        counting = self.counting(budget, by=by)
        spent = sum(micro for _, micro in counting) + self.unforgiven(budget)
        if budget.seconds is None or wanted > budget.micro_usd:
            return spent, None
        needed = spent + wanted - budget.micro_usd
        for at, micro in counting:
            needed -= micro
            if needed <= 0:
                return spent, (at - self.now) / 1000 + budget.seconds
        return spent, budget.seconds

    def check(self, budget: Budget) -> None:
        found = [ledger.spent(budget) for ledger in self.ledgers]
        expected = sum(micro for _, micro in self.counting(budget)) + self.unforgiven(budget)
        assert found == [expected] * len(found), budget


def matches(scope: Scope, model: str | None, path: str, unclear: bool) -> bool:
    """As the ledger always did, but for the case of letters and for models that are unclear."""
    if scope.model and not unclear and (model is None or not fnmatchcase(model.lower(), scope.model)):
        return False
    pattern = scope.path.removeprefix("/api")
    return not pattern or any(
        fnmatchcase(written, f"{alias}{pattern}") for written in (path, f"{path}/") for alias in ("", "/api")
    )


@contextmanager
def history(seed: int, place: LedgerPlace) -> Iterator[History]:
    times: Any = DatabaseTimes(place) if isinstance(place, PostgresUrl) else MachineTimes(1.7e9 + seed * 12345.678)
    ledgers = [open_with(place, times) for _ in range(1 + seed % 2)]
    try:
        yield History(seed, place, times, ledgers)
    finally:
        for ledger in ledgers:
            ledger.close()
        if isinstance(times, DatabaseTimes):
            times.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_counts_is_what_a_sum_over_all_payments_says(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for seed in range(SEEDS[kind]):
        place = place_of(kind, tmp_path / str(seed), request)
        with history(seed, place) as one:
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
    """3000 in a month: no more parts than there are spans to its beginning and back."""
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
