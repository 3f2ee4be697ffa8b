"""Keeps the end of a paid answer as it passes, and judges it once, when the answer is over."""

from __future__ import annotations

import functools
import json
import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from ...errors import Undecodable
from ...llm.values import mapping, sequence
from ...protocol.codings import Decoder, needs_decoding
from ...proxy.exchange import Exchange
from ...quick_init import quick_init
from .dialects import event_says_that_it_failed, has_error, is_failed_reason, told_by
from .events import AROUND, END_OF_EVENT, MAX_TAIL, Event, decoded, last_events, last_frames, last_lines
from .outline import Outline
from .stream_ends import ALARM, MAX_REASON, MAX_START, Gap, Reason, is_complete, is_failure, is_known, reasons_in

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
LINES = frozenset(
    {
        *("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl"),
        *("application/jsonlines", "application/x-jsonlines", "application/json-lines", "application/json-seq"),
        *("application/stream+json", "application/x-json-stream", "text/x-ndjson", "text/jsonl"),
    }
)
"""Types of streams with a line of JSON for each piece, such as those of Ollama and of Cohere's first version."""
FRAMES = "application/vnd.amazon.eventstream"


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
        """The beginning of the event in which the kept bytes start; of what is no stream of events, of the answer."""
        self._outline: Outline | None = None
        """Of the body, or of the event in which the kept bytes start; None: nothing has been dropped of it."""
        self._said: dict[str, Any] = {}
        """What the outline has seen that tells of ends: of the event, or of the last of the lines that have ended."""
        self._before = b""
        """The last bytes before the kept ones."""
        self._reasons: set[Reason] = set()
        """Finish reasons in what was dropped of the event in which the kept bytes start."""
        self._reason_edge = b""
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
        read_to = 0
        for found in ALARM.finditer(seen):
            if found.start() < read_to:
                continue  # in an event that has been read
            begin = max(seen.rfind(b"\n\n", 0, found.start()), seen.rfind(b"\n\r\n", 0, found.start()), 0)
            end = END_OF_EVENT.search(seen, found.end())
            if end is None:
                self._alarmed = len(seen) - begin <= MAX_TAIL  # the event continues in the next chunk
                return
            read_to = end.end()
            if any(map(is_failure, last_events(seen[begin : end.end()]))):
                self._failed = True
                return

    def _drop(self, chunk: bytes) -> None:
        self._size -= len(chunk)
        self._dropped += len(chunk)
        if not self._is_stream:
            if len(self._start) < MAX_START:
                self._start += chunk[: MAX_START - len(self._start)]
            if self._type != FRAMES:
                self._outline = self._outline or Outline(self._judge_line)
                self._outline.feed(chunk)
            return
        seen = self._before + chunk
        end = max(seen.rfind(b"\n\n") + 2, seen.rfind(b"\n\r\n") + 3)
        if end > 2:
            self._end_large_event(seen)
            self._start = seen[end : end + MAX_START]
            self._said = {}
            self._outline = Outline(self._judge_event, levels=2)
            self._outline.feed(seen[end:])
            self._reasons, self._reason_edge = set(), b""
            self._note_reasons(seen[end:])
        else:
            self._note_reasons(chunk)
            if len(self._start) < MAX_START:
                self._start += chunk[: MAX_START - len(self._start)]
            self._outline = self._outline or Outline(self._judge_event, levels=2)
            self._outline.feed(chunk)
        self._before = seen[-3:]

    def _judge_event(self, said: Any) -> bool:
        self._said.update(told_by(said))  # a long one comes in parts
        return event_says_that_it_failed(said)

    def _judge_line(self, said: Any) -> bool:
        self._said = told_by(said)
        return _says_that_it_failed(said)

    def _note_reasons(self, data: bytes) -> None:
        seen = self._reason_edge + data
        self._reasons |= reasons_in(seen)
        self._reason_edge = seen[-MAX_REASON:]

    def _end_large_event(self, seen: bytes) -> None:
        """Judge the large event that ends in `seen`, and note if it reports a failure."""
        if self._outline is not None:
            end = END_OF_EVENT.search(seen)
            self._outline.feed(seen[: None if end is None else end.end()])
            self._failed = self._failed or self._outline.failed

    @property
    def is_complete(self) -> bool:
        """Whether the answer is complete. To be read after its last byte has arrived."""
        return self._judge(is_over=True)

    def has_ended(self, *, is_one: bool) -> bool:
        """Whether a stream has the end of its dialect: who leaves then misses nothing. To be read once, at the end.

        `is_one`: the request asks for one answer, not for several.
        """
        return self._judge(is_over=False, is_one=is_one)

    def _judge(self, *, is_over: bool, is_one: bool = True) -> bool:
        if not self._total or self._unreadable or self._failed:
            return False
        kept = b"".join(self._chunks)
        if self._is_stream:
            self._end_large_event(kept)
            self._note_reasons(kept[:MAX_REASON])
            events, path = last_events(self._start + kept), self._wanted.path
            return not self._failed and is_complete(events, path, gap=self._gap, is_over=is_over, is_one=is_one)
        if self._type == FRAMES:
            frames = last_frames(kept)
            return frames is not None and self._have_ended(frames, is_over=is_over, is_one=is_one)
        if self._outline is not None:
            self._outline.feed(kept)
        lines = self._lines(kept)
        if lines is not None:
            return self._is_good_json(kept) and self._have_ended(lines, is_over=is_over, is_one=is_one)
        if not is_over or self._wanted.stream_only or (self._wanted.json and self._type == "text/html"):
            return False
        if self._type == _PROBLEM or (self._decoder is not None and not self._decoder.is_whole):
            return False
        return self._is_good_json(kept) if self._is_json(kept) else True

    def _have_ended(self, events: list[Event], *, is_over: bool, is_one: bool) -> bool:
        """Whether lines or frames have the end of their dialect, which the path does not tell."""
        return is_complete(events, "", gap=self._gap, is_over=is_over, is_one=is_one) if events else is_over

    def _lines(self, kept: bytes) -> list[Event] | None:
        """The last lines of a stream of lines of JSON, the last one first; None: the answer is no such stream."""
        if self._type not in LINES and not (self._start + kept[:MAX_START]).lstrip(AROUND).startswith(b"{"):
            return None
        lines, outline = list(last_lines(kept)), self._outline
        several = len(lines) > 1 or (outline is not None and outline.values > 1)
        if self._dropped and len(lines) > 1 and lines[-1].is_first:
            lines.pop()  # it is cut off
        if self._type in LINES:
            return lines
        if not (lines and several):
            return None
        if not isinstance(decoded(lines[0].data), dict) and not (outline and lines[0].is_first and outline.is_whole):
            return None
        is_stream = self._type.endswith("json") or self._wanted.stream_only or is_known(lines, self._gap)
        return lines if is_stream else None

    @property
    def _gap(self) -> Gap | None:
        """What is known of the event in which the kept bytes start."""
        return Gap(self._reasons, self._said) if self._dropped else None

    def _is_json(self, kept: bytes) -> bool:
        return self._type.endswith("json") or (not self._dropped and _looks_like_json(kept))

    def _is_good_json(self, kept: bytes) -> bool:
        """Whether the JSON is whole and reports no failure. What only looks like JSON may be anything else."""
        if self._outline is not None:
            return self._outline.is_whole and not self._outline.failed
        said = _values(kept)
        if said is None:
            return not (self._type.endswith("json") or self._type in LINES)
        return bool(said) and not any(map(_says_that_it_failed, said))


