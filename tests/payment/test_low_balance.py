"""A wallet that will soon be empty is warned of once, at the start and when a payment makes it so."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mitmproxy_x402.payment.low_balance import LowBalance
from mitmproxy_x402.payment.policy import Offer
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequirements
from mitmproxy_x402.protocol.networks import BUILT_IN, Network, NetworkTable
from support import challenges
from support.proxy import EVM_ADDRESS, Proxy

PRICE = 1000


class Rpc:
    """An RPC of Base Sepolia that says `units`."""

    def __init__(self) -> None:
        self.units = 0
        self.asked = 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                call = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                self.asked += call["method"] == "eth_call"
                said = {"eth_chainId": hex(84532), "eth_getCode": "0x"}.get(call["method"], f"0x{self.units:064x}")
                body = json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": said}).encode()
                handler.send_response(200)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def rpc() -> Iterator[Rpc]:
    made = Rpc()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def network() -> Network:
    found = BUILT_IN.get("base-sepolia")
    assert found is not None
    return found


def offer(price: int = PRICE) -> Offer:
    row = network()
    entry = challenges.entry(row.caip2, amount=str(price)) if hasattr(challenges, "entry") else {}
    requirement = PaymentRequirements(
        scheme="exact",
        network=row.caip2,
        amount=AtomicUnits(price),
        asset=row.assets[0].address,
        pay_to=EVM_ADDRESS,
        max_timeout_seconds=60,
        extra={},
        raw=entry,
    )
    return Offer(requirement, row, row.assets[0])


def watch(rpc: Rpc) -> LowBalance:
    return LowBalance(lambda each: [rpc.url] if each == network() else [], 5, lambda: 0.0)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "wallet fund" in record.getMessage()]


@pytest.mark.parametrize(("units", "said"), [(0, "not enough for one request"), (50_000, "enough for 10 requests")])
def test_at_the_start(rpc: Rpc, caplog: pytest.LogCaptureFixture, units: int, said: str) -> None:
    rpc.units = units
    asyncio.run(watch(rpc).look(NetworkTable([network()]), {"evm": EVM_ADDRESS, "svm": None}))
    (line,) = lines(caplog)
    assert said in line
    assert EVM_ADDRESS in line


def test_when_it_happens_and_once(rpc: Rpc, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    rpc.units = 30 * 5 * PRICE

    async def pay() -> None:
        balance = watch(rpc)
        await balance.look(NetworkTable([network()]), {"evm": EVM_ADDRESS, "svm": None})
        assert not lines(caplog)
        for _ in range(140):
            rpc.units -= PRICE
            balance.signed(offer(), EVM_ADDRESS)
            await asyncio.sleep(0)
            if balance._looking is not None:
                await balance._looking

    asyncio.run(pay())
    (line,) = lines(caplog)
    assert "enough for 19 requests" in line
    assert rpc.asked == 2


def test_nobody_is_asked_who_was_not_named(rpc: Rpc) -> None:
    balance = LowBalance(lambda _: [], 5, lambda: 0.0)
    asyncio.run(balance.look(NetworkTable([network()]), {"evm": EVM_ADDRESS, "svm": None}))
    balance.signed(offer(), EVM_ADDRESS)
    assert rpc.asked == 0


def test_the_proxy_says_it_at_its_start(rpc: Rpc, home: Path) -> None:
    rpc.units = 0
    named = ("--set", f"x402_evm_rpc=base-sepolia={rpc.url}")
    with Proxy("http://127.0.0.1:1", *named, home=home) as proxy:
        proxy.wait_for("has 0 USDC on base-sepolia, not enough for one request: ./run.sh wallet fund")
