"""Standard input and output where they are closed, where the disk is full, and where whoever reads has gone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE ended, as it ends Unix tools whose reader has gone."""


def run_with_output(run: Callable[[], int], complain: Callable[[str], int], *, silent: bool = False) -> int:
    """`run`, and flush what it has printed; returns its exit code, or that of an output that cannot be written.

    `complain` prints a message and returns the exit code for it. `silent`: a closed output is no trouble.
    """
    _open_closed(silent=silent)
    _watch_output()
    try:
        code = run()
        sys.stdout.flush()
        refused = _refused()
    except OSError as error:
        refused = _refused()
        if refused is None and not isinstance(error, BrokenPipeError):
            raise
        refused, code = refused or error, 1
    if refused is None:
        return code
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more when it ends
    if isinstance(sys.stdout, _Output):
        sys.stdout.refused = None  # it is told once
    if isinstance(refused, BrokenPipeError):
        return BROKEN_PIPE
    return complain(f"the output cannot be written: {refused.strerror or type(refused).__name__}")


def is_of_output(error: OSError) -> bool:
    """Whether `error` says that the output cannot be written, which `run_with_output` tells."""
    return isinstance(sys.stdout, _Output) and sys.stdout.refused is error


class _Output(io.TextIOWrapper):
    """Standard output that remembers why it could not be written: a verb may take that for trouble of its own."""

    refused: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.refused = error
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.refused = error
            raise


def _refused() -> OSError | None:
    """Why the output could not be written; None: it could."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return sys.stdout.refused if isinstance(sys.stdout, _Output) else None


def _watch_output() -> None:
    out = sys.stdout
    if sys.__stdout__ not in (None, out) or type(out) is not io.TextIOWrapper:  # a test's, or watched already
        return
    try:
        out.flush()
        if out.buffer.seekable():
            out.buffer.tell()  # as the new one asks; a terminal in a file's place has no answer
    except OSError:
        return
    newline = "\n" if os.linesep == "\n" else None
    about = out.encoding, out.errors, newline, out.line_buffering, out.write_through
    sys.stdout = _Output(out.buffer if out is sys.__stdout__ else out.detach(), *about)


def _open_closed(*, silent: bool) -> None:
    """Open what is closed of the three on nothing, lest a file opened later takes its number, and what is printed.

    Input is empty then, output cannot be written unless it is `silent`, and errors are lost.
    """
    flags = (os.O_RDONLY, os.O_WRONLY if silent else os.O_RDONLY, os.O_WRONLY)
    for number, flag in enumerate(flags):
        if not _is_open(number):
            opened = os.open(os.devnull, flag)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = _stream(0, "r")
    if sys.stdout is None:
        sys.stdout = _stream(1, "w")
    if sys.stderr is None:
        sys.stderr = _stream(2, "w")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _stream(number: int, mode: str) -> TextIO:
    return open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # type: ignore[return-value]
