"""The Reading of a language model's answer, the same for all vendors' dialects: frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Dialect = Literal[
    "openai-chat",
    "openai-responses",
    "openai-assistants",
    "openai-transcription",
    "anthropic-messages",
    "anthropic-complete",
    "gemini",
    "gemini-interactions",
    "bedrock-converse",
    "cohere-v1",
    "cohere-v2",
    "ollama",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; None: not said. A part is contained in its whole, in every dialect."""

    input: int | None = None
    """All that was read, from a cache or not."""
    output: int | None = None
    """All that was written, reasoning included."""
    reasoning: int | None = None
    """The part of `output` that is reasoning."""
    cached: int | None = None
    """The part of `input` that came from a cache."""
    total: int | None = None
    cache_write: int | None = None
    """The part of `input` that was written into a cache."""
    tool_use: int | None = None
    """The part of `input` that the vendor's own tools brought."""
    cost: str | None = None
    """What the vendor says that it cost, in decimal US dollars."""


@dataclass(frozen=True, slots=True)
class Text:
    """What the model says."""

    text: str
    choice: int = 0
    """Index of the choice, or candidate, that it belongs to."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thinks, or a summary of it; empty where it came encrypted only."""

    text: str
    choice: int = 0
    signature: str = ""
    """The vendor's seal on it, or the encrypted reasoning itself."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model's words for not answering."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Broken:
    """Where arguments stop being JSON."""

    problem: str
    """What a JSON parser says."""
    position: int
    """Characters before the place; all of them where the arguments end too early."""
    event: int | None = None
    """Number of the event that brought that character, or the last one before it; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool, put together from its fragments."""

    id: str
    name: str
    arguments: str
    """As they came: JSON text, or any text where `kind` is `custom`."""
    parsed: Any = None
    """The arguments as a value; None where they are no JSON."""
    choice: int = 0
    kind: str = "function"
    """`function`, `custom` (its input is plain text), or the vendor's word for a tool that runs at the vendor's."""
    broken: Broken | None = None
    """Set where the answer has ended and the arguments are no JSON."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A source that the answer names: an annotation, a citation, a chunk of grounding."""

    kind: str
    """In the vendor's word."""
    title: str = ""
    source: str = ""
    """Address, file or id."""
    quote: str = ""
    """The words that are cited."""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Other:
    """A part of the answer that is none of these: a picture, a server tool's result, code that was run."""

    kind: str
    value: Any = field(default=None)
    """As it came: a JSON value."""
    choice: int = 0


Item = Text | Reasoning | Refusal | ToolCall | Citation | Other


@dataclass(frozen=True, slots=True)
class Detail:
    """What the vendor says about an error or an end beside its name: a broken call, a quota, an explanation."""

    name: str
    """The vendor's key."""
    value: Any
    """As it came: a JSON value."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """Where a call does not fit the tools that its request declares."""

    call: int
    """Number of the call, from 1 on."""
    name: str
    """The tool that it names."""
    pointer: str
    """JSON pointer (RFC 6901) into its arguments; empty: the call as a whole."""
    problem: str


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, as far as it has come."""

    dialect: Dialect
    model: str | None = None
    id: str | None = None
    items: tuple[Item, ...] = ()
    """In the order of the answer, choice after choice."""
    usage: Usage = Usage()
    stop_reason: str | None = None
    """In the vendor's words; of several choices, one after the other with commas between."""
    error: str | None = None
    """One line, where the vendor reports that the answer failed."""
    events: int = 0
    """Server-sent events with data, frames, lines, or elements of a JSON array; 1 for a whole answer."""
    irregular: tuple[str, ...] = ()
    """What is out of order, in words for people; bounded."""
    complete: bool = False
    """Whether the answer came to the end that its dialect prescribes, without an error."""
    details: tuple[Detail, ...] = ()
    """More about the error, or about why the answer ended; bounded."""
    unread: tuple[str, ...] = ()
    """Events of types that this reader does not know, each once with its beginning; nothing wrong in itself."""
    misfits: tuple[Misfit, ...] = ()
    """What does not fit the request's tools, where `checked` knew them; bounded."""

    @property
    def text(self) -> str:
        """All that is said in the first choice."""
        return "".join(item.text for item in self.items if isinstance(item, Text) and item.choice == 0)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of all choices."""
        return tuple(item for item in self.items if isinstance(item, ToolCall))


@dataclass(frozen=True, slots=True)
class Added:
    """What one event added to the answer."""

    what: str
    """`text`, `reasoning`, `refusal`, `arguments`, `tool call` (a name), `signature`, `citation`, `usage`, `model`,
    `stop`, `error`, or the vendor's word for another part."""
    text: str = ""
    """The fragment, or the value in one line."""
    part: int | None = None
    """Number of the part of the answer that it belongs to, in the order in which they begin; None: to no part."""
    name: str = ""
    """Of a call: the tool's name so far."""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One event of an answer and what it added."""

    number: int
    """As in `Broken.event`, from 1 on."""
    type: str
    """Its name, or the type that its data says."""
    begin: int
    end: int
    """Where it stands among the decoded bytes of the body: its first byte, and the one after its last."""
    added: tuple[Added, ...] = ()
    remarks: tuple[str, ...] = ()
    """What was found out of order with this event, or with it for the first time."""
