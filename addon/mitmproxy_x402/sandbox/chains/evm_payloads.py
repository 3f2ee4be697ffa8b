"""Reads signed EVM payloads strictly, EIP-3009 transfers among them, and recovers who signed them.

Addresses are lower case inside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eth_hash.auto import keccak

from ...protocol.evm.secp256k1 import ORDER, library
from ...protocol.patterns import EVM_ADDRESS
from .interface import INVALID, Rejected

ADDRESS = re.compile(EVM_ADDRESS)
BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")
SIGNATURE = re.compile(r"(?:0x)?[0-9a-fA-F]{130}")
NUMBER = re.compile(r"[0-9]{1,78}")
_WORD = 2**256
_TRANSFER_TYPE = (
    b"TransferWithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)


@dataclass(frozen=True)
class Transfer:
    """The signed message of EIP-3009. Addresses are lower case."""

    sender: str
    to: str
    value: int
    valid_after: int
    valid_before: int
    nonce: str


def checksum_address(address: str) -> str:
    """`address` in the mixed case of EIP-55."""
    plain = address[2:].lower()
    digest = keccak(plain.encode()).hex()
    return "0x" + "".join(c.upper() if int(d, 16) > 7 else c for c, d in zip(plain, digest, strict=False))


def text(place: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str:
    """What `place` has under `name`. Raises Rejected unless it is text of that form."""
    value = place.get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise Rejected(INVALID, f"{name} is missing or malformed.")
    return value


def number(place: Mapping[str, Any], name: str) -> int:
    """The decimal number that `place` has under `name`. Raises Rejected."""
    found = int(text(place, name, NUMBER))
    if found >= _WORD:
        raise Rejected(INVALID, f"{name} is beyond 256 bits.")
    return found


def signer(signature: bytes, digest: bytes) -> str:
    """The address that signed, in lower case. Raises Rejected for a signature that no contract would take."""
    r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:64]))
    parity = signature[64] - 27 if signature[64] >= 27 else signature[64]  # facilitators correct 0 and 1
    if parity not in (0, 1):
        raise Rejected(INVALID, f"The signature's v is {signature[64]}; the contract takes 27 and 28.")
    if not 0 < s <= ORDER // 2 or not 0 < r < ORDER:
        raise Rejected(INVALID, "The signature is malleable: its s must be in the lower half.")
    try:
        key = library().recover(signature[:64] + bytes([parity]), digest)
    except Exception as error:  # each library has its own
        raise Rejected(INVALID, "The signature belongs to no key.") from error
    return "0x" + keccak(key)[12:].hex()


def uint(value: int) -> bytes:
    """A word of the ABI."""
    return value.to_bytes(32, "big")


def word(address: str) -> bytes:
    """An address as a word of the ABI."""
    return bytes.fromhex(address[2:]).rjust(32, b"\0")


def transfer_digest(separator: bytes, transfer: Transfer) -> bytes:
    """What the payer signs: EIP-712 over the domain and the transfer."""
    sender, to = (bytes.fromhex(address[2:]).rjust(32, b"\0") for address in (transfer.sender, transfer.to))
    numbers = b"".join(uint(number) for number in (transfer.value, transfer.valid_after, transfer.valid_before))
    message = keccak(keccak(_TRANSFER_TYPE) + sender + to + numbers + bytes.fromhex(transfer.nonce[2:]))
    return keccak(b"\x19\x01" + separator + message)


def read_transfer(payload: Mapping[str, Any]) -> tuple[Transfer, bytes]:
    """The EIP-3009 message in a payload, and its signature. Raises Rejected."""
    authorization = payload.get("authorization")
    if not isinstance(authorization, Mapping):
        raise Rejected(INVALID, "The payload has no authorization; an EIP-3009 transfer is expected.")
    sender, to = (text(authorization, name, ADDRESS).lower() for name in ("from", "to"))
    value, after, before = (number(authorization, name) for name in ("value", "validAfter", "validBefore"))
    nonce = text(authorization, "nonce", BYTES32).lower()
    signature = bytes.fromhex(text(payload, "signature", SIGNATURE).removeprefix("0x"))
    return Transfer(sender, to, value, after, before, nonce), signature
