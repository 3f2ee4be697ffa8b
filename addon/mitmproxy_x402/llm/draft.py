"""An answer while it comes in: what the dialects' readers collect, and the Reading of it at any time.

Fragments are joined when somebody reads, so collecting is linear; text and items are bounded.
"""

from __future__ import annotations

from io import StringIO
from typing import Any, Literal

from ..protocol.strict_json import Undecodable, shown
from .printing import line
from .reading import Dialect, Item, Other, Reading, Reasoning, Refusal, Text, ToolCall, Usage
from .sse import Notes
from .values import count, decode, dump, has_half_character, index, joined

MAX_TEXT = 64 * 1024 * 1024
"""Characters of one answer that are kept, of all its parts together."""
MAX_ITEMS = 10_000
"""Parts of one answer that are kept."""
MAX_NAME = 1000
"""Characters of a tool's name that are kept."""

Kind = Literal["text", "reasoning", "refusal", "call", "other"]
Place = tuple[int, ...]


class Piece:
    """One part of the answer, growing."""

    def __init__(self, draft: Draft, kind: Kind, *, kept: bool = True) -> None:
        self.kind = kind
        self.id = ""
        self.name = ""
        self.tool = "function"
        """Of a call: its ToolCall.kind."""
        self.value: Any = None
        """Of another part: what it is. Its kind is `name`."""
        self.closed = False
        self.left_out = 0
        """Of another part: characters of its data that were only counted."""
        self.empty_means = ""
        """Of a call: the arguments that no fragment at all stands for."""
        self.needs_id = True
        """Of a call: whether its dialect gives every call an id."""
        self.kept = kept
        """False: there were too many parts, and nothing of this one stays."""
        self._draft = draft
        self._text = StringIO()
        self._half = ""
        self._signature = StringIO()

    def add(self, fragment: str) -> None:
        """The next fragment of its text, or of its arguments."""
        if not fragment or not self.kept or not self._draft.room(len(fragment)):
            return
        if self._half:  # JSON can cut a character in two: the second half comes with the next fragment
            fragment, self._half = joined(self._half + fragment), ""
        if "\ud800" <= fragment[-1] <= "\udbff":
            fragment, self._half = fragment[:-1], fragment[-1]
        self._text.write(fragment)

    def sign(self, fragment: str) -> None:
        """The next fragment of its signature."""
        if fragment and self.kept and self._draft.room(len(fragment)):
            self._signature.write(fragment)

    def seal(self, signature: str) -> None:
        """The whole signature; it replaces what there was."""
        self._signature = StringIO()
        self.sign(signature)

    def identify(self, identity: str) -> None:
        """Of a call: its id. The first one counts."""
        if identity and not self.id and self.kept and self._draft.room(len(identity)):
            self.id = identity

    def call(self, fragment: str) -> None:
        """Of a call: the next fragment of its name."""
        if len(self.name) + len(fragment) > MAX_NAME:
            self._draft.notes.add(f"the name of a tool is longer than {MAX_NAME} characters and is cut")
        elif self.kept and self._draft.room(len(fragment)):
            self.name += fragment

    def keep(self, kind: str, value: Any) -> None:
        """Make it another part: `value`, of the vendor's `kind`; it replaces the one before."""
        if self.kept and self._draft.room(len(dump(value))):
            self.name, self.value = kind, value

    @property
    def size(self) -> int:
        """Characters of text so far."""
        return self._text.tell() + len(self._half)

    def says(self, text: str) -> bool:
        """Whether its text is `text`; the work is bounded by the length of that."""
        return self.size == len(text) and self.text == text

    def so_far(self) -> Any:
        """Of another part: its value, or what there is while that has not come."""
        if self.value is not None or not (self.size or self.left_out):
            return self.value
        return {"text": self.text, **({"characters_left_out": self.left_out} if self.left_out else {})}

    @property
    def text(self) -> str:
        """All fragments so far."""
        return self._text.getvalue() + self._half

    @property
    def signature(self) -> str:
        """All fragments of the signature so far."""
        return self._signature.getvalue()


