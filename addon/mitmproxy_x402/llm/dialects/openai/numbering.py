"""Follows the numbers of a response's events: what was left out between them, and what comes again."""

from __future__ import annotations

from typing import Any

from ...sse import Notes
from ...values import count, mapping, string

MAX_CAME = 100_000
"""Most events by which is told that one comes again."""


class Numbering:
    """The `sequence_number`s of one response's events.

    A stream that was resumed can begin before it broke off, so an event with a number, a place and a fragment that came
    before is the same one. Its bytes need not be: `obfuscation` is random, and gateways write JSON anew. Some gateways
    number all events alike, which says nothing.
    """

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self.last: int | None = None
        """The number of the last event that had one."""
        self._came: dict[int, int] = {}  # by number: what tells the event from others, as a hash
        self._again = False
        self._grows = False  # whether the numbers do

    def take(self, number: Any) -> None:
        """Check that the next event's `number` follows the one before."""
        given = count(number)
        if given is None:
            return
        if given == self.last:
            if self._grows:
                self._notes.add("a sequence_number comes again, of another event")
        elif self.last is not None and given != self.last + 1:
            self._notes.add(f"the sequence_number jumps from {self.last} to {given}")
        self.last = given

    def is_repeated(self, kind: str, value: dict[str, Any]) -> bool:
        """Whether this event came before."""
        given, delta = count(value.get("sequence_number")), value.get("delta")
        if given is None:
            return False
        about = value.get("item_id") or mapping(value.get("item") or value.get("response")).get("id")
        places = [one if type(one := value.get(key)) is int else None for key in ("output_index", "content_index")]
        data = hash((kind, string(about), *places, string(delta)))
        self._grows = self._grows or (self.last is not None and given == self.last + 1)
        if self._grows and self._came.get(given) == data:
            if not self._again:
                how = f"{given} comes again" if given == self.last else f"goes back to {given}"
                self._notes.add(f"the sequence_number {how}; what comes twice counts once")
            self._again, self.last = True, given
            return True
        if len(self._came) < MAX_CAME:
            self._came[given] = data
        return False
