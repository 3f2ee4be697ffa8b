"""Schemes `exact` and `upto` over Permit2, and the EIP-2612 permit by which a seller sponsors the allowance.

Contracts and signing domains are fixed here, in `permit2_contracts` and in the network table; a challenge supplies the
payee, the amount and, with `upto`, the facilitator that alone may settle. With `upto` the signed amount is a ceiling:
that facilitator can take any part of it, once, and only for the payee.

The extension `erc20ApprovalGasSponsoring`, for tokens without EIP-2612, is not answered: its signed transaction has no
end, so a seller could keep it for ever, and it takes its gas from the wallet. `wallet allow` gives the same allowance.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from ..errors import ChallengeError
from ..protocol.evm.address import checksum_address, parse_address
from ..protocol.evm.keccak import keccak
from ..protocol.evm.permit2_contracts import PERMIT2, SETTLERS
from ..protocol.messages import PaymentRequirements
from ..protocol.networks import Asset, Network
from ..protocol.strict_json import shown
from .exact_evm import MIN_VALIDITY, Sign, check_domain, check_recipient, domain_separator, nobody, seconds

SPONSORING = "eip2612GasSponsoring"
"""The extension by which a seller pays the gas of an EIP-2612 permit."""

_PAYER_S = frozenset({"from", "asset", "spender", "amount", "nonce", "deadline", "signature"})
"""Keys of its `info` that only the payer sets."""

Permit2Method = Literal["permit2", "upto"]

_DOMAIN_TYPE = b"EIP712Domain(string name,uint256 chainId,address verifyingContract)"
_TOKEN_TYPE = b"TokenPermissions(address token,uint256 amount)"
_WITNESS_TYPES = {
    "permit2": b"Witness(address to,uint256 validAfter)",
    "upto": b"Witness(address to,address facilitator,uint256 validAfter)",
}
_TRANSFER_TYPE = (
    b"PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,"
    b"Witness witness)"
)
_PERMIT_TYPE = b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"


def check(
    requirement: PaymentRequirements,
    network: Network,
    asset: Asset,
    *,
    method: Permit2Method,
    payer: str | None,
    max_validity: int,
) -> None:
    """Check that `authorize` can sign `requirement`; `payer` is None if no wallet is known yet.

    Raises ChallengeError, which says what rule it breaks.
    """
    check_recipient(requirement.pay_to, payer, network)
    check_domain(requirement, network, asset)
    if requirement.amount < 1:
        raise ChallengeError("The challenge asks for nothing, which Permit2 does not settle. Nothing was signed.")
    if method == "upto":
        reason = nobody(_facilitator(requirement), payer, network).partition(":")[0]
        if reason:
            named = shown(requirement.extra.get("facilitatorAddress"))
            raise ChallengeError(
                f"The challenge's extra.facilitatorAddress {named} {reason}, so nobody could settle it. Nothing was"
                " signed."
            )
    validity = seconds(requirement, max_validity)
    if validity < MIN_VALIDITY:
        raise ChallengeError(
            f"The challenge leaves {validity} seconds for the payment (maxTimeoutSeconds); at least {MIN_VALIDITY} are"
            " needed. Nothing was signed."
        )


def authorize(
    requirement: PaymentRequirements,
    network: Network,
    asset: Asset,
    *,
    method: Permit2Method,
    payer: str,
    now: int,
    nonce: bytes,
    max_validity: int,
    sign: Sign,
) -> dict[str, Any]:
    """The payload that lets `requirement` be settled from `payer` (x402 specs, schemes exact and upto).

    `now` is in Unix seconds, `nonce` is 32 random bytes. Raises ChallengeError.
    """
    assert len(nonce) == 32
    check(requirement, network, asset, method=method, payer=payer, max_validity=max_validity)
    recipient, deadline = parse_address(requirement.pay_to), now + seconds(requirement, max_validity)
    spender = SETTLERS[method]
    witness: dict[str, str] = {"to": checksum_address(recipient)}
    parts = [keccak(_WITNESS_TYPES[method]), _word(recipient)]
    if method == "upto":
        facilitator = _facilitator(requirement)
        witness["facilitator"] = checksum_address(facilitator)
        parts.append(_word(facilitator))
    witness["validAfter"] = "0"
    permitted = b"".join(
        (keccak(_TOKEN_TYPE), _word(parse_address(asset.address)), requirement.amount.to_bytes(32, "big"))
    )
    message = b"".join(
        (
            keccak(_TRANSFER_TYPE + _TOKEN_TYPE + _WITNESS_TYPES[method]),
            keccak(permitted),
            _word(parse_address(spender)),
            nonce,
            deadline.to_bytes(32, "big"),
            keccak(b"".join((*parts, bytes(32)))),
        )
    )
    signature = sign(keccak(b"\x19\x01" + _permit2_domain(network.chain_id) + keccak(message)))
    return {
        "signature": "0x" + signature.hex(),
        "permit2Authorization": {
            "from": payer,
            "permitted": {"token": asset.address, "amount": str(requirement.amount)},
            "spender": spender,
            "nonce": str(int.from_bytes(nonce, "big")),
            "deadline": str(deadline),
            "witness": witness,
        },
    }


def permit(
    asset: Asset, network: Network, *, payer: str, value: int, token_nonce: int, deadline: int, sign: Sign
) -> dict[str, str]:
    """The `eip2612GasSponsoring.info` of a payment: a signed allowance for Permit2 of exactly `value`.

    It sets the allowance, it does not add to it. `token_nonce` is what the token's `nonces(payer)` says.
    """
    message = b"".join(
        (
            keccak(_PERMIT_TYPE),
            _word(parse_address(payer)),
            _word(parse_address(PERMIT2)),
            value.to_bytes(32, "big"),
            token_nonce.to_bytes(32, "big"),
            deadline.to_bytes(32, "big"),
        )
    )
    signature = sign(keccak(b"\x19\x01" + domain_separator(network.chain_id, asset) + keccak(message)))
    return {
        "from": payer,
        "asset": asset.address,
        "spender": PERMIT2,
        "amount": str(value),
        "nonce": str(token_nonce),
        "deadline": str(deadline),
        "signature": "0x" + signature.hex(),
        "version": "1",
    }


def sponsors(extensions: Any, asset: Asset) -> bool:
    """Whether the seller of a challenge with these `extensions` pays the gas of an EIP-2612 permit of `asset`.

    False if it fills in fields that belong to the payer, such as the spender.
    """
    declared = extensions.get(SPONSORING) if isinstance(extensions, dict) else None
    info = declared.get("info") if isinstance(declared, dict) else None
    return asset.eip2612 and isinstance(info, dict) and not _PAYER_S.intersection(info)


def with_permit(extensions: Any, signed: dict[str, str]) -> Any:
    """`extensions` with a signed permit added, for a seller that `sponsors` it."""
    declared = extensions[SPONSORING]
    return {**extensions, SPONSORING: {**declared, "info": {**signed, **declared["info"]}}}  # the seller's fields stay


def _facilitator(requirement: PaymentRequirements) -> bytes:
    named = requirement.extra.get("facilitatorAddress")
    try:
        found = parse_address(named) if isinstance(named, str) else None
    except ValueError as error:
        raise ChallengeError(
            f"The challenge's extra.facilitatorAddress {shown(named)} {error}. Nothing was signed."
        ) from None
    if not found or not any(found):
        raise ChallengeError(
            f"The challenge's extra.facilitatorAddress must name who settles, got {shown(named)}. Nothing was signed."
        )
    return found


@lru_cache(maxsize=64)
def _permit2_domain(chain_id: int) -> bytes:
    assert chain_id
    parts = (keccak(_DOMAIN_TYPE), keccak(b"Permit2"), chain_id.to_bytes(32, "big"), _word(parse_address(PERMIT2)))
    return keccak(b"".join(parts))


def _word(address: bytes) -> bytes:
    return address.rjust(32, b"\0")
