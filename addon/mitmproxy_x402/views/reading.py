"""Reads answers and requests for the views in a thread, so that the event loop is not held up.

Data is read slice by slice with a pause after each. Each step is bounded, because Python's JSON parser lets no other
thread run. Results are cached, and a stream that is still growing is read on from where it was.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TimedOut
from dataclasses import replace
from typing import NamedTuple, TypeVar

from mitmproxy import http

from .. import llm
from ..errors import Undecodable
from ..llm.written import as_written, dump_written
from ..protocol import codings

K = TypeVar("K")
V = TypeVar("V")
MAX_READ = 8 << 20
"""Most decoded bytes of an answer that are read."""
MAX_EVENTS = 100_000
"""Most events of a stream that are read, but for its end."""
END = 64 << 10
"""Bytes at the end of a longer answer that are read to learn how it ended."""
MAX_PART = 4 << 20
"""Most bytes of one event that is read."""
MAX_WHOLE = 6 << 20
"""Most bytes of one JSON text that is read; those with pictures are large."""
MAX_VALUES = 60_000
"""Most values of one JSON text that is read."""
MAX_SHOWN = 400_000
"""Most characters of an answer that are put together."""
MAX_TEXT = 100_000
"""Most characters of a view; a longer one would be slow to scroll and would block mitmproxy."""
MAX_PLAIN = 256 << 10
"""Most bytes of other JSON that is formatted with one value per line."""
MOST_STREAMS = 16
"""Most growing streams whose readers are kept."""
SLICE = 16 << 10
"""Bytes that are read between two pauses."""
PAUSE = 0.0005
"""Shortest pause in seconds, during which waiting threads run."""
WIDTH = 76
"""Characters of a line: as many as fit into mitmweb's half of a common window."""
_HASHED = 4 << 20
_MARK = 1024
"""Bytes by which a stream that has grown is recognised."""
_LATER = "(the {:,} bytes of it are being read: open this view again in a moment)"
_DENSE = "({:,} bytes of JSON: too much to be shown here; save the flow, and `fixtures show` reads it)"
_FIRST = "only the first {} of this answer {} read here; save the flow, and `fixtures show` reads more of it"


class Asked(NamedTuple):
    """The request that an answer belongs to, unparsed."""

    path: str
    kind: str
    coding: str
    raw: bytes


def asked_by(request: http.Request) -> Asked:
    """The `Asked` of `request`."""
    headers = request.headers
    kind, coding = headers.get("content-type", ""), headers.get("content-encoding", "")
    return Asked(request.path, kind, coding, request.raw_content or b"")


def read(
    kind: str, coding: str, raw: bytes, request: http.Request | None = None
) -> tuple[llm.Reading | None, str, bytes]:
    """Read a whole answer: returns its Reading, its text for a view, and its decoded body. Callable in any thread.

    The Reading is None if the answer is not a language model's.
    """
    data, all_of_it = decoded(raw, coding)
    reading = _read(kind, data, b"" if all_of_it else _end(raw, coding), all_of_it=all_of_it)
    if reading is None:
        return None, "", data
    reading = _checked(reading, asked_by(request) if request else None)
    return reading, _said(reading), data


def decoded(raw: bytes, coding: str) -> tuple[bytes, bool]:
    """Decode `raw` as far as possible, up to MAX_READ bytes. Returns that and whether it is the whole body."""
    if not codings.needs_decoding(coding):
        return raw[:MAX_READ], len(raw) <= MAX_READ
    parts: list[bytes] = []
    size = 0
    with contextlib.suppress(Undecodable):  # what was decoded before the fault is kept
        decoder = codings.Decoder(coding)
        for at in range(0, len(raw), SLICE):
            if at:
                time.sleep(PAUSE)
            for part in decoder.feed(raw[at : at + SLICE]):
                parts.append(part)
                size += len(part)
                if size > MAX_READ:
                    return b"".join(parts)[:MAX_READ], False
    return b"".join(parts), True


