"""Simulates Permit2: checks and settles payments by schemes `exact` and `upto`, and EIP-2612 permits sent with them.

The rules are those of the reference facilitators and of the contracts: the right spender, payee, token, amount and
facilitator, a deadline at least six seconds ahead, a nonce that was never used, the balance, and an allowance of the
whole amount, or a permit for exactly that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from eth_hash.auto import keccak

from .evm_payloads import ADDRESS, SIGNATURE, checksum_address, number, signer, text, uint, word
from .interface import INVALID, REPLAY, SETTLEMENT_FAILED, UNFUNDED, Rejected, Verified

PERMIT2 = "0x000000000022d473030f116ddee9f6b43ac78ba3"
SETTLERS = {
    "exact": "0x402085c248eea27d92e8b30b2c58ed07f9e20001",
    "upto": "0x4020a4f3b7b90cca423b9fabcc0ce57c6c240002",
}
"""By scheme: the contract that calls Permit2."""
SPONSORING = "eip2612GasSponsoring"
ALLOWANCE_REQUIRED = "permit2_allowance_required"
MIN_SECONDS_LEFT = 6

_DOMAIN = b"EIP712Domain(string name,uint256 chainId,address verifyingContract)"
_TOKEN = b"TokenPermissions(address token,uint256 amount)"
_WITNESS = {
    "exact": b"Witness(address to,uint256 validAfter)",
    "upto": b"Witness(address to,address facilitator,uint256 validAfter)",
}
_HEAD = (
    b"PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,"
    b"Witness witness)"
)
_PERMIT = b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"


@dataclass(frozen=True)
class Permitted:
    """A verified transfer over Permit2, not yet settled. Addresses are lower case."""

    sender: str
    to: str
    ceiling: int
    nonce: int
    deadline: int
    permit: Permit | None
    """The permit sent with it, if the allowance is too small."""


@dataclass(frozen=True)
class Permit:
    """A verified EIP-2612 permit for Permit2."""

    value: int
    nonce: int
    deadline: int


class Token(Protocol):
    """The part of the token's simulation that Permit2 uses."""

    def now(self) -> int:
        """Unix seconds."""

    def balance(self, address: str) -> int:
        """Atomic units that `address` has."""

    def move(self, sender: str, to: str, amount: int) -> None:
        """Take `amount` from one and give it to the other."""


