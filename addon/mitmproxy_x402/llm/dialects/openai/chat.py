"""Reads OpenAI's chat completions, as OpenAI and the many services that speak its dialect send them."""

from __future__ import annotations

from typing import Any

from ....protocol.strict_json import shown
from ...draft import Draft
from ...framing.wrapping import type_of
from ...pieces import Piece
from ...values import MAX_INDEX, dump, is_json, mapping, says_something, sequence, string
from ..agreeing import add_whole
from ..citations import citation_of
from ..invoke_model import tokens_of
from ..reader import Reader
from .further import Further
from .reasoning import DETAILS, NAMES, Thoughts

# Where the parts of a choice stand: a message has no order of its own.
_REASONING, _TEXT, _REFUSAL, _CITED, _AUDIO, _CALL, _FUNCTION, _OTHER = range(8)
_OBJECTS = {"chat.completion", "chat.completion.chunk", "text_completion"}
_SOURCES = ("citations", "search_results")
_IN_MESSAGES = {
    *("role", "content", "refusal", "tool_calls", "function_call", "audio", "annotations", "images"),
    *(*NAMES, DETAILS),
}
"""Keys of a message that are read; what others say is shown as it came."""
_REPEATING = {"thinking_blocks", "provider_specific_fields", "reasoning_text"}
"""Keys under which gateways put what they also say as reasoning."""
_IN_CALLS = frozenset(("id", "type", "index", "function", "custom"))
_IN_FUNCTIONS = frozenset(("name", "arguments", "input"))
_REPEATED = {
    **{"content": _TEXT, "refusal": _REFUSAL},
    **dict.fromkeys(NAMES, _REASONING),
}
"""Where what stands under these keys of a message is put."""
_BESIDE = {"images", "videos", "related_questions"}
"""Keys of a chunk, or of a whole answer, under which Perplexity has what belongs to the answer."""
_IN_CHUNKS = {"choices", "usage", "error", "x_groq", "base_resp", *_SOURCES, *_BESIDE}
"""Keys of a chunk of which one, at least, says something."""
_SAYING = ("content", "tool_calls", "function_call", "audio", "refusal", *NAMES, DETAILS)
_IN_CHOICES = ("delta", "message", "text", "finish_reason")


