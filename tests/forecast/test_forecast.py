"""What is foretold is exact or not said: the arithmetic, the terms, and when a quote may be used."""

from __future__ import annotations

import copy
import gc
import json
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.forecast.fit import MARGIN, fit, simplest
from mitmproxy_x402.forecast.forecast import CONFIRM_SECONDS, MAX_QUOTES, MOST_TRUST, TRUST, Forecast, Prediction
from mitmproxy_x402.forecast.quote import MAX_BODY, MAX_POINTS, Question, read_question
from mitmproxy_x402.forecast.terms import MAX_NUMBERS, MAX_TERMS, take_apart, with_blockhash
from mitmproxy_x402.protocol.messages import PaymentRequired
from mitmproxy_x402.protocol.payment_required import read_payment_required
from support import challenges

FIXTURES = Path(__file__).parents[1] / "fixtures" / "402"
PLACE = ("POST", "https://sol.blockrun.ai:443", "/v1/chat/completions")
NOW = 1_800_000_000.0
WORDS = '["Payment required", {}]'
ENOUGH = TRUST + 1
"""Equal requests after which the next is foretold."""


def read(message: dict[str, Any]) -> PaymentRequired:
    required = read_payment_required(None, json.dumps(message).encode())
    assert required is not None
    return required


def asked(size: int, limit: int | None = 100, characters: int | None = None, model: str = "m") -> Question:
    return Question(PLACE, model, size, size if characters is None else characters, limit)


# The arithmetic.


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


# The terms.


def recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((FIXTURES / name).read_text()))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("402-base-v2-chat-body.json", (13081,)),
        ("402-base-v2-exa.json", (3000,)),
        ("402-solana-v2-chat.json", (11961, 11566, 1024, 11566, 1024)),
        ("402-solana-v2-small.json", (1000, 17, 16, 17, 16)),
    ],
)
def test_recorded_challenges_are_taken_apart_and_put_together(name: str, numbers: tuple[int, ...]) -> None:
    required = read(recorded(name))
    entry = required.accepts[0]
    taken = take_apart(required, entry)
    assert taken is not None
    terms, found = taken
    assert found == numbers
    again = terms.ask(numbers)
    assert again.accepts == (entry,)
    assert (again.resource, again.extensions) == (required.resource, required.extensions)
    other = terms.ask(tuple(number + 1 for number in numbers))
    assert other.accepts[0].amount == numbers[0] + 1
    assert other.accepts[0].raw["amount"] == str(numbers[0] + 1)
    assert entry.raw == recorded(name)["accepts"][0]  # nothing was changed in place


def test_numbers_are_put_back_where_they_were() -> None:
    required = read(recorded("402-solana-v2-small.json"))
    taken = take_apart(required, required.accepts[0])
    assert taken is not None
    made = taken[0].ask((2000, 170, 160, 171, 161))
    assert made.accepts[0].extra["description"] == "GPT-4o Mini API call (~170 input, 160 max output tokens)"
    assert made.accepts[0].extra["feePayer"] == required.accepts[0].extra["feePayer"]
    assert made.resource["description"] == "GPT-4o Mini API call (~171 input, 161 max output tokens)"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("4 of 007, 1.5 and 2,000 for $3 (x4, 5y) 6.", (4, 3, 6)),
        ("costs 0 to 12", (0, 12)),
        ("9" * 19, ()),
    ],
)
def test_which_numbers_are_read(text: str, numbers: tuple[int, ...]) -> None:
    required = read(challenges.evm("7") | {"resource": {"description": text}})
    taken = take_apart(required, required.accepts[0])
    assert taken is not None
    assert taken[1] == (7, *numbers)
    assert taken[0].ask((7, *numbers)).resource == {"description": text}


@pytest.mark.parametrize("text", ["1 " * (MAX_NUMBERS + 1), "x" * MAX_TERMS])
def test_what_is_too_much_is_not_remembered(text: str) -> None:
    required = read(challenges.evm("7") | {"resource": {"description": text}})
    assert take_apart(required, required.accepts[0]) is None
    shop = Shop()
    shop.teach(asked(100), 10)
    assert shop.predict(asked(100)) is not None
    shop.forecast.learn(asked(100), required, required.accepts[0], WORDS, NOW)
    assert shop.predict(asked(100)) is None


def test_a_blockhash_is_put_where_one_was() -> None:
    with_one = read(challenges.svm(recentBlockhash="old", lastValidBlockHeight="1"))
    renewed = with_blockhash(with_one, "new", 2)
    assert renewed is not None
    entry = renewed.accepts[0]
    assert entry.extra == entry.raw["extra"]
    assert (entry.extra["recentBlockhash"], entry.extra["lastValidBlockHeight"]) == ("new", "2")
    assert with_one.accepts[0].raw["extra"]["recentBlockhash"] == "old"
    assert with_blockhash(with_one, "new", None) is None
    without = read(challenges.svm())
    assert with_blockhash(without, "new", None) == without


# The quotes.


