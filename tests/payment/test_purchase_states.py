"""The table of a purchase's states: each cell is walked with a real purchase, and what may not come raises."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mitmproxy_x402.errors import Refused
from mitmproxy_x402.ledger.interface import Outcome
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.purchase_states import DRAWN, TABLE, Event, Stage, step_of
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support import challenges
from support.ledger.ledgers import query
from support.proxy import EVM_KEY

CELLS = [(stage, event) for stage, row in TABLE.items() for event in row]
UNKNOWN = Outcome("unknown", status=500)
UNDERPAID = "PAYMENT_UNDERPAID"


class Shop:
    """Purchases of one request, one after the other."""

    def __init__(self, folder: Path, ledger: SqliteLedger) -> None:
        self.now = 1_700_000_000.0
        settings = read_settings({"x402_preauthorize": "true", "x402_repurchase": "1"}, {}, cwd=folder, home=folder)
        wallets = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, folder))
        self.ledger = ledger
        self.payer = Payer(settings, wallets, ledger, clock=lambda: self.now)
        self.retained = RetainedPayments(lambda: self.now)
        self.identity = RequestIdentity(("POST", "http://h:1", "/v1/x"), b"{}")

    def purchase(self) -> Purchase:
        return Purchase(self.payer, self.retained, Purpose("POST", "127.0.0.1", "/v1/x"), self.identity)

    def buy(self, purchase: Purchase, amount: str = "13081") -> None:
        required = read_payment_required(None, json.dumps(challenges.evm(amount)).encode())
        assert required is not None
        buying = purchase.buy(required)
        try:
            buying.send(None)
        except StopIteration:
            return
        raise AssertionError("it waited")

    def states(self) -> list[str]:
        return [state for (state,) in query(self.ledger.place, "state")]

    # One purchase in each state, by what leads there.

    def new(self) -> Purchase:
        return self.purchase()

    def signed(self) -> Purchase:
        purchase = self.purchase()
        self.buy(purchase)
        return purchase

    def sent(self) -> Purchase:
        purchase = self.signed()
        purchase.sending()
        return purchase

    def retained_one(self) -> Purchase:
        self.sent().finish(UNKNOWN, complete=False)
        purchase = self.purchase()
        assert purchase.reuse_retained()
        return purchase

    def owed(self) -> Purchase:
        purchase = self.sent()
        assert purchase.rejected(UNDERPAID, 402)
        return purchase

    def returned(self) -> Purchase:
        purchase = self.sent()
        purchase.answered(500)
        return purchase

    def closed(self) -> Purchase:
        purchase = self.sent()
        assert not purchase.rejected("PAYMENT_INVALID", 402)
        return purchase

    def over(self) -> Purchase:
        purchase = self.sent()
        purchase.finish(UNKNOWN, complete=True)
        return purchase


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with closing(SqliteLedger(tmp_path / "ledger.sqlite3")) as ledger:
        yield Shop(tmp_path, ledger)


IN: dict[Stage, Callable[[Shop], Purchase]] = {
    Stage.NEW: Shop.new,
    Stage.OWED: Shop.owed,
    Stage.SIGNED: Shop.signed,
    Stage.RETAINED: Shop.retained_one,
    Stage.SENT: Shop.sent,
    Stage.RETURNED: Shop.returned,
    Stage.CLOSED: Shop.closed,
    Stage.OVER: Shop.over,
}


def take_up(shop: Shop, purchase: Purchase) -> None:
    shop.sent().finish(UNKNOWN, complete=False)
    assert purchase.reuse_retained()


def inherit(shop: Shop, purchase: Purchase) -> None:
    shop.sent().finish(UNKNOWN, complete=False)
    shop.now += 500
    assert not purchase.reuse_retained()


def refuse(shop: Shop, purchase: Purchase) -> None:
    with pytest.raises(Refused, match="x402_max_request"):
        shop.buy(purchase, "9000000")


def replace(_: Shop, purchase: Purchase) -> None:
    assert purchase.rejected(UNDERPAID, 402)


def reject(_: Shop, purchase: Purchase) -> None:
    assert not purchase.rejected("PAYMENT_INVALID", 402)


BY: dict[Event, Callable[[Shop, Purchase], object]] = {
    Event.TAKE_UP: take_up,
    Event.INHERIT: inherit,
    Event.SIGN: Shop.buy,
    Event.SEND: lambda _, purchase: purchase.sending(),
    Event.REPLACE: replace,
    Event.REJECT: reject,
    Event.REFUSE: refuse,
    Event.FAIL: lambda _, purchase: purchase.answered(500),
    Event.COMPLETE: lambda _, purchase: purchase.finish(UNKNOWN, complete=True),
    Event.BREAK: lambda _, purchase: purchase.finish(UNKNOWN, complete=False),
}
AHEAD = {Event.WITHDRAW, Event.SUPERSEDE}
"""Only payments that were made ahead of their challenge: see test_paying_ahead."""


@pytest.mark.parametrize(("stage", "event"), CELLS, ids=lambda each: each.name)
def test_each_cell(shop: Shop, stage: Stage, event: Event) -> None:
    if event in AHEAD:
        assert (stage, TABLE[stage][event].to) in ((Stage.SIGNED, Stage.NEW), (Stage.SENT, Stage.OWED))
        return
    purchase = IN[stage](shop)
    assert purchase.stage is stage
    kept, step = shop.retained.expects(shop.identity.route), TABLE[stage][event]
    before = shop.states()
    BY[event](shop, purchase)
    assert purchase.stage is step.to
    assert ("released" in shop.states()) == step.releases
    if step.records:
        assert [state for state in shop.states() if state != "sent"] != [state for state in before if state != "sent"]
    if event not in (Event.TAKE_UP, Event.INHERIT):
        pays_before = purchase.stage is not Stage.OVER or stage not in (Stage.SIGNED, Stage.NEW)
        expected = kept or (step.retains and pays_before)
        assert shop.retained.expects(shop.identity.route) == expected


@pytest.mark.parametrize(
    ("stage", "event"),
    [cell for cell in itertools.product(Stage, Event) if cell not in CELLS],
    ids=lambda each: each.name,
)
def test_what_cannot_come_raises(stage: Stage, event: Event) -> None:
    with pytest.raises(RuntimeError, match=f"^{event.name} in the state {stage.name}$"):
        step_of(stage, event)


def test_what_cannot_come_moves_nothing(shop: Shop) -> None:
    purchase = shop.over()
    with pytest.raises(RuntimeError, match="COMPLETE in the state OVER"):
        purchase.finish(UNKNOWN, complete=True)
    with pytest.raises(RuntimeError, match="REJECT in the state OVER"):
        purchase.rejected("PAYMENT_INVALID", 402)
    assert purchase.stage is Stage.OVER


def test_the_drawing_is_the_table() -> None:
    words = DRAWN.split()
    for stage in Stage:
        assert stage.name in words
    for event in Event:
        assert event.name in words
    assert not TABLE[Stage.OVER]


def test_what_was_signed_before_is_retained_when_the_next_is_not_sent(shop: Shop) -> None:
    """A signature after the gateway's word, given back: an equal request still knows of the first."""
    purchase = shop.owed()
    shop.buy(purchase)
    purchase.finish(UNKNOWN, complete=False)
    assert shop.retained.expects(shop.identity.route)
    again = shop.purchase()
    assert not again.reuse_retained()
    assert again.stage is Stage.OWED


