"""Sums what counts against a budget in SQLite, in a few look-ups whatever the number of payments.

For each scope that a budget has used, the table `spending` holds sums over spans of time of several lengths (`LEVELS`).
Triggers maintain them: a payment is added to one span of each length when it is reserved, and subtracted when it is
freed. The sum since a given time then consists of the single payments up to the end of the shortest span, the shortest
spans up to the end of the next longer one (at most 63), and so on until now. A new scope is summed up from the payments
once. The few earlier payments whose signatures lived on (`interface.OUTLIVES`) are added one by one.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence

from ...limits.limits import Budget
from ..interface import FREE, LIVES_UNTIL, LONGEST_MS, OUTLIVES, OverBudget
from .schema import LEVELS, covered
from .statements import ALIVE, EARLIEST_MS, ENDING, LAST_CLOCK, NOT_RENEWED, RENEW

USED_MS = 24 * 3600 * 1000
"""Milliseconds between two updates of a scope's time of last use."""
KEPT_MS = 40 * 24 * 3600 * 1000
"""Milliseconds after which an unused scope is deleted when a new one is added: each costs time at every reservation."""

SET_BACK_MS = 60_000
"""Milliseconds; a clock that is set back by less leaves signatures valid for as long as was counted."""
KNOWN_MS = 1000
"""Milliseconds for which sums from the tables are used."""
MAX_KNOWN = 1000
"""Most budgets whose sums are cached."""

_FIND = "SELECT id, used_at, for_ever FROM scope WHERE model = ? AND path = ?"
_USE = "UPDATE scope SET used_at = ?, for_ever = for_ever OR ? WHERE id = ?"
_FORGET = (
    "DELETE FROM spending WHERE scope IN (SELECT id FROM scope WHERE used_at < ?)",
    "DELETE FROM scope WHERE used_at < ?",
)
_ADD = "INSERT INTO scope (model, path, used_at, for_ever) VALUES (?, ?, ?, ?)"
# CROSS JOIN keeps SQLite from scanning the payments first.
_COUNTED = f"""
    FROM scope CROSS JOIN payment WHERE scope.id = :scope AND payment.state NOT IN {FREE}
    AND {covered("payment")}"""
_SUM_UP = (
    f"""
    INSERT INTO spending SELECT :scope, {LEVELS[0]}, counted_at >> {LEVELS[0]} AS its_span, SUM(micro_usd - uncounted)
    {_COUNTED} GROUP BY its_span""",
    *(
        f"""
    INSERT INTO spending SELECT :scope, {longer}, span >> {longer - level} AS its_span, SUM(micro_usd)
    FROM spending WHERE scope = :scope AND level = {level} GROUP BY its_span"""
        for level, longer in itertools.pairwise(LEVELS)
    ),
)
# Each statement returns the level (0: single payments), the beginning and the sum of each span.
_PAYMENTS = f"""
    SELECT 0, counted_at AS starts, micro_usd - uncounted AS micro_usd {_COUNTED}
    AND counted_at >= :begin AND counted_at < :end"""
_OUTLIVING = f"""
    FROM scope CROSS JOIN payment INDEXED BY payment_outliving WHERE scope.id = :scope AND ({OUTLIVES})
    AND counted_at < :begin AND counted_at > :begin - {LONGEST_MS} AND {LIVES_UNTIL} >= :begin
    AND {covered("payment")}"""
_LIVE = f"""
    SELECT 0, {LIVES_UNTIL} AS starts, micro_usd - uncounted AS micro_usd {_OUTLIVING}
    AND payment.state NOT IN {FREE}"""
_SPANS = """
    SELECT level, span << level AS starts, micro_usd
    FROM spending WHERE scope = :scope AND level = {level} AND span >= {begin} AND span < {end}"""


def _next(level: int, begin: str = ":begin") -> str:
    """SQL for the end of the span before `begin`, from which spans of this length can be used."""
    return f"((({begin} - 1) >> {level}) + 1)"