@dataclass
class Shop:
    """A forecast and the clock it is asked by."""

    now: float = NOW

    def __post_init__(self) -> None:
        self.forecast = Forecast()

    def sell(
        self, question: Question, price: int, message: dict[str, Any] | None = None, *, spoke: bool = True
    ) -> None:
        """One ordinary handshake."""
        required = read(challenges.evm(str(price)) if message is None else message)
        self.forecast.learn(question, required, required.accepts[0], WORDS, self.now)
        self.forecast.acknowledged(question, spoke)

    def teach(self, question: Question, price: int, message: dict[str, Any] | None = None) -> None:
        for _ in range(ENOUGH):
            self.sell(question, price, message)

    def predict(self, question: Question) -> Prediction | None:
        said = self.forecast.predict(question, self.now)
        assert said is None or self.forecast.expects(question.place)
        return said

    def price(self, question: Question) -> int | None:
        said = self.predict(question)
        return None if said is None else said.required.accepts[0].amount


def test_equal_requests_are_foretold_after_three_that_were() -> None:
    shop = Shop()
    for _ in range(ENOUGH):
        assert shop.predict(asked(100)) is None
        assert not shop.forecast.expects(PLACE)
        shop.sell(asked(100), 10)
    said = shop.predict(asked(100))
    assert said is not None
    assert said.required == replace(read(challenges.evm("10")), error=None)
    assert (said.received, said.challenge_text) == (NOW, WORDS)
    assert shop.predict(asked(101)) is shop.predict(asked(100, model="n")) is shop.predict(asked(100, None)) is None
    assert not shop.forecast.expects(("GET", *PLACE[1:]))


def test_a_rule_is_trusted_for_what_it_foretold_itself() -> None:
    """Equal requests say nothing of larger ones: one more point makes a line, but none that was tried."""
    shop = Shop()
    shop.teach(asked(100), 25)
    shop.sell(asked(140), 35)
    assert shop.price(asked(140)) == 35
    assert shop.price(asked(180)) is None
    for size in (180, 220, 260):
        shop.sell(asked(size), size // 4)
    assert shop.price(asked(300)) == 75


def changed(path: str, value: Any) -> dict[str, Any]:
    message: dict[str, Any] = copy.deepcopy(challenges.evm("10"))
    message["extensions"] = {"bazaar": {"info": 1}}
    if path:
        *parents, last = path.split(".")
        place: Any = message
        for name in parents:
            place = place[int(name)] if name.isdecimal() else place[name]
        place[last] = value
    return message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("accepts.0.payTo", "0xe9030014F5DAe217d0A152f02A043567b16c1aBe"),
        ("accepts.0.asset", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
        ("accepts.0.network", "eip155:8453"),
        ("accepts.0.scheme", "upto"),
        ("accepts.0.maxTimeoutSeconds", 301),
        ("accepts.0.extra", {"name": "USDC", "version": "3"}),
        ("accepts.0.extra", {"name": "USDC", "version": "2", "paymentFlow": "upfront"}),
        ("accepts.0.more", True),
        ("resource.url", "http://y"),
        ("extensions.bazaar.info", 2),
        ("resource", {"url": "http://x", "description": "1 token"}),
    ],
)
def test_other_terms_are_learnt_anew(path: str, value: Any) -> None:
    shop = Shop()
    shop.teach(asked(100), 10, changed("", None))
    assert shop.price(asked(100)) == 10
    for _ in range(ENOUGH):
        shop.sell(asked(100), 10, changed(path, value))
        ready = shop.predict(asked(100))
    assert ready is not None
    shop.sell(asked(100), 10, changed("", None))
    assert shop.predict(asked(100)) is None


def test_a_blockhash_changes_nothing() -> None:
    shop = Shop()
    for number in range(ENOUGH):
        shop.sell(asked(100), 0, challenges.svm(recentBlockhash=f"hash-{number}", lastValidBlockHeight=str(number)))
    said = shop.predict(asked(100))
    assert said is not None
    assert said.required.accepts[0].extra["recentBlockhash"] == f"hash-{TRUST}"


def test_the_numbers_in_texts_are_foretold_too() -> None:
    def message(size: int, limit: int) -> dict[str, Any]:
        text = f"An API call (~{ceil(size / 4)} input, {limit} max output tokens)"
        price = str(max(1000, ceil(size / 4) + 5 * limit))
        made = challenges.svm(description=text, recentBlockhash="h")
        made["accepts"][0]["amount"] = price
        return made | {"resource": {"description": text, "url": "http://x"}}

    shop = Shop()
    for size in (1000, 1100, 1290, 1500, 1801):
        shop.sell(asked(size, 500), 0, message(size, 500))
    said = shop.predict(asked(2402, 500))
    assert said is not None
    real = read(message(2402, 500))
    assert said.required.accepts == real.accepts
    assert said.required.resource == real.resource
    assert shop.predict(asked(2402, 600)) is None


def test_bytes_and_characters_are_told_apart() -> None:
    shop = Shop()
    for size in (100, 140, 180, 220, 260):
        shop.sell(asked(size), size)
    assert shop.price(asked(300)) == 300
    assert shop.price(asked(300, characters=200)) is None
    for characters in (280, 270, 265):
        shop.sell(asked(300, characters=characters), characters)
    assert shop.price(asked(400, characters=350)) == 350


