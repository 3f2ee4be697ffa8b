"""The hooks: wires the rooms together and owns no rule."""

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
from weakref import WeakKeyDictionary

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from . import installation
from .command_line import why_unpayable
from .errors import Refused, SettingsError, X402Error, error_code
from .forecast.quote import Place, read_question
from .hooks import answers, cors, guard, service
from .hooks.log_lines import QuietProbes, add_dates
from .hooks.peers import Peers
from .ledger.interface import Clock
from .ledger.opening import make_ready, open_ledger
from .limits.request_model import read_model
from .limits.whole_request import WholeRequest
from .payment import challenge, jobs, polls
from .payment import retained as held
from .payment.payer import Payer, find_wallets
from .payment.policy import Purpose
from .payment.purchase import Purchase
from .protocol.amounts import format_usd
from .proxy import authorities, fast_path
from .proxy import mitmproxy_defaults as hosting
from .proxy.exchange import Exchange, exchange_of, upstream_of
from .proxy.layer import install
from .proxy.self_check import self_check
from .recording.recorder import Recorder
from .settings.options import OPTIONS
from .settings.settings import read_settings, unknown_options
from .settings.timeouts import Timeouts
from .settings.values import is_loopback
from .views import flow_metadata as facts
from .views import summary
from .views.commands import Commands
from .views.flow_metadata import is_health
from .views.views import Views
from .wallet import sources as wallet

logger = logging.getLogger(__name__)

_held = held.HeldPayments(time.time, Clock().uptime)  # of the module: it outlives a script that is loaded again
_jobs = jobs.Jobs(time.time)  # so does this


