"""Ethereum addresses: 20 bytes, written as 0x and 40 hex digits whose case is a checksum (EIP-55)."""

from __future__ import annotations

import re
from functools import lru_cache

from ..patterns import EVM_ADDRESS
from .keccak import keccak

_ADDRESS = re.compile(EVM_ADDRESS)


@lru_cache(maxsize=1024)
def parse_address(text: str) -> bytes:
    """The 20 bytes of the address `text`; one in mixed case must have the right checksum.

    Raises ValueError with a clause that completes "payTo ...".
    """
    if not _ADDRESS.fullmatch(text):
        raise ValueError("is not an address, which is 0x and 40 hex digits")
    address = bytes.fromhex(text[2:])
    digits = text[2:]
    # In one case there is no checksum to verify; in mixed case a wrong one means a mistyped or damaged address.
    if digits not in (digits.lower(), digits.upper()) and text != checksum_address(address):
        raise ValueError("is an address with a wrong checksum: it was mistyped or changed on the way")
    return address


@lru_cache(maxsize=1024)
def checksum_address(address: bytes) -> str:
    """The 20 bytes `address` as EIP-55 writes them."""
    digits = address.hex()
    nibbles = keccak(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if nibble > "7" else digit for digit, nibble in zip(digits, nibbles, strict=False)
    )


def public_key_address(public_key: bytes) -> bytes:
    """The address of an uncompressed public key without its prefix: 64 bytes, x and y."""
    return keccak(public_key)[-20:]


def abi_word(address: str) -> str:
    """The address as the ABI writes it: a word of 32 bytes, in 64 hex digits without 0x."""
    return address.removeprefix("0x").lower().rjust(64, "0")
