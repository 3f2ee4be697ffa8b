"""The content views "LLM stream" and "x402", for mitmproxy 11 and 12, whose interfaces differ.

They run on the event loop of the proxy whenever a screen asks, so the reading is done in a thread, what was read once
is remembered, and a stream that is still growing is read on from where it was.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TimedOut
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from mitmproxy import contentviews, flow, http

from .. import llm
from ..errors import Undecodable
from ..protocol import codings
from . import challenge_view

K = TypeVar("K")
V = TypeVar("V")
EVENTS = "text/event-stream"
NEVER, ABOVE = -1.0, 3.0
"""Priorities: mitmproxy's own views have 2 at most."""
MAX_DECODED = 64 << 20
"""Bytes of a body that are decoded for reading."""
MAX_PART = 4 << 20
"""Bytes of one event that are read here."""
MAX_WHOLE = 32 << 20
"""Bytes of one JSON text that are read here, where it has few values: pictures."""
MAX_SHOWN = 1 << 20
"""Characters of an answer that are put together here; `fixtures show` prints all of it."""
MAX_TEXT = 400_000
"""Characters that a view has; a screen with more would be slow to scroll, and its mitmproxy to answer."""
MAX_VALUES = 250_000
"""Values of one JSON text that are read here: no other thread runs while its parser does."""
MAX_PLAIN = 1 << 20
"""Bytes of other JSON that are laid out in lines."""
MOST_STREAMS = 16
"""Streams that grow of which a reader is kept."""
WIDTH = 76
"""Characters of a line: what mitmweb's half of a common window has room for."""
_HASHED = 4 << 20
_MARK = 1024
"""Bytes by which a stream that has grown is known again."""
_LATER = "(the {:,} bytes of it are being read: open this view again in a moment)"
_DENSE = "({:,} bytes of JSON: too much to be shown here; save the flow, and `fixtures show` reads it)"
_CHAT = re.compile(
    r"/(?:chat/completions|completions|messages|complete|responses|interactions|converse|converse-stream|invoke"
    r"|invoke-with-response-stream|v[12]/chat|api/(?:chat|generate)|threads(?:/[^/?]+)?/runs|audio/transcriptions)(?:$|\?)"
    r"|/models/[^/:?]+:(?:streamG|g)enerateContent(?:$|\?)"
)
_JSON = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json")


@dataclass(frozen=True)
class Shown:
    """What a view is asked about, in both lines of mitmproxy."""

    data: bytes
    """Decoded, where mitmproxy could."""
    kind: str
    """The media type in lower case, without parameters; empty where there is none."""
    message: Any = None
    """An `http.Message` where the data is the body of one."""
    of: flow.Flow | None = None


class TextView(Protocol):
    """A view in the form that both lines of mitmproxy are given theirs from."""

    name: str

    def priority(self, shown: Shown) -> float:
        """How well this view suits; below 0 it does not at all. Called often."""

    def text(self, shown: Shown) -> str:
        """The view. Raises ValueError: mitmproxy shows the raw body instead."""


class LlmView:
    """Answers of language models put together, and requests to them, as a person reads them."""

    name = "LLM stream"

    def priority(self, shown: Shown) -> float:
        """For event streams, and for the JSON of chat endpoints that is no error."""
        if not shown.data or not isinstance(shown.of, http.HTTPFlow):
            return NEVER
        chat = _CHAT.search(shown.of.request.path) is not None
        if isinstance(shown.message, http.Response):
            if shown.kind == EVENTS or (chat and llm.is_stream(shown.kind)):
                return ABOVE
            if shown.message.status_code >= 400:
                return NEVER
        return ABOVE if chat and _JSON.fullmatch(shown.kind) else NEVER

    def text(self, shown: Shown) -> str:
        """As `llm` writes it, after a line or two about the payment."""
        data, message = shown.data, shown.message
        if isinstance(message, http.Request):
            return answers.request(message.path, shown.kind, data)
        if isinstance(message, http.Response) and data is message.raw_content:  # also what mitmproxy could not decode
            data = decoded(data, message.headers.get("content-encoding", ""))
        head = challenge_view.money_lines(shown.of.metadata) if shown.of is not None else []
        asked = _asked(shown.of.request) if isinstance(shown.of, http.HTTPFlow) else None
        body = answers.text(shown.kind, data, asked, growing=_is_growing(shown))
        return "\n".join([*head, "", body] if head else [body])


