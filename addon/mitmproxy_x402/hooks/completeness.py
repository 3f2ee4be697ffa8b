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
    application/x-ndjson                    a last line that does not say `"done": false`
    any other                               an event, and a clean end

Any other answer is complete if it arrived in full, to the end of its coding, and is not empty. It is incomplete if it
is broken JSON or JSON that reports a failure, if the client asked for a stream, or if the client sent JSON and got a
page of HTML. Of JSON that is longer than the tail, an outline (`outline`) is read as it passes: the keys of
its upper level, in an event those of the upper two.
"""

from __future__ import annotations

import functools
import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import Undecodable
from ..protocol.codings import Decoder, needs_decoding
from ..proxy.exchange import Exchange
from ..quick_init import quick_init
from .outline import Outline

MAX_TAIL = 16 << 10
"""Bytes of the answer's end that are kept."""
MAX_START = 512
"""Bytes kept of the beginning of an event that starts before the tail: enough to recognise its type."""
MAX_EVENTS = 32
"""How many events at the end are examined."""
MAX_UNFOLDED, MAX_RATIO = 4 << 20, 100
"""Most decoded bytes, and decoded bytes per byte, of a compressed answer; beyond both it counts as incomplete."""


@quick_init
@dataclass(frozen=True)
class Expected:
    """What kind of answer the client of a request can use."""

    path: str = ""
    stream_only: bool = False
    json: bool = False
    """The client sent JSON, so it does not expect HTML."""


_STREAM = b'"stream"'
_STREAM_WANTED = re.compile(rb'(?<!\\)"stream"\s*:\s*true')
MAX_SEARCHED = 1 << 20
"""Bytes of a request's body that are searched for `stream: true`."""


def expected(path: str, body: bytes, content_type: str, accept: str) -> Expected:
    """Derive what the client expects from its request: path, body (as sent), Content-Type and Accept."""
    is_json = _media_type(content_type) == "application/json"
    accepted = {_media_type(each) for each in accept.split(",")}
    stream_only = accepted == {STREAM} or (is_json and _wants_stream(body))
    return Expected(path.partition("?")[0], stream_only, is_json)


def _wants_stream(body: bytes) -> bool:
    # A search for the pattern takes some thirty times as long: 20 ms for a megabyte, on the event loop.
    at = body.find(_STREAM, 0, MAX_SEARCHED)
    while at >= 0:
        if _STREAM_WANTED.match(body, at, MAX_SEARCHED):
            return True
        at = body.find(_STREAM, at + 1, MAX_SEARCHED)
    return False


@functools.lru_cache(maxsize=64)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


