"""The content views "LLM stream" and "x402", for mitmproxy 11 and 12, whose interfaces differ.

They run on the event loop of the proxy whenever a screen asks, so `reading` does the work, in a thread and bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mitmproxy import contentviews, flow, http

from .. import llm
from . import challenge_view
from .reading import answers, asked_by, wrapped

EVENTS = "text/event-stream"
NEVER, ABOVE = -1.0, 3.0
"""Priorities: mitmproxy's own views have 2 at most."""
_CHAT = re.compile(
    r"/(?:chat/completions|completions|messages|complete|responses|interactions|converse|converse-stream|invoke"
    r"|invoke-with-response-stream|v[12]/chat|api/(?:chat|generate)|threads(?:/[^/?]+)?/runs|audio/transcriptions)(?:$|\?)"
    r"|/models/[^/:?]+:(?:streamG|g)enerateContent(?:$|\?)"
)
_JSON = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json")


@dataclass(frozen=True)
class Shown:
    """The data that a view formats, for mitmproxy 11 and 12 alike."""

    data: bytes
    """The body, decoded if mitmproxy could."""
    kind: str
    """The media type in lower case, without parameters; empty: none."""
    message: Any = None
    """The `http.Message` whose body the data is; None: there is none."""
    of: flow.Flow | None = None
    """The flow that the data is from; None: there is none."""


class TextView(Protocol):
    """A content view; adapters make it one of mitmproxy 11 or 12."""

    name: str

    def priority(self, shown: Shown) -> float:
        """How well this view fits; below 0: not at all. Called often, so it must be cheap."""

    def text(self, shown: Shown) -> str:
        """The view, in lines that fit a screen. Raises ValueError: mitmproxy shows the raw body instead."""


class LlmView:
    """Shows answers of language models, put together from their events, and requests to them."""

    name = "LLM stream"

    def priority(self, shown: Shown) -> float:
        """High for event streams and for JSON of chat endpoints, unless it is an error."""
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
        """A line or two about the payment, then the body as `llm` formats it."""
        data, message, coding = shown.data, shown.message, ""
        if isinstance(message, http.Request):
            return answers.request(message.path, shown.kind, data)
        if isinstance(message, http.Response) and data is message.raw_content:  # true also if it could not be decoded
            coding = message.headers.get("content-encoding", "")
        head = challenge_view.money_lines(shown.of.metadata) if shown.of is not None else []
        asked = asked_by(shown.of.request) if isinstance(shown.of, http.HTTPFlow) else None
        body = answers.text(shown.kind, data, asked, coding=coding, growing=_is_growing(shown))
        return "\n".join([wrapped("\n".join([*head, ""])), body] if head else [body])


class ChallengeView:
    """Shows the handshake of a flow."""

    name = "x402"

    def priority(self, shown: Shown) -> float:
        """High only for an answer of the addon's own, where there is nothing else to see."""
        if not shown.data or not isinstance(shown.of, http.HTTPFlow) or not isinstance(shown.message, http.Response):
            return NEVER
        return ABOVE if shown.of.metadata.get("x402.state") == "refused" else NEVER

    def text(self, shown: Shown) -> str:
        """The handshake as `challenge_view` formats it."""
        if not isinstance(shown.of, http.HTTPFlow):
            raise ValueError("no HTTP flow")
        try:
            return wrapped(challenge_view.text(shown.of))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the flow's metadata is not what this addon writes: {error}") from None


def _is_growing(shown: Shown) -> bool:
    """Whether more of the answer may come, or only the first part of it is kept with the flow."""
    of, message = shown.of, shown.message
    if of is None or not isinstance(message, http.Response):
        return False
    return "x402.cut" in of.metadata or (of.live and message.timestamp_end is None)


# mitmproxy's two interfaces.


class _Contentview:
    """Adapts a TextView to mitmproxy 12's `Contentview` protocol."""

    syntax_highlight = "none"

    def __init__(self, view: TextView) -> None:
        self._view = view
        self.name = view.name

    def prettify(self, data: bytes, metadata: Any) -> str:
        return self._view.text(_shown(data, metadata.content_type, metadata.http_message, metadata.flow))

    def render_priority(self, data: bytes, metadata: Any) -> float:
        return self._view.priority(_shown(data, metadata.content_type, metadata.http_message, metadata.flow))

    def __lt__(self, other: Any) -> bool:
        return bool(self.name < other.name)


def _legacy(view: TextView) -> Any:
    """Adapt `view` to mitmproxy 11: an instance of a subclass of its `View`."""
    base: Any = getattr(contentviews, "View")  # noqa: B009  (mitmproxy 12 does not export it)

    def shown(data: bytes, about: Mapping[str, Any]) -> Shown:
        return _shown(data, about.get("content_type"), about.get("http_message"), about.get("flow"))

    def call(_: Any, data: bytes, **about: Any) -> Any:
        try:
            text = view.text(shown(data, about))
        except ValueError:
            return None  # an error would be logged with its traceback
        return view.name, ([("text", line)] for line in text.split("\n"))

    def priority(_: Any, data: bytes, **about: Any) -> float:
        return view.priority(shown(data, about))

    return type(view.name, (base,), {"name": view.name, "__call__": call, "render_priority": priority})()


def _shown(data: bytes, kind: str | None, message: Any, of: flow.Flow | None) -> Shown:
    return Shown(data, (kind or "").lower(), message, of)


MAX_QUERY = 64 << 10
"""Most bytes of JSON that mitmproxy's view of GraphQL decodes to tell whether it is a query."""


def _bound_graphql() -> None:
    """Have mitmproxy's view of GraphQL leave large bodies alone until it is asked for by its name.

    It decodes all JSON on the event loop whenever somebody looks, whichever view is shown: 0.5 s for 4 MB.
    """
    try:
        views: Any = contentviews
        view = views.registry["graphql"] if hasattr(views, "registry") else views.get("graphql")
        fits = view.render_priority

        def priority(data: bytes, *about: Any, **more: Any) -> float:
            return float(fits(data, *about, **more)) if len(data) <= MAX_QUERY else 0.0

        view.render_priority = priority
    except (AttributeError, KeyError):  # there is none, or it is another one: then it costs what it costs
        return


_registered: list[Any] = []


def register() -> None:
    """Register the views with mitmproxy. May be called repeatedly."""
    if _registered:
        return
    make = _Contentview if hasattr(contentviews, "Contentview") else _legacy
    for view in (LlmView(), ChallengeView()):
        _registered.append(make(view))
        contentviews.add(_registered[-1])
    _bound_graphql()
