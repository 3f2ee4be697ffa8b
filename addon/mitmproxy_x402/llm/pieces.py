"""Collects the fragments of one part of an answer (a text, a call's arguments), within a bound for all parts."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from io import SEEK_END, StringIO
from typing import Any, Literal

from .printing import line, shortened
from .reading import Added, Differing
from .sse import Notes
from .values import dump, joined, says_something

MAX_NAME = 1000
"""Most characters of a tool's name."""
MAX_ORIGINS = 50_000
"""Most fragments of one call whose events are remembered; further ones are attributed to the last."""

MAX_FURTHER = 20
"""Most further keys of one call that are kept."""
MAX_DIFFERING = 20
"""Most parts of which both is kept, what their fragments said and the whole."""
MAX_SLOTS = 100
"""Most fragmented texts within one part of another kind."""

Kind = Literal["text", "reasoning", "refusal", "call", "citation", "other"]
Place = tuple[int, ...]
Path = tuple[str | int, ...]


class Space:
    """Bounds the text of one answer, and collects remarks on it."""

    def __init__(self, max_text: int, max_items: int, *, traced: bool) -> None:
        self.notes = Notes()
        self.event = 0
        """Number of the current event."""
        self.trace: list[Added] | None = [] if traced else None
        """What the current event has added; None: not traced."""
        self.max_items = max_items
        self.closing = False
        """Whether only what is said of the whole answer is taken from now on: not all of it was read."""
        self.differing: list[Differing] = []
        self._max_text = max_text
        self._size = 0

    def fits(self, size: int) -> bool:
        """Whether there is room for `size` characters."""
        return self._size + size <= self._max_text

    def room(self, size: int) -> bool:
        """Whether `size` more characters fit. Notes it if they do not."""
        if self.take(size):
            return True
        if not self.closing:
            self.notes.add(f"more than {self._max_text} characters: the rest is left out")
        return False

    def take(self, size: int) -> bool:
        """Whether `size` more characters fit, which they take."""
        if self.closing or self._size + size > self._max_text:
            return False
        self._size += size
        return True

    def fitting(self, text: str) -> str:
        """The beginning of `text`, as far as it fits. Notes it if that is not all."""
        left = 0 if self.closing else self._max_text - self._size
        return text if self.room(len(text)) else text[:left] if left > 0 and self.take(left) else ""

    def differ(self, piece: Piece, other: str, shown: str = "fragments") -> None:
        """Keep what is not `shown` of a `piece` that was said twice: its `fragments` or the `whole`."""
        name = " ".join(filter(None, (piece.kind if piece.kind != "call" else "call of", piece.name)))
        what = f"{name}{f', id {piece.id}' if piece.id else ''}"
        shows = "; the whole is shown" if shown == "whole" else ", which are shown"
        self.notes.add(f"{line(what)}: the whole is not what its fragments said{shows}")
        found = Differing(what, shown, other, self.event)
        known = any((one.what, one.other) == (found.what, found.other) for one in self.differing)
        if not known and len(self.differing) < MAX_DIFFERING and self.room(len(other)):
            self.differing.append(found)

    def told(self, added: Added) -> None:
        """Record what the current event `added`."""
        if self.trace is not None and len(self.trace) < self.max_items:
            self.trace.append(added)


