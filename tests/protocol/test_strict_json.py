"""JSON is read as any other reader does, and what two readers could read differently is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_x402.errors import Undecodable
from mitmproxy_x402.protocol.strict_json import MAX_DEPTH, decode_json
from support import effort

KEYS = st.sampled_from(["a", "b", "a:", ":", '"', '":', "\\", 'a\\":', "\\\\", "é", "\ud83e"]) | st.text(max_size=3)
LEAVES = st.none() | st.booleans() | st.integers() | KEYS | st.sampled_from(["x: y", '{"a":1,"a":2}', '":":"'])


class Pairs(list[Any]):
    """An object as its pairs, in which a key can be there twice."""


VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=4).map(Pairs),
    max_leaves=12,
)


def written(value: Any, space: str, *, ascii_only: bool) -> str:
    if isinstance(value, Pairs):
        inner = (f"{written(key, '', ascii_only=ascii_only)}{space}:{space}{written(one, space, ascii_only=ascii_only)}"
                 for key, one in value)  # fmt: skip
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(one, space, ascii_only=ascii_only) for one in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def has_double(value: Any) -> bool:
    if isinstance(value, Pairs):
        keys = [key for key, _ in value]
        return len(set(keys)) < len(keys) or any(has_double(one) for _, one in value)
    return isinstance(value, list) and any(map(has_double, value))


@settings(deadline=None, max_examples=effort.examples(800))
@given(VALUES, st.sampled_from(["", " ", "\n", "\t", "\r\n"]), st.booleans())
def test_a_key_that_is_there_twice_is_told_and_no_other(value: Any, space: str, ascii_only: bool) -> None:
    text = written(value, space, ascii_only=ascii_only)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = written(value, space, ascii_only=True).encode()
    found, faults = decode_json(data)
    assert found == json.loads(data)
    assert bool(faults) == has_double(value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a":1,"a":2}', 'the key "a" is there twice'),
        ('{"a":1,"a" :2}', 'the key "a" is there twice'),
        ('{"a":":","a":1}', 'the key "a" is there twice'),
        ('{"a\\\\":1,"a\\\\":2,"b":"\\":"}', 'the key "a\\\\" is there twice'),
        ('{"a":1e999}', '"1e999" is not a finite number'),
        ('[{"a":NaN}]', '"NaN" is not a finite number'),
        ('{"a":-Infinity}', '"-Infinity" is not a finite number'),
    ],
)
def test_what_is_ambiguous_is_told(text: str, fault: str) -> None:
    assert decode_json(text.encode())[1] == (fault,)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a":1} x',
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' + b"1" * 5000 + b"}",
        b'"\xff"',
    ],
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_json(data)
