"""What is remembered of requests that were paid for and not answered, for how long, and for whom."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.errors import Refused
from mitmproxy_x402.ledger.interface import Ledger, Outcome
from mitmproxy_x402.ledger.opening import open_ledger
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained import store
from mitmproxy_x402.payment.retained.identity import Fingerprint, RequestIdentity, Route
from mitmproxy_x402.payment.retained.postgres import SharedRetainedPayments
from mitmproxy_x402.payment.retained.store import REMEMBER_SECONDS, Memory, Retained, RetainedPayments
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support import challenges
from support.ledger.ledgers import EPOCH, KINDS, DatabaseTimes, place_of
from support.paying.repeating import reordered
from support.proxy import EVM_KEY

ROUTE = ("POST", "https://h:443", "/v1/x")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def fingerprint(route: Route, body: bytes) -> Fingerprint:
    return RequestIdentity(route, body).fingerprint


@given(st.dictionaries(st.text(), JSON), st.sampled_from([None, 1]), st.booleans())
def test_the_order_of_keys_does_not_matter(value: Any, indent: int | None, ascii_only: bool) -> None:
    first = json.dumps(value).encode()
    other = json.dumps(reordered(value), indent=indent, ensure_ascii=ascii_only)
    assert fingerprint(ROUTE, first) == fingerprint(ROUTE, other.encode())


@given(JSON, JSON)
def test_other_values_are_other_requests(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    first, second = (fingerprint(ROUTE, json.dumps([value]).encode()) for value in (one, other))
    assert (first == second) == same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 1, "a": 2}', b'{"a": 2}'),
        (b'{"a": NaN}', b'{"a":"NaN"}'),
        (b"[" * 100, b"[" * 101),
        (b'{"a": 1', b'{"a":1'),
        (b"1", b"1 "),
        (b'{"a": 1}', b'{"a": 1.0}'),
        (b'{"a": [1, 2]}', b'{"a": [2, 1]}'),
    ],
)
def test_what_readers_could_differ_about_is_compared_byte_for_byte(one: bytes, other: bytes) -> None:
    assert fingerprint(ROUTE, one) != fingerprint(ROUTE, other)


def form(boundary: str, *parts: str) -> bytes:
    return "".join([*(f"--{boundary}\r\n\r\n{part}\r\n" for part in parts), f"--{boundary}--\r\n"]).encode()


def test_a_forms_boundary_does_not_matter() -> None:
    same = [form(boundary, "a", "b") for boundary in ("x", "y" * 70, "a--b", "0123")]
    assert len({fingerprint(ROUTE, body) for body in same}) == 1
    others = [form("x", "b", "a"), form("x", "ab"), form("x", "a", "b", ""), form("x", "a", "b") + b"x", b"--x"]
    assert len({fingerprint(ROUTE, body) for body in [*same, *others]}) == 1 + len(others)


@given(st.lists(st.text("ab-\r\n"), max_size=4), st.lists(st.text("ab-\r\n"), max_size=4), st.sampled_from(["Q", "R1"]))
def test_other_parts_are_other_forms(one: list[str], other: list[str], boundary: str) -> None:
    first, second = fingerprint(ROUTE, form("Q", *one)), fingerprint(ROUTE, form(boundary, *other))
    assert (first == second) == (form("Q", *one) == form("Q", *other))


def test_the_route_matters() -> None:
    assert fingerprint(ROUTE, b"") != fingerprint(("PUT", *ROUTE[1:]), b"")
    assert fingerprint(ROUTE, b"") != fingerprint((*ROUTE[:2], "/v1/x?a"), b"")


class Shop:
    """Purchases of one and the same request, in a world without a network: of one proxy with a file, or of two with a
    database, in turn.
    """

    def __init__(self, folder: Path, place: LedgerPlace, times: DatabaseTimes | None = None, **options: str) -> None:
        given = {f"x402_{key}": value for key, value in options.items()}
        self._times, self._now = times, EPOCH * 1.0
        settings = read_settings(given, {}, cwd=folder, home=folder)
        wallets = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, folder))
        self.ledgers = [open_ledger(place) for _ in range(1 if times is None else 2)]
        self.payers = [Payer(settings, wallets, ledger, clock=lambda: self._now) for ledger in self.ledgers]
        self.stores: list[Retained] = [
            SharedRetainedPayments(ledger, wallets, settings.networks, lambda: self._now)
            if isinstance(ledger, PostgresLedger)
            else RetainedPayments(lambda: self._now)
            for ledger in self.ledgers
        ]
        self._turns = itertools.cycle(range(len(self.ledgers)))

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, seconds: float) -> None:
        self._now = seconds
        if self._times is not None:
            self._times.wall = seconds

    @property
    def payer(self) -> Payer:
        return self.payers[0]

    @property
    def ledger(self) -> Ledger:
        return self.ledgers[0]

    @property
    def retained(self) -> Retained:
        return self.stores[0]

    def purchase(self, body: bytes = b"{}", route: Route = ROUTE, client: str = "10.0.0.1") -> Purchase:
        """At the proxy whose turn it is."""
        turn = next(self._turns)
        purpose = Purpose(route[0], "127.0.0.1", route[2])
        return Purchase(self.payers[turn], self.stores[turn], purpose, RequestIdentity(route, body), client=client)

    def buy(self, purchase: Purchase, lives: int = 300) -> Payment:
        asked = challenges.evm()
        asked["accepts"][0]["maxTimeoutSeconds"] = lives
        required = read_payment_required(None, json.dumps(asked).encode())
        assert required is not None
        try:
            purchase.buy(required).send(None)
        except StopIteration as end:
            payment: Payment = end.value
            return payment
        raise AssertionError

    def fail(self, body: bytes = b"{}") -> Payment:
        """A request that is paid for, with what is at hand, and ends badly."""
        purchase = self.purchase(body)
        if not purchase.reuse_retained():
            self.buy(purchase)
        payment = purchase.payment
        assert payment is not None
        purchase.sending()
        purchase.finish(Outcome("unknown"), complete=False)
        return payment

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger.close()


@pytest.fixture(params=KINDS)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    place = place_of(request.param, tmp_path, request)
    times = DatabaseTimes(place) if isinstance(place, PostgresUrl) else None
    made = []

    def make(**options: str) -> Shop:
        made.append(Shop(tmp_path, place, times, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
    if times is not None:
        times.close()


HOP = ("GET", ROUTE[1], "/hop")


def redirected(one: Shop, body: bytes = b"{}") -> Payment:
    """A request that is paid for and answered by a redirect."""
    purchase = one.purchase(body)
    payment = one.buy(purchase)
    purchase.sending()
    purchase.redirected()
    purchase.answered(307)
    purchase.finish(Outcome("unknown"), complete=False)
    return payment


def challenged(purchase: Purchase) -> Payment | None:
    """What goes with a request when it was challenged, of what is there."""
    return purchase.payment if purchase.reuse_retained(purchase.identity, purchase.follows) else None


@pytest.mark.parametrize(
    ("body", "client"), [(b"{}", "10.0.0.1"), (b"{}", "10.0.0.2"), (b"", "10.0.0.1")], ids=["same", "moved", "none"]
)
def test_who_follows_a_redirect_sends_the_same_payment(shop: Any, body: bytes, client: str) -> None:
    one = shop()
    first = redirected(one)
    assert challenged(one.purchase(body, HOP, client)) == first
    assert challenged(one.purchase(body, HOP, client)) is None  # one alone gets it
    assert challenged(one.purchase()) is None


@pytest.mark.parametrize(("body", "client"), [(b"[]", "10.0.0.1"), (b"", "10.0.0.2")])
def test_others_do_not_follow(shop: Any, body: bytes, client: str) -> None:
    one = shop()
    first = redirected(one)
    assert challenged(one.purchase(body, HOP, client)) is None
    assert challenged(one.purchase()) == first


def test_a_payment_goes_along_from_hop_to_hop_and_back(shop: Any) -> None:
    """Also where a hop ends badly, and the client begins anew."""
    one = shop()
    first = redirected(one)
    for number in range(5):
        hop = one.purchase(b"{}", (*HOP[:2], f"/{number}"))
        assert challenged(hop) == first
        hop.sending()
        if number % 2:
            hop.redirected()
        hop.finish(Outcome("unknown"), complete=False)
    again = one.purchase()
    assert challenged(again) == first
    again.sending()
    again.finish(Outcome("unknown"), complete=True)
    assert challenged(one.purchase(b"", HOP)) is None


def test_the_last_redirect_is_followed_first(shop: Any) -> None:
    one = shop()
    first, second = redirected(one, b"[1]"), redirected(one, b"[2]")
    assert challenged(one.purchase(b"", HOP)) == second
    assert challenged(one.purchase(b"", HOP)) == first


def test_what_follows_a_redirect_is_bought_again_within_the_limit(shop: Any) -> None:
    one = shop()
    redirected(one)
    one.now += 400
    hop = one.purchase(b"", HOP)
    assert challenged(hop) is None
    one.buy(hop)
    hop.sending()
    hop.finish(Outcome("unknown"), complete=False)
    one.now += 400
    other = one.purchase(b"", (*HOP[:2], "/other"))
    assert challenged(other) is None
    with pytest.raises(Refused, match="with a redirect"):
        one.buy(other)


def test_while_it_is_valid_the_same_payment_goes_and_then_a_new_one_and_no_third(shop: Any) -> None:
    one = shop()
    first = one.fail()
    one.now = first.valid_until - 1
    assert one.fail() == first
    one.now = first.valid_until
    second = one.fail()
    assert second.reference != first.reference
    one.now = second.valid_until
    for _ in range(3):
        with pytest.raises(Refused, match="paid 2 times"):
            one.fail()
        one.now += REMEMBER_SECONDS / 4
    # Being refused does not keep the memory alive.
    one.now = second.valid_until + REMEMBER_SECONDS
    assert one.fail().reference not in (first.reference, second.reference)


def test_a_payment_that_was_called_rejected_counts_as_made_while_it_can_be_settled(shop: Any) -> None:
    """Else a seller that calls each payment stale gets a new signature every ten minutes, all of them alive."""
    one = shop(repurchase="0", max_validity="3600")
    purchase = one.purchase()
    first = one.buy(purchase, 3600)
    purchase.sending()
    assert not purchase.rejected("PAYMENT_BLOCKHASH_STALE", 402)
    purchase.finish(Outcome("unknown"), complete=False)
    assert first.valid_until > one.now + 2 * REMEMBER_SECONDS
    while one.now < first.valid_until - 1:
        with pytest.raises(Refused, match="x402_repurchase allows 0"):
            one.fail()
        one.now = min(one.now + REMEMBER_SECONDS - 1, first.valid_until - 1)
    one.now = first.valid_until + REMEMBER_SECONDS
    assert one.fail().reference != first.reference


@pytest.mark.parametrize("jump", [86400, -86400])
def test_setting_the_clock_makes_nobody_forget_what_was_paid_for(jump: int) -> None:
    wall, uptime = 1e9, 100.0
    identity = RequestIdentity(ROUTE, b"1")
    retained = RetainedPayments(lambda: wall, lambda: uptime)
    retained.remember(identity, Memory(None, 0, 2, 7, "ledger"))
    wall += jump
    kept = retained.take(identity)
    assert kept is not None
    retained.remember(identity, kept)
    uptime += REMEMBER_SECONDS - 1
    assert retained.expects(ROUTE)
    assert retained.take(identity) is kept
    retained.remember(identity, kept)
    uptime += 1
    assert retained.take(identity) is None


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_how_often_one_request_is_paid(shop: Any, allowed: int) -> None:
    one = shop(repurchase=str(allowed))
    for _ in range(allowed + 1):
        one.now = one.fail().valid_until
    with pytest.raises(Refused, match="x402_repurchase"):
        one.fail()


def test_a_payment_that_was_found_spent_is_not_sent_again(shop: Any) -> None:
    one = shop()
    first = one.fail()
    purchase = one.purchase()
    assert purchase.reuse_retained()
    purchase.sending()
    assert purchase.rejected("PAYMENT_REPLAY", 402)
    second = one.buy(purchase)
    purchase.sending()
    purchase.finish(Outcome("unknown"), complete=False)
    assert second.reference != first.reference
    assert one.fail() == second


def test_stale_in_answer_to_a_second_sending_proves_nothing_of_the_first(shop: Any) -> None:
    one = shop()
    first = one.fail()
    purchase = one.purchase()
    purchase.reuse_retained()
    purchase.sending()
    assert purchase.rejected("PAYMENT_BLOCKHASH_STALE", 402)
    one.buy(purchase)
    assert one.ledger.spent(one.payer.settings.budgets[0]) == 2 * first.offer.micro_usd
    purchase.finish(Outcome("unknown"), complete=False)
    assert one.ledger.spent(one.payer.settings.budgets[0]) == first.offer.micro_usd


def test_a_payment_that_was_taken_over_and_not_sent_goes_back(shop: Any) -> None:
    one = shop()
    first = one.fail()
    purchase = one.purchase()
    assert purchase.reuse_retained()
    assert not one.purchase().reuse_retained()
    purchase.finish(Outcome("unknown"), complete=False)
    assert one.fail() == first


def test_another_ledger_has_other_rows(shop: Any, tmp_path: Path) -> None:
    one = shop()
    one.fail()
    other = Shop(tmp_path, tmp_path / "other.sqlite3")
    purchase = Purchase(other.payer, one.retained, Purpose("POST", "127.0.0.1", "/"), RequestIdentity(ROUTE, b"{}"))
    assert not purchase.reuse_retained()
    other.close()


def test_what_is_still_valid_is_never_forgotten_to_make_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "MAX_MEMORIES", 3)
    one = Shop(tmp_path, tmp_path / "ledger.sqlite3")
    first = [one.fail(b"%d" % number) for number in range(3)]
    with pytest.raises(Refused, match="x402_max_validity") as refused:
        one.fail(b"3")
    assert refused.value.reason == "too_many_failed"
    assert [one.fail(b"%d" % number) for number in range(3)] == first
    one.now += max(REMEMBER_SECONDS, first[0].valid_until - one.now)
    one.fail(b"3")
    one.close()


def test_large_payments_take_more_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = Shop(tmp_path, tmp_path / "ledger.sqlite3")
    first = one.fail(b"0")
    monkeypatch.setattr(store, "MAX_HEADERS", len(first.header[1]) + 1)
    one.fail(b"1")
    with pytest.raises(Refused, match="x402_max_validity"):
        one.fail(b"2")
    one.now = first.valid_until
    assert one.fail(b"0") != first  # what has expired takes no room
    one.close()


def test_a_request_that_fails_again_and_again_takes_the_room_of_one(tmp_path: Path) -> None:
    one = Shop(tmp_path, tmp_path / "ledger.sqlite3")
    payments = [one.fail() for _ in range(1000)]
    assert payments == payments[:1] * 1000
    assert all(size < 1000 for _, size in sizes(one.retained))
    one.close()


def sizes(value: object) -> list[tuple[str, int]]:
    return [(name, len(each)) for name, each in vars(value).items() if isinstance(each, list | dict)]


def test_routes_that_lead_nowhere_any_more_are_gone() -> None:
    now = 0.0
    retained = RetainedPayments(lambda: now)
    for number in range(300):
        identity = RequestIdentity(("POST", "h", f"/{number % 7}"), b"%d" % number)
        anywhere = (identity, identity.anywhere())
        retained.remember(identity, Memory(None, 1, 1, number, "ledger", also=anywhere))
        if number % 2:
            assert retained.take(identity.anywhere()) is not None
    now = REMEMBER_SECONDS
    assert not retained.is_full
    assert [size for _, size in sizes(retained)] == [0] * len(sizes(retained))
