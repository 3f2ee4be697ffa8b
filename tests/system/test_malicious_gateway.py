"""A gateway that lies in its challenge: each lie that hurt a payer or could, told to the real proxy at the socket.

Whatever it is, the client gets an answer, nothing leaves that is not in the table and within the limits, and the next
request is served. (Lies that nobody thought of: the fuzzed challenges in test_payer and protocol/test_headers.)
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from solders.keypair import Keypair

from support import challenges
from support.proxy import EVM_ADDRESS, EVM_KEY, SVM_SEED, Proxy, svm_key
from support.wire import Message, Peer, Upstream, free_port, request

HONEST = 13_081
SVM_ADDRESS = str(Keypair.from_seed(SVM_SEED).pubkey())
BLOCKHASH = "EkSnNWid2cvwEVnVx9aBqawnmiCNiDgp3gUdkDPTKN1N"
LOOK_ALIKE = "0x036CbD53842c5426634e7929541eC2318f3dCF7f"
"""The test network's USDC but for its last digit."""


def evm(**changes: Any) -> bytes:
    return answer({**challenges.evm(str(HONEST)), "accepts": [entry(**changes)]})


def entry(**changes: Any) -> dict[str, Any]:
    return {**challenges.evm(str(HONEST))["accepts"][0], **changes}


def svm(**changes: Any) -> bytes:
    challenge = challenges.svm(recentBlockhash=BLOCKHASH)
    extra = {**challenge["accepts"][0]["extra"], **changes.pop("extra", {})}
    return answer({**challenge, "accepts": [{**challenge["accepts"][0], "extra": extra, **changes}]})


def answer(challenge: Any) -> bytes:
    return in_header(json.dumps(challenge).encode())


def in_header(text: bytes) -> bytes:
    return (
        b"HTTP/1.1 402 Payment Required\r\nPAYMENT-REQUIRED: "
        + base64.b64encode(text)
        + b"\r\nContent-Length: 2\r\n\r\n{}"
    )


def in_body(text: bytes) -> bytes:
    return b"HTTP/1.1 402 Payment Required\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


def doubled_key() -> bytes:
    text = json.dumps({**challenges.evm(str(HONEST)), "accepts": [entry(amount="1")]})
    return in_header(text.replace('"amount": "1"', f'"amount": "1", "amount": "{HONEST}"').encode())


def nested() -> bytes:
    text = json.dumps(
        {**challenges.evm(str(HONEST)), "accepts": [entry(extra={"name": "USDC", "version": "2", "x": 0})]}
    )
    return in_header(text.replace('"x": 0', '"x": ' + "[" * 1000 + "]" * 1000).encode())


