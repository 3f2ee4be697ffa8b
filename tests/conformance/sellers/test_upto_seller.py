"""A seller of the reference package that charges by `upto`, paid through the proxy, on a local chain.

The middleware of the package for FastAPI, its resource server and facilitator; the proxy asks an RPC over that chain.
"""

from __future__ import annotations

import base64
import json
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import fastapi
import pytest
import uvicorn
from x402.extensions.eip2612_gas_sponsoring import EIP2612_GAS_SPONSORING, declare_eip2612_gas_sponsoring_extension
from x402.facilitator import x402Facilitator
from x402.http.middleware.fastapi import payment_middleware, set_settlement_overrides
from x402.http.types import PaymentOption, RouteConfig
from x402.mechanisms.evm.exact import ExactEvmFacilitatorScheme, ExactEvmServerScheme
from x402.mechanisms.evm.upto.facilitator import UptoEvmScheme as UptoFacilitator
from x402.mechanisms.evm.upto.server import UptoEvmScheme as UptoServer
from x402.server import x402ResourceServer

from mitmproxy_x402.protocol.networks import BUILT_IN
from support.chains.answering import Answering
from support.chains.local_chains import Permit2Chain
from support.proxy import EVM_ADDRESS, EVM_KEY, Proxy
from support.running import warm
from support.wire import request

PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
CEILING, EXACT, CHARGE = 17_686, 9_000, 686
PURSE = 10**6


class Rpc(Answering):
    """JSON-RPC over a chain in this process, as much of it as the proxy asks."""

    def __init__(self, chain: Permit2Chain) -> None:
        super().__init__()
        self._chain = chain

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        result: Any
        tester, method, params = self._chain.tester, call["method"], call["params"]
        if method == "eth_chainId":
            result = hex(self._chain.network.chain_id)
        elif method == "eth_getTransactionCount":
            result = hex(tester.get_nonce(params[0]))
        elif method == "eth_gasPrice":
            result = hex(2 * 10**9)
        elif method == "eth_getBalance":
            result = hex(tester.get_balance(params[0]))
        elif method == "eth_sendRawTransaction":
            result = tester.send_raw_transaction(params[0])
        elif method == "eth_getTransactionReceipt":
            result = {"status": hex(tester.get_transaction_receipt(params[0])["status"])}
        elif call["method"] == "eth_getCode":
            result = "0x"
        else:
            asked = {"from": self._chain.operator, "gas": 1_000_000, **call["params"][0]}
            result = self._chain.tester.call(asked)
        return {"jsonrpc": "2.0", "id": call["id"], "result": result}


def routes(chain: Permit2Chain, *, sponsored: bool) -> dict[str, RouteConfig]:
    network = chain.network.caip2
    asset = {"asset": chain.asset.address, "extra": {"name": chain.asset.domain_name, "version": "2"}}
    options = [
        PaymentOption("upto", PAY_TO, {"amount": str(CEILING), **asset}, network),
        PaymentOption("exact", PAY_TO, {"amount": str(EXACT), **asset}, network),
    ]
    extensions = declare_eip2612_gas_sponsoring_extension() if sponsored else {}
    return {"POST /v1/chat": RouteConfig(options, extensions=extensions)}


@contextmanager
def seller(chain: Permit2Chain, *, sponsored: bool) -> Iterator[str]:
    facilitator, network = x402Facilitator(), chain.network.caip2
    facilitator.register([network], UptoFacilitator(chain.facilitator))
    facilitator.register([network], ExactEvmFacilitatorScheme(chain.facilitator))
    facilitator.register_extension(EIP2612_GAS_SPONSORING)
    server = x402ResourceServer(facilitator)
    server.register(network, UptoServer()).register(network, ExactEvmServerScheme())
    app = fastapi.FastAPI()
    app.middleware("http")(payment_middleware(routes(chain, sponsored=sponsored), server))

    async def serve(asked: fastapi.Request) -> fastapi.Response:
        response = fastapi.Response(b'{"ok": true}', media_type="application/json")
        paid = json.loads(base64.b64decode(asked.headers["payment-signature"]))
        if paid["accepted"]["scheme"] == "upto":
            set_settlement_overrides(response, {"amount": str(CHARGE)})
        return response

    app.add_api_route("/v1/chat", serve, methods=["POST"])
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_level="error"))
    thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join()


