"""After a gateway has said that the wallet cannot pay: what is answered from what is known, and until when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.errors import Refused
from mitmproxy_x402.ledger.interface import Outcome
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.balances import LOOK_SECONDS, REST_SECONDS
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support import challenges
from support.attacker import http, stage
from support.proxy import EVM_ADDRESS, EVM_KEY
from support.wire import Peer, Upstream

CODES = ["PAYMENT_UNFUNDED", "insufficient_funds"]


class Wallet:
    """A payer whose requests all meet a gateway that says that the wallet is empty."""

    def __init__(self, folder: Path, ledger: SqliteLedger, **options: str) -> None:
        self.now = 1_700_000_000.0
        given = {f"x402_{key}": value for key, value in options.items()}
        settings = read_settings(given, {}, cwd=folder, home=folder)
        wallets = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, folder))
        self.payer = Payer(settings, wallets, ledger, clock=lambda: self.now)
        self.retained = RetainedPayments(lambda: self.now)
        self.asked = 0

    async def ask(self, amount: str = "13081", code: str = CODES[0], host: str = "127.0.0.1") -> str:
        """The reason why a new request is not paid; empty: it was, and is then refused by the gateway with `code`."""
        self.asked += 1
        required = read_payment_required(None, json.dumps(challenges.evm(amount)).encode())
        assert required is not None
        identity = RequestIdentity(("POST", "http://h:1", f"/{self.asked}"))
        purchase = Purchase(self.payer, self.retained, Purpose("POST", host, "/v1/x"), identity)
        try:
            await purchase.buy(required)
        except Refused as refused:
            purchase.finish(Outcome("unknown", status=400), complete=False)
            return f"{refused.reason}: {refused}"
        purchase.sending()
        assert not purchase.rejected(code, 402)
        purchase.finish(Outcome("unknown", status=402), complete=False)
        return ""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    with closing(SqliteLedger(tmp_path / "ledger.sqlite3")) as made:
        yield made


@pytest.mark.parametrize("code", CODES)
def test_one_signature_and_then_words_until_the_time_is_over(tmp_path: Path, ledger: SqliteLedger, code: str) -> None:
    wallet = Wallet(tmp_path, ledger)

    async def play() -> None:
        assert await wallet.ask(code=code) == ""
        for _ in range(30):
            wallet.now += 1
            said = await wallet.ask()
            assert said.startswith("wallet_unfunded: ")
            for part in (EVM_ADDRESS, "USDC on base-sepolia", "Nothing was signed", "wallet fund", "x402_evm_rpc"):
                assert part in said
        wallet.now += REST_SECONDS
        assert await wallet.ask() == ""

    asyncio.run(play())


def test_less_may_be_there_and_others_are_not_concerned(tmp_path: Path, ledger: SqliteLedger) -> None:
    wallet = Wallet(tmp_path, ledger)

    async def play() -> None:
        assert await wallet.ask("13081") == ""
        assert await wallet.ask("13081", host="localhost") == ""
        assert await wallet.ask("13080") == ""
        assert (await wallet.ask("13080")).startswith("wallet_unfunded")
        wallet.now -= 7200  # somebody has set the clock
        assert await wallet.ask() == ""

    asyncio.run(play())


def test_a_balance_that_is_seen_to_change_ends_it(tmp_path: Path, ledger: SqliteLedger) -> None:
    holds = 12

    def rpc(peer: Peer, upstream: Upstream) -> None:
        while True:
            asked: Any = json.loads(upstream.read(peer).body)
            result = hex(84532 if asked["method"] == "eth_chainId" else holds)
            peer.send(http(200, json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode()))

    with Upstream(rpc) as node:
        wallet = Wallet(tmp_path, ledger, evm_rpc=f"base-sepolia={node.url}")

        async def looked_up(count: int) -> None:
            while len(node.requests) < count or len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        async def play() -> None:
            nonlocal holds
            assert await wallet.ask() == ""
            await looked_up(2)
            assert "It holds 0.000012 USDC." in await wallet.ask()
            wallet.now += LOOK_SECONDS
            assert (await wallet.ask()).startswith("wallet_unfunded")
            await looked_up(4)
            assert (await wallet.ask()).startswith("wallet_unfunded")
            holds = 5_000_000
            wallet.now += LOOK_SECONDS
            assert (await wallet.ask()).startswith("wallet_unfunded")
            await looked_up(6)
            assert await wallet.ask() == ""

        asyncio.run(play())


def test_an_empty_wallet_signs_once_for_thirty_requests(home: Path) -> None:
    """As a client sees it: the first one hears the gateway, all others our own words, which it does not repeat."""
    with stage(home) as shop:
        refusal = http(402, b'{"code": "PAYMENT_UNFUNDED", "error": "insufficient funds"}')
        signed = [shop.call(refusal, f"/v1/{number}", b"{}", tries=6) for number in range(30)]
        assert signed == [1] + [0] * 29
