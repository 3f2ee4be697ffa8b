"""Reads Amazon Bedrock's Converse and ConverseStream."""

from __future__ import annotations

from typing import Any

from ..draft import Draft
from ..pieces import Kind, Piece
from ..values import dump, mapping, sequence, string
from .citations import citation_of
from .reader import Reader

_EVENTS = {"messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"}
_IN_MESSAGES = _EVENTS - {"metadata"}
"""Events that come before messageStop."""
_CITED = 1
_IN_CALLS = frozenset(("toolUseId", "name", "input", "type"))


class ConverseReader(Reader):
    """Reads events whose names stand outside their data, or one answer. The end is `messageStop`; usage follows it."""

    dialect = "bedrock-converse"
    end_mark = "messageStop"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._others = 0

    @staticmethod
    def speaks(name: str, value: dict[str, Any]) -> bool:
        """Events of the known names, which may also be the only key of their data; a message under `output`."""
        if name in _EVENTS:
            return True
        if (key := _key_of(value)) and key != "metadata":
            return True
        output = value.get("output")
        return isinstance(output, dict) and isinstance(output.get("message"), dict) and "stopReason" in value

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read one event."""
        if name not in _EVENTS and (key := _key_of(value)):
            name, value = key, value[key]
        if self.ended and name in _IN_MESSAGES:
            self.draft.notes.add("an event after messageStop")
        if name == "contentBlockDelta":
            self._delta(self._number(value), self.draft.mapping(value.get("delta"), "a delta"))
        elif name == "contentBlockStart":
            self._block(self._number(value), self.draft.mapping(value.get("start"), "a block"))
        elif name == "messageStop":
            self._stop(value)
        elif name == "metadata":
            self._metadata(value)
        elif name == "contentBlockStop":
            self.draft.close(0, (self._number(value), 0))
        elif name != "messageStart":
            self.draft.leave(name, value)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole answer of Converse."""
        if "stopReason" not in value:
            self.event("message", value)
            return
        draft = self.draft
        message = draft.mapping(draft.mapping(value.get("output"), "the output").get("message"), "the message")
        for number, block in enumerate(draft.sequence(message.get("content"), "the content")):
            self._block(number, draft.mapping(block, "a block"))
        self._stop(value)
        self._metadata(value)

    def _number(self, value: dict[str, Any]) -> int:
        return self.draft.index(value.get("contentBlockIndex"), "a block")

    def _piece(self, number: int, kind: Kind) -> Piece:
        piece = self.draft.piece(0, (number, 0), kind)
        if piece.kind != kind:
            self._others += 1
            piece = self.draft.piece(0, (number, 2, self._others), kind)
        return piece

    def _block(self, number: int, block: dict[str, Any]) -> None:
        """Read the begin of a block, or a whole block."""
        for key, value in block.items():
            if key == "toolUse":
                call = self.draft.mapping(value, "a call")
                piece = self._piece(number, "call")
                piece.identify(string(call.get("toolUseId")))
                self.draft.name_call(piece, call.get("name"))
                piece.beside(call, _IN_CALLS)
                if string(call.get("type")):
                    piece.tool = string(call["type"])[:100]
                if "input" in call:
                    given = call["input"]
                    piece.add(given if isinstance(given, str) else dump(self.draft.written(given)))
                piece.empty_means = "{}"  # a call of a tool without parameters has no fragments
            elif key == "citationsContent":
                content = mapping(value)
                for one in sequence(content.get("content")):
                    self._piece(number, "text").add(string(mapping(one).get("text")))
                for one in sequence(content.get("citations")):
                    self._cite(number, one)
            elif key == "reasoningContent":
                self._reasoning(number, self.draft.mapping(value, "reasoning"))
            elif key == "text":
                self._piece(number, "text").add(self.draft.words(value, "text"))
            elif value is not None:
                self._others += 1
                self.draft.piece(0, (number, 2, self._others), "other").keep(key[:100], value)

    def _delta(self, number: int, delta: dict[str, Any]) -> None:
        for key, value in delta.items():
            if key == "text":
                self._piece(number, "text").add(self.draft.words(value, "text"))
            elif key == "toolUse":
                self._piece(number, "call").add(
                    self.draft.words(self.draft.mapping(value, "a call").get("input"), "input")
                )
            elif key == "reasoningContent":
                self._reasoning(number, self.draft.mapping(value, "reasoning"))
            elif key == "citation":
                self._cite(number, value)
            else:
                self._block(number, {key: value})

    def _reasoning(self, number: int, said: dict[str, Any]) -> None:
        piece = self._piece(number, "reasoning")
        inner = mapping(said.get("reasoningText")) or said
        piece.add(string(inner.get("text")))
        piece.sign(string(inner.get("signature")) or string(said.get("redactedContent")))

    def _cite(self, number: int, one: Any) -> None:
        citation = citation_of(one, "citation")
        if citation is not None:
            self.draft.cite(0, (number, _CITED), citation)

    def _stop(self, value: dict[str, Any]) -> None:
        self.ended = True
        if value.get("stopReason") is not None:
            self.draft.stop(0, value["stopReason"])
        self.draft.detail("additionalModelResponseFields", value.get("additionalModelResponseFields"))

    def _metadata(self, value: dict[str, Any]) -> None:
        usage = mapping(value.get("usage"))
        if not usage:
            return
        read, written = (
            self.draft.tokens(usage.get(f"{what}InputTokens", usage.get(f"{what}InputTokenCount")))
            for what in ("cacheRead", "cacheWrite")
        )
        tokens, output, total = (
            self.draft.tokens(usage.get(key)) for key in ("inputTokens", "outputTokens", "totalTokens")
        )
        # Whether those from a cache are among `inputTokens`, only the total says.
        beside = (read or 0) + (written or 0)
        if tokens is not None and beside and total == tokens + beside + (output or 0):
            tokens += beside
        self.draft.use(input=tokens, output=output, total=total, cached=read or None, cache_write=written or None)


def _key_of(value: dict[str, Any]) -> str:
    """The name of an event where it is a key of the data, as in Nova's events from InvokeModel, and in boto3's."""
    return next((key for key in value if key in _EVENTS and isinstance(value[key], dict)), "")
