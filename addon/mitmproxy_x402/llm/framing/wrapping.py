"""Takes off what services put around events, parts objects with nothing between them, and tells pings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...errors import Undecodable
from ..values import decode_base64, decode_bounded, mapping, string

CONTENT = {"choices", "candidates", "message", "delta", "event_type", "output", "outputs", "steps"}
"""Keys that only answers have, not errors."""
_PINGS = {"ping", "keepalive", "heartbeat"}
"""Types of events that only keep the stream open, in any dialect."""


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


def objects_in(data: bytes) -> Iterator[bytes]:
    """The JSON objects in `data` that follow each other directly; none where there is anything else."""
    text, at, found = data.decode("utf-8", "replace"), 0, []
    decoder = json.JSONDecoder()
    try:
        while at < len(text):
            if text[at] in " \t\r\n":
                at += 1
                continue
            if text[at] != "{":
                return
            begin = at
            _, at = decoder.raw_decode(text, at)
            found.append(text[begin:at].encode())
    except (ValueError, RecursionError):
        return
    yield from found


def is_ping(name: str, value: dict[str, Any]) -> bool:
    """Whether an event only keeps the stream open."""
    if CONTENT & value.keys():
        return False
    kind = value.get("type", name)
    return isinstance(kind, str) and kind in _PINGS


def type_of(value: dict[str, Any]) -> str:
    """The type that an event's data gives; empty: none."""
    return next((string(value[key]) for key in ("type", "event_type", "object") if string(value.get(key))), "")