class ChatReader(Reader):
    """Reads chunks with deltas, or one `chat.completion`. The end is a finish_reason in every choice, or `[DONE]`."""

    dialect = "openai-chat"
    is_openai = True
    end_mark = "finish_reason, and no [DONE]"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._calls: dict[tuple[int, int], Piece] = {}
        self._begun: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._texts: dict[int, Piece] = {}
        self._others = 0
        self._by_deltas: set[int] = set()
        """Choices that deltas have said something of."""
        self._wholes = 0
        """Parts that only a whole message at the end says."""
        self._usages: dict[int, dict[str, Any]] | None = {}
        self._thoughts = Thoughts(draft, _REASONING)
        self._unknown = Further(self._new)
        self._gives_reasons = False  # whether any choice has the key `finish_reason`, be it null

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """What has choices with something said in them."""
        choices = value.get("choices")
        if type(choices) is not list:
            return string(value.get("object")) in _OBJECTS
        if not choices:
            return any(key in value for key in ("object", "usage", "model", "error", "prompt_filter_results"))
        first = choices[0]
        return type(first) is dict and ("delta" in first or any(key in first for key in _IN_CHOICES))

    @property
    def complete(self) -> bool:
        """Whether every choice has ended: many vendors send no `[DONE]`."""
        return self.ended or self.draft.all_stopped

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read one chunk."""
        if self.ended:
            self.draft.notes.add("an event after [DONE]")
        if name.startswith("thread."):  # other names mean nothing to OpenAI's SDK
            self.draft.notes.add(f"an event called {shown(name)}")
        if not value.keys() & _IN_CHUNKS and string(value.get("object")) not in _OBJECTS and not tokens_of(value):
            self.draft.leave(type_of(value) or name, value)
            return
        self._read(value, whole=False)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole `chat.completion`."""
        self._read(value, whole=True)
        self.ended = "choices" in value

    def done(self, name: str) -> None:  # noqa: ARG002
        """Read `[DONE]`, the end of the stream."""
        said = self.draft.said_anything(0)
        never = said and not self._gives_reasons and not self.draft.any_stopped  # vendors without it, as Snowflake
        if not (self.ended or self.draft.all_stopped or never) and self.draft.error is None:
            self.draft.notes.add("[DONE] before every choice had its finish_reason")
        self.ended = True

    def _read(self, value: dict[str, Any], *, whole: bool) -> None:
        draft = self.draft
        draft.name(value.get("model"), value.get("id"))
        if value.get("error"):
            draft.fail(value["error"])
        if mapping(value.get("x_groq")).get("error"):
            draft.fail(value["x_groq"]["error"])
        if (state := mapping(value.get("base_resp"))).get("status_code"):  # MiniMax's; 0 is none
            draft.fail({"code": state["status_code"], "message": state.get("status_msg")})
        usage = value.get("usage") or mapping(value.get("x_groq")).get("usage")
        if usage:
            self._usages = None
            self._usage(mapping(usage))
        elif tokens := tokens_of(value):
            draft.use(**tokens)
        for position, choice in enumerate(draft.sequence(value.get("choices"), "choices")):
            self._choice(draft.mapping(choice, "a choice"), position, whole=whole)
        for key in sorted(_BESIDE & value.keys()):
            self._unknown.keep(0, key, value[key])
        for key in _SOURCES:
            if key in value:
                for one in sequence(value[key]):
                    self._cite(0, one, key.removesuffix("s"))

    def _usage(self, usage: dict[str, Any]) -> None:
        read, written = mapping(usage.get("prompt_tokens_details")), mapping(usage.get("completion_tokens_details"))
        stored = next(
            (read[key] for key in ("cache_write_tokens", "cache_creation_tokens") if says_something(read.get(key))),
            usage.get("cache_creation_input_tokens"),
        )
        self.draft.use(
            input=usage.get("prompt_tokens"),
            output=usage.get("completion_tokens"),
            total=usage.get("total_tokens"),
            cached=read.get("cached_tokens", usage.get("prompt_cache_hit_tokens")),
            cache_write=stored,
            reasoning=written.get("reasoning_tokens"),
        )
        cost = usage.get("cost")
        self.draft.charge(cost.get("total_cost") if isinstance(cost, dict) else cost)

    def _usage_of(self, number: int, usage: dict[str, Any]) -> None:
        """Read the usage of one choice, which Moonshot's last chunk has; that of the whole answer takes precedence."""
        if self._usages is None or not usage or len(self._usages) >= self.draft.max_items:
            return
        self._usages[number] = usage
        if len(self._usages) == 1:
            self._usage(usage)
            return
        written = [self.draft.tokens(one.get("completion_tokens")) for one in self._usages.values()]
        if None not in written:  # the input is the same for all
            output = sum(filter(None, written))
            read = self.draft.tokens(usage.get("prompt_tokens"))
            self.draft.use(output=output, total=None if read is None else read + output)

    def _choice(self, choice: dict[str, Any], position: int, *, whole: bool) -> None:
        number = choice.get("index")
        if type(number) is not int or number < 0:
            number = self.draft.index(number, "a choice", position)
        said = self._said(number, choice, whole=whole)
        repeats = not whole and bool(said) and said is choice.get("message")
        if repeats:
            said = self._without_repeated(number, said)
        elif not whole and number not in self._by_deltas and len(self._by_deltas) < self.draft.max_items:
            self._by_deltas.update([number] if any(said.get(key) for key in _SAYING) else ())
        if self.draft.stopped(number) is not None and any(
            said.get(key) for key in ("content", "tool_calls", "reasoning_content")
        ):
            self.draft.notes.add("more of a choice after its finish_reason")
        content = said.get("content")
        if not repeats and len(said) == 1 and type(content) is str:  # nearly all of a stream
            self._text(number, content)
            said = {}
        if len(said) == 1 and type(said.get("tool_calls")) is list:
            for place, call in enumerate(said["tool_calls"]):
                self._call(number, self.draft.mapping(call, "a tool call"), place, whole=whole)
        elif said:
            self._message(number, said, whole=whole)
        if choice.get("text"):
            self._plain(number, choice, content, called=says_something(said.get("tool_calls")))
        if choice.get("error"):
            self.draft.fail(choice["error"])
        self._gives_reasons |= "finish_reason" in choice
        if choice.get("finish_reason") is not None or "stop_reason" in choice:
            self._finish(number, choice)

    def _plain(self, number: int, choice: dict[str, Any], content: Any, *, called: bool) -> None:
        """Read the text of a choice, as the completions before chat have it; some vendors say the same words twice."""
        if content or called:
            if choice["text"] != content:
                self.draft.notes.add("a choice has another text beside its content, which is shown")
            return
        if type(choice.get("delta")) is dict:
            self.draft.notes.add("a choice has a text beside a delta without it, which OpenAI's SDK does not read")
        self._text(number, choice["text"])

    def _said(self, number: int, choice: dict[str, Any], *, whole: bool) -> dict[str, Any]:
        """The delta or the message of a choice, whichever says something; if both do, what they share counts once."""
        delta, message = choice.get("delta"), choice.get("message")
        if type(message) is not dict:
            self.draft.mapping(message, "a message")
            return delta if type(delta) is dict else self.draft.mapping(delta, "a delta")
        if type(delta) is not dict:
            self.draft.mapping(delta, "a delta")
            return message
        if whole:
            return _fuller(message, delta)
        if _fuller(delta, message) is delta or self.draft.said_anything(number):
            self._compare(number, string(delta.get("content")), message.get("content"))
            return delta  # a message beside deltas repeats all of them
        return message

    def _compare(self, number: int, fragment: str, message: Any) -> None:
        """Note what a message says beside a `fragment` that is neither that nor all the text so far."""
        if not isinstance(message, str) or message in ("", fragment):
            return
        piece = self._texts.get(number)
        size = piece.size if piece is not None else 0
        alike = len(message) in (size, size + len(fragment))
        if alike and piece is not None and (piece.text + fragment).startswith(message):
            return
        self.draft.notes.add("a choice has a message with another text beside its delta, which is shown")

    def _without_repeated(self, number: int, message: dict[str, Any]) -> dict[str, Any]:
        """A whole message after chunks, without what it repeats of them."""
        if number in self._by_deltas:  # then it is the whole, and no fragment
            whole = self.draft.empty()
            ChatReader(whole)._message(number, message, whole=True)
            self._wholes = add_whole(self.draft, whole, self._wholes, choice=number)
            return {"annotations": message.get("annotations")}
        rest = dict(message)
        for key, place in _REPEATED.items():
            said, piece = message.get(key), self.draft.find(number, (place,))
            if piece is not None and isinstance(said, str) and len(said) >= piece.size and said.startswith(piece.text):
                rest[key] = said[piece.size :]
        if isinstance(message.get("tool_calls"), list):
            calls = enumerate(message["tool_calls"])
            rest["tool_calls"] = [one for place, one in calls if not self._is_repeated(number, mapping(one), place)]
        return rest

    def _is_repeated(self, choice: int, call: dict[str, Any], position: int) -> bool:
        """Whether a whole `call` repeats one that came in fragments. Differences are noted."""
        function = mapping(call.get("function")) or mapping(call.get("custom"))
        number = call["index"] if type(call.get("index")) is int else position
        identity, name = string(call.get("id")), string(function.get("name"))
        known = [piece for (where, _), piece in self._calls.items() if where == choice and piece.size]
        same = next((piece for piece in known if identity and piece.id == identity), self._calls.get((choice, number)))
        if same is None or not same.size or name not in ("", same.name) or identity not in ("", same.id):
            return False
        arguments = function.get("arguments", function.get("input"))
        said = arguments if isinstance(arguments, str) else dump(self.draft.written(arguments))
        if not says_something(arguments) or same.says(said):
            return True
        if is_json(said) and is_json(same.text):
            self.draft.differ(same, said)
            return True
        return False

    def _finish(self, number: int, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason", choice.get("stop_reason"))  # Mistral's at Bedrock has the other name
        if reason in ("", None):  # a zero value, not an end
            return
        self.draft.stop(number, reason)
        native = choice.get("native_finish_reason")
        if isinstance(native, str) and native.lower() != str(reason).lower():
            self.draft.detail("native_finish_reason", native)
        if reason == "content_filter":
            self.draft.detail("content_filter_results", choice.get("content_filter_results"))
        if "usage" in choice:
            self._usage_of(number, mapping(choice["usage"]))

    def _message(self, choice: int, said: dict[str, Any], *, whole: bool) -> None:
        self._thoughts.add(choice, said)
        content = said.get("content")
        if isinstance(content, list):
            for part in content:
                self._part(choice, self.draft.mapping(part, "a part of the content"))
        else:
            self._text(choice, content)
        if said.get("refusal"):
            self.draft.piece(choice, (_REFUSAL,), "refusal").add(self.draft.words(said["refusal"], "a refusal"))
        for position, call in enumerate(self.draft.sequence(said.get("tool_calls"), "tool calls")):
            self._call(choice, self.draft.mapping(call, "a tool call"), position, whole=whole)
        if says_something(said.get("function_call")):
            piece = self.draft.piece(choice, (_FUNCTION,), "call")
            piece.needs_id = False
            self._function(piece, self.draft.mapping(said["function_call"], "a function call"), "arguments")
        self._audio(choice, mapping(said.get("audio")))
        for one in sequence(said.get("annotations")):
            self._cite(choice, one, "annotation")
        for one in sequence(said.get("images")):
            self._other(choice, string(mapping(one).get("type")) or "images", one)
        if not said.keys() <= _IN_MESSAGES:
            self._further(choice, said)

    def _further(self, choice: int, said: dict[str, Any]) -> None:
        """Keep what a vendor says under its own keys as it came, such as Groq's `executed_tools`."""
        reasoned = any(said.get(key) for key in NAMES)
        for key, value in said.items():
            if key not in _IN_MESSAGES and not (key in _REPEATING and reasoned):
                self._unknown.keep(choice, key, value)

    def _text(self, choice: int, content: Any) -> None:
        if content is not None and content != "":
            piece = self._texts.get(choice)
            if piece is None:
                piece = self.draft.piece(choice, (_TEXT,), "text")
                if piece.kept:
                    self._texts[choice] = piece
            piece.add(content if type(content) is str else self.draft.words(content, "content"))

    def _part(self, choice: int, part: dict[str, Any]) -> None:
        """Read one part of a content that is a list, as Mistral sends it."""
        if part.get("type") in ("text", "output_text"):
            self._text(choice, part.get("text"))
        elif part.get("type") == "thinking":
            thinking = part.get("thinking")
            texts = thinking if isinstance(thinking, list) else [{"text": thinking}]
            text = "".join(string(mapping(one).get("text")) for one in texts)
            self._thoughts.part(choice, text, string(part.get("signature")))
        else:
            self._other(choice, string(part.get("type")) or "part", part)

    def _call(self, choice: int, call: dict[str, Any], position: int, *, whole: bool) -> None:
        """Read a fragment of a call. Its index says of which; only the first fragment has id and name.

        `position`: in its list, which says which call it is in a whole message, and without indexes.
        """
        function = call.get("function")
        if len(call) == 2 and type(function) is dict and len(function) == 1:  # nearly all of a call
            which, fragment = call.get("index"), function.get("arguments")
            known = self._calls.get((choice, which)) if type(which) is int else None
            if type(which) is int and known is not None and type(fragment) is str:
                self._last[choice] = which
                known.add(fragment)
                return
        identity, kind = string(call.get("id")), "function"
        function = self.draft.mapping(function, "a function")
        if ("custom" in call or call.get("type") == "custom") and not says_something(function):
            custom = mapping(call.get("custom"))
            if call.get("type") == "custom" or says_something(custom):
                kind, function = "custom", custom
        given = call.get("index")
        number = given if type(given) is int and 0 <= given <= MAX_INDEX else None
        if number is None:
            if given is not None:
                self.draft.notes.add("a fragment of a tool call without a usable index")
            number = position if whole else self._guess(choice, identity, string(function.get("name")), position)
        piece = self._calls.get((choice, number))
        if piece is not None and identity and piece.id and identity != piece.id and not string(function.get("name")):
            self.draft.notes.add("the id of a tool call changes; without another name, it is the same call")
        elif piece is None or (identity and piece.id and identity != piece.id):
            piece = self._begin(choice, number, again=piece is not None)
        piece.identify(identity)
        piece.beside(call, _IN_CALLS)
        self._last[choice] = number
        if kind == "custom":
            piece.tool = "custom"
        self._function(piece, function, "input" if kind == "custom" else "arguments")

    def _guess(self, choice: int, identity: str, name: str, position: int) -> int:
        """The index of a fragment that has none: the last call's, or the next if another call begins."""
        last = self._last.get(choice)
        if last is None:
            return 0
        known = self._calls.get((choice, last))
        if known is None:
            return last
        another = known.id not in ("", identity) if identity else bool(name and known.name and known.name != name)
        return last + 1 if another or (position and (identity or name)) else last

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
        if function.get("name") is not None:
            self.draft.name_call(piece, function["name"], joined=True)
        piece.beside(function, _IN_FUNCTIONS)
        value = function.get(arguments)
        if type(value) is str:
            piece.add(value)
            return
        piece.add(self.draft.arguments(value))

    def _audio(self, choice: int, audio: dict[str, Any]) -> None:
        """Read audio: its transcript, and the size of its data."""
        if says_something({key: one for key, one in audio.items() if key != "expires_at"}):
            piece = self.draft.piece(choice, (_AUDIO,), "other")
            piece.name = "audio"
            piece.add(string(audio.get("transcript")))
            piece.left_out += len(string(audio.get("data")))

    def _cite(self, choice: int, one: Any, kind: str) -> None:
        citation = citation_of(one, kind)
        if citation is not None:
            self.draft.cite(choice, (_CITED,), citation)
        elif says_something(one):
            self._other(choice, string(mapping(one).get("type")) or f"{kind}s", one)

    def _other(self, choice: int, kind: str, value: Any) -> None:
        self._new(choice).keep(kind, value)

    def _new(self, choice: int) -> Piece:
        """A further part of another kind."""
        self._others += 1
        return self.draft.piece(choice, (_OTHER, self._others), "other")


def _fuller(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The one that has more than a role; `one` if neither has."""
    says = says_something({key: value for key, value in one.items() if key != "role"})
    if says or not says_something({key: value for key, value in other.items() if key != "role"}):
        return one
    return other
