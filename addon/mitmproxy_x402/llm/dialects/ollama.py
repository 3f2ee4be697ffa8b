"""Reads Ollama's own chat and generate."""

from __future__ import annotations

from typing import Any

from ..draft import Draft
from ..values import dump, sequence, string
from .reader import Reader

_REASONING, _TEXT, _CALL, _OTHER = range(4)
_IN_CALLS = frozenset(("id", "type", "index", "function"))
_IN_FUNCTIONS = frozenset(("name", "arguments", "index"))


class OllamaReader(Reader):
    """Reads JSON lines with fragments; the last one, or the only one, is `done`."""

    dialect = "ollama"
    end_mark = "line that says done"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._calls = 0

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """Whether `value` has `done`, and a message or a response; a line that leaves it out tells when it was made."""
        told = isinstance(value.get("created_at"), str) and isinstance(value.get("model"), str)
        if not isinstance(value.get("done"), bool) and ("done" in value or not told):
            return False
        return isinstance(value.get("message"), dict) or isinstance(value.get("response"), str)

    def event(self, _: str, value: dict[str, Any]) -> None:
        """Read one line."""
        if self.ended:
            self.draft.notes.add("a line after the one that says done")
        self.whole(value)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole answer, or one line of it."""
        draft = self.draft
        draft.name(value.get("model"))
        if value.get("error"):
            draft.fail(value["error"])
        message = draft.mapping(value.get("message"), "a message")
        thought = message.get("thinking") or value.get("thinking")
        if thought:
            draft.piece(0, (_REASONING,), "reasoning").add(draft.words(thought, "thinking"))
        text = message.get("content", value.get("response"))
        if text:
            draft.piece(0, (_TEXT,), "text").add(draft.words(text, "content"))
        for call in draft.sequence(message.get("tool_calls"), "tool calls"):
            self._call(draft.mapping(call, "a tool call"))
        for said in (message, value):
            for one in (said.get("image"), *sequence(said.get("images"))):
                if one:
                    self._calls += 1
                    draft.piece(0, (_OTHER, self._calls), "other").keep("image", {"type": "image", "data": one})
        if value.get("done") is True:
            reason = string(value.get("done_reason"))
            draft.use(input=value.get("prompt_eval_count"), output=value.get("eval_count"))
            draft.stop(0, reason or "done")
            self.ended = True

    def _call(self, call: dict[str, Any]) -> None:
        """Read a call, which comes whole; older versions give no id."""
        self._calls += 1
        piece, function = (
            self.draft.piece(0, (_CALL, self._calls), "call"),
            self.draft.mapping(call.get("function"), "a function"),
        )
        piece.needs_id = False
        piece.identify(string(call.get("id")))
        piece.beside(call, _IN_CALLS)
        piece.beside(function, _IN_FUNCTIONS)
        piece.call(self.draft.words(function.get("name"), "the name of a tool"))
        arguments = function.get("arguments")
        piece.add(
            arguments
            if isinstance(arguments, str)
            else dump(self.draft.written({} if arguments is None else arguments))
        )