class ChallengeView:
    """The handshake behind a flow."""

    name = "x402"

    def priority(self, shown: Shown) -> float:
        """By itself only for an answer of the addon's own: there the handshake is all that there is to see."""
        if not shown.data or not isinstance(shown.of, http.HTTPFlow) or not isinstance(shown.message, http.Response):
            return NEVER
        return ABOVE if shown.of.metadata.get("x402.state") == "refused" else NEVER

    def text(self, shown: Shown) -> str:
        """What `challenge_view` says."""
        if not isinstance(shown.of, http.HTTPFlow):
            raise ValueError("no HTTP flow")
        return challenge_view.text(shown.of)


def _is_growing(shown: Shown) -> bool:
    """Whether more of the answer may come, or only the first part of it is kept with the flow."""
    of, message = shown.of, shown.message
    if of is None or not isinstance(message, http.Response):
        return False
    return "x402.cut" in of.metadata or (of.live and message.timestamp_end is None)


# Reading.


class Asked(NamedTuple):
    """The request that an answer belongs to, as it is."""

    path: str
    kind: str
    coding: str
    raw: bytes


def _asked(request: http.Request) -> Asked:
    headers = request.headers
    kind, coding = headers.get("content-type", ""), headers.get("content-encoding", "")
    return Asked(request.path, kind, coding, request.raw_content or b"")


def read(
    kind: str, coding: str, raw: bytes, request: http.Request | None = None
) -> tuple[llm.Reading | None, str, bytes]:
    """What a whole answer says, as it is and as text, and its decoded body. For any thread."""
    data = decoded(raw, coding)
    hash(data)  # slow the first time, and `remember` needs it
    reading = llm.read_answer(kind, data, max_text=MAX_SHOWN)
    return reading, "" if reading is None else _said(_checked(reading, _asked(request) if request else None)), data


def _checked(reading: llm.Reading, asked: Asked | None) -> llm.Reading:
    """`reading` held against the tools of its request."""
    if asked is None or not reading.tool_calls:
        return reading
    body = decoded(asked.raw, asked.coding)
    if _is_dense(asked.kind, body):
        return reading
    return llm.checked(reading, llm.read_request(asked.path, asked.kind, body))


def decoded(raw: bytes, coding: str) -> bytes:
    """As much of a body as can be had without its Content-Encoding, also of the first part of one."""
    if not codings.needs_decoding(coding):
        return raw
    parts: list[bytes] = []
    with contextlib.suppress(Undecodable):  # what came before the fault is good
        left = MAX_DECODED
        for part in codings.Decoder(coding).feed(raw):
            parts.append(part)
            left -= len(part)
            if left <= 0:
                break
    return b"".join(parts)


class Answers:
    """Texts of answers and requests that were read of late, and readers of streams that are read on.

    The work is done in a thread, for which no call waits longer than `budget` seconds, however long the answer is.
    """

    def __init__(self, budget: float = 0.008, at_once: int = 32 << 10, kept: int = 64) -> None:
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

    def text(self, kind: str, data: bytes, asked: Asked | None = None, *, growing: bool = False) -> str:
        """What the answer with the body `data` says, or as far as it could be read in time.

        `growing`: more of it may come, so that nothing is said of its end.
        """
        if not (growing and llm.is_stream(kind)):
            return self._once(_key(data), functools.partial(_whole, kind, data, asked), len(data))
        mark = data[:_MARK]
        stream = self._streams.get(mark) or _Stream()
        _keep(self._streams, mark, stream, MOST_STREAMS)
        text = self._in_time(mark, functools.partial(stream.read_on, data), len(data) - stream.position)
        return stream.text or _LATER.format(len(data)) if text is None else text

    def request(self, path: str, kind: str, data: bytes) -> str:
        """What a request asks."""
        return self._once((path, kind, _key(data)), functools.partial(_request, path, kind, data), len(data))

    def _once(self, key: Hashable, work: Callable[[], str], size: int) -> str:
        """The text that `work` gives, which is always the same."""
        text = self._texts.get(key)
        if text is None:
            text = self._in_time(key, work, size)
            if text is None:
                return _LATER.format(size)
        _keep(self._texts, key, text, self._kept)
        return text

    def _in_time(self, key: Hashable, work: Callable[[], str], size: int) -> str | None:
        """What `work` gives, or what it gave when it was last begun under `key`; None: it is not done yet."""
        running = self._running.get(key)
        if running is None:
            if size <= self._at_once:
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
        self.text = ""
        """What it said when it was last read."""
        self._reader = llm.StreamReader(MAX_PART, MAX_SHOWN)
        self._seen = b""

    @property
    def position(self) -> int:
        """How much of it was read."""
        return len(self._seen)

    def read_on(self, data: bytes) -> str:
        """The answer as far as it has come with `data`."""
        if not data.startswith(self._seen):
            self._reader, self._seen = llm.StreamReader(MAX_PART, MAX_SHOWN), b""
        self._reader.feed(data[len(self._seen) :])
        self._seen = data
        reading = self._reader.reading()
        self.text = _plain(data) if reading.dialect == "unknown" and reading.error is None else _said(reading)
        return self.text


