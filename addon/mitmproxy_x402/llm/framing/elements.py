"""Finds the elements of one JSON array as its bytes come in: Gemini streams like that without `alt=sse`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..sse import MAX_EVENT, Notes
from . import Framed

_MARK = re.compile(rb'["\[\]{},]')
_INNER = re.compile(rb'["\[\]{}]')
"""The marks that count within an element."""
_IN_STRING = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"
MAX_DEPTH = 1000
"""Brackets within brackets, as of the parser of JSON."""
MAX_MARKS = 2_000_000
"""Brackets, and commas between elements, of one array that are looked at: some seconds."""


class Elements:
    """Splits a growing JSON array into its elements, as bytes. Linear time, memory of one element."""

    def __init__(self, max_element: int = MAX_EVENT) -> None:
        self.ended = False
        """Whether the array's closing bracket has come."""
        self._notes = Notes()
        self._max_element = max_element
        self._element = bytearray()
        self._dropping = False
        self._first = True
        self._more = False
        self._taken = False
        """Whether what stands before the next comma has been returned already."""
        self._depth = 0
        self._marks = 0
        self._stopped = False
        self._fed = 0
        self._in_string = False
        self._escaped = False

    @property
    def irregular(self) -> list[str]:
        """Anomalies so far, described for people; bounded."""
        return self._notes.texts()

    def feed(self, data: bytes) -> Iterator[Framed]:
        """The elements that `data` completes. The first byte of all must be the opening bracket."""
        at = begin = 0
        base, self._fed = self._fed, self._fed + len(data)
        while not (self.ended or self._stopped) and (mark := self._next(data, at)) >= 0:
            self._marks += 1
            if self._marks > MAX_MARKS or self._depth > MAX_DEPTH:
                self._stop()
                return
            byte, at = data[mark : mark + 1], mark + 1
            if byte == b'"':
                self._in_string = not self._in_string
            elif byte in (b"[", b"{"):
                self._depth += 1
                begin = at if self._depth == 1 else begin
            else:
                self._depth -= byte != b","
                self.ended = self._depth == 0
                if byte != b"," and self._depth == 1:  # it is whole, whatever follows
                    if self._taken:
                        self._notes.add("elements of the array without a comma between them")
                    self._keep(data[begin:at])
                    begin = at
                    element = self._take(base + at)
                    self._taken = True
                    if element is not None:
                        yield element
                elif self.ended or (byte == b"," and self._depth == 1):
                    self._keep(data[begin:mark])
                    begin = at
                    element = self._take(base + mark)
                    if element is not None:
                        yield element
        if self.ended and not self._more and data[begin:].strip(_SPACE):
            self._notes.add("something follows the array")
            self._more = True
        elif self._depth and not self._stopped:
            self._keep(data[begin:])

    def end(self) -> None:
        """End the input."""
        if not (self.ended or self._stopped):
            self._notes.add("the array does not end")

    def _stop(self) -> None:
        deep = self._depth > MAX_DEPTH
        self._notes.add(f"the array is {'nested too deeply' if deep else 'too large'}: the rest of it is not read")
        self._stopped = True
        self._element.clear()

    def _next(self, data: bytes, at: int) -> int:
        """The position of the next significant mark; -1: not in `data`."""
        while self._in_string:
            if self._escaped and at < len(data):
                self._escaped, at = False, at + 1
            mark = _IN_STRING.search(data, at)
            if mark is None or mark[0] == b'"':
                return -1 if mark is None else mark.start()
            self._escaped, at = True, mark.end()
        mark = (_MARK if self._depth < 2 else _INNER).search(data, at)
        return -1 if mark is None else mark.start()

    def _keep(self, piece: bytes) -> None:
        if not self._dropping and len(self._element) + len(piece) > self._max_element:
            self._notes.add(f"an element of the array is larger than {self._max_element} bytes and is dropped")
            self._dropping = True
            self._element.clear()
        if not self._dropping:
            self._element += piece

    def _take(self, end: int) -> Framed | None:
        found = None
        kept = bytes(self._element).rstrip(_SPACE)
        element = kept.lstrip(_SPACE)
        if element:
            end -= len(self._element) - len(kept)
            found = Framed("", element, end - len(element), end)
        elif not self._dropping and not self._taken and not (self.ended and self._first):
            self._notes.add("an element of the array is missing")
        self._first = self._dropping = self._taken = False
        self._element = bytearray()
        return found
