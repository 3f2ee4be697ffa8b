"""Keys from other programs: a command that prints one, as git's credential helpers do, or the system's keyring.

Each is asked once in the life of a process: options may change while a proxy runs, and nobody wants to unlock a
password manager again for that.
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
"""A person may have to unlock something first."""
KEYRING_USERS: dict[Family, str] = {"evm": "evm", "svm": "solana"}
"""Under which name the key of a family is kept in a service of the keyring."""


@functools.cache
def from_command(command: Sequence[str], option: str) -> Found:
    """What `command` prints, run without a shell. Its errors go to the terminal; its output is never shown.

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
    """The user's own, without the keys that a child has no use for."""
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