def test_requests_with_and_without_a_limit_are_apart() -> None:
    shop = Shop()
    for size in (100, 140, 180, 220, 260):
        shop.sell(asked(size, None), size)
    assert shop.price(asked(300, None)) == 300
    assert shop.price(asked(300, 0)) is None


def test_another_price_for_an_equal_request_makes_it_begin_anew() -> None:
    shop = Shop()
    shop.teach(asked(100), 10)
    shop.sell(asked(100), 11)
    for _ in range(TRUST):
        assert shop.predict(asked(100)) is None
        shop.sell(asked(100), 11)
    assert shop.price(asked(100)) == 11


def test_each_payment_in_vain_doubles_what_has_to_be_foretold() -> None:
    shop = Shop()
    needed = TRUST
    for _ in range(6):
        shop.teach(asked(100), 10)
        for _ in range(needed - TRUST):
            assert shop.predict(asked(100)) is None
            shop.sell(asked(100), 10)
        said, second = shop.predict(asked(100)), shop.predict(asked(100))
        assert said is not None
        assert second is not None
        shop.forecast.wrong(said)
        shop.forecast.unproven(second)  # under way at the same time: it counts once
        needed = min(2 * needed, MOST_TRUST)
    shop.teach(asked(100), 10)
    for _ in range(needed - TRUST):
        shop.sell(asked(100), 10)
    for _ in range(needed - TRUST - 1):
        said = shop.predict(asked(100))
        assert said is not None
        shop.forecast.right(said)
    assert said is not None
    assert said.quote.trust == TRUST + 1
    assert (shop.forecast.tally.wrong, shop.forecast.tally.unproven) == (6, 6)


def test_a_quote_has_to_be_confirmed_after_a_while() -> None:
    shop = Shop()
    shop.teach(asked(100), 10)
    shop.now += CONFIRM_SECONDS
    assert shop.price(asked(100)) == 10
    shop.now += 1
    assert shop.predict(asked(100)) is None
    shop.sell(asked(100), 10)
    assert shop.price(asked(100)) == 10
    shop.now -= 1  # the clock was set back: nobody knows how long ago that was
    assert shop.predict(asked(100)) is None


def test_a_gateway_that_does_not_speak_of_payments_is_not_foretold() -> None:
    shop = Shop()
    for _ in range(10):
        shop.sell(asked(100), 10, spoke=False)
        assert shop.predict(asked(100)) is None
    shop.sell(asked(100), 10)
    assert shop.price(asked(100)) == 10
    shop.forecast.acknowledged(asked(100), False)
    assert shop.predict(asked(100)) is None
    assert not shop.forecast.expects(PLACE)


def test_after_an_answer_without_a_word_the_gateway_has_to_speak_again() -> None:
    shop = Shop()
    shop.teach(asked(100), 10)
    said = shop.predict(asked(100))
    assert said is not None
    shop.forecast.unproven(said)
    required = read(challenges.evm("10"))
    for _ in range(10):
        shop.forecast.learn(asked(100), required, required.accepts[0], WORDS, NOW)
    assert shop.predict(asked(100)) is None
    shop.forecast.acknowledged(asked(100), True)
    assert shop.price(asked(100)) == 10


def test_memory_is_bounded() -> None:
    shop = Shop()
    for number in range(MAX_QUOTES + 5):
        shop.teach(asked(100, model=str(number)), 10)
        shop.predict(asked(100, model="0"))
    assert shop.price(asked(100, model="0")) == 10  # it was used
    assert shop.predict(asked(100, model="1")) is None
    assert shop.price(asked(100, model=str(MAX_QUOTES))) == 10
    kept = [number for number in range(MAX_QUOTES + 5) if shop.predict(asked(100, model=str(number))) is not None]
    assert len(kept) == MAX_QUOTES
    sold: list[weakref.ref[Question]] = []
    for size in range(100):
        question = asked(size + 1)
        shop.sell(question, 10 + size)
        sold.append(weakref.ref(question))
    del question
    gc.collect()
    assert sum(each() is not None for each in sold) == MAX_POINTS


# What is known of a request.


@pytest.mark.parametrize(
    ("body", "size", "characters", "limit"),
    [
        (b'{"max_tokens": 5}', 17, 17, 5),
        ('{"a": "Grüße", "max_completion_tokens":7}'.encode(), 43, 41, 7),
        ("\N{PILE OF POO}€".encode() * 3, 21, 6, None),
        (b"\xff\xfe binary", 9, 9, None),
        (b"", 0, 0, None),
    ],
)
def test_what_is_measured(body: bytes, size: int, characters: int, limit: int | None) -> None:
    assert read_question(PLACE, "m", body) == Question(PLACE, "m", size, characters, limit)


@pytest.mark.parametrize(
    "body", [b'{"max_tokens":5,"max_output_tokens":6}', b'{"max_tokens":"5"}', b" " * (MAX_BODY + 1)]
)
def test_what_is_not_measured(body: bytes) -> None:
    assert read_question(PLACE, "m", body) is None
