"""Any JSON whatever as a challenge: it is paid as the table allows or refused in words, also at the socket."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mitmproxy_x402.errors import X402Error, error_body, error_code
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.networks import BUILT_IN
from support import effort
from support.paying.payers import ENTRIES, KEYS, MAX_REQUEST, RECORDED, SVM_ADDRESS, Bench, assert_pays, signed
from support.proxy import EVM_ADDRESS, Proxy
from support.wire import Peer, Upstream, free_port, request

words = st.text(max_size=20) | st.sampled_from(
    [
        *(
            "exact",
            "upto",
            "base",
            "solana",
            "eip155:8453",
            "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
            "eip155:1",
            "authorization",
            "upfront",
            "permit2",
            "eip3009",
        ),
        *("0", "1", "0x1", "-1", "1e3", " 1000", "1000 ", "007", "12500", "12501", str(2**64), str(2**256), "9" * 90),
        *(EVM_ADDRESS, SVM_ADDRESS, "0x" + "0" * 40, "11111111111111111111111111111111", "\ud800", "a\nb", "\x1b[0m"),
        *(asset.address for network in BUILT_IN for asset in network.assets),
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.sampled_from([2**64, 10**4000, -0.0])
keys = words | st.sampled_from(["scheme", "network", "amount", "asset", "payTo", "extra", "x402Version", "accepts"])
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=12
)
VALID = [
    *RECORDED.values(),
    {"x402Version": 2, "accepts": ENTRIES},
    {"x402Version": 1, "accepts": [{**entry, "maxAmountRequired": entry["amount"]} for entry in ENTRIES]},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside of `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid challenge with up to three of its values changed, doubled or taken out."""
    challenge = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        if not challenge:
            break
        *way, last = draw(st.sampled_from(list(places(challenge))))
        parent = challenge
        for step in way:
            parent = parent[step]
        change = draw(st.sampled_from(["replace", "remove", "case", "nest", "number", "extra"]))
        old = parent[last]
        if change == "remove":
            del parent[last]
        elif change == "case" and isinstance(old, str):
            parent[last] = old.swapcase()
        elif change == "number" and isinstance(old, str) and old.isdigit():
            parent[last] = int(old)
        elif change == "extra" and isinstance(old, dict):
            old[draw(keys)] = draw(anything)
        else:
            parent[last] = [old] if change == "nest" else draw(anything)
    return challenge


@st.composite
def said(draw: st.DrawFn) -> tuple[str | None, bytes]:
    """Header and body of a 402 that say `anything`, or nearly what a gateway would say."""

    def one() -> bytes:
        value = draw(mutated() | anything | st.fixed_dictionaries({"x402Version": scalars, "accepts": anything}))
        text = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
        if draw(st.integers(0, 9)) == 0:  # bytes that are nearly JSON
            cut = draw(st.integers(0, len(text)))
            text = text[:cut] + draw(st.binary(max_size=5)) + text[cut + draw(st.integers(0, 3)) :]
        return text

    header = base64.b64encode(one()).decode() if draw(st.booleans()) else draw(st.none() | st.text(max_size=30))
    return header, one() if draw(st.booleans()) else draw(st.binary(max_size=30))


@given(said())
@example((None, json.dumps({"x402Version": 2, "accepts": [{**ENTRIES[0], "network": "\ud800\n"}]}).encode()))
@example((None, json.dumps({"x402Version": 2, "accepts": [{**ENTRIES[1], "network": "\x1b[0m\ud800"}]}).encode()))
@example((None, b'{"x402Version": 2, "accepts": [{"amount": ' + b"9" * 5000 + b"}]}"))
@settings(
    max_examples=effort.examples(1000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_json_becomes_an_allowed_payment_or_a_clear_refusal(benches: Any, said: tuple[str | None, bytes]) -> None:
    bench: Bench = benches(max_request=f"0.{MAX_REQUEST:06d}", rpc_timeout="0.1")
    bench.signed = 0
    result = bench.answer(*said)
    if isinstance(result, Payment):
        payment = signed(result)
        assert bench.signed == 1
        assert payment.amount <= MAX_REQUEST
        entry = result.offer.requirement.raw
        assert_pays(payment, dict(entry))
        assert entry in offered(*said)
        if payment.message["x402Version"] == 2:
            assert payment.message["accepted"] == entry
    else:
        assert bench.signed == 0
    if isinstance(result, X402Error):
        told = json.loads(error_body("x402_refused", error_code(result), str(result)))["error"]["message"]
        assert told == str(result)
        assert told.isprintable(), "one line, and nothing that a terminal would obey"
        assert told.endswith(".")
        assert len(told) < 2000


def offered(header: str | None, body: bytes) -> list[Any]:
    """Every entry that header or body offers, read by nothing of ours."""
    found = []
    for read in (lambda: base64.b64decode(header or "", validate=True), lambda: body):
        with suppress(ValueError, LookupError, TypeError):
            found += json.loads(read())["accepts"]
    return found


class Till:
    """A gateway that asks for payment in the words of `challenge`, and thanks for any."""

    challenge = b""

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            message = upstream.read(peer)
            if message.get(b"payment-signature") or message.get(b"x-payment"):
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                peer.send(self.challenge)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Till, Proxy]]:
    till = Till()
    options = {"x402_solana_rpc": f"http://127.0.0.1:{free_port()}", "x402_rpc_timeout": "1"}
    arguments = [argument for name, value in options.items() for argument in ("--set", f"{name}={value}")]
    keys = KEYS["evm"] | KEYS["svm"]
    with (
        Upstream(till) as upstream,
        Proxy(upstream.url, *arguments, home=tmp_path_factory.mktemp("home"), keys=keys) as proxy,
    ):
        yield till, proxy
        assert "Traceback" not in proxy.log
        assert "internal_error" not in proxy.log


@given(said=said(), raw=st.none() | st.binary(max_size=60), coding=st.sampled_from(["", "gzip", "br", "zstd", "x"]))
@example(said=(None, json.dumps(VALID[0]).encode()), raw=None, coding="")
@example(said=(None, b'{"x402Version": 2, "accepts": [{"scheme": "\\ud800"}]}'), raw=None, coding="")
@settings(
    max_examples=effort.examples(250),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_no_challenge_whatever_leaves_a_client_without_an_answer(
    counter: tuple[Till, Proxy], said: tuple[str | None, bytes], raw: bytes | None, coding: str
) -> None:
    till, proxy = counter
    header, body = said
    value = raw if raw is not None else (header or "").encode("utf-8", "replace")
    value = bytes(byte for byte in value if byte not in b"\r\n\0")
    head = b"HTTP/1.1 402 Payment Required\r\nPAYMENT-REQUIRED: " + value + b"\r\n"
    if coding:
        head += b"Content-Encoding: " + coding.encode() + b"\r\n"
    till.challenge = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with proxy.client() as client:
        got = client.ask(request(body=b"{}"))
    assert got.status in (200, 400, 402, 502)
    if got.status == 200:
        assert got.body == b"ok"
    elif got.status == 402:
        assert got.body == body
    else:
        error = json.loads(got.body)["error"]
        assert error["message"]
        assert error["code"] != "internal_error"
