"""The wallet for EVM chains: signs digests with a secp256k1 key."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import WalletError
from ..protocol.evm.address import checksum_address, public_key_address
from ..protocol.evm.secp256k1 import ORDER, library
from .secrets import Found, Secretive, deriving, underivable

EVM_FORMAT = "64 hex digits, with or without 0x"


@dataclass(frozen=True)
class EvmWallet(Secretive):
    """A secp256k1 key that signs digests. The key itself is reachable through no attribute."""

    address: str
    """With checksum."""
    source: str
    """Where the key came from, for people: a variable's or a file's name."""
    _sign: Callable[[bytes], bytes] = field(repr=False, compare=False)
    _derive: Callable[[bytes], bytes] = field(default=underivable, repr=False, compare=False)

    def sign_digest(self, digest: bytes) -> bytes:
        """The signature of a 32-byte digest: r, s (low) and v (27 or 28), 65 bytes."""
        return self._sign(digest)

    def derive_key(self, purpose: bytes) -> bytes:
        """A 32-byte secret for `purpose` that only holders of this key can derive (RFC 5869, SHA-256)."""
        return self._derive(purpose)


def evm_secret(found: Found) -> bytes:
    """The 32 bytes of the private key in `found`. Raises WalletError."""
    digits = found.text.strip().removeprefix("0x").removeprefix("0X")
    if not re.fullmatch("[0-9a-fA-F]{64}", digits):
        raise WalletError(f"{found.source} holds no EVM private key: expected {EVM_FORMAT}.")
    return bytes.fromhex(digits)


def evm_wallet(source: str, secret: bytes) -> EvmWallet:
    """The wallet of the private key `secret` (32 bytes). Raises WalletError."""
    number = int.from_bytes(secret, "big")
    if not 0 < number < ORDER:
        raise WalletError(f"{source} holds no EVM private key: the number is zero or too large.")
    secret = number.to_bytes(32, "big")  # a keystore may leave leading zeros out
    curve = library()

    def sign(digest: bytes) -> bytes:
        signature = curve.sign(secret, digest)
        return signature[:64] + bytes([27 + signature[64]])

    address = checksum_address(public_key_address(curve.public_key(secret)))
    return EvmWallet(address, source, sign, deriving(secret))
