"""The arithmetic of prices: formulas that fit what was seen, and none where nothing fits."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.forecast.fit import MARGIN, fit, simplest
from support.paying.forecasts import Shop, asked


@given(st.integers(0, 400), st.integers(1, 40), st.integers(1, 400), st.integers(1, 40))
def test_the_simplest_fraction_is_the_one_with_the_smallest_denominator(a: int, b: int, c: int, d: int) -> None:
    low, high = Fraction(a, b), Fraction(a, b) + Fraction(c, d)
    found = simplest(low.numerator, low.denominator, high.numerator, high.denominator)
    assert low < found < high
    for denominator in range(1, found.denominator):
        assert floor(low * denominator) + 1 >= high * denominator  # no numerator fits in between


def test_what_was_never_above_zero_may_be_zero() -> None:
    assert simplest(-1, 3, 1, 2) == 0
    assert simplest(5, 1, 1, 0) == 6


PRICE_LISTS: dict[str, Callable[[int, int], int]] = {
    "the sandbox's": lambda size, limit: max(1000, ceil(size / 4) + 5 * limit),
    "whole prices a token": lambda size, limit: 3 * ceil(size / 4) + 15 * limit,
    "whole prices a byte": lambda size, limit: 2 * size + limit,
    "0.15 and 0.60 a token": lambda size, limit: ceil(Fraction(15, 100) * ceil(size / 4) + Fraction(60, 100) * limit),
    "0.25 and 2, and a minimum": lambda size, limit: max(900, ceil(size / 16 + 2 * limit)),
    "with a margin, rounded": lambda size, limit: floor(Fraction(105, 100) * (size // 4 + 5 * limit) + Fraction(1, 2)),
    "the message alone is counted": lambda size, limit: ceil((size - 61) / 4) + 5 * limit,
    "one price": lambda _size, _limit: 3000,
}
FRACTIONS = ("0.15 and 0.60 a token", "0.25 and 2, and a minimum", "with a margin, rounded")
"""Those whose fractions need requests of very different sizes to be told from others."""


def conversation(seed: int) -> list[tuple[int, int]]:
    """Each request repeats all that was said before, as agents do; the output limit is changed now and then."""
    chance = random.Random(seed)
    size, limit, found = 300, 1024, []
    for _ in range(60):
        size += chance.randint(40, 2500)
        if chance.random() < 0.1:
            limit = chance.choice([256, 1024, 4096])
        found.append((size, limit))
    return found


def at_random(seed: int) -> list[tuple[int, int]]:
    chance = random.Random(seed)
    return [(chance.randint(100, 9000), chance.choice([16, 100, 1024])) for _ in range(60)]


def short_questions(seed: int) -> list[tuple[int, int]]:
    chance = random.Random(seed)
    return [(chance.randint(100, 260), 500) for _ in range(60)]


def play(gateway: Callable[[int, int], int], requests: list[tuple[int, int]]) -> tuple[int, int, int]:
    """How many of `requests` were foretold rightly, wrongly, and not at all. What was foretold rightly teaches nothing:
    there was no challenge.
    """
    shop = Shop()
    right = wrong = silent = 0
    for size, limit in requests:
        question, price = asked(size, limit), gateway(size, limit)
        said = shop.predict(question)
        if said is None:
            silent += 1
            shop.sell(question, price)
        elif said.required.accepts[0].amount == price:
            right += 1
            shop.forecast.right(said)
        else:
            wrong += 1
            shop.forecast.wrong(said)
            shop.sell(question, price)
    return right, wrong, silent


@pytest.mark.parametrize("name", PRICE_LISTS)
@pytest.mark.parametrize("requests", [conversation, at_random, short_questions])
def test_price_lists_are_learnt(name: str, requests: Callable[[int], list[tuple[int, int]]]) -> None:
    results = [play(PRICE_LISTS[name], requests(seed)) for seed in range(4)]
    right, wrong, _ = (sum(column) for column in zip(*results, strict=True))
    assert wrong <= (right // 100 if name in FRACTIONS else 0)
    assert right >= (190 if name not in FRACTIONS else 170 if requests is conversation else 0)  # of 240


def test_a_minimum_is_expected_a_little_further_and_no_lower() -> None:
    formula = fit([(1000, 10, 500), (1200, 20, 500)], price=True)
    assert formula is not None
    assert formula(1100, 10) == formula(1200, 20) == formula(int(1200 * MARGIN), 20) == (500, 500)
    assert formula(int(1200 * MARGIN) + 1, 20) is formula(999, 10) is formula(1000, 9) is formula(1200, 21) is None
    text = fit([(1000, 10, 500), (1200, 20, 500)], price=False)
    assert text is not None
    assert text(1, 1) == (500, 500)


def test_a_formula_keeps_to_what_varied() -> None:
    formula = fit([(10, 7, 30), (20, 7, 60), (30, 7, 90)], price=True)
    assert formula is not None
    assert formula(1000, 7) == (3000, 3000)
    assert formula(1000, 8) is None
    assert formula(9, 7) is None  # cheaper than anything seen: there may be a minimum


def test_what_is_not_sure_is_not_said() -> None:
    """Four bytes a token: two points do not tell where a token ends."""
    points = [(size, 7, ceil(size / 4)) for size in (401, 801)]
    formula = fit(points, price=True)
    assert formula is not None
    said = {size: formula(size, 7) for size in range(900, 912)}
    assert any(span and span[0] < span[1] for span in said.values())
    assert all(span and span[0] <= ceil(size / 4) <= span[1] for size, span in said.items())


@pytest.mark.parametrize(
    "points",
    [
        [(1, 1, 5), (2, 1, 9), (3, 1, 4)],
        [(1, 1, 9), (2, 1, 5), (3, 1, 7)],
        [(10, 1, 5), (20, 2, 9)],  # by size, or by the limit?
        [(10, 1, 10), (20, 2, 20), (30, 3, 30), (40, 4, 41)],
        [(100, 1, 50), (117, 1, 53)],  # 2/11 as well as 3/17
    ],
)
def test_what_fits_no_formula_has_none(points: list[tuple[int, int, int]]) -> None:
    assert fit(points, price=True) is None


def test_requests_of_which_no_two_share_anything() -> None:
    chance = random.Random(5)
    points = [
        (x, y, ceil(x / 4) + y // 2) for x, y in zip(*(chance.sample(range(2000), 10) for _ in "xy"), strict=True)
    ]
    formula = fit(points, price=True)
    assert formula is not None
    low, high = formula(3000, 1501) or (0, 0)
    assert low <= 1500 <= high <= low + 1
    assert fit(points[:2], price=True) is None
