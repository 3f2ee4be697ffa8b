"""What the checking of one call has taken, and what it has left out: bounds for what strangers' schemas ask."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

MAX_STEPS = 10_000
"""Keywords that are looked at for one call, each some ten microseconds."""
MAX_DEPTH = 160
"""Keywords within keywords of a schema; of $defs that refer to each other, each counts."""
MAX_UNCHECKED = 20
"""Reasons for which something was not checked that are told."""


class TooMuch(Exception):
    """The schema takes too many steps."""


@dataclass
class Work:
    """What checking one call has taken so far."""

    steps: int = 0
    depth: int = 0
    """Keywords within keywords that are being checked now."""
    unsure: int = 0
    """How often a keyword was met of which nobody knows what it allows, so that it allows everything."""
    unchecked: dict[str, None] = field(default_factory=dict)
    """What was left out, and why."""

    def leave(self, why: str) -> None:
        """Note what was left out."""
        if len(self.unchecked) < MAX_UNCHECKED:
            self.unchecked[why] = None

    def doubt(self, why: str) -> None:
        """Note a keyword that nobody can check, so that it allows everything."""
        self.unsure += 1
        self.leave(why)


current: ContextVar[Work] = ContextVar("work")
"""That of the call that is being checked: jsonschema hands nothing of ours through."""
