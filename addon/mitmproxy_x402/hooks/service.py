"""Provides the health check and the graceful stop, for supervisors, containers and load balancers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakSet

from mitmproxy import ctx, http

from ..errors import error_body
from ..proxy.exchange import exchange_of
from ..proxy.startup.self_check import is_starting, unsent
from ..settings.settings import Settings
from ..views import flow_metadata
from ..views.flow_metadata import is_health
from .answers import JSON

TICK = 0.05
"""Seconds between two checks for data still to be sent."""
SOON = 0.01
"""Seconds between two checks whether all addons are ready."""
PATIENCE = 10.0
"""Seconds that clients wait, from the first one on, for all addons to be ready: a script may never be."""

logger = logging.getLogger(__name__)


def health(state: str) -> http.Response:
    """The answer to a health check: 200 if `state` is `ok`, else 503. Contains nothing confidential."""
    return http.Response.make(200 if state == "ok" else 503, b'{"status": "%s"}' % state.encode(), [JSON, _NO_STORE])


_NO_STORE = (b"cache-control", b"no-store")


class Service:
    """An addon, loaded by X402Addon, that on SIGTERM ends mitmproxy once the running answers are complete."""

    name = "x402service"

    def __init__(self, settings: Callable[[], Settings | None]) -> None:
        self._settings = settings
        self._live: WeakSet[http.HTTPFlow] = WeakSet()
        self.is_over = False
        """Whether mitmproxy is ending: nothing is paid or recorded any more."""
        self._started = False
        self._terminals: list[int] = []
        """The output streams that are terminals, which go away with SIGHUP."""
        self._stopping: asyncio.Task[None] | None = None

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._stopping is not None or self.is_over

    def running(self) -> None:
        """Handle SIGTERM and SIGHUP, on which mitmproxy would cut every stream at once."""
        # Determined now: a terminal that has gone away is not recognised as one.
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        # Not possible on Windows, nor outside the main thread.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, self.stop)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored by nohup
                loop.add_signal_handler(signal.SIGHUP, self.hang_up)

    def hang_up(self) -> None:
        """Stop on SIGHUP as on SIGTERM. Output to terminals is discarded: mitmproxy ends at once if it cannot print."""
        for stream in self._terminals:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
        self.stop()

    def next_layer(self, _: Any) -> Awaitable[None] | None:
        """Make the first clients wait until all addons are ready.

        mitmproxy opens its port before that. A request to an addon that is not ready would be an error, and an error
        during the start ends mitmproxy.
        """
        return None if self._started else self._wait_for_start()

    async def _wait_for_start(self) -> None:
        end = time.monotonic() + PATIENCE
        while is_starting(ctx.master) and time.monotonic() < end:  # noqa: ASYNC110  # mitmproxy tells nobody
            await asyncio.sleep(SOON)
        self._started = True

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Count the running answers, and refuse requests during the shutdown."""
        if exchange_of(flow) is None:
            return
        if self.draining and not is_health(flow.request):
            turn_away(flow)
        elif flow.response is None:
            self._live.add(flow)

    def response(self, flow: http.HTTPFlow) -> None:
        """Stop counting an answer that is over."""
        self._live.discard(flow)

    error = response

    def stop(self) -> None:
        """Stop on SIGTERM: at once if nothing is under way or at the second signal, else when all answers are over."""
        settings = self._settings()
        if self._stopping is not None or settings is None or not self._busy():
            ctx.master.shutdown()
            return
        running = self.under_way()
        logger.info(
            "x402: stopping when %s over, after %g s at most (x402_drain); SIGTERM again stops at once",
            "the running answer is" if running == 1 else f"{running} running answers are",
            settings.drain,
        )
        self._stopping = asyncio.get_running_loop().create_task(self._drain(settings.drain))

    def under_way(self) -> int:
        """How many answers are still running.

        Killed flows and clients that have left are not counted: mitmproxy does not always report their end.
        """
        return sum(flow.error is None and flow.client_conn.timestamp_end is None for flow in self._live)

    def _busy(self) -> bool:
        return self.under_way() > 0 or unsent(ctx.master.addons.get("proxyserver")) > 0

    def done(self) -> None:
        """Note that mitmproxy is ending, for whatever reason."""
        self.is_over = True

    async def _drain(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._busy() and loop.time() < end:  # noqa: ASYNC110  # nobody tells when the last byte has left
            await asyncio.sleep(TICK)
        if self.under_way():
            logger.warning("x402: stopped with %d answers still running (x402_drain)", self.under_way())
        ctx.master.shutdown()


def turn_away(flow: http.HTTPFlow) -> None:
    """Refuse a request during the shutdown. Clients may retry: behind a load balancer another proxy takes it."""
    message = "This x402 proxy is shutting down and takes no more requests. Nothing was paid. Ask again later."
    body = error_body("x402_refused", "shutting_down", message)
    flow.response = http.Response.make(503, body, [JSON, (b"retry-after", b"5"), (b"connection", b"close")])
    flow_metadata.refused(flow, "shutting_down")
