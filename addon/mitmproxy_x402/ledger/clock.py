"""Provides the ledger's two clocks: the wall clock, and the time since boot, which nobody can set; names the boot."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _boot_on_macos() or f"process {os.getpid()} {time.time_ns()}"  # does not change while the process runs


def _boot_on_macos() -> str:
    if sys.platform != "darwin":
        return ""
    text, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    failed = ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0)
    return "" if failed else text.value.decode("ascii", "replace")


_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class Clock:
    """The ledger's two clocks, in seconds: the wall clock, and the time since boot, which includes sleep."""

    wall: Callable[[], float] = time.time
    uptime: Callable[[], float] = lambda: time.clock_gettime(_UPTIME)
    boot: str = ""
    """Name of the boot; uptimes of the same boot are comparable. Empty: it is determined."""

    @property
    def boot_name(self) -> str:
        """The name of the boot that `uptime` counts from."""
        return self.boot or _BOOT


_BOOT = _boot()
