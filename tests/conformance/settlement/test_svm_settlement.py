"""The reference facilitators accept, and settle in LiteSVM, what we sign for Solana."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from solders.hash import Hash
from solders.instruction import CompiledInstruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction
from x402.http.utils import decode_payment_signature_header, encode_payment_signature_header
from x402.mechanisms.svm.exact import ExactSvmClientScheme, ExactSvmFacilitatorScheme
from x402.mechanisms.svm.exact.v1.client import ExactSvmSchemeV1 as ClientV1
from x402.mechanisms.svm.exact.v1.facilitator import ExactSvmSchemeV1
from x402.mechanisms.svm.mint_cache import MintMetadata
from x402.mechanisms.svm.signers import KeypairSigner
from x402.schemas import PaymentPayload, PaymentRequirements
from x402.schemas.v1 import PaymentPayloadV1, PaymentRequirementsV1

from mitmproxy_x402.protocol.headers import payment_required_header, read_payment
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.schemes.exact_svm import build
from support.chains.local_chains import SvmChain
from support.paying.own_payments import pay, svm_wallet

SVM = [network for network in BUILT_IN if network.family == "svm"]
PAY_TO = str(Keypair.from_seed(b"\x02" * 32).pubkey())
AMOUNT = 11961
SEED = b"\x03" * 32
MEMOS = {"none": None, "a short one": "order 4711", "256 bytes": "m" * 256, "256 bytes of UTF-8": "é" * 128}


@pytest.fixture(scope="module", params=SVM, ids=[network.name for network in SVM])
def chain(request: pytest.FixtureRequest) -> SvmChain:
    chain = SvmChain(request.param)
    chain.fund(PAY_TO, 0)
    return chain


def offer(chain: SvmChain, **extra: Any) -> dict[str, Any]:
    return {
        "scheme": "exact",
        "network": chain.network.caip2,
        "amount": str(AMOUNT),
        "payTo": PAY_TO,
        "maxTimeoutSeconds": 300,
        "asset": chain.asset.address,
        "extra": {
            "feePayer": chain.facilitator.get_addresses()[0],
            "recentBlockhash": chain.blockhash,
            "lastValidBlockHeight": "431992176",
            **{key: value for key, value in extra.items() if value is not None},
        },
    }


def offer_v1(chain: SvmChain, **extra: Any) -> dict[str, Any]:
    entry = offer(chain, **extra)
    entry["maxAmountRequired"] = entry.pop("amount")
    more = {"network": chain.network.name, "resource": "https://gateway/v1/chat", "description": "", "mimeType": ""}
    return {**entry, **more}


def challenge(entry: dict[str, Any]) -> str:
    return payment_required_header({"x402Version": 2, "accepts": [entry]})


def payment(value: str) -> PaymentPayload:
    decoded = decode_payment_signature_header(value)
    assert isinstance(decoded, PaymentPayload)
    return decoded


def transaction(payload: dict[str, Any]) -> VersionedTransaction:
    return VersionedTransaction.from_bytes(base64.b64decode(payload["transaction"], validate=True))


@pytest.mark.parametrize("memo", MEMOS.values(), ids=MEMOS)
def test_version_2_is_accepted_and_settled(chain: SvmChain, memo: str | None) -> None:
    wallet = svm_wallet()
    chain.fund(wallet.address, AMOUNT)
    entry = offer(chain, memo=memo)
    before = chain.balance(PAY_TO)

    name, value = pay(challenge(entry), b"", wallet)
    sent, required = payment(value), PaymentRequirements.model_validate(entry)

    assert name == "PAYMENT-SIGNATURE"
    assert sent.accepted == required
    judge = ExactSvmFacilitatorScheme(chain.facilitator)
    verdict = judge.verify(sent, required)
    assert (verdict.is_valid, verdict.invalid_reason, verdict.payer) == (True, None, wallet.address)
    settled = judge.settle(sent, required)
    assert (settled.success, settled.error_reason) == (True, None)
    assert (chain.balance(wallet.address), chain.balance(PAY_TO)) == (0, before + AMOUNT)
    executed = chain.facilitator.sent[settled.transaction]
    if memo:
        assert any(memo in log for log in executed.logs())
    assert executed.compute_units_consumed() < 20_000 + 350 * len((memo or "").encode())
    chain.fund(wallet.address, AMOUNT)
    assert not judge.settle(sent, required).success


@pytest.mark.parametrize("memo", MEMOS.values(), ids=MEMOS)
def test_version_1_is_accepted_and_settled(chain: SvmChain, memo: str | None) -> None:
    wallet, entry = svm_wallet(), offer_v1(chain, memo=memo)
    chain.fund(wallet.address, AMOUNT)
    before = chain.balance(PAY_TO)

    header, value = pay(None, json.dumps({"x402Version": 1, "accepts": [entry]}).encode(), wallet)
    sent, required = decode_payment_signature_header(value), PaymentRequirementsV1.model_validate(entry)

    assert header == "X-PAYMENT"
    assert isinstance(sent, PaymentPayloadV1)
    judge = ExactSvmSchemeV1(chain.facilitator)
    verdict = judge.verify(sent, required)
    assert (verdict.is_valid, verdict.invalid_reason) == (True, None)
    settled = judge.settle(sent, required)
    assert (settled.success, settled.error_reason) == (True, None)
    assert (chain.balance(wallet.address), chain.balance(PAY_TO)) == (0, before + AMOUNT)


@pytest.mark.parametrize("memo", MEMOS.values(), ids=MEMOS)
def test_equal_payments_under_one_blockhash_all_settle(chain: SvmChain, memo: str | None) -> None:
    wallet, entry = svm_wallet(), offer(chain, memo=memo)
    chain.fund(wallet.address, 3 * AMOUNT)
    required = PaymentRequirements.model_validate(entry)
    judge = ExactSvmFacilitatorScheme(chain.facilitator)
    for number in range(3):
        sent = payment(pay(challenge(entry), b"", wallet, nonce=bytes(15) + bytes([number]))[1])
        assert judge.settle(sent, required).success
    assert chain.balance(wallet.address) == 0


def test_a_blockhash_from_elsewhere_serves_too(chain: SvmChain) -> None:
    wallet, entry = svm_wallet(), offer(chain)
    del entry["extra"]["recentBlockhash"]
    chain.fund(wallet.address, AMOUNT)
    sent = payment(pay(challenge(entry), b"", wallet, blockhash=chain.blockhash)[1])
    assert ExactSvmFacilitatorScheme(chain.facilitator).verify(sent, PaymentRequirements.model_validate(entry)).is_valid


Change = Callable[[SvmChain, MessageV0, list[CompiledInstruction]], MessageV0]


def rebuilt(message: MessageV0, **changes: Any) -> MessageV0:
    parts = {
        "header": message.header,
        "account_keys": message.account_keys,
        "recent_blockhash": message.recent_blockhash,
        "instructions": message.instructions,
        "address_table_lookups": message.address_table_lookups,
    }
    return MessageV0(*{**parts, **changes}.values())


def with_data(index: int, data: bytes) -> Change:
    def change(_: SvmChain, message: MessageV0, instructions: list[CompiledInstruction]) -> MessageV0:
        old = instructions[index]
        instructions[index] = CompiledInstruction(old.program_id_index, data, bytes(old.accounts))
        return rebuilt(message, instructions=instructions)

    return change


def with_key(old: Callable[[SvmChain], Pubkey], new: Pubkey) -> Change:
    def change(chain: SvmChain, message: MessageV0, _: list[CompiledInstruction]) -> MessageV0:
        keys = [new if key == old(chain) else key for key in message.account_keys]
        assert new in keys
        return rebuilt(message, account_keys=keys)

    return change


def only(*kept: int) -> Change:
    return lambda _, message, instructions: rebuilt(message, instructions=[instructions[i] for i in kept])


STRANGER = Keypair.from_seed(b"\x04" * 32)
SPOILT: dict[str, Change] = {
    "a smaller amount": with_data(2, b"\x0c" + (AMOUNT - 1).to_bytes(8, "little") + b"\x06"),
    "other decimals": with_data(2, b"\x0c" + AMOUNT.to_bytes(8, "little") + b"\x05"),
    "a plain transfer": with_data(2, b"\x03" + AMOUNT.to_bytes(8, "little")),
    "too dear": with_data(1, b"\x03" + (5_000_001).to_bytes(8, "little")),
    "too few compute units": with_data(0, b"\x02" + (100).to_bytes(4, "little")),
    "another destination": with_key(lambda chain: chain.token_account(PAY_TO), STRANGER.pubkey()),
    "another mint": with_key(lambda chain: chain.mint, STRANGER.pubkey()),
    "an unknown blockhash": lambda _, message, __: rebuilt(message, recent_blockhash=Hash.new_unique()),
    "no compute unit limit": only(1, 2, 3),
    "no transfer": only(0, 1, 3),
    "another order": only(1, 0, 2, 3),
    "another fee payer": with_key(
        lambda chain: Pubkey.from_string(chain.facilitator.get_addresses()[0]), STRANGER.pubkey()
    ),
}


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_spoilt_payments_are_rejected(chain: SvmChain, change: Change) -> None:
    payer = Keypair()
    wallet, entry = svm_wallet(bytes(payer.secret())), offer(chain)
    chain.fund(wallet.address, 2 * AMOUNT)
    sent, required = payment(pay(challenge(entry), b"", wallet)[1]), PaymentRequirements.model_validate(entry)
    judge = ExactSvmFacilitatorScheme(chain.facilitator)
    assert judge.verify(sent, required).is_valid

    message = transaction(sent.payload).message
    assert isinstance(message, MessageV0)
    message = change(chain, message, list(message.instructions))
    signatures = [Signature.default(), payer.sign_message(to_bytes_versioned(message))]
    sent.payload["transaction"] = base64.b64encode(bytes(VersionedTransaction.populate(message, signatures))).decode()

    assert not judge.verify(sent, required).is_valid
    assert not judge.settle(sent, required).success
    assert chain.balance(wallet.address) == 2 * AMOUNT


@pytest.mark.parametrize("slot", [0, 1])
def test_a_foreign_signature_is_rejected(chain: SvmChain, slot: int) -> None:
    wallet, entry = svm_wallet(), offer(chain)
    chain.fund(wallet.address, AMOUNT)
    sent, required = payment(pay(challenge(entry), b"", wallet)[1]), PaymentRequirements.model_validate(entry)
    signed = transaction(sent.payload)
    signatures = list(signed.signatures)
    signatures[slot] = STRANGER.sign_message(to_bytes_versioned(signed.message))
    spoilt = VersionedTransaction.populate(signed.message, signatures)
    sent.payload["transaction"] = base64.b64encode(bytes(spoilt)).decode()
    # The first slot is the facilitator's own: it is filled anew whatever stands there.
    assert ExactSvmFacilitatorScheme(chain.facilitator).verify(sent, required).is_valid is (slot == 0)


@pytest.mark.parametrize("memo", ["another memo", None])
def test_another_memo_is_rejected(chain: SvmChain, memo: str | None) -> None:
    wallet = svm_wallet()
    chain.fund(wallet.address, AMOUNT)
    asked = PaymentRequirements.model_validate(offer(chain, memo="order 4711"))
    sent = payment(pay(challenge(offer(chain, memo=memo)), b"", wallet)[1])
    assert not ExactSvmFacilitatorScheme(chain.facilitator).verify(sent, asked).is_valid


def test_an_empty_wallet_is_rejected(chain: SvmChain) -> None:
    wallet, entry = svm_wallet(), offer(chain)
    chain.fund(wallet.address, AMOUNT - 1)
    sent = payment(pay(challenge(entry), b"", wallet)[1])
    judge = ExactSvmFacilitatorScheme(chain.facilitator)
    assert not judge.verify(sent, PaymentRequirements.model_validate(entry)).is_valid


@pytest.mark.parametrize("memo", [None, "order 4711"])
def test_what_the_reference_client_signs_is_read_and_is_what_we_sign(chain: SvmChain, memo: str | None) -> None:
    entry = offer(chain, memo=memo)
    required = PaymentRequirements.model_validate(entry)
    client = ExactSvmClientScheme(KeypairSigner(Keypair.from_seed(SEED)))
    metadata = MintMetadata(chain.asset.decimals, chain.program)  # or it would ask an RPC
    client._mint_cache[chain.network.caip2, chain.asset.address] = metadata
    payload = client.create_payment_payload(required)
    sent = PaymentPayload(x402_version=2, payload=payload, accepted=required)
    read = read_payment({"PAYMENT-SIGNATURE": encode_payment_signature_header(sent)}.get)
    assert read
    assert (read.payload, read.accepted.raw) == (payload, entry)

    theirs = transaction(payload).message
    nonce = bytes(16) if memo else bytes.fromhex(bytes(theirs.instructions[3].data).decode())
    wallet = svm_wallet(SEED)
    ours = build(
        read.accepted,
        chain.asset,
        payer=wallet.address,
        blockhash=chain.blockhash,
        nonce=nonce,
        sign=wallet.sign_message,
    )
    if memo is None:
        assert ours == payload
        return
    message = transaction(ours).message
    assert message.account_keys == theirs.account_keys
    assert message.instructions[1:] == theirs.instructions[1:]  # the limit is ours: theirs is too low for long memos


@contextmanager
def rpc(chain: SvmChain) -> Iterator[str]:
    """The URL of an RPC that knows the chain's blockhash and nothing else."""
    value = {"blockhash": chain.blockhash, "lastValidBlockHeight": 1000}
    answer = {"jsonrpc": "2.0", "id": 0, "result": {"context": {"slot": 1}, "value": value}}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_what_the_reference_client_signs_in_version_1_is_read(chain: SvmChain) -> None:
    required = PaymentRequirementsV1.model_validate(offer_v1(chain))
    metadata = MintMetadata(chain.asset.decimals, chain.program)
    with rpc(chain) as url:  # in version 1 it has no use for the challenge's blockhash
        client = ClientV1(KeypairSigner(Keypair.from_seed(SEED)), url)
        client._mint_cache[chain.network.name, chain.asset.address] = metadata
        payload = client.create_payment_payload(required)
    sent = PaymentPayloadV1(scheme="exact", network=chain.network.name, payload=payload)
    read = read_payment({"X-PAYMENT": encode_payment_signature_header(sent)}.get)
    assert read
    assert (read.x402_version, read.accepted.network, read.payload) == (1, chain.network.name, payload)