def _since() -> str:
    """SQL for everything that counts from `:begin` on, in the fewest parts."""
    parts = [_PAYMENTS.replace(":end", f"({_next(LEVELS[0])} << {LEVELS[0]})")]
    for level, longer in itertools.pairwise(LEVELS):
        parts.append(_SPANS.format(level=level, begin=_next(level), end=f"({_next(longer)} << {longer - level})"))
    parts.append(_SPANS.format(level=LEVELS[-1], begin=_next(LEVELS[-1]), end=2**62))
    parts.append(_LIVE)
    return " UNION ALL ".join(parts)


_WATCHED = "INSTR(:watched, ' ' || network || ' ') AND scheme <> 'gateway' AND wallet <> ''"
# Amounts freed without the chain's word: whole payments, and parts of ceilings, an index each. In two sums: on networks
# that are watched, and on others.
FORGIVEN = f"""
    SELECT COALESCE(SUM(CASE WHEN watched THEN given_back END), 0),
        COALESCE(SUM(CASE WHEN watched IS NOT 1 THEN given_back END), 0)
    FROM (
        SELECT micro_usd AS given_back, {_WATCHED} AS watched FROM scope CROSS JOIN payment WHERE scope.id = :scope
        AND payment.state = 'expired' AND payment.chain_state IS NULL AND counted_at >= :begin AND {covered("payment")}
    UNION ALL
        SELECT uncounted, {_WATCHED} FROM scope CROSS JOIN payment WHERE scope.id = :scope
        AND payment.uncounted <> 0 AND payment.chain_state IS NULL AND payment.state <> 'expired'
        AND counted_at >= :begin AND {covered("payment")}
    UNION ALL
        SELECT CASE payment.state WHEN 'expired' THEN micro_usd ELSE uncounted END, {_WATCHED} {_OUTLIVING}
        AND payment.chain_state IS NULL)"""
# Amounts that will be freed without the chain's word, on networks that are not watched.
_EXPIRING = f"""
    SELECT free_at, CASE WHEN payment.state IN {ENDING} THEN micro_usd
        ELSE MAX(micro_usd - COALESCE(charged_micro_usd, micro_usd), 0) END - uncounted AS freed
    FROM scope CROSS JOIN payment WHERE scope.id = :scope AND free_at IS NOT NULL AND counted_at >= :begin
    AND payment.chain_state IS NULL AND ({_WATCHED}) IS NOT 1 AND {covered("payment")} ORDER BY free_at"""
SPENT = f"SELECT COALESCE(SUM(micro_usd), 0) FROM ({_since()})"
PARTS = f"{_since()} ORDER BY starts"
WITHIN = {
    0: f"{_PAYMENTS} ORDER BY starts",
    **{
        level: _SPANS.format(level=level, begin=f":begin >> {level}", end=f":end >> {level}") + " ORDER BY starts"
        for level in LEVELS
    },
}


