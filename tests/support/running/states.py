"""What a process is doing, as `ps` shows it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def state_of(pid: int) -> str:
    """One letter (R, S, T, Z, ...); nothing for a process that is no more."""
    if Path("/proc/self/stat").exists():  # a bare Linux has no `ps`
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return ""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()[:1]