class Piece:
    """One part of the answer as it grows."""

    def __init__(self, space: Space, kind: Kind, choice: int, number: int, *, kept: bool = True) -> None:
        self.kind = kind
        self.choice = choice
        self.number = number
        self.id = ""
        self.name = ""
        self.tool = "function"
        """Of a call: its ToolCall.kind."""
        self.value: Any = None
        """Of another part: what it is. Its kind is `name`."""
        self.closed = False
        """Whether its end has come."""
        self.cut = False
        """Whether there was no room for some of its text."""
        self.left_out = 0
        """Of another part: characters of its data that were only counted."""
        self.empty_means = ""
        """Of a call: the arguments that no fragment at all stands for."""
        self.needs_id = True
        """Of a call: whether its dialect gives every call an id."""
        self.further: dict[str, Any] = {}
        """Of a call: what its vendor says of it under other keys."""
        self.hints: list[str] = []
        """Of a call whose arguments come by paths: these parts as JSON, as they came."""
        self.slots: dict[Path, StringIO] = {}
        """Of another part: its fragments, by where in its value they belong."""
        self.kept = kept
        """False: there were too many parts, and nothing of this one stays."""
        self._space = space
        self._text = StringIO()
        self._half = ""
        self._signature = StringIO()
        self._begins = array("L")
        self._events = array("L")

    def add(self, fragment: str) -> None:
        """Add a fragment of its text or arguments."""
        space = self._space
        if not fragment or not self.kept:
            return
        if not space.take(len(fragment)):
            fragment, self.cut = space.fitting(fragment), True
            if not fragment:
                return
        if space.trace is not None:
            self._told("arguments" if self.kind == "call" else self.name or self.kind, fragment)
        if self.kind == "call" and len(self._begins) < MAX_ORIGINS:
            self._begins.append(self._text.tell() + len(self._half))
            self._events.append(space.event)
        if self._half:  # JSON can cut a character in two: the second half comes with the next fragment
            fragment, self._half = joined(self._half + fragment), ""
        if "\ud800" <= fragment[-1] <= "\udbff":
            fragment, self._half = fragment[:-1], fragment[-1]
        self._text.write(fragment)

    def replace(self, text: str) -> None:
        """Replace its text by `text`."""
        self._text, self._half = StringIO(), ""
        self._begins, self._events = array("L"), array("L")
        self.add(text)

    def sign(self, fragment: str) -> None:
        """Add a fragment of its signature."""
        if fragment and self.kept and self._space.room(len(fragment)):
            self._signature.write(fragment)
            if self._space.trace is not None:
                self._told("signature", fragment)

    def seal(self, signature: str) -> None:
        """Replace its signature."""
        self._signature = StringIO()
        self.sign(signature)

    def identify(self, identity: str) -> None:
        """Set a call's id; the first one counts."""
        if identity and not self.id and self.kept and self._space.room(len(identity)):
            self.id = identity

    def call(self, fragment: str) -> None:
        """Add a fragment of a call's name."""
        if len(self.name) + len(fragment) > MAX_NAME:
            self._space.notes.add(f"the name of a tool is longer than {MAX_NAME} characters and is cut")
        elif fragment and self.kept and self._space.room(len(fragment)):
            self.name += fragment
            if self._space.trace is not None:
                self._told("tool call", fragment)

    def beside(self, said: dict[str, Any], known: frozenset[str]) -> None:
        """Keep what a call says under keys that are not `known`."""
        if said.keys() <= known:
            return
        for key, value in said.items():
            if key in known or not says_something(value) or self.further.get(key) == value:
                continue
            if len(self.further) < MAX_FURTHER and self.kept and self._space.room(len(dump(value))):
                self.further[key[:100]] = value
                if self._space.trace is not None:
                    self._told(key, dump(value))

    def keep(self, kind: str, value: Any) -> None:
        """Make it a part of another kind, with `value` and the vendor's `kind`."""
        if not self.kept:
            return
        if not self._space.fits(len(dump(value))):  # a picture, then: how large it is can still be told
            value = shortened(value)
        if self._space.room(len(dump(value))):
            self.name, self.value = kind, value
            if self._space.trace is not None:
                self._told(kind, dump(value)[:200])

    def settle(self, text: str) -> None:
        """Set a call's arguments, whose parts have all been traced."""
        trace, self._space.trace = self._space.trace, None
        self.add(text)
        self._space.trace = trace

    def hint(self, part: Any) -> bool:
        """Keep a part of a call's arguments to be placed later. Returns False if there is no room."""
        text = dump(part)
        if not self.kept or not self._space.room(2 * len(text)):  # once as it came, and once in its place
            self.cut = True
            return False
        self.hints.append(text)
        if self._space.trace is not None:
            self._told("arguments", text)
        return True

    def put(self, path: Path, fragment: str) -> None:
        """Add a fragment of the text at `path` in the value of a part of another kind."""
        if not fragment or not self.kept or not self._space.room(len(fragment)):
            return
        text = self.slots.get(path)
        if text is None:
            if len(self.slots) >= MAX_SLOTS:
                return
            text = self.slots[path] = StringIO()
        text.write(fragment)
        if self._space.trace is not None:
            self._told(".".join(str(step) for step in (self.name, *path)), fragment)

    def forget(self) -> None:
        """Drop the fragments of another part, whose whole value has come."""
        for path, text in self.slots.items():
            whole = _at(self.value, path)
            if isinstance(whole, str) and whole != text.getvalue():
                self._space.differ(self, text.getvalue(), "whole")
        self.slots.clear()

    def _told(self, what: str, text: str) -> None:
        self._space.told(Added(what, text, self.number, self.name if self.kind == "call" else "", self.choice))

    @property
    def size(self) -> int:
        """Characters of text so far."""
        return self._text.tell() + len(self._half)

    def says(self, text: str) -> bool:
        """Whether its text is `text`; the work is bounded by the length of that."""
        return self.size == len(text) and self.text == text

    def so_far(self) -> Any:
        """The value of another part, with the fragments so far in place."""
        said: dict[str, Any] = {"text": self.text} if self.size else {}
        if self.left_out:
            said = {"text": self.text, "characters_left_out": self.left_out}
        value = self.value
        if said:
            value = {**value, **said} if isinstance(value, dict) else said if value is None else value
        for path, text in self.slots.items():
            value = _within(value if isinstance(value, dict) else {}, path, text.getvalue())
        return value

    @property
    def text(self) -> str:
        """All fragments so far."""
        return self._text.getvalue() + self._half

    def since(self, position: int, size: int) -> str:
        """At most `size` characters of its text from `position` on; the work is bounded by that."""
        self._text.seek(position)
        found = self._text.read(size)
        self._text.seek(0, SEEK_END)
        return found + self._half if len(found) < size else found

    @property
    def signature(self) -> str:
        """All fragments of the signature so far."""
        return self._signature.getvalue()

    def origin(self, position: int) -> int | None:
        """Number of the event that brought the character at `position` of a call's arguments, or the last before it."""
        at = bisect_right(self._begins, position) - 1
        return self._events[at] if at >= 0 else None


def _at(value: Any, path: Path) -> Any:
    """The value at `path` in `value`; None: there is none."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(str(step))
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _within(value: dict[str, Any], path: Path, said: Any) -> dict[str, Any]:
    """A copy of `value` with `said` at `path`."""
    first, rest = path[0], path[1:]
    inner = value.get(str(first))
    if not rest:
        return {**value, str(first): said}
    return {**value, str(first): _within(inner if isinstance(inner, dict) else {}, rest, said)}