class Permit2:
    """Allowances, permit nonces and used transfer nonces of one token on one chain."""

    def __init__(self, token: Token, chain_id: int, asset: str, separator: bytes, facilitator: str) -> None:
        self._token = token
        self._asset = asset.lower()
        self._separator = separator
        self.facilitator = facilitator
        parts = (keccak(_DOMAIN), keccak(b"Permit2"), uint(chain_id), word(PERMIT2))
        self._domain = keccak(b"".join(parts))
        self.opening = 0
        """The allowance of a wallet that was never seen."""
        self._allowances: dict[str, int] = {}
        self.permit_nonces: dict[str, int] = {}
        self.used: set[tuple[str, int]] = set()

    def allowance(self, owner: str) -> int:
        """Atomic units that Permit2 may take of `owner`."""
        return self._allowances.get(owner.lower(), self.opening)

    def allow(self, owner: str, amount: int) -> None:
        """Set what Permit2 may take of `owner`."""
        self._allowances[owner.lower()] = amount

    def verify(self, entry: Mapping[str, Any], amount: int, payload: Mapping[str, Any], extensions: Any) -> Verified:
        """The transfer that `payload` signs for. Raises Rejected with the first rule that it breaks."""
        scheme = str(entry["scheme"])
        said = payload.get("permit2Authorization")
        if not isinstance(said, Mapping):
            raise Rejected(INVALID, "The payload has no permit2Authorization.")
        permitted, witness = (_object(said, key) for key in ("permitted", "witness"))
        sender, spender = (text(said, key, ADDRESS).lower() for key in ("from", "spender"))
        to, token = text(witness, "to", ADDRESS).lower(), text(permitted, "token", ADDRESS).lower()
        value, nonce, deadline = number(permitted, "amount"), number(said, "nonce"), number(said, "deadline")
        after = number(witness, "validAfter")
        parts = [keccak(_WITNESS[scheme]), word(to)]
        if scheme == "upto":
            facilitator = text(witness, "facilitator", ADDRESS).lower()
            if facilitator != self.facilitator.lower():
                raise Rejected("invalid_upto_evm_facilitator", "Another facilitator was signed for.")
            parts.append(word(facilitator))
        _check(spender == SETTLERS[scheme], "invalid_permit2_spender")
        _check(to == str(entry["payTo"]).lower(), "invalid_permit2_recipient_mismatch")
        _check(token == self._asset, "permit2_token_mismatch")
        _check(value == amount, "permit2_amount_mismatch")
        _check(deadline >= self._token.now() + MIN_SECONDS_LEFT, "permit2_deadline_expired")
        _check(after <= self._token.now(), "permit2_not_yet_valid")
        witness_hash = keccak(b"".join((*parts, uint(after))))
        permitted_hash = keccak(keccak(_TOKEN) + word(token) + uint(value))
        type_hash = keccak(_HEAD + _TOKEN + _WITNESS[scheme])
        message = (type_hash, permitted_hash, word(spender), uint(nonce), uint(deadline), witness_hash)
        digest = keccak(b"\x19\x01" + self._domain + keccak(b"".join(message)))
        signature = bytes.fromhex(text(payload, "signature", SIGNATURE).removeprefix("0x"))
        _check(signer(signature, digest) == sender, "invalid_permit2_signature")
        if (sender, nonce) in self.used:
            raise Rejected(REPLAY, "This Permit2 nonce is used.")
        if self._token.balance(sender) < value:
            raise Rejected(UNFUNDED, f"{sender} has {self._token.balance(sender)} units, {value} must be there.")
        permit = None
        if self.allowance(sender) < value:
            permit = self._permit(sender, value, extensions)
        settlement = Permitted(sender, to, value, nonce, deadline, permit)
        return Verified(checksum_address(sender), f"0x{nonce:064x}", settlement)

    def settle(self, permitted: Permitted, amount: int, moment: float) -> None:
        """Settle as the contracts would. Raises Rejected."""
        sender = permitted.sender
        if not 0 < amount <= permitted.ceiling:
            raise Rejected(SETTLEMENT_FAILED, "invalid_upto_evm_payload_settlement_exceeds_amount")
        if (sender, permitted.nonce) in self.used:
            raise Rejected(REPLAY, "This Permit2 nonce is used.")
        if permitted.deadline < moment:
            raise Rejected(SETTLEMENT_FAILED, "The Permit2 deadline has passed.")
        permit = permitted.permit
        if permit is not None and permit.nonce == self.permit_nonces.get(sender, 0) and permit.deadline >= moment:
            self.allow(sender, permit.value)
            self.permit_nonces[sender] = permit.nonce + 1
        allowed = self.allowance(sender)
        if allowed < amount or self._token.balance(sender) < amount:
            raise Rejected(SETTLEMENT_FAILED, "TRANSFER_FROM_FAILED")
        self.used.add((sender, permitted.nonce))
        self.allow(sender, allowed - amount)
        self._token.move(sender, permitted.to, amount)

    def _permit(self, owner: str, value: int, extensions: Any) -> Permit:
        """The permit in `extensions`. Raises Rejected."""
        declared = extensions.get(SPONSORING) if isinstance(extensions, Mapping) else None
        info = declared.get("info") if isinstance(declared, Mapping) else None
        if not isinstance(info, Mapping) or "signature" not in info:
            raise Rejected(ALLOWANCE_REQUIRED, "Permit2 may not take that much of this wallet.")
        wrong = (
            text(info, "from", ADDRESS).lower() != owner
            or text(info, "spender", ADDRESS).lower() != PERMIT2
            or text(info, "asset", ADDRESS).lower() != self._asset
        )
        amount, nonce, deadline = (number(info, key) for key in ("amount", "nonce", "deadline"))
        _check(not wrong and nonce == self.permit_nonces.get(owner, 0), ALLOWANCE_REQUIRED)
        _check(amount == value, "permit2_2612_amount_mismatch")
        _check(deadline >= self._token.now(), "permit2_deadline_expired")
        message = (keccak(_PERMIT), word(owner), word(PERMIT2), uint(amount), uint(nonce), uint(deadline))
        digest = keccak(b"\x19\x01" + self._separator + keccak(b"".join(message)))
        signature = bytes.fromhex(text(info, "signature", SIGNATURE).removeprefix("0x"))
        _check(signer(signature, digest) == owner, ALLOWANCE_REQUIRED)
        return Permit(amount, nonce, deadline)


def _object(place: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = place.get(name)
    if not isinstance(value, Mapping):
        raise Rejected(INVALID, f"{name} must be an object.")
    return value


def _check(holds: bool, reason: str) -> None:
    if not holds:
        raise Rejected(reason, f"The payment does not pass: {reason}.")
