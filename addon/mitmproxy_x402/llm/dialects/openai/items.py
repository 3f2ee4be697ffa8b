"""Reads the items of a response: messages, reasoning, calls and others, in fragments and as wholes that must agree."""

from __future__ import annotations

from typing import Any

from ...draft import Draft
from ...pieces import Kind, Path, Piece
from ...values import count, mapping, sequence, string
from ..citations import citation_of
from ..needed import NeededBy

ENDS = {"completed", "incomplete", "failed", "cancelled"}
"""States after which nothing more comes."""
FRAGMENTS: dict[str, tuple[Kind, int, str]] = {
    "output_text": ("text", 0, "content_index"),
    "text": ("text", 0, "content_index"),
    "refusal": ("refusal", 0, "content_index"),
    "reasoning_summary_text": ("reasoning", 0, "summary_index"),
    "reasoning_summary": ("reasoning", 0, "summary_index"),
    "reasoning_text": ("reasoning", 1, "content_index"),
    "function_call_arguments": ("call", 0, ""),
    "mcp_call_arguments": ("call", 0, ""),
    "custom_tool_call_input": ("call", 0, ""),
}
"""What comes as response.X.delta and response.X.done: the part, and where it stands within its item."""
_IN_CALLS = frozenset(("type", "id", "call_id", "name", "arguments", "input", "status", "output", "error"))
_BROKEN_OFF = ("failed", "incomplete")
"""States of a call that are told; that it is running, or completed, goes without saying."""
_STEPS = ("searching", "interpreting", "generating", "completed", "failed")
_CALLS = {"function_call": "arguments", "custom_tool_call": "input", "mcp_call": "arguments"}
"""Kinds of items that are calls, and the key of what they are called with."""
_WHOLE = ("text", "refusal", "arguments", "input")
"""Keys of all that the fragments of a part have said."""
_CITED, _OTHER, _CHANGED = 1_000, 2, 3
_NEAR = 16
"""Indexes at which a part is looked for that is not at its own."""
NEEDED = NeededBy(
    "OpenAI's SDK fails",
    {
        **dict.fromkeys((f"response.{state}" for state in ("created", *ENDS)), (("response", dict),)),
        "response.output_text.delta": (("output_index", int), ("content_index", int), ("delta", str)),
        "response.function_call_arguments.delta": (("output_index", int), ("delta", str)),
        "response.content_part.added": (("output_index", int), ("part", dict)),
        "response.output_item.done": (("item", dict),),
        "begin of a message": (("content", list),),
        "begin of a function_call": (("arguments", str),),
        "begin of an output_text": (("text", str),),
    },
)
PARTS = {"content_part": "content_index", "reasoning_summary_part": "summary_index", "reasoning_part": "content_index"}
"""Events that begin or end a part, which may have text then: what its place is under."""
_TEXTS: dict[tuple[str, str], tuple[Kind, int, str]] = {
    ("content_part", "output_text"): ("text", 0, "text"),
    ("content_part", "text"): ("text", 0, "text"),
    ("content_part", "refusal"): ("refusal", 0, "refusal"),
    ("content_part", "reasoning_text"): ("reasoning", 1, "text"),
    ("reasoning_part", "reasoning_text"): ("reasoning", 1, "text"),
    ("reasoning_summary_part", "summary_text"): ("reasoning", 0, "text"),
}
"""By such an event and the type of its part: what it is, where it stands within its item, and the key of its text."""
_SAID = {"output_text": ("text", "text"), "text": ("text", "text"), "refusal": ("refusal", "refusal")}
"""Types of a message's parts that are text: what they are, and the key of it."""
_OF_EVENTS = ("type", "item_id", "output_index", "sequence_number")
_SOUNDS = ("audio", "output_audio")
MAX_LEFT_OUT = 10_000
"""Most fragments that are kept of those that seemed to come twice."""