@pytest.mark.parametrize("code", [UNDERPAID, "PAYMENT_BLOCKHASH_STALE"])
def test_the_gateways_word_frees_no_third_payment(shop: Shop, code: str) -> None:
    for _ in range(6):
        purchase = shop.purchase()
        if not (shop.retained.expects(shop.identity.route) and purchase.reuse_retained()):
            if len(shop.states()) == 2:
                with pytest.raises(Refused, match="x402_repurchase"):
                    shop.buy(purchase)
                purchase.finish(UNKNOWN, complete=False)
                continue
            shop.buy(purchase)
        purchase.sending()
        while purchase.rejected(code, 402):
            shop.buy(purchase)
            purchase.sending()
        purchase.finish(UNKNOWN, complete=False)
    assert len(shop.states()) == 2


def test_a_spent_payment_is_replaced_within_the_limit(shop: Shop) -> None:
    purchase = shop.retained_one()
    purchase.sending()
    assert purchase.rejected("PAYMENT_REPLAY", 402)
    shop.buy(purchase)
    purchase.sending()
    assert not purchase.rejected("PAYMENT_REPLAY", 402)
    again = shop.purchase()
    assert again.reuse_retained()
    again.sending()
    with pytest.raises(Refused, match="x402_repurchase"):
        again.rejected("PAYMENT_REPLAY", 402)
    assert again.stage is Stage.CLOSED
