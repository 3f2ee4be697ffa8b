"""Reads signed EVM payloads strictly, and recovers who signed them. Addresses are lower case inside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eth_hash.auto import keccak

from ...protocol.evm.secp256k1 import ORDER, library
from .interface import INVALID, Rejected

ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")
SIGNATURE = re.compile(r"(?:0x)?[0-9a-fA-F]{130}")
NUMBER = re.compile(r"[0-9]{1,78}")
_WORD = 2**256


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
    parity = signature[64] - 27 if signature[64] >= 27 else signature[64]  # facilitators put 0 and 1 right
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
