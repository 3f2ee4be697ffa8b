"""Splits a body into JSON lines, or takes it for one JSON object."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator

from ..sse import MAX_EVENT, Notes
from ..values import is_object
from . import Framed

_SPACE = b" \t\r\n\x1e"  # RFC 7464 writes a record separator before each text
_LINE = re.compile(rb"[^\n]+")


class Lines:
    """Splits JSON lines, once it is clear that the body is not a single object."""

    def __init__(self, max_line: int = MAX_EVENT, max_values: int | None = None) -> None:
        self.several = False
        """Whether there is an object on each line; before that is known, it is taken for a single one."""
        self._single = False
        self._notes = Notes()
        self._max_line = max_line
        self._max_values = max_values
        self._kept = bytearray()
        self._dropping = False
        self._fed = 0
        self._first: Framed | None = None

    @property
    def irregular(self) -> list[str]:
        """Anomalies so far, described for people; bounded."""
        return self._notes.texts()

    def feed(self, data: bytes) -> Iterator[Framed]:
        """The lines that `data` completes; nothing while the body may be a single object."""
        at = 0
        self._fed += len(data)
        while not self._single:
            newline = data.find(b"\n", at)
            if newline < 0:
                break
            self._keep(data[at:newline])
            at = newline + 1
            line = self._line(self._fed - len(data) + at)
            if line is None or line.data == BOM_UTF8:
                continue
            if self.several:
                yield line
            elif self._first is not None:
                first, self._first, self.several = self._first, None, True
                yield from (first, line)
            elif not line.data.removeprefix(BOM_UTF8).startswith(b"{"):  # a single object begins otherwise
                self.several = True
                yield line
            elif _is_object(line.data, self._max_values):
                self._first = line
            else:
                self._single = True
                self._kept[:0] = line.data + b"\n"
        self._keep(data[at:])

    def rest(self) -> Framed | None:
        """The last line without a line end, or a whole single object; None: nothing is left."""
        line = self._line(self._fed)
        first, self._first = self._first, None
        if first is not None and line is not None:  # two on two lines, the last without a line end
            self.several = True
            self._first = line
            return first
        return first or line

    def apart(self, line: Framed) -> list[Framed]:
        """The values in what was taken for a single object and is none.

        They are objects with nothing between them, or on lines of which some are not JSON.
        """
        if found := _objects_in(line.data):
            self._notes.add("JSON objects with nothing between them")
            return [line._replace(data=one) for one in found]
        lines = [
            Framed("", text, line.begin + one.start(), line.begin + one.end())
            for one in _LINE.finditer(line.data)
            if (text := one[0].strip(_SPACE))
        ]
        objects = sum(_is_object(one.data, self._max_values) for one in lines)
        self.several = 1 < len(lines) <= 2 * objects  # of a single object that is laid out, hardly a line is one
        return lines if self.several else []

    def forget(self) -> None:
        """Drop the line that has begun."""
        self._kept.clear()

    def _keep(self, piece: bytes) -> None:
        if self._dropping:
            return
        if len(self._kept) + len(piece) > self._max_line:
            what = "a line" if self.several else "the answer"
            self._notes.add(f"{what} is larger than {self._max_line} bytes and is not read")
            self._dropping = True
            self._kept.clear()
        else:
            self._kept += piece

    def _line(self, end: int) -> Framed | None:
        data = bytes(self._kept).strip(_SPACE)
        self._kept.clear()
        dropped, self._dropping = self._dropping, False
        return Framed("", data, end - len(data), end) if data and not dropped else None


def _is_object(data: bytes, most: int | None) -> bool:
    return data.startswith(b"{") and data.endswith(b"}") and is_object(data, most)


def _objects_in(data: bytes) -> list[bytes]:
    """The two or more JSON objects in `data` that follow each other directly; none where there is anything else."""
    text, at, found = data.decode("utf-8", "replace"), 0, []
    decoder = json.JSONDecoder()
    try:
        while at < len(text):
            if text[at] in " \t\r\n":
                at += 1
                continue
            if text[at] != "{":
                return []
            begin = at
            _, at = decoder.raw_decode(text, at)
            found.append(text[begin:at].encode())
    except (ValueError, RecursionError):
        return []
    return found if len(found) > 1 else []