class X402Addon:
    """Pays the challenges of the reverse-proxied upstream on behalf of the clients."""

    name = "x402"

    def __init__(self) -> None:
        self.payer: Payer | None = None
        self.recorder = Recorder()  # the last, since the others write down what it records
        self._service = service.Service(lambda: None if self.payer is None else self.payer.settings)
        # mitmproxy takes them along with this one
        self._peers = Peers()
        self._quiet = QuietProbes()
        views = Views(lambda: self.payer)
        self.addons = [Commands(lambda: self.payer), self._service, self._peers, views, self.recorder]
        self._began = time.time()
        self._broken = "the x402 addon is not configured yet"
        self._running = False
        self._unusable: list[str] = []
        self._improved: dict[str, object] = {}
        self._caution = ""
        self._port_is_held = False
        self._moving: asyncio.Task[None] | None = None
        self._purchases: WeakKeyDictionary[http.HTTPFlow, Purchase] = WeakKeyDictionary()
        self._held: held.Held = _held

    # Starting.

    def load(self, loader: Loader) -> None:
        """Declare the options, and repair mitmproxy's defaults before the port opens."""
        for option in OPTIONS:
            loader.add_option(option.name, str, option.default, option.help)
        self._quiet.install()
        termlog = ctx.master.addons.get("termlog")
        add_dates(None if termlog is None else termlog.logger.formatter)
        try:
            self._caution = self_check()
        except SettingsError as error:
            installation.refuse_to_load(str(error))
            raise
        self._unusable = hosting.take_unusable(ctx.options, {option.name for option in OPTIONS})
        self._improved = hosting.improve(ctx.options, sys.argv[1:])
        if "listen_host" in self._improved:
            self._port_is_held = hosting.hold_port(ctx.master.addons.get("proxyserver"))

    def configure(self, updated: Iterable[str]) -> None:
        """Build everything that the options decide, then swap it in whole, or refuse and keep what was."""
        if not any(option.name in updated for option in OPTIONS):
            return
        try:
            payer, kept = self._build()
            if self.payer is not None:
                self.payer.outcomes.flush()
            self.payer, self._held, self._broken = payer, kept, ""
            self._arrange_speed(fast=payer.settings.fast_path)
        except X402Error as error:
            if self._running and self.payer is not None:
                raise exceptions.OptionsError(str(error)) from None
            # Logged and not raised: mitmproxy ends a start in which an error was logged, and prints this one line.
            self._broken = str(error)
            logger.error("x402: %s", error)

    def _build(self) -> tuple[Payer, held.Held]:
        options = {option.name: cast(str, getattr(ctx.options, option.name)) for option in OPTIONS}
        settings = read_settings(options, os.environ, cwd=Path.cwd(), home=Path.home())
        wallets = find_wallets(settings, os.environ, Path.home())
        ledger = self.payer.ledger if self.payer is not None else None
        if ledger is None or ledger.place != settings.ledger:
            ledger = open_ledger(settings.ledger)
        make_ready(ledger, settings)
        self.recorder.use(settings)
        payer = Payer(settings, wallets, ledger, later=asyncio.get_running_loop().call_later)
        return payer, held.open_held(ledger, wallets, settings.networks) or _held

    def _arrange_speed(self, *, fast: bool) -> None:
        if fast:
            fast_path.apply()
        else:
            fast_path.undo(asyncio.get_running_loop().call_soon)

    def running(self) -> None:
        """Complain of mistyped options, or say who pays what, and warm up what the first payment needs."""
        self._running = True
        mistaken = " ".join(filter(None, [*self._unusable, unknown_options(ctx.options.deferred)]))
        if mistaken:
            self._broken = mistaken
            logger.error("x402: %s", mistaken)
        if self.payer is None or self._broken:
            return
        for warning in self._warnings(self.payer):
            logger.warning("x402: %s", warning)
        for line in self._announcement(self.payer):
            logger.info("x402: %s", line)
        loop, proxyserver = asyncio.get_running_loop(), ctx.master.addons.get("proxyserver")
        settle = functools.partial(hosting.settle, lambda: bool(proxyserver.connections))
        warming = functools.partial(_warm_up, loop, settle)
        threading.Thread(target=warming, name="x402 warm-up", daemon=True).start()
        listening = proxyserver.listen_addrs
        if self._port_is_held:
            self._moving = loop.create_task(hosting.open_port(proxyserver))
        elif "listen_host" in self._improved and hosting.beyond_loopback(listening()):
            self._moving = loop.create_task(hosting.move_to(ctx.options, listening))

    def _warnings(self, payer: Payer) -> Iterator[str]:
        settings, wallets = payer.settings, payer.wallets
        if self._caution:
            yield self._caution
        if outdated := authorities.outdated(named=_names_authorities()):
            yield f"{outdated} {authorities.remedy()}"
        yield from (*settings.warnings, *wallets.warnings)
        for mode in ctx.options.mode:
            unpayable = why_unpayable(mode.removeprefix("reverse:"), wallets)
            if unpayable:
                yield unpayable

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
                "no wallet: free answers pass, every challenge is refused; to make one: "
                f"{os.environ.get('X402_PROGRAM', 'mitmproxy-x402')} wallet new"
            )
        lines.append(f"at most {format_usd(settings.max_request)} USDC a request (x402_max_request)")
        budgets = ", ".join(str(budget) for budget in settings.budgets)
        lines.append(f"at most {budgets} USDC (x402_budget), written down in {settings.ledger}")
        if settings.dry_run:
            lines.append("dry run: nothing is signed (x402_dry_run)")
        if not is_loopback(ctx.options.listen_host) and settings.client_token is None:
            lines.append("other machines are refused until X402_CLIENT_TOKEN is set")
        if upstreams:
            lines.append(f"upstream {', '.join(mode.removeprefix('reverse:') for mode in upstreams)}")
        else:
            lines.append("NOT paying: mitmproxy runs without --mode reverse:https://..., and only there x402 pays")
        return lines

    # A request's way through.

    def next_layer(self, next_layer: Any) -> None:
        """Let mitmproxy decide the layers, then put our stream into them."""
        timeouts = Timeouts() if self.payer is None else self.payer.settings.timeouts
        addons = ctx.master.addons
        install(next_layer, addons.get("nextlayer").next_layer, timeouts, addons, self._answer_at_once)

    def _answer_at_once(self, request: http.Request) -> http.Response | None:
        """A health check's answer: asked every few seconds, so it leaves no flow and no line in the log."""
        if not is_health(request):
            return None
        broken = self.payer is None or self._broken
        return service.health("not ready" if broken else "draining" if self._service.draining else "ok")

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Ask the guard, take the client's credentials off, and keep the body replayable."""
        exchange = exchange_of(flow)
        if exchange is None:
            return
        flow.request.stream = False
        self._quiet.speak(flow.client_conn.peername)
        try:
            self._examine(flow, exchange)
        except Exception as error:  # mitmproxy would let the request go on, unguarded and with its credentials
            _refuse(flow, _fault(error))

    def _examine(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        if self.payer is None or self._broken:
            message = f"The x402 proxy is not ready: {self._broken}"
            _refuse(flow, answers.refusal(503, "x402_not_ready", message), "x402_not_ready")
            return
        settings, client = self.payer.settings, flow.client_conn
        origin = guard.allowed_page(flow.request, settings)
        if origin is not None:
            exchange.own_headers = cors.opening(origin)
            if cors.is_preflight(flow.request):
                flow.response = cors.answer_preflight(flow.request, origin)
                return
        port = client.sockname[1] if client.sockname else 0
        caller = guard.Caller(self._peers.of(client), exchange.client_host, port)
        denial = guard.examine(flow.request, caller, settings)
        if denial is not None:
            page = guard.page_of(flow.request)
            told = f"{denial.code}, page {page or 'unnamed'}" if page is not None else denial.code
            _log(logging.WARNING, flow, "refused %s: %s", _asked(flow), answers.printable(told))
            _refuse(flow, answers.refusal(denial.status, denial.code, denial.message), denial.code)
            return
        exchange.max_body = settings.max_body
        exchange.refuse_body = functools.partial(_refuse_body, flow, settings.max_body)
        exchange.may_pay = not guard.pays_itself(flow.request)
        guard.strip_credentials(flow.request, settings, lambda: self._is_poll(flow.request))

    def request(self, flow: http.HTTPFlow) -> None:
        """The request is whole: send a payment with it, where an equal one was paid for and not answered that very one,
        else one that the gateway can be foretold to ask for. With a poll of a job, what the job's polls carry.
        """
        exchange = exchange_of(flow)
        if exchange is None or not exchange.may_pay or flow.response is not None or self.payer is None:
            return
        route, forecast = _route(flow.request), self.payer.forecast
        known = _jobs.polled(flow.request, self.payer.ledger.name) is not None or self._held.expects(route)
        foretold = forecast is not None and forecast.expects(_place(route))
        if self.payer.settings.dry_run or not (known or foretold):
            return
        purchase: Purchase | None = None
        try:
            purchase = self._purchase(flow, self.payer, route)
            if (known and purchase.borrow()) or (foretold and self._pays_ahead(flow, purchase, route)):
                self._carry(flow, exchange, purchase)
        except X402Error as error:
            _refuse(flow, _refusal(error, purchase), error_code(error))
        except Exception as error:  # without its payment the request would be bought anew
            _refuse(flow, _fault(error, purchase))

    def _is_poll(self, request: http.Request) -> bool:
        return self.payer is not None and _jobs.polled(request, self.payer.ledger.name) is not None

    def _pays_ahead(self, flow: http.HTTPFlow, purchase: Purchase, route: held.Route) -> bool:
        """Whether the first leg is to carry a payment unasked: one that waits for this request, or one foretold."""
        assert self.payer is not None
        return _is_clear(flow) and (self._takes_over(self.payer, purchase, route) or purchase.predict())

    def _purchase(self, flow: http.HTTPFlow, payer: Payer, route: held.Route) -> Purchase:
        purchase = self._purchases.get(flow)
        if purchase is None:
            request = flow.request
            body = request.raw_content or b""
            path = answers.printable(request.path.partition("?")[0])
            model = read_model(path, body, request.headers.get("content-type", ""))
            client = answers.client_name(request.headers.get("user-agent", ""), flow.client_conn.peername)
            said = request.headers.get_all("content-type"), request.headers.get_all("content-encoding")
            whole = WholeRequest(request.path, body, *said)
            purpose = Purpose(answers.printable(request.method), request.host, path, model, client, whole)
            question = read_question(_place(route), model, body) if payer.forecast is not None else None
            key = functools.partial(held.fingerprint, route, body)
            kept = self._held
            purchase = polls.poll_of(request, payer, kept, _jobs) or Purchase(payer, kept, purpose, key, question)
            self._purchases[flow] = purchase
        return purchase

    def _takes_over(self, payer: Payer, purchase: Purchase, route: held.Route) -> bool:
        """Whether an equal request at another proxy has left a payment behind, which then goes with the next leg."""
        if payer.settings.dry_run or not purchase.is_new or not self._held.expects_by_now(route):
            return False
        return purchase.borrow()

    def _carry(self, flow: http.HTTPFlow, exchange: Exchange, purchase: Purchase) -> None:
        """Have the next leg carry the purchase's payment, or a poll's proof."""
        exchange.secret_headers = purchase.headers()
        exchange.about_to_send = functools.partial(_about_to_send, flow, purchase)
        if purchase.payment is not None:
            facts.offered(flow, purchase.payment.offer)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream every answer of the upstream; remember a payment that it does not answer, before the client knows."""
        exchange = exchange_of(flow)
        if exchange is None or flow.response is None:
            return
        if flow.response.raw_content is None:  # otherwise an addon made it
            flow.response.stream = True
        if exchange.own_headers:
            cors.open_to(flow.response, exchange.own_headers[0][1].decode())
        purchase, response = self._purchases.get(flow), flow.response
        if purchase is not None and not self._service.is_over:
            purchase.answered(response.status_code, lambda: answers.acknowledges(response))
            answers.watch_for_job(flow, purchase, _jobs)

    def x402_challenge(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Answer a 402. What there is to wait for is given back; mostly there is nothing."""
        answering = self._answer(flow)
        if sys.version_info < (3, 12):
            return answering
        task = asyncio.Task(answering, loop=asyncio.get_running_loop(), eager_start=True)
        return None if task.done() else task

    async def _answer(self, flow: http.HTTPFlow) -> None:
        """With a payment, with a refusal, or not at all when the 402 is no challenge or the last word. Never raises."""
        exchange = exchange_of(flow)
        if exchange is None or flow.response is None or self.payer is None:
            return
        if self._service.is_over:
            if not exchange.secrets_sent:
                service.turn_away(flow)
            return  # of a payment that was sent, the gateway has the last word
        purchase: Purchase | None = None
        words = functools.partial(challenge.words, flow.response)
        try:
            facts.challenged(flow)
            route = _route(flow.request)
            purchase = self._purchase(flow, self.payer, route)
            if exchange.secrets_sent:
                code = challenge.rejection_code(flow.response)
                if code is None or not purchase.rejected(code, flow.response.status_code, words):
                    return
            required = challenge.read(flow.response)
            if required is not None:
                _check_way(flow)
                new = purchase.payment is None and not self._takes_over(self.payer, purchase, route)
                if new or purchase.ahead:
                    await purchase.buy(required, words)
            elif not exchange.secrets_sent:
                nothing = challenge.why_none(flow.response)
                if nothing:
                    logger.info("x402: passed a 402 on as it came: %s", nothing)
                return
            self._carry(flow, exchange, purchase)
            exchange.resend = True  # without a payment where the rejection brought no fresh challenge: to get one
        except X402Error as error:
            logger.warning("x402: not paid: %s", error)
            _refuse(flow, _refusal(error, purchase), error_code(error), getattr(error, "asked", ""))
        except Exception as error:  # a flow is never lost to a fault of ours
            _refuse(flow, _fault(error, purchase))

    def response(self, flow: http.HTTPFlow) -> None:
        """Write down what became of a payment."""
        purchase = self._purchases.pop(flow, None)
        exchange = exchange_of(flow)
        if purchase is not None and exchange is not None and not self._service.is_over:
            purchase.finish(answers.outcome(flow, exchange, purchase.payment))
            _note(flow, exchange, purchase)

    def error(self, flow: http.HTTPFlow) -> None:
        """Write down what became of a payment, and give the client JSON that says whether money may have moved."""
        exchange = exchange_of(flow)
        purchase = self._purchases.pop(flow, None)
        if exchange is None or flow.error is None:
            return
        exchange.error_answer = answers.upstream_error(flow, exchange, purchase)
        if purchase is not None and not self._service.is_over:
            purchase.break_off(answers.outcome(flow, exchange, purchase.payment))
            _note(flow, exchange, purchase)

    def done(self) -> None:
        """The end: payments that are still under way are unknown, reservations are given back.

        What clients are still told meanwhile is not written down any more.
        """
        hosting.end_quietly()
        self._quiet.uninstall()
        self._arrange_speed(fast=False)
        for flow, purchase in list(self._purchases.items()):
            exchange = exchange_of(flow)
            if exchange is not None:
                purchase.break_off(answers.outcome(flow, exchange, purchase.payment))
                _note(flow, exchange, purchase)
        if self.payer is not None:
            self.payer.outcomes.flush()
            ahead = None if self.payer.forecast is None else self.payer.forecast.tally
            for line in summary.closing_lines(self.payer.settings, self.payer.ledger, self._began, ahead):
                logger.info("x402: %s", line)
            self.payer.ledger.close()


def _warm_up(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    wallet.warm_up()
    with contextlib.suppress(RuntimeError):  # the proxy has ended meanwhile
        loop.call_soon_threadsafe(then)


def _route(request: http.Request) -> held.Route:
    return request.method, f"{request.scheme}://{request.host}:{request.port}", request.path


def _place(route: held.Route) -> Place:
    return route[0], route[1], route[2].partition("?")[0]


def _is_clear(flow: http.HTTPFlow) -> bool:
    """Whether the way to the upstream may be paid on; where not, the refusal waits for the challenge."""
    try:
        _check_way(flow)
    except Refused:
        return False
    return True


def _about_to_send(flow: http.HTTPFlow, purchase: Purchase) -> http.Response | None:
    """Just before a payment leaves: the upstream is still the right one, and the ledger knows."""
    try:
        _check_way(flow)
        purchase.sending()
        if purchase.sent:
            facts.became(flow, "sent")
    except X402Error as error:
        logger.warning("x402: not sent: %s", error)
        facts.refused(flow, error_code(error))
        if purchase.sent:
            return answers.outcome_unknown(f"{error} An earlier try was sent.")
        return _refusal(error, purchase)
    except Exception as error:  # as above
        facts.refused(flow, "internal_error")
        return _fault(error, purchase)
    return None


def _log(level: int, flow: http.HTTPFlow, message: str, *arguments: object) -> None:
    """A line about `flow`, marked with its client's address as mitmproxy's own lines are."""
    logger.log(level, f"x402: {message}", *arguments, extra={"client": flow.client_conn.peername})


def _refuse(flow: http.HTTPFlow, answer: http.Response, code: str = "internal_error", asked: str = "") -> None:
    flow.response = answer
    facts.refused(flow, code, asked)


def _refuse_body(flow: http.HTTPFlow, limit: int) -> http.Response:
    """The answer to a request whose body is too long to be kept for the second sending."""
    _log(logging.WARNING, flow, "refused %s: its body is longer than %d bytes", _asked(flow), limit)
    message = (
        f"The request's body is longer than {limit} bytes, which the proxy keeps because it may have to send it twice. "
        "Nothing was paid. Start the proxy with a higher x402_max_body."
    )
    facts.refused(flow, "request_too_large")
    return answers.refusal(413, "request_too_large", message)


def _asked(flow: http.HTTPFlow) -> str:
    """Method and path, for the log."""
    return answers.printable(f"{flow.request.method} {flow.request.path.partition('?')[0]}")


def _refusal(error: X402Error, purchase: Purchase | None) -> http.Response:
    return answers.refusal(400, error_code(error), f"{error}{answers.paid_before(purchase)}")


def _note(flow: http.HTTPFlow, exchange: Exchange, purchase: Purchase) -> None:
    facts.sent_upstream(flow, exchange.legs)
    if purchase.state is not None:
        facts.became(flow, purchase.state, purchase.transaction)
    exchange.forget()


def _fault(error: Exception, purchase: Purchase | None = None) -> http.Response:
    """The answer for a fault of ours. The error's text may hold anything, so only its type is told."""
    name = type(error).__name__
    logger.error("x402: a fault of the addon: %s", name)
    paid = (
        "A payment was sent, its outcome is unknown." if purchase is not None and purchase.sent else "Nothing was paid."
    )
    message = f"mitmproxy-x402 failed ({name}). {paid}{answers.paid_before(purchase)}"
    return answers.refusal(500, "internal_error", message)


def _names_authorities() -> bool:
    return bool(ctx.options.ssl_verify_upstream_trusted_ca or ctx.options.ssl_verify_upstream_trusted_confdir)


def _check_way(flow: http.HTTPFlow) -> None:
    """Pay only the host that the proxy reverses to, over verified TLS; map_remote and others may have changed it since.

    Raises Refused: `insecure_upstream`, `outdated_authorities`, `upstream_changed` or `insecure_log`.
    """
    if ctx.options.proxy_debug:
        raise Refused(
            "insecure_log",
            "mitmproxy runs with proxy_debug, which prints every byte sent, signed payments included. Nothing was "
            "paid. Start it without proxy_debug.",
        )
    request = flow.request
    upstream = upstream_of(flow)
    if (request.host, request.port) != upstream:
        raise Refused(
            "upstream_changed",
            f"The request was redirected from {upstream[0]} to {request.host} within mitmproxy, and payments go to "
            "the host of --mode reverse: only. Nothing was paid. Name that host in --mode instead.",
        )
    if is_loopback(request.host):
        return
    outdated = authorities.outdated(named=_names_authorities())
    if outdated:
        raise Refused("outdated_authorities", f"Nothing was paid: {outdated} The proxy's log has the command.")
    if request.scheme != "https" or ctx.options.ssl_insecure:
        what = "without TLS" if request.scheme != "https" else "with certificates unverified (ssl_insecure)"
        raise Refused(
            "insecure_upstream",
            f"The upstream {request.host} is reached {what}, so anyone on the way could set the price. Nothing "
            "was paid. Use --mode reverse:https://... and leave ssl_insecure off.",
        )
