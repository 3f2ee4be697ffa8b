from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_x402.errors import ChallengeError
from mitmproxy_x402.protocol.evm.secp256k1 import library
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequirements
from mitmproxy_x402.protocol.networks import BUILT_IN, Asset, Network
from mitmproxy_x402.schemes.exact_evm import CLOCK_SKEW, MIN_VALIDITY, authorize

KEY = bytes.fromhex("4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318")
PAYER = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
NONCE = bytes(range(32))
NOW = 1_750_000_000
EVM = [network for network in BUILT_IN if network.family == "evm"]
BASE = EVM[0]


def requirement(network: Network = BASE, **changes: Any) -> PaymentRequirements:
    asset = network.assets[0]
    extra = {"name": asset.domain_name, "version": asset.domain_version}
    plain = PaymentRequirements("exact", network.caip2, AtomicUnits(13081), asset.address, PAY_TO, 300, extra, {})
    return replace(plain, **changes)


def sign(digest: bytes) -> bytes:
    signature = library().sign(KEY, digest)
    return signature[:64] + bytes([27 + signature[64]])


def pay(required: PaymentRequirements, network: Network = BASE, **changes: Any) -> dict[str, Any]:
    asset = changes.pop("asset", network.assets[0])
    arguments: dict[str, Any] = {"payer": PAYER, "now": NOW, "nonce": NONCE, "max_validity": 600, "sign": sign}
    return authorize(required, network, asset, **{**arguments, **changes})


def typed_data(network: Network, asset: Asset, authorization: dict[str, str]) -> dict[str, Any]:
    numbers = {key: int(authorization[key]) for key in ("value", "validAfter", "validBefore")}
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "TransferWithAuthorization": [
                {"name": "from", "type": "address"},
                {"name": "to", "type": "address"},
                {"name": "value", "type": "uint256"},
                {"name": "validAfter", "type": "uint256"},
                {"name": "validBefore", "type": "uint256"},
                {"name": "nonce", "type": "bytes32"},
            ],
        },
        "primaryType": "TransferWithAuthorization",
        "domain": {
            "name": asset.domain_name,
            "version": asset.domain_version,
            "chainId": network.chain_id,
            "verifyingContract": asset.address,
        },
        "message": {**authorization, **numbers},
    }


def test_vector() -> None:
    paid = pay(requirement())
    assert paid["authorization"] == {
        "from": PAYER,
        "to": PAY_TO,
        "value": "13081",
        "validAfter": str(NOW - 600),
        "validBefore": str(NOW + 300),
        "nonce": "0x" + NONCE.hex(),
    }
    assert paid["signature"] == (
        "0x31d712dd677185f536c188c50157388755b4afe877c85222f9964c707f7513d1"
        "3690348551bcb2074ea1b1d6dff6bc9977ee61b5819b2383209fbbf6962bed791b"
    )


@settings(deadline=None)
@given(
    network=st.sampled_from(EVM),
    value=st.integers(1, 2**256 - 1),
    pay_to=st.binary(min_size=20, max_size=20).filter(any),
    now=st.integers(0, 2**40),
    timeout=st.integers(MIN_VALIDITY, 10**30),
    nonce=st.binary(min_size=32, max_size=32),
    key=st.binary(min_size=32, max_size=32).map(lambda data: b"\x01" + data[1:]),
)
def test_the_digest_and_the_signature_equal_those_of_eth_account(  # noqa: PLR0917 - what Hypothesis varies
    network: Network, value: int, pay_to: bytes, now: int, timeout: int, nonce: bytes, key: bytes
) -> None:
    account = Account.from_key(key)
    digests: list[bytes] = []

    def collect(digest: bytes) -> bytes:
        digests.append(digest)
        signature = library().sign(key, digest)
        return signature[:64] + bytes([27 + signature[64]])

    required = requirement(network, amount=value, pay_to="0x" + pay_to.hex(), max_timeout_seconds=timeout)
    paid = pay(required, network, payer=account.address, now=now, nonce=nonce, sign=collect)
    message = encode_typed_data(full_message=typed_data(network, network.assets[0], paid["authorization"]))
    reference = account.sign_message(message)
    assert digests == [bytes(reference.message_hash)]
    assert paid["signature"] == "0x" + bytes(reference.signature).hex()
    assert Account.recover_message(message, signature=paid["signature"]) == account.address
    assert all(isinstance(item, str) for item in paid["authorization"].values())