def _whole(kind: str, data: bytes, asked: Asked | None) -> str:
    if _is_dense(kind, data):
        return _DENSE.format(len(data))
    most = MAX_PART if llm.is_stream(kind) else MAX_WHOLE
    reading = llm.read_answer(kind, data, max_event=most, max_text=MAX_SHOWN)
    return _plain(data) if reading is None else _said(_checked(reading, asked))


def _request(path: str, kind: str, data: bytes) -> str:
    if _is_dense(kind, data):
        return _DENSE.format(len(data))
    asked = llm.read_request(path, kind, data)
    return _plain(data) if asked is None else _shortened(llm.request_text(asked))


def _is_dense(kind: str, data: bytes) -> bool:
    """Whether `data` is one JSON text with so many values that its parser would hold up everything else."""
    return not llm.is_stream(kind) and data.count(b",") + data.count(b":") > MAX_VALUES


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
    """`text`, or its beginning and its end: what is odd stands there."""
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[: MAX_TEXT // 2]}\n\n(... {len(text) - MAX_TEXT:,} characters ...)\n\n{text[-MAX_TEXT // 2 :]}"


def _plain(data: bytes) -> str:
    """What is no language model's: JSON in lines, or the text as it is."""
    if len(data) <= MAX_PLAIN:
        with contextlib.suppress(ValueError, RecursionError):
            return json.dumps(json.loads(data), indent=2, ensure_ascii=False)
    return data[:MAX_TEXT].decode("utf-8", "replace") + ("\n(...)" if len(data) > MAX_TEXT else "")


answers = Answers()


# mitmproxy's two interfaces.


class _Contentview:
    """For mitmproxy 12: what its `Contentview` protocol asks for."""

    syntax_highlight = "none"

    def __init__(self, view: TextView) -> None:
        self._view = view
        self.name = view.name

    def prettify(self, data: bytes, metadata: Any) -> str:
        text = self._view.text(_shown(data, metadata.content_type, metadata.http_message, metadata.flow))
        return "\n".join(_lines(text))

    def render_priority(self, data: bytes, metadata: Any) -> float:
        return self._view.priority(_shown(data, metadata.content_type, metadata.http_message, metadata.flow))

    def __lt__(self, other: Any) -> bool:
        return bool(self.name < other.name)


def _legacy(view: TextView) -> Any:
    """For mitmproxy 11: an instance of a subclass of its `View`."""
    base: Any = getattr(contentviews, "View")  # noqa: B009  (mitmproxy 12 does not export it)

    def shown(data: bytes, about: Mapping[str, Any]) -> Shown:
        return _shown(data, about.get("content_type"), about.get("http_message"), about.get("flow"))

    def call(_: Any, data: bytes, **about: Any) -> Any:
        try:
            text = view.text(shown(data, about))
        except ValueError:
            return None  # an error would be logged with its traceback
        return view.name, ([("text", line)] for line in _lines(text))

    def priority(_: Any, data: bytes, **about: Any) -> float:
        return view.priority(shown(data, about))

    return type(view.name, (base,), {"name": view.name, "__call__": call, "render_priority": priority})()


def _lines(text: str) -> list[str]:
    """Lines that fit a screen: neither mitmweb nor mitmproxy breaks those that do not."""
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= WIDTH:
            lines.append(line or " ")  # mitmweb gives an empty line no height
        else:
            lines += _wrapped(line)
    return lines


def _wrapped(line: str) -> Iterator[str]:
    """`line` in pieces, broken at blanks where there are some, all of them as far to the right as it was."""
    indent = min(len(line) - len(line.lstrip(" ")), WIDTH // 2)
    begin, room = indent, WIDTH - indent
    while len(line) - begin > room:
        blank = line.rfind(" ", begin + 1, begin + room + 1)
        end = begin + room if blank < 0 else blank
        yield line[:indent] + line[begin:end]
        begin = end + (blank >= 0)
    yield line[:indent] + line[begin:]


def _shown(data: bytes, kind: str | None, message: Any, of: flow.Flow | None) -> Shown:
    return Shown(data, (kind or "").lower(), message, of)


_registered: list[Any] = []


def register() -> None:
    """Make the views known to mitmproxy; again and again changes nothing."""
    if _registered:
        return
    make = _Contentview if hasattr(contentviews, "Contentview") else _legacy
    for view in (LlmView(), ChallengeView()):
        _registered.append(make(view))
        contentviews.add(_registered[-1])
