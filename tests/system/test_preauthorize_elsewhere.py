"""Payments ahead of their challenge at gateways that are not the sandbox: what they refuse, and in which words."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from support import challenges
from support.paying.ahead import AHEAD, ENOUGH, IN_VAIN, ON, models
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Message, Peer, Upstream, request


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    def idle(_peer: Peer, _upstream: Upstream) -> None:
        raise EOFError("no script")

    with Upstream(idle) as upstream, Proxy(upstream.url, *ON, home=tmp_path_factory.mktemp("home")) as proxy:
        yield Rig(proxy, upstream)


RECEIPT = base64.b64encode(json.dumps({"success": True, "transaction": "0x" + "ab" * 32}).encode())
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nPAYMENT-RESPONSE: %b\r\n\r\nok" % RECEIPT


def refusing(rig: Rig, refusal: bytes, challenge: bytes | None = None) -> list[bool]:
    """The legs, each paid or not, of a request whose first payment, sent ahead, is answered by `refusal`."""
    sold = 0
    path = f"/{next(models)}"

    def script(peer: Peer, upstream: Upstream) -> None:
        nonlocal sold
        while True:
            if upstream.read(peer).get(b"payment-signature") is None:
                peer.send(challenge or challenges.answer())
            else:
                sold += 1
                peer.send(refusal if sold == ENOUGH + 1 else OK)

    rig.script(script)
    with rig.client() as client:
        for _ in range(ENOUGH):
            assert client.ask(request("POST", path)).status == 200
        seen = len(rig.upstream.requests)
        client.ask(request("POST", path))
    return [message.get(b"payment-signature") is not None for message in rig.upstream.requests[seen:]]


def answer(error: str, body: dict[str, Any] | None = None, *headers: bytes) -> bytes:
    required = challenges.evm() | {"error": error}
    return challenges.answer(required, None if body is None else json.dumps(body).encode(), *headers)


def test_a_gateway_that_takes_it_for_no_payment_is_paid_anew(rig: Rig) -> None:
    assert refusing(rig, challenges.answer()) == IN_VAIN
    assert refusing(rig, challenges.answer(challenges.evm("14000"))) == IN_VAIN


def test_a_reference_server_that_would_not_offer_that_now_is_paid_anew(rig: Rig) -> None:
    assert refusing(rig, answer("No matching payment requirements", {})) == IN_VAIN
    assert refusing(rig, answer("No matching payment requirements")) == IN_VAIN


@pytest.mark.parametrize(
    "refusal",
    [
        answer("invalid_exact_evm_payload_signature"),
        answer("Payment required", {"error": "Settlement failed"}),
        answer("Payment required", {"reason": "The nonce was used."}),
        answer("No matching payment requirements", {"reason": "The nonce was used."}),
        challenges.answer(None, None, b"PAYMENT-RESPONSE: " + RECEIPT),
        challenges.answer(None, None, b"X-Payment-Receipt: 0x" + b"ab" * 32),
        b"HTTP/1.1 402 Payment Required\r\nContent-Length: 2\r\n\r\n{}",
        challenges.answer().replace(b"402 Payment Required", b"400 Bad Request"),
    ],
)
def test_anything_else_is_the_last_word(rig: Rig, refusal: bytes) -> None:
    assert refusing(rig, refusal) == AHEAD


def test_the_words_of_an_unpaid_request_are_known_by_heart(rig: Rig) -> None:
    said = answer("Pay 12 cents", {"message": "This costs 0.12 USD", "price": {"amount": "0.12"}})
    again = answer("Pay 13 cents", {"message": "This costs 0.13 USD", "price": {"amount": "0.13"}})
    assert refusing(rig, again, said) == IN_VAIN


def test_the_payment_is_the_last_header_of_the_first_request(rig: Rig) -> None:
    taught: list[Message] = []
    refusing(rig, OK)
    taught = rig.upstream.requests
    ahead, ordinary = taught[-1], taught[-2]
    assert [name for name, _ in ahead.fields] == [name for name, _ in ordinary.fields]
    assert ahead.get(b"payment-signature") != ordinary.get(b"payment-signature")
    assert rig.upstream.connections == 1
