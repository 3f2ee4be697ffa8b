"""One line of the output of `check`: `ok`, `TO DO`, or `-` for what is neither."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """The result of one check: in order, what to do, or why it was skipped."""

    good: bool
    subject: str
    text: str
    seen: bool = True
    """Whether the result is known; if not, the line is neither `ok` nor `TO DO`."""

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
    """A line for what was skipped, is still open, or concerns only some users; the text says why."""
    return Line(True, subject, text, seen=False)
