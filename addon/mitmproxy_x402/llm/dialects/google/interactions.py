"""Reads Google's interactions: steps of a model, streamed or whole."""

from __future__ import annotations

from typing import Any

from ....errors import Undecodable
from ...draft import Draft
from ...pieces import Kind, Piece
from ...values import MAX_INDEX, decode, dump, mapping, says_something, sequence, string
from ..agreeing import add_whole
from ..citations import citation_of
from ..reader import Reader

_FAMILIES = ("interaction.", "step.", "content.")
_FAMILIES_OF = {"interaction", "step", "content"}
_ENDS = {"completed", "failed", "cancelled", "incomplete", "requires_action", "budget_exceeded"}
_IN_CALLS = frozenset(("type", "id", "name", "arguments"))
_CALLS = {"function_call": "function", "mcp_server_tool_call": "mcp_server_tool_call"}
"""Types of steps that call a tool by its name: the ToolCall.kind of each."""
_MODEL_S = ("model_output", "thought", "", None)
"""Types of steps that the model itself takes."""
_RUNNING = {"in_progress", "queued", ""}


class InteractionsReader(Reader):
    """Reads events about numbered steps, or one interaction. The end is the event with its last state."""

    dialect = "gemini-interactions"
    end_mark = "interaction.completed"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._kinds: dict[int, str] = {}
        self._parts = 0
        self._last: dict[int, Piece] = {}
        self._compared = False
        self._resumed: bool | None = None  # whether the stream begins in the middle; None: it has not begun

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """Events of the known families, and an `interaction` itself."""
        kind = value.get("event_type")
        if isinstance(kind, str):
            return kind.startswith(_FAMILIES) or (kind == "error" and "is_finished" not in value)
        if value.get("object") == "interaction":
            return True
        return isinstance(value.get("steps"), list) and "total_tokens" in mapping(value.get("usage"))

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read one event."""
        said = string(value.get("event_type"))
        kind = said or name
        family, _, step = kind.partition(".")
        if self._resumed is None:
            self._resumed = family in ("step", "content")  # what came before was sent to somebody else
        if self.ended and family in ("step", "content"):
            self.draft.notes.add("an event after the interaction's last state")
        if not said and (family in _FAMILIES_OF or "delta" in value):
            self.draft.notes.add("an event whose data does not say its type, which Google's SDK takes for an error")
        self._usage(mapping(mapping(value.get("metadata")).get("usage")))
        if family == "interaction":
            inner = self.draft.mapping(value.get("interaction"), "an interaction")
            self._state(inner, last=step in ("completed", "complete"))
            if step == "status_update":
                self._status(value.get("status"))
        elif family in ("step", "content"):
            number = self.draft.index(value.get("index"), "a step")
            if step == "start":
                self._step(number, mapping(value.get("step")) or mapping(value.get("content")))
            elif step == "delta":
                self._content(number, self.draft.mapping(value.get("delta"), "a delta"))
            elif step == "stop" and number in self._last:
                self._last[number].closed = True
        elif kind == "error":
            self.draft.fail(value.get("error") or value)
        else:
            self.draft.leave(kind, value)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole interaction."""
        if "event_type" in value:
            self.event("message", value)
            return
        self.polled = True
        self._state(value, last=True)

    def _state(self, interaction: dict[str, Any], *, last: bool) -> None:
        self.draft.name(interaction.get("model") or interaction.get("agent"), interaction.get("id"))
        self._usage(mapping(interaction.get("usage")))
        for error in (interaction.get("error"), *sequence(interaction.get("errors"))):
            if error:
                self.draft.fail(error)
        steps = interaction.get("steps")
        if not isinstance(steps, list):
            steps = [{"type": "model_output", "content": sequence(interaction.get("outputs"))}]
        if last and not self._parts:
            self._whole_steps(steps)
        elif last and steps and not self._compared:
            self._compared = True  # once: it takes as long as the answer is
            for step in steps:
                self._fault(mapping(step))
            whole = InteractionsReader(self.draft.empty())
            whole._whole_steps(steps)
            self._parts = add_whole(self.draft, whole.draft, self._parts, resumed=self._resumed)
        if last:
            self._status(interaction.get("status"))

    def _whole_steps(self, steps: list[Any]) -> None:
        """Read the steps of a whole interaction."""
        for number, step in enumerate(steps):
            if mapping(step).get("type") != "user_input":
                self._step(number, mapping(step))
        for piece in self._last.values():
            piece.closed = True

    def _status(self, status: Any) -> None:
        said = string(status)
        if said in _RUNNING:
            return
        if said == "failed" and self.draft.error is None:
            self.draft.fail(said)
        self.draft.stop(0, said, last=True)
        self.ended = said in _ENDS

    def _step(self, number: int, step: dict[str, Any]) -> None:
        """Read the begin of a step, or a whole step."""
        kind = string(step.get("type"))
        if len(self._kinds) < self.draft.max_items:
            self._kinds[number] = kind
        self._fault(step)
        if kind in ("model_output", ""):
            for part in self.draft.sequence(step.get("content"), "the content of a step"):
                self._content(number, self.draft.mapping(part, "a part"))
        elif kind == "thought":
            for part in sequence(step.get("summary")):
                self._content(number, {"type": "thought_summary", "content": part})
            self._content(number, {"type": "thought_signature", "signature": step.get("signature")})
        else:
            self._content(number, step)

    def _fault(self, step: dict[str, Any]) -> None:
        """Read the error of a step of the model's; that of a tool's is shown with its result."""
        if step.get("type") in _MODEL_S and step.get("error"):
            self.draft.fail(step["error"])

    def _content(self, number: int, part: dict[str, Any]) -> None:
        """Read a part of a step, or a fragment of one."""
        kind = string(part.get("type"))
        if kind == "text":
            self._piece(number, "text").add(self.draft.words(part.get("text"), "text"))
            for one in sequence(part.get("annotations")):
                self._cite(number, one)
        elif kind in ("thought_summary", "thought"):
            self._thought(number, kind, part)
        elif kind == "thought_signature":
            if string(part.get("signature")):
                self._piece(number, "reasoning").sign(string(part["signature"]))
        elif kind in ("text_annotation_delta", "text_annotation"):
            for one in sequence(part.get("annotations")):
                self._cite(number, one)
        elif kind == "arguments_delta":
            text = next(
                (part[key] for key in ("arguments", "partial_arguments") if isinstance(part.get(key), str)), None
            )
            if text is None:
                self._other(number, kind, part)
            else:
                self._piece(number, "call").add(text)
        elif kind in _CALLS:
            self._call(number, kind, part)
        elif part:
            self._other(number, kind or "part", part)

    def _thought(self, number: int, kind: str, part: dict[str, Any]) -> None:
        """Read a thought, whose text stands under different keys in different versions."""
        content = part.get("content")
        inside = [content] if isinstance(content, dict) else sequence(content)
        found = [part.get("thought"), part.get("text"), content]
        found += [mapping(one).get("text") for one in (*inside, *sequence(part.get("summary")))]
        texts = [text for text in found if isinstance(text, str)]
        if not texts and not string(part.get("signature")):
            if says_something({key: value for key, value in part.items() if key != "type"}):
                self._other(number, kind, part)
            return
        piece = self._piece(number, "reasoning")
        for text in texts:
            piece.add(text)
        piece.sign(string(part.get("signature")))

    def _other(self, number: int, kind: str, part: dict[str, Any]) -> None:
        """Read a part of another kind; deltas of the same type fill what the start of the step left empty."""
        last = self._last.get(number)
        if last is not None and last.kind == "other" and last.name == kind == self._kinds.get(number):
            before = mapping(last.value)
            if all(not says_something(before.get(key)) or before[key] == value for key, value in part.items()):
                last.keep(kind, {**before, **part})
                return
        self._piece(number, "other", new=True).keep(kind, part)

    def _call(self, number: int, kind: str, call: dict[str, Any]) -> None:
        """Read a call, or a delta with all of its arguments."""
        identity = string(call.get("id"))
        name = self.draft.words(call.get("name"), "the name of a function")
        arguments = call.get("arguments")
        text = arguments if isinstance(arguments, str) else dump(self.draft.written(arguments)) if arguments else ""
        known = self._last.get(number)
        again = (
            known is not None
            and known.kind == "call"
            and (self._kinds.get(number) == kind or bool(identity and identity == known.id))
            and (not identity or known.id in ("", identity))
            and (not name or known.name in ("", name))
            and (isinstance(arguments, str) or not (text and known.size) or _same(known.text, arguments))
        )
        piece = self._piece(number, "call", new=bool(name) and not again)
        piece.needs_id = False
        piece.tool = _CALLS[kind]
        piece.identify(identity)
        piece.beside(call, _IN_CALLS)
        if not (again and name == piece.name):
            piece.call(name)
        if isinstance(arguments, str) or not piece.size:
            piece.add(text)
        piece.empty_means = "{}"

    def _cite(self, number: int, one: Any) -> None:
        citation = citation_of(one, "annotation")
        if citation is not None:
            self.draft.cite(0, (number, MAX_INDEX), citation)

    def _piece(self, number: int, kind: Kind, *, new: bool = False) -> Piece:
        last = self._last.get(number)
        if not new and last is not None and last.kind == kind:
            return last
        self._parts += 1
        piece = self.draft.piece(0, (number, self._parts), kind)
        if piece.kept:
            self._last[number] = piece
        return piece

    def _usage(self, usage: dict[str, Any]) -> None:
        """Read the usage. Its output leaves out thoughts, its input what tools added."""
        if not usage:
            return
        keys = ("total_output_tokens", "total_thought_tokens", "total_input_tokens", "total_tool_use_tokens")
        written, thought, read, brought = (self.draft.tokens(usage.get(key)) for key in keys)
        self.draft.use(
            input=None if read is None else read + (brought or 0),
            cached=usage.get("total_cached_tokens"),
            tool_use=brought or None,
            output=None if written is None and thought is None else (written or 0) + (thought or 0),
            reasoning=thought,
            total=usage.get("total_tokens"),
        )


def _same(text: str, value: Any) -> bool:
    """Whether `text` is JSON for `value`."""
    try:
        return bool(decode(text)[0] == value)
    except Undecodable:
        return False
