"""Tells which of the processes that wrote to a ledger are still running, by locks that the system drops with them.

Each process locks a file of its own next to the ledger, `ledger.sqlite3-proxy-TOKEN`, and its rows contain the token.
So reused process ids (in a container every proxy may be number 1), machines without /proc, and several containers on
one volume cannot lead to a wrong result.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from pathlib import Path

_NAME = re.compile(r"lock:([0-9a-f]{16}) [0-9]+ (.*)", re.DOTALL)
_INFIX = "-proxy-"
_TRIES = 100


class ProcessLock:
    """A lock that is held until `close`, or until this process ends. Raises OSError."""

    def __init__(self, ledger: Path, boot: str) -> None:
        for _ in range(_TRIES):
            token = secrets.token_hex(8)
            self._path = _file(ledger, token)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)  # others test the lock only for an instant
                if os.fstat(self._fd).st_nlink:  # otherwise another process deleted it before it was locked
                    break
            except BaseException:
                os.close(self._fd)
                raise
            os.close(self._fd)
        self.process = f"lock:{token} {os.getpid()} {boot}"
        """How rows name this process."""

    def close(self) -> None:
        """Release the lock: the process counts as ended."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._fd)
        self._fd = -1


def is_alive(ledger: Path, process: str, boot: str) -> bool:
    """Whether `process`, as a row of `ledger` names it, is running. `boot` is the name of the current boot."""
    found = _NAME.fullmatch(process)
    if found is not None:
        return _is_held(_file(ledger, found[1]))
    its_boot, _, pid = process.rpartition(" ")  # the form of older versions
    if its_boot != boot or not pid.isdecimal() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def boot_of(process: str) -> str:
    """The name of the boot in which `process` was running."""
    found = _NAME.fullmatch(process)
    return process.rpartition(" ")[0] if found is None else found[2]


def sweep(ledger: Path) -> None:
    """Delete the lock files of ended processes. Called after their rows have been closed."""
    for file in ledger.parent.glob(f"{ledger.name.translate(_PLAIN)}{_INFIX}*"):
        if _NAME.fullmatch(f"lock:{file.name.rpartition(_INFIX)[2]} 0 "):
            _delete_unheld(file)


_PLAIN = {ord(wild): f"[{wild}]" for wild in "*?["}


def _file(ledger: Path, token: str) -> Path:
    return ledger.with_name(f"{ledger.name}{_INFIX}{token}")


def _delete_unheld(file: Path) -> None:
    """Delete a lock file if nobody holds it; it is locked meanwhile, so that its creator cannot lock it just then."""
    with contextlib.suppress(OSError):
        fd = os.open(file, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
        finally:
            os.close(fd)


def _is_held(file: Path) -> bool:
    try:
        fd = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:  # another user's: in doubt it counts as held
        return True
    try:
        # Shared, so that two processes that test it at the same time do not take each other for its owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
