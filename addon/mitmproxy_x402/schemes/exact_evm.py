"""Scheme `exact` on EVM chains: an EIP-3009 TransferWithAuthorization, signed as EIP-712 typed data.

The digest is put together by hand, because a general encoder costs more than the signature; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..errors import ChallengeError
from ..protocol.evm.address import checksum_address, parse_address
from ..protocol.evm.keccak import keccak
from ..protocol.evm.permit2_contracts import PERMIT2, SETTLERS
from ..protocol.messages import PaymentRequirements
from ..protocol.networks import Asset, Network
from ..protocol.strict_json import shown
from . import GATEWAY_MINTERS, GATEWAY_WALLETS

CLOCK_SKEW = 600
"""Seconds by which `validAfter` lies in the past: with `now` itself, payments fail on chain if our clock is fast."""
DEFAULT_VALIDITY = 60
"""Seconds that an authorization lives if the challenge names no time."""
MIN_VALIDITY = 10
"""Seconds that an authorization must live: facilitators want six left, and the header has to get there."""

Sign = Callable[[bytes], bytes]
"""Gets a 32-byte EIP-712 digest and returns r, s and v (27 or 28): 65 bytes."""

_DOMAIN_TYPE = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_TRANSFER_TYPE = (
    b"TransferWithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
_ZERO = bytes(20)
_SETTLERS = frozenset(
    parse_address(each) for each in (PERMIT2, *SETTLERS.values(), *GATEWAY_WALLETS.values(), *GATEWAY_MINTERS)
)


def authorize(
    requirement: PaymentRequirements,
    network: Network,
    asset: Asset,
    *,
    payer: str,
    now: int,
    nonce: bytes,
    max_validity: int,
    sign: Sign,
) -> dict[str, Any]:
    """The payload that pays `requirement` from `payer` (x402 v2, scheme exact on EVM).

    `now` is in Unix seconds, `nonce` is 32 random bytes, `max_validity` bounds the life of the authorization in
    seconds. `sign` gets the 32-byte EIP-712 digest and returns r, s and v (27 or 28): 65 bytes. Raises ChallengeError.
    """
    assert len(nonce) == 32
    check(requirement, network, asset, payer, max_validity)
    validity = seconds(requirement, max_validity)
    domain = domain_separator(network.chain_id, asset)
    return transfer(requirement, domain, payer=payer, now=now, validity=validity, nonce=nonce, sign=sign)


def transfer(
    requirement: PaymentRequirements, domain: bytes, *, payer: str, now: int, validity: int, nonce: bytes, sign: Sign
) -> dict[str, Any]:
    """The signed TransferWithAuthorization of `requirement`, which was checked, over the hashed `domain`."""
    sender, recipient = parse_address(payer), parse_address(requirement.pay_to)
    value, valid_after, valid_before = requirement.amount, max(now - CLOCK_SKEW, 0), now + validity
    message = b"".join(
        (
            _type_hash(),
            _word(sender),
            _word(recipient),
            value.to_bytes(32, "big"),
            valid_after.to_bytes(32, "big"),
            valid_before.to_bytes(32, "big"),
            nonce,
        )
    )
    signature = sign(keccak(b"\x19\x01" + domain + keccak(message)))
    return {
        "signature": "0x" + signature.hex(),
        "authorization": {
            "from": checksum_address(sender),
            "to": checksum_address(recipient),
            "value": str(value),
            "validAfter": str(valid_after),
            "validBefore": str(valid_before),
            "nonce": "0x" + nonce.hex(),
        },
    }


def check(
    requirement: PaymentRequirements, network: Network, asset: Asset, payer: str | None, max_validity: int
) -> None:
    """Check that `authorize` can sign `requirement`; `payer` is None if no wallet is known yet.

    Raises ChallengeError, which says what rule it breaks.
    """
    if not asset.eip3009:
        raise ChallengeError(
            f"The challenge wants {asset.symbol} on {network.name} by EIP-3009, which that token does not take."
            " Nothing was signed."
        )
    check_recipient(requirement.pay_to, payer, network)
    check_domain(requirement, network, asset)
    validity = seconds(requirement, max_validity)
    if validity < MIN_VALIDITY:
        raise ChallengeError(
            f"The challenge leaves {validity} seconds for the payment (maxTimeoutSeconds); facilitators reject"
            f" authorizations that end so soon, at least {MIN_VALIDITY} are needed. Nothing was signed."
        )


def seconds(requirement: PaymentRequirements, max_validity: int) -> int:
    """Seconds that an authorization of `requirement` is valid: as the challenge asks, at most `max_validity`."""
    return min(requirement.max_timeout_seconds or DEFAULT_VALIDITY, max_validity)


def check_recipient(pay_to: str, payer: str | None, network: Network) -> None:
    """Raise ChallengeError if `pay_to` is malformed, or nobody could receive the money there."""
    try:
        recipient = parse_address(pay_to)
    except ValueError as error:
        raise ChallengeError(f"The challenge's payTo {shown(pay_to)} {error}. Nothing was signed.") from None
    reason = nobody(recipient, payer, network)
    if reason:
        raise ChallengeError(f"The challenge's payTo {shown(pay_to)} {reason}. Nothing was signed.")


def nobody(address: bytes, payer: str | None, network: Network) -> str:
    """Why `address` cannot be a payee or a facilitator, as a clause; empty: no reason is known."""
    return _lost(address, payer, tuple(asset.address for asset in network.assets))


@lru_cache(maxsize=1024)
def _lost(recipient: bytes, payer: str | None, tokens: tuple[str, ...]) -> str:
    """Implements `nobody` for the addresses of the network's `tokens`."""
    reasons = {
        **dict.fromkeys(map(parse_address, tokens), "is a token's own contract: what is sent there is lost"),
        _ZERO: "is the zero address: what is sent there is lost",
        **dict.fromkeys(_SETTLERS, "is a contract that settles payments: what is sent there is lost"),
    }
    if payer is not None:
        reasons[parse_address(payer)] = "is the paying wallet itself"
    return reasons.get(recipient, "")


def check_domain(requirement: PaymentRequirements, network: Network, asset: Asset) -> None:
    """Raise ChallengeError if `requirement` names another signing domain than the network table has for `asset`."""
    # Our table signs, never the challenge. One that names another domain is refused rather than answered: its gateway
    # must reject our signature, and a rejected payment's outcome is unknown, while a refused one cost nothing.
    for key, ours in (("name", asset.domain_name), ("version", asset.domain_version)):
        theirs = requirement.extra.get(key)
        if theirs is not None and theirs != ours:
            raise ChallengeError(
                f"The challenge names the signing domain {key} {shown(theirs)} for {asset.symbol} on {network.name};"
                f" {shown(ours)} is what the network table holds. Nothing was signed."
            )


def domain_separator(chain_id: int, asset: Asset) -> bytes:
    """The EIP-712 domain of `asset`'s contract, hashed."""
    assert asset.domain_name
    return domain_hash(asset.domain_name, asset.domain_version, chain_id, asset.address)


@lru_cache(maxsize=64)
def domain_hash(name: str, version: str, chain_id: int, contract: str) -> bytes:
    """An EIP-712 domain of four fields, hashed."""
    assert chain_id
    parts = (keccak(name.encode()), keccak(version.encode()), chain_id.to_bytes(32, "big"))
    return keccak(b"".join((keccak(_DOMAIN_TYPE), *parts, _word(parse_address(contract)))))


@lru_cache(maxsize=1)
def _type_hash() -> bytes:
    return keccak(_TRANSFER_TYPE)


def _word(address: bytes) -> bytes:
    return address.rjust(32, b"\0")
