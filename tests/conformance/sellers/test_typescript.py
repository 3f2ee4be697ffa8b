"""The reference facilitators and sellers in TypeScript judge what we sign, and sell it through the proxy, on anvil.

One Node.js process (typescript/seller.mjs) has the reference middleware for Express, its facilitator, and Circle's own
middleware before the stand-in of circle_api.py.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from circle_api import CircleApi

from mitmproxy_x402.wallet.evm import EvmWallet
from support.chains.anvil import Permit2Anvil, running
from support.chains.token_rpc import TokenRpc
from support.ledger.ledgers import query
from support.patience import eventually
from support.paying.own_payments import evm_wallet, over_permit2
from support.proxy import EVM_ADDRESS, Proxy
from support.running import npm
from support.wire import Message, free_port, request

PACKAGES = {
    "@circle-fin/x402-batching": "3.3.0",
    "@x402/core": "2.27.0",
    "@x402/evm": "2.27.0",
    "@x402/express": "2.27.0",
    "@x402/extensions": "2.27.0",
    "express": "5.3.0",
    "viem": "2.57.20",
}
PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
CEILING, EXACT, OVER_PERMIT2, BY_CIRCLE = 17_686, 9_000, 5_000, 4_000
PURSE = 10**8
WEEK = 7 * 24 * 3600
EVERYTHING = ("x402_schemes=upto", "x402_gateway=true", "x402_max_request=1", "x402_budget=50/day")


@dataclass
class World:
    """The chain, Circle's stand-in, the sellers before both, and the proxy before the sellers."""

    chain: Permit2Anvil
    circle: CircleApi
    sellers: str
    proxy: Proxy

    def buy(self, path: str, **said: Any) -> Message:
        """The answer to a request of `said` through the proxy."""
        with self.proxy.client() as client:
            return client.ask(request("POST", path, json.dumps(said).encode(), "Content-Type: application/json"))

    def judge(self, verb: str, payment: dict[str, Any], required: dict[str, Any]) -> dict[str, Any]:
        """What the reference facilitator says when asked to `verify` or `settle`."""
        body = json.dumps({"payload": payment, "requirements": required}).encode()
        asked = urllib.request.Request(f"{self.sellers}/{verb}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            said: dict[str, Any] = json.loads(answer.read())
        return said

    def purse(self) -> tuple[int, int]:
        """What the proxy's wallet and the sellers hold."""
        return self.chain.balance(EVM_ADDRESS), self.chain.balance(PAY_TO)

    def rows(self, after: int) -> list[tuple[Any, ...]]:
        """Scheme, state, amount and charge of the payments after the row `after`, once all of them have ended."""
        columns = "scheme, state, micro_usd, charged_micro_usd"
        rest = f"WHERE id > {after}"
        eventually(lambda: all(row[1] not in ("reserved", "sent") for row in query(self.proxy.ledger, columns, rest)))
        return query(self.proxy.ledger, columns, rest)

    def last_row(self) -> int:
        return int(query(self.proxy.ledger, "COALESCE(MAX(id), 0)")[0][0])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = npm.install("reference-sellers", PACKAGES)
    script = npm.beside(folder, Path(__file__).parent / "typescript" / "seller.mjs")
    node = shutil.which("node")
    assert node is not None
    with ExitStack() as stack:
        chain = stack.enter_context(running(Permit2Anvil(f"http://127.0.0.1:{free_port()}")))
        chain.fund(EVM_ADDRESS, PURSE)
        circle = stack.enter_context(CircleApi(10**6))
        command = [node, str(script), chain.url, circle.url]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.enter_context(process)
        stack.callback(process.kill)
        assert process.stdout is not None
        sellers = f"http://127.0.0.1:{int(process.stdout.readline())}"
        options = (*EVERYTHING, f"x402_evm_rpc=base-sepolia={chain.url}", "x402_reconcile=off")
        given = [part for one in options for part in ("--set", one)]
        proxy = stack.enter_context(Proxy(sellers, *given, home=tmp_path_factory.mktemp("home")))
        yield World(chain, circle, sellers, proxy)


def receipt(answer: Message) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(base64.b64decode(answer.get(b"payment-response") or b""))
    return said


@pytest.mark.parametrize(
    ("path", "scheme", "price", "allowance"),
    [
        ("/exact", "exact", EXACT, 0),
        ("/permit2", "permit2", OVER_PERMIT2, 0),
        ("/permit2", "permit2", OVER_PERMIT2, 3 * OVER_PERMIT2),
        ("/permit2-unsponsored", "permit2", OVER_PERMIT2, 3 * OVER_PERMIT2),
    ],
)
def test_exact_prices_plain_and_over_permit2(world: World, path: str, scheme: str, price: int, allowance: int) -> None:
    world.chain.approve(EVM_ADDRESS, allowance)
    before, last = world.purse(), world.last_row()
    answer = world.buy(path, n=allowance)
    assert (answer.status, json.loads(answer.body)["said"]) == (200, {"n": allowance})
    assert receipt(answer)["success"]
    assert world.rows(last) == [(scheme, "settled", price, None)]
    assert world.purse() == (before[0] - price, before[1] + price)
    assert world.chain.allowance(EVM_ADDRESS) == max(0, allowance - price)


def test_without_an_allowance_and_a_sponsor_permit2_is_refused_with_a_reason(world: World) -> None:
    world.chain.approve(EVM_ADDRESS, 0)
    before = world.purse()
    answer = world.buy("/permit2-unsponsored")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "permit2_allowance_missing")
    assert world.purse() == before


