"""Parses server-sent events by the rules of the HTML standard, section 9.2 ("Interpreting an event stream").

Incremental, in linear time and bounded memory, and without errors: anomalies are noted. For people and tests; clients'
answers do not pass through it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .printing import line as printed

MAX_EVENT = 16 * 1024 * 1024
"""Most bytes of one event; a picture in base64 fits."""
MAX_NOTES = 50
"""Most different anomalies that are noted; further ones are only counted."""

# One event with a single line of data, and perhaps a name before it: what nearly all of them are.
_PLAIN = re.compile(rb"(?:event: ?([^\r\n]*)\r?\n)?data: ?([^\r\n]*)\r?\n\r?\n")
_PLAINER = re.compile(rb"(?:event: (.*)\n)?data: (.*)\n\n")
"""The same with a space after each colon and without CR, which takes half the time."""
_CONTROLS = bytes(range(33)) + b"\x7f"
_BLANK_LINES = re.compile(rb"(?:\r?\n){1,1000}|\r{1,1000}(?=\r)")  # more at a time takes memory for each
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n?|\n")
_COMMENT, _CR = b":\r"
_FIELD = re.compile(rb"[A-Za-z0-9_.-]{1,40}")
"""Names that fields of a later standard may have."""
_MAX_RAW = 100_000
"""Bytes of lines of JSON without `data:` that are kept."""
_FIELDS = {b"data", b"event", b"id", b"retry"}


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as a browser would dispatch it."""

    type: str
    """The event's name; `message` if the stream gives none."""
    data: str
    """Its data lines, joined by LF."""
    id: str
    """The last event id of the stream so far."""


Raw = tuple[bytes, bytes, int, int]
"""An event as bytes: its name (empty: none), its data, and where it stands in the stream: its first byte and the one
after its last, which is the beginning of its empty line."""


class Notes:
    """Remarks on anomalies, each once with its count; bounded."""

    def __init__(self, limit: int = MAX_NOTES) -> None:
        self._counts: dict[str, int] = {}
        self._limit = limit
        self._more = 0
        self._asked = 0

    def add(self, remark: str) -> None:
        """Count `remark`."""
        if remark in self._counts or len(self._counts) < self._limit:
            self._counts[remark] = self._counts.get(remark, 0) + 1
        else:
            self._more += 1

    def fresh(self) -> list[str]:
        """The remarks that are new since the last call."""
        fresh = list(self._counts)[self._asked :]
        self._asked = len(self._counts)
        return fresh

    def texts(self) -> list[str]:
        """The remarks in the order of their first occurrence."""
        texts = [text if count == 1 else f"{text} ({count} times)" for text, count in self._counts.items()]
        return [*texts, f"and {self._more} further irregularities"] if self._more else texts


