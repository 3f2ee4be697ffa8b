"""The recorder's hooks, on mitmproxy's event loop, which must not block.

They pass the parts of each flow to the recorder's thread as they become known: the request, the response headers, each
chunk, the end. Without x402_dump every hook returns at once.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from mitmproxy import http

from ..proxy.body_observers import tap
from ..proxy.exchange import exchange_of
from ..settings.settings import Settings
from ..views.flow_metadata import is_health
from .names import folder_name, rfc3339
from .plan import Plan, asked_of, make_plan
from .snapshot import Snapshot
from .thread import Begin, End, Job, Request, Response, Writer

PATIENCE = 10.0
"""Seconds to wait for the disk when the proxy stops."""
TOO_SLOW = "the disk is too slow"
_CHECKS = (b"GET", b"HEAD")

logger = logging.getLogger(__name__)
_numbers = itertools.count(1)  # per process: a reloaded script goes on counting


@dataclass(eq=False)
class _Open:
    """A recording in progress."""

    plan: Plan
    job: Job
    began: float
    """When the request began (monotonic clock)."""
    started: str
    """The same in RFC 3339."""
    body: bytes | None
    """The request's body as given to the thread."""
    tapped: bool = False
    lost: bool = False
    """Whether chunks were dropped because the disk is too slow."""


def _harmless(hook: Callable[[Recorder, http.HTTPFlow], None]) -> Callable[[Recorder, http.HTTPFlow], None]:
    """Wrap `hook` so that it is called only for live flows of the proxy, and never raises."""

    @functools.wraps(hook)
    def wrapped(self: Recorder, flow: http.HTTPFlow) -> None:
        if (self.plan is None and not self.open) or exchange_of(flow) is None:
            return
        if flow.request.data.method in _CHECKS and is_health(
            flow.request
        ):  # health checks are frequent and never go upstream
            return
        try:
            hook(self, flow)
        except Exception as error:  # not logged in full, because its text may contain secrets
            self.open.pop(flow, None)
            logger.error("x402: a flow is not recorded: a fault of the recorder (%s)", type(error).__name__)

    return wrapped


class Recorder:
    """The recorder's mitmproxy hooks; loaded as a child of X402Addon."""

    name = "x402recorder"

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.open: WeakKeyDictionary[http.HTTPFlow, _Open] = WeakKeyDictionary()
        self._writer = Writer()

    def use(self, settings: Settings) -> None:
        """Record new flows by `settings`; running recordings go on. Raises SettingsError: nothing is changed."""
        if (None if self.plan is None else self.plan.asked) == (asked_of(settings) if settings.dump else None):
            return
        self.plan = make_plan(settings)
        if self.plan is not None:
            logger.info("x402: recording into %s; bodies are recorded as they are (x402_dump)", self.plan.folder)

    @_harmless
    def request(self, flow: http.HTTPFlow) -> None:
        """Called with the whole request: record it, unless a filter needs the answer first."""
        if self.plan is not None and self.plan.filter is None:
            self._begin(flow, self.plan)

    def _begin(self, flow: http.HTTPFlow, plan: Plan) -> _Open | None:
        body = flow.request.raw_content
        if not self._writer.has_room(len(body or b"")):
            self._writer.complain(plan.folder, TOO_SLOW)
            return None
        sent = flow.request.data
        started, path = rfc3339(sent.timestamp_start), _text(plan.redactor.path(sent.path))
        name = folder_name(started, next(_numbers), _text(sent.method), path)
        job = Job(plan.folder, name, plan.outputs)
        began = time.monotonic() - max(0.0, time.time() - sent.timestamp_start)
        found = self.open[flow] = _Open(plan, job, began, started, body)
        self._writer.put(
            Begin(job, functools.partial(Snapshot, flow, plan.redactor), _first(flow.request, b"content-type"), body)
        )
        return found

    @_harmless
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Called with the answer's head: record it, and each chunk from now on."""
        found = self.open.get(flow) or self._late(flow)
        if found is None or found.tapped or flow.response is None:
            return
        redactor = found.plan.redactor
        known = functools.partial(Snapshot, flow, redactor)
        kind, coding = _first(flow.response, b"content-type"), _first(flow.response, b"content-encoding")
        if flow.request.raw_content is not found.body:  # another addon has changed the body
            found.body = flow.request.raw_content
            self._writer.put(Request(found.job, known, _first(flow.request, b"content-type"), found.body))
        self._writer.put(Response(found.job, known, kind, redactor.text(coding)))
        if flow.response.stream:
            found.tapped = True
            tap(flow, functools.partial(self._receive, found))

    def _late(self, flow: http.HTTPFlow) -> _Open | None:
        """Begin a recording at the answer's head or at an error, when the filter can decide; None: not recorded."""
        plan = self.plan
        if plan is None or (plan.filter is not None and plan.filter.early and not plan.filter.matches(flow)):
            return None
        return self._begin(flow, plan)

    def _receive(self, found: _Open, data: bytes) -> None:
        if not data or found.lost:
            return
        if self._writer.has_room(len(data)):
            self._writer.put((found.job, time.monotonic() - found.began, data))
        else:
            found.lost = True
            self._writer.complain(found.plan.folder, TOO_SLOW)

    @_harmless
    def response(self, flow: http.HTTPFlow) -> None:
        """Called at the end of the answer: end the recording."""
        found = self.open.pop(flow, None)
        if found is None or flow.response is None:
            return
        if not found.tapped and flow.response.raw_content:  # an addon's own answer
            self._receive(found, flow.response.raw_content)
        self._end(flow, found, None)

    @_harmless
    def error(self, flow: http.HTTPFlow) -> None:
        """Called when the answer breaks off: end the recording as incomplete."""
        found = self.open.pop(flow, None) or self._late(flow)
        self.open.pop(flow, None)
        if found is not None:
            self._end(flow, found, "no complete answer" if flow.error is None else flow.error.msg)

    def _end(self, flow: http.HTTPFlow, found: _Open, error: str | None) -> None:
        if found.lost:
            error = error or f"the recording broke off: {TOO_SLOW}"
        plan, chosen = found.plan, found.plan.filter
        known = Snapshot(flow, plan.redactor, found.started)
        known.state = "complete" if error is None else "incomplete"
        known.error = None if error is None else plan.redactor.text(error)
        known.end = time.monotonic() - found.began
        state = dict(flow.get_state()) if plan.needs_state else None
        wants = chosen.wants if chosen is not None and not chosen.early else None
        size = len(flow.request.raw_content or b"") if state else 0
        self._writer.put(End(found.job, known, state, wants, size))

    def done(self) -> None:
        """Called when the proxy stops: end running recordings as incomplete, and write everything to the disk."""
        for flow, found in list(self.open.items()):
            self._end(flow, found, "the proxy was stopped before the answer was complete")
        self.open.clear()
        self.plan = None
        if not self._writer.close(PATIENCE):
            logger.error("x402: not all was recorded: the disk did not take it within %d seconds", PATIENCE)


def _first(message: http.Message, name: bytes) -> str:
    """The value of the first header `name`; empty: there is none."""
    for key, value in message.headers.fields:
        if len(key) == len(name) and key.lower() == name:
            return _text(value)
    return ""


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")
