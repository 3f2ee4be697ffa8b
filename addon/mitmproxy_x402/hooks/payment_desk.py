"""Handles the money of one flow in mitmproxy's hooks: when it is paid, what the client hears, what is written down.

Between mitmproxy's flows and `payment`: it asks `Purchase` (or `Poll`) at each step of a flow, and does with the flow
what follows from it. It owns no rule about money.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urljoin, urlsplit
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http

from ..errors import Refused, X402Error, error_code
from ..forecast.quote import Place, read_question
from ..ledger.interface import Clock
from ..limits.request_model import read_model
from ..limits.whole_request import WholeRequest
from ..payment import challenge, jobs, polls
from ..payment.payer import Payer
from ..payment.policy import Purpose
from ..payment.purchase import PaidRequest, Purchase
from ..payment.rejections import explain
from ..payment.retained.identity import RequestIdentity, Route
from ..payment.retained.store import Retained, RetainedPayments
from ..proxy.exchange import Exchange, exchange_of, origin_of, upstream_of
from ..proxy.startup import authorities
from ..settings.settings import Settings
from ..settings.values import is_loopback
from ..views import flow_metadata
from . import answers, guard, service
from .completeness import Tail, expected
from .log_lines import say

logger = logging.getLogger(__name__)

_retained = RetainedPayments(time.time, Clock().uptime)  # of the module: it outlives a script that is loaded again
_jobs = jobs.Jobs(time.time)  # so does this


def may_pay(request: http.Request, settings: Settings) -> bool:
    """Whether a 402 in answer to `request` may be paid: not where the client brings a payment of its own, nor where the
    answer cannot be what was bought (`x402_pay_methods`, websocket handshakes).
    """
    return (
        request.method in settings.pay_methods
        and not guard.pays_itself(request)
        and "websocket" not in request.headers.get("upgrade", "").lower()  # also in a list, with a version, in quotes
    )


class PaymentDesk:
    """One for each addon. `is_over` says whether mitmproxy ends: then nothing is paid or written down any more."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.payer: Payer | None = None
        self.retained: Retained = _retained
        self._is_over = is_over
        self._purchases: WeakKeyDictionary[http.HTTPFlow, PaidRequest] = WeakKeyDictionary()

    def use(self, payer: Payer, retained: Retained | None) -> None:
        """Pay with `payer` from now on; without `retained`, this process remembers by itself."""
        if self.payer is not None:
            self.payer.outcomes.flush()
        self.payer, self.retained = payer, retained or _retained

    # Before a payment.

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """The request is whole: send a payment with it, where an equal one was paid for and not answered that very one,
        else one that the gateway can be foretold to ask for. With a poll of a job, what the job's polls carry.

        What there is to wait for is given back; mostly there is nothing.
        """
        exchange, payer = exchange_of(flow), self.payer
        if exchange is None or not exchange.may_pay or flow.response is not None or payer is None:
            return None
        route, forecast = _route(flow, exchange), payer.forecast
        known = _jobs.polled(flow.request, payer.ledger.name) is not None or self.retained.expects(route)
        foretold = forecast is not None and forecast.expects(_place(route))
        if payer.settings.dry_run or not (known or foretold):
            return None
        identity = _identity(route, exchange)
        if known and not identity.is_ready:
            return self._start_later(flow, exchange, payer, identity, foretold=foretold)
        self._start(flow, exchange, payer, identity, known=known, foretold=foretold)
        return None

    async def _start_later(
        self, flow: http.HTTPFlow, exchange: Exchange, payer: Payer, identity: RequestIdentity, *, foretold: bool
    ) -> None:
        await self.retained.settle(identity)
        self._start(flow, exchange, payer, identity, known=True, foretold=foretold)

    def _start(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        payer: Payer,
        identity: RequestIdentity,
        *,
        known: bool,
        foretold: bool,
    ) -> None:
        purchase: PaidRequest | None = None
        try:
            purchase = self._purchase(flow, payer, identity)
            if (known and purchase.reuse_retained()) or (foretold and self._pays_ahead(flow, purchase, identity)):
                self._carry(flow, exchange, purchase)
        except X402Error as error:
            refuse(flow, _refusal(error, purchase), error_code(error))
        except Exception as error:  # without its payment the request would be bought anew
            refuse(flow, fault(error, purchase))

    def _pays_ahead(self, flow: http.HTTPFlow, purchase: PaidRequest, identity: RequestIdentity) -> bool:
        """Whether the first leg is to carry a payment unasked: one that waits for this request, or one foretold."""
        return _is_clear(flow) and (self._takes_over(purchase, identity) or purchase.predict())

    def is_poll(self, request: http.Request) -> bool:
        """Whether it asks after a job."""
        return self.payer is not None and _jobs.polled(request, self.payer.ledger.name) is not None

    def _purchase(self, flow: http.HTTPFlow, payer: Payer, identity: RequestIdentity) -> PaidRequest:
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
            question = read_question(_place(identity.route), model, body) if payer.forecast is not None else None
            purchase = polls.poll_of(request, payer, _jobs) or Purchase(
                payer, self.retained, purpose, identity, question
            )
            self._purchases[flow] = purchase
        return purchase

    def _takes_over(self, purchase: PaidRequest, identity: RequestIdentity) -> bool:
        """Whether an equal request at another proxy has left a payment behind, which then goes with the next leg."""
        assert self.payer is not None
        if self.payer.settings.dry_run or not purchase.is_new:
            return False
        return self.retained.may_be_retained_elsewhere(identity.route) and purchase.reuse_retained()

    def _carry(self, flow: http.HTTPFlow, exchange: Exchange, purchase: PaidRequest) -> None:
        """Have the next leg carry the purchase's payment, or a poll's proof."""
        exchange.secret_headers = purchase.headers()
        exchange.about_to_send = functools.partial(_about_to_send, flow, purchase)
        if purchase.payment is not None:
            flow_metadata.offered(flow, purchase.payment.offer)

    # A challenge.

    def challenge(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Answer a 402. What there is to wait for is given back; mostly there is nothing."""
        answering = self._answer(flow)
        if sys.version_info < (3, 12):
            return answering
        task = asyncio.Task(answering, loop=asyncio.get_running_loop(), eager_start=True)
        return None if task.done() else task

    async def _answer(self, flow: http.HTTPFlow) -> None:
        """With a payment, with a refusal, or not at all when the 402 is no challenge or the last word. Never raises."""
        exchange, payer = exchange_of(flow), self.payer
        if exchange is None or flow.response is None or payer is None:
            return
        if self._is_over():
            if not exchange.secrets_sent:
                service.turn_away(flow)
            return  # of a payment that was sent, the gateway has the last word
        purchase: PaidRequest | None = None
        gateway = answers.upstream_gateway(flow)
        challenge_text = functools.partial(challenge.challenge_text, flow.response, gateway)
        try:
            flow_metadata.challenged(flow)
            identity = _identity(_route(flow, exchange), exchange)
            purchase = self._purchase(flow, payer, identity)
            if exchange.secrets_sent:
                code = challenge.rejection_code(flow.response, gateway)
                if code is None or not _rejected(flow, purchase, code):
                    return
            required = challenge.read(flow.response)
            if required is not None:
                _check_way(flow)
                new = purchase.payment is None and not self._takes_over(purchase, identity)
                if new or purchase.ahead:
                    await purchase.buy(required, challenge_text)
            elif not exchange.secrets_sent:
                nothing = challenge.why_none(flow.response)
                exchange.unpaid = nothing or "it is no challenge"
                return
            self._carry(flow, exchange, purchase)
            exchange.resend = True  # without a payment where the rejection brought no fresh challenge: to get one
        except X402Error as error:
            say(logging.WARNING, flow, "not paid: %s", error)
            refuse(flow, _refusal(error, purchase), error_code(error), getattr(error, "asked", ""))
        except Exception as error:  # a flow is never lost to a fault of ours
            refuse(flow, fault(error, purchase))

    # After a payment.

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Retain a payment that the answer does not answer, before the client knows; watch the end of any other."""
        exchange, purchase, response = exchange_of(flow), self._purchases.get(flow), flow.response
        if exchange is not None and response is not None and response.status_code == 402:
            say(logging.INFO, flow, "passed a 402 on unpaid: %s", _why_unpaid(flow, exchange))
        if exchange is None or response is None or purchase is None or self._is_over():
            return
        if 300 <= response.status_code < 400 and isinstance(purchase, Purchase):
            purchase.leads_to(_redirected(flow, exchange, response))
        purchase.answered(response.status_code, lambda: answers.acknowledges(response, answers.upstream_gateway(flow)))
        answers.watch_for_job(flow, purchase, _jobs)
        if response.raw_content is None and 200 <= response.status_code < 300:  # the upstream's, and no failure yet
            get = response.headers.get
            get_ours = functools.partial(_client_header, exchange)
            wanted = expected(
                exchange.client_path, exchange.client_body, get_ours(b"content-type"), get_ours(b"accept")
            )
            exchange.watch = Tail(get("content-type", ""), get("content-encoding", ""), wanted)

    def response(self, flow: http.HTTPFlow) -> None:
        """Write down what became of a payment."""
        purchase = self._purchases.pop(flow, None)
        exchange = exchange_of(flow)
        if purchase is not None and exchange is not None and not self._is_over():
            complete = isinstance(exchange.watch, Tail) and exchange.watch.is_complete
            purchase.finish(answers.outcome(flow, exchange, purchase.payment), complete=complete)
            _note(flow, exchange, purchase)

    def error(self, flow: http.HTTPFlow) -> None:
        """Write down what became of a payment, and give the client JSON that says whether money may have moved."""
        exchange = exchange_of(flow)
        purchase = self._purchases.pop(flow, None)
        if exchange is None or flow.error is None:
            return
        exchange.error_answer = answers.upstream_error(flow, exchange, purchase)
        if purchase is not None and not self._is_over():
            purchase.break_off(answers.outcome(flow, exchange, purchase.payment))
            _note(flow, exchange, purchase)

    def close(self) -> None:
        """The end: payments that are still under way are unknown, reservations are given back."""
        for flow, purchase in list(self._purchases.items()):
            exchange = exchange_of(flow)
            if exchange is not None:
                purchase.break_off(answers.outcome(flow, exchange, purchase.payment))
                _note(flow, exchange, purchase)
        if self.payer is not None:
            self.payer.outcomes.flush()


def _route(flow: http.HTTPFlow, exchange: Exchange) -> Route:
    """By what the client has asked for, whatever became of it since."""
    return exchange.client_method, origin_of(flow), _without_secrets(exchange.client_path)


def _without_secrets(path: str) -> str:
    """`path` with a hash in the place of its query, which may hold a secret."""
    path, _, query = path.partition("?")
    return path + "?" + hashlib.sha256(query.encode("utf-8", "surrogateescape")).hexdigest() if query else path


def _redirected(flow: http.HTTPFlow, exchange: Exchange, response: http.Response) -> RequestIdentity:
    """What a client asks that follows a redirect (RFC 9110, section 15.4)."""
    location = response.headers.get("location", "").partition("#")[0]
    try:
        target = urlsplit(urljoin(exchange.client_path, location))
    except ValueError:
        target = urlsplit("")
    path = _without_secrets((target.path or "/") + (f"?{target.query}" if target.query else ""))
    if response.status_code in (307, 308) or exchange.client_method in ("GET", "HEAD"):
        return _identity((exchange.client_method, origin_of(flow), path), exchange)
    return RequestIdentity(("GET", origin_of(flow), path))


def _client_header(exchange: Exchange, name: bytes) -> str:
    values = [value for key, value in exchange.client_fields if key.lower() == name]
    return b", ".join(values).decode("utf-8", "surrogateescape")


def _identity(route: Route, exchange: Exchange) -> RequestIdentity:
    return RequestIdentity(route, exchange.client_body, _client_header(exchange, b"content-encoding"))


def _place(route: Route) -> Place:
    return route[0], route[1], route[2].partition("?")[0]


def _is_clear(flow: http.HTTPFlow) -> bool:
    """Whether the way to the upstream may be paid on; where not, the refusal waits for the challenge."""
    try:
        _check_way(flow)
    except Refused:
        return False
    return True


def _about_to_send(flow: http.HTTPFlow, purchase: PaidRequest) -> http.Response | None:
    """Just before a payment leaves: the upstream is still the right one, and the ledger knows."""
    try:
        _check_way(flow)
        purchase.sending()
        if purchase.sent:
            flow_metadata.became(flow, "sent")
    except X402Error as error:
        say(logging.WARNING, flow, "not sent: %s", error)
        flow_metadata.refused(flow, error_code(error))
        if purchase.sent:
            return answers.outcome_unknown(f"{error} An earlier try was sent.")
        return _refusal(error, purchase)
    except Exception as error:  # as above
        flow_metadata.refused(flow, "internal_error")
        return fault(error, purchase)
    return None


def refuse(flow: http.HTTPFlow, answer: http.Response, code: str = "internal_error", asked: str = "") -> None:
    """Answer in the place of the upstream."""
    flow.response = answer
    flow_metadata.refused(flow, code, asked)


def _why_unpaid(flow: http.HTTPFlow, exchange: Exchange) -> str:
    """Why the client gets the upstream's 402."""
    if exchange.secrets_sent:
        return "it rejects the payment that was sent"
    if exchange.unpaid:
        return exchange.unpaid
    if guard.pays_itself(flow.request):
        return "the client pays by itself"
    if not exchange.may_pay:
        return "the answer to such a request is not what is bought (x402_pay_methods)"
    return "it is longer than a challenge may be"


def _rejected(flow: http.HTTPFlow, purchase: PaidRequest, code: str) -> bool:
    """The payment was answered by a rejection with `code`. True: another one may be made; else the client hears why.

    Raises what `PaidRequest.rejected` does.
    """
    response, payment = flow.response, purchase.payment
    assert response is not None
    why = "" if payment is None else explain(code, payment.offer, payment.payer)
    flow_metadata.rejected(flow, why)
    challenge_text = functools.partial(challenge.challenge_text, response, answers.upstream_gateway(flow))
    if purchase.rejected(code, response.status_code, challenge_text):
        return True
    if payment is not None:
        answers.say_why(flow, payment, why)
    return False


def _refusal(error: X402Error, purchase: PaidRequest | None) -> http.Response:
    return answers.refusal(400, error_code(error), f"{error}{answers.paid_before(purchase)}")


def _note(flow: http.HTTPFlow, exchange: Exchange, purchase: PaidRequest) -> None:
    flow_metadata.sent_upstream(flow, exchange.legs)
    if purchase.state is not None:
        flow_metadata.became(flow, purchase.state, purchase.transaction)
    if purchase.payment is not None:
        flow_metadata.paid_by(flow, purchase.payment.row)
    exchange.forget()


def fault(error: Exception, purchase: PaidRequest | None = None) -> http.Response:
    """The answer for a fault of ours. The error's text may hold anything, so only its type is told."""
    name = type(error).__name__
    logger.error("x402: a fault of the addon: %s", name)
    paid = (
        "A payment was sent, its outcome is unknown." if purchase is not None and purchase.sent else "Nothing was paid."
    )
    message = f"mitmproxy-x402 failed ({name}). {paid}{answers.paid_before(purchase)}"
    return answers.refusal(500, "internal_error", message)


def names_authorities() -> bool:
    """Whether the user has named the authorities to believe for the upstream."""
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
    outdated = authorities.outdated(named=names_authorities())
    if outdated:
        raise Refused("outdated_authorities", f"Nothing was paid: {outdated} The proxy's log has the command.")
    if request.scheme != "https" or ctx.options.ssl_insecure:
        what = "without TLS" if request.scheme != "https" else "with certificates unverified (ssl_insecure)"
        raise Refused(
            "insecure_upstream",
            f"The upstream {request.host} is reached {what}, so anyone on the way could set the price. Nothing "
            "was paid. Use --mode reverse:https://... and leave ssl_insecure off.",
        )
