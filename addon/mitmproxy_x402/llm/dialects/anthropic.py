"""Reads Anthropic's messages, and the completions before them."""

from __future__ import annotations

from typing import Any

from ...protocol.strict_json import shown
from ..draft import Draft
from ..pieces import Kind, Piece
from ..values import MAX_INDEX, dump, mapping, sequence, string
from .citations import citation_of
from .needed import NeededBy
from .reader import Reader

_DELTAS: dict[str, tuple[str, Kind]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "reasoning"),
    "signature_delta": ("signature", "reasoning"),
    "input_json_delta": ("partial_json", "call"),
}
"""Kinds of deltas: the key that their fragment is under, and the part that it belongs to."""
_BLOCKS: dict[str, Kind] = {"text": "text", "thinking": "reasoning", "redacted_thinking": "reasoning"}
_EVENTS = {
    *("message_start", "message_delta", "message_stop"),
    *("content_block_start", "content_block_delta", "content_block_stop"),
}
_IN_CALLS = frozenset(("type", "id", "name", "input"))
_DIRECT = {"type": "direct"}
"""The caller of a tool where it is the model itself."""
_COUNTED = ("server_tool_use", "iterations")
"""Keys of the usage that are shown as they came."""
_ENDS = ("stop_details", "stop_sequence", "container")
"""Keys that say more about why a message ended."""
_LAST_ENDS = ("stop_reason", "stop_sequence", "stop_details")
"""Of these, SDKs keep what the last message_delta says."""
_NEEDED = NeededBy(
    "Anthropic's SDKs fail",
    {
        "message_start": (("message", dict), ("message.content", list), ("message.usage", dict)),
        "message_delta": (("delta", dict), ("usage", dict)),
        "content_block_start": (("content_block", dict),),
        "content_block_delta": (("index", int), ("delta", dict)),
        "content_block_stop": (("index", int),),
        "text block": (("text", str),),
        "thinking block": (("thinking", str),),
        "text_delta": (("text", str),),
        "thinking_delta": (("thinking", str),),
        "input_json_delta": (("partial_json", str),),
    },
)


