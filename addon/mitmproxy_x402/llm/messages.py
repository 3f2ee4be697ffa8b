"""Anthropic's messages."""

from __future__ import annotations

from typing import Any

from ..protocol.strict_json import shown
from .dialects import Reader
from .draft import Draft, Kind, Piece
from .printing import error_line
from .values import MAX_INDEX, count, dump, mapping, sequence, string

_DELTAS: dict[str, tuple[str, Kind]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "reasoning"),
    "signature_delta": ("signature", "reasoning"),
    "input_json_delta": ("partial_json", "call"),
    "compaction_delta": ("content", "other"),
}
"""Kinds of deltas: the key that their fragment is under, and the part that it belongs to."""
_BLOCKS: dict[str, Kind] = {"text": "text", "thinking": "reasoning", "redacted_thinking": "reasoning"}


class MessagesReader(Reader):
    """Named events around numbered blocks, or one `message`. The end is `message_stop`."""

    dialect = "anthropic-messages"
    end_mark = "message_stop"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._started = False
        self._begun = 0
        self._blocks: dict[int, Piece] = {}
        self._open: set[int] = set()
        self._tokens: dict[str, int] = {}

    def event(self, name: str, value: dict[str, Any]) -> None:
        """An event; its data names its type once more."""
        kind = string(value.get("type")) or name
        if name not in (kind, "message"):
            self.draft.notes.add(f"an event called {shown(name)} whose data says {shown(kind)}")
        if self.ended:
            self.draft.notes.add("an event after message_stop")
        elif not self._started and kind not in ("message_start", "ping", "error"):
            self.draft.notes.add("an event before message_start")
        if kind == "message_start":
            self._start(mapping(value.get("message")))
        elif kind == "content_block_start":
            self._block(self.draft.index(value.get("index"), "a block"), mapping(value.get("content_block")))
        elif kind == "content_block_delta":
            self._delta(self.draft.index(value.get("index"), "a delta"), mapping(value.get("delta")))
        elif kind == "content_block_stop":
            self._stop(self.draft.index(value.get("index"), "the end of a block"))
        elif kind == "message_delta":
            self._usage(mapping(value.get("usage")))
            self._finish(mapping(value.get("delta")))
        elif kind == "message_stop":
            self._end()
        elif kind == "error":
            self.draft.fail(error_line(value.get("error")))
        elif kind != "ping":
            self.draft.notes.add(f"an unknown event {shown(kind)}")

    def whole(self, value: dict[str, Any]) -> None:
        """A `message`, or an error."""
        if value.get("type") == "error":
            self.draft.fail(error_line(value.get("error")))
            return
        self.draft.name(value.get("model"), value.get("id"))
        for number, block in enumerate(sequence(value.get("content"))):
            self._block(number, mapping(block))
        self._usage(mapping(value.get("usage")))
        self._finish(value)
        self.ended = True

    def _start(self, message: dict[str, Any]) -> None:
        if self._started:
            self.draft.notes.add("a second message_start")
        self._started = True
        self.draft.name(message.get("model"), message.get("id"))
        self._usage(mapping(message.get("usage")))
        for number, block in enumerate(sequence(message.get("content"))):
            self._block(number, mapping(block))

    def _block(self, number: int, block: dict[str, Any]) -> None:
        kind = string(block.get("type"))
        call = kind.endswith("tool_use")
        piece = self._begin(number, "call" if call else _BLOCKS.get(kind, "other"))
        if call:
            piece.identify(string(block.get("id")))
            piece.call(self.draft.words(block.get("name"), "the name of a tool"))
            piece.tool = "function" if kind == "tool_use" else kind
            given = dump(block.get("input", {}))
            piece.empty_means = given if self.draft.room(len(given)) else "{}"
        elif kind == "text":
            piece.add(self.draft.words(block.get("text"), "text"))
        elif kind == "thinking":
            piece.add(self.draft.words(block.get("thinking"), "thinking"))
            piece.sign(string(block.get("signature")))
        elif kind == "redacted_thinking":
            piece.sign(string(block.get("data")))
        else:
            piece.keep(kind, block)

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

    def _delta(self, number: int, delta: dict[str, Any]) -> None:
        said = string(delta.get("type"))
        if said == "citations_delta":
            return
        if said not in _DELTAS:
            self.draft.notes.add(f"an unknown kind of fragment {shown(said)}")
            return
        key, kind = _DELTAS[said]
        piece = self._blocks.get(number)
        if piece is None:
            self.draft.notes.add(f"a fragment for block {number}, which has not begun")
            piece = self._begin(number, kind)
        elif number not in self._open:
            self.draft.notes.add(f"a fragment for block {number}, which has ended")
        if piece.kind != kind:
            self.draft.notes.add(f"a {said} in a block of another kind")
            piece = self.draft.piece(0, (number, MAX_INDEX, list(_DELTAS).index(said)), kind)
        if said == "signature_delta":
            piece.sign(self.draft.words(delta.get(key), "a signature"))
        else:
            piece.add(self.draft.words(delta.get(key), f"the {key} of a fragment"))

    def _stop(self, number: int) -> None:
        if number not in self._open:
            self.draft.notes.add("a block ends that is not open")
        self._open.discard(number)

    def _finish(self, delta: dict[str, Any]) -> None:
        if delta.get("stop_reason") is not None:
            self.draft.stop(0, delta["stop_reason"])

    def _end(self) -> None:
        if self._open:
            self.draft.notes.add("message_stop while a block is open")
        if self.draft.stopped(0) is None:
            self.draft.notes.add("message_stop without a stop_reason")
        self.ended = True

    def _usage(self, usage: dict[str, Any]) -> None:
        """Its `input_tokens` are those beside the cache; in a stream the later numbers hold."""
        for key in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            number = count(usage.get(key))
            if number is not None:
                self._tokens[key] = number
        self.draft.use(
            input=sum(self._tokens.values()) if "input_tokens" in self._tokens else None,
            cached=self._tokens.get("cache_read_input_tokens"),
            output=usage.get("output_tokens"),
            reasoning=mapping(usage.get("output_tokens_details")).get("thinking_tokens"),
        )
