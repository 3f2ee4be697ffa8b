"""Keys of their own in vendors' deltas: nothing of them is lost, and none has a part for every token."""

from __future__ import annotations

from typing import Any

import pytest

from mitmproxy_x402.llm import Other, answer_text
from support.vendors import vendor_streams as v
from support.vendors.reading import read


def others(*deltas: dict[str, Any]) -> list[tuple[str, Any]]:
    """What there is beside the text, where each delta has some."""
    reading = read(v.chat(*(v.chunk({"content": "x", **one}) for one in deltas), v.chunk({}, "stop")))
    assert (reading.text, reading.irregular) == ("x" * len(deltas), ())
    assert answer_text(reading)
    return [(one.kind, one.value) for one in reading.items if isinstance(one, Other)]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([5], [5]),
        ([5, 5, 5], [5]),
        ([5, 7], [{"text": "5, 7"}]),
        ([5, 5, 7, 7, 0, 7.5], [{"text": "5, 5, 7, 7, 0, 7.5"}]),
        ([0, 5], [5]),
        ([None, 5, None, 6], [{"text": "5, 6"}]),
        ([[1, 2], [3]], [{"text": "[1,2], [3]"}]),
        (["a", "b"], [{"text": "ab"}]),
        (["a", "a"], [{"text": "aa"}]),
        ([{"a": 1}, {"a": 1}, {"b": 2}], [{"a": 1}, {"b": 2}]),
        ([True, True], [True]),
        ([5, "a"], [5, {"text": "a"}]),
    ],
)
def test_what_comes_under_one_key(values: list[Any], found: list[Any]) -> None:
    assert [value for _, value in others(*({"own": value} for value in values))] == found


def test_together_s_ids_of_tokens_are_one_part() -> None:
    found = others(*({"token_id": 100 + number} for number in range(300)))
    assert found == [("token_id", {"text": ", ".join(str(100 + number) for number in range(300))})]


def test_keys_do_not_disturb_each_other() -> None:
    found = others({"a": 1, "b": "x"}, {"a": 2, "b": "y"})
    assert found == [("a", {"text": "1, 2"}), ("b", {"text": "xy"})]


def test_what_perplexity_says_beside_the_choices_is_told_once() -> None:
    beside = {
        "images": [{"image_url": "https://i", "origin_url": "https://o", "title": "T"}],
        "related_questions": ["Why?"],
    }
    chunks = [v.chunk({"content": "x"}, **beside), v.chunk({}, "stop", **beside)]
    assert all(one["images"] for one in chunks)
    reading = read(v.chat(*chunks))
    assert {one.kind: one.value for one in reading.items if isinstance(one, Other)} == beside
    assert (reading.text, reading.irregular) == ("x", ())


@pytest.mark.parametrize(
    ("state", "error"),
    [({"status_code": 0, "status_msg": ""}, None), ({"status_code": 1001, "status_msg": "timeout"}, "1001: timeout")],
)
def test_minimax_s_state_may_be_an_error(state: Any, error: str | None) -> None:
    for chunks in (
        [v.chunk({}, "stop", base_resp=state)],
        [{**v.chunk({}, "stop"), "choices": None, "base_resp": state}],
    ):
        reading = read(v.chat(v.chunk({"content": "x"}), *chunks))
        assert (reading.error, reading.text) == (error, "x")
