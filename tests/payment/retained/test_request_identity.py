"""Which requests are the same one, whatever their size and Content-Encoding, and that large ones hold nobody up."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from typing import Any

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.payment.retained import identity as request_identity
from mitmproxy_x402.payment.retained.identity import MAX_AT_ONCE, MAX_IN_PLACE, RequestIdentity, body_digest
from mitmproxy_x402.payment.retained.store import Memory, RetainedPayments
from support.paying.repeating import reordered
from support.recording.zstd import compress as zstd

ROUTE = ("POST", "https://h:443", "/v1/x")
PADDING = "p" * MAX_AT_ONCE
TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
COMPRESSORS = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd}


def large(value: Any, indent: int | None = None) -> bytes:
    """JSON that is too long to be decoded as a whole."""
    return json.dumps([value, PADDING], indent=indent).encode()


@given(JSON, st.sampled_from([None, 1]))
def test_the_order_of_keys_does_not_matter_in_large_bodies(value: Any, indent: int | None) -> None:
    assert body_digest(large(value)) == body_digest(large(reordered(value), indent))


@given(JSON, JSON)
def test_other_values_are_other_large_bodies(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (body_digest(large(one)) == body_digest(large(other))) == same


@pytest.mark.parametrize(
    "text", ["[1 2]", "[1,,2]", "[,]", '{"a" 1}', "{1:2}", '{"a":1,}', "[1,]", "[1}", '"a', '{"a":}']
)
def test_what_is_no_plain_json_is_compared_byte_for_byte(text: str) -> None:
    one, other = (f"[{text},{space}{json.dumps(PADDING)}]".encode() for space in ("", " "))
    assert body_digest(one) != body_digest(other)


ODD = {
    "equal keys": ('{"a":1,"a":2,"b":3}', '{"b": 3, "a": 1, "a": 2}'),
    "equal keys inside": ('[{"c":0,"a":{"x":1,"x":2},"a":[]}]', '[{"a": {"x": 1, "x": 2}, "a": [], "c": 0}]'),
    "NaN": ('{"a":NaN,"b":-Infinity}', '{"b": -Infinity, "a": NaN}'),
    "beyond all numbers": ('{"a":1e999,"b":1}', '{"b": 1, "a": 1e999}'),
    "a number of many digits": (f'{{"a":{"7" * 5000},"b":1}}', f'{{"b": 1, "a": {"7" * 5000}}}'),
    "a byte order mark": ('\ufeff{"a":1,"b":2}', '\ufeff{"b":2,"a":1}'),
    "a mark and none": ('\ufeff{"a":1,"b":2}', '{"b":2,"a":1}'),
}


@pytest.mark.parametrize("size", [0, 2 * MAX_AT_ONCE], ids=["small", "large"])
@pytest.mark.parametrize("name", ODD)
def test_odd_json_is_known_in_any_order(name: str, size: int) -> None:
    one, other = (text.replace("{", '{"padding":"' + "p" * size + '",', 1).encode() for text in ODD[name])
    assert body_digest(one) == body_digest(other)


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_wide_json_is_known_in_any_order(coding: str) -> None:
    assert body_digest('{"a":1,"b":2}'.encode(coding)) == body_digest('{"b":2, "a":1}'.encode(coding))


@pytest.mark.parametrize("size", [0, 2 * MAX_AT_ONCE], ids=["small", "large"])
def test_the_order_of_equal_keys_matters(size: int) -> None:
    """Some readers take the first of them, others the last."""
    padding = b'"padding":"' + b"p" * size + b'"'
    bodies = [b'{"a":1,"a":2,%b}', b'{"a":2,"a":1,%b}', b'{"a":2,%b}', b'{"a":[1,2],%b}', b'{"a":{"pairs":1},%b}']
    assert len({body_digest(body % padding) for body in bodies}) == len(bodies)


@pytest.mark.parametrize("coding", COMPRESSORS)
@pytest.mark.parametrize("size", [10, 3 * MAX_AT_ONCE])
def test_a_content_encoding_makes_no_other_request(coding: str, size: int) -> None:
    value = {"a": "x" * size, "b": [1, 2]}
    plain, turned = json.dumps(value).encode(), json.dumps(reordered(value)).encode()
    compress = COMPRESSORS[coding]
    assert body_digest(plain) == body_digest(compress(turned), coding.upper()) == body_digest(plain, "identity")
    assert body_digest(gzip.compress(compress(turned)), f"{coding}, gzip") == body_digest(plain)
    assert body_digest(plain, coding) != body_digest(plain)


def test_many_small_values_are_compared_byte_for_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_identity, "MAX_TOKENS", 1000)
    one, other = ('{"n": [' + "1, " * 100_000 + f'1],{space}"b": 1}}' for space in ("", " "))
    assert body_digest(one.encode()) != body_digest(other.encode())


def test_a_large_body_is_digested_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, threads = threading.Event(), []

    def held_back(body: bytes, coding: str = "") -> bytes:
        threads.append(threading.current_thread())
        assert go_on.wait(20)
        return body_digest(body, coding)

    monkeypatch.setattr(request_identity, "body_digest", held_back)
    body = b'{"a": "%b"}' % (b"x" * MAX_IN_PLACE)
    retained = RetainedPayments(lambda: 0)

    async def play() -> None:
        retained.remember(RequestIdentity(ROUTE, body), Memory(None, 1, 1, 7, "ledger"))
        assert retained.expects(ROUTE)  # at once, so a repetition waits for it
        again = RequestIdentity(ROUTE, body)
        settling = asyncio.ensure_future(retained.settle(again))
        await asyncio.sleep(0)
        assert not settling.done()
        go_on.set()
        await settling
        found = retained.take(again)
        assert found is not None
        assert found.last_row == 7

    asyncio.run(play())
    assert threading.main_thread() not in threads
