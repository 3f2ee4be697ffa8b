"""Finds the end of its dialect in the last events of a stream, and errors in any of its events.

    .../chat/completions, .../completions   `data: [DONE]`, or a finish_reason
    .../responses                           response.completed, response.incomplete
    .../messages                            message_stop
    ...:streamGenerateContent               finishReason, or a prompt that was blocked
    any other                               an event, and a clean end

A finish reason ends the stream of one answer; who asks for several has to wait for the end of all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from .outline import Outline

MAX_TAIL = 16 << 10
"""Bytes of the answer's end that are kept."""
MAX_START = 512
"""Bytes kept of the beginning of an event that starts before the tail: enough to recognise its type."""
MAX_EVENTS = 32
"""How many events at the end are examined."""
_NAME = re.compile(rb"^event:[ ]?([^\r\n]*)", re.MULTILINE)
_DATA = re.compile(rb"^data:[ ]?([^\r\n]*)", re.MULTILINE)
_TYPE = re.compile(rb'"type"\s*:\s*"((?:response\.|message_|content_block_)[^"]{1,100})"')
ALARM = re.compile(
    rb'event:[ ]?error|"[Ee]rrors?"\s*:\s*(?!null)|"type"\s*:\s*"error"|"status"\s*:\s*"failed"|response\.failed'
)
END_OF_EVENT = re.compile(rb"\r?\n\r?\n|\r\r")

_Dialect = Literal["chat", "responses", "messages", "gemini", ""]
Reason = tuple[_Dialect, str]
"""The dialect of a finish reason, and what it says."""
_REASON = re.compile(rb'(?<!\\)"(finish_reason|finishReason)"\s*:\s*"([A-Za-z_]{1,40})"')
MAX_REASON = 100
"""Bytes that such a pair has at most."""
_BY_PATH: tuple[tuple[str, _Dialect], ...] = (
    ("/completions", "chat"),
    ("/responses", "responses"),
    ("/messages", "messages"),
    (":streamGenerateContent", "gemini"),
)
_ENDS: dict[str, _Dialect] = {
    "response.completed": "responses",
    "response.incomplete": "responses",
    "message_stop": "messages",
}
_FAILURES = frozenset({"error", "response.failed", "response.error", "response.cancelled"})
_BEGUN: tuple[tuple[str, _Dialect], ...] = (
    ("response.", "responses"),
    ("message_", "messages"),
    ("content_block_", "messages"),
)


def is_complete(text: bytes, path: str, *, gap: set[Reason] | None, is_over: bool, is_one: bool = True) -> bool:
    """Whether the last events contain the end of the dialect, and no error.

    `gap`: the finish reasons in what is left out of the first event in `text`; None: `text` is all of the stream. Where
    no dialect is known, the answer's own end is its end (`is_over`). Unless the stream is over or `is_one` answer, no
    finish reason is its end.
    """
    begun: set[_Dialect] = {dialect for end, dialect in _BY_PATH if path.endswith(end)}
    ended: set[_Dialect] = set()
    ended_one: set[_Dialect] = set()
    kinds: set[str] = set()
    some = False
    for name, data, is_first in last_events(text):
        if data.strip() == b"[DONE]":
            ended.add("chat")
            continue
        some = True
        has_gap = is_first and gap is not None
        if is_failure(name, data, has_gap=has_gap):
            return False
        said = decoded(data) if len(data) <= MAX_TAIL else None
        kind = _kind(name, data, said)
        kinds.add(kind)
        if kind in _ENDS:
            ended.add(_ENDS[kind])
            continue
        if isinstance(said, dict):
            reasons = set(_finish_reasons(said))
            begun.update(dialect for key, dialect in _CHUNKS if key in said)
            is_one = is_one and not _is_another(said)
        else:
            reasons = reasons_in(data) | ((has_gap and gap) or set())
        if any(reason == "error" for _, reason in reasons):
            return False
        ended_one.update(dialect for dialect, _ in reasons)
        begun.update(dialect for start, dialect in _BEGUN if kind.startswith(start))
    if gap is None and kinds == {"message_stop"}:
        return False  # the end of nothing
    if is_over or is_one:
        ended |= ended_one
    return some and begun <= ended and (is_over or bool(ended))


