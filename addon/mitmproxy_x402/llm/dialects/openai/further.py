"""Keeps what vendors say in a chat completion's messages and deltas under keys of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...pieces import Piece
from ...values import dump, says_something


class Further:
    """What is said under further keys: text grows, numbers are a list, any other value is a part of its own.

    A value that is repeated is told once: some vendors say the same in every delta.
    """

    def __init__(self, new: Callable[[int], Piece]) -> None:
        self._new = new
        """Makes a part of a choice."""
        self._known: dict[tuple[int, str], tuple[Piece, Any, int]] = {}
        """The last value under a key of a choice, and how often it came in a row."""

    def keep(self, choice: int, key: str, value: Any) -> None:
        """Keep `value` as it came."""
        if not says_something(value) and not (_is_of_numbers(value) and self._counts(choice, key)):
            return
        piece, before, times = self._known.get((choice, key), (None, None, 0))
        if piece is not None and isinstance(value, str) and isinstance(before, str):
            piece.add(value)
        elif piece is not None and _is_of_numbers(value) and _is_of_numbers(before):
            if value == before and not piece.size:
                times += 1
            else:  # one for each token, as Together's `token_id`
                if not piece.size:
                    piece.value = None
                    piece.add(", ".join([dump(before)] * times))
                piece.add(f", {dump(value)}")
        elif piece is None or value != before:
            piece, times = self._new(choice), 1
            piece.name = key[:100]
            if isinstance(value, str):
                piece.add(value)
            else:
                piece.keep(key[:100], value)
        if piece.kept:
            self._known[choice, key] = piece, value, times

    def _counts(self, choice: int, key: str) -> bool:
        """Whether numbers came under `key`, so that zero is one of them."""
        return _is_of_numbers(self._known.get((choice, key), (None, None, 0))[1])


def _is_of_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(one) in (int, float) for one in value)
    return type(value) in (int, float)
