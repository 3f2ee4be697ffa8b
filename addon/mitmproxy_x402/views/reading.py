"""Reads answers and requests for the views without holding up the proxy, whose event loop asks for them.

All reading is done in a thread, slice by slice, with a pause after each, so that the event loop has its turn; no single
step of it works on more than some bounds allow, since Python lets no other thread run while its JSON parser does. What
was read once is remembered, and a stream that is still growing is read on from where it was.
"""

from __future__ import annotations

import contextlib
import functools
import json
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
from ..protocol import codings

K = TypeVar("K")
V = TypeVar("V")
MAX_READ = 8 << 20
"""Bytes of an answer, decoded, that are read here."""
MAX_EVENTS = 100_000
"""Events of a stream that are read here."""
MAX_PART = 4 << 20
"""Bytes of one event that are read here."""
MAX_WHOLE = 6 << 20
"""Bytes of one JSON text that are read here: pictures."""
MAX_VALUES = 60_000
"""Values of one JSON text that are read here."""
MAX_SHOWN = 400_000
"""Characters of an answer that are put together here."""
MAX_TEXT = 100_000
"""Characters that a view has; a screen with more would be slow to scroll, and its mitmproxy to answer."""
MAX_PLAIN = 256 << 10
"""Bytes of other JSON that are laid out in lines."""
MOST_STREAMS = 16
"""Streams that grow of which a reader is kept."""
SLICE = 16 << 10
"""Bytes that are read between two pauses."""
PAUSE = 0.0005
"""Least seconds of a pause, in which waiting threads run."""
WIDTH = 76
"""Characters of a line: what mitmweb's half of a common window has room for."""
_HASHED = 4 << 20
_MARK = 1024
"""Bytes by which a stream that has grown is known again."""
_LATER = "(the {:,} bytes of it are being read: open this view again in a moment)"
_DENSE = "({:,} bytes of JSON: too much to be shown here; save the flow, and `fixtures show` reads it)"
_FIRST = "only the first {} of this answer {} read here; save the flow, and `fixtures show` reads all of it"


class Asked(NamedTuple):
    """The request that an answer belongs to, as it is."""

    path: str
    kind: str
    coding: str
    raw: bytes


def asked_by(request: http.Request) -> Asked:
    """What `request` asks."""
    headers = request.headers
    kind, coding = headers.get("content-type", ""), headers.get("content-encoding", "")
    return Asked(request.path, kind, coding, request.raw_content or b"")


def read(
    kind: str, coding: str, raw: bytes, request: http.Request | None = None
) -> tuple[llm.Reading | None, str, bytes]:
    """What a whole answer says, as it is and as text for a view, and its decoded body. For any thread.

    None: it is no language model's.
    """
    data, all_of_it = decoded(raw, coding)
    reading = _read(kind, data, all_of_it=all_of_it)
    if reading is None:
        return None, "", data
    reading = _checked(reading, asked_by(request) if request else None)
    return reading, _said(reading), data


def decoded(raw: bytes, coding: str) -> tuple[bytes, bool]:
    """The decoded body, as far as it can be decoded and is read here; and whether that is all of it."""
    if not codings.needs_decoding(coding):
        return raw[:MAX_READ], len(raw) <= MAX_READ
    parts: list[bytes] = []
    size = 0
    with contextlib.suppress(Undecodable):  # what came before the fault is good
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
    """Texts of answers and requests that were read of late, and readers of streams that are read on.

    The work is done in a thread, for which no call waits longer than `budget` seconds, however long the answer is.
    """

    def __init__(self, budget: float = 0.008, at_once: int = 8 << 10, kept: int = 64) -> None:
        """`at_once`: bytes that are so few that the caller reads them itself."""
        self._budget = budget
        self._at_once = at_once
        self._kept = kept
        self._texts: OrderedDict[Hashable, str] = OrderedDict()
        self._streams: OrderedDict[bytes, _Stream] = OrderedDict()
        self._running: OrderedDict[Hashable, Future[str]] = OrderedDict()
        self._thread: ThreadPoolExecutor | None = None

    def remember(self, data: bytes, text: str) -> None:
        """`text` is what the answer with the body `data` says, which is all of it."""
        _keep(self._texts, _key(data), text, self._kept)

    def text(
        self, kind: str, data: bytes, asked: Asked | None = None, *, coding: str = "", growing: bool = False
    ) -> str:
        """What the answer with the body `data` says, or as far as it could be read in time.

        `coding`: the Content-Encoding that is still to be taken off. `growing`: more of it may come, so that nothing is
        said of its end.
        """
        if not (growing and llm.is_stream(kind)):
            work = functools.partial(_whole, kind, coding, data, asked)
            return self._once(_key(data), work, data, at_once=not coding)
        mark = data[:_MARK]
        stream = self._streams.get(mark) or _Stream()
        _keep(self._streams, mark, stream, MOST_STREAMS)
        # Of a long stream what is new may be short, but all of its text is put together.
        at_once = not coding and len(data) <= self._at_once
        self._in_time(mark, functools.partial(stream.read_on, data, coding), at_once=at_once)
        read, text = stream.read
        return text if read and data.startswith(read) else _LATER.format(len(data))

    def request(self, path: str, kind: str, data: bytes) -> str:
        """What a request asks."""
        return self._once((path, kind, _key(data)), functools.partial(_request, path, kind, data), data)

    def _once(self, key: Hashable, work: Callable[[], str], data: bytes, *, at_once: bool = True) -> str:
        """The text that `work` gives, which is always the same for `data`."""
        text = self._texts.get(key)
        if text is None:
            text = self._in_time(key, work, at_once=at_once and len(data) <= self._at_once)
            if text is None:
                return _LATER.format(len(data))
        _keep(self._texts, key, text, self._kept)
        return text

    def _in_time(self, key: Hashable, work: Callable[[], str], *, at_once: bool) -> str | None:
        """What `work` gives, or what it gave when it was last begun under `key`; None: it is not done yet."""
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
    """A stream that grows, read on from where it was, by one thread at a time."""

    def __init__(self) -> None:
        self.read = (b"", "")
        """The bytes that were read last, as they came, and what they say. Another stream may begin with the same."""
        self._reader = _reader()
        self._seen = b""

    def read_on(self, raw: bytes, coding: str) -> str:
        """What the answer says as far as it has come with `raw`."""
        data, _ = decoded(raw, coding)
        if not data.startswith(self._seen):
            self._reader, self._seen = _reader(), b""
        _feed(self._reader, data[len(self._seen) :])
        self._seen = data
        reading = self._reader.reading()
        text = _plain(data) if reading.dialect == "unknown" and reading.error is None else _said(reading)
        self.read = (raw, text)
        return text


