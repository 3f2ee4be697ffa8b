"""Random payments and outcomes, and what of them counts by a sum over all of them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

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
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.limits.limits import Budget, Period, Scope
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl
from support.ledger.ledgers import DatabaseTimes, MachineTimes, open_with, query

MODELS = ("gpt-5", "gpt-5-mini", "GPT-5", "claude*", "", None)
PATHS = ("/v1/chat", "/api/v1/chat", "/v1/markets/1", "/api/v1/markets/2", "/api/api/v1/chat", "/apiary", "/")
MODEL_PATTERNS = ("", "", "gpt-5*", "gpt-?", "*", "none")
PATH_PATTERNS = ("", "", "/v1/chat", "/api/v1/chat", "/v1/markets/*", "/v1/chat/*", "/api", "/*", "/v1/market?/1")
BASE, SEPOLIA = Caip2("eip155:8453"), Caip2("eip155:84532")
PERIODS: tuple[Period, ...] = ("", "hour", "day", "month")
PAUSES = (0, 0, 0.001, 0.3, 1.024, 60, 301, 3599, 3600, 40_000, 86_400, 700_000, 2_592_000)


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