class Answers:
    """Caches the texts of answers and requests, and the readers of growing streams.

    Work is done in a thread. No call waits for it longer than `budget` seconds, however long the answer is.
    """

    def __init__(self, budget: float = 0.008, at_once: int = 2 << 10, kept: int = 64) -> None:
        """`at_once` is the most bytes that are read in the calling thread, `kept` the number of cached texts."""
        self._budget = budget
        self._at_once = at_once
        self._kept = kept
        self._texts: OrderedDict[Hashable, str] = OrderedDict()
        self._streams: OrderedDict[bytes, _Stream] = OrderedDict()
        self._running: OrderedDict[Hashable, Future[str]] = OrderedDict()
        self._thread: ThreadPoolExecutor | None = None

    def remember(self, data: bytes, text: str) -> None:
        """Cache `text` for the complete answer with the body `data`."""
        _keep(self._texts, _key(data), text, self._kept)

    def text(
        self, kind: str, data: bytes, asked: Asked | None = None, *, coding: str = "", growing: bool = False
    ) -> str:
        """The text of the answer with the body `data`, as far as it could be read in time.

        `coding` is the Content-Encoding that `data` still has. With `growing` more of the answer may follow, so its end
        is not judged.
        """
        if not (growing and llm.is_stream(kind)):
            work = functools.partial(_whole, kind, coding, data, asked)
            return self._once(_key(data), work, data, at_once=not coding and not _may_have_tools(asked))
        mark = data[:_MARK]
        stream = self._streams.get(mark) or _Stream()
        _keep(self._streams, mark, stream, MOST_STREAMS)
        # The new part of a long stream may be short, but its whole text is put together.
        at_once = not coding and len(data) <= self._at_once
        self._in_time(mark, functools.partial(stream.read_on, data, coding), at_once=at_once)
        read, text = stream.read
        return text if read and data.startswith(read) else _LATER.format(len(data))

    def request(self, path: str, kind: str, data: bytes) -> str:
        """The text of the request with the body `data`."""
        return self._once((path, kind, _key(data)), functools.partial(_request, path, kind, data), data)

    def _once(self, key: Hashable, work: Callable[[], str], data: bytes, *, at_once: bool = True) -> str:
        """The cached result of `work`, which depends on `data` alone."""
        text = self._texts.get(key)
        if text is None:
            text = self._in_time(key, work, at_once=at_once and len(data) <= self._at_once)
            if text is None:
                return _LATER.format(len(data))
        _keep(self._texts, key, text, self._kept)
        return text

    def _in_time(self, key: Hashable, work: Callable[[], str], *, at_once: bool) -> str | None:
        """The result of `work`, or of the run last begun under `key`; None: it has not finished yet."""
        running = self._running.get(key)
        if running is None:
            if at_once:
                return work()
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "x402-view")
            running = self._thread.submit(work)
            _keep(self._running, key, running, self._kept)
        try:
            text = running.result(self._budget)
        except TimedOut:
            return None
        self._running.pop(key, None)
        return text


class _Stream:
    """The reader of a growing stream; used by one thread at a time."""

    def __init__(self) -> None:
        self.read = (b"", "")
        """The bytes read last, still encoded, and their text. Another stream may begin with the same bytes."""
        self._reader = _reader()
        self._seen = b""

    def read_on(self, raw: bytes, coding: str) -> str:
        """The text of the answer up to the end of `raw`."""
        data, all_of_it = decoded(raw, coding)
        if not data.startswith(self._seen):
            self._reader, self._seen = _reader(), b""
        _feed(self._reader, data[len(self._seen) :])
        self._seen = data
        reading = self._reader.reading()
        if not all_of_it:
            remark = _FIRST.format(f"{MAX_READ >> 20} MB", "is")
            reading = replace(reading, partly=True, irregular=(remark, *reading.irregular))
        text = _plain(data) if reading.dialect == "unknown" and reading.error is None else _said(reading)
        self.read = (raw, text)
        return text


def _reader() -> llm.StreamReader:
    return llm.StreamReader(MAX_PART, MAX_SHOWN, max_values=MAX_VALUES, max_events=MAX_EVENTS)


def _feed(reader: llm.StreamReader, data: bytes) -> None:
    """Feed `data` to `reader`, with pauses."""
    for at in range(0, len(data), SLICE):
        if at:
            time.sleep(PAUSE)
        reader.feed(data[at : at + SLICE])


def _end(raw: bytes, coding: str) -> bytes:
    """The end of a body that is too long to be read; empty: it is compressed."""
    return b"" if codings.needs_decoding(coding) else raw[max(MAX_READ, len(raw) - END) :]


def _read(kind: str, data: bytes, end: bytes, *, all_of_it: bool = True) -> llm.Reading | None:
    """The Reading of the answer that begins with `data` and ends with `end`, with a remark if not all was read."""
    if not (llm.is_stream(kind) or data[:_MARK].lstrip()[:1] == b"["):
        whole = all_of_it and not _is_dense(data)
        return llm.read_answer(kind, data, max_event=MAX_WHOLE, max_text=MAX_SHOWN) if whole else None
    reader = _reader()
    _feed(reader, data)
    if not all_of_it and end:
        reader.skip_to(end)
    if all_of_it or end:
        reader.end()
    reading = llm.reading_of(reader, kind)
    if reading is None or (all_of_it and not reading.partly):
        return reading
    what = (f"{MAX_READ >> 20} MB", "is") if not all_of_it else (f"{MAX_EVENTS:,} events", "are")
    return replace(reading, partly=True, irregular=(_FIRST.format(*what), *reading.irregular))