def _reader() -> llm.StreamReader:
    return llm.StreamReader(MAX_PART, MAX_SHOWN, max_values=MAX_VALUES)


def _feed(reader: llm.StreamReader, data: bytes) -> bool:
    """Let `reader` read, with pauses. False: there are more events than are read here."""
    for at in range(0, len(data), SLICE):
        if reader.events > MAX_EVENTS:
            return False
        if at:
            time.sleep(PAUSE)
        reader.feed(data[at : at + SLICE])
    return True


def _read(kind: str, data: bytes, *, all_of_it: bool = True) -> llm.Reading | None:
    """The answer in `data`; where there is more of it than is read here, it says so."""
    if not (llm.is_stream(kind) or data[:_MARK].lstrip()[:1] == b"["):
        whole = all_of_it and not _is_dense(data)
        return llm.read_answer(kind, data, max_event=MAX_WHOLE, max_text=MAX_SHOWN) if whole else None
    reader = _reader()
    if not _feed(reader, data):
        return _with_remark(reader.reading(), f"{MAX_EVENTS:,} events", "are")
    if not all_of_it:
        return _with_remark(reader.reading(), f"{MAX_READ >> 20} MB", "is")
    reader.end()
    return llm.reading_of(reader, kind)


def _with_remark(reading: llm.Reading, what: str, are: str) -> llm.Reading | None:
    if reading.dialect == "unknown" and reading.error is None:
        return None
    return replace(reading, irregular=(_FIRST.format(what, are), *reading.irregular))


def _checked(reading: llm.Reading, asked: Asked | None) -> llm.Reading:
    """`reading` held against the tools of its request."""
    if asked is None or not reading.tool_calls:
        return reading
    body, all_of_it = decoded(asked.raw, asked.coding)
    if not all_of_it or _is_dense(body):
        remark = "its request is too large to hold the calls against its tools here; `fixtures show` does"
        return replace(reading, irregular=(*reading.irregular, remark))
    return llm.checked(reading, llm.read_request(asked.path, asked.kind, body))


def _whole(kind: str, coding: str, raw: bytes, asked: Asked | None) -> str:
    data, all_of_it = decoded(raw, coding)
    reading = _read(kind, data, all_of_it=all_of_it)
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
    """Whether `data` is a JSON text so large that its parser would hold up everything else."""
    return len(data) > MAX_WHOLE or llm.has_more_values(data, MAX_VALUES)


def _key(data: bytes) -> Hashable:
    """By which an answer is known again; of a long one, its ends and its length are enough."""
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
    """`text`, or its beginning and its end, where what is odd stands; in lines that fit a screen."""
    if len(text) > MAX_TEXT:
        left_out = f"(... {len(text) - MAX_TEXT:,} characters; save the flow, and `fixtures show` prints them ...)"
        text = f"{text[: MAX_TEXT // 2]}\n\n{left_out}\n\n{text[-(MAX_TEXT // 2) :]}"
    return wrapped(text)


def _plain(data: bytes) -> str:
    """What is no language model's: JSON in lines, or the text as it is."""
    if len(data) <= MAX_PLAIN and not _is_dense(data):
        with contextlib.suppress(ValueError, RecursionError):
            return wrapped(json.dumps(json.loads(data), indent=2, ensure_ascii=False))
    return wrapped(data[:MAX_TEXT].decode("utf-8", "replace") + ("\n(...)" if len(data) > MAX_TEXT else ""))


def wrapped(text: str) -> str:
    """`text` in lines that fit a screen: neither mitmweb nor mitmproxy breaks those that do not."""
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= WIDTH:
            lines.append(line or " ")  # mitmweb gives an empty line no height
        else:
            lines += _broken(line)
    return "\n".join(lines)


def _broken(line: str) -> Iterator[str]:
    """`line` in pieces, broken at blanks where there are some, all of them as far to the right as it was."""
    indent = min(len(line) - len(line.lstrip(" ")), WIDTH // 2)
    begin, room = indent, WIDTH - indent
    while len(line) - begin > room:
        blank = line.rfind(" ", begin + 1, begin + room + 1)
        end = begin + room if blank < 0 else blank
        yield line[:indent] + line[begin:end]
        begin = end + (blank >= 0)
    yield line[:indent] + line[begin:]


answers = Answers()
