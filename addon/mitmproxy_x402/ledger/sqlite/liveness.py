"""Tells which processes that wrote into a ledger still run: each holds a lock that the system drops with it.

The lock is on a file of its own beside the ledger, `ledger.sqlite3-proxy-TOKEN`, and its token is part of how the
process is named in its rows. So neither a process id that is given again (in a container every proxy may be number 1),
nor a machine without /proc, nor another container on the same volume can make the dead look alive, or the living dead.
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
    """Held from its making to `close`, or to the end of this process. Raises OSError."""

    def __init__(self, ledger: Path, boot: str) -> None:
        for _ in range(_TRIES):
            token = secrets.token_hex(8)
            self._path = _file(ledger, token)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)  # whoever looks whether it is held is done at once
                if os.fstat(self._fd).st_nlink:  # else it was swept away before it was held
                    break
            except BaseException:
                os.close(self._fd)
                raise
            os.close(self._fd)
        self.process = f"lock:{token} {os.getpid()} {boot}"
        """How this process is named in its rows."""

    def close(self) -> None:
        """From now on the process counts as dead."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._fd)
        self._fd = -1


def is_alive(ledger: Path, process: str, boot: str) -> bool:
    """Whether `process`, as a row of `ledger` names it, still runs. `boot` names this boot of the machine."""
    found = _NAME.fullmatch(process)
    if found is not None:
        return _is_held(_file(ledger, found[1]))
    its_boot, _, pid = process.rpartition(" ")  # a row of an older version
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
    """The boot of the machine that `process` ran in."""
    found = _NAME.fullmatch(process)
    return process.rpartition(" ")[0] if found is None else found[2]


def sweep(ledger: Path) -> None:
    """Delete the files of the dead. To be called when their rows are ended."""
    for file in ledger.parent.glob(f"{ledger.name.translate(_PLAIN)}{_INFIX}*"):
        if _NAME.fullmatch(f"lock:{file.name.rpartition(_INFIX)[2]} 0 "):
            _delete_unheld(file)


_PLAIN = {ord(wild): f"[{wild}]" for wild in "*?["}


def _file(ledger: Path, token: str) -> Path:
    return ledger.with_name(f"{ledger.name}{_INFIX}{token}")


def _delete_unheld(file: Path) -> None:
    """Holding it meanwhile: else whoever has just made it could lock what is about to be deleted."""
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
    except OSError:  # of somebody else: in doubt it is held
        return True
    try:
        # Shared, so that two who look at one time do not take each other for its owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