class Parser:
    """Turns bytes into events: `feed` takes them in any pieces, `end` says that there are no more."""

    def __init__(self, max_event: int = MAX_EVENT, *, errors: bool = False) -> None:
        """`errors`: treat a field `error`, which the standard ignores, as an event of that name, as for llama.cpp."""
        self._errors = errors
        self.retry: int | None = None
        """Milliseconds to wait before reconnecting, if the stream set them."""
        self.comments = 0
        """Number of comment lines."""
        self.hidden: bytes | None = None
        """The name of the field in the first line, if that follows a byte order mark: many parsers lose it."""
        self.beside = ""
        """The name of the field in the first line that does not begin with `data: `; empty: there is none."""
        self.hollow = False
        """Whether there is an event without data, which some parsers return."""
        self.is_done = False
        """Whether that does not matter any more, because most have stopped at a `[DONE]`."""
        self._after_mark = False
        self._has_retry = False
        self._max_event = max_event
        self._notes = Notes()
        self._head: bytes | None = b""  # up to two bytes that may become a byte order mark; None once that is decided
        self._skip_lf = False
        # Bytes, decoded when an event is whole: no byte of a character is CR, LF, a colon or a space by chance.
        self._line = bytearray()
        self._data = bytearray()
        self._type = b""
        self._id = ""
        self._fed = 0
        self._begin: int | None = None  # of the event that is coming in
        self._dropping = False
        self._strays = ""
        self._raw = b""
        """Lines of JSON without `data:` that have not ended, as those of an error that Google's servers send."""

    @property
    def irregular(self) -> list[str]:
        """Anomalies in the stream so far, described for people; at most some dozens."""
        return self._notes.texts()

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        return [Event(self._text(kind) or "message", self._text(data), self._id) for kind, data, _, _ in self.raw(data)]

    def raw(self, data: bytes) -> Iterator[Raw]:
        """The same as bytes, with their positions. Must be exhausted before more is fed."""
        self._fed += len(data)
        if self._head is not None:
            data = self._head + data
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._head = data
                return iter(())
            self._after_mark = data.startswith(_BOM)
            data, self._head = data.removeprefix(_BOM), None
        return self._events(data)

    def rest(self) -> Raw | None:
        """The last event if no empty line has ended it, which the standard would discard."""
        head, self._head = self._head, None
        self._extend(head or b"", 0)
        if self._line:
            line = bytes(self._line)
            self._line.clear()
            self._take(line, self._fed)
        return self._dispatch(self._fed) if self._data else None

    def end(self) -> None:
        """There is no more: an event that no empty line has ended is discarded, as the standard wants it."""
        head, self._head = self._head, None
        self._extend(head or b"", 0)
        if self._raw:
            self._end_raw(self._raw)
        if self._data or self._type or (self._line and self._line[0] != _COMMENT) or self._dropping:
            self._notes.add("the stream ends in the middle of an event, which is discarded")
        self._reset()
        self._line.clear()

    def _events(self, data: bytes) -> Iterator[Raw]:
        base = self._fed - len(data)
        at = 1 if self._skip_lf and data.startswith(b"\n") else 0
        if data:
            self._skip_lf = data.endswith(b"\r")
        quick = _PLAIN if b"\r" in data else _PLAINER
        while True:
            if self._begin is None and not self._after_mark:
                while plain := quick.match(data, at) or _PLAIN.match(data, at):
                    end = plain.end()
                    if end - at > self._max_event:
                        break
                    name, text = plain.groups()
                    if not self.beside and (name is not None or plain.re is _PLAIN):
                        self._note_beside(plain[0])
                    yield name or b"", text, base + at, base + end - (2 if data[end - 2] == _CR else 1)
                    at = end
                while not self._line and not self._id and (blank := _BLANK_LINES.match(data, at)):
                    at = blank.end()
            mark = _LINE_END.search(data, at)
            if mark is None:
                break
            if self._line:
                self._extend(data[at : mark.start()], base + at)
                line = bytes(self._line)
                self._line.clear()
            else:
                line = data[at : mark.start()]
                if line and self._begin is None:
                    self._begin = base + at
            at = mark.end()
            event = self._take(line, base + mark.start())
            if event is not None:
                yield event
        self._extend(data[at:], base + at)

    def _extend(self, piece: bytes, where: int) -> None:
        """Keep the beginning of a line; of a comment and of what is dropped, one byte says that it is not empty."""
        if not self._line:
            if piece and self._begin is None:
                self._begin = where
            self._line += piece[:1]
            piece = piece[1:]
        if not piece or self._line[0] == _COMMENT or self._dropping:
            return
        if self._fits(len(self._line) + len(piece)):
            self._line += piece

    def _fits(self, size: int) -> bool:
        if len(self._data) + size <= self._max_event:
            return True
        self._notes.add(f"an event is larger than {self._max_event} bytes and is dropped")
        self._dropping = True
        self._data.clear()
        del self._line[1:]
        return False

    def _take(self, line: bytes, where: int) -> Raw | None:
        """A whole line that ends at `where`: an empty one ends an event."""
        if not line:
            return self._dispatch(where)
        if not self.beside:
            self._note_beside(line)
        if self._after_mark:
            self._after_mark, self.hidden = False, line.partition(b":")[0]
        if line[0] == _COMMENT:
            self.comments += 1
        elif not self._dropping and self._fits(len(line)):
            name, _, value = line.partition(b":")
            if name not in _FIELDS and self._errors:
                self._stray(line, name, value.removeprefix(b" "))
            else:
                self._field(name, value.removeprefix(b" "))
        return None

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            self._data += value
            self._data += b"\n"
        elif name == b"event":
            self._type = value
        elif name == b"id":
            if b"\0" in value:
                self._notes.add("an id with a NUL in it is ignored")
            else:
                self._id = self._text(value)
        elif name == b"retry":
            self._retry(value)
        elif name.startswith(_BOM) and name != _BOM + b"event":
            self._notes.add("a byte order mark in the middle of the stream hides a field")

    def _stray(self, line: bytes, name: bytes, value: bytes) -> None:
        """A line that clients ignore: an error is read all the same, and of anything else the first one is told."""
        if self._raw or (line == b"{" and not self._data):
            self._raw += line + b"\n"
            if line == b"}" or len(self._raw) > _MAX_RAW:
                raw, self._raw = self._raw, b""
                self._end_raw(raw)
        elif name == b"error" and not self._data:
            self._notes.add("an error in a field of its own, which clients ignore")
            self._type = name
            self._data += value + b"\n"
        elif name.strip(b" {") == b'"error"' and line.startswith(b"{") and not self._data:
            self._notes.add("an error in a line of its own, which most clients ignore")
            self._data += line + b"\n"
        elif name.startswith(_BOM):
            self._field(name, value)
        elif line.strip(_CONTROLS).startswith((b"event:", b":")) or not line.strip(_CONTROLS):
            return  # an event without its name is told of where names matter
        elif not (_FIELD.fullmatch(name) and name != line) or name.lower() in _FIELDS:
            self._note_stray(line)

    def _end_raw(self, raw: bytes) -> None:
        """Take lines of JSON that came without `data:` for an event if they are an error."""
        if b'"error"' in raw and raw.endswith(b"\n}\n"):
            self._notes.add("an error in lines of its own, which most clients ignore")
            self._data += raw
        else:
            self._note_stray(raw.partition(b"\n")[0])

    def _note_stray(self, line: bytes) -> None:
        self._strays = self._strays or printed(line[:200].decode("utf-8", "replace"), 60)
        self._notes.add(f"a line that is no field of an event, which clients ignore; the first one: {self._strays}")

    def _note_beside(self, lines: bytes) -> None:
        """Remember the first line that does not begin with `data: `."""
        for line in lines.splitlines():
            if line and not line.startswith(b"data: "):
                name = line.partition(b":")[0][:200].decode("utf-8", "replace")
                self.beside = printed(name, 60) if name else "a comment"
                return

    def _retry(self, value: bytes) -> None:
        if value.isdigit() and len(value) <= 18:  # ASCII digits only; more would be longer than anybody waits
            self.retry, self._has_retry = int(value), True

    def _dispatch(self, where: int) -> Raw | None:
        event = None
        if self._data:
            event = (
                self._type,
                bytes(memoryview(self._data)[:-1]),
                where if self._begin is None else self._begin,
                where,
            )
        elif (self._type or self._id or self._has_retry) and not self._dropping and not self.is_done:
            self.hollow = True
        self._reset()
        return event

    def _reset(self) -> None:
        if self._data:
            self._data = bytearray()
        self._type = b""
        self._has_retry = False
        self._dropping = False
        self._begin = None

    def _text(self, data: bytes) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            self._notes.add("invalid UTF-8, shown as \N{REPLACEMENT CHARACTER}")
            return str(data, "utf-8", "replace")
