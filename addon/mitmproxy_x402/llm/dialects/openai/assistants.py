"""Reads OpenAI's assistants: a run and what it produces, streamed or whole."""

from __future__ import annotations

from typing import Any

from ...draft import Draft
from ...pieces import Piece
from ...values import MAX_INDEX, dump, index, mapping, sequence, string
from ..citations import citation_of
from ..reader import Reader

_ENDS = {"completed", "requires_action", "failed", "cancelled", "expired", "incomplete"}
"""Statuses of a run after which the stream ends."""
_SAYING = {"thread.message.delta", "thread.run.step.delta"}
"""What nothing of comes after the run has ended."""
_MAX_OUTPUTS = 1000
_IN_CALLS = frozenset(("id", "type", "index", "function"))
_IN_FUNCTIONS = frozenset(("name", "arguments", "index"))


class AssistantsReader(Reader):
    """Reads events named after their object: a run, its steps, its messages. The end is the run's last status."""

    dialect = "openai-assistants"
    end_mark = "last status of the run"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._messages: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._calls: dict[str, int] = {}

    @staticmethod
    def speaks(name: str, value: dict[str, Any]) -> bool:
        """Whether `value` is an object `thread.*` that is part of an answer, by itself or by the event's name."""
        what = value.get("object")
        if (what == "thread" and name == "thread.created") or (what is None and _object_of(name)):
            return True
        if not isinstance(what, str) or not what.startswith("thread."):
            return False
        return name.startswith("thread.") or what in ("thread.run", "thread.message.delta", "thread.run.step.delta")

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read one event."""
        what = _object_of(name)
        if not what:  # OpenAI's SDK goes by the name alone
            what = string(value.get("object"))
            if self.draft.has_names and what.startswith("thread."):
                self.draft.notes.add("an event without its name in a line `event:`, which OpenAI's SDK skips")
        if self.ended and what in _SAYING:
            self.draft.notes.add("an event after the run's last status")
        if what == "thread.run":
            self._run(value)
        elif what == "thread.message.delta":
            self._fragment(value)
        elif what == "thread.message":
            self._message(value)
        elif what in ("thread.run.step", "thread.run.step.delta"):
            delta = mapping(value.get("delta")) or value
            self._step(
                string(value.get("id")),
                self.draft.mapping(delta.get("step_details"), "the details of a step"),
                whole=what == "thread.run.step",
            )
        elif what != "thread" and name not in ("done", "error"):
            self.draft.leave(name, value)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole run."""
        self.polled = True
        self.event("message", value)

    def _run(self, run: dict[str, Any]) -> None:
        self.draft.name(run.get("model"), run.get("id"))
        usage, status = mapping(run.get("usage")), string(run.get("status"))
        self.draft.use(
            input=usage.get("prompt_tokens"),
            output=usage.get("completion_tokens"),
            total=usage.get("total_tokens"),
            cached=mapping(usage.get("prompt_token_details")).get("cached_tokens"),
        )
        if run.get("last_error"):
            self.draft.fail(run["last_error"])
        elif status == "failed":
            self.draft.fail("failed")
        required = mapping(mapping(run.get("required_action")).get("submit_tool_outputs"))
        for number, call in enumerate(map(mapping, sequence(required.get("tool_calls")))):
            self._call(number, call, whole=True)
        self.draft.detail("incomplete_details", run.get("incomplete_details"))
        if status in _ENDS:
            self.draft.stop(0, status, last=True)
            self.ended = True

    def _message(self, message: dict[str, Any]) -> None:
        """Read a message, at its begin or at its end."""
        if message.get("role") not in ("assistant", None):
            return
        number = self._number(self._messages, string(message.get("id")))
        for place, part in enumerate(self.draft.sequence(message.get("content"), "the content")):
            self._part(number, place, self.draft.mapping(part, "a part"), whole=True)

    def _fragment(self, value: dict[str, Any]) -> None:
        identity = string(value.get("id")) or next(reversed(self._messages), "")
        number = self._number(self._messages, identity)
        delta = self.draft.mapping(value.get("delta"), "a delta")
        for place, part in enumerate(self.draft.sequence(delta.get("content"), "the content")):
            said = self.draft.mapping(part, "a part")
            self._part(number, self.draft.index(said.get("index"), "a part", place), said, whole=False)

    def _part(self, number: int, place: int, part: dict[str, Any], *, whole: bool) -> None:
        kind = string(part.get("type"))
        if kind not in ("text", "refusal"):  # OpenAI's SDK joins what is under the same key
            kind = next((key for key, said in (("text", dict), ("refusal", str)) if type(part.get(key)) is said), kind)
            if kind in ("text", "refusal"):
                self.draft.notes.add(f"a part with {kind} that does not say that it is {kind}")
        if kind == "text":
            text = self.draft.mapping(part.get("text"), "a text")
            self._say(self.draft.piece(0, (0, number, place), "text"), text.get("value"), whole=whole)
            for one in sequence(text.get("annotations")):
                citation = citation_of(one, "annotation")
                if citation is not None:
                    self.draft.cite(0, (0, number, MAX_INDEX), citation)
        elif kind == "refusal":
            self._say(self.draft.piece(0, (0, number, place), "refusal"), part.get("refusal"), whole=whole)
        elif part:
            self.draft.piece(0, (0, number, place), "other").keep(kind or "part", part)

    def _say(self, piece: Piece, text: Any, *, whole: bool) -> None:
        words = self.draft.words(text, "a text")
        if not whole or not piece.size:
            piece.add(words)
        elif words and not piece.says(words):
            self.draft.differ(piece, words)

    def _step(self, identity: str, details: dict[str, Any], *, whole: bool) -> None:
        """Read a step of the run: the calls of tools in it."""
        base = self._number(self._steps, identity) * 1000
        for place, call in enumerate(map(mapping, sequence(details.get("tool_calls")))):
            number = index(call.get("index"))
            self._call(base + (place if number is None else number), call, whole=whole)

    def _call(self, number: int, call: dict[str, Any], *, whole: bool) -> None:
        """Read a call, or a fragment of one; the run repeats those of its steps."""
        kind = string(call.get("type")) or "function"
        if string(call.get("id")) and len(self._calls) < self.draft.max_items:
            number = self._calls.setdefault(string(call["id"]), number)
        if kind != "function":
            other = self.draft.piece(0, (2, number), "other")
            said = mapping(call.get(kind))
            if whole:
                other.keep(kind, said)
                other.forget()
            else:
                self._grow(other, kind, said)
            return
        piece = self.draft.piece(0, (1, number), "call")
        function = mapping(call.get("function"))
        piece.identify(string(call.get("id")))
        piece.beside(call, _IN_CALLS)
        piece.beside(function, _IN_FUNCTIONS)
        if whole:
            self.draft.name_whole_call(piece, function.get("name"))
        else:
            self.draft.name_call(piece, function.get("name"), joined=True)
        self._say(piece, function.get("arguments"), whole=whole)

    def _grow(self, other: Piece, kind: str, said: dict[str, Any]) -> None:
        """Read a fragment of what a tool of OpenAI's does: of its input, and of its outputs, which have an index."""
        outputs = self.draft.sequence(said.get("outputs"), "outputs")
        if other.value is None:
            other.keep(kind, {key: one for key, one in said.items() if key not in ("input", "outputs")})
        other.put(("input",), string(said.get("input")))
        known = other.value.setdefault("outputs", []) if outputs and isinstance(other.value, dict) else []
        for place, output in enumerate(map(mapping, outputs)):
            number = index(output.get("index"))
            number = place if number is None else number
            if number < len(known) and isinstance(known[number].get("logs"), str):
                known[number]["logs"] += self.draft.fitting(string(output.get("logs")))
            elif len(known) < _MAX_OUTPUTS and self.draft.room(len(dump(output))):
                known.append(dict(output))

    def _number(self, known: dict[str, int], identity: str) -> int:
        if identity not in known and len(known) >= self.draft.max_items:
            return self.draft.max_items
        return known.setdefault(identity, len(known))


def _object_of(name: str) -> str:
    """The object that an event called `name` is about, such as `thread.run` of `thread.run.created`."""
    what, _, step = name.rpartition(".")
    if not name.startswith("thread."):
        return ""
    return name if step == "delta" else what
