"""The base class of the dialects' readers: each takes the events of one answer and fills a Draft."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from ..draft import Draft
from ..reading import Dialect


class Reader(ABC):
    """Reads one answer in one dialect into a Draft. Takes any JSON object without complaint: it notes what is odd."""

    dialect: ClassVar[Dialect]
    end_mark: ClassVar[str]
    """What an answer ends with, for people."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.ended = False
        """Whether the end that the dialect prescribes has come."""
        self.polled = False
        """Whether this is what somebody was told who asked how far the answer is: it need not have ended."""

    @staticmethod
    @abstractmethod
    def speaks(name: str, value: dict[str, Any]) -> bool:
        """Whether `value`, a whole answer or an event called `name`, can only be in this dialect."""

    @abstractmethod
    def event(self, name: str, value: dict[str, Any]) -> None:
        """One event of a stream: its name (`message` where it has none) and its data."""

    @abstractmethod
    def whole(self, value: dict[str, Any]) -> None:
        """Read an answer that is not streamed."""

    # What the vendor's own SDK makes of the form of a stream.

    needs_empty_line: ClassVar[bool] = True
    """Whether it loses a last event without an empty line after it."""
    is_openai: ClassVar[bool] = False
    """Whether OpenAI's SDK reads it, or one like it."""

    def lost(self, hidden: bytes | None, beside: str, hollow: bool) -> list[str]:  # noqa: ARG002
        """Say what the SDK loses.

        `hidden`: the field that a byte order mark hides, in the first line; `beside`: that of the first line that does
        not begin with `data: `; `hollow`: whether there is an event without data.
        """
        if not self.is_openai:
            return []
        remarks = []
        if hidden == b"data":
            remarks.append("the stream begins with a byte order mark, by which OpenAI's SDK loses its first event")
        if hollow:
            remarks.append("an event without data, only with a name, an id or a retry, at which OpenAI's SDK fails")
        return remarks

    def skips(self, name: str) -> bool:  # noqa: ARG002
        """Whether it skips an event called `name` whatever its data is."""
        return False

    # Most dialects have nothing to say to these.

    def done(self, name: str) -> None:  # noqa: B027
        """The event, called `name`, whose data is `[DONE]`. Some gateways add one in every dialect; it adds nothing."""

    def ping(self, value: dict[str, Any]) -> None:  # noqa: B027
        """An event by which the stream is only kept open."""

    def settle(self) -> None:  # noqa: B027
        """Do deferred work before the draft is read."""

    def close(self) -> None:  # noqa: B027
        """End the input."""

    @property
    def complete(self) -> bool:
        """Whether the answer came to its prescribed end."""
        return self.ended

    @property
    def unfinished(self) -> str | None:
        """What to say of an answer that is not complete; None: what was said is enough."""
        return None if self.polled else f"the answer is not complete: there is no {self.end_mark}"
