"""Finds the user's keys, loads them, signs with them. Never prints one, never writes one, never looks elsewhere.

An explicitly named file comes first, then the environment, then the places where the gateway's own tools keep a key
(protocol.md, section 6). What is named must work; a default place that is absent is just absent.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from .errors import WalletError
from .protocol.evm_address import checksum_address, public_key_address
from .protocol.networks import Family
from .protocol.secp256k1 import ORDER, library
from .protocol.strict_json import Undecodable, decode_json

EVM_VARIABLE = "BLOCKRUN_WALLET_KEY"
SVM_VARIABLE = "SOLANA_WALLET_KEY"
PASSWORD_VARIABLE = "X402_KEYSTORE_PASSWORD"
_EVM_VARIABLES = (EVM_VARIABLE, "BASE_CHAIN_WALLET_KEY")
_EVM_FILE = Path(".blockrun", ".session")
_SVM_FILE = Path(".blockrun", ".solana-session")
_MAX_FILE = 64 * 1024
_EVM_FORMAT = "64 hex digits, with or without 0x"
_SVM_FORMAT = "base58 of 64 bytes or of a 32-byte seed, a JSON array of 64 numbers, or 128 hex digits"


class _Secretive:
    """Keeps a wallet out of pickles and copies: a key belongs to one process."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a key and is neither pickled nor copied")


def _underivable(_: bytes) -> bytes:
    raise WalletError("This wallet has no key to derive another one from.")


@dataclass(frozen=True)
class EvmWallet(_Secretive):
    """A secp256k1 key that signs digests. The key itself is reachable through no attribute."""

    address: str
    """With checksum."""
    source: str
    """Where the key came from, for people: a variable's or a file's name."""
    _sign: Callable[[bytes], bytes] = field(repr=False, compare=False)
    _derive: Callable[[bytes], bytes] = field(default=_underivable, repr=False, compare=False)

    def sign_digest(self, digest: bytes) -> bytes:
        """The signature of a 32-byte digest: r, s (low) and v (27 or 28), 65 bytes."""
        return self._sign(digest)

    def derive_key(self, purpose: bytes) -> bytes:
        """32 secret bytes that everybody with this key gets for `purpose`, and nobody else (RFC 5869, SHA-256)."""
        return self._derive(purpose)


