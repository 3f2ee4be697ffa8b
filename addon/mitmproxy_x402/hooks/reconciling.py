"""Looks payments up on the chain in the background while the proxy runs.

It reads the ledger and asks RPCs in a thread with its own event loop. Only the results are passed to mitmproxy's event
loop, a few rows at a time, to be recorded and shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from mitmproxy import http

from ..errors import X402Error
from ..ledger.interface import LedgerError
from ..ledger.reading import Entry, is_there, read_unproven
from ..payment.payer import Payer
from ..protocol.amounts import format_usd
from ..reconcile.findings import SENTENCES
from ..reconcile.resolver import Found, Resolver
from ..reconcile.rpcs import named_rpcs
from ..views import flow_metadata

PAUSE = 60.0
"""Seconds between two checks of the ledger. If nothing is open, a check reads one index."""
MOST = 500
"""Most rows per check, oldest first; the next check continues after them."""
AT_ONCE = 20
"""Most rows that are recorded in one iteration of mitmproxy's event loop."""
HOUR = 3600.0
SETTLING_SECONDS = 900
"""Seconds after the end of its validity by which a payment is final, unless the chain stalls."""
STOP_SECONDS = 2
"""Seconds that the shutdown waits for the thread."""

logger = logging.getLogger(__name__)


class Reconciling:
    """An addon, loaded by X402Addon, that runs the look-ups. `payer` returns the current payer, or None.

    `show` updates a flow on screen when its payment has been found.
    """

    name = "x402reconcile"

    def __init__(self, payer: Callable[[], Payer | None], show: Callable[[http.HTTPFlow], None]) -> None:
        self._payer = payer
        self._show = show
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._after = 0
        self._began: float | None = None
        """When the last round through the ledger began, in Unix seconds; None: there was none."""
        self._before: float | None = None
        """The same of the round before that, or None if no RPC answered in it."""
        self._unanswered = False
        """Whether no RPC has answered for some payment in this round."""
        self._resolver: tuple[Payer, Resolver] | None = None

    def running(self) -> None:
        """Start the thread, if the user has configured an RPC."""
        payer = self._payer()
        if self._thread is not None or payer is None or payer.settings.reconcile == "off" or not _networks(payer):
            return
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="x402 reconcile", daemon=True)
        self._thread.start()

    def done(self) -> None:
        """Stop the thread without waiting for requests under way."""
        if self._own is not None and self._stopped is not None:
            with contextlib.suppress(RuntimeError):  # the thread's loop has ended
                self._own.call_soon_threadsafe(self._stopped.set)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # mitmproxy's loop has ended
            asyncio.run(self._look_for_ever())

    async def _look_for_ever(self) -> None:
        self._own, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        while not self._stopped.is_set():
            payer = self._payer()
            if payer is not None and payer.settings.reconcile != "off":
                look = asyncio.ensure_future(self._look(payer))
                stop = asyncio.ensure_future(self._stopped.wait())
                await asyncio.wait({look, stop}, return_when=asyncio.FIRST_COMPLETED)
                for task in (look, stop):
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await look
                if payer.settings.reconcile == "now" and not self._after:
                    return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), PAUSE if not self._after else 1)

    async def _look(self, payer: Payer) -> None:
        """Look up some of the open payments once. Failures are tried again later."""
        try:
            entries = self._open(payer)
            async for some in self._resolver_of(payer).resolve(entries):
                self._unanswered |= any(one.verdict.unreachable for one in some)
                known = [one for one in some if one.word is not None]
                for first in range(0, len(known), AT_ONCE):
                    assert self._loop is not None
                    self._loop.call_soon_threadsafe(self._write, payer, known[first : first + AT_ONCE])
        except X402Error as error:
            logger.debug("x402: payments could not be looked up: %s", error)
        except Exception as error:  # a fault of ours must not end the thread; its text may hold a secret
            logger.error("x402: a fault of the addon while payments were looked up: %s", type(error).__name__)

    def _open(self, payer: Payer) -> list[Entry]:
        place, networks = payer.settings.ledger, _networks(payer)
        if not is_there(place):
            return []
        now = time.time()
        if not self._after:
            self._before, self._began = None if self._unanswered else self._began, now
            self._unanswered = False
        rows = read_unproven(place, self._after, MOST)
        self._after = rows[-1].row if len(rows) == MOST else 0
        return [
            row
            for row in rows
            if row.fate != "under way"
            and row.network in networks
            and _is_ripe(row, now)
            and is_due(row, self._began or now, self._before)
        ]

    def _resolver_of(self, payer: Payer) -> Resolver:
        if self._resolver is None or self._resolver[0] is not payer:
            settings = payer.settings
            resolver = Resolver(
                settings.networks,
                lambda network: named_rpcs(network, settings),
                seconds=settings.rpc_timeout,
                per_hour=settings.reconcile_rate,
            )
            self._resolver = payer, resolver
        return self._resolver[1]

    def _write(self, payer: Payer, found: Sequence[Found]) -> None:
        """Record and show results; runs in mitmproxy's event loop."""
        try:
            payer.ledger.record_chain([word for one in found if (word := one.word) is not None])
        except LedgerError as error:
            logger.debug("x402: what the chain says could not be written down yet: %s", error)
            return
        for one in found:
            if one.verdict.kind == "used":  # it is asked about again
                continue
            _log(one)
            flow = flow_metadata.flow_of(one.entry.row)
            if flow is not None:
                flow_metadata.proven(flow, one.verdict.kind, one.verdict.transaction)
                self._show(flow)


RIPE_SECONDS = 15
"""Seconds before a payment can be final; younger ones are not looked up."""


def _is_ripe(entry: Entry, now: float) -> bool:
    return now - entry.time / 1000 > RIPE_SECONDS


def is_due(entry: Entry, now: float, before: float | None) -> bool:
    """Whether to ask about `entry` in the round that begins `now`, after one that began `before` (Unix seconds).

    In each round until its signature is dead, when the same RPCs know all that they ever will; once an hour after that.
    This follows from the row alone, so that nothing has to be remembered of rows that stay open.
    """
    made = entry.time / 1000
    end = max(entry.valid_until or 0, entry.valid_before or 0, made) + SETTLING_SECONDS
    return before is None or now <= end or before <= end or (now - made) // HOUR != (before - made) // HOUR


def _networks(payer: Payer) -> set[str]:
    """The networks for which the user has configured an RPC."""
    settings = payer.settings
    return {network.caip2 for network in settings.networks if named_rpcs(network, settings)}


def _log(one: Found) -> None:
    entry, verdict = one.entry, one.verdict
    amount, named = format_usd(entry.micro_usd), entry.nonce or entry.reference
    most = "at most " if entry.scheme == "upto" else ""
    what = f"payment of {most}{amount} USD for {entry.method} {entry.path} ({named})"
    if one.finding:
        logger.warning("x402: %s: %s (%s)", what, SENTENCES[one.finding], verdict.transaction or "no transaction")
    elif verdict.kind == "moved":
        moved = format_usd(entry.micro_usd * verdict.amount // max(int(entry.amount), 1))
        charged = f", {moved} USD charged" if most else ""
        logger.info("x402: %s: confirmed %s%s", what, verdict.transaction, charged)
    else:
        logger.info("x402: %s: not taken, and never can be; it counts no more", what)
