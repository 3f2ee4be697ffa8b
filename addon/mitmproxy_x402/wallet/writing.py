"""Writes a new key file: atomically, readable by its owner only, and never over an existing file."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from ..errors import WalletError
from ..protocol.networks import Family
from .making import NewKey
from .sources import EVM_FILE, SVM_FILE

KEYSTORE_FILE = Path(".blockrun", "keystore.json")
"""Where `wallet new --keystore` writes, below the home folder; the proxy needs the option x402_keystore for it."""


def place_of(family: Family, home: Path) -> Path:
    """The default file of a key of `family`."""
    return home / (EVM_FILE if family == "evm" else SVM_FILE)


def write_key(key: NewKey, path: Path) -> None:
    """Write `key` to `path`. Raises WalletError: it exists, or cannot be written; then nothing is left behind."""
    write_new(path, f"{key.text}\n".encode())


def write_keystore(key: NewKey, password: str, path: Path) -> None:
    """Write an EVM `key` to `path` as a keystore (version 3 JSON), encrypted with `password`; else like `write_key`."""
    from eth_account import Account  # noqa: PLC0415  # a second to import

    write_new(path, json.dumps(Account.encrypt(bytes.fromhex(key.text), password)).encode() + b"\n")


def write_new(path: Path, data: bytes) -> None:
    """Make the file `path` with mode 0600, and its folder, if that is missing, with 0700.

    A temporary file next to it is written and synced, then linked to the name. The link fails if the name exists, so no
    file is ever overwritten, even one created in the meantime. Raises WalletError.
    """
    if path.is_symlink() or path.exists():
        raise WalletError(f"{path} exists already and is never overwritten. Move it away first, if you mean to.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(temporary, data)
            os.link(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        _sync_folder(path.parent)
    except FileExistsError:
        raise WalletError(f"{path} exists already and is never overwritten.") from None
    except OSError as error:
        raise WalletError(f"{path} cannot be written: {error.strerror}. Nothing was changed.") from None


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
        os.fchmod(file.fileno(), 0o600)  # whatever the umask is
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