@dataclass(frozen=True)
class SvmWallet(_Secretive):
    """An ed25519 key that signs messages. The key itself is reachable through no attribute."""

    address: str
    """Base58."""
    source: str
    """Where the key came from, for people: a variable's or a file's name."""
    _sign: Callable[[bytes], bytes] = field(repr=False, compare=False)
    _derive: Callable[[bytes], bytes] = field(default=_underivable, repr=False, compare=False)

    def sign_message(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        return self._sign(message)

    def derive_key(self, purpose: bytes) -> bytes:
        """As that of `EvmWallet`."""
        return self._derive(purpose)


@dataclass(frozen=True)
class Wallets:
    """What was found: at most one wallet a family, and what its owner should know about the files."""

    evm: EvmWallet | None = None
    svm: SvmWallet | None = None
    warnings: tuple[str, ...] = ()

    def for_family(self, family: Family) -> EvmWallet | SvmWallet | None:
        """The wallet that signs for chains of `family`, or None."""
        return self.evm if family == "evm" else self.svm


@dataclass(frozen=True)
class WalletSources:
    """Where to look. The files are those that the user named; None leaves it to the environment and the defaults."""

    environ: Mapping[str, str] = field(repr=False)
    home: Path
    evm_key_file: Path | None = None
    svm_key_file: Path | None = None
    keystore: Path | None = None
    keystore_password_file: Path | None = None


@dataclass(frozen=True)
class _Found:
    source: str
    text: str = field(repr=False)


def load_wallets(sources: WalletSources) -> Wallets:
    """The wallets that `sources` hold. Raises WalletError, which names the source and never what is in it."""
    warnings: list[str] = []
    if sources.keystore and sources.evm_key_file:
        raise WalletError(
            f"Two EVM keys are named, the keystore {sources.keystore} and the file {sources.evm_key_file}: name one."
        )
    evm: EvmWallet | None
    if sources.keystore:
        evm = _keystore_wallet(sources, sources.keystore, warnings)
    else:
        found = _find(sources, sources.evm_key_file, _EVM_VARIABLES, _EVM_FILE, warnings)
        evm = _evm_wallet(found.source, _evm_secret(found)) if found else None
    found = _find(sources, sources.svm_key_file, (SVM_VARIABLE,), _SVM_FILE, warnings)
    return Wallets(evm, _svm_wallet(found) if found else None, tuple(warnings))


def warm_up() -> None:
    """Does once what the first signature would have to wait for. Meant for a thread beside the start-up."""
    _evm_wallet("nowhere", b"\1" * 32).sign_digest(bytes(32))
    _svm_wallet(_Found("nowhere", json.dumps([1] * 32))).sign_message(b"")


def _find(
    sources: WalletSources, named: Path | None, variables: tuple[str, ...], default: Path, warnings: list[str]
) -> _Found | None:
    if named:
        return _Found(str(named), _read_secret(named, warnings))
    for variable in variables:
        if text := sources.environ.get(variable, "").strip():
            return _Found(variable, text)
    path = sources.home / default
    return _Found(str(path), _read_secret(path, warnings)) if path.exists() else None


def _read_secret(path: Path, warnings: list[str]) -> str:
    """The text of the key or password file `path`; adds a warning when others can read it."""
    text = _read(path)
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        warnings.append(f"{path} can be read or changed by other users of this machine: run chmod 600 {path}")
    return text


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise WalletError(f"{path} is too large for a key: more than {_MAX_FILE} bytes.")
    except OSError as error:
        raise WalletError(f"{path} cannot be read: {error.strerror}.") from None
    # What is no text is no key either, and a decoding error would carry the content along.
    return data.decode("utf-8-sig", errors="replace")


def _evm_secret(found: _Found) -> bytes:
    digits = found.text.strip().removeprefix("0x").removeprefix("0X")
    if not re.fullmatch("[0-9a-fA-F]{64}", digits):
        raise WalletError(f"{found.source} holds no EVM private key: {_EVM_FORMAT} were expected.")
    return bytes.fromhex(digits)


def _evm_wallet(source: str, secret: bytes) -> EvmWallet:
    number = int.from_bytes(secret, "big")
    if not 0 < number < ORDER:
        raise WalletError(f"{source} holds no EVM private key: the number is zero or too large.")
    secret = number.to_bytes(32, "big")  # a keystore may leave leading zeros out
    curve = library()

    def sign(digest: bytes) -> bytes:
        signature = curve.sign(secret, digest)
        return signature[:64] + bytes([27 + signature[64]])

    address = checksum_address(public_key_address(curve.public_key(secret)))
    return EvmWallet(address, source, sign, _deriving(secret))


def _svm_wallet(found: _Found) -> SvmWallet:
    from solders.keypair import Keypair  # noqa: PLC0415 - not paid for by those who have no Solana key

    data = _svm_secret(found.text.strip())
    if data is None or len(data) not in (32, 64):
        raise WalletError(f"{found.source} holds no Solana private key: {_SVM_FORMAT} were expected.")
    pair = Keypair.from_seed(data[:32])
    if data[32:] not in (b"", bytes(pair.pubkey())):
        raise WalletError(
            f"{found.source} holds no Solana private key: its public half does not belong to its private half."
        )

    def sign(message: bytes) -> bytes:
        return bytes(pair.sign_message(message))

    return SvmWallet(str(pair.pubkey()), found.source, sign, _deriving(data[:32]))


def _deriving(secret: bytes) -> Callable[[bytes], bytes]:
    def derive(purpose: bytes) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - not needed where nothing is shared
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        return HKDF(SHA256(), 32, salt=b"mitmproxy-x402", info=purpose).derive(secret)

    return derive


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


def _keystore_wallet(sources: WalletSources, path: Path, warnings: list[str]) -> EvmWallet:
    """The wallet in the version 3 keystore `path`, which is safe to read by others as long as its password is not."""
    from eth_account import Account  # noqa: PLC0415 - a second or more to import, needed for keystores only

    password = sources.environ.get(PASSWORD_VARIABLE)
    if password is None and sources.keystore_password_file:
        password = (_read_secret(sources.keystore_password_file, warnings).splitlines() or [""])[0]
    if password is None:
        raise WalletError(
            f"The keystore {path} needs a password: set {PASSWORD_VARIABLE} or x402_keystore_password_file."
        )
    keystore = _keystore(path)
    try:
        secret, why = bytes(Account.decrypt(keystore, password)), ""
    except Exception as error:  # the library has no error type of its own
        wrong = isinstance(error, ValueError) and "mac" in str(error).lower()
        secret, why = b"", "the password is wrong" if wrong else "it is damaged or no version 3 keystore"
    if why:
        raise WalletError(f"The keystore {path} cannot be opened: {why}.")
    wallet = _evm_wallet(str(path), secret)
    address = keystore.get("address")
    if isinstance(address, str) and address.lower().removeprefix("0x") not in ("", wallet.address[2:].lower()):
        raise WalletError(f"The keystore {path} holds the key of another address than the one that it names.")
    return wallet


def _keystore(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        keystore, _ = decode_json(text.encode())
    except Undecodable:
        keystore = None
    if not isinstance(keystore, dict):
        raise WalletError(f"The keystore {path} cannot be opened: it is no JSON object.")
    return keystore
