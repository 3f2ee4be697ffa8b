"""Makes the addon's own answers, and reads what an upstream's answer says for the ledger."""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import time

from mitmproxy import http

from ..errors import error_body
from ..gateways import Gateway, gateway_of
from ..ledger.interface import Outcome
from ..machine.program import program
from ..payment import jobs, polls
from ..payment.challenge import decoded
from ..payment.paid_request import PaidRequest
from ..payment.purchase import Purchase
from ..payment.reasons.receipts import contradictions
from ..payment.reasons.rejections import says_nothing
from ..payment.signing.payment import Payment
from ..protocol.headers import read_settlement
from ..proxy.body_observers import tap
from ..proxy.exchange import Exchange, upstream_of
from ..proxy.heads import header_index
from ..settings.values import is_loopback
from ..views import flow_metadata
from .log_lines import printable, say

logger = logging.getLogger(__name__)

JSON = (b"content-type", b"application/json")
NO_RETRY = (b"x-should-retry", b"false")
"""Tells the SDKs of OpenAI and Anthropic not to retry: the same request would be refused again."""
REQUEST_IDS = ("x-request-id", "request-id", "x-amzn-requestid", "cf-ray")


def refusal(status: int, code: str, message: str) -> http.Response:
    """Make the answer to a request that is not paid. Clients are told not to retry."""
    return http.Response.make(status, error_body("x402_refused", code, message), [JSON, NO_RETRY])


def body_too_large(flow: http.HTTPFlow, limit: int) -> http.Response:
    """The answer to a request whose body is too long to be kept for sending it twice."""
    say(logging.WARNING, flow, "refused: its body is longer than %d bytes", limit)
    message = (
        f"The request's body is longer than {limit} bytes, which the proxy keeps because it may have to send it twice. "
        "Nothing was paid. Start the proxy with a higher x402_max_body."
    )
    flow_metadata.refused(flow, "request_too_large")
    return refusal(413, "request_too_large", message)


def say_why(flow: http.HTTPFlow, payment: Payment, why: str) -> None:
    """Write the reason into the body of a rejection of `payment` that has none: official sellers send `{}`.

    SDKs show nothing but the body. Status and headers stay the gateway's.
    """
    response = flow.response
    assert response is not None
    coding = response.headers.get("content-encoding")
    if coding not in (None, "", "identity") or not says_nothing(response.raw_content or b""):
        return
    message = f"The gateway did not take the payment of {payment.offer}: {why or 'it gives no reason'}."
    body = error_body("upstream_error", "payment_rejected", f"{message} It was not paid again.")
    kept = [(name, value) for name, value in response.headers.fields if name.lower() not in _FRAMING]
    flow.response = http.Response.make(response.status_code, body, [*kept, JSON, NO_RETRY])


_FRAMING = frozenset({b"content-type", b"content-length", b"transfer-encoding", b"trailer", b"x-should-retry"})


def fault(error: Exception, purchase: PaidRequest | None = None) -> http.Response:
    """The answer after a fault of ours. Names only the type of `error`: its text may hold a secret."""
    name = type(error).__name__
    logger.error("x402: a fault of the addon: %s", name)
    paid = (
        "A payment was sent, its outcome is unknown." if purchase is not None and purchase.sent else "Nothing was paid."
    )
    message = f"mitmproxy-x402 failed ({name}). {paid}{paid_before(purchase)}"
    return refusal(500, "internal_error", message)


def outcome_unknown(message: str) -> http.Response:
    """Make the answer to a request whose payment was sent and not answered. A retry sends the same payment."""
    return http.Response.make(502, _unknown(message), [JSON])


def _unknown(message: str) -> bytes:
    return error_body("upstream_error", "payment_outcome_unknown", message)


def upstream_error(flow: http.HTTPFlow, exchange: Exchange, purchase: PaidRequest | None) -> bytes:
    """The body of the error that the client gets when the upstream failed.

    A retry of the same request sends the same payment.
    """
    assert flow.error is not None
    where = f"{flow.request.host}:{flow.request.port}"
    if purchase is not None and purchase.payment is not None and purchase.sent:
        payment = purchase.payment
        message = (
            f"The upstream {where} broke off after a payment of {payment.offer} was sent ({flow.error.msg:.200}). "
            f"Whether it was settled is unknown; its reference is {payment.reference}. It was not paid again: the same "
            "request, sent again soon, carries the same payment, which can be settled once."
        )
        return _unknown(message)
    if purchase is None and exchange.secrets_sent:
        return _unknown(
            f"The upstream {where} broke off after a payment was sent ({flow.error.msg:.200}), and the x402 addon was "
            "loaded again in between. Whether it was settled is unknown; x402.payments shows it."
        )
    if not flow.request.host:  # mitmproxy has found it invalid before it chose an upstream
        message = f"The request's head cannot be passed on: {flow.error.msg:.200}. Nothing was paid."
        return error_body("x402_refused", "request_head_invalid", message)
    unreached = _unreached(flow.error.msg)
    what = f"could not be reached: {unreached}" if unreached else f"could not answer: {flow.error.msg:.200}"
    look = f" See {program()} check." if unreached else ""
    message = f"The upstream {where} {what}. Nothing was paid.{paid_before(purchase)}{look}"
    return error_body("upstream_error", "upstream_failed", message)


