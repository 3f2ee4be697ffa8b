"""The content views "LLM stream" and "x402", for mitmproxy 11 and 12, whose interfaces differ.

They run on the event loop of the proxy whenever a screen asks, so what was read once is remembered, and a stream that
is still growing is read on from where it was.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mitmproxy import contentviews, flow, http

from .. import llm
from ..protocol import codings
from . import challenge_view

K = TypeVar("K")
V = TypeVar("V")
EVENTS = "text/event-stream"
NEVER, ABOVE = -1.0, 3.0
"""Priorities: mitmproxy's own views have 2 at most."""
MAX_DECODED = 64 << 20
"""Bytes of a body that are decoded for reading."""
_SLICE = 64 * 1024
"""Bytes of a stream that are read between two looks at the clock: some ten milliseconds."""
_MARK = 1024
"""Bytes by which a stream that has grown is known again."""
_CHAT = re.compile(
    r"/(?:chat/completions|messages|responses)(?:$|\?)|/models/[^/:?]+:(?:streamG|g)enerateContent(?:$|\?)"
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
        if isinstance(shown.message, http.Response):
            if shown.kind == EVENTS:
                return ABOVE
            if shown.message.status_code >= 400:
                return NEVER
        return ABOVE if _JSON.fullmatch(shown.kind) and _CHAT.search(shown.of.request.path) else NEVER

    def text(self, shown: Shown) -> str:
        """As `llm` writes it, after a line or two about the payment."""
        data, message = shown.data, shown.message
        if isinstance(message, http.Request):
            asked = llm.read_request(message.path, shown.kind, data)
            return _plain(data) if asked is None else llm.request_text(asked)
        if isinstance(message, http.Response) and data is message.raw_content:  # also what mitmproxy could not decode
            data = decoded(data, message.headers.get("content-encoding", ""))
        head = challenge_view.money_lines(shown.of.metadata) if shown.of is not None else []
        body = answers.text(shown.kind, data)
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


# Reading.


def read(kind: str, coding: str, raw: bytes) -> tuple[llm.Reading | None, str, bytes]:
    """What a whole answer says, as it is and as text, and its decoded body. For any thread."""
    data = decoded(raw, coding)
    hash(data)  # slow the first time, and `remember` needs it
    reading = llm.read_answer(kind, data)
    return reading, "" if reading is None else _said(reading), data


def decoded(raw: bytes, coding: str) -> bytes:
    """As much of a body as can be had without its Content-Encoding, also of the first part of one."""
    if not codings.needs_decoding(coding):
        return raw
    parts: list[bytes] = []
    with contextlib.suppress(codings.Undecodable):  # what came before the fault is good
        left = MAX_DECODED
        for part in codings.Decoder(coding).feed(raw):
            parts.append(part)
            left -= len(part)
            if left <= 0:
                break
    return b"".join(parts)


class Answers:
    """Texts of answers that were read of late, and readers of streams that are read on.

    No call takes much longer than `budget` seconds, however long the stream is.
    """

    def __init__(self, budget: float = 0.1, kept: int = 16) -> None:
        self._budget = budget
        self._kept = kept
        self._texts: OrderedDict[tuple[int, int], str] = OrderedDict()
        self._readers: OrderedDict[bytes, tuple[bytes, llm.StreamReader]] = OrderedDict()

    def remember(self, data: bytes, text: str) -> None:
        """`text` is what the answer with the body `data` says."""
        _keep(self._texts, (len(data), hash(data)), text, self._kept)

    def text(self, kind: str, data: bytes) -> str:
        """What the answer with the body `data` says, or as far as it could be read in time."""
        known = self._texts.get((len(data), hash(data)))
        if known is not None:
            return known
        if kind == EVENTS:
            return self._follow(data)
        reading = llm.read_answer(kind, data)
        text = _plain(data) if reading is None else _said(reading)
        self.remember(data, text)
        return text

    def _follow(self, data: bytes) -> str:
        """Read on where the stream that begins like this one was left."""
        mark = data[:_MARK]
        seen, reader = self._readers.pop(mark, (b"", None))
        if reader is None or not data.startswith(seen):
            seen, reader = b"", llm.StreamReader()
        until, position = time.perf_counter() + self._budget, len(seen)
        while position < len(data):
            reader.feed(data[position : position + _SLICE])
            position = min(position + _SLICE, len(data))
            if time.perf_counter() > until:
                break
        _keep(self._readers, mark, (data[:position], reader), self._kept)
        reading = reader.reading()
        if reading.dialect == "unknown" and reading.error is None:
            return _plain(data)
        text = _said(reading)
        if position < len(data):
            return f"{text}\n\n(read as far as byte {position} of {len(data)}; open this view again to read on)"
        return text


def _keep(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _said(reading: llm.Reading) -> str:
    return llm.answer_text(reading).rstrip("\n")


def _plain(data: bytes) -> str:
    """What is no language model's: JSON in lines, or the text as it is."""
    try:
        return json.dumps(json.loads(data), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


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
    return [line or " " for line in text.split("\n")]  # mitmweb gives an empty line no height


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
