"""Payments that many proxies hold together: who gets them, and who cannot even read them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.ledger.interface import LedgerError
from mitmproxy_x402.ledger.opening import open_ledger
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.retained import open_retained
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.postgres import SharedRetainedPayments
from mitmproxy_x402.payment.retained.store import REMEMBER_SECONDS, Memory
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.networks import BUILT_IN, NetworkTable
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.ledger_place import PostgresUrl
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from support import challenges
from support.ledger.postgres import Postgres
from support.proxy import EVM_KEY, svm_key

ROUTE = ("POST", "https://gateway.example:443", "/v1/x?secret-query")
KEY = RequestIdentity(ROUTE, b'{"prompt": "very private"}')


@pytest.fixture
def url(postgres: Postgres) -> PostgresUrl:
    return postgres.empty()


@pytest.fixture
def wallets(tmp_path: Path) -> Wallets:
    return load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, tmp_path))


Proxies = Callable[..., SharedRetainedPayments]


@pytest.fixture
def proxy(url: PostgresUrl, wallets: Wallets) -> Iterator[Proxies]:
    """Makes one more proxy's view of what is held."""
    with ExitStack() as stack:

        def make(its: Wallets = wallets, networks: NetworkTable = BUILT_IN) -> SharedRetainedPayments:
            ledger = PostgresLedger(url)
            stack.callback(ledger.close)
            return SharedRetainedPayments(ledger, its, networks, time.time)

        yield make


@pytest.fixture
def payment(url: PostgresUrl, wallets: Wallets, tmp_path: Path) -> Payment:
    required = read_payment_required(None, json.dumps(challenges.evm()).encode())
    assert required is not None
    ledger = PostgresLedger(url)
    payer = Payer(read_settings({}, {}, cwd=tmp_path, home=tmp_path), wallets, ledger)
    try:
        payer.pay(required, Purpose("POST", "127.0.0.1", "/v1/x")).send(None)
    except StopIteration as end:
        found: Payment = end.value
        return found
    finally:
        ledger.close()
    raise AssertionError


def memory(payment: Payment | None, ledger: str = "") -> Memory:
    return Memory(payment, 1, 1, 7, ledger)


def row(postgres: Postgres, url: PostgresUrl) -> dict[str, Any]:
    columns = "route, fingerprint, sealed, sendable_until, forget_at"
    ((*values,),) = postgres.execute(f"SELECT {columns} FROM x402_held", url=url)
    return dict(zip(columns.split(", "), values, strict=True))


def test_another_proxy_gets_it_whole(url: PostgresUrl, proxy: Proxies, payment: Payment) -> None:
    one, other = proxy(), proxy()
    one.remember(KEY, memory(payment))
    assert not other.expects(ROUTE)  # that would cost every request a round trip
    assert other.may_be_retained_elsewhere(ROUTE)
    assert not other.may_be_retained_elsewhere((*ROUTE[:2], "/v1/x"))
    found = other.take(KEY)
    assert found is not None
    assert found.payment == payment
    assert (found.sends, found.purchases, found.last_row) == (1, 1, 7)
    with closing(PostgresLedger(url)) as ledger:
        assert found.ledger == ledger.name
    assert found.forget_at == pytest.approx(
        time.time() + max(REMEMBER_SECONDS, payment.valid_until - time.time()), abs=5
    )
    assert other.take(KEY) is None
    assert one.take(KEY) is None
    assert not one.may_be_retained_elsewhere(ROUTE)


def test_one_alone_gets_it(proxy: Proxies, payment: Payment) -> None:
    proxies = [proxy() for _ in range(6)]
    for _ in range(5):
        for count in range(3):
            proxies[count].remember(KEY, memory(payment))
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda one: one.take(KEY), proxies))
        assert sum(memory is not None for memory in found) == 3


def test_one_that_can_be_sent_goes_first(proxy: Proxies, payment: Payment) -> None:
    one = proxy()
    for each in (None, payment, None):
        one.remember(KEY, memory(each))
    found = [one.take(KEY) for _ in range(3)]
    assert [each is not None and each.payment is not None for each in found] == [True, False, False]


