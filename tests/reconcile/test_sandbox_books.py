"""A hundred paid streams of a gateway that settles late: report and chain agree to the unit, now and a month later."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.protocol.amounts import format_usd
from support.place import Place, place
from support.proxy import EVM_KEY, svm_key
from support.running import warm

STREAMS = 100
LATE = 30
"""Seconds from a stream's end until its money moves, by the chain's clock."""


class Chain:
    """The sandbox's clock, which a test puts forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture(params=["base-sepolia", "solana-devnet"])
def network(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock() -> Chain:
    return Chain()


@pytest.fixture
def shop(home: Path, network: str, clock: Chain) -> Iterator[Place]:
    config: dict[str, Any] = {"settle": "after", "settle_late": LATE, "clock": clock, "keep": 1000}
    with place(home, network=network, **config) as running:
        yield running


def run(shop: Place, network: str, *arguments: str) -> tuple[int, str]:
    """One verb of the program, as a user would run it beside the proxy."""
    rpc = f"{shop.sandbox.url}/v1/rpc/{network}"
    named = {"SOLANA_RPC_URL": rpc} if network.startswith("solana") else {"X402_EVM_RPC": f"{network}={rpc}"}
    ledger = shop.proxy.ledger
    kind = "SOLANA_WALLET_KEY" if network.startswith("solana") else "BLOCKRUN_WALLET_KEY"
    environ = {
        kind: svm_key() if network.startswith("solana") else EVM_KEY,
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        **{"HOME": str(shop.home), "X402_LEDGER": getattr(ledger, "url", None) or str(ledger), **named},
    }
    done = warm.run([*warm.VERB, *arguments], environ, shop.home)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def total(shop: Place, network: str) -> dict[str, Any]:
    code, said = run(shop, network, "report", "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(said)["total"]
    return found


def test_a_hundred_streams(shop: Place, network: str, clock: Chain) -> None:
    bodies = [
        {"model": "sandbox-1", "stream": True, "messages": [{"role": "user", "content": f"number {number}"}]}
        for number in range(STREAMS)
    ]
    # Of ten, one is cut off and never charged, and one fails and is charged all the same.
    faults = ["cut;settle=no" if n % 10 == 3 else "error;settle=yes" if n % 10 == 7 else "" for n in range(STREAMS)]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda one: _status(shop, *one), zip(bodies, faults, strict=True)))
    assert statuses.count(200) == STREAMS - 2 * STREAMS // 10
    shop.outcomes(0)
    payer = shop.sandbox.payments[0].payer
    opening = shop.sandbox.config.opening_balance

    def gone() -> int:
        run(shop, network, "reconcile")  # asks the RPC, which settles what is due
        return opening - shop.sandbox.balance(network, payer)

    charged_at_once = opening - shop.sandbox.balance(network, payer)
    first = total(shop, network)
    price = first["micro_usd"] // STREAMS
    assert first["payments"] == STREAMS
    assert first["micro_usd"] == STREAMS * price
    assert first["confirmed_usd"] == "0", "no gateway has named a transaction"
    assert charged_at_once == STREAMS // 10 * price
    _show("right after", run(shop, network, "report")[1], opening - charged_at_once)

    clock.ahead += LATE + 20
    moved = gone()
    time.sleep(4)  # blocks of the sandbox's chain, until these are final
    code, said = run(shop, network, "reconcile")
    assert code == 0, said
    second = total(shop, network)
    assert moved == (STREAMS - STREAMS // 10) * price == opening - shop.sandbox.balance(network, payer)
    assert second["confirmed_usd"] == format_usd(moved), said
    assert second["not_confirmed_usd"] == format_usd(STREAMS // 10 * price)
    _show("after reconcile", said + run(shop, network, "report")[1], shop.sandbox.balance(network, payer))

    clock.ahead += 30 * 24 * 3600
    code, said = run(shop, network, "reconcile")
    assert code == 0, said
    third = total(shop, network)
    assert third["usd"] == third["confirmed_usd"] == format_usd(opening - shop.sandbox.balance(network, payer))
    assert third["not_confirmed_usd"] == "0"
    assert third["payments"] == STREAMS - STREAMS // 10
    checked = run(shop, network, "check", "--upstream", shop.sandbox.url)[1]
    line = next((line for line in checked.splitlines() if " books " in line), checked)
    assert line.startswith("ok"), line
    assert f"- confirmed {format_usd(opening - shop.sandbox.balance(network, payer))} = " in line
    assert "which is what the wallet has" in line
    _show("a month later", said + run(shop, network, "report")[1], shop.sandbox.balance(network, payer))


def _status(shop: Place, body: dict[str, Any], fault: str) -> int:
    try:
        return shop.post(body, fault).status_code
    except Exception:  # a stream that was cut
        return 0


def _show(when: str, said: str, balance: int) -> None:
    print(f"\n----- {when}; balance on chain {balance}\n{said}")