class MessagesReader(Reader):
    """Reads named events about numbered blocks, or one `message`. The end is `message_stop`."""

    dialect = "anthropic-messages"
    end_mark = "message_stop"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._started = False
        self._begun = 0
        self._blocks: dict[int, Piece] = {}
        self._open: set[int] = set()
        self._tokens: dict[str, int] = {}
        self._ends: set[str] = set()
        """What the last message_delta has said about the end."""

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """Events of the known types; a message of an assistant that names its model, or says why it ended."""
        kind = value.get("type")
        if type(kind) is not str:
            return False
        if kind in _EVENTS:
            return True
        if kind == "message":
            about = "stop_reason" in value or "usage" in value or "model" in value
            return about and isinstance(value.get("content"), list) and "object" not in value
        return kind == "error" and isinstance(value.get("error"), dict) and "event_type" not in value

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read one event, whose data repeats its type."""
        kind = name if value.get("type") == name else self._kind_of(name, value)
        if self.ended:
            self.draft.notes.add("an event after message_stop")
        elif not self._started and kind not in ("message_start", "error"):
            self.draft.notes.add("an event before message_start")
        if kind == "content_block_delta":
            delta, index = value.get("delta"), value.get("index")
            if type(delta) is not dict or type(index) is not int:
                _NEEDED.note(kind, value, self.draft.notes)
                delta = self.draft.mapping(delta, "a delta")
            self._delta(index, delta)
            return
        _NEEDED.note(kind, value, self.draft.notes)
        if kind == "message_start":
            self._start(self.draft.mapping(value.get("message"), "a message"))
        elif kind == "content_block_start":
            block = self.draft.mapping(value.get("content_block"), "a block")
            _NEEDED.note(f"{string(block.get('type'))} block", block, self.draft.notes)
            self._block(self.draft.index(value.get("index"), "a block"), block)
        elif kind == "content_block_stop":
            self._stop(self.draft.index(value.get("index"), "the end of a block"))
        elif kind == "message_delta":
            self._message_delta(mapping(value.get("delta")), value.get("usage"))
            self.draft.detail("context_management", value.get("context_management"))
        elif kind == "message_stop":
            self._end()
        else:
            self._other_event(kind, value)

    def _kind_of(self, name: str, value: dict[str, Any]) -> str:
        """The type of an event, which its data repeats. SDKs skip one without a name; some look at nothing else."""
        said = value.get("type")
        kind = said if type(said) is str else name
        if name not in (kind, "message"):
            self.draft.notes.add(f"an event called {shown(name)} whose data says {shown(kind)}")
        elif type(said) is not str:
            self.draft.notes.add("an event whose data does not repeat its type, which Anthropic's SDKs leave out")
        elif name != kind and self.draft.has_names:
            self.draft.notes.add("an event without its name in a line `event:`, which Anthropic's SDKs skip")
        return kind

    def skips(self, name: str) -> bool:
        """Whether it has no name, or is a ping."""
        return name in ("message", "ping")

    def done(self, name: str) -> None:
        """Read a `[DONE]`, which is skipped only without a name."""
        if not self.skips(name):
            self.draft.notes.add(f"a [DONE] called {shown(name)}, at which Anthropic's SDKs fail")

    def lost(self, hidden: bytes | None, beside: str, hollow: bool) -> list[str]:  # noqa: ARG002
        """A byte order mark hides the name of the first event."""
        hides = hidden == b"event"
        what = "the stream begins with a byte order mark, by which Anthropic's SDKs lose its first event"
        return [what] if hides else []

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole `message`, an error, or a single event."""
        kind = string(value.get("type"))
        if kind == "error" or kind in _EVENTS:
            self.event("message", value)
            return
        self.draft.name(value.get("model"), value.get("id"))
        for number, block in enumerate(self.draft.sequence(value.get("content"), "the content")):
            self._block(number, self.draft.mapping(block, "a block"))
        self._open.clear()
        self._usage(mapping(value.get("usage")))
        self.draft.detail("context_management", value.get("context_management"))
        self._finish(value)
        self.ended = True

    def _other_event(self, kind: str, value: dict[str, Any]) -> None:
        if kind == "error":
            self.draft.fail(value.get("error") or value)
        elif kind == "message":
            self.whole(value)
        else:
            self.draft.leave(kind, value)

    def _start(self, message: dict[str, Any]) -> None:
        if self._started:
            self.draft.notes.add("a second message_start")
        self._started = True
        self.draft.name(message.get("model"), message.get("id"))
        self._usage(mapping(message.get("usage")))
        for number, block in enumerate(self.draft.sequence(message.get("content"), "the content")):
            self._block(number, self.draft.mapping(block, "a block"))

    def _block(self, number: int, block: dict[str, Any]) -> None:
        kind = string(block.get("type"))
        call = kind.endswith("tool_use")
        piece = self._begin(number, "call" if call else _BLOCKS.get(kind, "other"))
        if call:
            piece.identify(string(block.get("id")))
            piece.call(self.draft.words(block.get("name"), "the name of a tool"))
            piece.tool = "function" if kind == "tool_use" else kind
            piece.beside(block, _IN_CALLS if block.get("caller") != _DIRECT else _IN_CALLS | {"caller"})
            # Without input, and with an empty one, the arguments are those of a tool that has no parameters.
            given = dump(self.draft.written({} if block.get("input") in (None, "") else block["input"]))
            piece.empty_means = given if self.draft.room(len(given)) else "{}"
        elif kind == "text":
            piece.add(self.draft.words(block.get("text"), "text"))
            for one in sequence(block.get("citations")):
                self._cite(number, one)
        elif kind == "thinking":
            piece.add(self.draft.words(block.get("thinking"), "thinking"))
            piece.sign(string(block.get("signature")))
        elif kind == "redacted_thinking":
            piece.sign(string(block.get("data")))
        else:
            piece.keep(kind or "block", block)
            if kind == "fallback":
                self.draft.goes_on_by(mapping(block.get("to")).get("model"))

    def _begin(self, number: int, kind: Kind) -> Piece:
        if number in self._blocks:
            self.draft.notes.add("a block begins twice")
        elif number != len(self._blocks) and len(self._blocks) < self.draft.max_items:
            self.draft.notes.add(f"the index of a block jumps to {number}, after {len(self._blocks)} blocks")
        piece = self.draft.piece(0, (number, self._begun), kind)
        if piece.kept:
            self._begun += 1
            self._blocks[number] = piece
            self._open.add(number)
        return piece

    def _delta(self, index: Any, delta: dict[str, Any]) -> None:
        number = index if type(index) is int and index >= 0 else self.draft.index(index, "a delta")
        said = delta.get("type")
        if said == "citations_delta":
            self._cite(number, delta.get("citation"))
            return
        piece = self._blocks.get(number)
        if piece is not None and number not in self._open:
            self.draft.notes.add(f"a fragment for block {number}, which has ended")
        if type(said) is not str or said not in _DELTAS:
            self._other_delta(piece, string(said), delta)
            return
        key, kind = _DELTAS[said]
        if piece is None:
            self.draft.notes.add(f"a fragment for block {number}, which has not begun")
            piece = self._begin(number, kind)
        if piece.kind != kind:
            self.draft.notes.add(f"a {said} in a block of another kind")
            piece = self.draft.piece(0, (number, MAX_INDEX, list(_DELTAS).index(said)), kind)
        text = delta.get(key)
        if type(text) is not str:
            _NEEDED.note(said, delta, self.draft.notes)
            call = piece.kind == "call" and isinstance(text, dict)
            text = self.draft.arguments(text) if call else self.draft.words(text, f"the {key} of a fragment")
        if said == "signature_delta":
            if piece.signature:
                self.draft.notes.add("a second signature_delta of a block; Anthropic's SDKs keep the last one only")
            piece.sign(text)
            return
        if kind == "call" and text.isspace() and not piece.text.strip():
            self.draft.notes.add("white space before the arguments of a call, at which Anthropic's SDKs fail")
        piece.add(text)

    def _other_delta(self, piece: Piece | None, said: str, delta: dict[str, Any]) -> None:
        """Read a fragment of an unknown kind: its text goes under the same key of the block."""
        texts = {key: text for key, text in delta.items() if key != "type" and isinstance(text, str)}
        if piece is not None and piece.kind == "other" and texts:
            for key, text in texts.items():
                piece.put((key[:100],), text)
        elif said or delta:
            self.draft.leave(said or "content_block_delta", delta)

    def _cite(self, number: int, one: Any) -> None:
        citation = citation_of(one, "citation")
        if citation is not None:
            self.draft.cite(0, (number, MAX_INDEX + 1), citation)

    def _stop(self, number: int) -> None:
        if number not in self._open:
            self.draft.notes.add("a block ends that is not open")
        self._open.discard(number)
        if number in self._blocks:
            self._blocks[number].closed = True

    def _message_delta(self, delta: dict[str, Any], usage: Any) -> None:
        if usage is not None and mapping(usage).get("output_tokens") is None:
            self.draft.notes.add("the usage of a message_delta without output_tokens, which Anthropic's SDKs then lose")
        self._usage(mapping(usage))
        says = {key for key in _LAST_ENDS if delta.get(key) is not None}
        for key in sorted(self._ends - says):
            self.draft.notes.add(f"a message_delta without {key} after one with it, which Anthropic's SDKs then lose")
        self._ends = says
        self._finish(delta)

    def _finish(self, delta: dict[str, Any]) -> None:
        if delta.get("stop_reason") is not None:
            self.draft.stop(0, delta["stop_reason"])
        for key in _ENDS:
            self.draft.detail(key, delta.get(key))

    def _end(self) -> None:
        if self._open:
            self.draft.notes.add("message_stop while a block is open")
        if self.draft.stopped(0) is None:
            self.draft.notes.add("message_stop without a stop_reason")
        self.ended = True

    def _usage(self, usage: dict[str, Any]) -> None:
        """Read the usage. `input_tokens` leaves out cached tokens; in a stream the last numbers hold."""
        for key in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            number = self.draft.tokens(usage.get(key))
            if number is not None:
                self._tokens[key] = number
        self.draft.use(
            input=sum(self._tokens.values()) if "input_tokens" in self._tokens else None,
            cached=self._tokens.get("cache_read_input_tokens"),
            cache_write=self._tokens.get("cache_creation_input_tokens"),
            output=usage.get("output_tokens"),
            reasoning=mapping(usage.get("output_tokens_details")).get("thinking_tokens"),
        )
        self.draft.charge(usage.get("cost"))
        for key in _COUNTED:
            self.draft.detail(f"usage.{key}", usage.get(key))


