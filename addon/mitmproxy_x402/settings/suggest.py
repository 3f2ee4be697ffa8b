"""Suggests the nearest known name for a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that `name` most likely meant, or None when nothing is near."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return found[0] if found else None


def unknown_key(key: str, known: Sequence[str]) -> str:
    """A sentence for a key that is not known. Never shows the key's value: a mistyped key may hold a secret."""
    near = nearest(key.removeprefix("x402_"), known)
    hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
    return f"{key!r:.60} is no key here; {hint}"
