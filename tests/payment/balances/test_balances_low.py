"""A wallet that will soon be empty is warned of once, at the start and when a payment makes it so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.payment.balances import Balances
from mitmproxy_x402.payment.offer import Offer
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequirements
from mitmproxy_x402.protocol.networks import BUILT_IN, Network, NetworkTable
from support import challenges
from support.chains.json_rpc import Rpc, evm
from support.proxy import EVM_ADDRESS, Proxy

PRICE = 1000


class Chain:
    """Base Sepolia, on which the wallet has `units`."""

    def __init__(self) -> None:
        self.units = 0
        self.rpc = Rpc(self._answer)

    def _answer(self, method: str, parameters: list[Any]) -> Any:
        return evm(self.units)(method, parameters)

    @property
    def asked(self) -> int:
        """How often for a balance."""
        return sum(method == "eth_call" for method, _ in self.rpc.asked)

    @property
    def url(self) -> str:
        return self.rpc.url


@pytest.fixture
def rpc() -> Iterator[Chain]:
    chain = Chain()
    with chain.rpc:
        yield chain


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


def watch(rpc: Chain) -> Balances:
    return Balances(lambda each: [rpc.url] if each == network() else [], 5, lambda: 0.0)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "wallet fund" in record.getMessage()]


@pytest.mark.parametrize(
    ("units", "said"),
    [(0, "not enough for one request"), (5_000, "enough for 1 request:"), (50_000, "enough for 10 requests")],
)
def test_at_the_start(rpc: Chain, caplog: pytest.LogCaptureFixture, units: int, said: str) -> None:
    rpc.units = units
    asyncio.run(watch(rpc).look(NetworkTable([network()]), {"evm": EVM_ADDRESS, "svm": None}))
    (line,) = lines(caplog)
    assert said in line
    assert EVM_ADDRESS in line


def test_when_it_happens_and_once(rpc: Chain, caplog: pytest.LogCaptureFixture) -> None:
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
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

    asyncio.run(pay())
    (line,) = lines(caplog)
    assert "enough for 19 requests" in line
    assert rpc.asked == 2


def test_nobody_is_asked_who_was_not_named(rpc: Chain) -> None:
    balance = Balances(lambda _: [], 5, lambda: 0.0)
    asyncio.run(balance.look(NetworkTable([network()]), {"evm": EVM_ADDRESS, "svm": None}))
    balance.signed(offer(), EVM_ADDRESS)
    assert rpc.asked == 0


def test_the_proxy_says_it_at_its_start(rpc: Chain, home: Path) -> None:
    rpc.units = 0
    named = ("--set", f"x402_evm_rpc=base-sepolia={rpc.url}")
    with Proxy("http://127.0.0.1:1", *named, home=home) as proxy:
        proxy.wait_for("has 0 USDC on base-sepolia, not enough for one request: mitmproxy-x402 wallet fund")