# From here on the unspent parts of ceilings count, since the proxy asks no chain what became of them.


def test_a_seller_charges_a_part_of_a_sponsored_ceiling(world: World) -> None:
    before, last = world.purse(), world.last_row()
    answers = [world.buy("/upto", charge=686, n=n) for n in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert [receipt(answer)["amount"] for answer in answers] == ["686", "686"]
    assert world.rows(last) == [("upto", "settled", CEILING, 686)] * 2
    assert world.purse() == (before[0] - 2 * 686, before[1] + 2 * 686)
    assert world.chain.allowance(EVM_ADDRESS) < CEILING, "no more than the last permit left"


def test_a_share_of_the_ceiling_as_the_seller_s_package_takes_it(world: World) -> None:
    last = world.last_row()
    assert receipt(world.buy("/upto-alone", charge="50%"))["amount"] == str(CEILING // 2)
    assert world.rows(last) == [("upto", "settled", CEILING, CEILING // 2)]


def test_a_standing_allowance_serves_all_at_once_and_what_is_not_taken_stays_counted(world: World) -> None:
    world.chain.approve(EVM_ADDRESS, 10 * CEILING)
    before, last = world.purse(), world.last_row()
    answer = world.buy("/upto-unsponsored", charge=0)
    assert (answer.status, receipt(answer)["amount"], receipt(answer)["transaction"]) == (200, "0", "")
    assert world.buy("/upto-unsponsored", charge=CEILING + 1).status == 402, "more than the ceiling is not taken"
    assert world.purse() == before
    assert world.buy("/upto-unsponsored", charge=700).status == 200
    assert world.rows(last) == [
        ("upto", "rejected", CEILING, 0),
        ("upto", "unknown", CEILING, None),
        ("upto", "settled", CEILING, 700),
    ]
    assert world.purse() == (before[0] - 700, before[1] + 700)
    assert world.chain.allowance(EVM_ADDRESS) == 10 * CEILING - 700


def test_where_the_seller_finds_no_allowance_the_exact_price_is_paid_instead(world: World, tmp_path: Path) -> None:
    """Its 412 says that the payment is none, so that another way may be paid: once."""
    world.chain.approve(EVM_ADDRESS, 0)
    before, last = world.purse(), world.last_row()
    with TokenRpc(84532, balance=10**9, allowance=10**9) as rpc:  # which says what is not so
        given = (*EVERYTHING[:2], f"x402_evm_rpc=base-sepolia={rpc.url}")
        options = [part for one in given for part in ("--set", one)]
        with Proxy(world.sellers, *options, home=tmp_path) as proxy:
            another = World(world.chain, world.circle, world.sellers, proxy)
            assert another.buy("/upto-unsponsored").status == 200
            assert [row[:2] for row in another.rows(0)] == [("upto", "rejected"), ("exact", "settled")]
            assert another.buy("/upto-alone", charge=1).status == 412, "nothing else is offered"
    assert world.buy("/upto-approval").status == 200, "an approval without an end is not signed for a seller"
    assert world.rows(last)[-1][:2] == ("exact", "settled")
    assert world.purse() == (before[0] - 2 * EXACT, before[1] + 2 * EXACT)


def test_work_that_fails_is_not_charged(world: World) -> None:
    before = world.purse()
    assert world.buy("/exact", status=500).status == 500
    assert world.purse() == before


def test_circle_s_middleware_serves_what_circle_would_settle(world: World) -> None:
    before, last = world.purse(), world.last_row()
    answer = world.buy("/circle", hello="Circle")
    assert (answer.status, json.loads(answer.body)["said"]) == (200, {"hello": "Circle"})
    assert receipt(answer)["transaction"].count("-") == 4
    assert world.rows(last) == [("gateway", "settled", BY_CIRCLE, None)]
    assert world.circle.spent == {EVM_ADDRESS: BY_CIRCLE}
    assert set(world.circle.verified) == {""}
    assert world.purse() == before, "out of the balance with Circle, not out of the wallet"
    (lives,) = query(world.proxy.ledger, "dead_at - counted_at", f"WHERE id > {last}")[0]
    assert lives > WEEK * 1000


def test_what_circle_refuses_is_counted_and_said_in_words_that_help(world: World) -> None:
    last, world.circle.refuses = world.last_row(), "insufficient_balance"
    try:
        answer = world.buy("/circle", hello="again")
    finally:
        world.circle.refuses = ""
    assert answer.status == 402
    assert world.rows(last) == [("gateway", "rejected", BY_CIRCLE, None)]
    ((left, code),) = query(world.proxy.ledger, "free_at - counted_at, code", f"WHERE id > {last}")
    assert (left > WEEK * 1000, code) == (True, "insufficient_balance")
    world.proxy.wait_for("lies with Circle Gateway on base-sepolia; deposit some")
    again = world.buy("/circle", hello="again, soon")
    assert again.status == 400
    assert b"lies with Circle Gateway for that" in again.body
    assert world.buy("/exact", n=9).status == 200, "the wallet itself is not empty"


def entry(method: str, amount: int, facilitator: str = "") -> dict[str, Any]:
    extra = {"name": "USDC", "version": "2", "assetTransferMethod": "permit2"}
    if method == "upto":
        extra["facilitatorAddress"] = facilitator
    return {
        **{"scheme": "upto" if method == "upto" else "exact", "network": "eip155:84532", "amount": str(amount)},
        **{"asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "payTo": PAY_TO, "maxTimeoutSeconds": 300},
        "extra": extra,
    }


def sign(world: World, wallet: EvmWallet, method: Any, required: dict[str, Any], token_nonce: int | None) -> Any:
    return over_permit2(world.chain.network, world.chain.asset, required, method, wallet, token_nonce=token_nonce)


@pytest.fixture
def wallet(world: World) -> EvmWallet:
    made = evm_wallet()
    world.chain.fund(made.address, 10**6)
    return made


@pytest.mark.parametrize(("method", "charge"), [("permit2", OVER_PERMIT2), ("upto", 686), ("upto", CEILING)])
def test_the_facilitator_settles_a_sponsored_payment_once(
    world: World, wallet: EvmWallet, method: str, charge: int
) -> None:
    most = CEILING if method == "upto" else OVER_PERMIT2
    required = entry(method, most, facilitator(world))
    payment = sign(world, wallet, method, required, 0)
    assert world.judge("verify", payment, required)["isValid"]
    taken = required | {"amount": str(charge)}
    settled = world.judge("settle", payment, taken)
    assert settled["success"], settled
    assert world.chain.balance(wallet.address) == 10**6 - charge
    assert world.chain.allowance(wallet.address) == most - charge


def test_settled_at_nothing_and_then_at_something(world: World, wallet: EvmWallet) -> None:
    """Why a charge of 0 frees nothing: see `ledger.interface`."""
    required = entry("upto", CEILING, facilitator(world))
    payment = sign(world, wallet, "upto", required, 0)
    assert world.judge("settle", payment, required | {"amount": "0"})["transaction"] == ""
    assert world.judge("settle", payment, required | {"amount": "5000"})["success"]
    assert world.chain.balance(wallet.address) == 10**6 - 5000


def test_without_an_allowance_it_says_so(world: World, wallet: EvmWallet) -> None:
    required = entry("upto", CEILING, facilitator(world))
    said = world.judge("verify", sign(world, wallet, "upto", required, None), required)
    assert (said["isValid"], said["invalidReason"]) == (False, "permit2_allowance_required")


def test_of_two_permits_over_one_token_nonce_one_settles(world: World, wallet: EvmWallet) -> None:
    required = entry("upto", CEILING, facilitator(world))
    both = [sign(world, wallet, "upto", required, 0) for _ in range(2)]
    assert all(world.judge("verify", each, required)["isValid"] for each in both)
    assert [bool(world.judge("settle", each, required).get("success")) for each in both] == [True, False]


def facilitator(world: World) -> str:
    return str(world.chain.rpc("eth_accounts")[1])