class Items:
    """The items of one response."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.kinds: dict[int, str] = {}
        """Types of the items that have begun, by their indexes."""
        self.resumed = False
        """Whether the stream begins in the middle: what came before was sent to somebody else."""
        self.by_id: dict[str, int] = {}
        self._astray: set[int] = set()
        """Indexes of items that have not begun, under which fragments came."""
        self._ids: dict[int, tuple[str, Any]] = {}
        """Type and id that an item began with."""
        self._left_out: dict[Piece, list[tuple[int, str]]] = {}
        """Fragments that seemed to come twice, and where in the text they would stand."""
        self._left = MAX_LEFT_OUT

    def place(self, value: dict[str, Any], item: dict[str, Any] | None = None) -> int:
        """The index of the item that an event is about: as given, or that of the item's id."""
        identity = string((item or {}).get("id")) or string(value.get("item_id"))
        given = value.get("output_index")
        if type(given) is not int and identity:
            return self.by_id.setdefault(identity, len(self.kinds))
        number = self.draft.index(given, "an item")
        if identity and len(self.by_id) < self.draft.max_items:
            self.by_id.setdefault(identity, number)
        return number

    def begin_or_end(self, value: dict[str, Any], *, done: bool) -> None:
        """Read the event at the begin or the end of an item."""
        item = self.draft.mapping(value.get("item"), "an item")
        number = self.place(value, item)
        self._check(number, item, done=done)
        self.item(number, item, done=done)

    def _check(self, number: int, item: dict[str, Any], *, done: bool) -> None:
        """Note what the SDK fails at where an item begins, and where it ends as another one."""
        kind, identity = string(item.get("type")), item.get("id")
        if not done:
            NEEDED.note(f"begin of a {kind}", item, self.draft.notes)
            if len(self._ids) < self.draft.max_items:
                self._ids[number] = kind, None if kind in _CALLS and kind != "mcp_call" else identity
        elif number in self._ids and self._ids[number] not in ((kind, None), (kind, identity)):
            self.draft.notes.add("the id or type of an item is another one at its end, at which OpenAI's SDK fails")

    def part(self, what: str, step: str, value: dict[str, Any]) -> None:
        """Read the begin or the end of a part, with the text that it has by then."""
        number, place = self.place(value), self.draft.index(value.get(PARTS[what]), "a part")
        part = mapping(value.get("part"))
        found = _TEXTS.get((what, string(part.get("type"))))
        if found is None:
            return
        kind, group, key = found
        if step == "added":
            if part.get("type") == "output_text" and not self.resumed:
                NEEDED.note("begin of an output_text", part, self.draft.notes)
            if string(part.get(key)) and not (piece := self._piece(number, group, place, kind)).size:
                piece.add(part[key])
        elif string(part.get(key)) and not self._is_elsewhere(
            (number, group, place), kind, value.get("item_id"), part[key]
        ):
            self._whole(self._piece(number, group, place, kind), part[key])

    def item(self, number: int, item: dict[str, Any], *, done: bool) -> None:
        """Read an item at its begin or end. At the end it must agree with its fragments."""
        kind = string(item.get("type"))
        if number in self.kinds or len(self.kinds) < self.draft.max_items:
            self.kinds[number] = kind
        if kind == "message":
            self._message(number, self._parts(item.get("content")))
        elif kind == "reasoning":
            for group, key in enumerate(("summary", "content")):
                texts = [part.get("text") for part in self._parts(item.get(key))]
                self._texts(number, group, "reasoning", texts)
            if string(item.get("encrypted_content")):  # the last one counts: at first there is only its beginning
                self._piece(number, 0, 0, "reasoning").seal(string(item["encrypted_content"]))
        elif kind in _CALLS:
            piece = self._piece(number, 0, 0, "call")
            piece.identify(string(item.get("call_id")) or string(item.get("id")))
            self.draft.name_whole_call(piece, item.get("name"))
            piece.tool = {"function_call": "function", "custom_tool_call": "custom"}.get(kind, kind)
            piece.beside(item, _IN_CALLS)
            self._whole(piece, item.get(_CALLS[kind]))
            if item.get("status") in _BROKEN_OFF:
                piece.beside({"status": item["status"]}, frozenset())
            for place, key in enumerate(("output", "error")):
                if item.get(key) is not None:
                    self._piece(number, _OTHER, place, "other").keep(f"{kind} {key}", item[key])
        else:
            piece = self._piece(number, _OTHER, 0, "other")
            piece.keep(kind or "item", item)
            if done:
                piece.forget()

    def _parts(self, parts: Any) -> list[dict[str, Any]]:
        draft = self.draft
        return [draft.mapping(part, "a part of an item") for part in draft.sequence(parts, "the parts of an item")]

    def _message(self, number: int, parts: list[dict[str, Any]]) -> None:
        kinds: tuple[Kind, ...] = ("text", "refusal")
        for kind in kinds:
            said = [_SAID.get(string(part.get("type")), ("", "")) for part in parts]
            places = {
                at: part.get(key) for at, (part, (is_, key)) in enumerate(zip(parts, said, strict=True)) if is_ == kind
            }
            self._at_places(number, 0, kind, places, len(parts))
        for place, part in enumerate(parts):
            if part.get("type") in _SOUNDS:
                self._heard(number, place, part)
            elif string(part.get("type")) not in _SAID:
                self._piece(number, 0, place, "other").keep(string(part.get("type")) or "part", part)
            for one in sequence(part.get("annotations")):
                self.cite(number, one)

    def _texts(self, number: int, group: int, kind: Kind, texts: list[Any]) -> None:
        self._at_places(number, group, kind, dict(enumerate(texts)), len(texts))

    def _at_places(self, number: int, group: int, kind: Kind, said: dict[int, Any], parts: int) -> None:
        """The whole texts of an item's parts: each belongs to the part at its place, or to one whose fragments came
        under an index that the item has not.
        """
        astray = [
            place
            for place in range(parts, parts + _NEAR)
            if (piece := self.draft.find(0, (number, group, place))) is not None and piece.kind == kind
        ]
        for place, text in said.items():
            piece = self.draft.find(0, (number, group, place))
            if piece is None and astray:
                piece = self.draft.find(0, (number, group, astray.pop(0)))
            elif piece is None and self._astray and self._elsewhere((), group, kind, text) is not None:
                continue
            elif piece is None or piece.kind != kind:
                piece = self._piece(number, group, place, kind)
            if piece is not None:
                self._whole(piece, text)

    def _whole(self, piece: Piece, text: Any) -> None:
        """Read the whole text of a part, which must agree with its fragments if there were any."""
        call = piece.kind == "call" and isinstance(text, (dict, list))
        words = self.draft.arguments(text) if call else self.draft.words(text, "a part of an item")
        if not words or piece.says(words):
            return
        if not piece.size:
            piece.add(words)
        elif self.resumed and words.endswith(piece.text):  # the fragments before were sent to somebody else
            piece.replace(words)
        elif piece in self._left_out and _with(piece.text, self._left_out[piece]) == words:
            piece.replace(words)  # they did not come twice
        else:
            self.draft.differ(piece, words)

    def cite(self, number: int, annotation: Any) -> None:
        """Read a source that an item's text cites."""
        citation = citation_of(annotation, "annotation")
        if citation is not None:
            self.draft.cite(0, (number, _CITED), citation)

    def fragment(self, what: str, step: str, value: dict[str, Any]) -> None:
        """Read a fragment of a part, or all that its fragments have said."""
        part, group, within = FRAGMENTS[what]
        number = self.place(value)
        if number not in self.kinds and not self.resumed:
            self.draft.notes.add("a fragment for an item that has not begun")
            if step == "delta" and len(self._astray) < _NEAR:
                self._astray.add(number)
        given = place = value.get(within) if within else 0
        if type(place) is not int or place < 0:
            place = self.draft.index(place, f"a {what} fragment")
        if step == "done" and self._is_elsewhere((number, group, place), part, value.get("item_id"), _said(value)):
            return
        piece = self._piece(number, group, place, part)
        if what == "custom_tool_call_input":
            piece.tool = "custom"
        if step == "delta":
            if piece.closed:
                self.draft.notes.add("a fragment for a part that has ended")
            delta = value.get("delta")
            if type(delta) is not str or type(value.get("output_index")) is not int or type(given) is not int:
                NEEDED.note(f"response.{what}.{step}", value, self.draft.notes)
            call = part == "call" and isinstance(delta, dict)
            piece.add(self.draft.arguments(delta) if call else self.draft.words(delta, "a fragment"))
        else:
            piece.closed = True
            self._whole(piece, _said(value))

    def leave_out(self, what: str, value: dict[str, Any]) -> None:
        """Note a fragment that seems to come twice: the whole says whether it does."""
        if what not in FRAGMENTS:
            return
        part, group, within = FRAGMENTS[what]
        place = value.get(within) if within else 0
        piece = self.draft.find(0, (self.place(value), group, place)) if isinstance(place, int) else None
        delta = string(value.get("delta"))
        if piece is None or piece.kind != part or self._left < 1 or not self.draft.room(len(delta)):
            return
        self._left -= 1
        self._left_out.setdefault(piece, []).append((piece.size, delta))

    def _is_elsewhere(self, place: tuple[int, int, int], kind: Kind, item: Any, text: Any) -> bool:
        """Whether a part that ends at `place`, where nothing came, is one whose fragments have another index."""
        if self.draft.find(0, place) is not None:
            return False
        number, group, _ = place
        other = self._elsewhere((number, self.by_id.get(string(item), number)), group, kind, text)
        if other is not None:
            other.closed = True
        return other is not None

    def _elsewhere(self, items: tuple[int, ...], group: int, kind: Kind, text: Any) -> Piece | None:
        """The part of one of `items`, or of one that has not begun, that says all of `text` under another index."""
        if not string(text):
            return None
        for number in (*items, *self._astray):
            for place in range(_NEAR):
                piece = self.draft.find(0, (number, group, place))
                if piece is not None and piece.kind == kind and piece.says(text):
                    self.draft.notes.add("a part ends under another index than its fragments came under")
                    return piece
        return None

    def other_fragment(self, what: str, step: str, value: dict[str, Any]) -> bool:
        """A fragment of an item of any other kind (code, a patch, a command): it is shown where it belongs in the item.

        `response.code_interpreter_call_code.delta` is of the `code` of a `code_interpreter_call`. False: it is none.
        """
        number = self.place(value) if "output_index" in value or "item_id" in value else -1
        whose = self.kinds.get(number, "")
        if what.startswith(_SOUNDS):
            if step == "delta":
                self._sound(number, what, value)
            return step in ("delta", "done")
        if step == "partial_image":
            return self._partly(number, what, value)
        if whose == what and step in _STEPS:
            self._step(number, whose, step)
            return True
        if not whose or whose in ("message", "reasoning") or whose in _CALLS or not what.startswith(whose):
            return False
        piece = self._piece(number, _OTHER, 0, "other")
        slot = _slot(mapping(piece.value), what[len(whose) :].strip("_"), value)
        delta = value.get("delta")
        if step == "delta" and isinstance(delta, (str, dict)):
            for key, text in ({"": delta} if isinstance(delta, str) else delta).items():
                piece.put((*slot, key) if key else slot, string(text))
        return step in ("delta", "done", "added") and bool(slot)

    def _step(self, number: int, whose: str, step: str) -> None:
        """Read how far an item has come: of a stream that breaks off, no whole item says it."""
        if whose in _CALLS:
            if step in _BROKEN_OFF:
                self._piece(number, 0, 0, "call").beside({"status": step}, frozenset())
            return
        piece = self._piece(number, _OTHER, 0, "other")
        if isinstance(piece.value, dict) and "status" in piece.value:
            piece.value = {**piece.value, "status": step}

    def _partly(self, number: int, what: str, value: dict[str, Any]) -> bool:
        """Read a picture that is not finished: the last one is shown until the whole comes. False: it is none."""
        piece = self._piece(number, _OTHER, 0, "other") if number >= 0 else None
        if piece is None or (piece.name and piece.name != what):
            return False
        said = {key: one for key, one in value.items() if key not in _OF_EVENTS}
        piece.keep(what, {**mapping(piece.value), **said})
        return True

    def _sound(self, number: int, what: str, value: dict[str, Any]) -> None:
        """Read a fragment of audio: its transcript, or the size of its data."""
        place = (number, _OTHER, count(value.get("content_index")) or 0) if number >= 0 else (self.draft.max_items,)
        piece = self.draft.piece(0, place, "other")
        piece.name = "audio"
        if "transcript" in what:
            piece.add(string(value.get("delta")))
        else:
            piece.left_out += len(string(value.get("delta")))

    def _heard(self, number: int, place: int, part: dict[str, Any]) -> None:
        """Read a whole part that is audio."""
        piece = self._piece(number, _OTHER, place, "other")
        piece.name = "audio"
        piece.left_out = piece.left_out or len(string(part.get("audio")))
        self._whole(piece, part.get("transcript"))

    def _piece(self, number: int, group: int, place: int, kind: Kind) -> Piece:
        piece = self.draft.piece(0, (number, group, place), kind)
        if piece.kind != kind:
            self.draft.notes.add(f"item {number} changes what it is")
            piece = self.draft.piece(
                0, (number, _CHANGED, place, ("text", "reasoning", "refusal", "call", "other").index(kind)), kind
            )
        return piece


def _said(value: dict[str, Any]) -> Any:
    """What the event at the end of a part says that its fragments have said."""
    return next((value[key] for key in _WHOLE if key in value), None)


def _slot(item: dict[str, Any], name: str, value: dict[str, Any]) -> Path:
    """Where in `item` what an event calls `name` belongs: `operation_diff` is the `diff` in its `operation`."""
    numbered = count(value.get("command_index"))
    for at in range(len(name)):
        if name[at] == "_" and isinstance(item.get(name[:at]), dict):
            return (name[:at], name[at + 1 :])
    return (name, numbered) if name and numbered is not None else (name,) if name else ()


def _with(text: str, left_out: list[tuple[int, str]]) -> str:
    """`text` with the fragments that were left out in their places."""
    parts, before = [], 0
    for at, fragment in left_out:
        parts += [text[before:at], fragment]
        before = at
    return "".join([*parts, text[before:]])
