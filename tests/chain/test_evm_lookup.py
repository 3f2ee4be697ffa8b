"""What the chain says of payments, on a real node: paid, dead, open; and RPCs that lie, lag, limit or forget."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mitmproxy_x402.chain.evm_blocks import FINAL_BLOCKS
from mitmproxy_x402.chain.evm_lookup import AUTHORIZATION_USED
from mitmproxy_x402.chain.lookup import look_up
from mitmproxy_x402.chain.rpc import Allowance, Rpc
from mitmproxy_x402.chain.verdict import Sent, Verdict
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequirements
from mitmproxy_x402.schemes.exact_evm import authorize
from mitmproxy_x402.wallet.evm import evm_wallet
from support.chains.anvil import Anvil, anvil
from support.chains.relay_rpc import RelayRpc, error, node, relay, result

PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
STRANGER = "0x14fDa13953Fc30428938E6BF950d036e77214e52"
DEPTH = FINAL_BLOCKS[84532]
VALIDITY = 300


@pytest.fixture
def chain() -> Iterator[Anvil]:
    with anvil() as running:
        yield running


class Payer:
    """Signs payments by the chain's clock, as a proxy whose clock is right does."""

    def __init__(self, chain: Anvil) -> None:
        self.chain = chain
        self.wallet = evm_wallet("test", secrets.token_bytes(32))
        chain.fund(self.wallet.address, 10**9)
        self.number = 0

    def pay(self, amount: int = 5000, nonce: bytes | None = None) -> tuple[Sent, dict[str, Any]]:
        now, asset = self.chain.now, self.chain.asset
        asked = PaymentRequirements(
            "exact", self.chain.network.caip2, AtomicUnits(amount), asset.address, PAY_TO, VALIDITY, {}, {}
        )
        payload = authorize(
            asked,
            self.chain.network,
            asset,
            payer=self.wallet.address,
            now=now,
            nonce=nonce or secrets.token_bytes(32),
            max_validity=VALIDITY,
            sign=self.wallet.sign_digest,
        )
        self.number += 1
        reference = payload["authorization"]["nonce"]
        payer = self.wallet.address
        sent = Sent(
            self.number, "eip3009", payer, PAY_TO, asset.address, amount, reference, now, now + VALIDITY, seller="a.b"
        )
        return sent, payload


def ask(chain: Anvil, payments: list[Sent], *urls: str, per_hour: int = 10_000) -> dict[int, Verdict]:
    async def main() -> dict[int, Verdict]:
        async def no_pause(_: float) -> None:
            await asyncio.sleep(0)

        # Of different hosts, as far as these have names at all.
        rpcs = [Rpc(url, 20, Allowance(per_hour), sleep=no_pause) for url in urls]
        for number, rpc in enumerate(rpcs):
            rpc.host = f"rpc{number}.test"
        return await look_up(chain.network, payments, rpcs)

    return asyncio.run(main())


def test_paid_open_and_dead(chain: Anvil) -> None:
    payer = Payer(chain)
    paid, payload = payer.pay()
    waiting, _ = payer.pay()
    transaction = chain.settle(payload)
    when = chain.now
    first = ask(chain, [paid, waiting], chain.url)
    assert first[1].kind == "open", "not deep enough yet"
    chain.mine(DEPTH)
    then = ask(chain, [paid, waiting], chain.url)
    assert then[1] == Verdict("moved", transaction, when, 5000, PAY_TO.lower(), witnesses=(chain.url,))
    assert then[2].kind == "open"
    assert "by the chain's clock" in then[2].why
    chain.mine(DEPTH + 3, VALIDITY)
    assert ask(chain, [paid, waiting], chain.url)[2].kind == "dead"


def test_the_dead_are_dead_for_the_chain_too(chain: Anvil) -> None:
    payer = Payer(chain)
    late, payload = payer.pay()
    chain.mine(2, VALIDITY)
    chain.mine(DEPTH)
    assert ask(chain, [late], chain.url)[1].kind == "dead"
    with pytest.raises(RuntimeError):
        chain.settle(payload)


def test_a_transaction_long_ago_is_found_again(chain: Anvil) -> None:
    payer = Payer(chain)
    payments = []
    for _ in range(5):
        sent, payload = payer.pay()
        payments.append((sent, chain.settle(payload)))
        chain.mine(200, 2)
    chain.mine(3, 40 * 24 * 3600)  # nobody made a block for months
    chain.mine(100)
    with relay(node(chain.url)) as rpc:
        verdicts = ask(chain, [sent for sent, _ in payments], rpc.url)
    assert [verdicts[sent.key].transaction for sent, _ in payments] == [transaction for _, transaction in payments]
    assert rpc.requests < 80


def test_it_says_what_moved_and_where(chain: Anvil) -> None:
    payer = Payer(chain)
    nonce = secrets.token_bytes(32)
    less, payload = payer.pay(100, nonce)  # a second signature over the same nonce, for less
    asked = replace(less, amount=5000, pay_to=STRANGER)
    chain.settle(payload)
    chain.mine(DEPTH)
    verdict = ask(chain, [asked], chain.url)[1]
    assert (verdict.kind, verdict.amount, verdict.pay_to) == ("moved", 100, PAY_TO.lower())