class Draft:
    """What is known of an answer so far."""

    def __init__(self, max_text: int = MAX_TEXT, max_items: int = MAX_ITEMS) -> None:
        self.notes = Notes()
        self.model: str | None = None
        self.id: str | None = None
        self.error: str | None = None
        self._pieces: dict[tuple[int, Place], Piece] = {}
        self._stops: dict[int, str] = {}
        self._usage: dict[str, int] = {}
        self.max_items = max_items
        self._max_text = max_text
        self._size = 0

    def room(self, size: int) -> bool:
        """Whether `size` more characters fit. Notes it where not."""
        if self._size + size > self._max_text:
            self.notes.add(f"more than {self._max_text} characters: what is beyond is left out")
            return False
        self._size += size
        return True

    def piece(self, choice: int, place: Place, kind: Kind) -> Piece:
        """The part at `place` (parts are sorted by it), a new one of `kind` where there is none."""
        piece = self._pieces.get((choice, place))
        if piece is not None:
            return piece
        if len(self._pieces) >= self.max_items:
            self.notes.add(f"more than {self.max_items} parts: what is beyond is left out")
            return Piece(self, kind, kept=False)
        piece = self._pieces[choice, place] = Piece(self, kind)
        return piece

    def words(self, value: Any, what: str) -> str:
        """`value` where it is text; None is none, and anything else is noted."""
        if isinstance(value, str):
            return value
        if value is not None:
            self.notes.add(f"{what} that is no text")
        return ""

    def index(self, value: Any, what: str) -> int:
        """`value` where it can be an index, otherwise 0, which is noted."""
        number = index(value)
        if number is None:
            self.notes.add(f"{what} without a usable index, taken as 0")
        return number or 0

    def name(self, model: Any, identity: Any) -> None:
        """The answer's model and id, where they are said; the first ones count."""
        if isinstance(model, str) and model:
            if self.model not in (None, model):
                self.notes.add(f"the model changes from {shown(self.model)} to {shown(model)}")
            self.model = self.model or model
        if isinstance(identity, str) and identity:
            if self.id not in (None, identity):
                self.notes.add("the answer's id changes")
            self.id = self.id or identity

    def stop(self, choice: int, reason: Any) -> None:
        """Why `choice` ended."""
        if not isinstance(reason, str):
            self.notes.add(f"a stop reason that is no text: {line(dump(reason), 60)}")
        elif choice in self._stops:
            self.notes.add("a choice is finished twice")
        elif len(self._stops) < self.max_items:
            self._stops[choice] = reason[:200]

    def stopped(self, choice: int) -> str | None:
        """Why `choice` ended; None: it has not."""
        return self._stops.get(choice)

    @property
    def all_stopped(self) -> bool:
        """Whether every choice of which there is a part has ended, and at least one."""
        return bool(self._stops) and all(choice in self._stops for choice, _ in self._pieces)

    def fail(self, error: str) -> None:
        """The vendor reports `error`."""
        if self.error is not None and self.error != error:
            self.notes.add(f"a further error: {error}")
        self.error = self.error or error

    def use(self, **tokens: Any) -> None:
        """Numbers of tokens, under the names of Usage's fields; later ones replace earlier ones, None says nothing."""
        for name, value in tokens.items():
            number = count(value)
            if number is not None:
                self._usage[name] = number
            elif value is not None:
                self.notes.add(f"a number of tokens that is none: {line(dump(value), 60)}")

    def reading(self, dialect: Dialect, events: int, complete: bool, remarks: list[str], ended: bool) -> Reading:
        """What there is. `remarks` are put before its own; `ended`: what is unfinished now stays so."""
        late = Notes()
        items = tuple(self._items(late, ended))
        reasons = [reason for _, reason in sorted(self._stops.items())]
        usage = dict(self._usage)
        if "input" in usage and "output" in usage:
            usage.setdefault("total", usage["input"] + usage["output"])
        return Reading(
            dialect,
            self.model,
            self.id,
            items,
            Usage(**usage),
            ", ".join(reasons) if reasons else None,
            self.error,
            events,
            (*remarks, *self.notes.texts(), *late.texts()),
            complete and self.error is None,
        )

    def _items(self, notes: Notes, ended: bool) -> list[Item]:
        items: list[Item] = []
        calls = 0
        for (choice, _), piece in sorted(self._pieces.items(), key=lambda entry: entry[0]):
            text = piece.text
            if ended and has_half_character(text):
                notes.add("half of a surrogate pair stands alone")
            if piece.kind == "text":
                items.append(Text(text, choice))
            elif piece.kind == "reasoning":
                items.append(Reasoning(text, choice, piece.signature))
            elif piece.kind == "refusal":
                items.append(Refusal(text, choice))
            elif piece.kind == "other":
                items.append(Other(piece.name, piece.so_far(), choice))
            else:
                calls += 1
                remarks = notes if ended else Notes()
                items.append(_call(piece, text, choice, calls, remarks))
        return [item for item in items if not _is_empty(item)]


def _is_empty(item: Item) -> bool:
    return isinstance(item, (Text, Reasoning, Refusal)) and not item.text and not getattr(item, "signature", "")


def _call(piece: Piece, text: str, choice: int, number: int, notes: Notes) -> ToolCall:
    who = f"tool call {number}"
    if not piece.name:
        notes.add(f"{who} has no name")
    if piece.needs_id and not piece.id:
        notes.add(f"{who} has no id")
    text = text or piece.empty_means
    parsed = _arguments(text, who, notes) if piece.tool != "custom" else None
    return ToolCall(piece.id, piece.name, text, parsed, choice, piece.tool)


def _arguments(text: str, who: str, notes: Notes) -> Any:
    if not text:
        notes.add(f"{who} has no arguments at all, not even {{}}, which is what they are taken for")
        return {}
    try:
        parsed, faults = decode(text)
    except Undecodable as error:
        notes.add(f"{who}: its arguments are {error}")
        return None
    for fault in faults:
        notes.add(f"{who}: in its arguments {fault}")
    if not isinstance(parsed, dict):
        notes.add(f"{who}: its arguments are no JSON object")
    return parsed
