"""The wallet for Solana: signs messages with an ed25519 key."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import WalletError
from ..protocol.strict_json import decode_json
from .secrets import Found, Secretive, deriving, underivable

_SVM_FORMAT = "base58 of 64 bytes or of a 32-byte seed, a JSON array of 64 numbers, or 128 hex digits"


@dataclass(frozen=True)
class SvmWallet(Secretive):
    """An ed25519 key that signs messages. The key itself is reachable through no attribute."""

    address: str
    """Base58."""
    source: str
    """Where the key came from, for people: a variable's or a file's name."""
    _sign: Callable[[bytes], bytes] = field(repr=False, compare=False)
    _derive: Callable[[bytes], bytes] = field(default=underivable, repr=False, compare=False)

    def sign_message(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        return self._sign(message)

    def derive_key(self, purpose: bytes) -> bytes:
        """A 32-byte secret for `purpose` that only holders of this key can derive (RFC 5869, SHA-256)."""
        return self._derive(purpose)


def svm_wallet(found: Found) -> SvmWallet:
    """The wallet of the private key in `found`. Raises WalletError."""
    from solders.keypair import Keypair  # noqa: PLC0415 - not paid for by those who have no Solana key

    data = _svm_secret(found.text.strip())
    if data is None or len(data) not in (32, 64):
        raise WalletError(f"{found.source} holds no Solana private key: expected {_SVM_FORMAT}.")
    pair = Keypair.from_seed(data[:32])
    if data[32:] not in (b"", bytes(pair.pubkey())):
        raise WalletError(
            f"{found.source} holds no Solana private key: its public half does not belong to its private half."
        )

    def sign(message: bytes) -> bytes:
        return bytes(pair.sign_message(message))

    return SvmWallet(str(pair.pubkey()), found.source, sign, deriving(data[:32]))


def _svm_secret(text: str) -> bytes | None:
    from solders.pubkey import Pubkey  # noqa: PLC0415 - as above
    from solders.signature import Signature  # noqa: PLC0415

    if re.fullmatch("(0[xX])?[0-9a-fA-F]{128}", text):
        return bytes.fromhex(text[-128:])
    if text.startswith("["):
        try:
            return bytes(decode_json(text.encode())[0])
        except (ValueError, TypeError):
            return None
    # solders reads base58 of just these two lengths, of which 64 bytes take 64 to 88 digits.
    try:
        return bytes(Signature.from_string(text) if len(text) > 44 else Pubkey.from_string(text))
    except ValueError:
        return None
