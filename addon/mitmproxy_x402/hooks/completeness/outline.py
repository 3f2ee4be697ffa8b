"""Extracts the outline of JSON of any length as it arrives in chunks: the keys and short values of its upper levels.

`tail` looks there for a reported failure if an answer is too long to be kept. This takes a fraction of the time
of decoding, and bounded memory. A "text" is a JSON string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

MAX_OUTLINE, MAX_TEXT = 64 << 10, 100
"""Bytes kept of the upper levels, and of each text there. What exceeds the first is judged in several parts."""

MAX_MARKS = 1_000_000
"""Brackets and texts that are looked at one by one, a second's work; JSON with more of them counts as broken."""

# None of them ever goes back over more than one text, so their work is linear.
_OF_TEXT = re.compile(rb'(?:[^"\\]+|\\.)*', re.DOTALL)
_OF_LEVEL = re.compile(rb'[^"{}\[\]]*(?:"[^"\\{}\[\]]{0,100}"[^"{}\[\]]*)*')
_FLAT = rb'[^"{}\[\]]*(?:"[^"\\{}\[\]]*"[^"{}\[\]]*)*'
_OF_DEPTH = re.compile(rb'[^"{}\[\]]*(?:(?:"[^"\\{}\[\]]*"|\{%b\}|\[%b\])[^"{}\[\]]*)*' % (_FLAT, _FLAT))
_PLAIN = rb'(?:"[^"\\{}\[\]]*"|-?[0-9][0-9.eE+-]*|true|false|null)'
_PAIR = rb'"[^"\\{}\[\]]*"\s*:\s*' + _PLAIN
_IN_ROW = re.compile(
    rb"[\s,]*(?:(?:\{\s*(?:%b\s*,\s*)*%b\s*\}|\[\s*(?:%b\s*,\s*)*%b\s*\]|\{\s*\}|\[\s*\])[\s,]*)*"
    % (_PAIR, _PAIR, _PLAIN, _PLAIN)
)
"""Flat values in a row, as of a long list or in lines."""
_ALARM = (b"\\", b"error", b"fail", b"success", b"choices", b"cancel", b"statuscode", b"x402", b"chat.completion")
"""Without one of these, in whatever case, no flat value says that it failed."""


