"""Connects mitmproxy's hooks with `payment`: when a flow is paid, what the client hears, what is recorded.

At each step of a flow it asks the flow's `Purchase` (or `Poll`) and applies the result to the flow. It has no rule
about money of its own.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http

from ..errors import Refused, X402Error, error_code
from ..forecast.quote import Place, read_question
from ..ledger.clock import Clock
from ..limits.request_model import read_model
from ..limits.whole_request import WholeRequest
from ..payment import challenge, jobs, polls
from ..payment.offer import Purpose
from ..payment.paid_request import PaidRequest
from ..payment.payer import CLIENT_LEFT, Payer
from ..payment.purchase import Purchase
from ..payment.reasons.rejections import explain
from ..payment.retained.identity import RequestIdentity, Route
from ..payment.retained.store import Retained, RetainedPayments
from ..proxy.exchange import Exchange, exchange_of, origin_of, upstream_of
from ..proxy.heads import header_index
from ..proxy.startup import authorities
from ..settings.settings import Settings
from ..settings.values import is_loopback
from ..views import flow_metadata
from . import answers, guard, service
from .completeness import Tail, expected, has_all
from .log_lines import printable, say

logger = logging.getLogger(__name__)

PARTIAL = 206
"""Partial Content: complete only if the client asked for a part."""

_retained = RetainedPayments(time.time, Clock().uptime)  # module level: survives a script that is reloaded
_jobs = jobs.Jobs(time.time)  # also survives a reload


def may_pay(request: http.Request, settings: Settings) -> bool:
    """Whether a 402 to `request` may be paid.

    Not if the client sent a payment of its own, nor if the answer is not what is bought (`x402_pay_methods`, websocket
    handshakes).
    """
    return (
        request.data.method.decode("ascii", "replace") in settings.pay_methods  # as it came: case matters
        and not guard.pays_itself(request)
        and "websocket" not in header_index.text(request.headers, b"upgrade").lower()  # also in a list, in quotes
    )


class PaymentDesk:
    """Handles the payments of all flows of one addon.

    `is_over` says whether mitmproxy is ending: then nothing is paid or recorded any more.
    """

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.payer: Payer | None = None
        self.retained: Retained = _retained
        self._is_over = is_over
        self._purchases: WeakKeyDictionary[http.HTTPFlow, PaidRequest] = WeakKeyDictionary()

    def use(self, payer: Payer, retained: Retained | None) -> None:
        """Pay with `payer` from now on. Without `retained`, payments are retained in this process only."""
        if self.payer is not None:
            self.payer.outcomes.flush()
        self.payer, self.retained = payer, retained or _retained

    # Before a payment.

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Prepare a complete request: add a payment to its first leg if there is one to send at once.

        That is the retained payment of an equal request, else one for a predicted challenge; and for the poll of a job,
        the job's payment or proof. Returns an awaitable if there is something to wait for; usually None.
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
            return self._start_later(flow, exchange, payer, identity)
        self._start(flow, exchange, payer, identity, known=known, foretold=foretold)
        purchase = self._purchases.get(flow)
        return self._wait(exchange, purchase) if isinstance(purchase, Purchase) and purchase.waits else None

    async def _wait(self, exchange: Exchange, purchase: Purchase) -> None:
        """Wait until a payment that goes ahead of its challenge is safe in the ledger; without that it does not go."""
        await purchase.durable()
        if purchase.payment is None:
            exchange.secret_headers, exchange.about_to_send = (), None

    async def _start_later(
        self, flow: http.HTTPFlow, exchange: Exchange, payer: Payer, identity: RequestIdentity
    ) -> None:
        await self.retained.settle(identity)
        await payer.read_whole(self._purchase(flow, payer, identity).purpose)
        # Nothing is signed ahead after a wait, in which the client may have left.
        self._start(flow, exchange, payer, identity, known=True, foretold=False)
        if isinstance(purchase := self._purchases.get(flow), Purchase):
            await self._wait(exchange, purchase)

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
            if (known and purchase.reuse_retained()) or (foretold and self._pays_ahead(flow, purchase)):
                self._carry(flow, exchange, purchase)
        except X402Error as error:
            refuse(flow, _refusal(error, purchase), error_code(error))
        except Exception as error:  # without its payment the request would be paid again
            refuse(flow, answers.fault(error, purchase))

    def _pays_ahead(self, flow: http.HTTPFlow, purchase: PaidRequest) -> bool:
        """Whether the first leg carries a payment: a retained one, or one for a predicted challenge."""
        if not _is_clear(flow):
            return False
        keys = self._keys(purchase)
        if any(not key.is_ready for key in keys):
            return False
        return (bool(keys) and purchase.reuse_retained(*keys)) or purchase.predict()

    def is_poll(self, request: http.Request) -> bool:
        """Whether `request` polls a job."""
        return self.payer is not None and _jobs.polled(request, self.payer.ledger.name) is not None

    def _purchase(self, flow: http.HTTPFlow, payer: Payer, identity: RequestIdentity) -> PaidRequest:
        purchase = self._purchases.get(flow)
        if purchase is None:
            request = flow.request
            said = functools.partial(header_index.text, request.headers)
            body = request.raw_content or b""
            path = printable(request.path.partition("?")[0])
            model = read_model(path, body, said(b"content-type"))
            client = answers.client_name(said(b"user-agent"), flow.client_conn.peername)
            several = [header_index.get_all(request.headers, name) for name in (b"content-type", b"content-encoding")]
            whole = WholeRequest(request.path, body, *several)
            purpose = Purpose(printable(request.method), request.host, path, model, client, whole)
            question = read_question(_place(identity.route), model, body) if payer.forecast is not None else None
            purchase = polls.poll_of(request, payer, _jobs) or Purchase(
                payer, self.retained, purpose, identity, question, client=answers.machine(flow.client_conn.peername)
            )
            self._purchases[flow] = purchase
        return purchase

    async def _takes_over(self, purchase: PaidRequest) -> bool:
        """Take over a payment that was retained since this request began, by another proxy, or before a redirect to it.

        Returns whether there was one. Raises what `reuse_retained` does.
        """
        keys = self._keys(purchase)
        if not keys:
            return False
        assert self.payer is not None
        for key in keys:
            await self.retained.settle(key)
        await self.payer.read_whole(purchase.purpose)
        return purchase.reuse_retained(*keys)

    def _keys(self, purchase: PaidRequest) -> list[RequestIdentity]:
        """The identities under which a payment for this challenged request may be retained; empty: there is none."""
        assert self.payer is not None
        if self.payer.settings.dry_run or not purchase.is_new or not isinstance(purchase, Purchase):
            return []
        own, follows = purchase.identity, purchase.follows
        if self.retained.may_be_retained_elsewhere(own.route, follows.route):
            return [own, follows]
        # Its own, too: over HTTP/2 a repetition can arrive together with the end of the request that it repeats.
        return [key for key in (own, follows) if self.retained.expects(key.route)]

    def _carry(self, flow: http.HTTPFlow, exchange: Exchange, purchase: PaidRequest) -> None:
        """Make the next leg carry the purchase's payment, or a poll's proof."""
        exchange.secret_headers = purchase.headers()
        exchange.about_to_send = functools.partial(_about_to_send, flow, purchase)
        exchange.waits = (lambda: purchase.waits) if isinstance(purchase, Purchase) else None
        if purchase.payment is not None:
            flow_metadata.offered(flow, purchase.payment.offer)

    # A challenge.

    def challenge(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Handle a 402 that is held back. Returns an awaitable if there is something to wait for; usually None."""
        answering = self._answer(flow)
        if sys.version_info < (3, 12):
            return answering
        task = asyncio.Task(answering, loop=asyncio.get_running_loop(), eager_start=True)
        return None if task.done() else task

    async def _answer(self, flow: http.HTTPFlow) -> None:
        """Pay or refuse a 402; leave it alone if it is not a challenge, or the gateway's final answer. Never raises."""
        exchange, payer = exchange_of(flow), self.payer
        if exchange is None or flow.response is None or payer is None:
            return
        if self._is_over():
            if not exchange.secrets_sent:
                service.turn_away(flow)
            return  # once a payment was sent, the client gets the gateway's answer
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
                new = purchase.payment is None and not await self._takes_over(purchase)
                if new or purchase.ahead:
                    await purchase.buy(required, challenge_text, exchange.is_cancelled)
            elif not exchange.secrets_sent:
                exchange.unpaid = challenge.why_none(flow.response) or "it is not a challenge"
                return
            self._carry(flow, exchange, purchase)
            exchange.resend = True  # if the rejection had no new challenge, without a payment: to get one
        except X402Error as error:
            if error_code(error) != CLIENT_LEFT:  # then the error hook ends it, and nobody is there to hear anything
                say(logging.WARNING, flow, "not paid: %s", error)
                refuse(flow, _refusal(error, purchase), error_code(error), getattr(error, "asked", ""))
        except Exception as error:  # a fault of ours must not lose the flow
            refuse(flow, answers.fault(error, purchase))

    def leaving(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Wait until the payment that leaves is safe in the ledger; if it never is, `_about_to_send` refuses it."""
        purchase = self._purchases.get(flow)
        return purchase.durable() if isinstance(purchase, Purchase) else None

    # After a payment.

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Retain the payment of a failed answer before the client sees it; watch the end of any other answer."""
        exchange, purchase, response = exchange_of(flow), self._purchases.get(flow), flow.response
        if exchange is not None and response is not None and response.status_code == 402:
            say(logging.INFO, flow, "passed a 402 on unpaid: %s", _why_unpaid(flow, exchange))
        if exchange is None or response is None or purchase is None or self._is_over():
            return
        if 300 <= response.status_code < 400 and "location" in response.headers and isinstance(purchase, Purchase):
            purchase.redirected()
        purchase.answered(response.status_code, lambda: answers.acknowledges(response, answers.upstream_gateway(flow)))
        answers.watch_for_job(flow, purchase, _jobs)
        if response.raw_content is None and 200 <= response.status_code < 300:  # streamed, and not failed yet
            get = functools.partial(header_index.text, response.headers)
            get_ours = functools.partial(_client_header, exchange)
            kind, accepted = get_ours(b"content-type"), get_ours(b"accept")
            wanted = expected(exchange.client_path, exchange.client_body, kind, accepted)
            if response.status_code != PARTIAL or get_ours(b"range"):
                exchange.watch = Tail(get(b"content-type"), get(b"content-encoding"), wanted)

    def response(self, flow: http.HTTPFlow) -> None:
        """Record the outcome of the payment."""
        purchase = self._purchases.pop(flow, None)
        exchange = exchange_of(flow)
        if purchase is not None and exchange is not None and not self._is_over():
            purchase.finish(answers.outcome(flow, exchange, purchase.payment), complete=has_all(exchange))
            _note(flow, exchange, purchase)

    def error(self, flow: http.HTTPFlow) -> None:
        """Record the outcome of the payment, and tell the client in JSON whether money may have moved."""
        exchange = exchange_of(flow)
        purchase = self._purchases.pop(flow, None)
        if exchange is None or flow.error is None:
            return
        exchange.error_answer = answers.upstream_error(flow, exchange, purchase)
        if purchase is not None and not self._is_over():
            complete = exchange.client_left and has_all(exchange)
            purchase.finish(answers.outcome(flow, exchange, purchase.payment), complete=complete)
            _note(flow, exchange, purchase)

    def close(self) -> None:
        """End all payments: sent ones become `unknown`, unsent ones are released."""
        for flow, purchase in list(self._purchases.items()):
            exchange = exchange_of(flow)
            if exchange is not None:
                purchase.finish(answers.outcome(flow, exchange, purchase.payment), complete=False)
                _note(flow, exchange, purchase)
        if self.payer is not None:
            self.payer.outcomes.flush()
            self.payer.close()


def _route(flow: http.HTTPFlow, exchange: Exchange) -> Route:
    """Method, origin and path of the request as the client sent it, before any addon changed it."""
    return exchange.client_method, origin_of(flow), _without_secrets(exchange.client_path)


def _without_secrets(path: str) -> str:
    """`path` with its query, which may hold a secret, replaced by a hash."""
    path, _, query = path.partition("?")
    return path + "?" + hashlib.sha256(query.encode("utf-8", "surrogateescape")).hexdigest() if query else path


def _client_header(exchange: Exchange, name: bytes) -> str:
    values = [value for key, value in exchange.client_fields if key.lower() == name]
    return b", ".join(values).decode("utf-8", "surrogateescape")


def _identity(route: Route, exchange: Exchange) -> RequestIdentity:
    return RequestIdentity(route, exchange.client_body, _client_header(exchange, b"content-encoding"))


def _place(route: Route) -> Place:
    return route[0], route[1], route[2].partition("?")[0]


def _is_clear(flow: http.HTTPFlow) -> bool:
    """Whether payments may be sent on this connection; if not, the refusal is given when a challenge comes."""
    try:
        _check_way(flow)
    except Refused:
        return False
    return True


def _about_to_send(flow: http.HTTPFlow, purchase: PaidRequest) -> http.Response | None:
    """Check the upstream again and update the ledger, just before a payment is sent."""
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
    except Exception as error:  # a fault of ours must not lose the flow
        flow_metadata.refused(flow, "internal_error")
        return answers.fault(error, purchase)
    return None


def refuse(flow: http.HTTPFlow, answer: http.Response, code: str = "internal_error", asked: str = "") -> None:
    """Give the client `answer` instead of the upstream's."""
    flow.response = answer
    flow_metadata.refused(flow, code, asked)


def _why_unpaid(flow: http.HTTPFlow, exchange: Exchange) -> str:
    """The reason, for the log, why the client gets the upstream's 402."""
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
    """Handle the rejection of a payment with `code`. Returns whether another payment may be made.

    If not, the reason is written into the client's answer. Raises what `PaidRequest.rejected` does.
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


def names_authorities() -> bool:
    """Whether the user has configured certificate authorities for the upstream."""
    return bool(ctx.options.ssl_verify_upstream_trusted_ca or ctx.options.ssl_verify_upstream_trusted_confdir)


def _check_way(flow: http.HTTPFlow) -> None:
    """Check that the request goes to the upstream host over verified TLS; `map_remote` may have redirected it.

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