class CompleteReader(Reader):
    """Reads completions (`/v1/complete`): fragments of the text; the last one has the stop reason."""

    dialect = "anthropic-complete"
    end_mark = "stop_reason"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._before: str | None = ""  # the text so far, while every event has repeated it; None: one has not
        self._events: list[str] = []

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """Whether `value` has a `completion` and a `stop_reason`."""
        return isinstance(value.get("completion"), str) and (
            value.get("type") == "completion" or "stop_reason" in value
        )

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read one fragment."""
        kind = string(value.get("type")) or name
        if "completion" not in value:
            self.draft.leave(kind, value)
            return
        self.whole(value)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole answer."""
        self.draft.name(value.get("model"), value.get("id") or value.get("log_id"))
        self._add(self.draft.words(value.get("completion"), "a completion"), typed="type" in value)
        if value.get("stop_reason") is not None:
            self.draft.stop(0, value["stop_reason"])
            self.draft.detail("stop", value.get("stop"))
            self.ended = True

    def _add(self, text: str, *, typed: bool) -> None:
        """Add a fragment. Before versions of 2023-06-01, whose events have a type, each one repeats all of the text."""
        piece, before = self.draft.piece(0, (0,), "text"), self._before
        if typed or before is None:
            self._before = None
            piece.add(text)
        elif text.startswith(before):
            if before:
                self.draft.notes.add("each completion repeats the one before it; what is repeated is shown once")
            if self.draft.room(len(text)):
                self._events.append(text)
            piece.add(text[len(before) :])
            self._before = text
        else:  # they are fragments after all
            if len(self._events) > 1:
                piece.replace("".join(self._events))
            piece.add(text)
            self._before, self._events = None, []
