"""Finds the ends of dialects in the last events of a stream, and errors in any of its events.

A stream is complete if each dialect that its events are in, or that the request's path tells, has its end there; one in
no known dialect, if it ended cleanly. A finish reason ends the stream of one answer; who asks for several has to wait
for the end of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ...llm.values import mapping, sequence
from .dialects import (
    BY_PATH,
    DIALECTS,
    FAILURES,
    dialects_of,
    event_says_that_it_failed,
    is_failed_reason,
    told_by,
    types_of,
)
from .events import DONE, MAX_TAIL, Event, decoded
from .outline import Outline

MAX_START = 512
"""Bytes kept of the beginning of an event that starts before the tail: enough to recognise its type."""
_TYPE = re.compile(rb'"type"\s*:\s*"((?:response\.|message_|content_block_)[^"]{1,100})"')
ALARM = re.compile(
    rb'event:[ ]?error|"[Ee]rrors?"\s*:\s*(?!null)|"(?:type|object)"\s*:\s*"error"|"status"\s*:\s*"failed"'
    rb"|(?:response|thread\.run)\.failed"
)

Answer = tuple[str, "int | None"]
"""The dialect of one of the answers in a stream, and its index; None: all of them."""
Reason = tuple[str, str]
"""The dialect of a finish reason, and what it says."""
_REASON = re.compile(rb'(?<!\\)"(finish_reason|finishReason)"\s*:\s*(?:"([A-Za-z_]{1,40})"|([1-9][0-9]?)\s*[,}])')
MAX_REASON = 100
"""Bytes that such a pair has at most."""


class Gap(NamedTuple):
    """What is known of the part of an event that was dropped."""

    reasons: set[Reason]
    said: dict[str, Any]
    """What its upper levels tell of its end."""


def is_complete(events: Iterable[Event], path: str, *, gap: Gap | None, is_over: bool, is_one: bool = True) -> bool:
    """Whether `events`, the last one first, contain the end of each dialect, and no error.

    `gap`: what is known of the first event in the kept bytes; None: they are all of the stream. Where no dialect is
    known, the answer's own end is its end (`is_over`). Unless the stream is over or `is_one` answer, no finish reason
    is its end.
    """
    begun = {dialect for end, dialect in BY_PATH if path.endswith(end)}
    ended: set[str] = set()
    kinds: set[tuple[str, ...]] = set()
    begun_answers: set[Answer] = set()
    ended_answers: set[Answer] = set()
    for event in events:
        if event.data.strip() == DONE:
            ended.add("chat")
            continue
        found = _found_in(event, gap if event.is_first else None)
        if found.has_failed:
            return False
        kinds.add(found.types)
        begun.update(found.dialects)
        ended |= found.ended
        begun_answers |= found.answers
        ended_answers |= found.ended_answers
    if gap is None and kinds == {("message_stop",)}:
        return False  # the end of nothing
    running = {dialect for dialect, _ in begun_answers - ended_answers}
    all_ended = {dialect for dialect, number in ended_answers if number is None or dialect not in running}
    if is_over:
        ended |= all_ended
    elif is_one and not any(number for _, number in begun_answers):
        ended |= all_ended - {"gemini"}  # which may give the reason STOP in every chunk
    return bool(kinds) and begun <= ended and (is_over or bool(ended))


def is_known(events: Iterable[Event], gap: Gap | None) -> bool:
    """Whether one of `events` is in a known dialect."""
    return any(_found_in(event, gap if event.is_first else None).dialects for event in events)


class _Found(NamedTuple):
    """What one event says about the stream."""

    types: tuple[str, ...]
    has_failed: bool
    dialects: set[str]
    ended: set[str]
    answers: set[Answer]
    """The answers that it is of."""
    ended_answers: set[Answer]
    """Those of which it has the finish reason."""


def _found_in(event: Event, gap: Gap | None) -> _Found:
    said, is_all = _said_by(event, gap)
    types = types_of(event.name, said)
    if not is_all and len(types[0]) == 0:
        types = (_type_at_start(event.data),)
    told = mapping(said.get("response"))
    if "candidates" in told and "type" not in said:  # Google's Code Assist
        said = told
    answers = list(_answers(said)) if is_all else []
    reasons = set() if is_all else reasons_in(event.data) | (gap.reasons if gap else set())
    spoken = dialects_of(types, said)
    ends = {name for name, has_ended in spoken.items() if has_ended}
    of_one = {name for name in ends if DIALECTS[name].of_one}
    has_failed = not FAILURES.isdisjoint(types) or event_says_that_it_failed(said)
    return _Found(
        types,
        has_failed
        or any(each.has_failed for each in answers)
        or any(reason.lower() == "error" for _, reason in reasons),
        set(spoken),
        ends - of_one,
        {(each.dialect, each.number) for each in answers},
        {(each.dialect, each.number) for each in answers if each.has_ended}
        | {(dialect, None) for dialect in of_one}
        | {(dialect, None) for dialect, _ in reasons},
    )


def _said_by(event: Event, gap: Gap | None) -> tuple[dict[str, Any], bool]:
    """What an event says, and whether this is all of it, not only its upper levels."""
    if gap is not None:
        said = decoded(event.data) if len(event.data) <= MAX_TAIL else None
        return (said, True) if isinstance(said, dict) else (gap.said, False)
    if len(event.data) > MAX_TAIL:
        return upper_levels(event.data), False
    said = decoded(event.data)
    if isinstance(said, list) and event_says_that_it_failed(said):
        return {"error": said}, True
    return mapping(said), True


def upper_levels(data: bytes) -> dict[str, Any]:
    """What the upper levels of an event that is too long to decode tell of its end."""
    found: dict[str, Any] = {}

    def judge(said: Any) -> bool:
        found.update(told_by(said))
        return event_says_that_it_failed(said)

    outline = Outline(judge, levels=2)
    outline.feed(data)
    return {**found, "error": outline.failed}


def _type_at_start(data: bytes) -> str:
    """The type in data that is too long for an outline as well."""
    found = _TYPE.search(data, 0, MAX_START)
    return found[1].decode("ascii", "replace") if found else ""


def reasons_in(data: bytes) -> set[Reason]:
    """The finish reasons in a part of an event that is too long to decode."""
    if b"inish" not in data:
        return set()
    found = _REASON.findall(data)
    return {
        ("chat" if key == b"finish_reason" else "gemini", (reason or number).decode()) for key, reason, number in found
    }


def is_failure(event: Event) -> bool:
    """Whether an event, of which no part is missing, reports that the answer failed."""
    return _found_in(event, None).has_failed


_CHUNKS = (("choices", "chat"), ("candidates", "gemini"))


class _Part(NamedTuple):
    """What a chunk says of one answer."""

    dialect: str
    number: int | None
    """Its index; None: of all answers."""
    has_ended: bool
    has_failed: bool


def _answers(said: dict[str, Any]) -> Iterator[_Part]:
    """The choices (chat, completions) or candidates (Gemini, where some reasons are numbers) of a chunk."""
    for key, dialect in _CHUNKS:
        for place, part in enumerate(map(mapping, sequence(said.get(key)))):
            reason, number = part.get("finish_reason") or part.get("finishReason"), part.get("index")
            has_ended = isinstance(reason, (str, int)) and bool(reason)
            has_failed = bool(part.get("error")) or is_failed_reason(part)
            yield _Part(dialect, number if isinstance(number, int) else place, has_ended, has_failed)
    if mapping(said.get("promptFeedback")).get("blockReason"):
        yield _Part("gemini", None, has_ended=True, has_failed=False)
