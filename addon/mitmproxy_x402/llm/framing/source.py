"""Splits an answer that is arriving into its values, in the form that its first bytes tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from ..sse import MAX_EVENT, Parser
from . import Framed
from .elements import Elements
from .frames import Frames
from .lines import Lines
from .wrapping import form_of

_NEXT = re.compile(rb"\r?\n\r?\n|\r\r")
"""What ends an event."""

Values = Iterator[tuple[bytes, bytes, int, int]] | Iterator[Framed]
"""Each with its name (that of an event as bytes; empty: it has none), its bytes, and where it stands."""
Form = Literal["events", "array", "object", "lines", "frames", "unknown"]


class Source:
    """Server-sent events, Amazon's frames, JSON lines, a JSON array that grows, or one JSON object, in any pieces."""

    def __init__(self, max_event: int = MAX_EVENT, max_values: int | None = None) -> None:
        self._max_event = max_event
        self._max_values = max_values
        self._head: bytearray | None = bytearray()  # what does not tell the form yet; None once that is known
        self._form: Form | None = None
        self.events: Parser | None = None
        """Of server-sent events: their parser."""
        self.framing: Elements | Lines | Frames | None = None
        """Of any other form."""

    @property
    def form(self) -> Form:
        """The form, known from the first bytes; `unknown` before that."""
        if isinstance(self.framing, Lines):
            return "lines" if self.framing.several else "object"
        return self._form or "unknown"

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing at the end of an array; other forms have no end."""
        return not isinstance(self.framing, Elements) or self.framing.ended

    @property
    def irregular(self) -> list[str]:
        """Anomalies of the form so far, described for people; bounded."""
        form = self.events or self.framing
        return form.irregular if form is not None else []

    def feed(self, data: bytes) -> Values:
        """The values that `data` completes, with their names. Must be exhausted before more is fed."""
        if self._head is not None:
            self._head += data
            if not self._begin(bytes(self._head)):
                return iter(())
            data, self._head = bytes(self._head), None
        return self._split(data)

    def settle(self) -> Values:
        """There is no more: what has not told its form is taken for events."""
        data, self._head = bytes(self._head or b""), None
        if data:
            self._form, self.events = "events", Parser(self._max_event, errors=True)
        return self._split(data)

    def skip_to(self, data: bytes) -> Values | None:
        """The values in `data`, the first one left out, which comes after much that does not; None: they need that."""
        if self.events is None and self.form != "lines":
            return None
        mark = _NEXT.search(data) if self.events else re.search(b"\n", data)
        if self.events:
            self.events = Parser(self._max_event, errors=True)
        elif isinstance(self.framing, Lines):
            self.framing.forget()
        return self._split(data[mark.end() if mark else len(data) :])

    def _begin(self, head: bytes) -> bool:
        """Whether `head` tells the form."""
        form = self._form = form_of(head)
        if form == "frames":
            self.framing = Frames(self._max_event)
        elif form == "array":
            self.framing = Elements(self._max_event)
        elif form == "lines":
            self.framing = Lines(self._max_event, self._max_values)
        elif form is not None:
            self.events = Parser(self._max_event, errors=True)
        return form is not None

    def _split(self, data: bytes) -> Values:
        if self.events is not None:
            return self.events.raw(data)
        return self.framing.feed(data) if self.framing is not None else iter(())