def _looks_like_json(body: bytes) -> bool:
    return body[:100].lstrip(AROUND)[:1] in (b"{", b"[")


def _values(body: bytes) -> list[Any] | None:
    """The values of a JSON text, or of several in a row (as in lines of JSON). None: it is not JSON."""
    values: list[Any] = []
    try:
        text = body.decode(json.detect_encoding(body)).strip(_AROUND)
        while text:
            value, end = _DECODER.raw_decode(text)
            values.append(value)
            text = text[end:].lstrip(_AROUND)
    except (ValueError, LookupError, RecursionError):
        return None
    return values


_DECODER = json.JSONDecoder()
_AROUND = AROUND.decode()


def _says_that_it_failed(said: Any) -> bool:
    """Whether a whole answer is an error, has one in a list of chunks (Google's way), or is a response that failed."""
    if isinstance(said, list):
        return any(isinstance(each, dict) and _says_that_it_failed(each) for each in said)
    if not isinstance(said, dict):
        return False
    kind, code, status = said.get("object"), said.get("statusCode"), said.get("status")
    return bool(
        (status == "failed" and kind in (None, "response", "interaction", "thread.run"))
        or (isinstance(code, int) and code >= _FAILED)
        or ("x402Version" in said and "accepts" in said)
        or (kind == "response" and status == "cancelled")
        or (kind == "chat.completion" and not said.get("choices"))
        or said.get("type") == "error"
        or has_error(said)
        or said.get("success") is False
        or is_failed_reason(said)
        or any(has_error(each) or is_failed_reason(each) for each in map(mapping, sequence(said.get("choices"))))
    )


_FAILED = 400
"""The first status of a failure."""


def has_all(exchange: Exchange) -> bool:
    """Whether the client has what it paid for: all of a complete answer, or a stream to the end of its dialect.

    OpenAI's SDK leaves at `[DONE]`, often before the last bytes of the answer's framing.
    """
    watch = exchange.watch
    if not isinstance(watch, Tail) or exchange.end_is_doubtful:
        return False
    if not exchange.client_left:
        return watch.is_complete
    return watch.has_ended(is_one=_SEVERAL.search(exchange.client_body, 0, MAX_SEARCHED) is None)


_SEVERAL = re.compile(
    rb'"(?:n|best_of|candidateCount|candidate_count|num_generations|num_choices|num_return_sequences)"\s*:\s*"?(?:[2-9]|[0-9]{2,})|"prompt"\s*:\s*\['
)
"""What asks for several answers in one: their number, or several prompts."""
