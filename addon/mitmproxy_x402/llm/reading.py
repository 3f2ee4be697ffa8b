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
    "bedrock-invoke",
    "cohere-v1",
    "cohere-v2",
    "ollama",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Usage:
    """Numbers of tokens; None: not reported. In every dialect, a part is included in its whole."""

    input: int | None = None
    """All input tokens, cached ones included."""
    output: int | None = None
    """All output tokens, reasoning included."""
    reasoning: int | None = None
    """The part of `output` that is reasoning."""
    cached: int | None = None
    """The part of `input` that came from a cache."""
    total: int | None = None
    cache_write: int | None = None
    """The part of `input` that was written into a cache."""
    tool_use: int | None = None
    """The part of `input` that came from the vendor's own tools."""
    cost: str | None = None
    """The cost that the vendor reports, in decimal US dollars."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the answer."""

    text: str
    choice: int = 0
    """Index of the choice, or candidate, that it belongs to."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The model's reasoning, or a summary of it; empty if it is encrypted."""

    text: str
    choice: int = 0
    signature: str = ""
    """The vendor's signature of it, or the encrypted reasoning itself."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The text with which the model refuses to answer."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Detail:
    """Further information about an error, the end or a call: a quota, an explanation."""

    name: str
    """The vendor's key."""
    value: Any
    """As it came: a JSON value."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Where arguments stop being JSON."""

    problem: str
    """The JSON parser's message."""
    position: int
    """Characters before the place; all of them if the arguments end too early."""
    event: int | None = None
    """Number of the event with that character, or of the last one before it; None: not known."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool, put together from its fragments."""

    id: str
    name: str
    arguments: str
    """The arguments as received: JSON text, or any text if `kind` is `custom`."""
    parsed: Any = None
    """The arguments as a value; None: they are not JSON."""
    choice: int = 0
    kind: str = "function"
    """`function`, `custom` (its input is plain text), or the vendor's name for a tool that it runs itself."""
    broken: Broken | None = None
    """Set if the answer has ended and the arguments are not JSON."""
    further: tuple[Detail, ...] = ()
    """What the vendor says of it under keys that have no meaning here; bounded."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A source that the answer cites: an annotation, a citation, a chunk of grounding."""

    kind: str
    """The vendor's name for it."""
    title: str = ""
    source: str = ""
    """Address, file or id."""
    quote: str = ""
    """The cited text."""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Other:
    """Any other part of the answer: a picture, a server tool's result, code that was run."""

    kind: str
    value: Any = field(default=None)
    """As it came: a JSON value."""
    choice: int = 0


Item = Text | Reasoning | Refusal | ToolCall | Citation | Other


@dataclass(frozen=True, slots=True)
class Differing:
    """A part that was said twice, in fragments and as a whole, and not alike."""

    what: str
    """Which part, for people."""
    shown: str
    """Which of them is among the items: `fragments` or `whole`."""
    other: str
    """What the other one says, as it came."""
    event: int
    """Number of the event with the whole."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A place where a call does not fit the tools that its request declares."""

    call: int
    """Number of the call, from 1 on."""
    name: str
    """The name of the tool."""
    pointer: str
    """JSON pointer (RFC 6901) into its arguments; empty: the call as a whole."""
    problem: str


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, as far as it has arrived."""

    dialect: Dialect
    model: str | None = None
    id: str | None = None
    items: tuple[Item, ...] = ()
    """The parts in the order of the answer, choice by choice."""
    usage: Usage = Usage()
    stop_reason: str | None = None
    """The vendor's reason; those of several choices separated by commas."""
    error: str | None = None
    """The vendor's report that the answer failed, in one line; None: it did not fail."""
    events: int = 0
    """Server-sent events with data, frames, lines, or elements of a JSON array; 1 for a whole answer."""
    irregular: tuple[str, ...] = ()
    """Anomalies, described for people; bounded."""
    complete: bool = False
    """Whether the answer reached the end that its dialect prescribes, without an error."""
    details: tuple[Detail, ...] = ()
    """More about the error, or about why the answer ended; bounded."""
    unread: tuple[str, ...] = ()
    """Events of unknown types, each once with its beginning; they are not an anomaly."""
    misfits: tuple[Misfit, ...] = ()
    """What does not fit the request's tools, as `checked` found; bounded."""
    differing: tuple[Differing, ...] = ()
    """Parts whose fragments say something else than the whole; bounded."""
    partly: bool = False
    """Whether not all events that came were read; `irregular` says how many. The end and the tokens may be known."""
    unchecked: tuple[str, ...] = ()
    """What was not read, though it may be valid, and what `checked` left out; described for people, bounded."""

    @property
    def text(self) -> str:
        """All text of the first choice."""
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
    """Number of the part of the answer that it belongs to, in order of their beginnings; None: to none."""
    name: str = ""
    """For a call, the tool's name so far."""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One event of an answer and what it added."""

    number: int
    """The event's number, from 1."""
    type: str
    """Its name, or the type given in its data."""
    begin: int
    end: int
    """Its position in the decoded body: its first byte, and the one after its last."""
    added: tuple[Added, ...] = ()
    remarks: tuple[str, ...] = ()
    """Anomalies that this event has, or that were first found with it."""
