"""How an answer's values are told apart in its bytes: elements of an array, lines, Amazon's frames.

Each takes bytes in any pieces and gives what they complete, with where it stands. Linear, bounded, never raising.
"""

from __future__ import annotations

from typing import NamedTuple


class Framed(NamedTuple):
    """One value, as its bytes."""

    kind: str
    """Its name, where the framing has one."""
    data: bytes
    begin: int
    end: int
    """Its first byte in the body, and the one after its last."""
