"""402s as sellers were seen to send them, and what comes of each: `challenges/`, in process and through the proxy.

`expected.result`: `paid` (one payment, of `entry`), or `refused` with `code`. What a payment signs is judged by
`tests/conformance`; here it is which entry is paid, in which header, and that it is echoed as it came.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http

from mitmproxy_x402.errors import X402Error, error_code
from mitmproxy_x402.payment import challenge
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.signing.payment import Payment
from support import challenges
from support.paying.payers import KEYS, Bench
from support.proxy import Proxy
from support.wire import Peer, Upstream, request

CASES = {
    path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "challenges").glob("*.json"))
}
EVM_KEY = "0x" + "5d" * 32
PAYMENT_HEADERS = ("PAYMENT-SIGNATURE", "X-PAYMENT")


def body_of(case: dict[str, Any]) -> bytes:
    if "body_generator" in case:
        made = case["body_generator"]
        return str(made.get("prefix", "") + made["repeat"] * made["times"] + made.get("suffix", "")).encode()
    return str(case["body"]).encode()


def head_of(case: dict[str, Any], body: bytes) -> bytes:
    lines = [f"{name}: {value}" for name, value in case["headers"]]
    return "\r\n".join(["HTTP/1.1 402 Payment Required", *lines, f"Content-Length: {len(body)}", "", ""]).encode()


def check(case: dict[str, Any], headers: dict[str, str]) -> None:
    """Whether `headers` carry the payment that `case` expects."""
    expected, terms = case["expected"], case["terms"]
    if "header" in expected:
        assert expected["header"] in {name.lower() for name in headers}
    assert len(set(headers.values())) == 1, "two headers, one payment"
    message = json.loads(base64.b64decode(next(iter(headers.values())), validate=True))
    entry = terms["accepts"][expected["entry"]]
    if message["x402Version"] == 2:
        assert message["accepted"] == entry
    else:
        assert (message["scheme"], message["network"]) == (entry["scheme"], entry["network"])
    if "authorization" in message["payload"]:
        assert message["payload"]["authorization"]["value"] == expected["amount"]
        assert message["payload"]["authorization"]["to"].lower() == entry["payTo"].lower()
    extensions = message.get("extensions") or {}
    if expected.get("payment_id"):
        identifier = extensions["payment-identifier"]["info"].pop("id")
        assert re.fullmatch(r"[A-Za-z0-9_-]{16,128}", identifier)
    assert extensions == (terms.get("extensions") or {})


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    home = tmp_path_factory.mktemp("home")
    KEYS["case"] = {"BLOCKRUN_WALLET_KEY": EVM_KEY}
    made = Bench(home, "case svm")
    yield made
    made.loop.close()
    made.ledger.close()


@pytest.mark.parametrize("name", CASES)
def test_in_process(bench: Bench, name: str) -> None:
    case = CASES[name]
    response = http.Response.make(402, body_of(case), [(k.encode(), v.encode()) for k, v in case["headers"]])

    async def pay() -> Payment | None:
        required = challenge.read(response)
        return None if required is None else await bench.payer.pay(required, Purpose("POST", "127.0.0.1", "/v1/x"))

    waiting = asyncio.wait_for(pay(), 30)
    if case["expected"]["result"] == "refused":
        with pytest.raises(X402Error) as caught:
            bench.loop.run_until_complete(waiting)
        assert error_code(caught.value) == case["expected"]["code"]
        return
    payment = bench.loop.run_until_complete(waiting)
    assert payment is not None
    check(case, dict(payment.headers))


class Shop:
    """Gives each path the challenge of its name, and thanks for any payment."""

    def __init__(self) -> None:
        self.paid: list[dict[str, str]] = []

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            message = upstream.read(peer)
            found = {name: message.get(name.lower().encode()) for name in PAYMENT_HEADERS}
            if any(found.values()):
                self.paid.append({name: value.decode() for name, value in found.items() if value})
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                case = CASES[message.start.split()[1].decode().strip("/")]
                body = body_of(case)
                peer.send(head_of(case, body) + body)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, Proxy]]:
    sells = Shop()
    keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY} | KEYS["svm"]
    with (
        Upstream(sells) as upstream,
        Proxy(upstream.url, home=tmp_path_factory.mktemp("home"), keys=keys) as proxy,
    ):
        yield sells, proxy


@pytest.mark.parametrize("name", CASES)
def test_through_the_proxy(shop: tuple[Shop, Proxy], name: str) -> None:
    sells, proxy = shop
    case = CASES[name]
    sells.paid.clear()
    with proxy.client() as client:
        got = client.ask(request(path=f"/{name}", body=b'{"model": "test-1"}'))
    if case["expected"]["result"] == "paid":
        assert (got.status, got.body) == (200, b"ok")
        (paid,) = sells.paid
        check(case, paid)
    else:
        assert (got.status, json.loads(got.body)["error"]["code"]) == (400, case["expected"]["code"])
        assert not sells.paid


def _spoilt(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`value` with half a character in each of its texts and names in turn, and where that is."""
    if isinstance(value, str):
        yield path, "\ud800"
        yield path, value + "\udfff"
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from ((where, [*value[:index], new, *value[index + 1 :]]) for where, new in _spoilt(each, path))
    elif isinstance(value, dict):
        yield f"{path}.?", {**value, "\ud800": "\ud800"}
        for key, each in value.items():
            yield from ((where, {**value, key: new}) for where, new in _spoilt(each, f"{path}.{key}"))


SPOILT = {
    f"{name}{where}-{number}": spoilt
    for name, whole in (("evm", challenges.evm()), ("svm", challenges.svm()))
    for number, (where, spoilt) in enumerate(_spoilt(whole))
}


@pytest.mark.parametrize("in_header", [True, False], ids=["header", "body"])
@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
def test_half_a_character_anywhere_is_no_fault(bench: Bench, spoilt: dict[str, Any], in_header: bool) -> None:
    """JSON may write it (RFC 8259, section 8.2), and no text with it can be sent on or written down."""
    text = json.dumps(spoilt).encode()
    fields = [(b"payment-required", base64.b64encode(text))] if in_header else []
    response = http.Response.make(402, b"" if in_header else text, fields)

    async def pay() -> Payment | None:
        required = challenge.read(response)
        return None if required is None else await bench.payer.pay(required, Purpose("POST", "127.0.0.1", "/v1/x"))

    try:
        payment = bench.loop.run_until_complete(asyncio.wait_for(pay(), 30))
    except X402Error as error:
        str(error).encode()
    else:
        assert payment is None or all(value.encode() for value in dict(payment.headers).values())
