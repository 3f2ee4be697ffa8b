"""Reads an answer while it comes in, or at once: finds out its form and its dialect from what is in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from ..protocol.strict_json import Undecodable, decode_json
from .chat import ChatReader
from .dialects import Reader, dialect_of
from .draft import MAX_ITEMS, MAX_TEXT, Draft
from .elements import Elements
from .gemini import GeminiReader
from .messages import MessagesReader
from .printing import error_line
from .reading import Dialect, Reading
from .responses import ResponsesReader
from .sse import MAX_EVENT, Notes, Parser
from .values import mapping

_READERS: dict[Dialect, type[Reader]] = {
    reader.dialect: reader for reader in (ChatReader, ResponsesReader, MessagesReader, GeminiReader)
}
_BEFORE = b"\xef\xbb\xbf \t\r\n"
_MAX_BLANK = 1000
_DONE = "[DONE]"
_CONTENT = {"choices", "candidates"}
_JSON = "application/json"


class StreamReader:
    """Server-sent events, a JSON array that grows, or one JSON object, fed in any pieces.

    Linear in what is fed; `reading` costs as much as there is text. Memory is bounded by `max_event` (bytes of one
    event, element or object), `max_text` (characters of the answer) and `max_items` (parts). Nothing raises on what is
    fed.
    """

    def __init__(self, max_event: int = MAX_EVENT, max_text: int = MAX_TEXT, max_items: int = MAX_ITEMS) -> None:
        self._max_event = max_event
        self._notes = Notes()
        self._draft = Draft(max_text, max_items)
        self._reader: Reader | None = None
        self._events = 0
        self._ended = False
        self._head: bytearray | None = bytearray()  # blanks that may precede either form; None once that is known
        self._parser: Parser | None = None
        self._elements: Elements | None = None
        self._whole = bytearray()
        self._whole_dropped = False

    @property
    def form(self) -> Literal["events", "array", "object", "unknown"]:
        """How the answer comes, told by its first character; `unknown` before that."""
        if self._head is not None:
            return "unknown"
        return "events" if self._parser else "array" if self._elements else "object"

    def feed(self, data: bytes) -> None:
        """The next bytes of the answer. After `end`, they are not taken."""
        if self._ended:
            return
        if self._head is not None:
            self._head += data
            first = self._head.lstrip(_BEFORE)[:1]
            if not first and len(self._head) < _MAX_BLANK:
                return
            data, self._head = bytes(self._head), None
            self._begin(bytes(first))
        if self._parser is not None:
            for event in self._parser.feed(data):
                self._event(event.type, event.data)
        elif self._elements is not None:
            for element in self._elements.feed(data):
                self._element(element)
        else:
            self._collect(data)

    def end(self) -> None:
        """There is no more: what is unfinished now stays so, and is noted."""
        if self._ended:
            return
        self._ended = True
        if self._parser is not None:
            self._parser.end()
        elif self._elements is not None:
            self._elements.end()
        elif self._whole:
            self._answer()
        if self._reader is not None and not self._complete and self._draft.error is None:
            self._notes.add(f"the answer is not complete: there is no {self._reader.end_mark}")

    def reading(self) -> Reading:
        """The answer as far as it has come."""
        dialect: Dialect = "unknown" if self._reader is None else self._reader.dialect
        form = self._parser or self._elements
        remarks = [*(form.irregular if form else ()), *self._notes.texts()]
        return self._draft.reading(dialect, self._events, self._complete, remarks, self._ended)

    @property
    def _complete(self) -> bool:
        whole = self._elements is None or self._elements.ended
        return self._reader is not None and self._reader.complete and whole

    def _begin(self, first: bytes) -> None:
        if first == b"[":
            self._elements = Elements(self._max_event)
        elif first != b"{":
            self._parser = Parser(self._max_event)

    def _collect(self, data: bytes) -> None:
        if self._whole_dropped:
            return
        if len(self._whole) + len(data) > self._max_event:
            self._notes.add(f"the answer is larger than {self._max_event} bytes and is not read")
            self._whole_dropped = True
            self._whole.clear()
        else:
            self._whole += data

    def _answer(self) -> None:
        """A whole answer has come."""
        value = self._decode("the answer", bytes(self._whole))
        self._whole.clear()
        self._events = 1
        if value is not None and not self._is_error("", value) and self._in_dialect(value) and self._reader is not None:
            self._reader.whole(value)

    def _event(self, name: str, data: str) -> None:
        self._events += 1
        if name == "error" and not data.lstrip().startswith("{"):
            self._draft.fail(error_line(data))
        elif data.strip() != _DONE:
            self._value(name, self._decode(f"the data of event {self._events}", data.encode()))
        elif self._reader is not None:
            self._reader.done()
        elif self._draft.error is None:
            self._notes.add("a [DONE] before anything was said")

    def _element(self, element: bytes) -> None:
        self._events += 1
        self._value("message", self._decode(f"element {self._events}", element))

    def _value(self, name: str, value: dict[str, Any] | None) -> None:
        if (
            value is not None
            and not self._is_error(name, value)
            and self._in_dialect(value)
            and self._reader is not None
        ):
            self._reader.event(name, value)

    def _is_error(self, name: str, value: dict[str, Any]) -> bool:
        """Whether `value` is nothing but an error in the form that gateways send in every dialect; then it is noted."""
        error = mapping(value.get("error")) or (value if name == "error" else {})
        if "type" in value or not error or _CONTENT & value.keys():
            return False
        self._settle(dialect_of(value))
        self._draft.fail(error_line(error))
        return True

    def _decode(self, what: str, data: bytes) -> dict[str, Any] | None:
        try:
            value, faults = decode_json(data)
        except Undecodable as error:
            self._notes.add(f"{what} is {error}")
            return None
        for fault in faults:
            self._notes.add(f"in {what} {fault}")
        if isinstance(value, dict):
            return value
        self._notes.add(f"{what} is no JSON object")
        return None

    def _settle(self, dialect: Dialect) -> None:
        """The first value that tells a dialect settles it."""
        if self._reader is None and dialect in _READERS:
            self._reader = _READERS[dialect](self._draft)

    def _in_dialect(self, value: dict[str, Any]) -> bool:
        """Whether there is a reader for `value`."""
        dialect = dialect_of(value)
        self._settle(dialect)
        if self._reader is None:
            self._notes.add("JSON in none of the dialects")
        elif dialect not in ("unknown", self._reader.dialect) and not value.get("error"):
            self._notes.add(f"an event in another dialect ({dialect})")
        return self._reader is not None


def read_answer(content_type: str, body: bytes) -> Reading | None:
    """The answer in `body`, whole or streamed; None: it is no language model's, nor an error of one.

    `content_type` as in the header. What the body is, its first character says; where the header says otherwise, that
    is noted. Never raises.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media not in ("", "text/event-stream", "text/plain", "application/octet-stream") and not media.endswith("json"):
        return None
    reader = StreamReader()
    reader.feed(body)
    reader.end()
    reading = reader.reading()
    if reading.dialect == "unknown" and reading.error is None:
        return None
    if (media == "text/event-stream") != (reader.form == "events") and media in ("text/event-stream", _JSON):
        remark = f"the content type says {media}, and the body is not that"
        reading = replace(reading, irregular=(remark, *reading.irregular))
    return reading
