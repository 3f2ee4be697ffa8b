"""Makes strangers' text safe for a terminal or a page: nothing in it can steer either, or hide."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from unicodedata import combining, east_asian_width

from ..errors import Undecodable
from .values import decode, dump, mapping, string
from .written import as_written, dump_written

MAX_STRING = 200
"""Characters of a string within another part's JSON that are shown: more is a picture."""
MAX_ERROR = 500
"""Characters of an error that are shown."""
_MESSAGES = ("message", "detail", "error", "msg")
"""Keys that an error's sentence is under."""

# C0 but tab and LF, DEL, C1; marks that turn the writing direction, line separators, the byte order mark; halves of
# surrogate pairs, which no encoding takes; and tags, which spell out text that nobody sees.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """`text` with every character escaped, as JSON escapes it, that a terminal would obey or not show."""
    return _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return "\\r" if code == 13 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_text(value: Any) -> str:
    """`value` as one line of JSON, its characters as they are but those that a terminal would obey or not show."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], dump_written(value))


def line(text: str, limit: int = MAX_STRING) -> str:
    """`text` as one line, cut at `limit` characters."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return printable(cut).replace("\n", "\\n").replace("\t", "\\t")


def error_line(value: Any) -> str:
    """What a vendor's error says, in one line: `overloaded_error: Overloaded`."""
    if isinstance(value, str):
        return line(value, MAX_ERROR)
    error = mapping(value)
    key = _kind_of(error)
    kind = error[key] if key else ""
    message = next((string(error[one]) for one in _MESSAGES if string(error.get(one))), "")
    parts = [kind if isinstance(kind, str) else dump(kind), message]
    return line(": ".join(part for part in parts if part) or dump(value), MAX_ERROR)


def error_details(value: Any) -> list[tuple[str, Any]]:
    """All of a vendor's error that `error_line` leaves out, and a message that is too long for a line."""
    error = mapping(value)
    told = {_kind_of(error), "type", "sequence_number", "event_type"}
    if any(string(error.get(key)) for key in _MESSAGES):
        told.add(next(key for key in _MESSAGES if string(error.get(key))))
    elif not _kind_of(error):
        return []  # then the line is the whole error
    details = [(key, one) for key, one in error.items() if key not in told]
    long = next((error[key] for key in _MESSAGES if len(string(error.get(key))) > MAX_ERROR), None)
    return [*details, ("message", long)] if long else details


def _kind_of(error: dict[str, Any]) -> str:
    return next((key for key in ("type", "status", "code") if error.get(key) not in (None, "", "error")), "")


def indented(text: str, by: str = "  ") -> list[str]:
    """The lines of `text`, indented: only our own text stands at the margin."""
    return [by + part if part else "" for part in printable(text).split("\n")]


def columns(text: str) -> int:
    """How wide a terminal prints `text`: the characters of East Asia take two columns, marks on others none."""
    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def pretty(value: Any) -> str:
    """`value` as JSON over several lines, characters and written numbers as they are."""
    return dump_written(value, indent=2)


def pretty_arguments(arguments: str) -> str:
    """JSON text over several lines, numbers as written; unchanged if it is not JSON, or ambiguous."""
    try:
        _, faults = decode(arguments)
        return arguments if faults else pretty(as_written(arguments))
    except (Undecodable, ValueError, RecursionError):
        return arguments


def shortened(value: Any) -> Any:
    """`value` with its long strings cut."""
    if isinstance(value, dict):
        return {key: shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shortened(one) for one in value]
    if isinstance(value, str) and len(value) > MAX_STRING:
        return f"{value[:40]}… ({len(value):,} characters)"
    return value


def section(heading: str, body: Iterable[str]) -> list[str]:
    """An empty line, `heading` at the margin, and the lines of the body."""
    return ["", heading, *body]


def irregular(remarks: Iterable[str]) -> list[str]:
    """The section for what is out of order."""
    lines = [f"  - {line(remark, 1000)}" for remark in remarks]
    return section("irregular:", lines) if lines else []