STREAM = "text/event-stream"
_PROBLEM = "application/problem+json"
"""What reports a failure (RFC 9457)."""
LINES = "application/x-ndjson"
"""Ollama's streams: a line of JSON for each piece."""


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
        self._outline: Outline | None = None
        """Of the body, or of the event in which the kept bytes start; None: nothing has been dropped of it."""
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
        words = any(word in part for part in (data, edge) for word in (b"error", b"Error", b"failed"))
        if not words and not self._alarmed:
            return
        seen = b"".join(self._chunks) + data
        self._alarmed = False
        for found in _ALARM.finditer(seen):
            begin = max(seen.rfind(b"\n\n", 0, found.start()), seen.rfind(b"\n\r\n", 0, found.start()), 0)
            end = _END_OF_EVENT.search(seen, found.end())
            if end is None:
                self._alarmed = len(seen) - begin <= MAX_TAIL  # the event continues in the next chunk
            elif any(_is_failure(*event[:2]) for event in _last_events(seen[begin : end.end()])):
                self._failed = True
                return

    def _drop(self, chunk: bytes) -> None:
        self._size -= len(chunk)
        self._dropped += len(chunk)
        if not self._is_stream:
            self._outline = self._outline or Outline(_says_that_it_failed)
            self._outline.feed(chunk)
            return
        seen = self._before + chunk
        end = max(seen.rfind(b"\n\n") + 2, seen.rfind(b"\n\r\n") + 3)
        if end > 2:
            self._end_large_event(seen)
            self._start = seen[end : end + MAX_START]
            self._outline = Outline(_event_says_that_it_failed, levels=2)
            self._outline.feed(seen[end:])
        else:
            if len(self._start) < MAX_START:
                self._start += chunk[: MAX_START - len(self._start)]
            self._outline = self._outline or Outline(_event_says_that_it_failed, levels=2)
            self._outline.feed(chunk)
        self._before = seen[-3:]

    def _end_large_event(self, seen: bytes) -> None:
        """Judge the large event that ends in `seen`, and note if it reports a failure."""
        if self._outline is not None:
            end = _END_OF_EVENT.search(seen)
            self._outline.feed(seen[: None if end is None else end.end()])
            self._failed = self._failed or self._outline.failed

    @property
    def is_complete(self) -> bool:
        """Whether the answer is complete. To be read after its last byte has arrived."""
        return self._judge(is_over=True)

    @property
    def has_ended(self) -> bool:
        """Whether a stream has the end of its dialect: who leaves then misses nothing. To be read once, at the end."""
        return self._is_stream and self._judge(is_over=False)

    def _judge(self, *, is_over: bool) -> bool:
        if not self._total or self._unreadable or self._failed:
            return False
        kept = b"".join(self._chunks)
        if self._is_stream:
            self._end_large_event(kept)
            return not self._failed and _stream_is_complete(
                self._start + kept, self._wanted.path, whole=not self._dropped, is_over=is_over
            )
        if self._type == LINES:
            return _has_last_line(kept) and self._is_good_json(kept)
        if self._wanted.stream_only or (self._wanted.json and self._type == "text/html"):
            return False
        if self._type == _PROBLEM or (self._decoder is not None and not self._decoder.is_whole):
            return False
        return self._is_good_json(kept) if self._is_json(kept) else True

    def _is_json(self, kept: bytes) -> bool:
        return self._type.endswith("json") or (not self._dropped and _looks_like_json(kept))

    def _is_good_json(self, kept: bytes) -> bool:
        """Whether the JSON is whole and reports no failure. What only looks like JSON may be anything else."""
        says_so = self._type.endswith("json")
        if self._outline is not None:
            self._outline.feed(kept)
            return self._outline.is_whole and not self._outline.failed
        said = _values(kept)
        if said is None:
            return not says_so
        return bool(said) and not any(map(_says_that_it_failed, said))


def _has_last_line(kept: bytes) -> bool:
    """Whether the last of the lines of JSON does not say that others follow (Ollama's `done`)."""
    said = _decoded(kept.rstrip().rpartition(b"\n")[2])
    return isinstance(said, dict) and said.get("done") is not False


def _looks_like_json(body: bytes) -> bool:
    return body[:100].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def _values(body: bytes) -> list[Any] | None:
    """The values of a JSON text, or of several in a row (as in lines of JSON). None: it is not JSON."""
    values: list[Any] = []
    try:
        text = body.decode(json.detect_encoding(body)).removeprefix("\ufeff").strip()
        while text:
            value, end = _DECODER.raw_decode(text)
            values.append(value)
            text = text[end:].lstrip()
    except (ValueError, LookupError, RecursionError):
        return None
    return values


_DECODER = json.JSONDecoder()


def _says_that_it_failed(said: Any) -> bool:
    """Whether a whole answer is an error, has one in a list of chunks (Google's way), or is a response that failed."""
    if isinstance(said, list):
        return any(isinstance(each, dict) and _says_that_it_failed(each) for each in said)
    if not isinstance(said, dict):
        return False
    kind, status = said.get("object"), said.get("statusCode")
    failed = said.get("status") == "failed" and kind in (None, "response")
    return bool(
        failed
        or (isinstance(status, int) and status >= _FAILED)
        or ("x402Version" in said and "accepts" in said)
        or (kind == "response" and said.get("status") == "cancelled")
        or (kind == "chat.completion" and not said.get("choices"))
        or said.get("type") == "error"
        or _has_error(said)
        or said.get("success") is False
        or any(
            isinstance(each, dict) and (_has_error(each) or each.get("finish_reason") == "error")
            for each in _list(said.get("choices"))
        )
    )