class Outline:
    """The upper `levels` of a JSON object, or of each object in a list; short values stand for what is deeper.

    `judge` is called with each of them, decoded; `failed` is whether it has ever returned true.
    """

    def __init__(self, judge: Callable[[Any], bool], levels: int = 1) -> None:
        self.failed = False
        self._judge = judge
        self._levels = levels
        rows = (b"", _IN_LIST) if levels == 1 else (_IN_LIST,)  # an event is told, whatever is in it
        self._rows = tuple(map(bytearray, rows))
        self.values = 0
        """How many values have ended; flat ones in a row count as one."""
        self._marks = 0
        self._closers = bytearray()
        """The brackets that will close those that are open."""
        self._deep_from = 0
        """How many brackets are open around what is being left out, its own included; 0: nothing is left out."""
        self._deep_has = False
        self._kept = bytearray()
        self._part_end = 0
        """Where in `_kept` the last complete member of the outermost object ends; 0: none has ended."""
        self._broken = self._in_text = self._escapes = False
        self._text = bytearray()

    @property
    def is_whole(self) -> bool:
        """Whether what was fed is complete JSON. To be read after the last chunk."""
        return bool(self.values) and not (self._broken or self._closers)

    def feed(self, data: bytes) -> None:
        """Take one more chunk. What is outside of all brackets is skipped."""
        at = 0
        is_calm: bool | None = None
        while at < len(data) and not self._broken:
            self._marks += 1
            self._broken = self._marks > MAX_MARKS
            if self._in_text:
                at = self._pass_text(data, at)
                continue
            if self._closers in self._rows:
                if is_calm is None:
                    lowered = data.lower()  # words one by one: twenty times as fast as a pattern
                    is_calm = not any(word in lowered for word in _ALARM)
                if is_calm and (row := _IN_ROW.match(data, at)) and row.end() > at:
                    self.values += not self._closers and bool(row[0].strip(b" \t\r\n,"))
                    at = row.end()
                    continue
            found = (_OF_DEPTH if self._deep_from else _OF_LEVEL).match(data, at)
            assert found is not None
            if self._deep_from:
                self._deep_has = self._deep_has or bool(found[0].strip())
            elif self._closers:
                if self._closers == _OBJECT and (comma := _last_comma(found[0])) >= 0:
                    self._part_end = len(self._kept) + comma
                self._keep(found[0])
            at = found.end()
            if at < len(data):
                self._take(data[at])
                at += 1

    def _pass_text(self, data: bytes, at: int) -> int:
        """The position after the text, or after the chunk if the text goes on."""
        begin = at
        if self._escapes:
            self._escapes = False
            at += 1
        found = _OF_TEXT.match(data, at)
        assert found is not None
        at = found.end()
        if len(self._text) <= MAX_TEXT:
            self._text += data[begin : min(at, begin + MAX_TEXT + 1)]
        if data[at : at + 1] == b"\\":  # the chunk ends in the middle of an escape
            self._escapes = True
            self._text += b"\\"
        elif at < len(data):
            self._in_text = False
            if not self._deep_from:
                self._keep(b'"%b"' % (bytes(self._text) if len(self._text) <= MAX_TEXT else b"long"))
            self._text.clear()
        return at + 1

    def _take(self, mark: int) -> None:
        if mark == _QUOTE:
            self._in_text = bool(self._closers)
            self._deep_has = True
        elif mark in _CLOSER_OF:
            self._open(mark)
        elif self._closers:
            self._broken |= self._closers.pop() != mark
            self._close(mark)

    def _open(self, mark: int) -> None:
        self._closers.append(_CLOSER_OF[mark])
        if self._deep_from:
            self._deep_has = True
        elif self._is_too_deep(mark):
            self._deep_from, self._deep_has = len(self._closers), False
        else:
            if len(self._closers) == 2 and self._closers[0] == _OF_LIST:
                self._kept.clear()  # what precedes it in the list
            self._keep(bytes((mark,)))
        self._broken |= len(self._closers) > MAX_OUTLINE

    def _is_too_deep(self, mark: int) -> bool:
        """Whether the bracket that was just opened, a `mark`, begins what is left out."""
        level = len(self._closers) - (self._closers[0] == _OF_LIST)
        return level > self._levels or (mark == _LIST and len(self._closers) > 1)

    def _close(self, mark: int) -> None:
        left = len(self._closers)
        if self._deep_from > left:
            self._deep_from = 0
            inside = b"0" if mark == _OF_LIST else b'"":0'
            self._keep(bytes((mark - 2,)) + (inside if self._deep_has else b"") + bytes((mark,)))
        elif not self._deep_from:
            self._keep(bytes((mark,)))
        if not left or (self._closers[0] == _OF_LIST and left == 1):
            self._tell(self._kept)
            self._kept.clear()
            self._part_end = 0
            self.values += not left

    def _tell(self, part: bytearray) -> None:
        """Judge what has just ended: a whole object, an object of a list, or a part of an object."""
        text = part.decode("utf-8", "replace").strip()
        if text[:1] == "{":
            try:
                self.failed |= self._judge(json.loads(text))
            except ValueError:
                self._broken = True

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) <= MAX_OUTLINE:
            return
        if self._part_end:
            self._tell(self._kept[: self._part_end] + b"}")
            self._kept[: self._part_end + 1] = b"{"
            self._part_end = 0
        else:
            self._broken |= self._closers[:1] == _OBJECT or len(self._closers) > 1
            self._kept.clear()  # of a long list of other values


def _last_comma(level: bytes) -> int:
    """The position of the last comma outside of texts; -1: there is none."""
    parts, end = level.split(b'"'), len(level)  # every other one is a text
    for number in range(len(parts) - 1, -1, -1):
        begin = end - len(parts[number])
        comma = -1 if number % 2 else parts[number].rfind(b",")
        if comma >= 0:
            return begin + comma
        end = begin - 1
    return -1


_QUOTE, _LIST, _OF_LIST = b'"[]'
_OBJECT, _IN_LIST = b"}", b"]"
_CLOSER_OF = {ord("{"): ord("}"), _LIST: _OF_LIST}
