"""The reference facilitators accept, and settle on a local chain, what we sign for EVM networks."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from x402.http.utils import (
    decode_payment_response_header,
    decode_payment_signature_header,
    encode_payment_required_header,
    encode_payment_response_header,
    encode_payment_signature_header,
)
from x402.mechanisms.evm.asset_cache import reset_asset_contract_cache
from x402.mechanisms.evm.exact import ExactEvmClientScheme, ExactEvmFacilitatorScheme
from x402.mechanisms.evm.exact.v1.client import ExactEvmSchemeV1 as ClientV1
from x402.mechanisms.evm.exact.v1.facilitator import ExactEvmSchemeV1
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentPayload, PaymentRequired, PaymentRequirements, SettleResponse
from x402.schemas.v1 import PaymentPayloadV1, PaymentRequirementsV1

from mitmproxy_x402.protocol.headers import payment_required_header, read_payment, read_settlement, settlement_header
from mitmproxy_x402.protocol.messages import SettlementResponse
from mitmproxy_x402.protocol.networks import BUILT_IN, Network
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.schemes.exact_evm import authorize, domain_separator
from support.chains.local_chains import EvmChain
from support.paying.own_payments import evm_wallet, pay

EVM = [network for network in BUILT_IN if network.family == "evm"]
PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
AMOUNT = 13081
EXTENSIONS = {"bazaar": {"info": {"é": [1, 2.5, None]}}}


def offer(network: Network) -> dict[str, Any]:
    asset = network.assets[0]
    return {
        "scheme": "exact",
        "network": network.caip2,
        "amount": str(AMOUNT),
        "asset": asset.address,
        "payTo": PAY_TO,
        "maxTimeoutSeconds": 300,
        "extra": {"name": asset.domain_name, "version": asset.domain_version},
    }


def offer_v1(network: Network) -> dict[str, Any]:
    entry = offer(network)
    entry["maxAmountRequired"] = entry.pop("amount")
    return {
        **entry,
        "network": network.name,
        "resource": "https://gateway/v1/chat",
        "description": "",
        "mimeType": "application/json",
    }


def challenge(entry: dict[str, Any]) -> str:
    resource = {"url": "https://gateway/v1/chat", "description": "d", "mimeType": "application/json"}
    return payment_required_header(
        {"x402Version": 2, "resource": resource, "accepts": [entry], "extensions": EXTENSIONS}
    )


def decoded(value: str) -> Any:
    return json.loads(base64.b64decode(value, validate=True))


def encoded(message: Any) -> str:
    return base64.b64encode(json.dumps(message).encode()).decode()


@pytest.fixture(autouse=True)
def fresh_cache() -> None:
    reset_asset_contract_cache()


@pytest.fixture(scope="module", params=EVM, ids=[network.name for network in EVM])
def chain(request: pytest.FixtureRequest) -> EvmChain:
    return EvmChain(request.param)


def test_the_domain_is_the_contract_s(chain: EvmChain) -> None:
    assert domain_separator(chain.network.chain_id, chain.asset) == chain.domain_separator()


def test_version_2_is_accepted_and_settled(chain: EvmChain) -> None:
    wallet = evm_wallet()
    chain.fund(wallet.address, AMOUNT)
    entry = offer(chain.network)
    before = chain.balance(PAY_TO)

    name, value = pay(challenge(entry), b"", wallet)
    payment = decode_payment_signature_header(value)
    required = PaymentRequirements.model_validate(entry)

    assert name == "PAYMENT-SIGNATURE"
    assert isinstance(payment, PaymentPayload)
    assert payment.accepted == required
    assert payment.extensions == EXTENSIONS
    judge = ExactEvmFacilitatorScheme(chain.facilitator)
    verdict = judge.verify(payment, required)
    assert (verdict.is_valid, verdict.invalid_reason, verdict.payer) == (True, None, wallet.address)
    settled = judge.settle(payment, required)
    assert (settled.success, settled.error_reason) == (True, None)
    assert (chain.balance(wallet.address), chain.balance(PAY_TO)) == (0, before + AMOUNT)
    assert chain.used(wallet.address, payment.payload["authorization"]["nonce"])
    chain.fund(wallet.address, AMOUNT)
    again = judge.verify(payment, required)
    assert not again.is_valid


@pytest.mark.parametrize("name", ["base", "base-sepolia"])
def test_version_1_is_accepted_and_settled(name: str) -> None:
    network = BUILT_IN.get(name)
    assert network
    chain, wallet, entry = EvmChain(network), evm_wallet(), offer_v1(network)
    chain.fund(wallet.address, AMOUNT)

    header, value = pay(None, json.dumps({"x402Version": 1, "error": "", "accepts": [entry]}).encode(), wallet)
    payment = decode_payment_signature_header(value)
    required = PaymentRequirementsV1.model_validate(entry)

    assert header == "X-PAYMENT"
    assert isinstance(payment, PaymentPayloadV1)
    judge = ExactEvmSchemeV1(chain.facilitator)
    verdict = judge.verify(payment, required)
    assert (verdict.is_valid, verdict.invalid_reason) == (True, None)
    settled = judge.settle(payment, required)
    assert (settled.success, settled.error_reason) == (True, None)
    assert (chain.balance(wallet.address), chain.balance(PAY_TO)) == (0, AMOUNT)


def _authorization(key: str, change: Callable[[str], str]) -> Callable[[dict[str, Any]], None]:
    def spoil(payload: dict[str, Any]) -> None:
        payload["authorization"][key] = change(payload["authorization"][key])

    return spoil


def _signature(change: Callable[[bytes], bytes]) -> Callable[[dict[str, Any]], None]:
    def spoil(payload: dict[str, Any]) -> None:
        payload["signature"] = "0x" + change(bytes.fromhex(payload["signature"][2:])).hex()

    return spoil


ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
STRANGER = evm_wallet(b"\x07" * 32).address
SPOILT: dict[str, Callable[[dict[str, Any]], None]] = {
    "another payer": _authorization("from", lambda _: STRANGER),
    "another recipient": _authorization("to", lambda _: STRANGER),
    "a smaller value": _authorization("value", lambda value: str(int(value) - 1)),
    "a bigger value": _authorization("value", lambda value: str(int(value) + 1)),
    "another start": _authorization("validAfter", lambda value: str(int(value) + 1)),
    "a start to come": _authorization("validAfter", lambda _: str(int(time.time()) + 1000)),
    "another end": _authorization("validBefore", lambda value: str(int(value) + 1)),
    "an end in the past": _authorization("validBefore", lambda _: "1"),
    "another nonce": _authorization("nonce", lambda nonce: nonce[:-1] + ("1" if nonce[-1] != "1" else "2")),
    "a changed signature": _signature(lambda data: bytes([data[0] ^ 1]) + data[1:]),
    "the other v": _signature(lambda data: data[:64] + bytes([55 - data[64]])),
    "a high s": _signature(
        lambda data: (
            data[:32] + (ORDER - int.from_bytes(data[32:64], "big")).to_bytes(32, "big") + bytes([55 - data[64]])
        )
    ),
    "a short signature": _signature(lambda data: data[:64]),
    "no signature": lambda payload: payload.update(signature=""),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_spoilt_payments_are_rejected(chain: EvmChain, spoil: Callable[[dict[str, Any]], None]) -> None:
    wallet, entry = evm_wallet(), offer(chain.network)
    chain.fund(wallet.address, 2 * AMOUNT)
    chain.fund(STRANGER, 2 * AMOUNT)
    message = decoded(pay(challenge(entry), b"", wallet)[1])
    required = PaymentRequirements.model_validate(entry)
    judge = ExactEvmFacilitatorScheme(chain.facilitator)
    assert judge.verify(PaymentPayload.model_validate(message), required).is_valid
    spoil(message["payload"])
    payment = decode_payment_signature_header(encoded(message))
    assert isinstance(payment, PaymentPayload)
    assert not judge.verify(payment, required).is_valid
    before = chain.balance(wallet.address), chain.balance(STRANGER)
    assert not judge.settle(payment, required).success
    assert (chain.balance(wallet.address), chain.balance(STRANGER)) == before


def test_an_empty_wallet_is_rejected(chain: EvmChain) -> None:
    wallet, entry = evm_wallet(), offer(chain.network)
    chain.fund(wallet.address, AMOUNT - 1)
    payment = decode_payment_signature_header(pay(challenge(entry), b"", wallet)[1])
    assert isinstance(payment, PaymentPayload)
    judge = ExactEvmFacilitatorScheme(chain.facilitator)
    assert not judge.verify(payment, PaymentRequirements.model_validate(entry)).is_valid


def test_a_signature_for_another_chain_is_rejected() -> None:
    first, second = EVM[0], EVM[1]
    chain, wallet = EvmChain(second), evm_wallet()
    chain.fund(wallet.address, AMOUNT)
    message = decoded(pay(challenge(offer(first)), b"", wallet)[1])
    message["accepted"] = offer(second)
    judge = ExactEvmFacilitatorScheme(chain.facilitator)
    verdict = judge.verify(PaymentPayload.model_validate(message), PaymentRequirements.model_validate(offer(second)))
    assert not verdict.is_valid


class TestReferenceClient:
    """Vectors the other way: what the reference package writes, we read, and would have signed alike."""

    KEY = b"\x09" * 32

    def signer(self) -> EthAccountSigner:
        from eth_account import Account  # noqa: PLC0415 - keeps its slow import to this class

        return EthAccountSigner(Account.from_key(self.KEY))

    @pytest.mark.parametrize("network", EVM, ids=lambda network: network.name)
    def test_version_2(self, network: Network) -> None:
        required = PaymentRequirements.model_validate(offer(network))
        payload = ExactEvmClientScheme(self.signer()).create_payment_payload(required)
        sent = PaymentPayload(x402_version=2, payload=payload, accepted=required, extensions=EXTENSIONS)
        payment = read_payment({"PAYMENT-SIGNATURE": encode_payment_signature_header(sent)}.get)
        assert payment
        assert payment.payload == payload
        assert payment.accepted.raw == offer(network)
        assert payment.extensions == EXTENSIONS
        self.assert_signed_alike(network, payment.accepted, payload)

    @pytest.mark.parametrize("name", ["base", "base-sepolia"])
    def test_version_1(self, name: str) -> None:
        network = BUILT_IN.get(name)
        assert network
        required = PaymentRequirementsV1.model_validate(offer_v1(network))
        payload = ClientV1(self.signer()).create_payment_payload(required)
        sent = PaymentPayloadV1(scheme="exact", network=name, payload=payload)
        payment = read_payment({"X-PAYMENT": encode_payment_signature_header(sent)}.get)
        assert payment
        assert (payment.x402_version, payment.accepted.network, payment.payload) == (1, name, payload)
        ours = read_payment_required(None, json.dumps({"x402Version": 1, "accepts": [offer_v1(network)]}).encode())
        assert ours
        self.assert_signed_alike(network, ours.accepts[0], payload)

    def assert_signed_alike(self, network: Network, entry: Any, payload: dict[str, Any]) -> None:
        theirs, wallet = payload["authorization"], evm_wallet(self.KEY)
        start, end = int(theirs["validAfter"]), int(theirs["validBefore"])
        unbounded = type(entry)(**{**vars(entry), "max_timeout_seconds": 2**40})
        ours = authorize(
            unbounded,
            network,
            network.assets[0],
            payer=wallet.address,
            now=start + 600,
            nonce=bytes.fromhex(theirs["nonce"][2:]),
            max_validity=end - start - 600,
            sign=wallet.sign_digest,
        )
        assert ours["signature"] == payload["signature"]
        assert {**ours["authorization"], "to": ""} == {**theirs, "to": ""}
        assert ours["authorization"]["to"].lower() == theirs["to"].lower()

    def test_a_challenge(self) -> None:
        entry = offer(EVM[0])
        said = PaymentRequired(accepts=[PaymentRequirements.model_validate(entry)], error="e", extensions=EXTENSIONS)
        required = read_payment_required(encode_payment_required_header(said), b"")
        assert required
        assert [item.raw for item in required.accepts] == [entry]
        assert (required.error, required.extensions, required.unreadable) == ("e", EXTENSIONS, ())

    def test_a_settlement(self) -> None:
        told = SettlementResponse(True, "0x" + "ab" * 32, "eip155:8453", STRANGER)
        said = SettleResponse(success=True, transaction=told.transaction, network=told.network, payer=told.payer)
        assert read_settlement({"PAYMENT-RESPONSE": encode_payment_response_header(said)}.get) == told
        _, value = settlement_header(2, told)
        assert decode_payment_response_header(value) == said
