"""What a request asks of a language model, the same for all dialects: frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..reading import Dialect, Other, Reasoning, Refusal, Text, ToolCall


@dataclass(frozen=True, slots=True)
class Media:
    """A picture, a sound, a file: not its content."""

    kind: str
    """image, audio, video, file"""
    type: str = ""
    """Media type, empty where it is not said."""
    size: int | None = None
    """Bytes, where the request carries them."""
    source: str = ""
    """File name, address or id, where it carries them not."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered."""

    id: str
    """Of the call, where the dialect has ids."""
    name: str
    parts: tuple[Text | Media | Other, ...]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """What is said of the part before it: that a cache may keep all up to here, or the vendor's seal on a thought."""

    name: str
    """The vendor's key."""
    value: str
    """In short."""


Part = Text | Reasoning | Refusal | ToolCall | ToolResult | Media | Mark | Other


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: str
    """In the vendor's word; `system` for instructions beside the messages."""
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call."""

    name: str
    description: str = ""
    parameters: str = ""
    """In short form: `city: string, days?: integer`."""
    kind: str = "function"
    """The vendor's word where it is none of the caller's functions."""
    namespace: str = ""
    """The name of the group that it is in; empty: in none."""
    marks: tuple[Mark, ...] = ()
    schema: Any = field(default=None, repr=False, compare=False)
    """The JSON schema of its parameters as the request has it; None: it has none."""

    @property
    def full_name(self) -> str:
        """Its name with that of its namespace."""
        return f"{self.namespace}.{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class RequestReading:
    """A request."""

    dialect: Dialect
    model: str | None = None
    streamed: bool = False
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    """All other settings with their values as JSON, cut, without secrets."""
    irregular: tuple[str, ...] = ()
    without_tools: bool = False
    """Whether it says itself that there are none: its list of tools is empty."""
