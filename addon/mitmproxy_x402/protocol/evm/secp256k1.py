"""Recoverable ECDSA signatures on secp256k1, with the best library that is installed.

Every library gives the same bytes: the nonce is that of RFC 6979, and s is in the lower half (EIP-2). wallycore is what
we depend on: Blockstream's, over libsecp256k1, with wheels for Linux and macOS on x86-64 and ARM64. coincurve, over the
same library, has none for Python 3.14 and later. eth-keys comes with eth-account and always works; in pure Python it is
a hundred times slower, and not written against attackers who measure time.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""A private key is a number from 1 to ORDER - 1."""

_SECRET = b"\1" * 32
_SIGNATURE = bytes.fromhex(
    "6734cb4e3c071082482bf0f8579484f28dcdb1ca15b0cce72fbf130b2673d00c"
    "5fbeecc4075cfd6a52634210486f24ce6db20f2870e606acc43ade814d48394a"
    "00"
)


@dataclass(frozen=True, slots=True)
class Library:
    """What one library does. Keys, digests and signatures are bytes; nothing of them is kept or shown."""

    name: str
    """The package: `wallycore`, `coincurve`, or `eth-keys` for pure Python."""
    sign: Callable[[bytes, bytes], bytes]
    """Signs (32 bytes of private key, 32 bytes of digest): r, s and the parity 0 or 1, 65 bytes."""
    public_key: Callable[[bytes], bytes]
    """The public key of a private key: x and y, 64 bytes."""
    recover: Callable[[bytes, bytes], bytes]
    """The public key, x and y, that made (signature, digest). Raises an Exception: no key did."""

    @property
    def is_native(self) -> bool:
        """Whether compiled code signs."""
        return self.name != "eth-keys"

    @property
    def version(self) -> str:
        """The version installed."""
        return metadata.version(self.name)


def _wallycore() -> Library:
    import wallycore  # type: ignore[import-untyped]  # noqa: PLC0415  # one of the three

    _keep_for_ever("swig_runtime_data")
    wallycore.secp_randomize(os.urandom(32))  # blinds the arithmetic against those who measure it
    flags = wallycore.EC_FLAG_ECDSA | wallycore.EC_FLAG_RECOVERABLE

    def sign(secret: bytes, digest: bytes) -> bytes:
        signature = wallycore.ec_sig_from_bytes(secret, digest, flags)
        return bytes(signature[1:]) + bytes([signature[0] - 31])  # as Bitcoin writes it: 27, 4 for compressed, parity

    def public_key(secret: bytes) -> bytes:
        return bytes(wallycore.ec_public_key_decompress(wallycore.ec_public_key_from_private_key(secret))[1:])

    def recover(signature: bytes, digest: bytes) -> bytes:
        compressed = wallycore.ec_sig_to_public_key(digest, bytes([signature[64] + 31]) + signature[:64])
        return bytes(wallycore.ec_public_key_decompress(compressed)[1:])

    return Library("wallycore", sign, public_key, recover)


def _keep_for_ever(module: str) -> None:
    """Never free what the modules whose names begin so hold: SWIG's destructor can crash where Python is ending."""
    for name in [name for name in sys.modules if name.startswith(module)]:
        for held in vars(sys.modules[name]).values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def _coincurve() -> Library:
    coincurve = importlib.import_module("coincurve")

    def sign(secret: bytes, digest: bytes) -> bytes:
        return bytes(coincurve.PrivateKey(secret).sign_recoverable(digest, hasher=None))

    def public_key(secret: bytes) -> bytes:
        return bytes(coincurve.PrivateKey(secret).public_key.format(compressed=False)[1:])

    def recover(signature: bytes, digest: bytes) -> bytes:
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
        return bytes(key.format(compressed=False)[1:])

    return Library("coincurve", sign, public_key, recover)


def _eth_keys() -> Library:
    from eth_keys.backends.native.main import NativeECCBackend  # noqa: PLC0415  # one of the three
    from eth_keys.datatypes import PrivateKey, Signature  # noqa: PLC0415

    backend = NativeECCBackend()

    def sign(secret: bytes, digest: bytes) -> bytes:
        return PrivateKey(secret, backend).sign_msg_hash(digest).to_bytes()

    def public_key(secret: bytes) -> bytes:
        return PrivateKey(secret, backend).public_key.to_bytes()

    def recover(signature: bytes, digest: bytes) -> bytes:
        return Signature(signature, backend=backend).recover_public_key_from_msg_hash(digest).to_bytes()

    return Library("eth-keys", sign, public_key, recover)


LIBRARIES: dict[str, Callable[[], Library]] = {
    "wallycore": _wallycore,
    "coincurve": _coincurve,
    "eth-keys": _eth_keys,
}
"""By package, the best first. Each raises an Exception where it is missing or does not work."""


@cache
def library() -> Library:
    """The first of LIBRARIES that is installed and signs a known digest with the known bytes.

    Raises RuntimeError: none does, so eth-account is missing too.
    """
    for load in LIBRARIES.values():
        with suppress(Exception):  # whatever ails a library, the next one may do
            found = load()
            if found.sign(_SECRET, bytes(32)) == _SIGNATURE:
                return found
    raise RuntimeError("no library for secp256k1 signatures works: install eth-account")
