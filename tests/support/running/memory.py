"""How much memory an object holds on to, and a process has ever had."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import FunctionType, ModuleType


def held(thing: object) -> int:
    """Bytes of everything that is reachable from `thing`, but for code."""
    seen: set[int] = set()
    waiting, total = [thing], 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        waiting += gc.get_referents(each)
    return total


def peak(pid: int) -> int:
    """Bytes that the process `pid` has had at most."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) << 10
