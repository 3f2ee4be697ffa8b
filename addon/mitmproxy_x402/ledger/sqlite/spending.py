"""Sums what counts against a budget in SQLite, in a few look-ups however many payments there are.

For each scope that a budget ever asked for, `spending` holds sums of what its payments count for, over spans of time of
several lengths (`LEVELS`). The file's triggers keep them: a payment is in one span of each length from its reservation
on, and taken out of them when it is freed. So everything since some moment is: the payments themselves up to the end of
the shortest span that the moment is in, the shortest spans up to the end of the next longer one, at most 63 of them,
and so on up to now. A new scope has to be summed up from the payments once.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable

from ...limits.limits import Budget
from ..interface import FREE
from .schema import LEVELS, covered

USED_MS = 24 * 3600 * 1000
"""A use of a scope is noted no sooner than this after the last one that was."""
KEPT_MS = 40 * 24 * 3600 * 1000
"""A scope that nobody used for so long is forgotten when another one comes: each costs at every reservation."""

_FIND = "SELECT id, used_at, for_ever FROM scope WHERE model = ? AND path = ?"
_USE = "UPDATE scope SET used_at = ?, for_ever = for_ever OR ? WHERE id = ?"
_FORGET = (
    "DELETE FROM spending WHERE scope IN (SELECT id FROM scope WHERE used_at < ?)",
    "DELETE FROM scope WHERE used_at < ?",
)
_ADD = "INSERT INTO scope (model, path, used_at, for_ever) VALUES (?, ?, ?, ?)"
# With the scope's number. CROSS JOIN keeps SQLite from going through the payments first.
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
# Each gives the length of spans (0: single payments), where in time each begins, and its sum.
_PAYMENTS = f"""
    SELECT 0, counted_at AS starts, micro_usd - uncounted AS micro_usd {_COUNTED}
    AND counted_at >= :begin AND counted_at < :end"""
_SPANS = """
    SELECT level, span << level AS starts, micro_usd
    FROM spending WHERE scope = :scope AND level = {level} AND span >= {begin} AND span < {end}"""


def _next(level: int, begin: str = ":begin") -> str:
    """The end of the span that the moment before `begin` is in: where spans of this length may be taken from."""
    return f"((({begin} - 1) >> {level}) + 1)"


def _since() -> str:
    """Everything that counts from `:begin` on, in as few parts as there are."""
    parts = [_PAYMENTS.replace(":end", f"({_next(LEVELS[0])} << {LEVELS[0]})")]
    for level, longer in itertools.pairwise(LEVELS):
        parts.append(_SPANS.format(level=level, begin=_next(level), end=f"({_next(longer)} << {longer - level})"))
    parts.append(_SPANS.format(level=LEVELS[-1], begin=_next(LEVELS[-1]), end=2**62))
    return " UNION ALL ".join(parts)


# What was given back without the chain's word: whole payments, and parts of ceilings. An index each.
FORGIVEN = f"""
    SELECT (SELECT COALESCE(SUM(micro_usd), 0) FROM scope CROSS JOIN payment WHERE scope.id = :scope
        AND payment.state = 'expired' AND payment.chain_state IS NULL AND counted_at >= :begin AND {covered("payment")})
    + (SELECT COALESCE(SUM(uncounted), 0) FROM scope CROSS JOIN payment WHERE scope.id = :scope
        AND payment.uncounted <> 0 AND payment.chain_state IS NULL AND payment.state <> 'expired'
        AND counted_at >= :begin AND {covered("payment")})"""
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
    """Asks one connection's file. Every call belongs into a transaction; those with `use` into one that may write."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def find(self, budget: Budget) -> int | None:
        """The number of its scope; None where it has to be used first."""
        found = self._db.execute(_FIND, _patterns(budget)).fetchone()
        return None if found is None else int(found[0])

    def use(self, budget: Budget, now: int) -> int:
        """The number of its scope, which is summed up where it is new."""
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
        # What was given back without the chain's word: see `ledger.interface`.
        return spent + max(int(self._db.execute(FORGIVEN, values).fetchone()[0]) - budget.micro_usd, 0)

    def leaves_at(self, scope: int, budget: Budget, now: int, needed: int) -> int:
        """When the payment was reserved with which `needed` of what counts will have left the period of `budget`."""
        values = {"scope": scope, "begin": _begin(budget, now)}
        parts: Iterable[tuple[int, int, int]] = self._db.execute(PARTS, values)
        while True:
            for level, starts, micro_usd in parts:  # noqa: B007 - used below
                if micro_usd >= needed:
                    break
                needed -= micro_usd
            else:  # the rest is not forgiven: that is over when the whole period is
                return now
            if not level:
                return starts
            shorter = (0, *LEVELS)[LEVELS.index(level)]
            values = {"scope": scope, "begin": starts, "end": starts + (1 << level)}
            parts = self._db.execute(WITHIN[shorter], values)


def _begin(budget: Budget, now: int) -> int:
    """The first millisecond that is in its period."""
    return 0 if budget.seconds is None else now - budget.seconds * 1000 + 1


def _patterns(budget: Budget) -> tuple[str, str]:
    return budget.scope.patterns
