"""Reads an answer as it arrives, or all at once, and recognises its form and dialect by its content."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from ..errors import NotRead, Undecodable
from .dialects import Reader, reader_for
from .draft import MAX_ITEMS, MAX_TEXT, Draft
from .framing import Framed
from .framing.lines import Lines
from .framing.source import Form, Source, Values
from .framing.wrapping import error_of, is_ping, listed_error, type_of, unwrapped
from .reading import Dialect, Reading, Step
from .sse import MAX_EVENT, Notes, Parser
from .values import decode_base64, decode_bounded, is_object, repaired

MAX_EVENTS = 1_000_000
"""Events of one answer that are read; the longest answers have fewer."""
MAX_STEPS = 200_000
"""Events of which what they added is kept."""
LAST = 64
"""Events at the end of a longer answer that are read for how it ended, and for its tokens."""
MAX_UNKNOWN = 5_000
"""Events in no known dialect after which the rest of an answer is not read."""
_DONE = b"[DONE]"
_MARK = b"\xef"
"""The first byte of a byte order mark; no other JSON begins with it."""
_HANDLES_ERRORS = {"anthropic-messages", "openai-responses"}
"""Dialects in which errors have an event type of their own."""
_WHAT = {"array": "element", "lines": "line", "frames": "the payload of frame"}


class StreamReader:
    """Server-sent events, Amazon's frames, JSON lines, a JSON array that grows, or one JSON object, in any pieces.

    Linear in what is fed; `reading` costs as much as there is text. Memory is bounded by `max_event` (bytes of one
    event, frame, element or object), `max_text` (characters of the answer) and `max_items` (parts). Nothing raises on
    what is fed. `traced`: `steps` says what each event added.
    """

    def __init__(
        self,
        max_event: int = MAX_EVENT,
        max_text: int = MAX_TEXT,
        max_items: int = MAX_ITEMS,
        *,
        max_values: int | None = None,
        max_events: int = MAX_EVENTS,
        traced: bool = False,
    ) -> None:
        """`max_values`: values in the JSON of one event that is read; None: any number."""
        self._max_events = max_events
        self._most = min(max_events, MAX_UNKNOWN)  # events that are read, as far as is known
        self._full = False  # no more is read
        self._skipped_some = False  # how many, nobody knows
        self._left = 0  # events that were not read
        self._last: deque[tuple[str, bytes, int, int]] = deque(maxlen=LAST)  # of those
        self._max_values = max_values
        self._source = Source(max_event, max_values)
        self._notes = Notes()
        self._draft = Draft(max_text, max_items, traced=traced)
        self._reader: Reader | None = None
        self._events = 0
        self._ended = False
        self._steps: list[Step] = []
        self._unread_first: list[tuple[str, str]] = []
        """Events that are not JSON, before the dialect was known: name and remark."""
        self._joined = False
        """Whether events without an empty line between them came, whose names are lost by that."""
        self._unplaced = False
        """Whether something came that no dialect says; that is odd only where none is known later, either."""

    @property
    def events(self) -> int:
        """Number of events that have come."""
        return self._events + self._left

    @property
    def form(self) -> Form:
        """The form of the answer, known from its first bytes; `unknown` before that."""
        return self._source.form

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the answer; ignored after `end`."""
        if self._ended or (self._full and self._reader is None):
            return
        self._take_in(self._source.feed(data))

    def end(self) -> None:
        """End the answer: what is unfinished is noted."""
        if self._ended:
            return
        source = self._source
        self._take_in(source.settle())
        self._ended = True
        if self._full and self._reader is None:
            return
        if source.events is not None:
            self._last_event(source.events)
        elif isinstance(source.framing, Lines):
            self._last_lines(source.framing)
        elif source.framing is not None:
            source.framing.end()
        if self._full:
            self._read_last()
        elif self._reader is not None:
            self._reader.close()
        if self._reader is not None and not self._complete and self._draft.error is None:
            remark = None if self._reader.complete else self._reader.unfinished  # else its array does not end, as noted
            if remark:
                self._notes.add(remark)

    def reading(self) -> Reading:
        """The answer as far as it has arrived."""
        dialect: Dialect = "unknown" if self._reader is None else self._reader.dialect
        if self._reader is not None:
            self._reader.settle()
        early = [remark for name, remark in self._unread_first if self._reader is None or not self._reader.skips(name)]
        remarks = [*self._source.irregular, *early, *self._lost(), *self._notes.texts()]
        if self._unplaced and self._reader is None:
            remarks.append("JSON in no known dialect")
        remarks = [self._partly(), *remarks] if self._full else remarks
        found = self._draft.reading(dialect, self.events, self._complete, remarks, self._ended)
        return replace(found, partly=True) if self._full else found

    def _lost(self) -> list[str]:
        """What the vendor's own SDK loses by the form of the stream."""
        parser, reader = self._source.events, self._reader
        return [] if parser is None or reader is None else reader.lost(parser.hidden, parser.beside, parser.hollow)

    def _partly(self) -> str:
        first = f"only its first {self._most:,} events are read"
        if self._reader is None:
            return f"{first}, and there are more"
        end = "; of the last ones, only why it ended, and its tokens" if self._draft.closing else ""
        return f"{first}{'' if self._skipped_some else f', of {self.events:,}'}{end}"

    def skip_to(self, data: bytes) -> None:
        """The answer goes on with much that is not read, and ends with `data`: in it is read only how it ended."""
        if self._ended or self._reader is None or (last := self._source.skip_to(data)) is None:
            return
        self._most, self._full, self._skipped_some = self._events, True, True
        self._take_in(last)

    def steps(self) -> list[Step]:
        """The events since the last call; empty if the reader is not `traced`."""
        steps, self._steps = self._steps, []
        return steps

    @property
    def _complete(self) -> bool:
        return self._reader is not None and self._reader.complete and self._source.is_whole

    # What comes in it.

    def _take_in(self, values: Values) -> None:
        self._draft.has_names = self._source.events is not None and not self._joined
        before, kind = None, "message"
        for name, data, begin, end in values:
            if name != before:
                before, kind = name, (name if isinstance(name, str) else name.decode("utf-8", "replace")) or "message"
            self._event(kind, data, begin, end)
            if self._full and self._reader is None:
                return

    def _last_event(self, parser: Parser) -> None:
        """Read the last event without an empty line after it, if it is complete."""
        if (rest := parser.rest()) is not None:
            name, text, begin, end = rest
            last = text.rpartition(b"\n")[2].strip()
            if last == _DONE or is_object(last, self._max_values) or is_object(text, self._max_values):
                if last != _DONE and (self._reader is None or self._reader.needs_empty_line):
                    self._notes.add("the last event has no empty line after it; it is read all the same")
                self._event(name.decode("utf-8", "replace") or "message", text, begin, end)
            elif b"\n" in text and is_object(text.partition(b"\n")[0].strip(), self._max_values):
                self._event(name.decode("utf-8", "replace") or "message", text, begin, end)
            else:
                self._notes.add("the stream ends in the middle of an event, which is discarded")
        parser.end()

    def _last_lines(self, lines: Lines) -> None:
        while (line := lines.rest()) is not None:
            if lines.several:
                self._event("message", line.data, line.begin, line.end)
            else:
                self._answer(lines, line)

    def _answer(self, lines: Lines, answer: Framed) -> None:
        """Read a whole answer, or what is in it if it is no single object."""
        _, data, begin, end = answer
        try:
            value, faults = decode_bounded(data, self._max_values)
        except Undecodable as error:
            several = [] if isinstance(error, NotRead) else lines.apart(answer)
            if not several:
                self._note(error, f"the answer is {error}")
            for one in several[: self._max_events]:
                self._event("message", one.data, one.begin, one.end)
            return
        for fault in faults:
            self._notes.add(f"in the answer {fault}")
        self._begin_event()
        self._draft.source = data, value
        if not isinstance(value, dict):
            self._notes.add("the answer is no JSON object")
            self._end_event("", None, begin, end)
            return
        _, value = self._unwrapped("message", value)
        if not self._is_error("message", value):
            reader = self._reader_of("message", value)
            if reader is not None:
                reader.whole(value)
        self._end_event("", value, begin, end)

    def _event(self, name: str, data: bytes, begin: int, end: int) -> None:
        """Read an event; this is the fast path for regular ones."""
        if self._events >= self._most and not self._draft.closing:
            self._leave(name, data, begin, end)
            return
        try:
            value, faults = decode_bounded(data, self._max_values)
        except Undecodable as error:
            inner = data.strip().removeprefix(b"error:").strip()
            if data.lstrip().startswith(b"error:") and is_object(inner, self._max_values):
                self._notes.add("an error behind another field's name, which clients do not read")
                self._event("error", inner, begin, end)
            else:
                self._odd_event(name, data, begin, end, error)
            return
        draft = self._draft
        self._events = draft.event = self._events + 1
        draft.source = data, value
        if data[:1] == _MARK:
            self._notes.add(f"{self._who} begins with a byte order mark, which SDKs do not read")
        for fault in faults:
            self._notes.add(f"in {self._who} {fault}")
        if type(value) is not dict:
            self._notes.add(f"{self._who} is no JSON object")
            if (listed := listed_error(value)) is not None:
                self._value(name, listed)
            self._end_event(name, None, begin, end)
            return
        reader = self._reader
        if reader is not None and name != "error" and "error" not in value and reader.speaks(name, value):
            reader.event(name, value)
        else:
            self._value(name, value)
        if draft.trace is not None:
            self._end_event(name, value, begin, end)

    def _leave(self, name: str, data: bytes, begin: int, end: int) -> None:
        """Count an event that is one too many; it may be one of the last."""
        self._full = True
        self._left += 1
        self._last.append((name, data, begin, end))

    def _read_last(self) -> None:
        """Read why the answer ended, and its tokens, in the last of the events that were left out."""
        self._events, self._left = self._events + self._left - len(self._last), 0
        kept = self._notes, self._draft.notes
        self._notes, self._draft.notes = Notes(), Notes()  # of what was left out, there are gaps
        self._draft.closing = True
        for name, data, begin, end in self._last:
            self._event(name, data, begin, end)
        if self._reader is not None:
            self._reader.close()
        self._notes, self._draft.notes = kept

    def _odd_event(self, name: str, data: bytes, begin: int, end: int, error: Undecodable) -> None:
        """Read an event whose data is not JSON."""
        text = data.strip()
        if b"\n" in text and is_object(text.partition(b"\n")[0].strip(), self._max_values):
            self._joined_events(text, begin, end)
            return
        self._begin_event()
        value = None
        if text == _DONE:
            self._done(name, spaced=not data.startswith(_DONE))
            name = "[DONE]"
        elif name == "error" and not text.startswith(b"{"):
            self._draft.fail(data.decode("utf-8", "replace"))
        elif (value := self._repaired(data)) is not None:
            self._draft.source = data, value
            self._value(name, value)
        else:
            remark = f"{self._who} is {error}"
            if self._reader is None and self._source.events is not None and len(self._unread_first) < LAST:
                self._unread_first.append((name, remark))
            elif self._source.events is None or self._reader is None or not self._reader.skips(name):
                self._note(error, remark)
            kind = "not JSON" if str(error).startswith("not JSON") else "not read"
            self._draft.leave(kind, data[:1000].decode("utf-8", "replace"))
        self._end_event(name, value, begin, end)

    def _done(self, name: str, *, spaced: bool) -> None:
        """Read a `[DONE]` of an event called `name`, which may be `spaced` from its colon."""
        if self._source.events is not None:
            self._source.events.is_done = True
        if self._reader is not None:
            self._reader.done(name)
            if self._source.events is not None and spaced and self._reader.is_openai:
                self._notes.add("a [DONE] behind white space, at which OpenAI's SDK fails")
        elif self._draft.error is None:
            self._notes.add("a [DONE] before anything was said")

    def _repaired(self, data: bytes) -> dict[str, Any] | None:
        """The object in `data` that is JSON but for its UTF-8, which is noted."""
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            self._notes.add("invalid UTF-8, shown as \N{REPLACEMENT CHARACTER}")
            return repaired(data, self._max_values)
        return None

    def _note(self, error: Undecodable, remark: str) -> None:
        (self._draft.unchecked if isinstance(error, NotRead) else self._notes).add(remark)

    def _joined_events(self, text: bytes, begin: int, end: int) -> None:
        self._notes.add("events without an empty line between them")
        self._joined, self._draft.has_names = True, False
        for one in text.split(b"\n"):
            if one.strip() and not (self._full and self._reader is None):
                self._event("message", one.strip(), begin, end)

    def _value(self, name: str, value: dict[str, Any]) -> None:
        name, value = self._unwrapped(name, value)
        if self._is_error(name, value):
            return
        if is_ping(name, value):
            if self._reader is not None:
                self._reader.ping(value)
            return
        reader = self._reader_of(name, value)
        if reader is not None:
            reader.event(name, value)

    def _unwrapped(self, name: str, value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        name, inner = unwrapped(name, value, self._max_values)
        if inner is not value and isinstance(value.get("bytes"), str):
            self._draft.source = decode_base64(value["bytes"]), inner
        return name, inner

    def _is_error(self, name: str, value: dict[str, Any]) -> bool:
        """Whether `value` is just an error in a form that gateways use in every dialect; if so, it is recorded."""
        if (error := error_of(name, value, is_answer=self._reader is not None)) is None:
            return False
        if "type" in value and value.get("object") != "error":
            kind = value["type"]
            named = name == "error" and isinstance(value.get("message"), str)  # a field `error`, as of llama.cpp
            if kind != "error" and not named:
                return False
            reader = self._reader or self._settle(name, value)
            if kind == "error" and reader is not None and reader.dialect in _HANDLES_ERRORS:
                return False
        self._settle(name, value)
        self._draft.fail(error)
        return True

    def _settle(self, name: str, value: dict[str, Any]) -> Reader | None:
        """Choose the dialect by the first value that identifies one."""
        if self._reader is None:
            reader = reader_for(name, value)
            if reader is not None:
                self._reader = reader(self._draft)
                self._most = self._max_events
        return self._reader

    def _reader_of(self, name: str, value: dict[str, Any]) -> Reader | None:
        """The reader for `value`."""
        settled = self._reader
        reader = self._settle(name, value)
        if reader is None:
            self._unplaced = True
            self._draft.leave(type_of(value) or name, value)  # shown beside an error; without one, all bytes are
        elif settled is not None and not reader.speaks(name, value) and not value.get("error"):
            other = reader_for(name, value)
            if other is not None:
                self._notes.add(f"an event in another dialect ({other.dialect})")
        return reader

    # What each event added.

    @property
    def _who(self) -> str:
        """A description of the current event."""
        return f"{_WHAT.get(self.form, 'the data of event')} {self._events}"

    def _begin_event(self) -> None:
        self._events += 1
        self._draft.event = self._events

    def _end_event(self, name: str, value: dict[str, Any] | None, begin: int, end: int) -> None:
        draft = self._draft
        if draft.trace is None:
            return
        kind = name if name not in ("", "message") or value is None else type_of(value)
        added, draft.trace = tuple(draft.trace), []
        if len(self._steps) >= MAX_STEPS and not draft.closing:
            return
        remarks = (*self._notes.fresh(), *draft.notes.fresh(), *draft.unchecked.fresh())
        self._steps.append(Step(self._events, kind or name, begin, end, added, remarks))
