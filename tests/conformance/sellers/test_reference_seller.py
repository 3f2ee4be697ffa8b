"""Sellers built with the reference package are payable through the proxy, and their money arrives on a local chain.

The package's own middleware for FastAPI and Flask, its resource server and its facilitator, over the chains of
chains.py. Version 2 only: the package has no seller for version 1.
"""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import fastapi
import flask
import pytest
import uvicorn
from solders.keypair import Keypair
from werkzeug.serving import make_server
from x402.facilitator import x402Facilitator, x402FacilitatorSync
from x402.http.middleware.fastapi import payment_middleware
from x402.http.middleware.flask import PaymentMiddleware
from x402.http.types import PaymentOption, RouteConfig
from x402.http.utils import decode_payment_response_header
from x402.mechanisms.evm.exact import ExactEvmFacilitatorScheme, ExactEvmServerScheme
from x402.mechanisms.svm.exact import ExactSvmFacilitatorScheme, ExactSvmServerScheme
from x402.server import x402ResourceServer, x402ResourceServerSync

from mitmproxy_x402.protocol.networks import BUILT_IN, Network
from support.chains.local_chains import EvmChain, SvmChain
from support.proxy import EVM_ADDRESS, EVM_KEY, SVM_SEED, Proxy, svm_key
from support.wire import Message, Peer, Upstream, request

EVM_PRICE, SVM_PRICE = 13_081, 11_961
EVM_PAY_TO, SVM_PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf", str(Keypair.from_seed(b"\x02" * 32).pubkey())
SVM_ADDRESS = str(Keypair.from_seed(SVM_SEED).pubkey())
PURSE = 10**6
PATHS = ("/evm", "/svm", "/both", "/fails")


def network(name: str) -> Network:
    found = BUILT_IN.get(name)
    assert found
    return found


class Market:
    """Both chains, with funded buyers, and what a seller needs of them."""

    def __init__(self) -> None:
        self.evm, self.svm = EvmChain(network("base-sepolia")), SvmChain(network("solana-devnet"))
        self.evm.fund(EVM_ADDRESS, PURSE)
        self.svm.fund(SVM_ADDRESS, PURSE)
        self.svm.fund(SVM_PAY_TO, 0)
        self.worked: list[tuple[str, bytes]] = []
        """Path and body of every request that a handler has served."""

    @property
    def routes(self) -> dict[str, RouteConfig]:
        evm = PaymentOption("exact", EVM_PAY_TO, "$0.013081", self.evm.network.caip2)
        svm = PaymentOption("exact", SVM_PAY_TO, "$0.011961", self.svm.network.caip2)
        said = {"description": "Grüße", "mime_type": "application/json"}
        return {
            "POST /evm": RouteConfig(evm, **said),
            "POST /svm": RouteConfig(svm, **said),
            "POST /both": RouteConfig([evm, svm], **said),
            "POST /fails": RouteConfig(evm, **said),
        }

    def register(self, facilitator: Any, server: Callable[[Any], Any]) -> Any:
        """A resource server of the reference package, its facilitator in this process."""
        evm, svm = self.evm.network.caip2, self.svm.network.caip2
        facilitator.register([evm], ExactEvmFacilitatorScheme(self.evm.facilitator))
        facilitator.register([svm], ExactSvmFacilitatorScheme(self.svm.facilitator))
        return server(facilitator).register(evm, ExactEvmServerScheme()).register(svm, ExactSvmServerScheme())

    def work(self, path: str, body: bytes) -> tuple[bytes, int]:
        self.worked.append((path, body))
        return b"You said " + body, 500 if path == "/fails" else 200

    def balances(self) -> tuple[int, int, int, int]:
        """Buyer and seller on the EVM chain, buyer and seller on Solana."""
        held = [self.evm.balance(address) for address in (EVM_ADDRESS, EVM_PAY_TO)]
        held += [self.svm.balance(address) for address in (SVM_ADDRESS, SVM_PAY_TO)]
        return held[0], held[1], held[2], held[3]


@contextmanager
def fastapi_seller(market: Market) -> Iterator[str]:
    server = market.register(x402Facilitator(), x402ResourceServer)
    app = fastapi.FastAPI()
    app.middleware("http")(payment_middleware(market.routes, server))

    async def serve(asked: fastapi.Request) -> fastapi.Response:
        body, status = market.work(asked.url.path, await asked.body())
        return fastapi.Response(body, status, {"X-Seller": "fastapi"})

    for path in PATHS:
        app.add_api_route(path, serve, methods=["POST"])
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_level="error"))
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join()


