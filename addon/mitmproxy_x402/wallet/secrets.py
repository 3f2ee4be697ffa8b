"""Reads key files within bounds, and keeps keys out of pickles and reprs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ..errors import WalletError
from ..machine.private_files import Unfit, exposure, objection, read_file

MAX_FILE = 64 * 1024


class Secretive:
    """Keeps a wallet out of pickles and copies: a key belongs to one process."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a key and is neither pickled nor copied")


def underivable(_: bytes) -> bytes:
    """Raise WalletError: the default of a wallet that was made without a way to derive keys."""
    raise WalletError("This wallet has no key to derive another one from.")


@dataclass(frozen=True)
class Found:
    """A key's text and where it was found."""

    source: str
    text: str = field(repr=False)


def read_secret(path: Path) -> str:
    """The text of the key or password file `path`.

    Raises WalletError: it cannot be read, or others can read or change it.
    """
    text = read_text(path)
    why = objection(path) or exposure(path)
    if why is not None:
        raise WalletError(f"The key file {path} is not used: {why}")
    return text


def read_text(path: Path) -> str:
    """The text of the file `path`, 64 KiB at most. Raises WalletError."""
    try:
        data = read_file(path, MAX_FILE)
    except Unfit as why:
        raise WalletError(f"{path} {why}. Name a file with a key, or a command that prints one.") from None
    # What is no text is no key either, and a decoding error would carry the content along.
    return data.decode("utf-8-sig", errors="replace")


def deriving(secret: bytes) -> Callable[[bytes], bytes]:
    """What `derive_key` of a wallet does with `secret` (RFC 5869, SHA-256)."""

    def derive(purpose: bytes) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - not needed where nothing is shared
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        return HKDF(SHA256(), 32, salt=b"mitmproxy-x402", info=purpose).derive(secret)

    return derive
