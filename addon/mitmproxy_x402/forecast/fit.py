"""Fits a price formula to known prices and predicts the next one, in exact integer arithmetic.

A price is assumed to be `max(least, floor(a * x + b * y + c))`, where x is a measure of the request's size, y its
output limit, and a, b and c are fractions. Any rounding is a floor with another c: the ceiling of n/4 is the floor of
(n+3)/4. The known prices leave an interval for each of a, b and c. For a and b the simplest fraction in it is used,
since price lists are written by people; the next challenge shows whether that is right. For c the whole interval is
kept: if its ends give different prices, the result is a span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, combinations
from math import lcm

Point = tuple[int, int, int]
"""x, y, and the number in the challenge. No two points of a series have the same x and y."""
Span = tuple[int, int]
"""The least and the greatest value that a number may have."""
Formula = Callable[[int, int], "Span | None"]
"""Gives the number for an x and a y; None: not known there."""

CHANCE = Fraction(1, 4)
"""Bound for a fraction to be no coincidence: an interval of width w has one with a denominator near the root of 1/w."""
TRIED = 6
"""Most points of which each pair is combined with the first; more would add little."""
MARGIN = 1.5
"""Factor in size up to which a price that never changed is expected for larger requests."""


def fit(points: Sequence[Point], *, price: bool) -> Formula | None:
    """The formula of `points`, or None: no formula of that form fits them all, or they are too few.

    A `price` that never changed may be a minimum, so it is used only near known requests. Other numbers that never
    changed are part of a text.
    """
    least = min(value for _, _, value in points)
    if all(value == least for _, _, value in points):
        return _Flat(points) if price else _Constant(least)
    plane = _plane(points)
    if plane is not None:
        return _Above(plane, least)
    higher = [point for point in points if point[2] > least]
    plane = _plane(higher)
    # A price below the minimum shows as the minimum.
    if plane is None or any(plane.lowest(x, y) > least for x, y, value in points if value == least):
        return None
    return _AtLeast(plane, least)


@dataclass(frozen=True)
class _Constant:
    """The same number for every request."""

    value: int

    def __call__(self, x: int, y: int) -> Span | None:  # noqa: ARG002 - a Formula
        return self.value, self.value


@dataclass(frozen=True)
class _Flat:
    """The same price for all known requests, which may be a minimum.

    Used for requests between a known one that is smaller in both x and y and one that is larger in y and not much
    smaller in x.
    """

    points: Sequence[Point]

    def __call__(self, x: int, y: int) -> Span | None:
        value = self.points[0][2]
        below = any(px <= x and py <= y for px, py, _ in self.points)
        above = any(px * MARGIN >= x and py >= y for px, py, _ in self.points)
        return (value, value) if below and above else None


@dataclass(frozen=True)
class _Plane:
    """`floor((a * x + b * y + c) / unit)` with `low <= c < high`; if x or y never varied, for that value only."""

    a: int
    b: int
    unit: int
    low: int
    high: int
    only_x: int | None
    only_y: int | None

    def lowest(self, x: int, y: int) -> int:
        """The least value at a point."""
        return (self.a * x + self.b * y + self.low) // self.unit

    def at(self, x: int, y: int) -> Span | None:
        """The span at a point; None: x or y differs from a value that never varied."""
        if (self.only_x is not None and x != self.only_x) or (self.only_y is not None and y != self.only_y):
            return None
        return self.lowest(x, y), (self.a * x + self.b * y + self.high - 1) // self.unit


@dataclass(frozen=True)
class _Above:
    """A plane without a known minimum; below `least`, the smallest known price, there may be one."""

    plane: _Plane
    least: int

    def __call__(self, x: int, y: int) -> Span | None:
        span = self.plane.at(x, y)
        return None if span is None or span[0] < self.least else span


@dataclass(frozen=True)
class _AtLeast:
    """A plane with a known minimum."""

    plane: _Plane
    least: int

    def __call__(self, x: int, y: int) -> Span | None:
        span = self.plane.at(x, y)
        return None if span is None else (max(span[0], self.least), max(span[1], self.least))


def _plane(points: Sequence[Point]) -> _Plane | None:
    """The plane through `points`; None: none has simple slopes, or the points do not determine it."""
    if not points:
        return None
    xs, ys = {x for x, _, _ in points}, {y for _, y, _ in points}
    slopes = _identity(points) or _slopes(points, len(xs) > 1, len(ys) > 1)
    if slopes is None:
        return None
    unit = lcm(slopes[0].denominator, slopes[1].denominator)
    a, b = (slope.numerator * (unit // slope.denominator) for slope in slopes)
    rests = [value * unit - a * x - b * y for x, y, value in points]
    low, high = max(rests), min(rests) + unit
    if low >= high:
        return None
    only_x, only_y = (next(iter(each)) if len(each) == 1 else None for each in (xs, ys))
    return _Plane(a, b, unit, low, high, only_x, only_y)


def _identity(points: Sequence[Point]) -> tuple[Fraction, Fraction] | None:
    """The slopes of a number that is x or y itself, as in descriptions; None: it is neither."""
    if all(value == x for x, _, value in points):
        return Fraction(1), Fraction(0)
    return (Fraction(0), Fraction(1)) if all(value == y for _, y, value in points) else None


def _slopes(points: Sequence[Point], x_varies: bool, y_varies: bool) -> tuple[Fraction, Fraction] | None:
    turned = [(y, x, value) for x, y, value in points]
    if not (x_varies and y_varies):
        a = _slope(_pairs(points)) if x_varies else Fraction(0)
        b = _slope(_pairs(turned)) if y_varies else Fraction(0)
        return None if a is None or b is None else (a, b)
    found = _one_after_the_other(points)
    if found is not None:
        return found
    found = _one_after_the_other(turned)
    return None if found is None else (found[1], found[0])


def _one_after_the_other(points: Sequence[Point]) -> tuple[Fraction, Fraction] | None:
    """The slope in x, then the slope in y of the rest; None: there is none."""
    a = _slope(chain(_pairs(points), _triples(points)))
    if a is None:
        return None
    scale = a.denominator
    b = _slope(_pairs([(y, 0, value * scale - a.numerator * x) for x, y, value in points], scale))
    return None if b is None else (a, b / scale)


Rise = tuple[int, int, int]
"""A distance above 0, the rise over it, and a bound that the rise's error is below."""


