"""Talks to the user at a terminal: prints, asks visibly or hidden, wipes the screen, shows a spinner."""

from __future__ import annotations

import asyncio
import getpass
import itertools
import sys
from collections.abc import Callable
from typing import TypeVar

from ..errors import SettingsError

T = TypeVar("T")

TRIES = 3
"""How often a question is asked."""


STEP_SECONDS = 0.2
"""Seconds between two steps of a spinner."""


class NoAnswerError(SettingsError):
    """The user gave no usable answer."""


def is_interactive() -> bool:
    """Whether both input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def say(text: str = "") -> None:
    """Print a line and flush."""
    write(f"{text}\n")


def write(text: str) -> None:
    """Print `text`, which ends its lines itself, and flush."""
    sys.stdout.write(text)
    sys.stdout.flush()


def ask(question: str) -> str:
    """Ask for one line of input. Raises NoAnswerError at the end of input."""
    sys.stdout.write(question)
    sys.stdout.flush()
    answer = sys.stdin.readline(4096)
    if not answer:
        raise NoAnswerError("there was no answer. Nothing was changed.")
    return answer.strip()


def ask_hidden(question: str) -> str:
    """Ask for one line that is not echoed. Raises NoAnswerError at the end of input."""
    try:
        return getpass.getpass(question)
    except EOFError:
        raise NoAnswerError("there was no answer. Nothing was changed.") from None


def ask_until(question: Callable[[], T | None], gave_up: str) -> T:
    """Ask up to TRIES times until the answer is not None. Raises NoAnswerError with `gave_up`."""
    for _ in range(TRIES):
        answer = question()
        if answer is not None:
            return answer
    raise NoAnswerError(gave_up)


def wipe() -> None:
    """Clear the screen and the scroll-back buffer, which show a secret."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[3J\x1b[2J\x1b[H")
        sys.stdout.flush()


class Spinner:
    """A spinner on stderr while the block runs; prints nothing if stderr is not a terminal."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spinning: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        if sys.stderr.isatty():
            self._spinning = asyncio.create_task(self._spin())

    async def __aexit__(self, *_: object) -> None:
        if self._spinning is not None:
            self._spinning.cancel()
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    async def _spin(self) -> None:
        for sign in itertools.cycle("|/-\\"):
            sys.stderr.write(f"\r{sign} {self._text}")
            sys.stderr.flush()
            await asyncio.sleep(STEP_SECONDS)
