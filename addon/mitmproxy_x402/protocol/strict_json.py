"""Decodes strangers' JSON and base64, bounded, and reports where two readers could differ."""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import math
import re
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any

from ..errors import NotRead, Undecodable

MAX_DEPTH = 64
"""Levels of nesting that are read, well below what the interpreter's stack can take."""

_STRING = re.compile(rb'"[^"]*"?')
"""A string without escapes, also one that does not end."""
_BEGINS = (b"{", b"[", b",")
"""One stands before each value, but also in strings."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_COMPACT = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def decode_base64(value: str, *, tolerant: bool = False) -> bytes:
    """The bytes behind standard padded base64; `tolerant` also takes the URL-safe alphabet, white space, no padding.

    Raises Undecodable.
    """
    try:
        data = value.encode("ascii")
        if tolerant:
            data = b"".join(data.split()).translate(_URL_SAFE).rstrip(b"=")
            data += b"=" * (-len(data) % 4)
        return base64.b64decode(data, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Undecodable(f"not base64: {error}") from None


def encode_base64(value: object) -> str:
    """`value` as compact JSON in standard padded base64. Raises ValueError for what JSON cannot say (NaN, cycles)."""
    return base64_text(compact_json(value))


def compact_json(value: object) -> str:
    """`value` as JSON without blanks. Raises ValueError for what JSON cannot say (NaN, cycles)."""
    # ASCII only: every reader decodes it alike, and a lone surrogate survives as the escape that it came as.
    return _COMPACT.encode(value)


def base64_text(text: str) -> str:
    """`text`, which is ASCII, in standard padded base64."""
    return binascii.b2a_base64(text.encode("ascii"), newline=False).decode("ascii")


class TooManyValues(NotRead):
    """More values than are read."""


def decode_json(data: bytes, most: int | None = None) -> tuple[Any, tuple[str, ...]]:
    """The JSON value in `data` (UTF-8) and what is ambiguous about it: doubled keys, numbers outside JSON's or ours.

    The caller decides whether the faults matter: they do in a challenge, not in an error page. Raises Undecodable;
    NotRead where it may be JSON; TooManyValues, before anything is parsed, where there may be more than `most` values.
    """
    if most is not None and sum(map(data.count, _BEGINS)) > most:
        raise TooManyValues(f"more than {most} values")
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and is_too_deep(data):
        raise NotRead(f"nested deeper than {MAX_DEPTH} levels")
    try:
        text = str(data.removeprefix(codecs.BOM_UTF8), "utf-8")
        plain = _plainly(text)
        if plain is not None:
            return plain, ()
        try:
            return _PLAIN.decode(text), ()
        except _Ambiguous:
            faults: list[str] = []
            return _decoder(faults.append).decode(text), tuple(faults)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Undecodable(f"not JSON: {error}") from None
    except ValueError:  # an integer that the interpreter does not read: that takes long
        digits = f"{sys.get_int_max_str_digits():,}"
        raise NotRead(f"JSON with a number of more than {digits} digits, which is not read here") from None


def _plainly(text: str) -> Any:
    """The object or array in `text` where nothing about it can be ambiguous; None: look closer.

    Much faster than a decoder that is told of every object: no key is there twice where there are as many keys in the
    value as there are marks of a key in the text.
    """
    if text[:1] not in ("{", "["):
        return None
    count, scan = _SCANNER.both
    count(None)
    try:
        value, end = scan(text, 0)
    except (StopIteration, _Ambiguous):
        return None
    if end != len(text):
        return None
    keys = count(None)
    if keys == text.count(":"):  # every key has a colon, so none was lost
        return value
    # Colons in strings, then. A key's own colon follows its quote, and a quote within a string follows a backslash.
    if " :" in text or "\n:" in text or "\t:" in text or "\r:" in text or '\\\\":' in text:
        return None
    return value if keys == text.count('":') - text.count('\\":') else None


def _counting() -> Generator[Any, dict[str, Any] | None, None]:
    """Return each object that is sent, and for None the number of keys in all since the last None."""
    keys: int = 0
    value: Any = None
    while True:
        value = yield value
        if value is None:
            value, keys = keys, 0
        else:
            keys += len(value)


class _Ambiguous(Exception):
    """Two readers could differ about the value."""


def _decoder(doubted: Callable[[str], None]) -> json.JSONDecoder:
    """A decoder that tells `doubted` of each fault."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            doubted(f"the key {shown(twice)} is there twice")
        return value

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            doubted(f"{shown(text)} is not a finite number")
        return value

    return json.JSONDecoder(object_pairs_hook=pairs, parse_float=number, parse_constant=number)


def _refuse(fault: str) -> None:
    raise _Ambiguous(fault)


_PLAIN = _decoder(_refuse)
"""For all that is as it should be; to make one for each value would take as long as the decoding."""


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Ambiguous(text)
    return value


class _Scanner(threading.local):
    """A decoder for each thread that counts keys as it goes: a generator costs far less than a call for each object."""

    def __init__(self) -> None:
        counting = _counting()
        next(counting)
        count: Callable[[dict[str, Any] | None], Any] = counting.send
        scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(  # the class's typeshed stub lacks it
            parse_float=_finite, parse_constant=_refuse, object_hook=count
        ).scan_once  # type: ignore[attr-defined]
        self.both = count, scan


_SCANNER = _Scanner()


def shown(value: object, limit: int = 60) -> str:
    """A JSON `value` for a sentence to a person: one line of ASCII as JSON writes it, cut at `limit` characters.

    None is "nothing": the key is not there, or holds null.
    """
    if value is None:
        return "nothing"
    text = json.dumps(value[:limit] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[:limit] + "..."


def is_too_deep(data: bytes, most: int = MAX_DEPTH) -> bool:
    """Whether the JSON in `data` is nested deeper than `most` levels. To be asked before any parser is.

    A library that raises the interpreter's recursion limit turns deep nesting into a crash.
    """
    if data.count(b"[") + data.count(b"{") <= most:
        return False
    # No parser gets past a backslash outside of a string, so escapes need not be told from those.
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    depth = 0
    for byte in _STRING.sub(b"", bare).translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > most:
            return True
    return False