def _checked(reading: llm.Reading, asked: Asked | None) -> llm.Reading:
    """`reading` with its tool calls checked against the tools that the request declares."""
    if asked is None or not reading.tool_calls:
        return reading
    body, all_of_it = decoded(asked.raw, asked.coding)
    if not all_of_it or _is_dense(body):
        remark = "its request is too large to check the calls against its tools here; `fixtures show` does"
        return replace(reading, unchecked=(*reading.unchecked, remark))
    return llm.checked(reading, llm.read_request(asked.path, asked.kind, body))


def _may_have_tools(asked: Asked | None) -> bool:
    """Whether calls may have to be checked against tools: that can take a tenth of a second, however short they are."""
    return asked is not None and (asked.coding != "" or any(word in asked.raw for word in (b"ools", b"unction")))


def _whole(kind: str, coding: str, raw: bytes, asked: Asked | None) -> str:
    data, all_of_it = decoded(raw, coding)
    reading = _read(kind, data, b"" if all_of_it else _end(raw, coding), all_of_it=all_of_it)
    if reading is not None:
        return _said(_checked(reading, asked))
    if not llm.is_stream(kind) and (not all_of_it or _is_dense(data)):
        return _DENSE.format(len(raw))
    return _plain(data)


def _request(path: str, kind: str, data: bytes) -> str:
    if _is_dense(data):
        return _DENSE.format(len(data))
    asked = llm.read_request(path, kind, data)
    return _plain(data) if asked is None else _shortened(llm.request_text(asked))


def _is_dense(data: bytes) -> bool:
    """Whether `data` is a JSON text so large that parsing it would block all other threads for long."""
    return len(data) > MAX_WHOLE or llm.has_more_values(data, MAX_VALUES)


def _key(data: bytes) -> Hashable:
    """The cache key of an answer: length and hash; for a long one, the hashes of both ends."""
    if len(data) <= _HASHED:
        return len(data), hash(data)
    return len(data), hash(data[: _HASHED // 2]), hash(data[-_HASHED // 2 :])


def _keep(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _said(reading: llm.Reading) -> str:
    return _shortened(llm.answer_text(reading).rstrip("\n"))


def _shortened(text: str) -> str:
    """`text` in lines that fit a screen; of a long one, the beginning and the end, where irregularities are listed."""
    if len(text) > MAX_TEXT:
        left_out = f"(... {len(text) - MAX_TEXT:,} characters; save the flow, and `fixtures show` prints them ...)"
        text = f"{text[: MAX_TEXT // 2]}\n\n{left_out}\n\n{text[-(MAX_TEXT // 2) :]}"
    return wrapped(text)


def _plain(data: bytes) -> str:
    """The text of a body that is not a language model's: JSON formatted in lines, or the text as it is."""
    if len(data) <= MAX_PLAIN and not _is_dense(data):
        with contextlib.suppress(ValueError, RecursionError):
            return wrapped(dump_written(as_written(data.decode()), indent=2))
    text = llm.text_of_frames(data[:MAX_PLAIN])[:MAX_TEXT] or data[:MAX_TEXT].decode("utf-8", "replace")
    return wrapped(text + ("\n(...)" if len(data) > MAX_TEXT else ""))


def wrapped(text: str) -> str:
    """Break `text` into lines that fit a screen, because neither mitmweb nor mitmproxy does."""
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= WIDTH:
            lines.append(line or " ")  # mitmweb shows empty lines without height
        else:
            lines += _broken(line)
    return "\n".join(lines)


def _broken(line: str) -> Iterator[str]:
    """Yield `line` in pieces, broken at blanks if possible, each with its indentation, and that of a list's item."""
    indent = min(len(line) - len(line.lstrip(" ")), WIDTH // 2)
    margin, begin = line[:indent], indent
    if line.startswith("- ", indent):
        margin, begin = margin + "- ", begin + 2
    room = WIDTH - begin
    while len(line) - begin > room:
        # Three blanks stand between the facts of one of our own lines.
        gap = "   " if not indent and line.find("   ", begin + 1, begin + room + 1) > 0 else " "
        blank = line.rfind(gap, begin + 1, begin + room + 1)
        end = begin + room if blank < 0 else blank
        yield margin + line[begin:end]
        begin, margin = end + (len(gap) if blank >= 0 else 0), " " * len(margin)
    yield margin + line[begin:]


answers = Answers()
