"""One line of the output of `check`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """Something that was looked at: in order, or what to do about it."""

    good: bool
    subject: str
    text: str

    def __str__(self) -> str:
        text = "".join(character if character.isprintable() else "?" for character in self.text)
        return f"{'ok' if self.good else 'TO DO':<7}{self.subject:<12}{text}"


def ok(subject: str, text: str) -> Line:
    """In order."""
    return Line(True, subject, text)


def todo(subject: str, text: str) -> Line:
    """Not in order; the text says what to do."""
    return Line(False, subject, text)
