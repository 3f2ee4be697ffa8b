"""Collects an answer as it arrives, and returns its Reading at any time.

Fragments are joined only when it is read, so collecting takes linear time; text and items are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..protocol.strict_json import shown
from .calls import Calls
from .pieces import MAX_NAME, Kind, Piece, Place, Space
from .printing import error_details, error_line, line
from .reading import Added, Citation, Detail, Dialect, Item, Other, Reading, Reasoning, Refusal, Text, Usage
from .sse import Notes
from .values import (
    MAX_COUNT,
    count,
    decimal,
    dump,
    has_half_character,
    index,
    oddity,
    says_something,
)
from .written import may_be_rewritten, twins

MAX_TEXT = 64 * 1024 * 1024
"""Characters of one answer that are kept, of all its parts together."""
MAX_ITEMS = 10_000
"""Parts of one answer that are kept."""
MAX_SEQUENCE = 50_000
"""Elements of one array in an answer that are read."""
MAX_DETAILS = 50
"""Details of errors and ends that are kept."""
MAX_TOLD = 10_000
"""Characters of one detail that is kept of the end of an answer that is not read as a whole."""
MAX_UNREAD = 20
"""Most unknown types of events of which a sample is kept."""
_DIGITS = re.compile(r"\s*([0-9]{1,20})(?:\.0*)?\s*", re.ASCII)
"""Text that SDKs in Python take for a whole number."""
_INDEX = re.compile("[0-9]{1,6}")
_CALLING = {"tool_calls", "tool_call", "function_call", "tool_use"}
"""Stop reasons, in small letters, that say that a tool is called."""
_LIMITS = {
    *("length", "max_tokens", "max_output_tokens", "max_length"),
    *("model_length", "model_context_window_exceeded"),
}
"""Stop reasons, in small letters, that say that there was no room for more tokens."""


class Draft(Space):
    """What is known of an answer so far."""

    def __init__(self, max_text: int = MAX_TEXT, max_items: int = MAX_ITEMS, *, traced: bool = False) -> None:
        super().__init__(max_text, max_items, traced=traced)
        self._unread: dict[str, tuple[int, str]] = {}
        self.unchecked = Notes()
        """What may be all right, and is more than is read."""
        self.model: str | None = None
        self.id: str | None = None
        self.error: str | None = None
        self.has_names = False
        """Whether events may have names: they are server-sent."""
        self.numbers_may_be_text = False
        """Whether numbers of tokens may come as text, as Google's JSON of 64-bit numbers has them."""
        self.source: tuple[bytes, Any] = (b"", None)
        """The current event: its bytes, and what they were decoded to."""
        self._twins: tuple[object, dict[int, Any]] = (None, {})
        self._pieces: dict[tuple[int, Place], Piece] = {}
        self._choices: set[int] = set()
        self._other_ids: set[str] = set()
        self._stops: dict[int, str] = {}
        self._usage: dict[str, int] = {}
        self._cost: str | None = None
        self._details: list[Detail] = []
        self._cited: set[Citation] = set()

    def piece(self, choice: int, place: Place, kind: Kind) -> Piece:
        """The part at `place` (by which parts are sorted), or a new one of `kind`."""
        piece = self._pieces.get((choice, place))
        if piece is not None:
            return piece
        if self.closing:
            return Piece(self, kind, choice, 0, kept=False)
        if len(self._pieces) >= self.max_items:
            self.notes.add(f"more than {self.max_items} parts: the rest is left out")
            return Piece(self, kind, choice, 0, kept=False)
        piece = self._pieces[choice, place] = Piece(self, kind, choice, len(self._pieces) + 1)
        self._choices.add(choice)
        return piece

    def find(self, choice: int, place: Place) -> Piece | None:
        """The part at `place`, if it has begun."""
        return self._pieces.get((choice, place))

    def pieces(self) -> list[Piece]:
        """All parts so far, in their order."""
        return [piece for _, piece in sorted(self._pieces.items(), key=lambda entry: entry[0])]

    def empty(self) -> Draft:
        """An empty draft with the same bounds, for what the current event says of the whole answer."""
        draft = Draft(self._max_text, self.max_items)
        draft.event, draft.source = self.event, self.source
        return draft

    def close(self, choice: int, place: Place) -> None:
        """The end of the part at `place` has come, if it has begun."""
        piece = self.find(choice, place)
        if piece is not None:
            piece.closed = True

    def said_anything(self, choice: int) -> bool:
        """Whether there is a part of `choice`."""
        return choice in self._choices

    def cite(self, choice: int, place: Place, citation: Citation) -> None:
        """Add a citation, unless it is there already."""
        citation = replace(citation, choice=choice)
        if citation in self._cited:
            return
        piece = self.piece(choice, (*place, len(self._cited)), "citation")
        if piece.kept and self.room(len(citation.title) + len(citation.source) + len(citation.quote)):
            self._cited.add(citation)
            piece.value = citation
            if self.trace is not None:
                words = (citation.title, citation.source, citation.quote)
                self.told(Added("citation", "  ".join(word for word in words if word), piece.number, choice=choice))

    def words(self, value: Any, what: str) -> str:
        """`value` if it is text, else empty text; notes what anything but None is, and how large."""
        if isinstance(value, str):
            return value
        if value is not None:
            said = dump(value)
            size = f" ({len(said):,} characters of JSON)" if len(said) > 60 else ""
            self.notes.add(f"{what} that is no text: {line(said, 60)}{size}")
        return ""

    def name_call(self, piece: Piece, value: Any, *, joined: bool = False) -> None:
        """Set the name of a call, which comes once. Notes one that comes again.

        `joined`: whether the SDK joins what comes later to what came first; otherwise the first name counts.
        """
        name = self.words(value, "the name of a tool")
        if name and name == piece.name:
            self.notes.add("the name of a tool call comes again")
        elif joined:
            if name and piece.name:
                both = f"{shown(piece.name)} and {shown(name)}"
                self.notes.add(f"the name of a tool call comes in fragments, {both}, which are joined")
            piece.call(name)
        else:
            self.name_whole_call(piece, name)

    def name_whole_call(self, piece: Piece, value: Any) -> None:
        """Set the name of a call, or note that a whole call has another one than its fragments."""
        name = self.words(value, "the name of a tool")
        if not piece.name:
            piece.call(name)
        elif name and name[:MAX_NAME] != piece.name:
            self.notes.add(f"the name of a tool call changes from {shown(piece.name)} to {shown(name)}")

    def arguments(self, value: Any) -> str:
        """`value` if it is text, JSON as text (which it should have been, as is noted), else as `words`."""
        if isinstance(value, (dict, list)):
            self.notes.add("arguments of a tool call that are JSON, not text with JSON in it")
            return dump(self.written(value))
        return self.words(value, "arguments")

    def written(self, value: Any) -> Any:
        """`value`, which stands in the current event, with the numbers in it as they were written."""
        if not may_be_rewritten(value):
            return value
        if self._twins[0] is not self.source:
            self._twins = self.source, twins(*self.source)
        return self._twins[1].get(id(value), value)

    def mapping(self, value: Any, what: str) -> dict[str, Any]:
        """`value` if it is an object, else an empty one; notes what is lost by that."""
        if type(value) is dict:
            return value
        if value:
            self.notes.add(f"{what} that is no object: {line(dump(value), 60)}")
        return {}

    def sequence(self, value: Any, what: str) -> list[Any]:
        """`value` if it is an array, else an empty one; notes what is lost by that."""
        if type(value) is list:
            if len(value) > MAX_SEQUENCE:
                self.notes.add(f"{what}: only the first {MAX_SEQUENCE:,} of {len(value):,} are read")
            return value[:MAX_SEQUENCE]
        if value:
            self.notes.add(f"{what} that is no array: {line(dump(value), 60)}")
        return []

    def index(self, value: Any, what: str, otherwise: int = 0) -> int:
        """`value` if it is an index, `otherwise` if it is missing; notes anything else."""
        number = index(value)
        if number is None and isinstance(value, str) and _INDEX.fullmatch(value):  # as Google's numbers of 64 bits
            number = index(int(value))
            if not self.numbers_may_be_text:
                self.notes.add(f"{what} with an index that is text")
        if number is None and value is not None:
            self.notes.add(f"{what} without a usable index, taken as {otherwise}")
        return otherwise if number is None else number

    def name(self, model: Any, identity: Any = None) -> None:
        """Set the answer's model and id; the first ones count."""
        if isinstance(model, str) and model and model != self.model:
            if self.model is not None:
                self.notes.add(f"the model changes from {shown(self.model)} to {shown(model)}")
            else:
                self.told(Added("model", model))
            self.model = self.model or model[:1000]
        if isinstance(identity, str) and identity and identity != self.id:
            if self.id is not None and len(self._other_ids) < 2:
                self._other_ids.add(identity[:1000])
            self.id = self.id or identity[:1000]

    def goes_on_by(self, model: Any) -> None:
        """Set the model that finishes the answer in place of the first one."""
        if isinstance(model, str) and model:
            self.told(Added("model", model))
            self.model = model[:1000]

    def stop(self, choice: int, reason: Any, *, last: bool = False) -> None:
        """Set why `choice` ended. `last`: this reason replaces an earlier one."""
        if not isinstance(reason, str):
            self.notes.add(f"a stop reason that is no text: {line(dump(reason), 60)}")
            return
        before = self._stops.get(choice)
        if before == reason[:200]:
            return
        if before is not None and not last:
            self.notes.add(f"a choice is finished twice, as {shown(before)} and as {shown(reason)}")
        if before is not None or len(self._stops) < self.max_items:
            self._stops[choice] = reason[:200]
            self.told(Added("stop", reason[:200], choice=choice))

    def stopped(self, choice: int) -> str | None:
        """Why `choice` ended; None: it has not."""
        return self._stops.get(choice)

    @property
    def any_stopped(self) -> bool:
        """Whether any choice has ended."""
        return bool(self._stops)

    @property
    def all_stopped(self) -> bool:
        """Whether there is at least one choice, and all have ended."""
        return bool(self._stops) and self._choices <= self._stops.keys()

    def detail(self, name: str, value: Any) -> None:
        """Add further information; null, empty and zero values are left out."""
        if not says_something(value) or len(self._details) >= MAX_DETAILS:
            return
        if not (len(dump(value)) <= MAX_TOLD if self.closing else self.room(len(dump(value)))):
            return
        detail = Detail(name[:100], value)
        if detail not in self._details:
            self._details.append(detail)
            self.told(Added(detail.name, line(dump(value))))

    def fail(self, error: Any) -> None:
        """Record the error that the vendor reports, in any form."""
        said = error_line(error)
        if self.error is not None and self.error != said:
            self.notes.add(f"a further error: {said}")
        if self.error is None:
            self.error = said
            self.told(Added("error", said))
        for name, value in error_details(error):
            self.detail(name, value)

    def tokens(self, value: Any) -> int | None:
        """`value` as a number of tokens; None: it is none. Notes what is odd about it."""
        number = count(value)
        if number is None and isinstance(value, str) and (digits := _DIGITS.fullmatch(value)):
            number = count(int(digits[1]))
            if number is not None and not self.numbers_may_be_text:
                self.notes.add(f"a number of tokens that is text: {line(dump(value), 60)}")
        if number is None and value is not None:
            self.notes.add(f"a number of tokens that {oddity(value)}: {line(dump(value), 60)}")
        return number

    def use(self, **tokens: Any) -> None:
        """Set numbers of tokens, by the fields of Usage; later ones replace earlier ones, None is ignored."""
        for name, value in tokens.items():
            if value is None:
                continue
            number = value if type(value) is int and 0 <= value <= MAX_COUNT else self.tokens(value)
            if number is None:
                continue
            if self._usage.get(name) != number:
                self._usage[name] = number
                if self.trace is not None:
                    self.told(Added("usage", f"{name} {number:,}"))

    def charge(self, dollars: Any) -> None:
        """Set the cost that the vendor reports, in US dollars."""
        said = decimal(dollars)
        if said is not None and said != self._cost:
            self._cost = said
            self.told(Added("usage", f"cost {said} USD"))

    def leave(self, kind: str, value: Any) -> None:
        """Keep the beginning of an event of an unknown type, once for each type."""
        name = line(kind, 60)
        number, sample = self._unread.get(name, (0, ""))
        if number or len(self._unread) < MAX_UNREAD:
            self._unread[name] = (number + 1, sample or line(dump(value), 160))

    def reading(self, dialect: Dialect, events: int, complete: bool, remarks: list[str], ended: bool) -> Reading:
        """The Reading so far. `remarks` come before its own; `ended`: nothing more will arrive."""
        late, unchecked = Notes(), Notes()
        if len(self._other_ids) == 1:  # two answers in one stream, perhaps; some vendors have one for every event
            late.add("the answer's id changes")
        items = tuple(self._items(late, unchecked, ended, complete))
        if ended and self.error is None and not self.closing:
            self._missing_calls(late)
        reasons = [reason for _, reason in sorted(self._stops.items())]
        usage = dict(self._usage)
        if "input" in usage and "output" in usage:
            usage.setdefault("total", usage["input"] + usage["output"])
        return Reading(
            dialect,
            self.model,
            self.id,
            items,
            Usage(**usage, cost=self._cost),
            ", ".join(reasons) if reasons else None,
            self.error,
            events,
            (*remarks, *self.notes.texts(), *late.texts()),
            complete and self.error is None,
            details=tuple(self._details),
            differing=tuple(self.differing),
            unchecked=(*self.unchecked.texts(), *unchecked.texts()),
            unread=tuple(
                f"{kind}{f' ({number} times)' if number > 1 else ''}: {sample}"
                for kind, (number, sample) in self._unread.items()
            ),
        )

    def _missing_calls(self, notes: Notes) -> None:
        """Note a choice that ended with a tool call but has none: clients then wait, or end without an error."""
        if self._unread or len(self._pieces) >= self.max_items:  # then it may be among what was not read
            return
        calling = {piece.choice for piece in self._pieces.values() if piece.kind in ("call", "other")}
        for choice, reason in self._stops.items():
            if choice not in calling and reason.lower() in _CALLING:
                notes.add(f"a choice is finished as {shown(reason)}, and there is no tool call in it")

    def _items(self, notes: Notes, unchecked: Notes, ended: bool, complete: bool) -> Iterable[Item]:
        ordered = sorted(self._pieces.items(), key=lambda entry: entry[0])
        last = {choice: piece for (choice, _), piece in ordered if piece.kind != "citation"}
        limits = {choice: reason for choice, reason in self._stops.items() if reason.lower() in _LIMITS}
        calls = Calls(notes, unchecked, ended=ended, partly=self.closing)
        for (choice, _), piece in ordered:
            if piece.kind == "citation":
                if piece.value is not None:
                    yield piece.value
                continue
            if piece.kind == "other":
                if piece.name or piece.value is not None or piece.size:
                    yield Other(piece.name, piece.so_far(), choice)
                continue
            text = piece.text
            if ended and has_half_character(text):
                notes.add("half of a surrogate pair stands alone")
            if piece.kind == "call":
                begun = complete or piece.closed or choice in self._stops
                yield calls.next(piece, text, begun=begun, limit=limits.get(choice), last=piece is last[choice])
            elif piece.kind == "reasoning":
                if text or piece.signature:
                    yield Reasoning(text, choice, piece.signature)
            elif text:
                yield Text(text, choice) if piece.kind == "text" else Refusal(text, choice)
