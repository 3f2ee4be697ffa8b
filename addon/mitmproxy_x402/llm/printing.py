"""Strangers' text for a terminal or a page: nothing in it can steer either, or hide."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from ..protocol.strict_json import Undecodable
from .values import decode, dump, mapping, string

MAX_STRING = 200
"""Characters of a string within another part's JSON that are shown: more is a picture."""
MAX_ERROR = 500
"""Characters of an error that are shown."""

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


def line(text: str, limit: int = MAX_STRING) -> str:
    """`text` as one line, cut at `limit` characters."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return printable(cut).replace("\n", "\\n").replace("\t", "\\t")


def error_line(value: Any) -> str:
    """What a vendor's error says, in one line: `overloaded_error: Overloaded`."""
    if isinstance(value, str):
        return line(value, MAX_ERROR)
    error = mapping(value)
    kind = next((error[key] for key in ("type", "status", "code") if error.get(key) not in (None, "", "error")), "")
    message = string(error.get("message")) or string(error.get("detail"))
    parts = [kind if isinstance(kind, str) else dump(kind), message]
    return line(": ".join(part for part in parts if part) or dump(value), MAX_ERROR)


def indented(text: str, by: str = "  ") -> list[str]:
    """The lines of `text`, moved to the right: what stands at the margin is ours."""
    return [by + part if part else "" for part in printable(text).split("\n")]


def pretty(value: Any) -> str:
    """`value` as JSON over several lines, characters as they are."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def pretty_arguments(arguments: str) -> str:
    """JSON text laid out; as it is where it is none, or means different things to different readers."""
    try:
        value, faults = decode(arguments)
    except Undecodable:
        return arguments
    return arguments if faults else pretty(value)


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
