"""OpenAI's responses."""

from __future__ import annotations

import re
from typing import Any

from ..protocol.strict_json import shown
from .dialects import Reader
from .draft import Draft, Kind, Piece
from .printing import error_line
from .values import count, mapping, sequence, string

_ENDS = {"response.completed", "response.incomplete", "response.failed"}
_STATES = {"response.created", "response.queued", "response.in_progress"}
_FRAGMENTS: dict[str, tuple[Kind, int, str]] = {
    "output_text": ("text", 0, "content_index"),
    "refusal": ("refusal", 0, "content_index"),
    "reasoning_summary_text": ("reasoning", 0, "summary_index"),
    "reasoning_text": ("reasoning", 1, "content_index"),
    "function_call_arguments": ("call", 0, ""),
    "mcp_call_arguments": ("call", 0, ""),
    "custom_tool_call_input": ("call", 0, ""),
}
"""What comes as response.X.delta and response.X.done: the part, and where it stands within its item."""
_UNTOLD = re.compile(
    r"keepalive|response\.(content_part|reasoning_summary_part|output_text\.annotation|compaction"
    r"|(web_search|file_search|code_interpreter|image_generation|mcp)_call(_code)?|mcp_list_tools"
    r"|shell_call_(command|output_content)|audio(\.transcript)?)\.[a-z_]+"
)
"""Events that say nothing that the whole item does not say again."""
_CALLS = {"function_call": "arguments", "custom_tool_call": "input", "mcp_call": "arguments"}
"""Kinds of items that are calls, and the key of what they are called with."""


