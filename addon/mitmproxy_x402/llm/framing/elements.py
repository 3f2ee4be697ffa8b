"""The elements of one JSON array, as its bytes come in: Gemini streams like that without `alt=sse`."""

from __future__ import annotations

import re

from ..sse import MAX_EVENT, Notes
from . import Framed

_MARK = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"


class Elements:
    """Bytes in, elements out, each as its bytes. Linear, and bounded by the size of one element."""

    def __init__(self, max_element: int = MAX_EVENT) -> None:
        self.ended = False
        """Whether the array's closing bracket has come."""
        self._notes = Notes()
        self._max_element = max_element
        self._element = bytearray()
        self._dropping = False
        self._first = True
        self._more = False
        self._depth = 0
        self._fed = 0
        self._in_string = False
        self._escaped = False

    @property
    def irregular(self) -> list[str]:
        """What is out of order so far, in words for people; bounded."""
        return self._notes.texts()

    def feed(self, data: bytes) -> list[Framed]:
        """The elements that `data` completes. The first byte of all must be the opening bracket."""
        found: list[Framed] = []
        at = begin = 0
        base, self._fed = self._fed, self._fed + len(data)
        while not self.ended and (mark := self._next(data, at)) >= 0:
            byte, at = data[mark : mark + 1], mark + 1
            if byte == b'"':
                self._in_string = not self._in_string
            elif byte in (b"[", b"{"):
                self._depth += 1
                begin = at if self._depth == 1 else begin
            else:
                self._depth -= byte != b","
                self.ended = self._depth == 0
                if self.ended or (byte == b"," and self._depth == 1):
                    self._keep(data[begin:mark])
                    begin = at
                    self._take(found, base + mark)
        if self.ended and not self._more and data[begin:].strip(_SPACE):
            self._notes.add("something follows the array")
            self._more = True
        elif self._depth:
            self._keep(data[begin:])
        return found

    def end(self) -> None:
        """There is no more."""
        if not self.ended:
            self._notes.add("the array does not end")

    def _next(self, data: bytes, at: int) -> int:
        """Where the next mark is that means something; -1: not in `data`."""
        while self._in_string:
            if self._escaped and at < len(data):
                self._escaped, at = False, at + 1
            mark = _IN_STRING.search(data, at)
            if mark is None or mark[0] == b'"':
                return -1 if mark is None else mark.start()
            self._escaped, at = True, mark.end()
        mark = _MARK.search(data, at)
        return -1 if mark is None else mark.start()

    def _keep(self, piece: bytes) -> None:
        if not self._dropping and len(self._element) + len(piece) > self._max_element:
            self._notes.add(f"an element of the array is larger than {self._max_element} bytes and is dropped")
            self._dropping = True
            self._element.clear()
        if not self._dropping:
            self._element += piece

    def _take(self, found: list[Framed], end: int) -> None:
        kept = bytes(self._element).rstrip(_SPACE)
        element = kept.lstrip(_SPACE)
        if element:
            end -= len(self._element) - len(kept)
            found.append(Framed("", element, end - len(element), end))
        elif not self._dropping and not (self.ended and self._first):
            self._notes.add("an element of the array is missing")
        self._first = self._dropping = False
        self._element = bytearray()
