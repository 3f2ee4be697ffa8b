"""Tells which fields of an event are missing that the vendor's own SDK needs, by a table of each dialect.

SDKs do not validate what they read: an event without such a field raises an exception in the middle of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..sse import Notes

Needed = Mapping[str, tuple[tuple[str, type], ...]]
"""By what says it: the fields that it needs, as paths with dots between keys, and the type of each."""
_TYPES = {dict: "object", list: "array", str: "text", int: "number"}


class NeededBy:
    """The fields without which `who`, a vendor's SDK, fails; `who` has the verb, too."""

    def __init__(self, who: str, needed: Needed) -> None:
        self._who = who
        self._needed = {
            kind: tuple((name, tuple(name.split(".")), type_) for name, type_ in fields)
            for kind, fields in needed.items()
        }

    def note(self, kind: str, value: dict[str, Any], notes: Notes) -> None:
        """Note which fields that a `kind` needs are not in `value`, or are of another type."""
        for name, path, type_ in self._needed.get(kind, ()):
            found: Any = value
            for key in path:
                found = found.get(key) if type(found) is dict else None
            if type(found) is not type_:
                lacks = f"without {name}" if found is None else f"whose {name} is no {_TYPES[type_]}"
                notes.add(f"{_article(kind)} {kind} {lacks}, at which {self._who}")
                return


def _article(kind: str) -> str:
    return "an" if kind[:1] in "aeiou" else "a"
