"""What the readers of the four dialects have in common, and how a dialect is told from what is said in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from .draft import Draft
from .reading import Dialect
from .values import index, mapping


class Reader(ABC):
    """Reads one answer in one dialect into a Draft. Takes any JSON object without complaint: it notes what is odd."""

    dialect: Dialect
    end_mark: str
    """What a stream ends with, for people."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.ended = False
        """Whether the end that the dialect prescribes has come."""

    @abstractmethod
    def event(self, name: str, value: dict[str, Any]) -> None:
        """One event of a stream: its name (`message` where it has none) and its data."""

    @abstractmethod
    def whole(self, value: dict[str, Any]) -> None:
        """An answer that is not streamed."""

    def done(self) -> None:
        """The event whose data is `[DONE]`."""
        self.draft.notes.add("a [DONE], which this dialect does not know")

    @property
    def complete(self) -> bool:
        """Whether the answer came to its prescribed end."""
        return self.ended


_MESSAGES = {
    *("message_start", "message_delta", "message_stop", "ping"),
    *("content_block_start", "content_block_delta", "content_block_stop"),
}


def dialect_of(value: dict[str, Any]) -> Dialect:
    """The dialect that a whole answer, or one event of a stream, is in; `unknown` where it does not tell."""
    kind, what, error = value.get("type"), value.get("object"), mapping(value.get("error"))
    if isinstance(kind, str):
        if kind.startswith("response."):
            return "openai-responses"
        if kind in _MESSAGES or (kind == "message" and isinstance(value.get("content"), list)):
            return "anthropic-messages"
        if kind == "error":
            return "anthropic-messages" if error else "openai-responses"
    if what == "response":
        return "openai-responses"
    if what in ("chat.completion", "chat.completion.chunk", "text_completion") or isinstance(
        value.get("choices"), list
    ):
        return "openai-chat"
    if any(key in value for key in ("candidates", "usageMetadata", "promptFeedback")):
        return "gemini"
    return "gemini" if index(error.get("code")) and isinstance(error.get("status"), str) else "unknown"