def test_a_reorganisation_takes_nothing_back_that_was_said(chain: Anvil) -> None:
    payer = Payer(chain)
    paid, payload = payer.pay()
    chain.settle(payload)
    chain.mine(5)
    assert ask(chain, [paid], chain.url)[1].kind == "open"
    chain.rpc("anvil_rollback", 6)
    chain.mine(DEPTH)
    assert ask(chain, [paid], chain.url)[1].kind == "open"
    transaction = chain.settle(payload)
    chain.mine(DEPTH)
    assert ask(chain, [paid], chain.url)[1].transaction == transaction


def test_an_rpc_that_is_behind_knows_later(chain: Anvil) -> None:
    payer = Payer(chain)
    paid, payload = payer.pay()
    chain.settle(payload)
    old = chain.rpc("eth_getBlockByNumber", "0x0", False)
    chain.mine(DEPTH)

    def behind(call: dict[str, Any]) -> dict[str, Any]:
        if call["method"] == "eth_getBlockByNumber" and call["params"][0] == "latest":
            return result(call, old)
        return node(chain.url)(call)

    with relay(behind) as rpc:
        assert ask(chain, [paid], rpc.url)[1].kind == "open"
        assert ask(chain, [paid], rpc.url, chain.url)[1].later, "the other one is not believed alone"


def liar(chain: Anvil, method: str, value: Any) -> RelayRpc:
    def lie(call: dict[str, Any]) -> dict[str, Any]:
        return result(call, value) if call["method"] == method else node(chain.url)(call)

    return RelayRpc(lie)


def test_one_that_lies_is_found_out_and_frees_nothing(chain: Anvil) -> None:
    payer = Payer(chain)
    paid, payload = payer.pay()
    chain.settle(payload)
    chain.mine(DEPTH + 3, VALIDITY)
    with liar(chain, "eth_call", "0x" + "0" * 64) as rpc:
        for urls in ((rpc.url, chain.url), (chain.url, rpc.url)):
            verdict = ask(chain, [paid], *urls)[1]
            assert (verdict.kind, verdict.disputed) == ("open", True)
            assert "contradict" in verdict.why
        assert ask(chain, [paid], rpc.url, "http://127.0.0.1:1")[1].kind == "open", "two are known, one answers"
        assert ask(chain, [paid], rpc.url, rpc.url, chain.url)[1].kind == "dead", "two that lie together"


def test_one_that_tells_of_too_little_frees_nothing(chain: Anvil) -> None:
    payer = Payer(chain)
    paid, payload = payer.pay()
    chain.settle(payload)
    chain.mine(DEPTH)

    def less(call: dict[str, Any]) -> dict[str, Any]:
        said = node(chain.url)(call)
        if call["method"] == "eth_getTransactionReceipt":
            said["result"]["logs"][1]["data"] = "0x" + "1".rjust(64, "0")
        return said

    with relay(less) as rpc:
        assert ask(chain, [paid], rpc.url)[1].amount == 1, "the only one that is known"
        assert ask(chain, [paid], rpc.url, chain.url)[1].disputed
        assert ask(chain, [paid], rpc.url, "http://127.0.0.1:1")[1].kind == "open"


def test_the_sellers_own_rpc_frees_nothing(chain: Anvil) -> None:
    payer = Payer(chain)
    dead, _ = payer.pay()
    chain.mine(DEPTH + 3, VALIDITY)

    async def main() -> Verdict:
        rpc = Rpc(chain.url, 20, Allowance(100))
        rpc.host = "rpc.seller.test"
        payment = replace(dead, seller="api.seller.test")
        return (await look_up(chain.network, [payment], [rpc]))[1]

    verdict = asyncio.run(main())
    assert verdict.kind == "open"
    assert "the seller's own" in verdict.why


def test_ranges_are_halved_where_they_are_limited(chain: Anvil) -> None:
    payer = Payer(chain)
    payments = []
    for _ in range(3):
        sent, payload = payer.pay()
        payments.append((sent, chain.settle(payload)))
        chain.mine(50)
    chain.mine(DEPTH)

    def limited(call: dict[str, Any]) -> dict[str, Any]:
        if call["method"] == "eth_getLogs":
            first, last = (int(call["params"][0][name], 16) for name in ("fromBlock", "toBlock"))
            if last - first + 1 > 20:
                return error(call, -32005, "eth_getLogs is limited to a 20 block range")
        return node(chain.url)(call)

    with relay(limited) as rpc:
        verdicts = ask(chain, [sent for sent, _ in payments], rpc.url)
    assert [verdicts[sent.key].transaction for sent, _ in payments] == [transaction for _, transaction in payments]


def test_one_that_forgets_old_logs_is_helped_out_by_another(chain: Anvil) -> None:
    payer = Payer(chain)
    paid, payload = payer.pay()
    transaction = chain.settle(payload)
    chain.mine(DEPTH + 3, VALIDITY)
    with liar(chain, "eth_getLogs", []) as rpc:
        alone = ask(chain, [paid], rpc.url)[1]
        assert alone.kind == "used", "neither free, nor settled without its transaction"
        assert "no RPC has the log" in alone.why
        assert ask(chain, [paid], rpc.url, chain.url)[1].transaction == transaction


