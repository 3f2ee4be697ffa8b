"""Reads typed values from the objects in flow.json, for `format`; RecordingError names the place of a wrong one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import X402Error

Headers = tuple[tuple[str, str], ...]
T = TypeVar("T")


class RecordingError(X402Error):
    """A folder or file is not a recording, or is damaged. The text names the file and the fault."""

    code = "recording_invalid"


@dataclass(frozen=True)
class Table:
    """An object of flow.json, with its name for errors. Raises RecordingError: the value is not an object."""

    file: Path
    prefix: str
    value: Any

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            raise RecordingError(f"{self.file}: {self.prefix.rstrip('.') or 'the whole'}: expected a JSON object")

    def wrong(self, key: str, expected: str) -> RecordingError:
        """The error that names `key` and says what was expected."""
        return RecordingError(f"{self.file}: {self.prefix}{key}: {expected}")

    def get(self, key: str, kind: type[T]) -> T:
        """The value of `key`, which must be present. Raises RecordingError, like all methods below."""
        found = self.optional(key, kind)
        if found is None:
            raise self.wrong(key, f"is missing, expected {_KINDS[kind]}")
        return found

    def optional(self, key: str, kind: type[T]) -> T | None:
        """The value of `key`; None: it is null or missing."""
        found = self.value.get(key)
        if found is not None and (not isinstance(found, kind) or isinstance(found, bool)):
            raise self.wrong(key, f"expected {_KINDS[kind]}")
        return found

    def table(self, key: str) -> Table:
        """The object that is the value of `key`."""
        return Table(self.file, f"{self.prefix}{key}.", self.value.get(key))

    def seconds(self, key: str) -> float | None:
        """The value of `key` in seconds; None: not known."""
        found = self.value.get(key)
        if found is None or _is_number(found):
            return None if found is None else float(found)
        raise self.wrong(key, "expected seconds")

    def pairs(self, key: str) -> tuple[tuple[float, float], ...]:
        """A list of pairs of numbers that are not negative."""
        pairs = self.get(key, list)
        if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in pairs):
            raise self.wrong(key, "expected a list of [seconds, bytes]")
        return tuple((one, other) for one, other in pairs)

    def file_name(self, key: str) -> str | None:
        """The name of a file directly in the folder; None: there is none."""
        name = self.optional(key, str)
        if name is not None and not _FILE_NAME.fullmatch(name):
            raise self.wrong(key, "expected the name of a file in this folder")
        return name

    def headers(self, key: str) -> Headers:
        """A list of headers, each as [name, value]."""
        pairs = self.get(key, list)
        if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(text, str) for text in p) for p in pairs):
            raise self.wrong(key, "expected a list of [name, value]")
        return tuple((str(name), str(value)) for name, value in pairs)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_KINDS: dict[type, str] = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}
