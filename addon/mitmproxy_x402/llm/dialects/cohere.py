"""Reads Cohere's chat, versions 1 and 2."""

from __future__ import annotations

from typing import Any

from ..draft import Draft
from ..pieces import Piece
from ..values import dump, index, mapping, same_json, sequence, string
from .citations import citation_of
from .invoke_model import tokens_of
from .reader import Reader

_REASONING, _PLAN, _TEXT, _CITED, _CALL, _OTHER = range(6)
_V2 = {
    *("message-start", "message-end", "content-start", "content-delta", "content-end", "tool-plan-delta"),
    *("tool-call-start", "tool-call-delta", "tool-call-end", "citation-start", "citation-end"),
}


def _use(draft: Draft, usage: dict[str, Any]) -> None:
    """Read the usage: `tokens` if given, otherwise `billed_units`, which are those charged."""
    tokens = mapping(usage.get("tokens")) or mapping(usage.get("billed_units"))
    numbers = {key: tokens.get(key) for key in ("input_tokens", "output_tokens")}
    whole = {key: int(one) if isinstance(one, float) and one.is_integer() else one for key, one in numbers.items()}
    draft.use(input=whole["input_tokens"], output=whole["output_tokens"], cached=usage.get("cached_tokens"))


_IN_CALLS = frozenset(("id", "type", "index", "function"))
_IN_FUNCTIONS = frozenset(("name", "arguments", "index"))
_IN_CALLS_V1 = frozenset(("name", "parameters", "generation_id"))