class Spending:
    """Sums over one connection. Calls need a transaction, and those of `use` one that can write."""

    def __init__(self, db: sqlite3.Connection, write_departures: Callable[[], None]) -> None:
        self._db = db
        self._write_departures = write_departures
        self._behind = 0
        """Milliseconds by which the wall clock was behind the ledger's time at the last reservation."""
        self.watched = ""
        """The networks on which nothing is forgiven, with a blank before and after each."""

    def is_steady(self, now: int, wall: int) -> bool:
        """Whether the wall clock has not been set back since the last reservation of this process."""
        was, self._behind = self._behind, now - wall
        return self._behind <= was + SET_BACK_MS

    def keep_alive(self, now: int, wall: int) -> None:
        """Where the wall clock was set back since the last payment, count what is valid by it for as long as it is.

        What was signed while the clock was fast is valid later than it was meant to be. How the clock stood is told by
        the last row, whichever process made it.
        """
        last = self._db.execute(LAST_CLOCK).fetchone()
        if last is not None and now - wall > last[0] + SET_BACK_MS and wall > EARLIEST_MS:
            values = {"since": now - LONGEST_MS, "wall": wall, "behind": now - wall + SET_BACK_MS}
            self._db.execute(ALIVE, values)

    def find(self, budget: Budget) -> int | None:
        """The number of the budget's scope; None: `use` has to be called first."""
        found = self._db.execute(_FIND, _patterns(budget)).fetchone()
        return None if found is None else int(found[0])

    def use(self, budget: Budget, now: int) -> int:
        """The number of the budget's scope; a new one is summed up."""
        found = self._db.execute(_FIND, _patterns(budget)).fetchone()
        if found is None:
            return self._sum_up(budget, now)
        scope, used_at, for_ever = found
        if used_at < now - USED_MS or (budget.seconds is None and not for_ever):
            self._db.execute(_USE, (now, budget.seconds is None, scope))
        return int(scope)

    def _sum_up(self, budget: Budget, now: int) -> int:
        for statement in _FORGET:
            self._db.execute(statement, (now - KEPT_MS,))
        scope = self._db.execute(_ADD, (*_patterns(budget), now, budget.seconds is None)).lastrowid
        assert scope is not None
        for statement in _SUM_UP:
            self._db.execute(statement, {"scope": scope})
        return scope

    def spent(self, scope: int, budget: Budget, now: int) -> int:
        """Millionths of a dollar that count against `budget` at `now`."""
        values = {"scope": scope, "begin": _begin(budget, now)}
        spent = int(self._db.execute(SPENT, values).fetchone()[0])
        awaited, others = self._given_back(scope, budget, now)
        return spent + awaited + max(others - budget.micro_usd, 0)

    def _given_back(self, scope: int, budget: Budget, now: int) -> tuple[int, int]:
        """Amounts freed without the chain's word (`ledger.interface`): on watched networks, and on others."""
        values = {"scope": scope, "begin": _begin(budget, now), "watched": self.watched}
        awaited, others = self._db.execute(FORGIVEN, values).fetchone()
        return int(awaited), int(others)

    def find_rooms(self, budgets: Iterable[Budget], wanted: int, now: int) -> dict[Budget, int]:
        """`find_room` for each of `budgets`."""
        return {budget: self.find_room(budget, wanted, now) for budget in budgets}

    def find_room(self, budget: Budget, wanted: int, now: int) -> int:
        """Millionths of a dollar that count against `budget`. Raises OverBudget: there is no room for `wanted` more."""
        scope = self.use(budget, now)
        spent = self.spent(scope, budget, now)
        if spent + wanted > budget.micro_usd:
            raise self._over(scope, budget, spent, wanted, now)
        return spent

    def renew(self, row: int, until: tuple[int, int], budgets: Iterable[Budget], now: int) -> None:
        """Count the payment `row` until `until`, by the ledger's time and by the wall clock, whichever is later.

        Raises OverBudget: a budget has no room for what that adds.
        """
        scopes = [(self.use(budget, now), budget) for budget in budgets]
        before = [self.spent(scope, budget, now) for scope, budget in scopes]
        (died_at,) = self._db.execute("SELECT dead_at FROM payment WHERE id = ?", (row,)).fetchone()
        self._db.execute(RENEW, (*until, row))
        for (scope, budget), spent in zip(scopes, before, strict=True):
            more = self.spent(scope, budget, now) - spent
            if spent + more > budget.micro_usd:
                self._db.execute(NOT_RENEWED, (died_at, row))
                raise self._over(scope, budget, spent, more, now)

    def _over(self, scope: int, budget: Budget, spent: int, wanted: int, now: int) -> OverBudget:
        awaited, others = self._given_back(scope, budget, now)
        if wanted > budget.micro_usd:
            return OverBudget(budget, spent, None, awaited)
        needed = spent + wanted - budget.micro_usd
        freed_at = self._freed_at(scope, budget, now, needed) if others + needed <= budget.micro_usd else None
        if budget.seconds is None:
            return OverBudget(budget, spent, None if freed_at is None else (freed_at - now) / 1000, awaited)
        self._write_departures()  # they say how long the signatures live
        at = self.leaves_at(scope, budget, now, needed) + budget.seconds * 1000
        if self.spent(scope, budget, at) + wanted > budget.micro_usd:
            at = self._outlived_at(scope, budget, wanted, at)
        return OverBudget(budget, spent, (min(at, freed_at or at) - now) / 1000, awaited)

    def _freed_at(self, scope: int, budget: Budget, now: int, needed: int) -> int | None:
        """When `needed` of what counts will have expired by itself, as after a rejection, and is forgiven; or None."""
        values = {"scope": scope, "begin": _begin(budget, now), "watched": self.watched}
        for free_at, micro_usd in self._db.execute(_EXPIRING, values):
            needed -= micro_usd
            if needed <= 0:
                return int(free_at)
        return None

    def _outlived_at(self, scope: int, budget: Budget, wanted: int, at: int) -> int:
        """The first millisecond after `at` with room for `wanted`, where signatures outlive the period they are in."""
        assert budget.seconds is not None
        until = at + LONGEST_MS + budget.seconds * 1000
        while until - at > 1:
            middle = (at + until) // 2
            if self.spent(scope, budget, middle) + wanted > budget.micro_usd:
                at = middle
            else:
                until = middle
        return until

    def leaves_at(self, scope: int, budget: Budget, now: int, needed: int) -> int:
        """Reservation time of the payment whose leaving the period frees `needed`; its end if it outlives one."""
        values = {"scope": scope, "begin": _begin(budget, now)}
        parts: Iterable[tuple[int, int, int]] = self._db.execute(PARTS, values)
        while True:
            for level, starts, micro_usd in parts:  # noqa: B007 - used below
                if micro_usd >= needed:
                    break
                needed -= micro_usd
            else:  # the rest is beyond what is forgiven, and counts until the period is over
                return now
            if not level:
                return starts
            shorter = (0, *LEVELS)[LEVELS.index(level)]
            values = {"scope": scope, "begin": starts, "end": starts + (1 << level)}
            parts = self._db.execute(WITHIN[shorter], values)


