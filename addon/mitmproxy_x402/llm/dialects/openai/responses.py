"""Reads OpenAI's responses: items with their parts, streamed or whole."""

from __future__ import annotations

import re
from typing import Any

from ....protocol.strict_json import shown
from ...draft import Draft
from ...pieces import Kind, Path, Piece
from ...values import count, mapping, sequence, string
from ..citations import citation_of
from ..needed import NeededBy
from ..reader import Reader

_ENDS = {"completed", "incomplete", "failed", "cancelled"}
"""States after which nothing more comes."""
_STATES = {f"response.{state}" for state in (*_ENDS, "created", "queued", "in_progress")}
_FRAGMENTS: dict[str, tuple[Kind, int, str]] = {
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
_UNTOLD = re.compile(
    r"(keepalive|ping|response\.(heartbeat|[a-z_]+_part\.(added|done)|compaction\.[a-z_]+|output_text\.annotation\.[a-z_]+"
    r"|[a-z_]+\.(in_progress|completed|failed|searching|interpreting|generating|partial_image|compacting|done|added)))"
)
"""Events that say nothing that the whole item does not say again."""
_IN_CALLS = frozenset(("type", "id", "call_id", "name", "arguments", "input", "status", "output", "error"))
_CALLS = {"function_call": "arguments", "custom_tool_call": "input", "mcp_call": "arguments"}
"""Kinds of items that are calls, and the key of what they are called with."""
_WHOLE = ("text", "refusal", "arguments", "input")
"""Keys of all that the fragments of a part have said."""
MAX_CAME = 100_000
"""Most events by which is told that one comes again."""
_CITED, _OTHER, _CHANGED = 1_000, 2, 3
_NEAR = 16
"""Indexes at which a part is looked for that is not at its own."""
_NEEDED = NeededBy(
    "OpenAI's SDK fails",
    {
        **dict.fromkeys((f"response.{state}" for state in (*_ENDS, "created")), (("response", dict),)),
        "response.output_text.delta": (("output_index", int), ("content_index", int), ("delta", str)),
        "response.function_call_arguments.delta": (("output_index", int), ("delta", str)),
        "response.content_part.added": (("output_index", int), ("part", dict)),
        "response.output_item.done": (("item", dict),),
        "begin of a message": (("content", list),),
        "begin of a function_call": (("arguments", str),),
        "begin of an output_text": (("text", str),),
    },
)
_PARTS: dict[str, tuple[Kind, int, str, str]] = {
    "content_part": ("text", 0, "content_index", "output_text"),
    "reasoning_summary_part": ("reasoning", 0, "summary_index", "summary_text"),
    "reasoning_part": ("reasoning", 1, "content_index", "reasoning_text"),
}
"""Events that begin a part, which may have text from its begin: its place, and the type that has the text."""


class ResponsesReader(Reader):
    """Reads numbered events about items, or one `response`. The end is the event with the response's last state."""

    dialect = "openai-responses"
    is_openai = True
    end_mark = "last state of the response"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._items: dict[int, str] = {}
        self._by_id: dict[str, int] = {}
        self._sequence: int | None = None
        self._resumed = False
        self._state_was = ""
        self._came: dict[int, int] = {}  # by sequence_number: what tells the event from others, as a hash
        self._again = False
        self._astray: set[int] = set()
        """Indexes of items that have not begun, under which fragments came."""
        self._ids: dict[int, tuple[str, Any]] = {}
        """Type and id that an item began with."""
        self._grows = False  # whether the numbers do; some gateways number all events alike

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """Events of a type `response.*`, and a `response` itself."""
        kind = value.get("type")
        if type(kind) is str:
            return kind[:9] == "response." or (kind == "error" and not value.get("error") and "event_type" not in value)
        return value.get("object") == "response"

    @property
    def complete(self) -> bool:
        """Whether the response has reached its last state."""
        return self.ended and self._state_was != "cancelled"

    @property
    def unfinished(self) -> str | None:
        """None where the response's own state says why."""
        if self._state_was in ("cancelled", "failed"):
            return None
        return super().unfinished

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read one event, whose data repeats its type."""
        said = value.get("type")
        kind = said if type(said) is str else name
        if type(said) is not str and kind[:9] == "response.":
            self.draft.notes.add("an event whose data does not say its type, which OpenAI's SDK takes for another")
        if name.startswith("thread."):  # other names mean nothing to OpenAI's SDK
            self.draft.notes.add(f"an event called {shown(name)} whose data says {shown(kind)}")
        if self.ended:
            self.draft.notes.add("an event after the response's last state")
        if self._is_repeated(kind, value):
            return
        self._number(value.get("sequence_number"), kind, value)
        what, _, step = kind[9:].rpartition(".")
        if what in _FRAGMENTS and step in ("delta", "done"):
            self._fragment(what, step, value)
            return
        if not self._resumed:
            _NEEDED.note(kind, value, self.draft.notes)
        if kind in _STATES:
            self._state(self.draft.mapping(value.get("response"), "a response"), kind[9:])
        elif kind in ("response.output_item.added", "response.output_item.done"):
            item = self.draft.mapping(value.get("item"), "an item")
            number = self._place(value, item)
            self._check_item(number, item, done=kind.endswith("done"))
            self._item(number, item, done=kind.endswith("done"))
        elif step == "added" and what in _PARTS:
            self._part(what, value)
        elif kind == "error" or value.get("error"):
            self.draft.fail(value.get("error") or value)
        elif kind == "response.output_text.annotation.added":
            self._cite(self._place(value), value.get("annotation"))
        elif not self._other_fragment(what, step, value) and not _UNTOLD.fullmatch(kind):
            self.draft.leave(kind, value)

    def ping(self, value: dict[str, Any]) -> None:
        """Check the number of a ping."""
        self._number(value.get("sequence_number"), "response.queued", None)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole `response`."""
        if "output" not in value and value.get("object") != "response":  # one event, by itself
            self.event("message", value)
        else:
            self.polled = True
            self._state(value, string(value.get("status")), whole=True)

    def _number(self, number: Any, kind: str, value: dict[str, Any] | None) -> None:
        """Check the number of an event of a `kind`, and whether it may be the first; `value`: of all but pings."""
        given = count(number)
        first = self._sequence is None and not self._state_was and not self._items
        if first and not given and value and not value.get("error") and kind not in ("response.created", "error"):
            self.draft.notes.add("the stream does not begin with response.created, at which OpenAI's SDK fails")
        if first and kind not in _STATES and kind != "error":
            self._resumed = True
        if given is None:
            return
        if self._sequence is not None and given != self._sequence + 1:
            self.draft.notes.add(f"the sequence_number jumps from {self._sequence} to {given}")
        self._sequence = given

    def _is_repeated(self, kind: str, value: dict[str, Any]) -> bool:
        """Whether this event came before: a stream that was resumed can begin before it broke off.

        Its bytes need not be the same: `obfuscation` is random, and gateways write JSON anew.
        """
        given, delta = count(value.get("sequence_number")), value.get("delta")
        if given is None:
            return False
        about = value.get("item_id") or mapping(value.get("item") or value.get("response")).get("id")
        places = [one if type(one := value.get(key)) is int else None for key in ("output_index", "content_index")]
        data = hash((kind, string(about), *places, string(delta)))
        self._grows = self._grows or (self._sequence is not None and given == self._sequence + 1)
        if self._grows and self._came.get(given) == data:
            if not self._again:
                self.draft.notes.add(f"the sequence_number goes back to {given}; what comes twice counts once")
            self._again, self._sequence = True, given
            return True
        if len(self._came) < MAX_CAME:
            self._came[given] = data
        return False

    def _place(self, value: dict[str, Any], item: dict[str, Any] | None = None) -> int:
        """The index of the item that an event is about: as given, or that of the item's id."""
        identity = string((item or {}).get("id")) or string(value.get("item_id"))
        given = value.get("output_index")
        if type(given) is not int and identity:
            return self._by_id.setdefault(identity, len(self._items))
        number = self.draft.index(given, "an item")
        if identity and len(self._by_id) < self.draft.max_items:
            self._by_id.setdefault(identity, number)
        return number

    def _state(self, response: dict[str, Any], state: str, *, whole: bool = False) -> None:
        draft = self.draft
        draft.name(response.get("model"), response.get("id"))
        usage = mapping(response.get("usage"))
        if usage:
            read, written = mapping(usage.get("input_tokens_details")), mapping(usage.get("output_tokens_details"))
            draft.use(
                input=usage.get("input_tokens"),
                output=usage.get("output_tokens"),
                total=usage.get("total_tokens"),
                cached=read.get("cached_tokens"),
                cache_write=read.get("cache_write_tokens"),
                reasoning=written.get("reasoning_tokens"),
            )
            draft.charge(usage.get("cost"))
        if response.get("error"):
            draft.fail(response["error"])
        self._state_was = state
        last = state in _ENDS
        if not last and not whole:
            return
        output = draft.sequence(response.get("output"), "the output")
        if state == "completed" and response.get("output") == [] and self._items:
            draft.notes.add("the whole response at the end has no items, so that OpenAI's SDK says there is no answer")
        elif output and self._items and len(output) != len(self._items) and not self._resumed:
            draft.notes.add("the whole response at the end has another number of items than its events")
        for number, item in enumerate(output):
            said = draft.mapping(item, "an item")
            # Its place may be another one here than in the stream, where an item is left out; its id is the same.
            self._item(self._by_id.get(string(said.get("id")), number), said, done=True)
        if not last:
            return
        if state == "failed" and draft.error is None:
            draft.fail("failed")
        about = mapping(response.get("incomplete_details"))
        reason = about.get("reason") if state == "incomplete" else None
        for key, value in about.items():
            if key != "reason":
                draft.detail(key, value)
        if not self.ended:
            draft.stop(0, reason if isinstance(reason, str) else state)
        self.ended = True

    # Items.

    def _check_item(self, number: int, item: dict[str, Any], *, done: bool) -> None:
        """Note what the SDK fails at where an item begins, and where it ends as another one."""
        kind, identity = string(item.get("type")), item.get("id")
        if not done:
            _NEEDED.note(f"begin of a {kind}", item, self.draft.notes)
            if len(self._ids) < self.draft.max_items:
                self._ids[number] = kind, None if kind in _CALLS and kind != "mcp_call" else identity
        elif number in self._ids and self._ids[number] not in ((kind, None), (kind, identity)):
            self.draft.notes.add("the id or type of an item is another one at its end, at which OpenAI's SDK fails")

    def _part(self, what: str, value: dict[str, Any]) -> None:
        """Read the begin of a part, with the text that it has already."""
        kind, group, within, typed = _PARTS[what]
        number, place = self._place(value), self.draft.index(value.get(within), "a part")
        part = mapping(value.get("part"))
        if part.get("type") != typed:
            return
        if kind == "text" and not self._resumed:
            _NEEDED.note(f"begin of an {typed}", part, self.draft.notes)
        if string(part.get("text")) and not (piece := self._piece(number, group, place, kind)).size:
            piece.add(part["text"])

    def _item(self, number: int, item: dict[str, Any], *, done: bool) -> None:
        """Read an item at its begin or end. At the end it must agree with its fragments."""
        kind = string(item.get("type"))
        if number in self._items or len(self._items) < self.draft.max_items:
            self._items[number] = kind
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
            if item.get("output") is not None or item.get("error"):
                self._piece(number, _OTHER, 0, "other").keep(f"{kind} output", item.get("output") or item.get("error"))
        else:
            piece = self._piece(number, _OTHER, 0, "other")
            piece.keep(kind or "item", item)
            if done:
                piece.forget()

    def _parts(self, parts: Any) -> list[dict[str, Any]]:
        draft = self.draft
        return [draft.mapping(part, "a part of an item") for part in draft.sequence(parts, "the parts of an item")]

    def _message(self, number: int, parts: list[dict[str, Any]]) -> None:
        for kind, key in (("output_text", "text"), ("refusal", "refusal")):
            said: Kind = "text" if key == "text" else "refusal"
            places = {place: part.get(key) for place, part in enumerate(parts) if string(part.get("type")) == kind}
            self._at_places(number, 0, said, places, len(parts))
        for place, part in enumerate(parts):
            if string(part.get("type")) not in ("output_text", "refusal"):
                self._piece(number, 0, place, "other").keep(string(part.get("type")) or "part", part)
            for one in sequence(part.get("annotations")):
                self._cite(number, one)

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
        elif self._resumed and words.endswith(piece.text):  # the fragments before were sent to somebody else
            piece.replace(words)
        else:
            self.draft.differ(piece, words)

    def _cite(self, number: int, annotation: Any) -> None:
        citation = citation_of(annotation, "annotation")
        if citation is not None:
            self.draft.cite(0, (number, _CITED), citation)

    # Fragments.

    def _fragment(self, what: str, step: str, value: dict[str, Any]) -> None:
        part, group, within = _FRAGMENTS[what]
        number = self._place(value)
        if number not in self._items and not self._resumed:
            self.draft.notes.add("a fragment for an item that has not begun")
            if step == "delta" and len(self._astray) < _NEAR:
                self._astray.add(number)
        given = place = value.get(within) if within else 0
        if type(place) is not int or place < 0:
            place = self.draft.index(place, f"a {what} fragment")
        if step == "done" and self.draft.find(0, (number, group, place)) is None:
            items = (number, self._by_id.get(string(value.get("item_id")), number))
            if (other := self._elsewhere(items, group, part, _said(value))) is not None:
                other.closed = True
                return
        piece = self._piece(number, group, place, part)
        if what == "custom_tool_call_input":
            piece.tool = "custom"
        if step == "delta":
            if piece.closed:
                self.draft.notes.add("a fragment for a part that has ended")
            delta = value.get("delta")
            if type(delta) is not str or type(value.get("output_index")) is not int or type(given) is not int:
                _NEEDED.note(f"response.{what}.{step}", value, self.draft.notes)
            call = part == "call" and isinstance(delta, dict)
            piece.add(self.draft.arguments(delta) if call else self.draft.words(delta, "a fragment"))
        else:
            piece.closed = True
            self._whole(piece, _said(value))

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

    def _other_fragment(self, what: str, step: str, value: dict[str, Any]) -> bool:
        """A fragment of an item of any other kind (code, a patch, a command): it is shown where it belongs in the item.

        `response.code_interpreter_call_code.delta` is of the `code` of a `code_interpreter_call`. False: it is none.
        """
        number = self._place(value) if "output_index" in value or "item_id" in value else -1
        whose = self._items.get(number, "")
        if what.startswith("audio"):
            if step == "delta":
                self._sound(what, value)
            return step in ("delta", "done")
        if not whose or whose in ("message", "reasoning") or whose in _CALLS or not what.startswith(whose):
            return False
        piece = self._piece(number, _OTHER, 0, "other")
        slot = _slot(mapping(piece.value), what[len(whose) :].strip("_"), value)
        delta = value.get("delta")
        if step == "delta" and isinstance(delta, (str, dict)):
            for key, text in ({"": delta} if isinstance(delta, str) else delta).items():
                piece.put((*slot, key) if key else slot, string(text))
        return step in ("delta", "done", "added") and bool(slot)

    def _sound(self, what: str, value: dict[str, Any]) -> None:
        """Read audio: its transcript, and the size of its data."""
        piece = self.draft.piece(0, (self.draft.max_items,), "other")
        piece.name = "audio"
        if "transcript" in what:
            piece.add(string(value.get("delta")))
        else:
            piece.left_out += len(string(value.get("delta")))

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
