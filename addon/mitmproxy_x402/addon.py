"""The hooks: wires the rooms together and owns no rule."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from . import challenge, guard, handshake, hosting, wallet
from .errors import Refused, X402Error, error_body, error_code
from .handshake import Exchange
from .payer import Payer, Payment, find_wallets
from .protocol.headers import read_settlement
from .settings import OPTIONS, format_usd, is_loopback, read_settings, unknown_options

logger = logging.getLogger(__name__)

NO_RETRY = (b"x-should-retry", b"false")
"""Both SDKs read it: a refusal will be a refusal again, and a payment whose outcome is unknown must not be repeated."""


class X402Addon:
    """Pays the challenges of the reverse-proxied upstream on behalf of the clients."""

    name = "x402"

    def __init__(self) -> None:
        self.payer: Payer | None = None
        self._broken = "the x402 addon is not configured yet"
        self._running = False
        self._unusable: list[str] = []
        self._improved: dict[str, object] = {}
        self._moving: asyncio.Task[None] | None = None
        self._payments: WeakKeyDictionary[http.HTTPFlow, Payment] = WeakKeyDictionary()

    # Starting.

    def load(self, loader: Loader) -> None:
        """Declare the options, and repair mitmproxy's defaults before the port opens."""
        for option in OPTIONS:
            loader.add_option(option.name, str, option.default, option.help)
        handshake.self_check()
        self._unusable = hosting.take_unusable(ctx.options, {option.name for option in OPTIONS})
        self._improved = hosting.improve(ctx.options, sys.argv[1:])

    def configure(self, updated: Iterable[str]) -> None:
        """Build everything that the options decide, then swap it in whole, or refuse and keep what was."""
        if not any(option.name in updated for option in OPTIONS):
            return
        try:
            self.payer = self._build()
            self._broken = ""
        except X402Error as error:
            if self._running and self.payer is not None:
                raise exceptions.OptionsError(str(error)) from None
            # Logged and not raised: mitmproxy ends a start in which an error was logged, and prints this one line.
            self._broken = str(error)
            logger.error("x402: %s", error)

    def _build(self) -> Payer:
        options = {option.name: cast(str, getattr(ctx.options, option.name)) for option in OPTIONS}
        settings = read_settings(options, os.environ, cwd=Path.cwd(), home=Path.home())
        return Payer(settings, find_wallets(settings, os.environ, Path.home()))

    def running(self) -> None:
        """Complain of mistyped options, or say who pays what, and warm up what the first payment needs."""
        self._running = True
        mistaken = " ".join(filter(None, [*self._unusable, unknown_options(ctx.options.deferred)]))
        if mistaken:
            self._broken = mistaken
            logger.error("x402: %s", mistaken)
        if self.payer is None or self._broken:
            return
        for warning in (*self.payer.settings.warnings, *self.payer.wallets.warnings):
            logger.warning("x402: %s", warning)
        for line in self._announcement(self.payer):
            logger.info("x402: %s", line)
        threading.Thread(target=wallet.warm_up, name="x402 warm-up", daemon=True).start()
        listening = ctx.master.addons.get("proxyserver").listen_addrs
        if "listen_host" in self._improved and hosting.beyond_loopback(listening()):
            self._moving = asyncio.get_running_loop().create_task(hosting.move_to(ctx.options, listening))

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
                "no wallet: free answers pass, every challenge is refused (BLOCKRUN_WALLET_KEY, SOLANA_WALLET_KEY)"
            )
        lines.append(f"at most {format_usd(settings.max_request)} USDC a request (x402_max_request)")
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
        handshake.install(next_layer, ctx.master.addons.get("nextlayer").next_layer)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Ask the guard, take the client's credentials off, and keep the body replayable."""
        exchange = handshake.exchange_of(flow)
        if exchange is None:
            return
        flow.request.stream = False
        if self.payer is None or self._broken:
            flow.response = _refusal(503, "x402_not_ready", f"The x402 proxy is not ready: {self._broken}")
            return
        peer = flow.client_conn.peername[0] if flow.client_conn.peername else ""
        denial = guard.examine(flow.request, peer, exchange.client_host, self.payer.settings)
        if denial is not None:
            logger.warning("x402: refused %s %s: %s", flow.request.method, peer, denial.code)
            flow.response = _refusal(denial.status, denial.code, denial.message)
            return
        exchange.may_pay = not guard.pays_itself(flow.request)
        guard.strip_credentials(flow.request, self.payer.settings)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream every answer of the upstream."""
        if handshake.exchange_of(flow) is not None and flow.response is not None:
            flow.response.stream = True

    async def x402_challenge(self, flow: http.HTTPFlow) -> None:
        """Answer a 402: with a payment, with a refusal, or not at all when it is no challenge or answers a payment."""
        exchange = handshake.exchange_of(flow)
        if exchange is None or flow.response is None or self.payer is None or flow in self._payments:
            return
        try:
            required = challenge.read(flow.response)
            if required is None:
                return
            _check_way(flow)
            payment = await self.payer.pay(required)
        except X402Error as error:
            logger.warning("x402: not paid: %s", error)
            flow.response = _refusal(400, error_code(error), str(error))
            return
        except (
            Exception
        ) as error:  # a flow is never lost to a fault of ours; its text may hold anything, so only its type
            logger.error("x402: not paid, a fault of the addon: %s", type(error).__name__)
            flow.response = _refusal(
                500, "internal_error", f"mitmproxy-x402 failed ({type(error).__name__}). Nothing was paid."
            )
            return
        self._payments[flow] = payment
        name, value = payment.header
        exchange.secret_headers = ((name.encode(), value.encode()),)
        exchange.resend = True

    def response(self, flow: http.HTTPFlow) -> None:
        """Say what became of a payment."""
        payment = self._payments.pop(flow, None)
        if payment is not None and flow.response is not None:
            headers = flow.response.headers
            receipt = read_settlement(headers.get)
            if receipt is not None and receipt.success and receipt.transaction:
                state = f"settled {receipt.transaction}"
            elif flow.response.status_code == 402:
                state = "rejected by the gateway"
            else:
                state = "sent, no transaction id"
            logger.info("x402: paid %s to %s: %s", payment.offer, payment.offer.requirement.pay_to, state)

    def error(self, flow: http.HTTPFlow) -> None:
        """Give the client JSON that says whether money may have moved."""
        exchange = handshake.exchange_of(flow)
        payment = self._payments.pop(flow, None)
        if exchange is None or flow.error is None:
            return
        exchange.error_answer = _upstream_error(flow, exchange, payment)
        if payment is not None and exchange.secrets_sent:
            logger.warning("x402: paid %s, outcome unknown: %s", payment.offer, flow.error.msg)


def _refusal(status: int, code: str, message: str) -> http.Response:
    """An answer of our own: nothing was paid, and asking again changes nothing (design, what the client gets)."""
    headers = [(b"content-type", b"application/json"), NO_RETRY]
    return http.Response.make(status, error_body("x402_refused", code, message), headers)


def _check_way(flow: http.HTTPFlow) -> None:
    """Pay only the host that the proxy reverses to, over verified TLS; map_remote and others may have changed it since.

    Raises Refused: `insecure_upstream`, `upstream_changed` or `insecure_log`.
    """
    if ctx.options.proxy_debug:
        raise Refused(
            "insecure_log",
            "mitmproxy runs with proxy_debug, which prints every byte sent, signed payments included. Nothing was "
            "paid. Start it without proxy_debug.",
        )
    request = flow.request
    upstream = handshake.upstream_of(flow)
    if (request.host, request.port) != upstream:
        raise Refused(
            "upstream_changed",
            f"The request was redirected from {upstream[0]} to {request.host} within mitmproxy, and payments go to "
            "the host of --mode reverse: only. Nothing was paid. Name that host in --mode instead.",
        )
    if is_loopback(request.host):
        return
    if request.scheme != "https" or ctx.options.ssl_insecure:
        what = "without TLS" if request.scheme != "https" else "with certificates unverified (ssl_insecure)"
        raise Refused(
            "insecure_upstream",
            f"The upstream {request.host} is reached {what}, so anyone on the way could set the price. Nothing "
            "was paid. Use --mode reverse:https://... and leave ssl_insecure off.",
        )


def _upstream_error(
    flow: http.HTTPFlow, exchange: Exchange, payment: Payment | None
) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """Body and headers of the error that the client gets when the upstream failed."""
    assert flow.error is not None
    where = f"{flow.request.host}:{flow.request.port}"
    if payment is not None and exchange.secrets_sent:
        message = (
            f"The upstream {where} broke off after a payment of {payment.offer} was sent ({flow.error.msg:.200}). "
            f"Whether it was settled is unknown; its reference is {payment.reference}. It was not paid again."
        )
        return error_body("upstream_error", "payment_outcome_unknown", message), (NO_RETRY,)
    message = f"The upstream {where} could not answer: {flow.error.msg:.200}. Nothing was paid."
    return error_body("upstream_error", "upstream_failed", message), ()
