"""How much memory an object holds on to."""

from __future__ import annotations

import gc
import sys
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
