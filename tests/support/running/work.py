"""Counts what something costs, without a clock: lines executed, bytes allocated."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any


def lines_executed(work: Callable[[], Any]) -> int:
    """Lines of Python that `work` runs, in all modules."""
    count = 0

    def tracer(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def allocated(step: Callable[[], Any], times: int) -> int:
    """Bytes that `times` steps took from the heap at most, one step after the other; copying takes some too."""
    tracemalloc.start()
    try:
        total = 0
        for _ in range(times):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            step()
            total += tracemalloc.get_traced_memory()[1] - before
        return total
    finally:
        tracemalloc.stop()


def kept(work: Callable[[], Any]) -> int:
    """Bytes that are still there after `work`, as long as what it returns."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = work()
        after = tracemalloc.get_traced_memory()[0]
        del result
        return after - before
    finally:
        tracemalloc.stop()