def test_batches_shrink_and_a_busy_server_is_given_time(chain: Anvil) -> None:
    payer = Payer(chain)
    payments = [payer.pay()[0] for _ in range(30)]
    chain.mine(DEPTH + 3, VALIDITY)
    with relay(node(chain.url), most=10) as rpc:
        rpc.busy = 2
        verdicts = ask(chain, payments, rpc.url)
    assert {verdict.kind for verdict in verdicts.values()} == {"dead"}
    assert rpc.count("eth_call") >= 30


def test_no_more_requests_an_hour_than_are_allowed(chain: Anvil) -> None:
    payer = Payer(chain)
    paid, _ = payer.pay()
    with relay(node(chain.url)) as rpc:
        verdict = ask(chain, [paid], rpc.url, per_hour=1)[1]
    assert rpc.requests == 1
    assert "this hour's 1 requests are used up" in verdict.why


@pytest.mark.parametrize(
    ("method", "value", "why"),
    [
        ("eth_chainId", "0x1", "it serves the chain 1"),
        ("eth_chainId", None, "its answer is not a number"),
        ("eth_getBlockByNumber", None, "does not have the block"),
        ("eth_call", "0x", "its answer is not a number"),
        ("eth_getBlockByNumber", {"number": "0x" + "f" * 60, "timestamp": "0x1"}, "an impossible number or time"),
        ("eth_getBlockByNumber", {"number": "0x1", "timestamp": "0x" + "f" * 60}, "an impossible number or time"),
        ("eth_call", "0x" + "f" * 65, "its answer is not a number"),
    ],
)
def test_nonsense_is_no_answer(chain: Anvil, method: str, value: Any, why: str) -> None:
    payer = Payer(chain)
    paid, _ = payer.pay()
    with liar(chain, method, value) as rpc:
        verdict = ask(chain, [paid], rpc.url)[1]
    assert verdict.kind == "open"
    assert why in verdict.why


def test_a_receipt_without_the_log_proves_nothing(chain: Anvil) -> None:
    payer = Payer(chain)
    paid, payload = payer.pay()
    transaction = chain.settle(payload)
    other = chain.transact("mint(address,uint256)", STRANGER, 1)
    chain.mine(DEPTH)

    def wrong(call: dict[str, Any]) -> dict[str, Any]:
        if call["method"] == "eth_getTransactionReceipt":
            call = {**call, "params": [other]}
        return node(chain.url)(call)

    with relay(wrong) as rpc:
        assert ask(chain, [paid], rpc.url)[1].kind == "used"
    assert AUTHORIZATION_USED in str(chain.rpc("eth_getTransactionReceipt", transaction))


@pytest.mark.thorough
def test_ten_thousand_in_a_minute(chain: Anvil) -> None:
    """Most of it is the node's own time; a hundred of them were paid."""
    payer = Payer(chain)
    paid = []
    for _ in range(100):
        sent, payload = payer.pay()
        chain.settle(payload)
        paid.append(sent)
    template = paid[-1]
    rest = [replace(template, key=number, reference="0x" + secrets.token_hex(32)) for number in range(101, 10_001)]
    chain.mine(DEPTH + 3, VALIDITY)
    begun = time.monotonic()
    with relay(node(chain.url)) as rpc:
        verdicts = ask(chain, [*paid, *rest], rpc.url)
    print(f"\n10,000 rows in {time.monotonic() - begun:.1f} s, {rpc.requests} requests")
    assert sum(verdict.kind == "moved" for verdict in verdicts.values()) == 100
    assert sum(verdict.kind == "dead" for verdict in verdicts.values()) == 9_900
    assert rpc.requests < 300


def test_more_than_was_signed_for_is_not_believed(chain: Anvil) -> None:
    payer = Payer(chain)
    paid, payload = payer.pay()
    chain.settle(payload)
    chain.mine(DEPTH)

    def more(call: dict[str, Any]) -> dict[str, Any]:
        said = node(chain.url)(call)
        if call["method"] == "eth_getTransactionReceipt":
            said["result"]["logs"][1]["data"] = "0x" + "f" * 64
        return said

    with relay(more) as rpc:
        verdict = ask(chain, [paid], rpc.url)[1]
    assert verdict.kind == "open"
    assert "nobody can move more" in verdict.why


@pytest.mark.parametrize("number", [[], {}, None, "1", True])
def test_answers_of_a_batch_without_usable_numbers(chain: Anvil, number: Any) -> None:
    payer = Payer(chain)
    payments = [payer.pay()[0] for _ in range(3)]

    def unnumbered(call: dict[str, Any]) -> dict[str, Any]:
        return {**node(chain.url)(call), "id": number}

    with relay(unnumbered) as rpc:
        assert {verdict.kind for verdict in ask(chain, payments, rpc.url).values()} == {"open"}
