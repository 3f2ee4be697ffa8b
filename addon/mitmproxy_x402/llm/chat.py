"""OpenAI's chat completions, as OpenAI and the many who speak its dialect send them."""

from __future__ import annotations

from typing import Any

from ..protocol.strict_json import shown
from .dialects import Reader
from .draft import Draft, Piece
from .printing import error_line
from .values import dump, index, mapping, sequence, string

# Where the parts of a choice stand: a message has no order of its own.
_REASONING, _TEXT, _REFUSAL, _AUDIO, _CALL, _FUNCTION, _OTHER = range(7)


class ChatReader(Reader):
    """Chunks with deltas, or one `chat.completion`. The end is `[DONE]`."""

    dialect = "openai-chat"
    end_mark = "[DONE]"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._calls: dict[tuple[int, int], Piece] = {}
        self._begun: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._others = 0

    def event(self, name: str, value: dict[str, Any]) -> None:
        """A chunk."""
        if self.ended:
            self.draft.notes.add("an event after [DONE]")
        if name not in ("message", "chat.completion.chunk", "error"):
            self.draft.notes.add(f"an event called {shown(name)}")
        self._head(value)
        for choice in sequence(value.get("choices")):
            self._choice(mapping(choice))

    def whole(self, value: dict[str, Any]) -> None:
        """A `chat.completion`."""
        self._head(value)
        for choice in sequence(value.get("choices")):
            self._choice(mapping(choice))
        self.ended = "choices" in value

    def done(self) -> None:
        """The stream's end."""
        if self.ended:
            self.draft.notes.add("a second [DONE]")
        elif not self.draft.all_stopped and self.draft.error is None:
            self.draft.notes.add("[DONE] before every choice had its finish_reason")
        self.ended = True

    def _head(self, value: dict[str, Any]) -> None:
        self.draft.name(value.get("model"), value.get("id"))
        if value.get("error"):
            self.draft.fail(error_line(value["error"]))
        usage = mapping(value.get("usage")) or mapping(mapping(value.get("x_groq")).get("usage"))
        read, written = mapping(usage.get("prompt_tokens_details")), mapping(usage.get("completion_tokens_details"))
        self.draft.use(
            input=usage.get("prompt_tokens"),
            output=usage.get("completion_tokens"),
            total=usage.get("total_tokens"),
            cached=read.get("cached_tokens", usage.get("prompt_cache_hit_tokens")),
            reasoning=written.get("reasoning_tokens"),
        )

    def _choice(self, choice: dict[str, Any]) -> None:
        number = self.draft.index(choice.get("index", 0), "a choice")
        whole = not mapping(choice.get("delta"))
        said = mapping(choice.get("message" if whole else "delta"))
        if self.draft.stopped(number) is not None and any(
            said.get(key) for key in ("content", "tool_calls", "reasoning_content")
        ):
            self.draft.notes.add("more of a choice after its finish_reason")
        self._message(number, said, whole)
        if "text" in choice:  # the completions before chat
            self._text(number, choice["text"])
        if choice.get("error"):
            self.draft.fail(error_line(choice["error"]))
        if choice.get("finish_reason") is not None:
            self.draft.stop(number, choice["finish_reason"])

    def _message(self, choice: int, said: dict[str, Any], whole: bool) -> None:
        self._reasoning(choice, said)
        content = said.get("content")
        if isinstance(content, list):
            for part in content:
                self._part(choice, mapping(part))
        else:
            self._text(choice, content)
        if said.get("refusal"):
            self.draft.piece(choice, (_REFUSAL,), "refusal").add(self.draft.words(said["refusal"], "a refusal"))
        for position, call in enumerate(sequence(said.get("tool_calls"))):
            self._call(choice, mapping(call), position if whole else None)
        if said.get("function_call"):
            piece = self.draft.piece(choice, (_FUNCTION,), "call")
            piece.needs_id = False
            self._function(piece, mapping(said["function_call"]), "arguments")
        self._audio(choice, mapping(said.get("audio")))
        for kind in ("images", "annotations"):
            for one in sequence(said.get(kind)):
                self._other(choice, string(mapping(one).get("type")) or kind, one)

    def _text(self, choice: int, content: Any) -> None:
        if content is not None and content != "":
            self.draft.piece(choice, (_TEXT,), "text").add(self.draft.words(content, "content"))

    def _part(self, choice: int, part: dict[str, Any]) -> None:
        """A part of a content that is a list, as Mistral sends it."""
        if part.get("type") == "text":
            self._text(choice, part.get("text"))
        elif part.get("type") == "thinking":
            piece = self.draft.piece(choice, (_REASONING,), "reasoning")
            for one in sequence(part.get("thinking")):
                piece.add(string(mapping(one).get("text")))
        else:
            self._other(choice, string(part.get("type")) or "part", part)

    def _reasoning(self, choice: int, said: dict[str, Any]) -> None:
        """Under three names; who uses two of them says the same twice."""
        words = said.get("reasoning_content") or said.get("reasoning")
        if words:
            self.draft.piece(choice, (_REASONING,), "reasoning").add(self.draft.words(words, "reasoning"))
        for detail in map(mapping, sequence(said.get("reasoning_details"))):
            piece = self.draft.piece(choice, (_REASONING,), "reasoning")
            if not words:
                piece.add(string(detail.get("text")) or string(detail.get("summary")))
            piece.sign(string(detail.get("signature")) or string(detail.get("data")))

    def _call(self, choice: int, call: dict[str, Any], position: int | None) -> None:
        """A fragment of a call: its index says of which; id and name come with the first one only.

        `position`: in the list of a whole message, which has no indexes.
        """
        identity = string(call.get("id"))
        number = index(call.get("index", position))
        if number is None:
            number = self._guess(choice, identity)
        piece = self._calls.get((choice, number))
        if piece is None or (identity and piece.id and identity != piece.id):
            piece = self._begin(choice, number, again=piece is not None)
        piece.identify(identity)
        self._last[choice] = number
        if call.get("type") == "custom" or "custom" in call:
            piece.tool = "custom"
            self._function(piece, mapping(call.get("custom")), "input")
        else:
            self._function(piece, mapping(call.get("function")), "arguments")

    def _guess(self, choice: int, identity: str) -> int:
        """The index that a fragment without one probably means: the last call's, or the next where an id is new."""
        self.draft.notes.add("a fragment of a tool call without a usable index")
        last = self._last.get(choice)
        if last is None:
            return 0
        known = self._calls.get((choice, last))
        return last + 1 if identity and known is not None and known.id not in ("", identity) else last

    def _begin(self, choice: int, number: int, again: bool) -> Piece:
        begun = self._begun.get(choice, 0)
        if again:
            self.draft.notes.add("tool calls with different ids have one index; they are kept apart")
        elif begun < number and begun < self.draft.max_items:
            self.draft.notes.add(f"the index of a tool call jumps to {number}, after {begun} calls")
        piece = self.draft.piece(choice, (_CALL, number, begun), "call")
        if piece.kept:
            self._calls[choice, number] = piece
            self._begun[choice] = begun + 1
        return piece

    def _function(self, piece: Piece, function: dict[str, Any], arguments: str) -> None:
        name = self.draft.words(function.get("name"), "the name of a tool")
        if name and name == piece.name:
            self.draft.notes.add("the name of a tool call comes again")
        else:
            piece.call(name)
        value = function.get(arguments)
        if isinstance(value, (dict, list)):
            self.draft.notes.add("arguments of a tool call that are JSON, not text with JSON in it")
            value = dump(value)
        piece.add(self.draft.words(value, "arguments"))

    def _audio(self, choice: int, audio: dict[str, Any]) -> None:
        """Of sound, only what is spoken in it and how long its data is."""
        if audio:
            piece = self.draft.piece(choice, (_AUDIO,), "other")
            piece.name = "audio"
            piece.add(string(audio.get("transcript")))
            piece.left_out += len(string(audio.get("data")))

    def _other(self, choice: int, kind: str, value: Any) -> None:
        self._others += 1
        self.draft.piece(choice, (_OTHER, self._others), "other").keep(kind, value)
