"""Converts between seconds, the milliseconds that the ledger keeps, and the days of a time zone."""

from __future__ import annotations

import math
from datetime import date, datetime, timezone, tzinfo
from typing import overload


@overload
def milliseconds(seconds: float) -> int: ...
@overload
def milliseconds(seconds: float | None) -> int | None: ...
def milliseconds(seconds: float | None) -> int | None:
    """`seconds`, rounded to whole milliseconds; None stays None."""
    return None if seconds is None else round(seconds * 1000)


def milliseconds_at_least(seconds: float | None) -> int | None:
    """`seconds`, rounded up to whole milliseconds, so that no signature counts as dead too early; None stays None."""
    return None if seconds is None else math.ceil(seconds * 1000)


def local_time(ms: int, zone: tzinfo | None) -> datetime:
    """The time `ms` (Unix milliseconds) in `zone`, to the second; None: this machine's, with that day's summer time."""
    return datetime.fromtimestamp(ms // 1000, timezone.utc).astimezone(zone)


def midnight(day: date, zone: tzinfo | None) -> int:
    """Unix milliseconds at which `day` begins in `zone`; None: this machine's."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(timezone.utc).timestamp()) * 1000
