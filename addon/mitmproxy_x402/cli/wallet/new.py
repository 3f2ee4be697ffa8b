"""`wallet new` and `wallet restore`: write a new key, or one from a backup. A key is never printed."""

from __future__ import annotations

import os
import random
import sys
from argparse import Namespace
from pathlib import Path

from ...errors import WalletError
from ...protocol.networks import Family
from ...wallet import making, writing
from ...wallet.keystore import PASSWORD_VARIABLE
from ...wallet.making import NewKey
from .. import terminal
from ..terminal import NoAnswerError, ask, ask_hidden, ask_until, say

ASKED_WORDS = 2
"""How many words of the backup a person has to repeat."""
MIN_PASSWORD = 8
NAMES: dict[Family, str] = {"evm": "EVM (Base)", "svm": "Solana"}

WARNING = """\
Here is the backup of the new key: {count} words. Whoever has them has the money. Write them down on paper, in this
order; do not photograph them, do not keep them in a file or in the cloud. Nobody can give them to you again.
"""


def new(given: Namespace, home: Path, program: str) -> int:
    """Make a key and write it to a file. Raises WalletError and NoAnswerError: nothing was changed."""
    family = _family(given)
    path = _target(given, family, home)
    if not given.no_backup and not terminal.is_interactive():
        raise WalletError(
            f"{program} wallet new shows a backup that a person must write down: run it in a terminal. "
            "For a script that backs the file up itself: --no-backup."
        )
    password = _password() if given.keystore else ""
    words = making.new_words()
    key = making.from_words(family, words)
    if not given.no_backup:
        _have_backed_up(words)
    _write(key, password, path, given.keystore)
    _tell(key, path, given, program, made="New")
    if given.no_backup:
        say(f"There is no backup: if {path} is lost, the money is lost. Copy it to a safe place now.")
    return 0


def restore(given: Namespace, home: Path, program: str) -> int:
    """Write the key of a backup, or a private key that was typed. Raises WalletError and NoAnswerError."""
    family = _family(given)
    path = _target(given, family, home)
    asked = f"Backup words, or the private key, of the {NAMES[family]} wallet (not shown): "
    if sys.stdin.isatty():
        key = ask_until(lambda: _typed(family, asked), "that is neither a backup nor a key. Nothing was changed.")
    else:
        key = making.from_text(family, sys.stdin.readline(making.MAX_TEXT + 1))
    if terminal.is_interactive():
        say(f"This is the wallet {key.address}.")
        if ask("Write its key to this computer? [y/N] ").lower() not in ("y", "yes"):
            raise NoAnswerError("the key was not written. Nothing was changed.")
    password = _password() if given.keystore else ""
    _write(key, password, path, given.keystore)
    _tell(key, path, given, program, made="Restored")
    return 0


def _family(given: Namespace) -> Family:
    if given.family:
        chosen: Family = given.family
        return chosen
    if given.keystore:
        return "evm"
    if not terminal.is_interactive():
        raise WalletError("name the kind of wallet: --evm (Base and other EVM networks) or --solana.")
    say("Which chain will it pay on?  1  Solana (https://sol.blockrun.ai)   2  Base (https://blockrun.ai)")
    answers: dict[str, Family] = {"1": "svm", "solana": "svm", "2": "evm", "base": "evm", "evm": "evm"}
    return ask_until(lambda: answers.get(ask("1 or 2: ").lower()), "that is neither 1 nor 2. Nothing was changed.")


def _target(given: Namespace, family: Family, home: Path) -> Path:
    """The file to write. Raises WalletError: there is a wallet or a file already."""
    if given.keystore and family != "evm":
        raise WalletError("a keystore holds an EVM key only: leave --keystore or --solana out.")
    found = given.found.for_family(family)
    if found is not None:
        raise WalletError(
            f"there is a wallet for {NAMES[family]} already: {found.address}, from {found.source}. It is never "
            "changed. To use another one, move the old one away first and keep its backup: it may hold money."
        )
    path = home / writing.KEYSTORE_FILE if given.keystore else writing.place_of(family, home)
    if path.is_symlink() or path.exists():
        raise WalletError(f"{path} exists already and is never overwritten. Move it away first, if you mean to.")
    return path


def _password() -> str:
    """A new password for a keystore, typed twice; for scripts from the environment."""
    if PASSWORD_VARIABLE in os.environ:
        password = os.environ[PASSWORD_VARIABLE]
        if len(password) < MIN_PASSWORD:
            raise WalletError(f"{PASSWORD_VARIABLE} is too short for a keystore: at least {MIN_PASSWORD} characters.")
        return password
    if not sys.stdin.isatty():
        raise WalletError(f"a keystore needs a password: set {PASSWORD_VARIABLE}, or run this in a terminal.")
    return ask_until(_password_twice, "No password was set. Nothing was changed.")


def _password_twice() -> str | None:
    first = ask_hidden(f"Password for the keystore (at least {MIN_PASSWORD} characters, not shown): ")
    if len(first) < MIN_PASSWORD:
        say("Too short.")
        return None
    if ask_hidden("The same again: ") != first:
        say("The two are not the same.")
        return None
    return first


def _have_backed_up(words: tuple[str, ...]) -> None:
    """Show the words, wipe them off the screen, and ask for two of them. Raises NoAnswerError."""
    say(WARNING.format(count=len(words)))
    for row in range(0, len(words), 4):
        say("  " + "".join(f"{place + 1:>3} {words[place]:<10}" for place in range(row, row + 4)))
    say()
    try:
        ask("Written down? Press Enter, and they are wiped off the screen. ")
    finally:
        terminal.wipe()
    say("Two of them are asked for now. Ctrl-C gives up: then no wallet is made.")
    for place in sorted(random.SystemRandom().sample(range(len(words)), ASKED_WORDS)):
        ask_until(
            lambda place=place: _is_word(words, place),  # type: ignore[misc]
            "that is not the word: the backup is not right. Nothing was changed; start again.",
        )


def _is_word(words: tuple[str, ...], place: int) -> bool | None:
    if ask_hidden(f"Word number {place + 1} (not shown): ").strip().lower() == words[place]:
        return True
    say("That is not the word.")
    return None


def _typed(family: Family, question: str) -> NewKey | None:
    try:
        return making.from_text(family, ask_hidden(question))
    except WalletError as error:
        say(str(error))
        return None


def _write(key: NewKey, password: str, path: Path, keystore: bool) -> None:
    if keystore:
        writing.write_keystore(key, password, path)
    else:
        writing.write_key(key, path)


def _tell(key: NewKey, path: Path, given: Namespace, program: str, *, made: str) -> None:
    say(f"{made} wallet {key.address} for {NAMES[key.family]}, in {path} (readable by you alone).")
    named = ""
    if given.keystore:
        named = f" --set x402_keystore={path}"
        say(f'The proxy uses it if x402.toml has the line  keystore = "{path}", or with {named.strip()}.')
        say(f"Its password is taken from {PASSWORD_VARIABLE} or x402_keystore_password_file.")
    which = "--evm" if key.family == "evm" else "--solana"
    if made == "New":
        say(f"It is empty. Next: {program} wallet fund {which}{named}")
    else:
        say(f"What it holds: {program} wallet{named}")