def rows(proxy: Proxy, count: int) -> list[dict[str, Any]]:
    """The payments, once their outcomes are written."""
    deadline = time.monotonic() + 30
    while True:
        assert isinstance(proxy.ledger, Path)
        with closing(sqlite3.connect(proxy.ledger)) as db:
            db.row_factory = sqlite3.Row
            found = [dict(row) for row in db.execute("SELECT * FROM payment ORDER BY id")]
        ended = [row for row in found if row["state"] not in ("reserved", "sent")]
        if len(ended) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize("sponsored", [True, False])
def test_the_seller_s_charge_is_what_is_paid(tmp_path: Path, sponsored: bool) -> None:
    network = BUILT_IN.get("base-sepolia")
    assert network is not None
    chain = Permit2Chain(network)
    chain.fund(EVM_ADDRESS, PURSE)
    with seller(chain, sponsored=sponsored) as url, Rpc(chain) as rpc:
        options = ("--set", "x402_schemes=upto", "--set", f"x402_evm_rpc=base-sepolia={rpc.url}")
        with Proxy(url, *options, home=tmp_path) as proxy, proxy.client() as client:
            answers = [client.ask(request("POST", "/v1/chat", b'{"n": %d}' % n)) for n in range(2)]
            assert [answer.status for answer in answers] == [200, 200]
            found = rows(proxy, 2)
    paid = 2 * CHARGE if sponsored else 2 * EXACT
    assert chain.balance(PAY_TO) == paid
    assert chain.balance(EVM_ADDRESS) == PURSE - paid
    if sponsored:
        assert [(row["scheme"], row["state"]) for row in found] == [("upto", "settled")] * 2
        assert [row["charged_micro_usd"] for row in found] == [CHARGE] * 2
        assert [row["micro_usd"] for row in found] == [CEILING] * 2
    else:
        assert [row["scheme"] for row in found] == ["exact"] * 2


def test_the_verb_sets_shows_and_revokes_the_allowance(tmp_path: Path) -> None:
    network = BUILT_IN.get("base-sepolia")
    assert network is not None
    chain = Permit2Chain(network)

    def allow(*arguments: str) -> subprocess.CompletedProcess[str]:
        where = ("--network", "base-sepolia", "--set", f"x402_evm_rpc=base-sepolia={rpc.url}")
        verb = (*warm.VERB, "wallet", "allow", *arguments, *where)
        environ = {"HOME": str(tmp_path), "BLOCKRUN_WALLET_KEY": EVM_KEY}
        return warm.run(verb, environ, tmp_path)

    with Rpc(chain) as rpc:
        poor = allow("20", "--yes")
        assert poor.returncode != 0
        assert " ETH on base-sepolia, and the transaction may cost " in poor.stderr
        chain.tester.send_transaction({"from": chain.operator, "to": EVM_ADDRESS, "value": 10**18, "gas": 21000})
        unasked = allow("20")
        assert "add --yes" in unasked.stderr
        assert chain.allowance(EVM_ADDRESS) == 0
        done = allow("20.5", "--yes")
        assert done.returncode == 0, done.stderr
        assert "An allowance lets the Permit2 contract take" in done.stdout
        assert "Permit2 may take of that: 20.5." in done.stdout
        assert chain.allowance(EVM_ADDRESS) == 20_500_000
        assert "Permit2 may take of that: 20.5." in allow().stdout
        assert allow("0", "--yes").returncode == 0
        assert chain.allowance(EVM_ADDRESS) == 0
        assert allow("-1").returncode != 0
