"""The recorder's hooks, on mitmproxy's event loop, which must not block.

They note the parts of each flow as they become known: the request, the response headers, each chunk, the end. All else
is done a moment later, by `outbox`. Without x402_dump every hook returns at once.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from collections.abc import Callable
from weakref import WeakSet

from mitmproxy import ctx, http

from ..proxy.body_observers import tap
from ..proxy.exchange import exchange_of
from ..settings.settings import Settings
from ..views.flow_metadata import is_health
from .outbox import OVERHEAD, TOO_SLOW, Job, Outbox
from .outputs import Ending
from .plan import Plan, asked_of, make_plan
from .redact import Redactor
from .snapshot import Snapshot

PATIENCE = 10.0
"""Seconds to wait for the disk when the proxy stops."""
JOB = "x402_recording"
"""The attribute of a flow that holds its recording in progress; copies of a flow have none."""
STATE = 8 << 10
"""Bytes that mitmproxy's state of a flow counts for while it waits, without its bodies."""
_CHECKS = (b"GET", b"HEAD")

logger = logging.getLogger(__name__)
_numbers = itertools.count(1)  # per process: a reloaded script goes on counting


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
            vars(flow).pop(JOB, None)
            logger.error("x402: a flow is not recorded: a fault of the recorder (%s)", type(error).__name__)

    return wrapped


class Recorder:
    """The recorder's mitmproxy hooks; loaded as a child of X402Addon."""

    name = "x402recorder"

    def __init__(self) -> None:
        self.plan: Plan | None = None
        left = _left_behind.pop() if _left_behind else None
        self.open: WeakSet[Job] = WeakSet() if left is None else left.open
        self._outbox: Outbox = Outbox() if left is None else left._outbox

    def use(self, settings: Settings, redactor: Redactor) -> None:
        """Record new flows by `settings`, without what `redactor` finds; running recordings go on.

        Raises SettingsError: nothing is changed.
        """
        if (None if self.plan is None else self.plan.asked) == (asked_of(settings) if settings.dump else None):
            return
        self.plan = make_plan(settings, redactor)
        if self.plan is not None:
            logger.info("x402: recording into %s; bodies are recorded as they are (x402_dump)", self.plan.folder)

    @_harmless
    def request(self, flow: http.HTTPFlow) -> None:
        """Called with the whole request: record it, unless a filter needs the answer first."""
        if self.plan is not None and self.plan.filter is None:
            self._begin(flow, self.plan)

    def _begin(self, flow: http.HTTPFlow, plan: Plan) -> Job | None:
        sent = flow.request.data
        began = time.monotonic() - max(0.0, time.time() - sent.timestamp_start)
        job = Job(self._outbox, plan, next(_numbers), flow, began)
        if not job.take_body(job.asked):
            return None
        vars(flow)[JOB] = job
        self.open.add(job)
        return job

    @_harmless
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Called with the answer's head: record it, and each chunk from now on."""
        job = _job_of(flow) or self._late(flow)
        if job is None or job.tapped or flow.response is None:
            return
        body = flow.request.raw_content or b""
        if body is not job.asked and not job.take_body(body):  # another addon has changed the body
            job.body = b""
        job.has_answer = True
        job.outbox.add(job, OVERHEAD)
        if flow.response.stream:
            job.tapped = True
            tap(flow, job.receive)

    def _late(self, flow: http.HTTPFlow) -> Job | None:
        """Begin a recording at the answer's head or at an error, when the filter can decide; None: not recorded."""
        plan = self.plan
        if plan is None or (plan.filter is not None and plan.filter.early and not plan.filter.matches(flow)):
            return None
        return self._begin(flow, plan)

    @_harmless
    def response(self, flow: http.HTTPFlow) -> None:
        """Called at the end of the answer: end the recording."""
        job = _job_of(flow)
        if job is None or flow.response is None:
            return
        if not job.tapped and flow.response.raw_content:  # an addon's own answer
            job.receive(flow.response.raw_content)
        self._end(flow, job, None)

    @_harmless
    def error(self, flow: http.HTTPFlow) -> None:
        """Called when the answer breaks off: end the recording as incomplete."""
        job = _job_of(flow) or self._late(flow)
        if job is not None:
            self._end(flow, job, "no complete answer" if flow.error is None else flow.error.msg)

    def _end(self, flow: http.HTTPFlow, job: Job, error: str | None) -> None:
        vars(flow).pop(JOB, None)
        self.open.discard(job)
        if job.lost:
            error = error or f"the recording broke off: {TOO_SLOW}"
        plan, chosen = job.plan, job.plan.filter
        known = Snapshot(flow, plan.redactor, answered=error is None or job.has_answer)
        known.state = "complete" if error is None else "incomplete"
        known.error = error
        known.end = time.monotonic() - job.began
        finish = None
        if not plan.is_plain:
            state = dict(flow.get_state()) if plan.needs_state else None
            wanted = chosen.wants if chosen is not None and not chosen.early else None
            if state is not None and len(job.body) < len(job.asked):
                state["request"] = {**state["request"], "content": bytes(job.body)}
            finish = Ending(plan.outputs, state, wanted, len(job.body) + STATE if state else 0)
        job.outbox.end(job, known, finish)

    def done(self) -> None:
        """Called when the proxy stops: end running recordings as incomplete, and write everything to the disk.

        Where the script is only loaded again, they go on, and the next recorder ends them.
        """
        if self.open and _goes_on():
            self.plan = None
            _left_behind.append(self)
            return
        for job in list(self.open):
            if job.flow is not None:
                self._end(job.flow, job, "the proxy was stopped before the answer was complete")
        self.plan = None
        lost = self._outbox.close(PATIENCE)
        if lost is not None:
            logger.error(
                "x402: not all was recorded: the disk takes nothing, and the proxy ends without it. Of what waited, "
                "about %s KB are lost; recordings that lack their end are still marked as open.",
                f"{max(1, lost >> 10):,}",
            )


_left_behind: list[Recorder] = []
"""The recorder of a script that is being loaded again, if recordings were running."""


def _goes_on() -> bool:
    """Whether the proxy itself is not ending."""
    stops: asyncio.Event | None = getattr(getattr(ctx, "master", None), "should_exit", None)
    return stops is not None and not stops.is_set()


def _job_of(flow: http.HTTPFlow) -> Job | None:
    job: Job | None = vars(flow).get(JOB)
    return job