@pytest.mark.parametrize(
    ("timeout", "bound", "validity"), [(300, 600, 300), (3600, 600, 600), (60, 30, 30), (10**40, 60, 60)]
)
def test_validity_is_bounded(timeout: int, bound: int, validity: int) -> None:
    authorization = pay(requirement(max_timeout_seconds=timeout), max_validity=bound)["authorization"]
    assert int(authorization["validBefore"]) == NOW + validity
    assert int(authorization["validAfter"]) == NOW - CLOCK_SKEW


@pytest.mark.parametrize("timeout", [1, 6, MIN_VALIDITY - 1])
def test_too_little_time_is_refused(timeout: int) -> None:
    with pytest.raises(ChallengeError, match=rf"leaves {timeout} seconds .* at least 10 are needed"):
        pay(requirement(max_timeout_seconds=timeout))


CASES: list[tuple[str, Callable[[str], str]]] = [
    ("lower", str.lower),
    ("checksum", str),
    ("upper", lambda text: "0x" + text[2:].upper()),
]


@pytest.mark.parametrize("case", [case for _, case in CASES], ids=[name for name, _ in CASES])
def test_pay_to_gets_its_checksum(case: Callable[[str], str]) -> None:
    assert pay(requirement(pay_to=case(PAY_TO)))["authorization"]["to"] == PAY_TO


@pytest.mark.parametrize(
    ("pay_to", "reason"),
    [
        ("0x...", "is not an address"),
        ("", "is not an address"),
        (PAY_TO[2:], "is not an address"),
        (PAY_TO + "0", "is not an address"),
        (PAY_TO + "\n", "is not an address"),
        ("0X" + PAY_TO[2:], "is not an address"),
        ("0x" + "٣" * 40, "is not an address"),
        ("vitalik.eth", "is not an address"),
        ("AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA", "is not an address"),
        (PAY_TO.replace("e9", "E9"), "wrong checksum"),
        ("0x" + "0" * 40, "is the zero address"),
        ("0x000000000022D473030F116dDEE9F6B43aC78BA3", "is a contract that settles payments"),
        ("0x402085c248EeA27D92E8b30b2C58ed07f9E20001", "is a contract that settles payments"),
        ("0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002", "is a contract that settles payments"),
        ("0x77777777Dcc4d5A8B6E418Fd04D8997ef11000eE", "is a contract that settles payments"),
        ("0x0077777d7EBA4688BDeF3E311b846F25870A19B9", "is a contract that settles payments"),
        ("0x2222222d7164433c4c09b0b0d809a9b52c04c205", "is a contract that settles payments"),
        ("0x0022222ABE238Cc2C7Bb1f21003F0a260052475B", "is a contract that settles payments"),
        (PAYER, "is the paying wallet itself"),
        (PAYER.lower(), "is the paying wallet itself"),
        (BASE.assets[0].address.lower(), "is a token's own contract"),
    ],
)
def test_a_wrong_pay_to_is_refused(pay_to: str, reason: str) -> None:
    with pytest.raises(ChallengeError, match=rf"payTo .* {reason}.*Nothing was signed") as caught:
        pay(requirement(pay_to=pay_to))
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    "extra", [{"name": "USDC"}, {"version": "1"}, {"name": "USD Coin", "version": 2}, {"name": ["USD Coin"]}]
)
def test_another_signing_domain_is_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(ChallengeError, match="names the signing domain"):
        pay(requirement(extra=extra))


@pytest.mark.parametrize(
    "extra", [{}, {"name": None}, {"chainId": 1, "verifyingContract": PAYER}, {"name": "USD Coin"}]
)
def test_nothing_of_the_challenge_enters_the_domain(extra: dict[str, Any]) -> None:
    assert pay(requirement(extra=extra)) == pay(requirement())


def test_equal_payments_differ_by_their_nonce_only() -> None:
    first, second = pay(requirement()), pay(requirement(), nonce=bytes(32))
    assert first["signature"] != second["signature"]
    assert {**first["authorization"], "nonce": ""} == {**second["authorization"], "nonce": ""}


def test_networks_do_not_share_signatures() -> None:
    other = replace(BASE, chain_id=1)
    twin = replace(BASE.assets[0], domain_name="Other")
    signatures = {
        pay(requirement(extra={}))["signature"],
        pay(requirement(extra={}), other)["signature"],
        pay(requirement(extra={}), asset=twin)["signature"],
    }
    assert len(signatures) == 3
