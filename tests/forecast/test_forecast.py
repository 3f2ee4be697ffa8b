"""What is foretold is exact or not said: which challenges are remembered, and when a quote may be used."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace
from math import ceil
from typing import Any

import pytest

from mitmproxy_x402.forecast.forecast import CONFIRM_SECONDS, MAX_QUOTES, MOST_TRUST, TRUST
from mitmproxy_x402.forecast.quote import MAX_BODY, MAX_POINTS, Question, read_question
from support import challenges
from support.paying.forecasts import ENOUGH, NOW, PLACE, WORDS, Shop, asked, read


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
