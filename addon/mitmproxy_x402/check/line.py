"""One line of the output of `check`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """The result of one check: in order, what to do, or why it was skipped."""

    good: bool
    subject: str
    text: str
    seen: bool = True
    """Whether its result is known; without, it is neither in order nor something to do."""

    def __str__(self) -> str:
        text = "".join(character if character.isprintable() else "?" for character in self.text)
        state = "TO DO" if not self.good else "ok" if self.seen else "-"
        return f"{state:<7}{self.subject:<12}{text}"


def ok(subject: str, text: str) -> Line:
    """A line that says that `subject` is in order."""
    return Line(True, subject, text)


def todo(subject: str, text: str) -> Line:
    """A line that says what to do about `subject`."""
    return Line(False, subject, text)


def unseen(subject: str, text: str) -> Line:
    """A line that is neither: skipped, open, or of no concern to many; the text says why."""
    return Line(True, subject, text, seen=False)
