"""The base class of the dialects' readers: each takes the events of one answer and fills a Draft."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from ...protocol.strict_json import shown
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

    def kind_of(self, name: str, value: dict[str, Any]) -> str:
        """The type of an event whose data repeats it. Notes a name that differs."""
        said = value.get("type")
        kind = said if type(said) is str else name
        if name not in (kind, "message"):
            self.draft.notes.add(f"an event called {shown(name)} whose data says {shown(kind)}")
        return kind

    @abstractmethod
    def whole(self, value: dict[str, Any]) -> None:
        """Read an answer that is not streamed."""

    # Most dialects have nothing to say to these.

    def done(self) -> None:  # noqa: B027
        """The event whose data is `[DONE]`. Some gateways add one in every dialect; it adds nothing."""

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