class Room:
    """Caches the sums of budgets while no other process writes to the file of the connection `db`.

    Sums grow only by reservations, which are added here, and by a few other changes, after which `forget` is called. So
    a cached sum is never too low. If it leaves no room, or is older than KNOWN_MS, the tables are read again.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._version = self._found = -1
        """PRAGMA data_version, which only changes by others alter: when the sums were read, and at the last look."""
        self._asked_at = self._last_at = 0
        self._cumulative = 0
        self._spent: dict[int, tuple[Budget, int]] = {}
        """Budgets and their sums, by the budgets' `id`, which takes no call to compare."""

    def forget(self) -> None:
        """Drop the cached sums, because they may have grown."""
        self._spent = {}
        self._version = -1

    def known(self, now: int, wanted: int, budgets: Sequence[Budget]) -> tuple[int, int] | None:
        """The ledger's time and the sum ever reserved, if `wanted` is known to fit all `budgets`; else None.

        Called in a transaction that keeps other writers out.
        """
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        self._found = version
        if version != self._version:
            self.forget()
            return None
        if not self._asked_at <= now < self._asked_at + KNOWN_MS:
            return None
        for budget in budgets:
            known = self._spent.get(id(budget))
            if known is None or known[1] + wanted > budget.micro_usd:
                return None
        return max(now, self._last_at), self._cumulative

    def reserved(self, now: int, cumulative: int, micro_usd: int, spent: Mapping[Budget, int], *, is_new: bool) -> None:
        """Add a reservation of `micro_usd` at `now`, after `cumulative`; `is_new`: cache `spent` first, just read."""
        if is_new:
            self._asked_at, self._version = now, self._found
            if len(self._spent) >= MAX_KNOWN:  # those of options that have changed since
                self._spent = {}
            self._spent |= {id(budget): (budget, micro_usd) for budget, micro_usd in spent.items()}
        self._last_at, self._cumulative = now, cumulative + micro_usd
        for key, (budget, known) in self._spent.items():  # also if it does not cover the request: too high is safe
            self._spent[key] = budget, known + micro_usd


def _begin(budget: Budget, now: int) -> int:
    """The first millisecond of the budget's period."""
    return 0 if budget.seconds is None else now - budget.seconds * 1000 + 1


def _patterns(budget: Budget) -> tuple[str, str]:
    return budget.scope.patterns
