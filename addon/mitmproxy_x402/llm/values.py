"""Reads strangers' JSON values by type: the value, or nothing."""

from __future__ import annotations

import binascii
import math
import re
from decimal import Decimal
from typing import Any

from ..errors import NotRead, Undecodable
from ..protocol.strict_json import decode_json
from .written import dump_written

MAX_INDEX = 100_000
MAX_COUNT = 1 << 53
"""What every reader of JSON takes as a whole number; there are no more tokens."""

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,2})?")
_IN_QUOTES = re.compile(rb'"[^"]*"?')
_SURROGATE = re.compile("[\ud800-\udfff]")


def mapping(value: Any) -> dict[str, Any]:
    """`value` where it is an object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """`value` where it is an array, otherwise an empty one."""
    return value if isinstance(value, list) else []


def string(value: Any) -> str:
    """`value` where it is text, otherwise an empty one."""
    return value if isinstance(value, str) else ""


def count(value: Any) -> int | None:
    """`value` where it is a whole number from zero on, also one that was written as `3.0`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else None


def oddity(value: Any) -> str:
    """What is wrong with `value`, which is no number of tokens."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "is not a number"
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if value < 0:
        return "is less than zero"
    return "is not a whole number" if value < MAX_COUNT else "is larger than any that readers of JSON agree about"


def decimal(value: Any) -> str | None:
    """`value` where it is a number from zero on, or text that says one, in plain decimal digits."""
    text = repr(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else string(value)
    if not _NUMBER.fullmatch(text):
        return None
    plain = format(Decimal(text), "f")
    return plain if len(plain) <= 40 else None


def says_something(value: Any) -> bool:
    """Whether `value` holds anything but null, zero, false and empty values."""
    if isinstance(value, dict):
        return any(says_something(one) for one in value.values())
    if isinstance(value, list):
        return any(says_something(one) for one in value)
    return bool(value)


def index(value: Any) -> int | None:
    """`value` where it can be an index."""
    number = count(value)
    return number if number is not None and number <= MAX_INDEX else None


def dump(value: Any) -> str:
    """`value` as compact JSON, characters and written numbers as they are."""
    return dump_written(value, separators=(",", ":"))


def decode(text: str) -> tuple[Any, tuple[str, ...]]:
    """The JSON value in `text` and what is ambiguous about it. Raises Undecodable; NotRead."""
    if text.startswith("\ufeff"):
        raise Undecodable("not JSON: it begins with a byte order mark")
    try:
        return decode_json(text.encode())
    except UnicodeEncodeError:
        raise Undecodable("not JSON: it has half a surrogate pair in it") from None


def is_json(text: str) -> bool:
    """Whether `text` is JSON that is read here."""
    try:
        decode(text)
    except Undecodable:
        return False
    return True


def same_json(one: str, other: str) -> bool:
    """Whether both are JSON of the same value, written as they may be."""
    try:
        return one == other or bool(decode(one)[0] == decode(other)[0])
    except Undecodable:
        return False


def decode_bounded(data: bytes, most: int | None) -> tuple[Any, tuple[str, ...]]:
    """The JSON value in `data`, which has at most `most` values (None: any number). Raises Undecodable; NotRead."""
    if most is not None and has_more_values(data, most):
        raise NotRead(f"JSON with more than {most:,} values, which is not read here")
    return decode_json(data)


def is_object(data: bytes, most: int | None = None) -> bool:
    """Whether `data` is a JSON object of at most `most` values."""
    try:
        return isinstance(decode_bounded(data, most)[0], dict)
    except Undecodable:
        return False


def repaired(data: bytes, most: int | None = None) -> dict[str, Any] | None:
    """The JSON object in `data`, which is not UTF-8, with replacement characters; None: there is none."""
    try:
        value, _ = decode_bounded(data.decode("utf-8", "replace").encode(), most)
    except Undecodable:
        return None
    return value if isinstance(value, dict) else None


def has_more_values(data: bytes, most: int) -> bool:
    """Whether the JSON in `data` has more than `most` values and keys, as its marks tell. Much faster than a parser."""
    if len(data) <= most:
        return False
    if sum(map(data.count, (b",", b":", b"[", b"{"))) <= most:
        return False
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * most:
        return True
    outside = _IN_QUOTES.sub(b"", bare)
    return sum(map(outside.count, (b",", b":", b"[", b"{"))) > most


def decode_base64(text: str) -> bytes:
    """The bytes behind standard base64, or none."""
    try:
        return binascii.a2b_base64(text)
    except (ValueError, UnicodeEncodeError):
        return b""


def joined(text: str) -> str:
    """`text` with the halves of a surrogate pair joined that came in different fragments."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def escapes_half_character(text: str, value: Any) -> bool:
    """Whether `value`, the JSON in `text`, has half of a surrogate pair in it, which JSON can only say by an escape."""
    return "\\ud" in text.lower() and has_half_character(dump(value))


def has_half_character(text: str) -> bool:
    """Whether a half of a surrogate pair stands alone in `text`."""
    return _SURROGATE.search(text) is not None
