"""Takes off what services wrap around events, separates objects that follow each other directly, and knows pings."""

from __future__ import annotations

import re
from typing import Any, Literal

from ...errors import Undecodable
from ..values import decode_base64, decode_bounded, mapping, string
from .frames import begins_frame

CONTENT = {"choices", "candidates", "message", "delta", "event_type", "output", "outputs", "steps"}
"""Keys that only answers have, not errors."""
_BEFORE = b"\xef\xbb\xbf \t\r\n\x1e"
"""What may stand before a value: a byte order mark, white space, a separator of records."""
_MAX_BEFORE = 1000
"""Bytes at the begin that may tell nothing."""
_MAX_BLANK = 64 * 1024
"""Bytes of white space before them: services send empty lines while a model has not answered."""
_LINE = re.compile(rb"[^ \t\r\n\x1e][^\r\n]*")
_FIELDS = (b":", b"d", b"e", b"i", b"r")
"""The first characters of a comment, and of the fields data, event, error, id and retry."""
_PINGS = {"ping", "keepalive", "heartbeat"}
"""Types of events that only keep the stream open, in any dialect."""


def form_of(head: bytes) -> Literal["events", "array", "lines", "frames"] | None:
    """What the first bytes of an answer tell: `frames`, `array`, `lines` (or one object), `events`; None: not yet."""
    framed = begins_frame(head)
    if framed is None and head:
        return None
    if framed:
        return "frames"
    text = head.lstrip(_BEFORE)[:_MAX_BEFORE]
    if text.startswith(b"["):
        return "array"
    for line in _LINE.finditer(text):  # what is neither an object nor a field may stand before either
        if line[0].startswith(b"{"):
            return "lines"
        if line[0].startswith(_FIELDS):
            return "events"
    return None if len(text) < _MAX_BEFORE and len(head) < _MAX_BLANK else "events"


def error_of(name: str, value: dict[str, Any], *, is_answer: bool) -> dict[str, Any] | None:
    """The error that `value` is, in a form that gateways use in every dialect; None: it is something else.

    `is_answer`: whether it is known to belong to a model's answer.
    """
    kind, error = value.get("type"), value.get("error")
    if isinstance(error, str) and (is_answer or name == "error" or kind == "error"):
        error = {**{key: one for key, one in value.items() if key != "error"}, "message": error}
    if not (isinstance(error, dict) and error):
        if name != "error" and (kind != "error" or error) and value.get("object") != "error":
            return None
        error = value
    said = {key for key in CONTENT if value.get(key) is not None}
    return None if said - ({"message"} if isinstance(value.get("message"), str) else set()) else error


def listed_error(value: Any) -> dict[str, Any] | None:
    """The error that is alone in a list, as Google's endpoint for OpenAI's clients has it; None: `value` is none."""
    only = value[0] if type(value) is list and len(value) == 1 else None
    return only if type(only) is dict and only.keys() == {"error"} else None


def unwrapped(name: str, value: dict[str, Any], most: int | None = None) -> tuple[str, dict[str, Any]]:
    """The event without the wrapping of a service (Bedrock, Code Assist); the inner one has at most `most` values."""
    packed, response = value.get("bytes"), value.get("response")
    if isinstance(packed, str) and (unpacked := _unpacked(packed, most)) is not None:  # Bedrock's InvokeModel
        return "message", unpacked
    if isinstance(response, dict) and "candidates" in response and "type" not in value:  # Google's Code Assist
        return name, response
    return name, value


def _unpacked(packed: str, most: int | None) -> dict[str, Any] | None:
    data = decode_base64(packed)
    try:
        return mapping(decode_bounded(data, most)[0]) or None if data else None
    except Undecodable:
        return None


def is_ping(name: str, value: dict[str, Any]) -> bool:
    """Whether an event only keeps the stream open."""
    if CONTENT & value.keys():
        return False
    kind = value.get("type", name)
    return isinstance(kind, str) and kind in _PINGS


def type_of(value: dict[str, Any]) -> str:
    """The type that an event's data gives; empty: none."""
    return next((string(value[key]) for key in ("type", "event_type", "object") if string(value.get(key))), "")
