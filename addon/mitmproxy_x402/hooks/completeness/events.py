"""Finds the last events in the kept end of an answer: server-sent events, lines of JSON, Amazon's frames."""

from __future__ import annotations

import json
import re
from binascii import Error, a2b_base64
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...llm.framing.frames import length_at, split_frame

MAX_TAIL = 16 << 10
"""Bytes of the answer's end that are kept."""
MAX_EVENTS = 32
"""How many events at the end are examined."""
DONE = b"[DONE]"
AROUND = b"\xef\xbb\xbf \t\r\n\x1e"
"""What may stand around JSON: a byte order mark, white space, the separator of RFC 7464."""


class Event(NamedTuple):
    """One event, as its bytes."""

    name: str
    data: bytes
    is_first: bool = False
    """Whether the kept bytes begin with it, or in the middle of it."""


_NAME = re.compile(rb"^event:[ ]?([^\r\n]*)", re.MULTILINE)
_DATA = re.compile(rb"^data:[ ]?([^\r\n]*)", re.MULTILINE)
_ERROR = re.compile(rb"^error:[ ]?(\{[^\r\n]*)", re.MULTILINE)
"""An error in a field of its own, as llama.cpp sends it."""
END_OF_EVENT = re.compile(rb"\r?\n\r?\n|\r\r")


def last_events(text: bytes) -> Iterator[Event]:
    """The last server-sent events that have data; the last one first.

    An event whose end is missing is left out, unless it is [DONE].
    """
    parts = END_OF_EVENT.split(text)
    rest = parts.pop()
    if b"".join(_DATA.findall(rest)).strip() == DONE:
        parts.append(rest)
    count = 0
    for number, part in reversed(list(enumerate(parts))):
        data, names = _DATA.findall(part), _NAME.findall(part)
        if not data:
            data, names = _ERROR.findall(part), [b"error"]
        if data:
            yield Event(names[-1].decode("utf-8", "replace").strip() if names else "", b"\n".join(data), not number)
            count += 1
        if count == MAX_EVENTS:
            return


def last_lines(text: bytes) -> Iterator[Event]:
    """The last lines of JSON; the last one first."""
    count = 0
    while count < MAX_EVENTS:
        text = text.rstrip(AROUND)
        if not text:
            return
        rest, _, line = text.rpartition(b"\n")
        yield Event("", line.lstrip(AROUND), not rest)
        text = rest
        count += 1


def last_frames(kept: bytes) -> list[Event] | None:
    """The last of Amazon's frames, the last one first. Empty: none begins there; None: the last is cut off."""
    at, found = _first_frame(kept), []
    if at < 0:
        return []
    while at < len(kept):
        size = length_at(kept, at)
        if not size or at + size > len(kept):
            return None
        found.append(kept[at : at + size])
        at += size
    return [_event_of(frame) for frame in reversed(found[-MAX_EVENTS:])]


def _first_frame(kept: bytes) -> int:
    """Where a frame begins; -1: none does. Its length is less than 16 MiB, so that its first byte is 0."""
    at = kept.find(b"\0")
    while at >= 0 and not length_at(kept, at):
        at = kept.find(b"\0", at + 1)
    return at


def _event_of(frame: bytes) -> Event:
    headers, _, payload = split_frame(frame)
    if headers.get(":message-type", "event") != "event":
        return Event("error", payload)
    said = decoded(payload)
    packed = said.get("bytes") if isinstance(said, dict) else None
    if isinstance(packed, str):  # InvokeModel
        try:
            return Event("", a2b_base64(packed))
        except (Error, ValueError):
            pass
    return Event(headers.get(":event-type", ""), payload)


def decoded(data: bytes) -> Any:
    """What JSON says; None: it is not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