class ResponsesReader(Reader):
    """Numbered events around items, or one `response`. The end is the event with the response's last state."""

    dialect = "openai-responses"
    end_mark = "last state of the response"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._items: set[int] = set()
        self._sequence: int | None = None

    def event(self, name: str, value: dict[str, Any]) -> None:
        """An event; its data names its type once more."""
        kind = string(value.get("type")) or name
        if name not in (kind, "message"):
            self.draft.notes.add(f"an event called {shown(name)} whose data says {shown(kind)}")
        if self.ended:
            self.draft.notes.add("an event after the response's last state")
        self._number(value.get("sequence_number"))
        if kind in _STATES or kind in _ENDS:
            self._state(mapping(value.get("response")), kind.rpartition(".")[2], last=kind in _ENDS)
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._item(self.draft.index(value.get("output_index"), "an item"), mapping(value.get("item")))
        elif kind == "error":
            self.draft.fail(error_line(value.get("error") or value))
        else:
            self._fragment(kind, value)

    def whole(self, value: dict[str, Any]) -> None:
        """A `response`."""
        status = string(value.get("status"))
        self._state(value, status, last=f"response.{status}" in _ENDS)

    def _number(self, number: Any) -> None:
        given = count(number)
        if given is None:
            return
        if self._sequence is not None and given != self._sequence + 1:
            self.draft.notes.add(f"the sequence_number jumps from {self._sequence} to {given}")
        self._sequence = given

    def _state(self, response: dict[str, Any], state: str, *, last: bool) -> None:
        self.draft.name(response.get("model"), response.get("id"))
        usage = mapping(response.get("usage"))
        self.draft.use(
            input=usage.get("input_tokens"),
            output=usage.get("output_tokens"),
            total=usage.get("total_tokens"),
            cached=mapping(usage.get("input_tokens_details")).get("cached_tokens"),
            reasoning=mapping(usage.get("output_tokens_details")).get("reasoning_tokens"),
        )
        if response.get("error"):
            self.draft.fail(error_line(response["error"]))
        if not last:
            return
        output = sequence(response.get("output"))
        if output and self._items and len(output) != len(self._items):
            self.draft.notes.add("the whole response at the end has another number of items than its events")
        for number, item in enumerate(output):
            self._item(number, mapping(item))
        if state == "failed" and self.draft.error is None:
            self.draft.fail("failed")
        reason = mapping(response.get("incomplete_details")).get("reason") if state == "incomplete" else None
        if not self.ended:
            self.draft.stop(0, reason if isinstance(reason, str) else state)
        self.ended = True

    def _item(self, number: int, item: dict[str, Any]) -> None:
        """An item, as it begins or as it is in the end: what it brings replaces nothing, but must be the same."""
        kind = string(item.get("type"))
        if len(self._items) < self.draft.max_items:
            self._items.add(number)
        if kind == "message":
            for place, part in enumerate(map(mapping, sequence(item.get("content")))):
                self._content(number, place, part)
        elif kind == "reasoning":
            for place, part in enumerate(map(mapping, sequence(item.get("summary")))):
                self._say(number, 0, place, "reasoning", part.get("text"))
            for place, part in enumerate(map(mapping, sequence(item.get("content")))):
                self._say(number, 1, place, "reasoning", part.get("text"))
            if string(item.get("encrypted_content")):  # the last one counts: at first there is only its beginning
                self._piece(number, 0, 0, "reasoning").seal(string(item["encrypted_content"]))
        elif kind in _CALLS:
            piece = self._piece(number, 0, 0, "call")
            piece.identify(string(item.get("call_id")) or string(item.get("id")))
            if not piece.name:
                piece.call(self.draft.words(item.get("name"), "the name of a tool"))
            piece.tool = {"function_call": "function", "custom_tool_call": "custom"}.get(kind, kind)
            self._whole(piece, item.get(_CALLS[kind]))
            if item.get("output") is not None or item.get("error"):
                self._piece(number, 2, 0, "other").keep(f"{kind} output", item.get("output") or item.get("error"))
        else:
            self._piece(number, 2, 0, "other").keep(kind, item)

    def _content(self, number: int, place: int, part: dict[str, Any]) -> None:
        kind = string(part.get("type"))
        if kind == "output_text":
            self._say(number, 0, place, "text", part.get("text"))
        elif kind == "refusal":
            self._say(number, 0, place, "refusal", part.get("refusal"))
        else:
            self._piece(number, 0, place, "other").keep(kind, part)

    def _say(self, number: int, group: int, place: int, kind: Kind, text: Any) -> None:
        self._whole(self._piece(number, group, place, kind), text)

    def _whole(self, piece: Piece, text: Any) -> None:
        """All of a part's text: it is what its fragments said, where there were any."""
        words = self.draft.words(text, "a part of an item")
        if not piece.size:
            piece.add(words)
        elif words and not piece.says(words):
            self.draft.notes.add("the whole text of a part is not what its fragments said, which is shown")

    def _fragment(self, kind: str, value: dict[str, Any]) -> None:
        what, _, step = kind.removeprefix("response.").rpartition(".")
        if what not in _FRAGMENTS or step not in ("delta", "done"):
            if not _UNTOLD.fullmatch(kind):
                self.draft.notes.add(f"an unknown event {shown(kind)}")
            return
        part, group, within = _FRAGMENTS[what]
        number = self.draft.index(value.get("output_index"), f"a {what} fragment")
        if number not in self._items:
            self.draft.notes.add("a fragment for an item that has not begun")
        place = self.draft.index(value.get(within, 0), f"a {what} fragment") if within else 0
        piece = self._piece(number, group, place, part)
        if what == "custom_tool_call_input":
            piece.tool = "custom"
        if step == "delta":
            if piece.closed:
                self.draft.notes.add("a fragment for a part that has ended")
            piece.add(self.draft.words(value.get("delta"), "a fragment"))
        else:
            piece.closed = True
            self._whole(
                piece, next((value[key] for key in ("text", "refusal", "arguments", "input") if key in value), None)
            )

    def _piece(self, number: int, group: int, place: int, kind: Kind) -> Piece:
        piece = self.draft.piece(0, (number, group, place), kind)
        if piece.kind != kind:
            self.draft.notes.add(f"item {number} changes what it is")
            piece = self.draft.piece(
                0, (number, 3, place, ("text", "reasoning", "refusal", "call", "other").index(kind)), kind
            )
        return piece
