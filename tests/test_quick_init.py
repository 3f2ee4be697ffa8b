"""Frozen dataclasses that are made quickly are otherwise as `dataclass` makes them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from mitmproxy_x402.quick_init import quick_init


@dataclass(frozen=True)
class Plain:
    first: int
    second: str = "two"
    third: list[int] = field(default_factory=list)
    fourth: dict[str, int] = field(default_factory=dict, init=False, compare=False, repr=False)
    fifth: int = field(default=5, init=False)
    secret: str = field(default="", repr=False, compare=False)


@quick_init
@dataclass(frozen=True)
class Quick:
    first: int
    second: str = "two"
    third: list[int] = field(default_factory=list)
    fourth: dict[str, int] = field(default_factory=dict, init=False, compare=False, repr=False)
    fifth: int = field(default=5, init=False)
    secret: str = field(default="", repr=False, compare=False)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {}), ((1, "b"), {}), ((1,), {"secret": "s"}), ((), {"first": 1, "third": [3]}), ((1, "b", [2], "s"), {})],
)
def test_it_takes_the_same_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    quick, plain = Quick(*args, **kwargs), Plain(*args, **kwargs)
    assert vars(quick) == vars(plain)
    assert list(vars(quick)) == list(vars(plain))
    assert repr(quick) == repr(plain).replace("Plain", "Quick")
    assert quick == Quick(*args, **kwargs)
    assert quick != replace(quick, first=2)


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, [], "", 5), {}), ((1,), {"fifth": 6})])
def test_it_refuses_the_same_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for cls in (Quick, Plain):
        with pytest.raises(TypeError):
            cls(*args, **kwargs)


def test_instances_are_frozen() -> None:
    made = Quick(1)
    with pytest.raises(FrozenInstanceError):
        made.first = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del made.first
    assert made.third is not Quick(1).third
    assert "secret" not in repr(replace(made, secret="secret"))


def test_they_can_be_copied_and_pickled() -> None:
    made = Quick(1, third=[1])
    assert copy.deepcopy(made) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_what_it_does_not_know_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Slots:
        first: int

    @dataclass(frozen=True)
    class Post:
        first: int

        def __post_init__(self) -> None:
            pass

    @dataclass(frozen=True)
    class Keywords:
        first: int = field(kw_only=True)

    for cls in (Slots, Post, Keywords):
        with pytest.raises(TypeError, match="no plain dataclass"):
            quick_init(cls)