def _is_another(said: dict[str, Any]) -> bool:
    """Whether a chunk is of another answer than the first."""
    parts = [part for key, _ in _CHUNKS for part in as_list(said.get(key))]
    return any(isinstance(part, dict) and part.get("index") not in (None, 0) for part in parts)


def reasons_in(data: bytes) -> set[Reason]:
    """The finish reasons in a part of an event that is too long to decode."""
    if b"inish" not in data:
        return set()
    found = _REASON.findall(data)
    return {("chat" if key == b"finish_reason" else "gemini", reason.decode()) for key, reason in found}


def is_failure(name: str, data: bytes, has_gap: bool = False) -> bool:
    """Whether an event reports that the answer failed. `has_gap`: a part of its data is missing."""
    if len(data) > MAX_TAIL and not has_gap:
        outline = Outline(event_says_that_it_failed, levels=2)
        outline.feed(data)
        return outline.failed or _kind(name, data, None) in _FAILURES
    said = decoded(data) if len(data) <= MAX_TAIL else None
    return event_says_that_it_failed(said) or _kind(name, data, said) in _FAILURES


def event_says_that_it_failed(said: Any) -> bool:
    """Whether an event reports a failure, also as the end of a response that failed."""
    if not isinstance(said, dict):
        return False
    response = said.get("response")
    if isinstance(response, dict):
        return has_error(response) or response.get("status") in ("failed", "cancelled")
    return has_error(said) or said.get("type") in _FAILURES


def has_error(said: dict[str, Any]) -> bool:
    """Whether `said` has an error, in whatever case its key is written."""
    return any(value and key.lower() in ("error", "errors") for key, value in said.items())


def _kind(name: str, data: bytes, said: Any) -> str:
    """The type that an event gives itself, found even if the event is too long to decode."""
    if name:
        return name
    if isinstance(said, dict):
        return said["type"] if isinstance(said.get("type"), str) else ""
    found = _TYPE.search(data, 0, MAX_START)
    return found[1].decode("ascii", "replace") if found else ""


_CHUNKS: tuple[tuple[str, _Dialect], ...] = (("choices", "chat"), ("candidates", "gemini"))


def _finish_reasons(said: dict[str, Any]) -> Iterator[Reason]:
    """The finish reasons of a chunk's choices (chat, completions) or candidates (Gemini)."""
    for key, dialect in _CHUNKS:
        for part in filter(lambda each: isinstance(each, dict), as_list(said.get(key))):
            for reason in (part.get("finish_reason"), part.get("finishReason")):
                if isinstance(reason, str) and reason:
                    yield dialect, reason
    feedback = said.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason"):
        yield "gemini", "blocked"


def as_list(value: Any) -> list[Any]:
    """`value`, or an empty list where it is something else."""
    return value if isinstance(value, list) else []


def last_events(text: bytes) -> Iterator[tuple[str, bytes, bool]]:
    """Name and data of the last events that have data, and whether `text` begins with it; the last one first.

    An event whose end is missing is left out, unless it is [DONE].
    """
    parts = END_OF_EVENT.split(text)
    rest = parts.pop()
    if b"".join(_DATA.findall(rest)).strip() == b"[DONE]":
        parts.append(rest)
    count = 0
    for number, part in reversed(list(enumerate(parts))):
        data = _DATA.findall(part)
        if data:
            names = _NAME.findall(part)
            yield (names[-1].decode("utf-8", "replace").strip() if names else ""), b"\n".join(data), not number
            count += 1
        if count == MAX_EVENTS:
            return


def decoded(data: bytes) -> Any:
    """What JSON says; None: it is not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
