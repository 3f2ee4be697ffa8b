"""Decides whether a paid answer is complete, so that the client has what was paid for.

An answer can fail inside a 200: by an error event, by a stream that ends early, by no data at all. Its end shows it. So
a bounded tail of each paid answer is kept as it passes and read once, when the answer is over. Before that, only events
that look like errors are read. Compressed data is decoded as it arrives, within bounds.

A stream is complete if it has the end of its dialect and no error there. The dialect follows from the request's path,
or else from the events:

    .../chat/completions, .../completions   `data: [DONE]`, or a finish_reason
    .../responses                           response.completed, response.incomplete
    .../messages                            message_stop
    ...:streamGenerateContent               finishReason, or a prompt that was blocked
    any other                               an event, and a clean end

Any other answer is complete if it arrived in full and is not empty. It is incomplete if it is broken JSON or JSON that
reports a failure, if the client asked for a stream, or if the client sent JSON and got a page of HTML.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import Undecodable
from ..protocol.codings import Decoder, needs_decoding

MAX_TAIL = 16 << 10
"""Bytes of the answer's end that are kept."""
MAX_START = 512
"""Bytes kept of the beginning of an event that starts before the tail: enough to recognise its type."""
MAX_EVENTS = 32
"""How many events at the end are examined."""
MAX_UNFOLDED, MAX_RATIO = 4 << 20, 100
"""Most decoded bytes, and decoded bytes per byte, of a compressed answer; beyond both it counts as incomplete."""


@dataclass(frozen=True)
class Expected:
    """What kind of answer the client of a request can use."""

    path: str = ""
    stream_only: bool = False
    json: bool = False
    """The client sent JSON, so it does not expect HTML."""


_STREAM_WANTED = re.compile(rb'(?<!\\)"stream"\s*:\s*true')
MAX_SEARCHED = 1 << 20
"""Bytes of a request's body that are searched for `stream: true`."""


def expected(path: str, body: bytes, content_type: str, accept: str) -> Expected:
    """Derive what the client expects from its request: path, body (as sent), Content-Type and Accept."""
    is_json = _media_type(content_type) == "application/json"
    accepted = {_media_type(each) for each in accept.split(",")}
    stream_only = accepted == {STREAM} or (is_json and _STREAM_WANTED.search(body, 0, MAX_SEARCHED) is not None)
    return Expected(path.partition("?")[0], stream_only, is_json)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


STREAM = "text/event-stream"


class Tail:
    """Keeps the end of one answer. Called with each chunk of its body as the gateway sent it."""

    def __init__(self, content_type: str = "", coding: str = "", wanted: Expected | None = None) -> None:
        self._type = _media_type(content_type)
        self._is_stream = self._type == STREAM
        self._wanted = wanted or Expected()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._total = 0
        self._dropped = 0
        self._start = b""
        """The beginning of the event in which the kept bytes start."""
        self._before = b""
        """The last bytes before the kept ones."""
        self._unreadable = False
        self._failed = False
        self._alarmed = False
        """Whether the current event looks like an error."""
        self._edge = b""
        """The last bytes received."""
        self._decoder: Decoder | None = None
        if needs_decoding(coding):
            try:
                self._decoder = Decoder(coding)
            except Undecodable:
                self._unreadable = True

    def __call__(self, data: bytes) -> None:
        """Take one more chunk."""
        self._total += len(data)
        if self._decoder is not None:
            self._decode(self._decoder, data)
        elif not self._unreadable:
            self._keep(data)

    def _decode(self, decoder: Decoder, data: bytes) -> None:
        try:
            for part in decoder.feed(data):
                self._keep(part)
                if self._dropped > max(MAX_UNFOLDED, self._total * MAX_RATIO):
                    raise Undecodable("it unfolds too far")
        except Undecodable:
            self._unreadable, self._decoder = True, None
            self._chunks.clear()

    def _keep(self, data: bytes) -> None:
        if self._is_stream and not self._failed:
            self._look_for_failure(data)
        self._chunks.append(data)
        self._size += len(data)
        while self._size - len(self._chunks[0]) >= MAX_TAIL:
            self._drop(self._chunks.popleft())

    def _look_for_failure(self, data: bytes) -> None:
        """Read events that look like errors in the middle of the stream: a client stops at an error."""
        # A search for plain words first: it costs almost nothing per chunk.
        edge = self._edge + data[:6]
        self._edge = data[-6:] if len(data) >= 6 else edge[-6:]
        words = b"error" in data or b"failed" in data or b"error" in edge or b"failed" in edge
        if not words and not self._alarmed:
            return
        seen = b"".join(self._chunks) + data
        self._alarmed = False
        for found in _ALARM.finditer(seen):
            begin = max(seen.rfind(b"\n\n", 0, found.start()), seen.rfind(b"\n\r\n", 0, found.start()), 0)
            end = _END_OF_EVENT.search(seen, found.end())
            if end is None:
                self._alarmed = len(seen) - begin <= MAX_TAIL  # the event continues in the next chunk
            elif any(_is_failure(*event) for event in _last_events(seen[begin : end.end()])):
                self._failed = True
                return

    def _drop(self, chunk: bytes) -> None:
        self._size -= len(chunk)
        self._dropped += len(chunk)
        if not self._is_stream:
            return
        seen = self._before + chunk
        end = max(seen.rfind(b"\n\n") + 2, seen.rfind(b"\n\r\n") + 3)
        if end > 2:
            self._start = seen[end : end + MAX_START]
        elif len(self._start) < MAX_START:
            self._start += chunk[: MAX_START - len(self._start)]
        self._before = seen[-3:]

    @property
    def is_complete(self) -> bool:
        """Whether the answer is complete. To be read after its last byte has arrived."""
        if not self._total or self._unreadable or self._failed:
            return False
        kept = b"".join(self._chunks)
        if self._is_stream:
            return _stream_is_complete(self._start + kept, self._wanted.path)
        if self._wanted.stream_only or (self._wanted.json and self._type == "text/html"):
            return False
        if self._type == "application/json" and not kept.rstrip().endswith((b"}", b"]")):
            return False
        return bool(self._dropped) or not _says_that_it_failed(kept)


