"""Gets keys from other programs: a command that prints one, like git's credential helpers, or the system's keyring.

Each is asked once per process, so that a change of options does not require a password manager to be unlocked again.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Sequence

from ..errors import WalletError
from ..protocol.networks import Family
from .secrets import MAX_FILE, Found

SECONDS = 120
"""Time-out: a person may have to unlock something first."""
KEYRING_USERS: dict[Family, str] = {"evm": "evm", "svm": "solana"}
"""The user names of the keys in a keyring service, by family."""


@functools.cache
def from_command(command: Sequence[str], option: str) -> Found:
    """The output of `command`, run without a shell. Its errors go to the terminal; its output is never shown.

    Raises WalletError, which names `option` and the program, never its arguments or its output.
    """
    program = command[0]
    where = f"{option}: {program}"
    try:
        done = subprocess.run(  # noqa: S603  # the user's own command, without a shell
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=SECONDS, check=False, env=_environment()
        )
    except FileNotFoundError:
        raise WalletError(f"{where} was not found: give the whole path of the program.") from None
    except OSError as error:
        raise WalletError(f"{where} cannot be run: {error.strerror}.") from None
    except subprocess.TimeoutExpired:
        raise WalletError(f"{where} printed no key within {SECONDS} s.") from None
    if done.returncode:
        raise WalletError(f"{where} failed with exit code {done.returncode}. Run it by hand to see why.")
    if not done.stdout.strip() or len(done.stdout) > MAX_FILE:
        raise WalletError(f"{where} should print a key, and printed {len(done.stdout)} bytes.")
    return Found(where, done.stdout.decode("utf-8-sig", errors="replace"))


def _environment() -> dict[str, str]:
    """The environment without the keys, which a child process does not need."""
    secret = ("WALLET_KEY", "KEYSTORE_PASSWORD", "CLIENT_TOKEN")
    return {name: value for name, value in os.environ.items() if not name.endswith(secret)}


@functools.cache
def from_keyring(service: str, family: Family) -> Found | None:
    """The key that the system's keyring has for `family` in `service`; None: it has none. Raises WalletError."""
    try:
        import keyring  # noqa: PLC0415  # an extra
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError:
        raise WalletError(
            "x402_keyring needs the package keyring, which is not installed here: install mitmproxy-x402[keyring]."
        ) from None
    user = KEYRING_USERS[family]
    try:
        text = keyring.get_password(service, user)
    except KeyringError as error:
        raise WalletError(
            f"The keyring cannot be read ({type(error).__name__}): unlock it, or see `keyring diagnose`."
        ) from None
    return Found(f"keyring {service}/{user}", text) if text else None
