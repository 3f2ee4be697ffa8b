"""Reads Google's generateContent: whole, as server-sent events, or as elements of an array."""

from __future__ import annotations

from typing import Any

from ...draft import Draft
from ...framing.wrapping import type_of
from ...pieces import Kind, Piece
from ...values import MAX_COUNT, MAX_INDEX, dump, mapping, says_something, sequence, string
from ..citations import citation_of
from ..reader import Reader
from .enums import block_reason, finish_reason
from .partial_args import Arguments

_TOKENS = frozenset(
    (
        *("promptTokenCount", "cachedContentTokenCount", "candidatesTokenCount", "thoughtsTokenCount"),
        *("toolUsePromptTokenCount", "totalTokenCount"),
    )
)
_FINE = ("STOP", "MAX_TOKENS")
_CITED, _GROUNDED, _FURTHER = MAX_INDEX, MAX_INDEX + 1, MAX_INDEX + 2
_IN_RESPONSES = ("candidates", "promptFeedback", "usageMetadata", "modelVersion", "responseId", "error")
_IN_CANDIDATES = frozenset(
    (
        *("content", "finishReason", "finishMessage", "index", "safetyRatings", "citationMetadata"),
        *("groundingMetadata", "tokenCount", "avgLogprobs", "logprobsResult"),
    )
)
"""Keys of a candidate that are read, and numbers that nobody looks at here."""
_MAX_KNOWN = 100
"""Further keys of which what they say is kept."""
_NO_KIND = ("thought", "thoughtSignature", "thought_signature", "videoMetadata", "partMetadata")
"""Keys of a part that do not say what it is."""
_IN_CALLS = frozenset(("name", "args", "id", "partialArgs", "willContinue"))
_SEARCHES = ("webSearchQueries", "imageSearchQueries", "retrievalQueries")