_NO_CONNECTION = frozenset({errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT})


def _unreached(message: str) -> str:
    """Why there was no connection, in words, from mitmproxy's message; empty if there was one, or nobody knows."""
    codes = dict.fromkeys(map(int, _ERRNO.findall(message)))  # one for each address that was tried
    if not codes:
        return ""
    if all(code < 0 for code in codes):
        return "its name cannot be looked up"
    known = [os.strerror(code).lower() for code in codes if code in _NO_CONNECTION]
    return ", ".join(known) if len(known) == len(codes) and "onnect call failed" in message else ""


_ERRNO = re.compile(r"\[Errno (-?[0-9]{1,5})\]")


def paid_before(purchase: PaidRequest | None) -> str:
    """The end of a refusal's message: payments for this request that were, or still may be, settled."""
    sentences = ""
    if purchase is not None and purchase.rejected_before:
        earlier = ", ".join(map(_named, purchase.rejected_before))
        sentences = (
            f" Before that, a payment of {earlier} was sent, and the gateway said that it did not take it. It counts "
            "against the budget until nobody can submit it any more."
        )
    if purchase is not None and purchase.spent:
        earlier = ", ".join(_named(payment) for payment in purchase.spent)
        sentences += f" Before that, this request was paid {earlier}, without a complete answer."
    return sentences


def _named(payment: Payment) -> str:
    return f"{payment.offer} (reference {payment.reference})"


def outcome(flow: http.HTTPFlow, exchange: Exchange, payment: Payment | None = None) -> Outcome:
    """The payment's outcome as the answer reports it: only a transaction id counts as settled.

    For a ceiling (`upto`) the answer also says how much was charged. A charge of zero without a transaction is no
    proof: the signature has not been used up.
    """
    response = flow.response
    begun = flow.request.timestamp_start
    if response is None:
        return Outcome("unknown", total=time.time() - begun)
    get = functools.partial(header_index.get, response.headers)
    receipt = read_settlement(get, upstream_gateway(flow).receipt_header)
    offer = None if payment is None else payment.offer
    if receipt is not None and payment is not None:
        for contradiction in contradictions(receipt, payment.offer, payment.payer):
            say(logging.WARNING, flow, "the receipt contradicts the payment: %s", contradiction)
    named = "" if receipt is None or not receipt.success else receipt.transaction
    if receipt is not None and receipt.success and offer is not None and offer.method == "gateway":
        named = named or receipt.transfer
    charged = None
    if receipt is not None and receipt.success and offer is not None and offer.is_ceiling:
        charged = receipt.amount if receipt.amount is not None and receipt.amount <= offer.requirement.amount else None
    free = charged == 0 and not named
    return Outcome(
        "settled" if named else "rejected" if free else "unknown",
        transaction=named,
        code="charged_nothing" if free else "",
        charged=charged,
        charged_micro_usd=None if charged is None or offer is None else offer.asset.micro_usd(charged),
        status=response.status_code,
        request_id=printable(next((said for said in map(get, REQUEST_IDS) if said is not None), "")),
        first_byte=None if response.timestamp_start is None else response.timestamp_start - begun,
        total=(response.timestamp_end or time.time()) - begun,
        size=exchange.received,
    )


def upstream_gateway(flow: http.HTTPFlow) -> Gateway:
    """The `Gateway` of the flow's upstream host."""
    return gateway_of(upstream_of(flow)[0])


def acknowledges(response: http.Response, gateway: Gateway) -> bool:
    """Whether `response` acknowledges a payment, rather than a free answer."""
    get = functools.partial(header_index.get, response.headers)
    return get("x-free-model") is None and read_settlement(get, gateway.receipt_header) is not None


def machine(peer: tuple[str, int] | tuple[str, int, int, int] | None) -> str:
    """The client's machine; this one by a name of its own, since a client may reach it by several addresses."""
    if peer is None:
        return ""
    return "this machine" if is_loopback(peer[0]) else peer[0]


_VERSION = re.compile(r"/v?[0-9][^/]*$")
MAX_NAME = 80


def client_name(user_agent: str, peer: tuple[str, int] | tuple[str, int, int, int] | None) -> str:
    """The client's name for the ledger: its program without the version, and its address if on another machine."""
    first = _VERSION.sub("", user_agent[:400].split(" ", 1)[0])[:MAX_NAME]
    where = f"{first} @ {peer[0]}" if peer is not None and not is_loopback(peer[0]) else first
    return printable(where.strip())


ACCEPTED = 202


def watch_for_job(flow: http.HTTPFlow, purchase: PaidRequest, known: jobs.Jobs) -> None:
    """Record the job of a paid request that is answered 202, before the client can poll it.

    Called from `responseheaders`.
    """
    response, payment = flow.response, purchase.payment
    assert response is not None
    if response.status_code != ACCEPTED or not isinstance(purchase, Purchase) or payment is None or not purchase.sent:
        return
    coding, location = response.headers.get("content-encoding"), response.headers.get("location")

    def done(body: bytes) -> None:
        where = jobs.promised(flow.request, location, decoded(body, coding))
        if where is not None:
            polls.remember(where, purchase, payment, known)

    tap(flow, jobs.Promise(response.headers.get("content-length"), done))
