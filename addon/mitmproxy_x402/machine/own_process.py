"""Starts programs of ours in processes that share nothing with the proxy but the files that they are given."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path


def start(program: str, *files: int, talks: int = subprocess.DEVNULL, imports: bool = False) -> subprocess.Popen[bytes]:
    """Start the script `program` with nothing of the proxy's but `files`, and if it `talks`, input and output.

    It is given the numbers of the files and, if it `imports` more than the standard library, where Python finds
    modules. Raises OSError: none can be started here.
    """
    if os.name != "posix" or not sys.executable or getattr(sys, "frozen", False):
        raise OSError(errno.ENOSYS, "there is no Python interpreter that can be started here")
    return subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-I", "-S", program, *map(str, files), *(_paths() if imports else ())],
        stdin=talks,
        stdout=talks,
        stderr=subprocess.DEVNULL,
        env={},  # the proxy's may hold keys
        cwd="/",
        pass_fds=files,
        start_new_session=True,  # Ctrl-C in the terminal does not reach it
    )


def _paths() -> list[str]:
    """Where Python finds modules, for a process in another directory that reads no configuration."""
    package = Path(__file__).absolute().parents[2]
    return [str(Path(path).absolute()) for path in (*filter(None, sys.path), str(package))]