def _says_that_it_failed(body: bytes) -> bool:
    """Whether a whole body is the JSON of an error or of a failed response."""
    if b'"error"' not in body and b'"failed"' not in body:
        return False
    said = _decoded(body)
    if not isinstance(said, dict):
        return False
    failed = said.get("status") == "failed" and said.get("object") == "response"
    answers = any(said.get(key) for key in ("choices", "output", "content", "candidates", "data"))
    return failed or said.get("type") == "error" or (bool(said.get("error")) and not answers)


_NAME = re.compile(rb"^event:[ ]?([^\r\n]*)", re.MULTILINE)
_DATA = re.compile(rb"^data:[ ]?([^\r\n]*)", re.MULTILINE)
_TYPE = re.compile(rb'"type"\s*:\s*"((?:response\.|message_|content_block_)[^"]{1,100})"')
_ALARM = re.compile(rb'event:[ ]?error|"error"\s*:\s*(?!null)|"type"\s*:\s*"error"|response\.failed')
_END_OF_EVENT = re.compile(rb"\r?\n\r?\n|\r\r")

_Dialect = Literal["chat", "responses", "messages", "gemini", ""]
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


def _stream_is_complete(text: bytes, path: str) -> bool:
    """Whether the last events contain the end of the dialect, and no error."""
    begun: set[_Dialect] = {dialect for end, dialect in _BY_PATH if path.endswith(end)}
    ended: set[_Dialect] = set()
    some = False
    for name, data in _last_events(text):
        some = True
        if data.strip() == b"[DONE]":
            ended.add("chat")
            continue
        if _is_failure(name, data):
            return False
        said = _decoded(data) if len(data) <= MAX_TAIL else None
        kind = _kind(name, data, said)
        if kind in _ENDS:
            ended.add(_ENDS[kind])
        elif isinstance(said, dict):
            reasons = dict(_finish_reasons(said))
            if "error" in reasons.values():
                return False
            ended.update(reasons)
            begun.update(dialect for key, dialect in _CHUNKS if key in said)
        begun.update(dialect for start, dialect in _BEGUN if kind.startswith(start))
    return some and begun <= ended


def _is_failure(name: str, data: bytes) -> bool:
    """Whether an event reports that the answer failed."""
    said = _decoded(data) if len(data) <= MAX_TAIL else None
    if isinstance(said, dict) and said.get("error") and "response" not in said:
        return True
    return _kind(name, data, said) in _FAILURES


def _kind(name: str, data: bytes, said: Any) -> str:
    """The type that an event gives itself, found even if the event is too long to decode."""
    if name:
        return name
    if isinstance(said, dict):
        return said["type"] if isinstance(said.get("type"), str) else ""
    found = _TYPE.search(data, 0, MAX_START)
    return found[1].decode("ascii", "replace") if found else ""


_CHUNKS: tuple[tuple[str, _Dialect], ...] = (("choices", "chat"), ("candidates", "gemini"))


def _finish_reasons(said: dict[str, Any]) -> Iterator[tuple[_Dialect, str]]:
    """The finish reasons of a chunk's choices (chat, completions) or candidates (Gemini)."""
    for key, dialect in _CHUNKS:
        for part in filter(lambda each: isinstance(each, dict), _list(said.get(key))):
            for reason in (part.get("finish_reason"), part.get("finishReason")):
                if isinstance(reason, str) and reason:
                    yield dialect, reason
    feedback = said.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason"):
        yield "gemini", "blocked"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _last_events(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and data of the last events with data, newest first. An unterminated event counts only if it is [DONE]."""
    parts = _END_OF_EVENT.split(text)
    rest = parts.pop()
    if b"".join(_DATA.findall(rest)).strip() == b"[DONE]":
        parts.append(rest)
    count = 0
    for part in reversed(parts):
        data = _DATA.findall(part)
        if data:
            names = _NAME.findall(part)
            yield (names[-1].decode("utf-8", "replace").strip() if names else ""), b"\n".join(data)
            count += 1
        if count == MAX_EVENTS:
            return


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