_FAILED = 400
"""The first status of a failure."""
_NAME = re.compile(rb"^event:[ ]?([^\r\n]*)", re.MULTILINE)
_DATA = re.compile(rb"^data:[ ]?([^\r\n]*)", re.MULTILINE)
_TYPE = re.compile(rb'"type"\s*:\s*"((?:response\.|message_|content_block_)[^"]{1,100})"')
_ALARM = re.compile(
    rb'event:[ ]?error|"[Ee]rrors?"\s*:\s*(?!null)|"type"\s*:\s*"error"|"status"\s*:\s*"failed"|response\.failed'
)
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


def has_all(exchange: Exchange) -> bool:
    """Whether the client has what it paid for: all of a complete answer, or a stream to the end of its dialect.

    OpenAI's SDK leaves at `[DONE]`, often before the last bytes of the answer's framing.
    """
    watch = exchange.watch
    if not isinstance(watch, Tail) or exchange.end_is_doubtful:
        return False
    return watch.has_ended if exchange.client_left else watch.is_complete


def _stream_is_complete(text: bytes, path: str, *, whole: bool, is_over: bool) -> bool:
    """Whether the last events contain the end of the dialect, and no error. `whole`: `text` is all of the stream.

    Where no dialect is known, the answer's own end is its end (`is_over`).
    """
    begun: set[_Dialect] = {dialect for end, dialect in _BY_PATH if path.endswith(end)}
    ended: set[_Dialect] = set()
    kinds: set[str] = set()
    some = False
    for name, data, is_first in _last_events(text):
        if data.strip() == b"[DONE]":
            ended.add("chat")
            continue
        some = True
        if _is_failure(name, data, has_gap=is_first and not whole):
            return False
        said = _decoded(data) if len(data) <= MAX_TAIL else None
        kind = _kind(name, data, said)
        kinds.add(kind)
        if kind in _ENDS:
            ended.add(_ENDS[kind])
        elif isinstance(said, dict):
            reasons = dict(_finish_reasons(said))
            if "error" in reasons.values():
                return False
            ended.update(reasons)
            begun.update(dialect for key, dialect in _CHUNKS if key in said)
        begun.update(dialect for start, dialect in _BEGUN if kind.startswith(start))
    if whole and kinds == {"message_stop"}:
        return False  # the end of nothing
    return some and begun <= ended and (is_over or bool(ended))


def _is_failure(name: str, data: bytes, has_gap: bool = False) -> bool:
    """Whether an event reports that the answer failed. `has_gap`: a part of its data is missing."""
    if len(data) > MAX_TAIL and not has_gap:
        outline = Outline(_event_says_that_it_failed, levels=2)
        outline.feed(data)
        return outline.failed or _kind(name, data, None) in _FAILURES
    said = _decoded(data) if len(data) <= MAX_TAIL else None
    return _event_says_that_it_failed(said) or _kind(name, data, said) in _FAILURES


def _event_says_that_it_failed(said: Any) -> bool:
    """Whether an event reports a failure, also as the end of a response that failed."""
    if not isinstance(said, dict):
        return False
    response = said.get("response")
    if isinstance(response, dict):
        return _has_error(response) or response.get("status") in ("failed", "cancelled")
    return _has_error(said) or said.get("type") in _FAILURES


def _has_error(said: dict[str, Any]) -> bool:
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


def _last_events(text: bytes) -> Iterator[tuple[str, bytes, bool]]:
    """Name and data of the last events that have data, and whether `text` begins with it; the last one first.

    An event whose end is missing is left out, unless it is [DONE].
    """
    parts = _END_OF_EVENT.split(text)
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


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
