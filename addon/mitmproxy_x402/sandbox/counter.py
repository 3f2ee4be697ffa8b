"""Handles one request: asks a price, checks the payment, runs the work, settles."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from ..errors import PaymentHeaderError
from ..protocol import headers
from .answers import FREE
from .chains.interface import INVALID, Chain, Rejected
from .chains.permit2 import ALLOWANCE_REQUIRED
from .chains.rpc import chain_rpc
from .config import SandboxConfig
from .faults import Fault, FaultDesk, UnknownFault
from .jobs import Job, JobDesk, Poll, has_proof
from .media import media_route
from .payments.pricing import GIFT, PriceList, Quote, Rates, metered, quote
from .payments.till import LateSettlements, Ticket, Till
from .records import Kept, ReceivedPayment, ReceivedRequest
from .sending import WHOLE_FAILURES, break_off, cut_off, send, split
from .wire import Exchange, Pairs
from .work import Route, Work, error_work, find_route, json_work, plain_path

When = Literal["early", "late", "never"]
_HTML = b"<html><head><title>Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
_NO_CHALLENGE = b'{"error":"Payment required","message":"Top up your account at the front desk."}'
_REQUIRED = {"error": "Payment Required", "message": "This endpoint requires x402 payment"}


class Counter:
    """Serves requests, and writes new payments into `payments`."""

    def __init__(
        self, config: SandboxConfig, chains: Sequence[Chain], url: str, payments: Kept[ReceivedPayment]
    ) -> None:
        self._config = config
        self._chains = chains
        self._payments = payments
        self._desk = FaultDesk(config.fault)
        self._prices = PriceList(config, chains, url)
        self._till = Till(self._prices, config.x402_version)
        self._rates = Rates()
        self._jobs = JobDesk(config, url)
        self.late = LateSettlements(config.settle_late, config.clock)

    @property
    def rates(self) -> Rates:
        """The current prices."""
        return self._rates

    @rates.setter
    def rates(self, rates: Rates) -> None:
        self._rates = self._prices.rates = rates

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request. Raises ClientGone when the client left."""
        request = exchange.request
        self.late.settle_due()
        route = self._route(request)
        try:
            if route is None:
                await self._send(exchange, error_work("openai", 404, f"Nothing is sold at {request.path}."))
            elif isinstance(route, Poll):
                await self._poll(exchange, route)
            elif route.free or self._config.free or self.rates == GIFT:
                await self._free(exchange, route, self._desk.faults(request, "paid"))
            elif any(request.get(name) is not None for name in self._payment_headers()):
                await self._paid(exchange, route, self._desk.faults(request, "paid"))
            else:
                await self._unpaid(exchange, route, self._desk.faults(request, "unpaid"))
        except UnknownFault as error:
            await self._send(exchange, json_work({"error": {"type": error.code, "message": str(error)}}, 400))

    def _route(self, request: ReceivedRequest) -> Route | Poll | None:
        chain = self._chain_of(plain_path(request.path))
        if chain is not None:
            return Route(True, "openai", lambda _: chain_rpc(request.body, chain))
        return self._jobs.find_route(request) or media_route(request) or find_route(request)

    def _chain_of(self, path: str) -> Chain | None:
        """The chain whose RPC is at `path`: /v1/rpc/ and its name, or the gateway's /v1/solana/rpc."""
        if path == "/v1/solana/rpc":
            return next((one for one in self._chains if one.network.family == "svm"), None)
        return next((one for one in self._chains if path == f"/v1/rpc/{one.network.name}"), None)

    def _payment_headers(self) -> tuple[str, ...]:
        """Headers that payments are read from: that of the version; both, if the terms are in the body alone."""
        if self._config.x402_version == 2 and self._config.challenge_in == "body":
            return (headers.PAYMENT_SIGNATURE, headers.X_PAYMENT)
        return (headers.X_PAYMENT,) if self._config.x402_version == 1 else (headers.PAYMENT_SIGNATURE,)

    async def _free(self, exchange: Exchange, route: Route, faults: Mapping[str, Fault]) -> None:
        work = _failure(route, faults)
        if work is None:
            if await break_off(exchange, faults):
                return
            work = route.work(self._now())
        model = exchange.request.json.get("model") == FREE or FREE in exchange.request.path
        await self._send(exchange, work, [("X-Free-Model", "true")] if model else [], faults)

    async def _unpaid(self, exchange: Exchange, route: Route, faults: Mapping[str, Fault]) -> None:
        failure = _failure(route, faults)
        if failure is not None:
            await self._send(exchange, failure, faults=faults)
        elif not await break_off(exchange, faults):
            price = quote(exchange.request, self.rates)
            pairs, body = self._prices.challenge(exchange.request, price, _REQUIRED)
            await _challenge(exchange, pairs, body, faults)

    async def _paid(
        self, exchange: Exchange, route: Route, faults: Mapping[str, Fault], job: Job | None = None
    ) -> None:
        request = exchange.request
        price = quote(request, self.rates) if job is None else job.price
        try:
            ticket = self._admit(request, price, faults, () if job is None else (request.path, job.path))
        except Rejected as rejected:
            await self._reject(exchange, price, rejected, faults)
            return
        try:
            await self._work(exchange, route, ticket, price, faults)
        except Rejected as rejected:
            await self._reject(exchange, price, rejected, faults)
        finally:
            ticket.release()

    async def _poll(self, exchange: Exchange, poll: Poll) -> None:
        """A poll of a job: with a payment, with a proof of who asks, or bare."""
        request, job = exchange.request, self._jobs.job(poll)
        paid = any(request.get(name) is not None for name in self._payment_headers())
        faults = self._desk.faults(request, "paid" if paid else "unpaid")
        if job is None:
            await self._send(exchange, poll.no_such_job(), faults=faults)
        elif self._jobs.admits(job, request):
            await self._shown(exchange, job, faults)
        elif paid:
            await self._paid(exchange, job.route(request), faults, job)
        elif has_proof(request):
            await self._send(exchange, poll.no_such_job(), faults=faults)  # as if there were none
        else:
            await self._bill(exchange, job, _REQUIRED, faults)

    async def _shown(self, exchange: Exchange, job: Job, faults: Mapping[str, Fault]) -> None:
        failure = _failure(job.route(exchange.request), faults)
        if failure is None and await break_off(exchange, faults):
            return
        work = failure or job.show(self._now())
        if work is None:
            await self._bill(exchange, job, {**_REQUIRED, "status": "completed", "job_id": job.id}, faults)
        else:
            await self._send(exchange, work, faults=faults)

    async def _bill(self, exchange: Exchange, job: Job, error: Mapping[str, str], faults: Mapping[str, Fault]) -> None:
        pairs, body = self._prices.challenge(exchange.request, job.price, error)
        await _challenge(exchange, pairs, body, faults)

    async def _work(
        self, exchange: Exchange, route: Route, ticket: Ticket, price: Quote, faults: Mapping[str, Fault]
    ) -> None:
        """Run the work and settle. Raises Rejected: the money could not be moved, and nothing was answered yet."""
        timing = self._timing(ticket)
        work = _failure(route, faults) or self._made(route, ticket, timing)
        when = _when("after" if ticket.is_ceiling else timing, faults, work)
        failed = work.status >= 400 or any(name in faults for name in WHOLE_FAILURES)
        streamed = work.pieces is not None
        self._meter(ticket, price, len(work.body), faults)
        if when == "early" or (when == "late" and not failed and not streamed and not self.late.seconds):
            ticket.settle()
        if failed:
            ticket.release()
        if await break_off(exchange, faults):
            return
        silent = when == "never" or (failed and timing != "before")

        def close_books() -> None:
            if when == "late" and not failed and exchange.sent is not None:
                if streamed:
                    self._meter(ticket, price, exchange.sent.length, faults)
                if self.late.seconds:
                    self.late.add(ticket)
                else:
                    _settle_quietly(ticket)
            ticket.release()

        try:
            receipt = [] if silent else _receipt(ticket, faults)
            await self._send(exchange, work, receipt, faults, close_books)
        finally:
            close_books()  # a client that leaves pays for what it got

    def _meter(self, ticket: Ticket, price: Quote, sent: int, faults: Mapping[str, Fault]) -> None:
        ticket.meter(metered(price, self._rates, sent))
        if "charge" in faults and ticket.is_ceiling:
            ticket.charge = faults["charge"].number("units")

    def _made(self, route: Route, ticket: Ticket, timing: str) -> Work:
        return route.work(self._now()) if route.paid is None else route.paid(self._now(), ticket.record, timing)

    def _admit(
        self, request: ReceivedRequest, price: Quote, faults: Mapping[str, Fault], paths: Sequence[str]
    ) -> Ticket:
        """Check a payment. Raises Rejected."""
        if "reject" in faults:
            code = faults["reject"].text("code")
            raise Rejected(code, f"The payment was refused on demand ({code}).")
        try:
            payment = headers.read_payment(lambda name: request.get(name) if name in self._payment_headers() else None)
        except PaymentHeaderError as error:
            raise Rejected(INVALID, str(error)) from error
        assert payment is not None
        ticket, new = self._till.admit(payment, request, price, paths)
        if new:
            self._payments.append(ticket.record)
        return ticket

    async def _reject(self, exchange: Exchange, price: Quote, rejected: Rejected, faults: Mapping[str, Fault]) -> None:
        error = {"error": "Payment rejected", "message": str(rejected), "code": rejected.reason}
        pairs, body = self._prices.challenge(exchange.request, price, error)
        status = 402
        if "reject" in faults:
            status = faults["reject"].number("status")
            if faults["reject"].text("reason"):
                error["reason"] = faults["reject"].text("reason")
            if faults["reject"].text("challenge") == "no":
                pairs, body = [("Content-Type", "application/json")], json.dumps(error).encode()
        if rejected.reason == ALLOWANCE_REQUIRED and self._config.official:
            status = 412
        await self._send(exchange, Work(status, pairs, body), faults=faults)

    async def _send(
        self,
        exchange: Exchange,
        work: Work,
        pairs: Pairs = (),
        faults: Mapping[str, Fault] | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        await send(exchange, work, pairs, faults or {}, pace=self._config.chunk_seconds, on_end=on_end)

    def _timing(self, ticket: Ticket) -> str:
        if self._config.payment_flow == "upfront":
            return "before"
        if self._config.settle == "vendor":
            return "parallel" if ticket.family == "svm" else "after"
        return self._config.settle

    def _now(self) -> int:
        return int(self._config.clock())


def _failure(route: Route, faults: Mapping[str, Fault]) -> Work | None:
    """The answer that a fault gives instead of the work."""
    if "rate-limit" in faults:
        after = faults["rate-limit"].text("after")
        return error_work(route.vendor, 429, "The sandbox was told to be busy.", [("Retry-After", after)])
    if "error" in faults:
        return error_work(route.vendor, faults["error"].number("status"), "The sandbox was told to fail.")
    if "html" in faults:
        return Work(faults["html"].number("status"), [("Content-Type", "text/html; charset=utf-8")], _HTML)
    if "402-plain" in faults:
        return Work(402, [("Content-Type", "application/json")], _NO_CHALLENGE)
    if "redirect" in faults:
        return Work(faults["redirect"].number("status"), [("Location", faults["redirect"].text("to"))])
    return None


def _when(timing: str, faults: Mapping[str, Fault], work: Work) -> When:
    """When this request's money moves: before the work, after it, or not at all."""
    for fault in faults.values():
        said = fault.arguments.get("settle", "auto")
        if said != "auto":
            return "early" if said == "yes" else "never"
    if not work.charge:
        return "never"
    return "late" if timing == "after" else "early"


def _settle_quietly(ticket: Ticket) -> None:
    with suppress(Rejected):  # the stream is over: nobody is left to tell
        ticket.settle()


def _receipt(ticket: Ticket, faults: Mapping[str, Fault]) -> list[tuple[str, str]]:
    written = faults["receipt"].text("as") if "receipt" in faults else "transaction"
    receipt = ticket.receipt()
    name, value = headers.settlement_header(ticket.version, receipt)
    extra = [("X-Payment-Receipt", receipt.transaction)] if receipt.transaction else []
    if written == "none":
        return []
    if written == "header":
        return extra
    if written == "signature":
        said: dict[str, Any] = {"success": True, "signature": receipt.transaction, "network": receipt.network}
        value = base64.b64encode(json.dumps({**said, "payer": receipt.payer}).encode()).decode()
        return [(name, value)]
    return [(name, value), *extra]


async def _challenge(exchange: Exchange, pairs: Pairs, body: bytes, faults: Mapping[str, Fault]) -> None:
    """A 402, complete or in one of the broken forms that faults ask for."""
    if "402-empty" in faults:
        body = b""
    if "402-huge" in faults:
        size = faults["402-huge"].number("bytes")
        body = b'{"padding":"' + b"x" * size + b'",' + body[1:]
    if "402-cut" in faults:
        await exchange.head(402, [*pairs, ("Content-Length", str(len(body)))])
        await cut_off(exchange, body, chunked=False, reset=faults["402-cut"].text("how") == "reset")
        return
    chunked = "402-chunked" in faults or "402-split" in faults
    work = Work(402, pairs, body, iter([body]) if chunked else None)
    if "402-split" in faults:
        work = Work(402, pairs, b"", split([body], faults["402-split"].number("bytes")))
    also = dict(faults)
    if "402-close" in faults:
        also["close"] = faults["402-close"]
    await send(exchange, work, (), also)
