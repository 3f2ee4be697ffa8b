"""What a Solana RPC says of payments that LiteSVM has executed, or has not; and RPCs that lie, lag or forget."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from solders.keypair import Keypair
from solders.signature import Signature

from mitmproxy_x402.chain.lookup import look_up
from mitmproxy_x402.chain.movements import movements
from mitmproxy_x402.chain.rpc import Allowance, Rpc
from mitmproxy_x402.chain.svm_lookup import PAGE
from mitmproxy_x402.chain.verdict import Sent, Verdict
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequirements
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.sandbox.chains.svm_chain import SvmChain
from mitmproxy_x402.schemes.exact_svm import build
from support.chains.relay_rpc import error, node, relay, result
from support.running.verbs import Ahead

LATER = 1200
"""Seconds after which a blockhash is dead, whatever the clocks."""


class World:
    """A cluster with its RPC, and a payer."""

    def __init__(self, sandbox: Sandbox, clock: Ahead) -> None:
        self.chain = cast(SvmChain, sandbox.chain("solana-devnet"))
        self.url = f"{sandbox.url}/v1/rpc/solana-devnet"
        self.clock = clock
        self.pair = Keypair()
        self.payer = str(self.pair.pubkey())
        self.number = 0

    def pay(self, amount: int = 5000, memo: str = "") -> tuple[Sent, dict[str, Any]]:
        extra = self.chain.extra() | ({"memo": memo} if memo else {})
        asset, nonce = self.chain.asset, secrets.token_bytes(32)
        network, pay_to = self.chain.network.caip2, self.chain.pay_to
        asked = PaymentRequirements("exact", network, AtomicUnits(amount), asset.address, pay_to, 60, extra, {})
        signature = ""

        def sign(message: bytes) -> bytes:
            nonlocal signature
            signed = self.pair.sign_message(message)
            signature = str(signed)
            return bytes(signed)

        blockhash = self.chain.latest_blockhash()
        payload = build(asked, asset, payer=self.payer, blockhash=blockhash, nonce=nonce, sign=sign)
        self.number += 1
        now = self.clock()
        sent = Sent(
            *(self.number, "svm", self.payer, pay_to, asset.address, amount, signature, now, now + 60),
            memo=memo or nonce[:16].hex(),
            blockhash=blockhash,
            token_program=asset.token_program,
            seller="api.seller.test",
        )
        return sent, payload

    def settle(self, payload: dict[str, Any], amount: int = 5000, memo: str = "") -> str:
        entry = {"extra": {"memo": memo} if memo else {}}
        return self.chain.settle(self.chain.verify(entry, amount, payload))

    def ask(self, payments: list[Sent], *urls: str) -> dict[int, Verdict]:
        async def main() -> dict[int, Verdict]:
            rpcs = [Rpc(url, 20, Allowance(1000)) for url in urls or (self.url,)]
            for number, rpc in enumerate(rpcs):
                rpc.host = f"rpc{number}.test"
            return await look_up(self.chain.network, payments, rpcs)

        return asyncio.run(main())


@pytest.fixture
def world() -> Iterator[World]:
    clock = Ahead()
    with Sandbox(SandboxConfig(networks=("solana-devnet",), clock=clock)).run_in_thread() as sandbox:
        yield World(sandbox, clock)


def test_paid_open_and_dead(world: World) -> None:
    paid, payload = world.pay()
    waiting, _ = world.pay()
    transaction = world.settle(payload)
    said = world.ask([paid, waiting])
    assert (said[1].kind, said[1].transaction, said[1].amount) == ("moved", transaction, 5000)
    assert (said[1].pay_to, said[1].block_time) == (world.chain.pay_to, pytest.approx(world.clock(), abs=30))
    assert (said[2].kind, said[2].later) == ("open", True)
    world.clock.seconds = LATER
    assert {key: verdict.kind for key, verdict in world.ask([paid, waiting]).items()} == {1: "moved", 2: "dead"}


def test_the_signature_decides_where_memos_are_equal(world: World) -> None:
    payments = [world.pay(memo="order 4711") for _ in range(4)]
    transactions = {sent.key: world.settle(payload, memo="order 4711") for sent, payload in payments[:2]}
    world.clock.seconds = LATER
    said = world.ask([sent for sent, _ in payments])
    assert {key: said[key].transaction for key in (1, 2)} == transactions
    assert (said[3].kind, said[4].kind) == ("dead", "dead")


def test_rows_without_a_memo_are_found_by_their_time(world: World) -> None:
    paid, payload = world.pay()
    transaction = world.settle(payload)
    old = replace(paid, memo="", blockhash="")
    assert world.ask([old])[1].transaction == transaction
    missing = replace(old, key=2, reference=str(Signature.new_unique()))
    world.clock.seconds = LATER
    assert "its blockhash was not kept" in world.ask([missing])[2].why, "never dead"


def test_many_pages(world: World) -> None:
    paid, payload = world.pay()
    transaction = world.settle(payload)
    filler = dict(next(iter(world.chain.history.values())))
    for number in range(2 * PAGE + 5):
        name = str(Signature.new_unique())
        other = {**filler["transaction"], "signatures": [name, str(Signature.new_unique())]}
        world.chain.history[name] = {**filler, "memo": f"[5] {number:05}", "transaction": other}
    with relay(node(world.url)) as rpc:
        assert world.ask([paid], rpc.url)[1].transaction == transaction
        assert rpc.count("getSignaturesForAddress") == 3
        assert rpc.count("getTransaction") == 1


def changed(world: World, method: str, value: Any) -> Any:
    def answer(call: dict[str, Any]) -> dict[str, Any]:
        return result(call, value) if call["method"] == method else node(world.url)(call)

    return relay(answer)


def test_one_that_hides_a_transaction_frees_nothing(world: World) -> None:
    paid, payload = world.pay()
    world.settle(payload)
    world.clock.seconds = LATER
    with changed(world, "getSignaturesForAddress", []) as liar:
        assert world.ask([paid], liar.url, world.url)[1].disputed
        assert world.ask([paid], world.url, liar.url)[1].disputed
        assert world.ask([paid], liar.url, "http://127.0.0.1:1")[1].kind == "open"


def test_one_that_forgets_knows_nothing(world: World) -> None:
    paid, payload = world.pay()
    transaction = world.settle(payload)
    world.clock.seconds = LATER

    def forgetful(call: dict[str, Any]) -> dict[str, Any]:
        if call["method"] == "getSignaturesForAddress":
            return result(call, [])
        if call["method"] == "getFirstAvailableBlock":
            return result(call, world.chain.block_height())
        return node(world.url)(call)

    with relay(forgetful) as rpc:
        alone = world.ask([paid], rpc.url)[1]
        assert (alone.kind, alone.later) == ("open", False)
        assert "does not remember that far back" in alone.why
        assert world.ask([paid], rpc.url, world.url)[1].transaction == transaction


def test_one_that_is_behind_calls_nothing_dead(world: World) -> None:
    waiting, _ = world.pay()
    old = world.chain.block_height()
    world.clock.seconds = LATER
    with changed(world, "getSlot", old) as rpc:
        assert (world.ask([waiting], rpc.url)[1].kind, world.ask([waiting])[1].kind) == ("open", "dead")


def test_a_transaction_that_failed_moved_nothing(world: World) -> None:
    paid, payload = world.pay()
    name = world.settle(payload)
    failed = {**world.chain.history[name], "meta": {"err": {"InstructionError": [2, "Custom"]}}}
    with changed(world, "getTransaction", failed) as rpc:
        assert world.ask([paid], rpc.url)[1].kind == "dead"


def test_what_moved_and_where(world: World) -> None:
    paid, payload = world.pay()
    world.settle(payload)
    asked = replace(paid, amount=9000, pay_to=str(Keypair().pubkey()))
    verdict = world.ask([asked])[1]
    assert (verdict.amount, verdict.pay_to) == (5000, world.chain.pay_to)


@pytest.mark.parametrize("method", ["getSlot", "getBlockTime", "getSignaturesForAddress", "getTransaction"])
@pytest.mark.parametrize("value", [None, "x", {"a": 1}, [1]])
def test_nonsense_is_no_answer(world: World, method: str, value: Any) -> None:
    paid, payload = world.pay()
    world.settle(payload)
    with changed(world, method, value) as rpc:
        assert world.ask([paid], rpc.url)[1].kind == "open"


def test_another_cluster_is_not_asked(world: World) -> None:
    paid, _ = world.pay()
    with changed(world, "getGenesisHash", "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d") as rpc:
        assert "another cluster" in world.ask([paid], rpc.url)[1].why


def test_some_gateways_serve_only_a_few_methods(world: World) -> None:
    paid, payload = world.pay()
    transaction = world.settle(payload)

    def few(call: dict[str, Any]) -> dict[str, Any]:
        if call["method"] in ("getGenesisHash", "getFirstAvailableBlock"):
            return error(call, -32601, "Method not found")
        return node(world.url)(call)

    with relay(few) as rpc:
        assert world.ask([paid], rpc.url)[1].transaction == transaction


def test_all_that_went_in_and_out(world: World) -> None:
    begin = world.clock()
    opening = world.chain.balance(world.payer)
    transactions = [world.settle(world.pay()[1]) for _ in range(3)]

    async def main() -> Any:
        rpc = Rpc(world.url, 20, Allowance(100))
        return await movements(world.chain.network, world.chain.asset, world.payer, begin - 60, rpc)

    moved = asyncio.run(main())
    assert moved.outgoing == dict.fromkeys(transactions, 5000)
    assert (moved.incoming, moved.opening, moved.balance) == (0, opening, opening - 15_000)