class ChatV2Reader(Reader):
    """Reads events about the parts of one message, or the message. The end is `message-end`."""

    dialect = "cohere-v2"
    end_mark = "message-end"

    @staticmethod
    def speaks(name: str, value: dict[str, Any]) -> bool:
        """Events of the known types; an assistant's message beside its finish_reason."""
        kind = value.get("type")
        if isinstance(kind, str):
            return kind in _V2
        if name in _V2:  # the SDK goes by either
            return True
        message = value.get("message")
        return isinstance(message, dict) and "finish_reason" in value and message.get("role") == "assistant"

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read one event."""
        kind, delta = string(value.get("type")) or name, self.draft.mapping(value.get("delta"), "a delta")
        message = self.draft.mapping(delta.get("message"), "a message")
        if self.ended and kind in _V2:
            self.draft.notes.add("an event after message-end")
        number = self.draft.index(value.get("index"), "a part")
        if kind in ("content-start", "content-delta"):
            self._content(number, self.draft.mapping(message.get("content"), "the content"))
        elif kind == "tool-plan-delta":
            self._plan(message)
        elif kind in ("tool-call-start", "tool-call-delta"):
            calls = message.get("tool_calls")
            for call in calls if isinstance(calls, list) else [calls]:
                self._call(number, self.draft.mapping(call, "a tool call"))
        elif kind == "tool-call-end":
            self.draft.close(0, (_CALL, number))
        elif kind == "citation-start":
            cited = message.get("citations")
            for one in cited if isinstance(cited, list) else [cited]:
                self._cite(one)
        elif kind == "message-end":
            self._finish(delta)
        elif kind == "message-start":
            self.draft.name(None, value.get("id"))
        elif kind not in _V2:
            if kind == "message" and "delta" in value:
                self.draft.notes.add("an event that does not say its type, which is not read")
            self.draft.leave(kind, value)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole message."""
        if "message" not in value:
            self.event("message", value)
            return
        self.draft.name(value.get("model"), value.get("id"))
        message = self.draft.mapping(value.get("message"), "the message")
        self._plan(message)
        for number, part in enumerate(self.draft.sequence(message.get("content"), "the content")):
            self._content(number, self.draft.mapping(part, "a part"))
        for number, call in enumerate(self.draft.sequence(message.get("tool_calls"), "tool calls")):
            self._call(number, self.draft.mapping(call, "a tool call"))
        for one in sequence(message.get("citations")):
            self._cite(one)
        self._finish(value)

    def _plan(self, message: dict[str, Any]) -> None:
        """Read the plan that precedes tool calls."""
        words = self.draft.words(message.get("tool_plan"), "a plan")
        if words:
            self.draft.piece(0, (_PLAN,), "reasoning").add(words)

    def _content(self, number: int, part: dict[str, Any]) -> None:
        if "thinking" in part:
            piece = self.draft.piece(0, (_REASONING, number), "reasoning")
            piece.add(self.draft.words(part["thinking"], "thinking"))
        elif "text" in part:
            self.draft.piece(0, (_TEXT, number), "text").add(self.draft.words(part["text"], "text"))
        elif part and set(part) != {"type"}:
            self.draft.piece(0, (_OTHER, number), "other").keep(string(part.get("type")) or "part", part)

    def _call(self, number: int, call: dict[str, Any]) -> None:
        piece = self.draft.piece(0, (_CALL, number), "call")
        function = self.draft.mapping(call.get("function"), "a function")
        piece.identify(string(call.get("id")))
        piece.beside(call, _IN_CALLS)
        piece.beside(function, _IN_FUNCTIONS)
        self.draft.name_call(piece, function.get("name"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            piece.add(dump(self.draft.written(arguments)))
        elif arguments != "null" or piece.size:  # what it sends for a tool without parameters
            piece.add(self.draft.words(arguments, "arguments"))
        piece.empty_means = "{}"

    def _cite(self, one: Any) -> None:
        citation = citation_of(one, "citation")
        if citation is not None:
            self.draft.cite(0, (_CITED,), citation)

    def _finish(self, value: dict[str, Any]) -> None:
        _use(self.draft, mapping(value.get("usage")))
        reason = value.get("finish_reason")
        if value.get("error") or reason in ("ERROR", "TIMEOUT"):
            self.draft.fail(value.get("error") or reason)
        if reason is not None:
            self.draft.stop(0, reason)
        self.ended = True


class ChatV1Reader(Reader):
    """Reads JSON lines with fragments; the last one repeats the whole answer. The end is `stream-end`."""

    dialect = "cohere-v1"
    end_mark = "stream-end"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._calls: dict[int, Piece] = {}
        self._others = 0

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """Events with `is_finished`; a whole one by its generation's id beside its text."""
        if isinstance(value.get("event_type"), str):
            return "is_finished" in value
        return "generation_id" in value and isinstance(value.get("text"), str)

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read one event."""
        kind = string(value.get("event_type"))
        if self.ended:
            self.draft.notes.add("an event after stream-end")
        if not kind and ("is_finished" in value or "text" in value or "tool_call_delta" in value):
            self.draft.notes.add("an event that does not say its type, which is not read")
        if kind == "text-generation":
            self._text(value.get("text"))
        elif kind == "tool-calls-chunk":
            self._chunk(value)
        elif kind == "citation-generation":
            for one in sequence(value.get("citations")):
                self._cite(one)
        elif kind == "stream-end":
            self._end(value)
        elif kind == "stream-start":
            self.draft.name(None, value.get("generation_id"))
        elif kind in ("search-results", "search-queries-generation"):
            self._others += 1
            self.draft.piece(0, (_OTHER, self._others), "other").keep(kind, value)
        elif kind == "tool-calls-generation":
            self._whole_calls(value)
        else:
            self.draft.leave(kind or name, value)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole answer."""
        if "event_type" in value:
            self.event("message", value)
            return
        self._response(value)
        self._finish(value.get("finish_reason"))

    def _text(self, text: Any) -> None:
        self.draft.piece(0, (_TEXT,), "text").add(self.draft.words(text, "text"))

    def _chunk(self, value: dict[str, Any]) -> None:
        """Read a fragment of the plan, or of a call."""
        if isinstance(value.get("text"), str):
            self._text(value["text"])
        delta = self.draft.mapping(value.get("tool_call_delta"), "a tool call")
        if delta:
            number = index(delta.get("index")) or 0
            piece = self._call(number)
            self.draft.name_call(piece, delta.get("name"))
            piece.add(self.draft.words(delta.get("parameters"), "parameters"))

    def _call(self, number: int) -> Piece:
        piece = self.draft.piece(0, (_CALL, number), "call")
        piece.needs_id = False
        piece.empty_means = "{}"
        if piece.kept:
            self._calls[number] = piece
        return piece

    def _cite(self, one: Any) -> None:
        said = mapping(one)
        documents = ", ".join(string(each) for each in sequence(said.get("document_ids")) if string(each))
        citation = citation_of({**said, **({"source": documents} if documents else {})}, "citation")
        if citation is not None:
            self.draft.cite(0, (_CITED,), citation)

    def _end(self, value: dict[str, Any]) -> None:
        self._response(self.draft.mapping(value.get("response"), "the response"))
        self.draft.use(**tokens_of(value))
        reason = value.get("finish_reason")
        if isinstance(reason, str) and reason.startswith("ERROR"):
            self.draft.fail({"type": reason, "message": string(value.get("error"))})
        self._finish(reason)

    def _response(self, response: dict[str, Any]) -> None:
        """Read the whole answer; what fragments have not said is added."""
        self.draft.name(response.get("model"), response.get("generation_id"))
        piece, text = self.draft.piece(0, (_TEXT,), "text"), self.draft.words(response.get("text"), "the text")
        if not piece.size:
            piece.add(text)
        elif text and not piece.says(text):
            self.draft.differ(piece, text)
        self._whole_calls(response)
        for one in sequence(response.get("citations")):
            self._cite(one)
        _use(self.draft, mapping(response.get("meta")))

    def _whole_calls(self, value: dict[str, Any]) -> None:
        """Read whole calls; those that fragments have brought, in this order, are compared."""
        known = [piece for _, piece in sorted(self._calls.items())]
        for number, one in enumerate(self.draft.sequence(value.get("tool_calls"), "tool calls")):
            said, piece = self.draft.mapping(one, "a tool call"), known[number] if number < len(known) else None
            arguments = dump(self.draft.written(said.get("parameters") or {}))
            if piece is None:
                piece = self._call(max(self._calls, default=-1) + 1)
                piece.call(self.draft.words(said.get("name"), "the name of a tool"))
                piece.beside(said, _IN_CALLS_V1)
                piece.add(arguments)
                continue
            self.draft.name_whole_call(piece, said.get("name"))
            if not piece.size or not same_json(piece.text, arguments):
                self.draft.differ(piece, arguments)

    def _finish(self, reason: Any) -> None:
        if reason is not None:
            self.draft.stop(0, reason)
        self.ended = True