@contextmanager
def flask_seller(market: Market) -> Iterator[str]:
    app = flask.Flask("seller")
    PaymentMiddleware(app, market.routes, market.register(x402FacilitatorSync(), x402ResourceServerSync))

    def serve() -> flask.Response:
        body, status = market.work(flask.request.path, flask.request.get_data())
        return flask.Response(body, status, {"X-Seller": "flask"})

    for path in PATHS:
        app.add_url_rule(path, path, serve, methods=["POST"])
    running = make_server("127.0.0.1", 0, read_first(app), threaded=True)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def read_first(app: Any) -> Any:
    """Read the body before `app` runs, as servers for production do: Werkzeug's waits for the end of an unread one."""

    def serve(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        return app(environ, start_response)

    return serve


SELLERS: dict[str, Callable[[Market], AbstractContextManager[str]]] = {
    "fastapi": fastapi_seller,
    "flask": flask_seller,
}


@dataclass
class Shop:
    """A seller of one kind, the proxy before it, and the chains behind it."""

    kind: str
    market: Market
    proxy: Proxy
    rpc: list[bytes] = field(default_factory=list)
    """What the proxy asked the Solana RPC."""

    def buy(self, path: str, body: bytes) -> Message:
        with self.proxy.client() as client:
            return client.ask(request("POST", path, body, "Content-Type: text/plain"))


@pytest.fixture(scope="module", params=SELLERS)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    market, asked = Market(), []

    def rpc(peer: Peer, upstream: Upstream) -> None:
        # The sellers of this package leave the blockhash to the buyer.
        while True:
            asked.append(upstream.read(peer).body)
            value = {"blockhash": market.svm.blockhash, "lastValidBlockHeight": 1000}
            answer = {"jsonrpc": "2.0", "id": 1, "result": {"context": {"slot": 1}, "value": value}}
            body = json.dumps(answer).encode()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, "SOLANA_WALLET_KEY": svm_key()}
    with (
        SELLERS[request.param](market) as url,
        Upstream(rpc) as node,
        Proxy(url, "--set", f"x402_solana_rpc={node.url}", home=tmp_path_factory.mktemp("home"), keys=keys) as proxy,
    ):
        yield Shop(request.param, market, proxy, asked)


def test_a_payment_on_an_evm_chain_is_settled_once(shop: Shop) -> None:
    market, before = shop.market, shop.market.balances()
    market.worked.clear()
    got = shop.buy("/evm", "für dich".encode())
    assert (got.status, got.body, got.get(b"x-seller")) == (200, b"You said f\xc3\xbcr dich", shop.kind.encode())
    assert market.worked == [("/evm", "für dich".encode())]
    assert change(before, market.balances()) == (-EVM_PRICE, EVM_PRICE, 0, 0)
    settled = decode_payment_response_header((got.get(b"payment-response") or b"").decode())
    assert (settled.success, settled.network, settled.payer) == (True, "eip155:84532", EVM_ADDRESS)
    assert market.evm.tester.get_transaction_receipt(settled.transaction)["status"] == 1


def test_a_payment_on_solana_is_settled_once(shop: Shop) -> None:
    market, before = shop.market, shop.market.balances()
    market.worked.clear()
    got = shop.buy("/svm", b"x" * 5000)
    assert (got.status, got.body) == (200, b"You said " + b"x" * 5000)
    assert market.worked == [("/svm", b"x" * 5000)]
    assert change(before, market.balances()) == (0, 0, -SVM_PRICE, SVM_PRICE)
    settled = decode_payment_response_header((got.get(b"payment-response") or b"").decode())
    assert (settled.success, settled.network) == (True, market.svm.network.caip2)
    assert settled.transaction in market.svm.facilitator.sent
    assert b"getLatestBlockhash" in shop.rpc[-1]


def test_equal_requests_are_each_paid_for(shop: Shop) -> None:
    before = shop.market.balances()
    answers = [shop.buy(path, b"again") for path in ("/evm", "/svm") for _ in range(3)]
    assert [got.status for got in answers] == [200] * 6
    receipts = {got.get(b"payment-response") for got in answers}
    assert len(receipts) == 6
    assert change(before, shop.market.balances()) == (-3 * EVM_PRICE, 3 * EVM_PRICE, -3 * SVM_PRICE, 3 * SVM_PRICE)


def test_the_cheaper_offer_is_taken(shop: Shop) -> None:
    before = shop.market.balances()
    assert shop.buy("/both", b"cheap").status == 200
    assert change(before, shop.market.balances()) == (0, 0, -SVM_PRICE, SVM_PRICE)


def test_work_that_fails_is_not_charged_and_passes_as_it_is(shop: Shop) -> None:
    market, before = shop.market, shop.market.balances()
    market.worked.clear()
    got = shop.buy("/fails", b"please")
    assert (got.status, got.body) == (500, b"You said please")
    assert market.worked == [("/fails", b"please")]
    assert change(before, market.balances()) == (0, 0, 0, 0)


def test_a_buyer_without_funds_gets_the_sellers_rejection(shop: Shop) -> None:
    market, held = shop.market, shop.market.svm.balance(SVM_ADDRESS)
    market.svm.fund(SVM_ADDRESS, SVM_PRICE - 1)
    market.worked.clear()
    try:
        got = shop.buy("/svm", b"poor")
    finally:
        market.svm.fund(SVM_ADDRESS, held)
    assert got.status == 402
    assert got.get(b"payment-required")
    assert market.worked == []


def change(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(new - old for old, new in zip(before, after, strict=True))