class GeminiReader(Reader):
    """Reads responses with some parts each. There is no end mark: every candidate has a finish reason."""

    dialect = "gemini"
    needs_empty_line = False
    end_mark = "finishReason"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        draft.numbers_may_be_text = True
        self._last: dict[int, Piece] = {}
        self._tokens: dict[str, int] = {}
        self._settled = True
        self._parts = 0
        self._known: dict[str, int] = {}
        self._on_vertex = False
        """Whether there is something that only Vertex AI says."""
        self._growing: dict[tuple[int, str], tuple[Piece, Arguments]] = {}
        """Calls whose arguments come by paths, by candidate and id."""

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """Candidates, or a prompt that was refused; the numbers of tokens only where a model's version is beside."""
        candidates = value.get("candidates")
        if type(candidates) is list:
            if not candidates:
                return "usageMetadata" in value or "modelVersion" in value
            first = candidates[0]
            return type(first) is dict and ("content" in first or "finishReason" in first)
        if "promptFeedback" in value or ("usageMetadata" in value and "modelVersion" in value):
            return True
        error = value.get("error")
        return isinstance(error, dict) and type(error.get("code")) is int and isinstance(error.get("status"), str)

    def lost(self, hidden: bytes | None, beside: str, hollow: bool) -> list[str]:  # noqa: ARG002
        """Google's SDK takes every line that does not begin with `data: ` for the beginning of an error."""
        if hidden is not None:
            return ["the stream begins with a byte order mark, at which Google's SDK fails"]
        what = "a line that does not begin with `data: `, at which Google's SDK fails; the first one is"
        return [f"{what}: {beside}"] if beside else []

    def done(self, name: str) -> None:  # noqa: ARG002
        """Read a `[DONE]`, which gateways add."""
        if self.draft.has_names:
            self.draft.notes.add("a [DONE], at which Google's SDK fails")

    @property
    def complete(self) -> bool:
        """Whether every candidate has ended, or all of the answer came at once."""
        return self.ended or self.draft.all_stopped

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read a response, which brings further parts."""
        if value.keys().isdisjoint(_IN_RESPONSES):
            self.draft.leave(type_of(value) or name, value)
        else:
            self._response(value)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a response that is not streamed."""
        self._response(value)
        self.ended = bool(self.draft.said_anything(0))

    def _response(self, value: dict[str, Any]) -> None:
        self.draft.name(value.get("modelVersion"), value.get("responseId"))
        if "createTime" in value:
            self._on_vertex = True
        if value.get("error"):
            self.draft.fail(value["error"])
        for position, candidate in enumerate(self.draft.sequence(value.get("candidates"), "candidates")):
            said = candidate if type(candidate) is dict else self.draft.mapping(candidate, "a candidate")
            number = said.get("index")
            if type(number) is not int or not 0 <= number <= MAX_INDEX:
                number = self.draft.index(number, "a candidate", position)
            self._candidate(number, said)
        feedback = mapping(value.get("promptFeedback")) if "promptFeedback" in value else None
        if feedback and not str(feedback.get("blockReason") or "_UNSPECIFIED").endswith("_UNSPECIFIED"):
            self.draft.stop(0, f"blocked: {block_reason(feedback['blockReason'], vertex=self._on_vertex)}", last=True)
            self.draft.detail("blockReasonMessage", feedback.get("blockReasonMessage"))
            self._ratings(feedback)
        usage = value.get("usageMetadata")
        if type(usage) is dict:
            for key, said in usage.items():
                if key not in _TOKENS:
                    continue
                number = said if type(said) is int and 0 <= said <= MAX_COUNT else self.draft.tokens(said)
                if number is not None:
                    self._tokens[key] = number
            self._settled = False
            if self.draft.trace is not None:
                self.settle()

    def close(self) -> None:
        """End the stream: a call whose arguments are incomplete is kept as far as it has come."""
        for key in list(self._growing):
            self.draft.notes.add("the arguments of a call that come in parts do not end")
            self._grown(key)

    def _candidate(self, number: int, candidate: dict[str, Any]) -> None:
        draft = self.draft
        content = candidate.get("content")
        if type(content) is not dict:
            content = draft.mapping(content, "the content")
        for part in draft.sequence(content.get("parts"), "parts"):
            if part is None:
                draft.notes.add("a part that is null, at which Google's SDK fails")
            self._part(number, part if type(part) is dict else draft.mapping(part, "a part"))
        if "groundingMetadata" in candidate or "citationMetadata" in candidate:
            self._sources(number, candidate)
        if not candidate.keys() <= _IN_CANDIDATES:
            self._further(number, candidate)
        reason = candidate.get("finishReason")
        if reason is not None and reason not in (0, "FINISH_REASON_UNSPECIFIED", ""):
            name = finish_reason(reason, vertex=self._on_vertex)
            if name == "MAX_TOKENS" and any(key[0] == number for key in self._growing):
                draft.notes.add("the answer hit its token limit (MAX_TOKENS) in the middle of the arguments of a call")
            self._all_grown(number)
            self.draft.stop(number, name, last=True)  # older models say STOP in each; the last one says why
            self.draft.detail("finishMessage", candidate.get("finishMessage"))
            if name not in _FINE:
                self._ratings(candidate)

    def _ratings(self, value: dict[str, Any]) -> None:
        """The safety ratings that found something."""
        ratings = map(mapping, sequence(value.get("safetyRatings")))
        told = [
            one for one in ratings if one.get("blocked") or one.get("probability") not in (None, 0, 1, "NEGLIGIBLE")
        ]
        self.draft.detail("safetyRatings", told)

    def _further(self, number: int, candidate: dict[str, Any]) -> None:
        """Keep what else is said of a candidate, such as `urlContextMetadata`, as it came last."""
        for key, value in candidate.items():
            if key not in _IN_CANDIDATES and says_something(value):
                if key not in self._known and len(self._known) == _MAX_KNOWN:
                    return
                place = self._known.setdefault(key, len(self._known))
                self.draft.piece(number, (_FURTHER, place), "other").keep(key[:100], value)

    def _sources(self, number: int, candidate: dict[str, Any]) -> None:
        grounding = mapping(candidate.get("groundingMetadata"))
        for chunk in sequence(grounding.get("groundingChunks")):
            self._cite(number, chunk, "")
        searched = {key: grounding[key] for key in _SEARCHES if grounding.get(key)}
        if searched:
            self.draft.piece(number, (_GROUNDED,), "other").keep("searched for", searched)
        cited = mapping(candidate.get("citationMetadata"))
        for one in sequence(cited.get("citationSources")) or sequence(cited.get("citations")):
            self._cite(number, one, "citation")

    def _cite(self, number: int, one: Any, kind: str) -> None:
        citation = citation_of(one, kind)
        if citation is not None:
            self.draft.cite(number, (_CITED,), citation)

    def _part(self, candidate: int, part: dict[str, Any]) -> None:
        text = part.get("text")
        if len(part) == 1 and type(text) is str:  # nearly all of a stream
            self._piece(candidate, "text").add(text)
            return
        signature = string(part.get("thoughtSignature")) or string(part.get("thought_signature"))
        piece: Piece | None = None
        # Gateways that read the API with Google's SDK send all fields of a part, most of them null or empty.
        kinds = [key for key, one in part.items() if one is not None and key not in _NO_KIND]
        if text or kinds == ["text"]:
            kind: Kind = "reasoning" if part.get("thought") in (True, "true") else "text"
            piece = self._piece(candidate, kind)
            piece.add(self.draft.words(text, "text"))
        for key in kinds:
            if key in ("functionCall", "function_call"):
                piece = self._call(candidate, self.draft.mapping(part[key], "a function call"))
            elif key != "text":
                piece = self._piece(candidate, "other", new=True)
                piece.keep(key[:100], part[key])
        if signature:
            if piece is None and (piece := self._last.get(candidate)) is None:
                piece = self._piece(candidate, "other", new=True)
                piece.keep("part", part)
            piece.sign(signature)

    def _piece(self, candidate: int, kind: Kind, *, new: bool = False) -> Piece:
        """The last part if it is of `kind`, otherwise a new one: text comes in parts that belong together."""
        last = self._last.get(candidate)
        if not new and last is not None and last.kind == kind:
            return last
        self._parts += 1
        piece = self.draft.piece(candidate, (self._parts,), kind)
        if piece.kept:
            self._last[candidate] = piece
        return piece

    def _call(self, candidate: int, call: dict[str, Any]) -> Piece:
        """Read a call: whole, or its name, then its arguments by JSON paths until `willContinue` is missing."""
        name, continued = string(call.get("name")), call.get("willContinue") is True
        key = candidate, string(call.get("id"))
        if not key[1] and not name:  # the one before goes on
            key = next((one for one in reversed(self._growing) if one[0] == candidate), key)
        elif key not in self._growing and not name and (late := self._growing.pop((candidate, ""), None)):
            late[0].identify(key[1])  # its id comes late
            self._growing[key] = late
        growing = self._growing.get(key)
        again = growing is not None and (not name or bool(key[1] and name == growing[0].name))
        if growing is not None and again and call.get("args") is None:
            piece, arguments = growing
            self._grow(piece, arguments, call)
        else:
            if not key[1] or key in self._growing:
                self._all_grown(candidate)
            given = self.draft.written(call.get("args")) if call.get("args") else {}
            piece = self._piece(candidate, "call", new=True)
            arguments = Arguments(self.draft.mapping(given, "arguments") if call.get("partialArgs") else {})
            piece.needs_id = False
            piece.identify(string(call.get("id")))
            piece.call(self.draft.words(call.get("name"), "the name of a function"))
            piece.beside(call, _IN_CALLS)
            if not call.get("partialArgs") and not continued:
                piece.add(dump(self.draft.written(call.get("args") or {})))
                return piece
            self._grow(piece, arguments, call)
            if piece.kept:
                self._growing[key] = (piece, arguments)
        if not continued:
            self._grown(key)
        return piece

    def _grow(self, piece: Piece, arguments: Arguments, call: dict[str, Any]) -> None:
        for part in map(self.draft.written, sequence(call.get("partialArgs"))):
            if piece.hint(part) and piece.tool != "custom" and not arguments.add(part):
                self.draft.notes.add("arguments that come in parts with a path that fits nowhere, shown as they came")
                piece.tool = "custom"

    def _all_grown(self, candidate: int) -> None:
        """End all calls of a candidate whose arguments came by paths."""
        for key in [one for one in self._growing if one[0] == candidate]:
            self._grown(key)

    def _grown(self, key: tuple[int, str]) -> None:
        """End a call whose arguments came by paths."""
        piece, arguments = self._growing.pop(key, (None, None))
        if piece is not None and arguments is not None:
            if not arguments.whole:
                self.draft.notes.add("an argument that comes in parts does not end")
            piece.settle(f"[{','.join(piece.hints)}]" if piece.tool == "custom" else dump(arguments.value))
            piece.hints.clear()

    def settle(self) -> None:
        """Set the usage: every response has one, the last one counts.

        The candidates' are those beside the thoughts, the prompt's those beside what tools brought.
        """
        tokens = self._tokens
        if self._settled:
            return
        self._settled = True
        written, thought = tokens.get("candidatesTokenCount"), tokens.get("thoughtsTokenCount")
        read, brought = tokens.get("promptTokenCount"), tokens.get("toolUsePromptTokenCount")
        self.draft.use(
            input=None if read is None else read + (brought or 0),
            tool_use=brought or None,
            cached=tokens.get("cachedContentTokenCount"),
            output=written if not thought else (written or 0) + thought,
            reasoning=thought,
            total=tokens.get("totalTokenCount"),
        )
