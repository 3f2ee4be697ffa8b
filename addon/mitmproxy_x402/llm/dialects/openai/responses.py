"""Reads OpenAI's responses: items with their parts, streamed or whole."""

from __future__ import annotations

import re
from typing import Any

from ....protocol.strict_json import shown
from ...draft import Draft
from ...values import count, mapping, string
from ..reader import Reader
from .items import ENDS, FRAGMENTS, NEEDED, PARTS, Items
from .numbering import Numbering

_STATES = {f"response.{state}" for state in (*ENDS, "created", "queued", "in_progress")}
_DONE = "response.done"
"""The last event of a response in a session, whatever its state."""
_UNTOLD = re.compile(
    r"(keepalive|ping|response\.(heartbeat|[a-z_]+_part\.(added|done)|compaction\.[a-z_]+|output_text\.annotation\.[a-z_]+"
    r"|[a-z_]+\.(in_progress|completed|failed|searching|interpreting|generating|compacting|done|added)))"
)
"""Events that say nothing that the whole item does not say again."""
_REALTIME = (
    _DONE,
    "conversation.",
    "rate_limits.",
    "session.",
    "input_audio_buffer.",
    "output_audio_buffer.",
)
"""Beginnings of events of a session, which may follow the last state of a response in it."""


class ResponsesReader(Reader):
    """Reads numbered events about items, or one `response`. The end is the event with the response's last state."""

    dialect = "openai-responses"
    is_openai = True
    end_mark = "last state of the response"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._items = Items(draft)
        self._numbers = Numbering(draft.notes)
        self._state_was = ""

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
        what, _, step = kind[9:].rpartition(".")
        if self._numbers.is_repeated(kind, value):
            if step == "delta":
                self._items.leave_out(what, value)
            return
        self._check(name, kind, typed=type(said) is str)
        self._number(value.get("sequence_number"), kind, value)
        items = self._items
        if what in FRAGMENTS and step in ("delta", "done"):
            items.fragment(what, step, value)
            return
        if not items.resumed:
            NEEDED.note(kind, value, self.draft.notes)
        if kind in _STATES or kind == _DONE:
            response = self.draft.mapping(value.get("response"), "a response")
            self._state(response, kind[9:] if kind != _DONE else _last(response))
        elif what == "output_item" and step in ("added", "done"):
            items.begin_or_end(value, done=step == "done")
        elif what in PARTS and step in ("added", "done"):
            items.part(what, step, value)
        elif kind == "error" or value.get("error"):
            self.draft.fail(value.get("error") or value)
        elif kind == "response.output_text.annotation.added":
            items.cite(items.place(value), value.get("annotation"))
        elif not items.other_fragment(what, step, value) and not _UNTOLD.fullmatch(kind):
            self.draft.leave(kind, value)

    def _check(self, name: str, kind: str, *, typed: bool) -> None:
        """Note what the SDK goes by otherwise, and what comes too late."""
        if not typed and kind[:9] == "response.":
            self.draft.notes.add("an event whose data does not say its type, which OpenAI's SDK takes for another")
        if name.startswith("thread."):  # other names mean nothing to OpenAI's SDK
            self.draft.notes.add(f"an event called {shown(name)} whose data says {shown(kind)}")
        if self.ended and not kind.startswith(_REALTIME):
            self.draft.notes.add("an event after the response's last state")

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
        first = self._numbers.last is None and not self._state_was and not self._items.kinds
        if first and not given and value and not value.get("error") and kind not in ("response.created", "error"):
            self.draft.notes.add("the stream does not begin with response.created, at which OpenAI's SDK fails")
        if first and kind not in _STATES and kind != "error":
            self._items.resumed = True
        self._numbers.take(number)

    def _state(self, response: dict[str, Any], state: str, *, whole: bool = False) -> None:
        draft = self.draft
        draft.name(response.get("model"), response.get("id"))
        usage = mapping(response.get("usage"))
        if usage:
            read, written = (
                mapping(usage.get(f"{what}_tokens_details") or usage.get(f"{what}_token_details"))  # in sessions
                for what in ("input", "output")
            )
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
        last = state in ENDS
        if not last and not whole:
            return
        output = draft.sequence(response.get("output"), "the output")
        if state == "completed" and response.get("output") == [] and self._items.kinds:
            draft.notes.add("the whole response at the end has no items, so that OpenAI's SDK says there is no answer")
        elif output and self._items.kinds and len(output) != len(self._items.kinds) and not self._items.resumed:
            draft.notes.add("the whole response at the end has another number of items than its events")
        for number, item in enumerate(output):
            said = draft.mapping(item, "an item")
            # Its place may be another one here than in the stream, where an item is left out; its id is the same.
            self._items.item(self._items.by_id.get(string(said.get("id")), number), said, done=True)
        if not last:
            return
        about = mapping(response.get("incomplete_details")) or mapping(response.get("status_details"))
        if state == "failed" and draft.error is None:
            draft.fail(about.get("error") or "failed")
        reason = about.get("reason") if state == "incomplete" else None
        for key, value in about.items():
            if key not in ("reason", "type", "error"):
                draft.detail(key, value)
        if not self.ended:
            draft.stop(0, reason if isinstance(reason, str) else state)
        self.ended = True


def _last(response: dict[str, Any]) -> str:
    """The last state of a response that is done."""
    status = string(response.get("status"))
    return status if status in ENDS else "completed"