def _pairs(points: Sequence[Point], slack: int = 1) -> Iterator[Rise]:
    """The rises in x between points with the same y, each of which is less than `slack` above its plane."""
    for (x, y, value), (other_x, other_y, other) in combinations(points, 2):
        if y == other_y and x != other_x:
            yield (x - other_x, value - other, slack) if x > other_x else (other_x - x, other - value, slack)


def _triples(points: Sequence[Point]) -> Iterator[Rise]:
    """The rises in x that follow from the first point and two others, by Cramer's rule."""
    x, y, value = points[0]
    others = [(px - x, py - y, pv - value) for px, py, pv in points[-TRIED:]]
    for (x1, y1, v1), (x2, y2, v2) in combinations(others, 2):
        turn = x1 * y2 - x2 * y1
        if turn:
            rise = v1 * y2 - v2 * y1
            yield abs(turn), rise if turn > 0 else -rise, abs(y1) + abs(y2)


def _slope(rises: Iterator[Rise]) -> Fraction | None:
    """The simplest slope, not below 0, that all `rises` allow.

    None: there is none, or it is not simple enough to be more than a coincidence.
    """
    low_n, low_d, high_n, high_d = -1, 1, 1, 0  # in integers: this runs for every pair
    for apart, rise, slack in rises:
        if (rise - slack) * low_d > low_n * apart:
            low_n, low_d = rise - slack, apart
        if (rise + slack) * high_d < high_n * apart:
            high_n, high_d = rise + slack, apart
    if not high_d or high_n <= 0 or low_n * high_d >= high_n * low_d:
        return None
    found = simplest(low_n, low_d, high_n, high_d)
    width = Fraction(high_n, high_d) - Fraction(low_n, low_d)
    return found if width * found.denominator**2 <= CHANCE else None


def simplest(low_n: int, low_d: int, high_n: int, high_d: int) -> Fraction:
    """The fraction with the smallest denominator strictly between two, not below 0; a denominator of 0 is infinity."""
    if low_n < 0:
        return Fraction(0)
    whole = low_n // low_d
    if not high_d or (whole + 1) * high_d < high_n:
        return Fraction(whole + 1)
    # No integer in between: both have the same integer part, so continue with the reciprocals of the rest.
    rest = simplest(high_d, high_n - whole * high_d, low_d, low_n - whole * low_d)
    return whole + 1 / rest