LIES: dict[str, Callable[[], bytes]] = {
    # The amount.
    "a float": lambda: evm(amount=0.013081),
    "a whole float": lambda: evm(amount=13081.0),
    "a number": lambda: evm(amount=HONEST),
    "a decimal text": lambda: evm(amount="13081.0"),
    "an exponent": lambda: evm(amount="13e3"),
    "hex": lambda: evm(amount="0x3319"),
    "negative": lambda: evm(amount="-13081"),
    "a plus sign": lambda: evm(amount="+13081"),
    "2^256": lambda: evm(amount=str(2**256)),
    "2^256 - 1": lambda: evm(amount=str(2**256 - 1)),
    "2^64 on Solana": lambda: svm(amount=str(2**64)),
    "unicode digits": lambda: evm(amount="١٣٠٨١"),
    "full-width digits": lambda: evm(amount="１３０８１"),
    "an underscore": lambda: evm(amount="13_081"),
    "a space": lambda: evm(amount=" 13081"),
    "ten thousand digits": lambda: evm(amount="1" * 10_000),
    "a list": lambda: evm(amount=["13081"]),
    "999 dollars": lambda: evm(amount="999000000"),
    "18 decimals": lambda: evm(amount="13081000000000000", decimals=18),
    # Who is paid, in what.
    "a look-alike asset": lambda: evm(asset=LOOK_ALIKE),
    "an asset of another chain": lambda: evm(asset="0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
    "an asset in Cyrillic": lambda: evm(asset="0х036CbD53842c5426634e7929541eC2318f3dCF7e"),
    "another chain": lambda: evm(network="eip155:1"),
    "a chain with a leading zero": lambda: evm(network="eip155:084532"),
    "another signing domain": lambda: evm(extra={"name": "USD Coin", "version": "2"}),
    "another scheme": lambda: evm(scheme="upto"),
    "a spelt scheme": lambda: evm(scheme="exact "),
    "payTo is the payer": lambda: evm(payTo=EVM_ADDRESS),
    "payTo is nobody": lambda: evm(payTo="0x" + "0" * 40),
    "payTo is too short": lambda: evm(payTo="0x1234"),
    "payTo is a name": lambda: evm(payTo="vitalik.eth"),
    "payTo is the payer, on Solana": lambda: svm(payTo=SVM_ADDRESS),
    "the payer pays the fee": lambda: svm(extra={"feePayer": SVM_ADDRESS}),
    "payTo pays the fee and is no key": lambda: svm(extra={"feePayer": "1" * 31}),
    "a mint that is a program": lambda: svm(asset="TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"),
    "a short blockhash": lambda: svm(extra={"recentBlockhash": BLOCKHASH[:-2]}),
    "a long blockhash": lambda: svm(extra={"recentBlockhash": BLOCKHASH + "11"}),
    "a blockhash that is none": lambda: svm(extra={"recentBlockhash": "0OIl" + BLOCKHASH[4:]}),
    "a memo of a kilobyte": lambda: svm(extra={"memo": "x" * 1024}),
    "a memo that is no text": lambda: svm(extra={"memo": [1, 2, 3]}),
    # How long it is valid.
    "valid for ever": lambda: evm(maxTimeoutSeconds=10**30),
    "valid backwards": lambda: evm(maxTimeoutSeconds=-300),
    "valid for a float": lambda: evm(maxTimeoutSeconds=1e308),
    # The JSON itself.
    "a doubled key": doubled_key,
    "a thousand levels": nested,
    "a million brackets": lambda: in_body(b'{"x402Version":2,"accepts":' + b"[" * 500_000),
    "ten megabytes of base64": lambda: in_body(base64.b64encode(bytes(10 << 20))),
    "NaN": lambda: in_header(json.dumps({**challenges.evm(), "accepts": [entry(amount=float("nan"))]}).encode()),
    "no JSON": lambda: in_header(b"pay me"),
    "no base64": lambda: b"HTTP/1.1 402 Payment Required\r\nPAYMENT-REQUIRED: !!!\r\nContent-Length: 0\r\n\r\n",
    "nothing in accepts": lambda: answer({**challenges.evm(), "accepts": []}),
    "accepts is a number": lambda: answer({**challenges.evm(), "accepts": 7}),
    "version 3": lambda: answer({**challenges.evm(), "x402Version": 3}),
    "version true": lambda: answer({**challenges.evm(), "x402Version": True}),
    "two hundred bad offers": lambda: in_body(
        json.dumps({**challenges.evm(), "accepts": [entry(network=f"eip155:{n}") for n in range(200)]}).encode()
    ),
    "terminal colours": lambda: evm(network="\x1b[31mbase\x1b[0m\r\n"),
}
HARMLESS = {"valid for ever", "payTo is nobody"}
"""These may be paid: within the limits, to whom was asked, and for no longer than x402_max_validity."""


class Liar:
    """Tells `lie` to whoever does not pay, and counts what it is paid."""

    lie = b""

    def __init__(self) -> None:
        self.payments: list[dict[str, Any]] = []

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            message: Message = upstream.read(peer)
            header = message.get(b"payment-signature") or message.get(b"x-payment")
            if header is None:
                peer.send(self.lie)
            else:
                self.payments.append(json.loads(base64.b64decode(header)))
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npaid")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Liar, Proxy]]:
    liar = Liar()
    keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, "SOLANA_WALLET_KEY": svm_key()}
    options = ("--set", f"x402_solana_rpc=http://127.0.0.1:{free_port()}", "--set", "x402_rpc_timeout=0.5")
    with Upstream(liar) as upstream:
        with Proxy(upstream.url, *options, home=tmp_path_factory.mktemp("home"), keys=keys) as proxy:
            yield liar, proxy
            assert "Traceback" not in proxy.log
            assert "internal_error" not in proxy.log
            assert "\x1b[31m" not in proxy.log


@pytest.mark.parametrize("lie", sorted(LIES.keys() - HARMLESS))
def test_a_lie_is_not_paid(stage: tuple[Liar, Proxy], lie: str) -> None:
    liar, proxy = stage
    liar.lie = LIES[lie]()
    before = len(liar.payments)
    with proxy.client() as client:
        told = client.ask(request())
    assert liar.payments[before:] == []
    if told.status == 400:
        error = json.loads(told.body)["error"]
        assert error["type"] == "x402_refused"
        assert error["message"].replace("\n", "").isprintable()  # rows to paste have lines of their own
        assert "othing was" in error["message"], "it says that no money moved"
    else:  # no challenge at all: the gateway's own words
        assert told.status == 402
        assert liar.lie.endswith(told.body)
    liar.lie = answer(challenges.evm(str(HONEST)))
    with proxy.client() as client:
        assert client.ask(request()).body == b"paid"
    assert liar.payments[-1]["payload"]["authorization"]["value"] == str(HONEST)


@pytest.mark.parametrize("lie", sorted(HARMLESS))
def test_what_is_odd_is_paid_within_the_limits(stage: tuple[Liar, Proxy], lie: str) -> None:
    liar, proxy = stage
    liar.lie = LIES[lie]()
    before = len(liar.payments)
    with proxy.client() as client:
        told = client.ask(request())
    assert told.status in (200, 400)
    for payment in liar.payments[before:]:
        authorization = payment["payload"]["authorization"]
        assert int(authorization["value"]) <= 1_000_000
        assert int(authorization["validBefore"]) - int(authorization["validAfter"]) <= 600 + 600


def test_one_honest_offer_among_two_hundred_is_found(stage: tuple[Liar, Proxy]) -> None:
    """Or refused as too many; but never one of the others."""
    liar, proxy = stage
    offers = [entry(asset=LOOK_ALIKE, amount="1") for _ in range(199)]
    offers.insert(150, entry())
    liar.lie = in_body(json.dumps({**challenges.evm(), "accepts": offers}).encode())
    before = len(liar.payments)
    with proxy.client() as client:
        told = client.ask(request())
    paid = [payment["payload"]["authorization"]["value"] for payment in liar.payments[before:]]
    assert (told.status, paid) in ((200, [str(HONEST)]), (400, []))
