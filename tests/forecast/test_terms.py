"""A challenge is taken apart into terms and numbers, and put together again with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.forecast.terms import MAX_NUMBERS, MAX_TERMS, take_apart, with_blockhash
from support import challenges
from support.paying.forecasts import NOW, WORDS, Shop, asked, read

CHALLENGES = Path(__file__).parents[1] / "challenges"


def recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((CHALLENGES / name).read_text()))


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
