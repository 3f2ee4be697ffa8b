"""Verbs of the program as a user runs them beside a proxy, and a sandbox's clock that a test puts forward."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from . import warm


class Ahead:
    """A clock that is so many seconds ahead."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.seconds


def run(home: Path, environ: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    done = warm.run([*warm.VERB, *arguments], {**kept, "HOME": str(home), **environ}, home)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr
