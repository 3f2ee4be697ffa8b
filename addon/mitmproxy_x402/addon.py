"""mitmproxy's hooks; every payment decision is delegated to `hooks.payment_desk`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from .command_line import PORT, why_unpayable
from .errors import SettingsError, X402Error
from .hooks import answers, cors, guard, service
from .hooks.log_lines import QuietProbes, add_dates, printable, say
from .hooks.payment_desk import PaymentDesk, may_pay, names_authorities, refuse
from .hooks.peers import Peers
from .hooks.reconciling import Reconciling
from .hooks.web_lock import WebLock, is_web, open_by_file
from .ledger.opening import make_ready, open_ledger
from .machine import installation
from .machine.program import program
from .payment.payer import Payer, find_wallets
from .payment.retained import open_retained
from .payment.retained.store import Retained
from .payment.signing.delegation import warn_of_delegation
from .protocol.amounts import format_usd
from .proxy.exchange import Exchange, exchange_of, where_it_listens
from .proxy.fairness.reader import Fairness
from .proxy.layer import install
from .proxy.startup import authorities, fast_path, mitmproxy_defaults
from .proxy.startup.self_check import self_check
from .proxy.veil import veil, veil_path, veil_reason
from .reconcile.rpcs import watched
from .recording.recorder import Recorder
from .recording.redact import Redactor
from .settings.narrowing import beyond_narrowing, widened
from .settings.options import OPTIONS, PREFIX
from .settings.settings import read_settings, state_home
from .settings.suggest import is_like_ours, mistyped_options, unknown_options
from .settings.timeouts import Timeouts
from .settings.values import is_loopback
from .views import summary
from .views.commands import Commands
from .views.flow_metadata import is_health
from .views.views import Views, describe_anew
from .wallet import sources as wallet

logger = logging.getLogger(__name__)

STARTING = "options that no addon has declared so far were set, and other addons are still being loaded"
MAX_TOLD = 100
"""Most sets of removed query parameters that are logged."""


class X402Addon:
    """Pays the challenges of the reverse-proxied upstream on behalf of the clients."""

    name = "x402"

    def __init__(self) -> None:
        self.recorder = Recorder()
        self._service = service.Service(lambda: None if self.payer is None else self.payer.settings)
        self._peers = Peers(lambda client: client.id in ctx.master.addons.get("proxyserver").connections)
        self._quiet = QuietProbes()
        self._web_lock: WebLock | None = None
        views = Views(lambda: self.payer)
        reconciling = Reconciling(lambda: self.payer, describe_anew)
        fairness = Fairness(lambda: ctx.master.addons.get("proxyserver").connections)
        own = [self._service, self._peers, fairness, reconciling]
        # mitmproxy loads these children with this addon; the recorder is last, because others add what it records.
        self.addons = [Commands(lambda: self.payer), *own, views, self.recorder]
        self._redactor = Redactor()
        self._began = time.time()
        self._broken = "the x402 addon is not configured yet"
        self._running = False
        self._starts_with_mitmproxy = False
        self._is_new_ledger = False
        self._unusable: list[str] = []
        self._told_of: set[tuple[bytes, ...]] = set()
        self._left_alone: list[str] = []
        self._improved: dict[str, object] = {}
        self._caution = ""
        self._port_is_held = False
        self._moving: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._desk = PaymentDesk(lambda: self._service.is_over)

    @property
    def payer(self) -> Payer | None:
        """The current payer; None until the options have been read."""
        return self._desk.payer

    # Starting.

    def load(self, loader: Loader) -> None:
        """Declare the options, and replace mitmproxy's defaults before the port opens."""
        with mitmproxy_defaults.announced_together(ctx.options):
            for option in OPTIONS:
                loader.add_option(option.name, str, option.default, option.help)
        self._quiet.install()
        termlog = ctx.master.addons.get("termlog")
        add_dates(None if termlog is None else termlog.logger.formatter)
        self._starts_with_mitmproxy = not ctx.master.addons.get("scriptloader").is_running
        try:
            self._caution = self_check()
        except SettingsError as error:
            installation.refuse_to_load(str(error))
            if not self._starts_with_mitmproxy:
                raise
            sys.exit(f"mitmproxy-x402: {error}")  # mitmproxy 11 swallows this, and ends a moment later
        if is_web(ctx.master):
            open_by_file(_state_folder())
        self._unusable = mitmproxy_defaults.take_unusable(ctx.options, {option.name for option in OPTIONS})
        if self._starts_with_mitmproxy and (said := self._unusable or mistyped_options(ctx.options.deferred)):
            installation.refuse_to_load(" ".join(said), ends=True)  # before the port opens; `running` knows the rest
        self._improved = mitmproxy_defaults.improve(ctx.options, sys.argv[1:])
        if "listen_host" in self._improved:
            self._port_is_held = mitmproxy_defaults.hold_port(ctx.master.addons.get("proxyserver"))

    def configure(self, updated: Iterable[str]) -> None:
        """Build everything from the options, then replace the old state; on an error, keep the old state."""
        if not any(option.name in updated for option in OPTIONS):
            return
        try:
            payer, retained = self._build()
            self._desk.use(payer, retained)
            # An option that nobody declares may be a mistyped limit: nothing is paid before `running` knows.
            self._broken = STARTING if ctx.options.deferred and not self._running else ""
            self._arrange_speed(fast=payer.settings.fast_path)
        except X402Error as error:
            if self._running and self.payer is not None:
                raise exceptions.OptionsError(str(error)) from None
            self._broken = str(error)
            installation.refuse_to_load(self._broken, ends=self._starts_with_mitmproxy)

    def _build(self) -> tuple[Payer, Retained | None]:
        options = {option.name: cast(str, getattr(ctx.options, option.name)) for option in OPTIONS}
        settings = read_settings(options, os.environ, cwd=Path.cwd(), home=Path.home())
        wallets = find_wallets(settings, os.environ, Path.home())
        ledger = self.payer.ledger if self.payer is not None else None
        if ledger is None or ledger.place != settings.ledger:
            self._is_new_ledger = isinstance(settings.ledger, Path) and not settings.ledger.exists()
            ledger = open_ledger(settings.ledger)
        make_ready(ledger, settings)
        redactor = self._redactor.with_token(settings.client_token)
        self.recorder.use(settings, redactor)
        self._redactor = redactor
        payer = Payer(settings, wallets, ledger, later=asyncio.get_running_loop().call_later)
        ledger.watch(watched(settings))
        return payer, open_retained(ledger, wallets, settings.networks)

    def _arrange_speed(self, *, fast: bool) -> None:
        left_out = fast_path.apply() if fast else []
        if not fast:
            fast_path.undo(ctx.master.event_loop.call_soon)
            mitmproxy_defaults.thaw()
        if left_out and left_out != self._left_alone:
            names = ", ".join(left_out)
            logger.info("x402: not replaced, since another addon or this mitmproxy has changed it: %s", names)
        self._left_alone = left_out

    def _may_freeze(self) -> bool:
        return self.payer is not None and self.payer.settings.fast_path and not self._service.is_over

    def running(self) -> None:
        """Report mistyped options, or log who pays for what; prepare what the first payment needs."""
        self._running = True
        typed, filed = mitmproxy_defaults.unclaimed(ctx.options)
        unknown = unknown_options([*typed, *filter(is_like_ours, filed)], ctx.options.keys())
        mistaken = " ".join(filter(None, [*self._unusable, unknown]))
        if self._broken == STARTING:
            self._broken = ""
        if mistaken:
            self._broken = mistaken
            installation.refuse_to_load(mistaken, ends=self._starts_with_mitmproxy)
        if self.payer is None or self._broken:
            return
        for name in filed:
            logger.warning("x402: mitmproxy's file sets %s, which no loaded addon has as an option", name)
        for warning in self._warnings(self.payer):
            logger.warning("x402: %s", warning)
        for line in self._announcement(self.payer):
            logger.info("x402: %s", line)
        loop, proxyserver = asyncio.get_running_loop(), ctx.master.addons.get("proxyserver")
        settle = functools.partial(mitmproxy_defaults.settle, lambda: bool(proxyserver.connections), self._may_freeze)
        warming = functools.partial(_warm_up, loop, settle)
        threading.Thread(target=warming, name="x402 warm-up", daemon=True).start()
        self._looking = loop.create_task(_look_at_wallets(self.payer))
        if self._port_is_held:
            self._moving = loop.create_task(mitmproxy_defaults.open_port(proxyserver))
        elif "listen_host" in self._improved and mitmproxy_defaults.beyond_loopback(proxyserver):
            moving = mitmproxy_defaults.move_to(ctx.options, proxyserver.listen_addrs)
            self._moving = loop.create_task(moving)
            self._moving.add_done_callback(lambda _: self._lock_web())
            return
        self._lock_web()

    def _lock_web(self) -> None:
        """Keep mitmweb's page from exposing the key or raising limits."""
        payer = self.payer
        if not is_web(ctx.master) or payer is None or payer.settings.web_options or self._web_lock is not None:
            return
        if payer.wallets.evm is not None or payer.wallets.svm is not None:
            self._web_lock = WebLock(ctx.master, self._objection)

    def _objection(self, changes: dict[str, Any]) -> str | None:
        """Why mitmweb may not make `changes` to our options."""
        if self.payer is None or not changes:
            return None
        wider = beyond_narrowing(name.removeprefix(PREFIX) for name in changes)
        if not wider:
            options = {option.name: cast(str, getattr(ctx.options, option.name)) for option in OPTIONS} | changes
            try:
                asked = read_settings(options, os.environ, cwd=Path.cwd(), home=Path.home())
            except X402Error as error:
                return str(error)
            wider = widened(self.payer.settings, asked)
        if not wider:
            return None
        return (
            f"{', '.join(f'x402_{key}' for key in wider)}: mitmweb may only narrow what may be spent. Set it when "
            "starting the proxy, or start it with x402_web_options=true."
        )

    def _warnings(self, payer: Payer) -> Iterator[str]:
        settings, wallets = payer.settings, payer.wallets
        if self._caution:
            yield self._caution
        if outdated := authorities.outdated(named=names_authorities()):
            yield f"{outdated} {authorities.remedy()}"
        yield from settings.warnings
        if is_web(ctx.master) and not hasattr(ctx.options, "web_password"):
            yield "this mitmweb has no login: every user of this machine can read what passes, and lower the limits"
        if ctx.options.allow_hosts and not settings.allow_hosts:
            yield "allow_hosts is an option of mitmproxy's; which hosts may be paid is said in x402_allow_hosts"
        for mode in ctx.options.mode:
            unpayable = why_unpayable(mode.removeprefix("reverse:"), wallets)
            if unpayable:
                yield unpayable
            upstream = mode.removeprefix("reverse:").partition("@")[0]
            if upstream.startswith("http://") and not is_loopback(urlsplit(upstream).hostname or ""):
                yield f"{upstream} is not encrypted, so nothing is paid there: use https"

    def _announcement(self, payer: Payer) -> list[str]:
        settings, wallets = payer.settings, payer.wallets
        upstreams = [mode for mode in ctx.options.mode if mode.startswith("reverse:")]
        lines = [
            f"wallet {purse.address} for {names} (from {purse.source})"
            for purse, names in (
                (wallets.evm, ", ".join(n.name for n in settings.networks if n.family == "evm")),
                (wallets.svm, ", ".join(n.name for n in settings.networks if n.family == "svm")),
            )
            if purse is not None
        ]
        if not lines:
            lines.append(
                f"no wallet: free answers pass, every challenge is refused; to make one: {program()} wallet new"
            )
        lines.append(f"at most {format_usd(settings.max_request)} USDC a request (x402_max_request)")
        lines.append(summary.opening_line(settings, payer.ledger, is_new=self._is_new_ledger))
        if settings.file is not None:
            more = f", {len(settings.limits)} [[limit]] among them" if settings.limits else ""
            lines.append(f"settings from {settings.file}{more}")
        if settings.dry_run:
            lines.append("dry run: nothing is signed (x402_dry_run)")
        if not is_loopback(ctx.options.listen_host) and settings.client_token is None:
            lines.append("other machines are refused until X402_CLIENT_TOKEN is set")
        if upstreams:
            lines += map(_where_clients_go, upstreams)
        else:
            lines.append("NOT paying: mitmproxy runs without --mode reverse:https://..., and x402 pays only there")
        return lines

    # The hooks of a request, in order.

    def next_layer(self, next_layer: Any) -> None:
        """Let mitmproxy choose the layers, then install our stream in them."""
        timeouts = Timeouts() if self.payer is None else self.payer.settings.timeouts
        addons = ctx.master.addons
        install(next_layer, addons.get("nextlayer").next_layer, timeouts, addons, self._answer_at_once)

    def _answer_at_once(self, request: http.Request, refusal: http.Response | None) -> http.Response | None:
        """The answer without a flow or a log line: `refusal`, or to a misplaced token or a health check; else None."""
        if refusal is not None:
            answer = refusal
        elif self.payer is not None and guard.is_misplaced(self.payer.settings.client_token, request):
            answer = answers.refusal(400, "client_token_misplaced", guard.MISPLACED)
        elif is_health(request):
            broken = self.payer is None or self._broken
            answer = service.health("not ready" if broken else "draining" if self._service.draining else "ok")
        else:
            return None
        origin = None if self.payer is None else guard.allowed_page(request, self.payer.settings)
        if origin is not None:
            cors.open_to(answer, origin)
        return answer

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Ask the guard, remove the client's credentials, and keep the body so that it can be sent twice."""
        exchange = exchange_of(flow)
        if exchange is None:
            return
        flow.request.stream = False
        self._quiet.speak(flow.client_conn.peername)
        try:
            self._examine(flow, exchange)
        except Exception as error:  # otherwise mitmproxy would forward the request, unguarded and with its credentials
            refuse(flow, answers.fault(error))

    def _examine(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        if self.payer is None or self._broken:
            message = f"The x402 proxy is not ready: {self._broken}"
            guard.forget_credentials(flow.request, self._redactor)
            refuse(flow, answers.refusal(503, "x402_not_ready", message), "x402_not_ready")
            return
        if flow.error is not None:  # mitmproxy rejects it as invalid: it is not forwarded, but the flow is kept
            guard.forget_credentials(flow.request, self._redactor)
            return
        settings, client = self.payer.settings, flow.client_conn
        origin = guard.allowed_page(flow.request, settings)
        if origin is not None:
            exchange.own_headers = cors.opening(origin)
            if cors.is_preflight(flow.request):
                flow.response = cors.answer_preflight(flow.request, origin)
                guard.forget_credentials(flow.request, self._redactor)
                return
        port = client.sockname[1] if client.sockname else 0
        caller = guard.Caller(self._peers.of(client), exchange.client_host, port)
        denial = guard.examine(flow.request, caller, settings)
        if denial is not None:
            page = guard.page_of(flow.request)
            told = f"{denial.code}, page {page or 'unnamed'}" if page is not None else denial.code
            guard.forget_credentials(flow.request, self._redactor)
            say(logging.WARNING, flow, "refused: %s", printable(told))
            refuse(flow, answers.refusal(denial.status, denial.code, denial.message), denial.code)
            return
        exchange.max_body = settings.max_body
        exchange.refuse_body = functools.partial(answers.body_too_large, flow, settings.max_body)
        exchange.may_pay = may_pay(flow.request, settings)
        is_poll = functools.partial(self._desk.is_poll, flow.request)
        gone = guard.strip_credentials(flow.request, settings, is_poll, self._redactor.knows)
        veil(flow.request, self._redactor.shown)
        veil_path(flow.request, self._redactor.path(flow.request.data.path))
        self._tell_of_parameters(flow, gone)

    def _tell_of_parameters(self, flow: http.HTTPFlow, names: tuple[bytes, ...]) -> None:
        """Log each set of removed query parameters once: without them the request may mean something else."""
        if not names or names in self._told_of or len(self._told_of) > MAX_TOLD:
            return
        self._told_of.add(names)
        said = printable(b", ".join(names).decode("utf-8", "replace"))
        say(logging.INFO, flow, "taken off the query, since it looks like a credential: %s (x402_forward_names)", said)

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Let a complete request carry a payment at once, if there is one for it."""
        if flow.request.trailers:
            guard.strip_trailers(flow.request)
        return self._desk.request(flow)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream every answer of the upstream."""
        exchange = exchange_of(flow)
        if exchange is None or flow.response is None:
            return
        if flow.response.raw_content is None:  # otherwise an addon made the answer
            flow.response.stream = True
        if exchange.own_headers:
            cors.open_to(flow.response, exchange.own_headers[0][1].decode())
        veil(flow.response, self._redactor.shown)
        veil_reason(flow.response, self._redactor.reason)
        self._desk.responseheaders(flow)

    def x402_challenge(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Handle a 402 that is held back."""
        if flow.response is not None:
            veil(flow.response, self._redactor.shown)
            veil_reason(flow.response, self._redactor.reason)
        return self._desk.challenge(flow)

    def x402_leaving(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Wait until a payment is safe in the ledger."""
        return self._desk.leaving(flow)

    def response(self, flow: http.HTTPFlow) -> None:
        """Record the outcome of a complete answer."""
        self._desk.response(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """Record the outcome of an answer that broke off."""
        self._desk.error(flow)

    def done(self) -> None:
        """End all payments: sent ones become `unknown`, unsent ones are released.

        What clients are told after that is not recorded.
        """
        mitmproxy_defaults.end_quietly()
        self._quiet.uninstall()
        if self._web_lock is not None:
            self._web_lock.remove()
        self._arrange_speed(fast=False)
        self._desk.close()
        if self.payer is None:
            return
        if self._running and not self._broken:
            ahead = None if self.payer.forecast is None else self.payer.forecast.tally
            for line in summary.closing_lines(self.payer.settings, self.payer.ledger, self._began, ahead):
                logger.info("x402: %s", line)
        self.payer.ledger.close()


def _where_clients_go(mode: str) -> str:
    """One line on the upstream of a reverse mode, and on how clients reach it."""
    url, host, port = where_it_listens(mode, ctx.options.listen_host, ctx.options.listen_port)
    if port == 0:
        return f"upstream {url}; the line that says where it listens has the port for clients"
    here = "127.0.0.1" if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host and host[0] != "[" else host  # noqa: S104
    base = f"http://{here}:{port}"
    line = f"upstream {url}; the base URL for clients is {base} (OpenAI's: {base}/v1)"
    if not mitmproxy_defaults.own_process:
        return line
    at = "" if port == PORT else f" -p {port}"
    return f"{line}; {program()} env claude{at} prints the lines for a shell"


def _state_folder() -> Path:
    """The folder of the default ledger and of other files that are private to the user."""
    return state_home(os.environ, Path.home()) / "mitmproxy-x402"


async def _look_at_wallets(payer: Payer) -> None:
    """Warn early of what would stop payments later. Asks only RPCs that the user has configured."""
    await warn_of_delegation(payer.wallets, payer.settings)
    await payer.balances.look(payer.settings.networks, payer.payers)


def _warm_up(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    wallet.warm_up()
    with contextlib.suppress(RuntimeError):  # the proxy has ended in the meantime
        loop.call_soon_threadsafe(then)
