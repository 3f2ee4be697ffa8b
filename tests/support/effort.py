"""How much is tried: enough for a quick run, or with `--thorough` all there is.

A test is marked `thorough` where another one, that always runs, tries the same thing in fewer ways; and `more` if it
tries more itself in a `--thorough` run, where it then counts as `thorough`. Tests of Hypothesis need no mark for that.
`conftest` says which run this is before any test is collected.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

T = TypeVar("T")

thorough = False
EXAMPLES = 100
"""Of Hypothesis, where a test does not say how many."""
QUICKER = 4


def begin(*, is_thorough: bool) -> None:
    """Called once, at the very start."""
    global thorough
    thorough = is_thorough
    # However busy the machine is, no example is too slow. CI draws the same ones each time: what was green stays so.
    patient = settings(
        deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
    )
    settings.register_profile("thorough", patient, max_examples=EXAMPLES)
    settings.register_profile("quick", patient, max_examples=EXAMPLES // QUICKER)
    settings.load_profile("thorough" if thorough else "quick")


def examples(most: int) -> int:
    """How many of `most` examples are tried; a quarter in a quick run. Outside of Hypothesis, mark the test `more`."""
    return most if thorough else most // QUICKER


def batches(asked: str | None, most: int, size: int, quick: int) -> list[Any]:
    """Numbers of the batches of `size` that `most` examples make, of which a quick run takes the first `quick` ones.

    `asked` is the user's own number of examples.
    """
    if asked:
        return [*range(-(-int(asked) // size))]
    return chosen(range(-(-most // size)), *range(quick))


def mark_thorough(items: Iterable[pytest.Item]) -> None:
    """Mark those that try more in this run than in a quick one, so that `-m thorough` runs them, too."""
    for item in items:
        if item.get_closest_marker("more") or is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("thorough")


def chosen(values: Iterable[T], *always: T) -> list[Any]:
    """`values` for `parametrize`, of which a quick run takes only those that are named in `always`."""
    values = list(values)
    assert always
    assert set(always) <= set(values)
    return [value if value in always else _thorough(value) for value in values]


def _thorough(value: object) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.thorough)
