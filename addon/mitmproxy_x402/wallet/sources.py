"""Finds the user's keys and loads them.

What is configured (a file, a keystore, a command, the keyring) comes first, then the environment, then the files of the
gateway's own tools. A configured file, keystore or command must give a key; the keyring and default files need not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import WalletError
from ..protocol.networks import Family
from .evm import EvmWallet, evm_secret, evm_wallet
from .helpers import from_command, from_keyring
from .keystore import keystore_wallet
from .secrets import Found, read_secret
from .svm import SvmWallet, svm_wallet

EVM_VARIABLE = "BLOCKRUN_WALLET_KEY"


SVM_VARIABLE = "SOLANA_WALLET_KEY"


_EVM_VARIABLES = (EVM_VARIABLE, "BASE_CHAIN_WALLET_KEY")


EVM_FILE = Path(".blockrun", ".session")


SVM_FILE = Path(".blockrun", ".solana-session")


@dataclass(frozen=True)
class Wallets:
    """The wallets found, at most one per family."""

    evm: EvmWallet | None = None
    svm: SvmWallet | None = None

    def for_family(self, family: Family) -> EvmWallet | SvmWallet | None:
        """The wallet that signs for chains of `family`, or None."""
        return self.evm if family == "evm" else self.svm


@dataclass(frozen=True)
class WalletSources:
    """Where to look. Files are those that the user configured; None: look in the environment and the default files."""

    environ: Mapping[str, str] = field(repr=False)
    home: Path
    evm_key_file: Path | None = None
    svm_key_file: Path | None = None
    keystore: Path | None = None
    keystore_password_file: Path | None = None
    evm_key_command: tuple[str, ...] = ()
    """Program and arguments of a command that prints the key; empty: none."""
    svm_key_command: tuple[str, ...] = ()
    keyring: str = ""
    """Service of the system's keyring; empty: it is not asked."""


def load_wallets(sources: WalletSources) -> Wallets:
    """Load the wallets from `sources`. Raises WalletError, which names the source and never its content."""
    _named_once(
        "EVM", keystore=sources.keystore, evm_key_file=sources.evm_key_file, evm_key_command=sources.evm_key_command
    )
    _named_once("Solana", solana_key_file=sources.svm_key_file, solana_key_command=sources.svm_key_command)
    evm: EvmWallet | None
    if sources.keystore:
        evm = keystore_wallet(sources.keystore, sources.environ, sources.keystore_password_file)
    else:
        found = _find(sources, "evm")
        evm = evm_wallet(found.source, evm_secret(found)) if found else None
    found = _find(sources, "svm")
    return Wallets(evm, svm_wallet(found) if found else None)


def warm_up() -> None:
    """Prepare what the first signature would have to wait for. Meant for a thread during the start."""
    evm_wallet("nowhere", b"\1" * 32).sign_digest(bytes(32))
    svm_wallet(Found("nowhere", json.dumps([1] * 32))).sign_message(b"")


def _named_once(family: str, **options: object) -> None:
    named = [f"x402_{name}" for name, value in options.items() if value]
    if len(named) > 1:
        raise WalletError(f"Two {family} keys are named, by {' and '.join(named)}: name one.")


def _find(sources: WalletSources, family: Family) -> Found | None:
    evm = family == "evm"
    named, command = (
        (sources.evm_key_file, sources.evm_key_command) if evm else (sources.svm_key_file, sources.svm_key_command)
    )
    if named:
        return Found(str(named), read_secret(named))
    if command:
        return from_command(command, f"x402_{'evm' if evm else 'solana'}_key_command")
    if sources.keyring and (found := from_keyring(sources.keyring, family)) is not None:
        return found
    for variable in _EVM_VARIABLES if evm else (SVM_VARIABLE,):
        if text := sources.environ.get(variable, "").strip():
            return Found(variable, text)
    path = sources.home / (EVM_FILE if evm else SVM_FILE)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise WalletError(
            f"{path} cannot be looked at: {error.strerror}. Run as the user whose wallet it is, or name another key in "
            f"{(_EVM_VARIABLES if evm else (SVM_VARIABLE,))[0]}."
        ) from None
    return Found(str(path), read_secret(path))
