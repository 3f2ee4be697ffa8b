"""Google's generateContent: whole, as server-sent events, or as elements of an array."""

from __future__ import annotations

from typing import Any

from ..protocol.strict_json import shown
from .dialects import Reader
from .draft import Draft, Kind, Piece
from .printing import error_line
from .values import dump, mapping, sequence, string

_TOKENS = frozenset(
    ("promptTokenCount", "cachedContentTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
)


class GeminiReader(Reader):
    """Responses one after the other, each with some parts. There is no end mark: every candidate says why it ended."""

    dialect = "gemini"
    end_mark = "finishReason"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._last: dict[int, Piece] = {}
        self._tokens: dict[str, Any] = {}
        self._parts = 0

    @property
    def complete(self) -> bool:
        """Whether every candidate has ended."""
        return self.draft.all_stopped

    def event(self, name: str, value: dict[str, Any]) -> None:
        """A response with some parts more."""
        if name not in ("message", "error"):
            self.draft.notes.add(f"an event called {shown(name)}")
        self.whole(value)

    def whole(self, value: dict[str, Any]) -> None:
        """A response."""
        self.draft.name(value.get("modelVersion"), value.get("responseId"))
        if value.get("error"):
            self.draft.fail(error_line(value["error"]))
        for candidate in map(mapping, sequence(value.get("candidates"))):
            self._candidate(self.draft.index(candidate.get("index", 0), "a candidate"), candidate)
        blocked = mapping(value.get("promptFeedback")).get("blockReason")
        if blocked:
            self.draft.stop(0, f"blocked: {string(blocked)}")
        self._usage(mapping(value.get("usageMetadata")))

    def _candidate(self, number: int, candidate: dict[str, Any]) -> None:
        for part in sequence(mapping(candidate.get("content")).get("parts")):
            self._part(number, mapping(part))
        reason = candidate.get("finishReason")
        if reason is not None and reason != self.draft.stopped(number):  # older models repeat it in every response
            self.draft.stop(number, reason)

    def _part(self, candidate: int, part: dict[str, Any]) -> None:
        signature = string(part.get("thoughtSignature"))
        if "functionCall" in part:
            piece = self._call(candidate, mapping(part["functionCall"]))
        elif "text" in part:
            kind: Kind = "reasoning" if part.get("thought") is True else "text"
            piece = self._piece(candidate, kind)
            piece.add(self.draft.words(part["text"], "text"))
        else:
            piece = self._piece(candidate, "other", new=True)
            what = next((key for key in part if key not in ("thought", "thoughtSignature", "videoMetadata")), "part")
            piece.keep(what[:100], part.get(what))
        piece.sign(signature)

    def _piece(self, candidate: int, kind: Kind, *, new: bool = False) -> Piece:
        """The last part where it is of that kind too: text comes in any number of parts that belong together."""
        last = self._last.get(candidate)
        if not new and last is not None and last.kind == kind:
            return last
        self._parts += 1
        piece = self.draft.piece(candidate, (self._parts,), kind)
        if piece.kept:
            self._last[candidate] = piece
        return piece

    def _call(self, candidate: int, call: dict[str, Any]) -> Piece:
        """A call comes whole; with an id only from some of the vendor's models."""
        piece = self._piece(candidate, "call", new=True)
        piece.needs_id = False
        piece.identify(string(call.get("id")))
        piece.call(self.draft.words(call.get("name"), "the name of a function"))
        if "partialArgs" in call:
            self.draft.notes.add("a function call whose arguments come in parts, shown as they came")
            piece.tool = "custom"
            piece.add(dump(call["partialArgs"]))
        else:
            piece.add(dump(call.get("args") or {}))
        return piece

    def _usage(self, usage: dict[str, Any]) -> None:
        """Its candidates' tokens are those beside the thoughts."""
        for key, value in usage.items():
            if key in _TOKENS:
                self._tokens[key] = value
        written, thought = self._tokens.get("candidatesTokenCount"), self._tokens.get("thoughtsTokenCount")
        if isinstance(written, int) and isinstance(thought, int):
            written += thought
        self.draft.use(
            input=self._tokens.get("promptTokenCount"),
            cached=self._tokens.get("cachedContentTokenCount"),
            output=written,
            reasoning=thought,
            total=self._tokens.get("totalTokenCount"),
        )
