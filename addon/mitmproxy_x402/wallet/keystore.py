"""Opens an Ethereum keystore (version 3 JSON)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import Undecodable, WalletError
from ..machine.private_files import objection
from ..protocol.strict_json import decode_json
from .evm import EvmWallet, evm_wallet
from .secrets import read_secret, read_text

PASSWORD_VARIABLE = "X402_KEYSTORE_PASSWORD"


def keystore_wallet(path: Path, environ: Mapping[str, str], password_file: Path | None) -> EvmWallet:
    """The wallet in the version 3 keystore `path`, which others may read as long as they do not have its password.

    The password is in `environ`, else the first line of `password_file`. Raises WalletError.
    """
    limit = sys.getrecursionlimit()
    from eth_account import Account  # noqa: PLC0415 - a second or more to import, needed for keystores only

    sys.setrecursionlimit(limit)  # it allows so many levels that strangers' JSON crashes Python 3.11
    password = environ.get(PASSWORD_VARIABLE)
    if password is None and password_file:
        password = (read_secret(password_file).splitlines() or [""])[0]
    if password is None:
        raise WalletError(
            f"The keystore {path} needs a password: set {PASSWORD_VARIABLE} or x402_keystore_password_file."
        )
    why = objection(path)
    if why is not None:
        raise WalletError(f"The keystore {path} is not used: {why}")
    keystore = _keystore(path)
    try:
        secret, why = bytes(Account.decrypt(keystore, password)), ""
    except Exception as error:  # the library has no error type of its own
        wrong = isinstance(error, ValueError) and "mac" in str(error).lower()
        secret, why = b"", "the password is wrong" if wrong else "it is damaged or no version 3 keystore"
    if why:
        raise WalletError(f"The keystore {path} cannot be opened: {why}.")
    wallet = evm_wallet(str(path), secret)
    address = keystore.get("address")
    if isinstance(address, str) and address.lower().removeprefix("0x") not in ("", wallet.address[2:].lower()):
        raise WalletError(f"The keystore {path} holds the key of another address than the one that it names.")
    return wallet


def _keystore(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        keystore, _ = decode_json(text.encode())
    except Undecodable:
        keystore = None
    if not isinstance(keystore, dict):
        raise WalletError(f"The keystore {path} cannot be opened: it is not a JSON object.")
    return keystore
