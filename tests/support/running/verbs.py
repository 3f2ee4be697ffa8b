"""Verbs of the program as a user runs them beside a proxy, and a sandbox's clock that a test puts forward."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path


class Ahead:
    """A clock that is so many seconds ahead."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.seconds


def run(home: Path, environ: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    command = [sys.executable, "-I", "-m", "mitmproxy_x402", *arguments]
    done = subprocess.run(
        command, env={**kept, "HOME": str(home), **environ}, cwd=home, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr
