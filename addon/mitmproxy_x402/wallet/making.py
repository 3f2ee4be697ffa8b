"""Makes keys from the system's randomness, and restores them from backup words (BIP-39).

One backup holds for both families: 24 words give the key that MetaMask and Phantom show first. `eth_account` implements
BIP-39 and BIP-32, `solders` SLIP-10.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import WalletError
from ..protocol.networks import Family
from .evm import evm_secret, evm_wallet
from .secrets import Found
from .svm import svm_wallet

if TYPE_CHECKING:
    from eth_account.hdaccount.mnemonic import Mnemonic

EVM_PATH = "m/44'/60'/0'/0/0"
"""MetaMask's first account (BIP-44, coin type 60)."""
SVM_PATH = "m/44'/501'/0'/0'"
"""Phantom's first account (SLIP-44, coin type 501, every step hardened)."""
PATHS: dict[Family, str] = {"evm": EVM_PATH, "svm": SVM_PATH}
WORDS = (12, 15, 18, 21, 24)
"""How many words BIP-39 allows."""
MAX_TEXT = 1024
"""Characters of what a person may type as a backup or a key."""


@dataclass(frozen=True)
class NewKey:
    """A key that is not written anywhere yet."""

    family: Family
    address: str
    """Public: with checksum (EVM), or base58 (Solana)."""
    text: str = field(repr=False)
    """What a key file holds: hex (EVM), or base58 of 64 bytes (Solana)."""


def new_words() -> tuple[str, ...]:
    """The 24 words of 32 fresh random bytes."""
    return tuple(_mnemonic().to_mnemonic(os.urandom(32)).split(" "))


def from_words(family: Family, words: Sequence[str]) -> NewKey:
    """The key that `words` give for `family`. Raises WalletError, which names no word but by its place."""
    _check(words)
    from eth_account.hdaccount import key_from_seed, seed_from_mnemonic  # noqa: PLC0415  # a second to import

    seed = seed_from_mnemonic(" ".join(words), "")
    if family == "evm":
        return _evm(bytes(key_from_seed(seed, EVM_PATH)).hex())
    from solders.keypair import Keypair  # noqa: PLC0415  # not paid for by those who have no Solana key

    return _svm(str(Keypair.from_seed_and_derivation_path(seed, SVM_PATH)))


def from_text(family: Family, text: str) -> NewKey:
    """The key that a person typed: the words of a backup, or a private key as wallets export it.

    Raises WalletError, which shows nothing of `text`.
    """
    words = text[:MAX_TEXT].lower().split()
    if len(words) > 1 and not text.strip().startswith("["):
        return from_words(family, words)
    if family == "evm":
        return _evm(evm_secret(Found("What you typed", text)).hex())
    return _svm(text.strip())


def _evm(text: str) -> NewKey:
    return NewKey("evm", evm_wallet("What you typed", bytes.fromhex(text)).address, text)


def _svm(text: str) -> NewKey:
    return NewKey("svm", svm_wallet(Found("What you typed", text)).address, text)


def _check(words: Sequence[str]) -> None:
    """Raises WalletError for what is no backup: a wrong count, an unknown word, a wrong checksum."""
    if len(words) not in WORDS:
        raise WalletError(f"A backup has {', '.join(map(str, WORDS[:-1]))} or {WORDS[-1]} words, not {len(words)}.")
    mnemonic = _mnemonic()
    known = set(mnemonic.wordlist)
    unknown = [place for place, word in enumerate(words, 1) if word not in known]
    if unknown:
        which = ", ".join(map(str, unknown[:5]))
        raise WalletError(f"Word number {which} of the backup is not one of the 2048 words of BIP-39 (English).")
    if not mnemonic.is_mnemonic_valid(" ".join(words)):
        raise WalletError("These words are not a backup: the checksum is wrong. One word is wrong, or two are swapped.")


def _mnemonic() -> Mnemonic:
    from eth_account.hdaccount.mnemonic import Mnemonic  # noqa: PLC0415  # a second to import
    from eth_account.types import Language  # noqa: PLC0415

    return Mnemonic(Language.ENGLISH)
