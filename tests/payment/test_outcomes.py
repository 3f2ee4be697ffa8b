"""When it is written down what became of payments, and what the log says of it."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.interface import Ledger, Outcome
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.outcomes import DELAY, MOST, RETRY_SECONDS
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support import challenges
from support.ledger.ledgers import query
from support.ledger.postgres import Postgres
from support.place import place
from support.proxy import EVM_KEY

SETTLED = Outcome("settled", "0x" + "ab" * 32, 200)


class Shop:
    """One payer, for which no time passes but when `pass_by` is called."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.ledger = ledger
        self.calls: list[Callable[[], object]] = []
        self.retries: list[Callable[[], object]] = []
        self.delays: list[float] = []
        settings = read_settings({"x402_budget": "10/day"}, {}, cwd=folder, home=folder)
        wallets = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, folder))
        self.payer = Payer(settings, wallets, self.ledger, later=self.later)
        self.retained = RetainedPayments(lambda: 0.0)

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        if seconds == RETRY_SECONDS:
            self.retries.append(call)
        else:
            self.delays.append(seconds)
            self.calls.append(call)

    def pass_by(self) -> None:
        while self.calls:
            self.calls.pop(0)()

    def sent(self, path: str = "/v1/x") -> Purchase:
        """A purchase whose payment has left."""
        required = read_payment_required(None, json.dumps(challenges.evm("250000")).encode())
        assert required is not None
        identity = RequestIdentity(("POST", "http://h", path), b"{}")
        purchase = Purchase(self.payer, self.retained, Purpose("POST", "127.0.0.1", path), identity)
        asyncio.run(purchase.buy(required))
        purchase.sending()
        return purchase

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Another process writes into the ledger, and is slow."""
        with closing(sqlite3.connect(str(self.ledger.place), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield

    @property
    def states(self) -> list[str]:
        return [state for (state,) in query(self.ledger.place, "state")]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with closing(SqliteLedger(tmp_path / "ledger.sqlite3")) as ledger:
        yield Shop(tmp_path, ledger)


def test_settlements_wait_for_each_other(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    purchases = [shop.sent("/v1/a"), shop.sent("/v1/b")]
    for purchase in purchases:
        purchase.finish(SETTLED, complete=True)
        assert (purchase.state, purchase.transaction) == ("settled", SETTLED.transaction)
    assert shop.states == ["sent", "sent"]
    assert shop.ledger.spent_of(shop.payer.settings.budgets) == [500000]
    assert (shop.delays, caplog.messages) == ([DELAY], [])
    shop.pass_by()
    assert query(shop.ledger.place, "state, transaction_id, status") == [("settled", SETTLED.transaction, 200)] * 2
    for line, path in zip(caplog.messages, ("/v1/a", "/v1/b"), strict=True):
        assert f"for POST {path}: paid {SETTLED.transaction}; left: 9.5 of 10/day" in line
    shop.sent().finish(SETTLED, complete=True)
    assert len(shop.delays) == 2


def test_the_event_loop_gets_a_turn_between_many_of_them(shop: Shop) -> None:
    for _ in range(2 * MOST + 1):
        shop.sent().finish(SETTLED, complete=True)
    for turn in range(3):
        assert shop.states.count("settled") == turn * MOST
        shop.calls.pop(0)()
    assert shop.states == ["settled"] * (2 * MOST + 1)
    assert (shop.delays, shop.calls) == ([DELAY, 0, 0], [])


def test_all_that_waits_is_written_on_demand(shop: Shop) -> None:
    for _ in range(2 * MOST + 1):
        shop.sent().finish(SETTLED, complete=True)
    shop.payer.outcomes.flush()
    assert shop.states == ["settled"] * (2 * MOST + 1)
    shop.pass_by()


def test_an_unknown_outcome_is_written_at_once(shop: Shop) -> None:
    shop.sent("/v1/a").finish(SETTLED, complete=True)
    shop.sent("/v1/b").finish(Outcome("unknown", status=200), complete=True)
    assert shop.states == ["sent", "unknown"]
    shop.pass_by()
    assert shop.states == ["settled", "unknown"]


def test_a_rejection_is_written_at_once(shop: Shop) -> None:
    shop.sent().rejected("PAYMENT_UNDERPAID", 402)
    assert (shop.states, shop.calls) == (["rejected"], [])


def test_a_payment_that_was_sent_twice_is_written_at_once(shop: Shop) -> None:
    """What its row says of the first time may be another thing."""
    shop.sent().finish(Outcome("unknown"), complete=False)
    again = shop.sent()
    again.sending()
    again.finish(SETTLED, complete=True)
    assert (again.state, shop.states, shop.calls) == ("settled", ["unknown", "settled"], [])


def test_a_job_s_payment_is_written_at_once(shop: Shop) -> None:
    """Its polls ask the ledger whether they may pay."""
    purchase = shop.sent()
    purchase.is_job = True
    purchase.finish(SETTLED, complete=True)
    assert (shop.states, shop.calls) == (["settled"], [])


def test_what_cannot_be_written_is_said_and_stays_counted(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    shop.sent().finish(SETTLED, complete=True)
    with shop.locked():
        shop.pass_by()
    error, line = caplog.messages
    assert "could not be written down yet" in error
    assert f"paid {SETTLED.transaction}; left: unknown" in line
    assert shop.states == ["sent"]
    shop.sent().rejected("PAYMENT_UNDERPAID", 402)
    assert shop.states == ["settled", "rejected"]


def test_what_could_not_be_written_is_written_without_a_next_one(shop: Shop) -> None:
    shop.sent().finish(SETTLED, complete=True)
    with shop.locked():
        shop.pass_by()
        for _ in range(3):
            (retry,) = shop.retries
            shop.retries.clear()
            retry()
    assert shop.states == ["sent"]
    shop.retries.pop()()
    assert (shop.states, shop.retries) == (["settled"], [])


def test_what_was_written_is_no_error_where_nobody_can_say_what_is_left(
    tmp_path: Path, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.fresh()  # it is broken afterwards
    with closing(PostgresLedger(url)) as ledger:
        shop = Shop(tmp_path, ledger)
        purchase = shop.sent()
        postgres.execute("DROP FUNCTION x402_spent_of(bigint[], bigint[], text[], text[])", url=url)
        caplog.set_level(logging.INFO)
        purchase.finish(SETTLED, complete=True)
        shop.pass_by()
        assert shop.states == ["settled"]
        (line,) = caplog.messages
        assert line.endswith("; left: unknown")


def test_the_end_of_the_ledger_is_the_last_chance_to_write(shop: Shop) -> None:
    shop.sent().finish(SETTLED, complete=True)
    with shop.locked():
        shop.pass_by()
    shop.ledger.close()
    assert shop.states == ["settled"]


def test_the_end_of_the_proxy_writes_what_waits(tmp_path: Path) -> None:
    with place(tmp_path) as shop:
        assert shop.post({"model": "m", "messages": []}).status_code == 200
        shop.proxy.process.terminate()
        shop.proxy.wait_for_end()
        assert shop.rows("state, transaction_id IS NULL") == [("settled", 0)]