def test_nobody_learns_anything_from_the_database(
    postgres: Postgres, url: PostgresUrl, proxy: Proxies, payment: Payment
) -> None:
    proxy().remember(KEY, memory(payment))
    kept = row(postgres, url)
    everything = b"".join(value for value in kept.values() if isinstance(value, bytes))
    signature = json.loads(base64.b64decode(payment.header[1]))["payload"]["signature"]
    secrets = (payment.header[1], signature, signature[2:], payment.reference, "private", "secret-query", "gateway")
    for secret in secrets:
        assert secret.encode() not in everything
    assert bytes.fromhex(signature[2:]) not in everything
    assert KEY.digest not in everything  # of which a guess could be confirmed
    proxy().take(KEY)
    proxy().remember(KEY, memory(payment))
    assert row(postgres, url)["sealed"] != kept["sealed"]


def test_other_wallets_find_nothing(proxy: Proxies, payment: Payment, tmp_path: Path) -> None:
    proxy().remember(KEY, memory(payment))
    for keys in ({"BLOCKRUN_WALLET_KEY": "0x" + "22" * 32}, {"SOLANA_WALLET_KEY": svm_key()}):
        stranger = proxy(load_wallets(WalletSources(keys, tmp_path)))
        assert not stranger.may_be_retained_elsewhere(ROUTE)
        assert stranger.take(KEY) is None
    assert proxy().take(KEY) is not None


CHANGES = ["sealed = sealed || '\\x00'", "sealed = ''", "sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_does_not_open(
    postgres: Postgres, url: PostgresUrl, proxy: Proxies, payment: Payment, change: str
) -> None:
    proxy().remember(KEY, memory(payment))
    postgres.execute(f"UPDATE x402_held SET {change}", url=url)
    assert proxy().take(KEY) is None


def test_nor_does_what_was_moved_to_another_request(
    postgres: Postgres, url: PostgresUrl, proxy: Proxies, payment: Payment
) -> None:
    other = RequestIdentity(ROUTE, b"another")
    proxy().remember(KEY, memory(payment))
    proxy().remember(other, memory(None))
    newest = "(SELECT fingerprint FROM x402_held ORDER BY id DESC LIMIT 1)"
    postgres.execute(f"UPDATE x402_held SET fingerprint = {newest}", url=url)
    found = [proxy().take(other) for _ in range(2)]
    assert [each and each.payment for each in found] == [None, None]


def test_what_is_past_is_deleted_by_the_next(
    postgres: Postgres, url: PostgresUrl, proxy: Proxies, payment: Payment
) -> None:
    one = proxy()
    for make_next in (lambda: one.remember(KEY, memory(None)), lambda: proxy() and None):
        one.remember(KEY, memory(payment))
        postgres.execute("UPDATE x402_held SET forget_at = x402_now() - 1", url=url)
        assert not one.may_be_retained_elsewhere(ROUTE)
        assert one.take(KEY) is None
        make_next()
        postgres.execute("DELETE FROM x402_held WHERE forget_at > x402_now()", url=url)
        assert postgres.execute("SELECT 1 FROM x402_held", url=url) == []


def test_an_asset_that_this_proxy_does_not_know(proxy: Proxies, payment: Payment) -> None:
    """How often the request was paid is known all the same."""
    proxy().remember(KEY, memory(payment))
    found = proxy(networks=NetworkTable(())).take(KEY)
    assert found is not None
    assert (found.payment, found.purchases) == (None, 1)


def test_without_the_database_each_remembers_alone(postgres: Postgres, proxy: Proxies, payment: Payment) -> None:
    one = proxy()
    postgres.stop()
    try:
        one.remember(KEY, memory(payment))
        assert one.expects(ROUTE)
        with pytest.raises(LedgerError):
            one.may_be_retained_elsewhere(ROUTE)
        with pytest.raises(LedgerError):
            one.take(RequestIdentity(ROUTE, b"another"))
    finally:
        postgres.start()
    found = one.take(KEY)
    assert found is not None
    assert found.payment is payment
    assert not one.expects(ROUTE)


def test_who_shares_what(url: PostgresUrl, wallets: Wallets, tmp_path: Path) -> None:
    with ExitStack() as stack:
        database, file = open_ledger(url), open_ledger(tmp_path / "l")
        for ledger in (database, file):
            stack.callback(ledger.close)
        assert isinstance(open_retained(database, wallets, BUILT_IN), SharedRetainedPayments)
        assert open_retained(database, Wallets(), BUILT_IN) is None
        assert open_retained(file, wallets, BUILT_IN) is None
