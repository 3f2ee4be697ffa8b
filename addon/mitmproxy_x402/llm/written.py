"""Keeps numbers in JSON as they were written, where a float would change them: `1.10`, `1e400`, `-0`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from functools import cached_property
from secrets import token_hex
from typing import Any

from .reading import ToolCall

_TAKEN = re.compile(r"-?[0-9]{1,1000}(\.[0-9]{1,1000})?([eE][-+]?[0-9]{1,6})?")
"""Numbers whose values are compared; others are compared as text."""


@dataclass(frozen=True)
class Number:
    """A number as it was written."""

    text: str

    @cached_property
    def value(self) -> Decimal | str:
        """Its exact value, by which `1.0` and `1` are equal; its text if it is too large for that."""
        try:
            return Decimal(self.text) if _TAKEN.fullmatch(self.text) else self.text
        except DecimalException:
            return self.text


_DECODER = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=Number)


def as_written(text: str) -> Any:
    """The JSON value in `text`, each number in it a `Number`. Raises ValueError and RecursionError."""
    return _DECODER.decode(text)


def dump_written(value: Any, indent: int | None = None, separators: tuple[str, str] | None = None) -> str:
    """`value` as JSON, characters and numbers as they are."""
    found: list[str] = []
    mark = token_hex(16)  # which nobody can put into the value

    def name(one: Any) -> str:
        if not isinstance(one, Number):
            raise TypeError(f"{type(one).__name__} is no JSON value")
        found.append(one.text)
        return f"{mark}{len(found) - 1}."

    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False, default=name)
    if not found:
        return text
    return re.sub(f'"{mark}([0-9]+)\\."', lambda place: found[int(place[1])], text)


def arguments_as_written(call: ToolCall) -> Any:
    """The arguments of `call` as a value, its numbers as they were written; None: they are not JSON."""
    try:
        return as_written(call.arguments) if call.arguments and call.parsed is not None else call.parsed
    except (ValueError, RecursionError):
        return call.parsed


def may_be_rewritten(value: Any) -> bool:
    """Whether there is a number in `value` that can have been written in another way than Python writes it."""
    inside = [value]
    for one in inside:  # which grows meanwhile
        if isinstance(one, (dict, list)):
            inside += one.values() if isinstance(one, dict) else one
        elif isinstance(one, float) or (one == 0 and one is not False):
            return True
    return False


def twins(data: bytes, value: Any) -> dict[int, Any]:
    """Each object and array in `value`, by its identity, with its numbers as they are written in `data`.

    `value` was decoded from `data`; nothing where that is no JSON in UTF-8.
    """
    try:
        pairs = [(value, as_written(str(data, "utf-8-sig")))]
    except (ValueError, RecursionError):
        return {}
    found = {}
    for one, other in pairs:  # which grows meanwhile
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            pairs += [(one[key], other[key]) for key in one]
        elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            pairs += zip(one, other, strict=True)
        else:
            continue
        found[id(one)] = other
    return found
