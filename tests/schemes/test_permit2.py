"""Permit2 and EIP-2612 signatures, against vectors and against eth-account's own encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.errors import ChallengeError
from mitmproxy_x402.protocol.evm.permit2_contracts import PERMIT2, SETTLERS
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequirements
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.schemes import permit2

KEY = "0x" + "11" * 32
PAYER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
FACILITATOR = "0x14fDa13953Fc30428938E6BF950d036e77214e52"
NOW = 1_790_000_000
BASE = BUILT_IN.get("base")
assert BASE is not None
USDC = BASE.assets[0]


def sign(digest: bytes) -> bytes:
    return bytes(Account.unsafe_sign_hash(digest, KEY).signature)


def requirement(units: int, **changes: Any) -> PaymentRequirements:
    extra = {"name": "USD Coin", "version": "2", "facilitatorAddress": FACILITATOR}
    made = PaymentRequirements("upto", "eip155:8453", AtomicUnits(units), USDC.address, PAY_TO, 300, extra, {})
    return replace(made, **changes)


def pay(method: Any, required: PaymentRequirements, nonce: int = 12345) -> dict[str, Any]:
    return permit2.authorize(
        required, BASE, USDC, method=method, payer=PAYER, now=NOW, nonce=nonce.to_bytes(32, "big"), max_validity=600,
        sign=sign,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "amount", "signature"),
    [
        (
            "permit2",
            1000,
            "eb97cb1191f1de71eab92fed2db139cc57fed63f9f901c78f59d358e188c0c4c1d4b5ddbb6ef7b45d5eda078b8e7348ff93705276e0"
            "26791d9b6e77a4f79ef5d1c",
        ),
        (
            "upto",
            17686,
            "f02ba6d8d1aa335d681992506a54ecbe171936f3f88bf7ef28b24ed15eb59c5726e61696aa099504439a58a17e992c92dbef8d16f8d"
            "bae96351322279e08f3c21c",
        ),
    ],
)
def test_vectors(method: str, amount: int, signature: str) -> None:
    payload = pay(method, requirement(amount))
    assert payload["signature"] == "0x" + signature
    authorization = payload["permit2Authorization"]
    assert (authorization["nonce"], authorization["deadline"]) == ("12345", str(NOW + 300))
    assert authorization["spender"] == SETTLERS[method]
    assert authorization["witness"] == {
        "to": PAY_TO,
        **({"facilitator": FACILITATOR} if method == "upto" else {}),
        "validAfter": "0",
    }


def test_the_vector_of_eip_2612() -> None:
    signed = permit2.permit(USDC, BASE, payer=PAYER, value=17686, token_nonce=7, deadline=NOW + 300, sign=sign)
    expected = (
        "0fb6838c525324504c37c409f713c0d0e981b69a76171878f26bae41acd97dd002f5fbea89fb256d5c6aff96d74a92138577d948f063bb"
        "60fc50734ec5f1aa4e1c"
    )
    assert signed["signature"] == "0x" + expected
    assert (signed["spender"], signed["amount"]) == (PERMIT2, "17686")


WITNESS = {
    "permit2": [{"name": "to", "type": "address"}, {"name": "validAfter", "type": "uint256"}],
    "upto": [
        {"name": "to", "type": "address"},
        {"name": "facilitator", "type": "address"},
        {"name": "validAfter", "type": "uint256"},
    ],
}


@given(amount=st.integers(1, 2**256 - 1), nonce=st.integers(0, 2**256 - 1), method=st.sampled_from(["permit2", "upto"]))
def test_the_digest_equals_that_of_eth_account(amount: int, nonce: int, method: str) -> None:
    payload = pay(method, requirement(amount), nonce)
    said = payload["permit2Authorization"]
    message = {
        "permitted": {"token": USDC.address, "amount": amount},
        "spender": SETTLERS[method],
        "nonce": nonce,
        "deadline": int(said["deadline"]),
        "witness": {**said["witness"], "validAfter": 0},
    }
    typed = {
        "domain": {"name": "Permit2", "chainId": 8453, "verifyingContract": PERMIT2},
        "primaryType": "PermitWitnessTransferFrom",
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "PermitWitnessTransferFrom": [
                {"name": "permitted", "type": "TokenPermissions"},
                {"name": "spender", "type": "address"},
                {"name": "nonce", "type": "uint256"},
                {"name": "deadline", "type": "uint256"},
                {"name": "witness", "type": "Witness"},
            ],
            "TokenPermissions": [{"name": "token", "type": "address"}, {"name": "amount", "type": "uint256"}],
            "Witness": WITNESS[method],
        },
        "message": message,
    }
    assert Account.recover_message(encode_typed_data(full_message=typed), signature=payload["signature"]) == PAYER


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": {}}, "facilitatorAddress must name who settles"),
        ({"extra": {"facilitatorAddress": "0x" + "0" * 40}}, "must name who settles"),
        ({"extra": {"facilitatorAddress": "0x12"}}, "facilitatorAddress .* is not an address"),
        ({"amount": AtomicUnits(0)}, "asks for nothing"),
        ({"pay_to": PAYER}, "is the paying wallet itself"),
        ({"max_timeout_seconds": 5}, "leaves 5 seconds"),
        ({"extra": {"facilitatorAddress": FACILITATOR, "name": "Tether"}}, "signing domain name"),
    ],
)
def test_what_cannot_be_settled_is_not_signed(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ChallengeError, match=reason):
        pay("upto", requirement(1000, **changes))


def test_a_permit_is_added_and_changes_nothing_of_the_seller() -> None:
    extensions = {"eip2612GasSponsoring": {"info": {"description": "d", "version": "1"}, "schema": {"x": 1}}, "y": 2}
    assert permit2.sponsors(extensions, USDC)
    assert not permit2.sponsors(extensions, replace(USDC, eip2612=False))
    assert not permit2.sponsors({"eip2612GasSponsoring": {}}, USDC)
    added = permit2.with_permit(extensions, {"version": "1", "amount": "5", "description": "changed"})
    info = added["eip2612GasSponsoring"]["info"]
    assert info == {"description": "d", "version": "1", "amount": "5"}
    assert (added["eip2612GasSponsoring"]["schema"], added["y"]) == ({"x": 1}, 2)
