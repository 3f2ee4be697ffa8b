"""Payments before their challenges, without a network: what counts and for how long, and on which blockhash."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from solders.message import Message, MessageV0
from solders.transaction import VersionedTransaction

from mitmproxy_x402.chain.solana_rpc import CACHE_SECONDS, FINALIZED_SECONDS
from mitmproxy_x402.errors import Refused
from mitmproxy_x402.forecast.forecast import TRUST
from mitmproxy_x402.forecast.quote import Question
from mitmproxy_x402.ledger.clock import Clock
from mitmproxy_x402.ledger.interface import LedgerError, Outcome
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sqlite.syncing import Sync
from mitmproxy_x402.payment.challenge import MISMATCH
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import REFRESH_SECONDS, Payer
from mitmproxy_x402.payment.purchase import MAX_WAIT, Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.payment.signing.signer import BLOCKHASH_END, BLOCKHASH_SECONDS
from mitmproxy_x402.schemes.exact_evm import CLOCK_SKEW
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support import challenges
from support.chains.rpc import BLOCKHASH, GatedRpc
from support.ledger.ledgers import query
from support.paying.forecasts import read
from support.proxy import EVM_KEY, svm_key
from support.wire import free_port

PLACE = ("POST", "http://h:1", "/v1/x")
QUESTION = Question(PLACE, "m", 100, 100, None)
WORDS = "what an unpaid request is told"
EVM_WINDOW = 300 + CLOCK_SKEW
OFFERED = "7Fy41AwHz9RSnHpXFuoawWo3ZBox49MqZL7LDweh3oZD"


class Desk:
    """One payer and one clock. `ask` is an ordinary handshake that is answered."""

    def __init__(self, folder: Path, make_sync: Callable[[int], Sync] | None = None, **options: str) -> None:
        given = {"x402_preauthorize": "true", "x402_solana_rpc": f"http://127.0.0.1:{free_port()}"}
        given |= {f"x402_{key}": value for key, value in options.items()}
        self.now = 1_700_000_000.0
        self.settings = read_settings(given, {}, cwd=folder, home=folder)
        clock = Clock(lambda: self.now, lambda: self.now, "boot")
        self.ledger = SqliteLedger(folder / "ledger.sqlite3", clock, make_sync)
        keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, "SOLANA_WALLET_KEY": svm_key()}
        wallets = load_wallets(WalletSources(keys, folder))
        self.payer = Payer(self.settings, wallets, self.ledger, clock=lambda: self.now)
        self.retained = RetainedPayments(lambda: self.now)
        self.loop = asyncio.new_event_loop()

    def purchase(self) -> Purchase:
        identity = RequestIdentity(PLACE, b"{}")
        return Purchase(self.payer, self.retained, Purpose("POST", "127.0.0.1", "/v1/x", "m"), identity, QUESTION)

    def buy(self, purchase: Purchase, message: dict[str, Any]) -> None:
        self.loop.run_until_complete(purchase.buy(read(message), lambda: WORDS))
        purchase.sending()

    def predict(self, purchase: Purchase) -> bool:
        async def predict() -> bool:  # in the loop, which asks for blockhashes in the background
            return purchase.predict()

        return self.loop.run_until_complete(predict())

    def ask(self, message: dict[str, Any]) -> None:
        purchase = self.purchase()
        self.buy(purchase, message)
        purchase.answered(200, lambda: True)
        purchase.finish(Outcome("settled", "0x" + "ab" * 32, 200), complete=True)

    def teach(self, message: dict[str, Any]) -> None:
        for _ in range(TRUST + 1):
            self.ask(message)

    def ahead(self) -> Purchase:
        """A purchase whose payment has been sent ahead."""
        purchase = self.purchase()
        assert self.predict(purchase)
        purchase.sending()
        return purchase

    @property
    def spent(self) -> int:
        return self.ledger.spent(self.settings.budgets[0])

    def states(self, count: int) -> list[str]:
        return [state for (state,) in query(self.ledger.path, "state")[-count:]]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Any]:
    made: list[Desk] = []

    def make(**options: str) -> Desk:
        made.append(Desk(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.loop.run_until_complete(asyncio.sleep(0))
        each.loop.close()
        each.ledger.close()


def header(purchase: Purchase) -> dict[str, Any]:
    assert purchase.payment is not None
    return dict(json.loads(base64.b64decode(purchase.payment.header[1])))


# The money.


def test_what_is_signed_is_what_was_foretold(desk: Any) -> None:
    shop = desk()
    shop.teach(challenges.evm("1000"))
    before = shop.spent
    said = header(shop.ahead())
    assert said["accepted"] == challenges.evm("1000")["accepts"][0]
    assert said["resource"] == {"url": "http://x"}
    assert said["payload"]["authorization"]["value"] == "1000"
    assert shop.spent == before + 1000


@pytest.mark.parametrize(("code", "words"), [("PAYMENT_UNDERPAID", ""), ("", WORDS), ("", MISMATCH)])
def test_both_signatures_count_until_the_first_has_lapsed(desk: Any, code: str, words: str) -> None:
    shop = desk()
    shop.teach(challenges.evm("1000"))
    before = shop.spent
    purchase = shop.ahead()
    first = purchase.payment
    shop.now += 5
    assert purchase.rejected(code, 402, lambda: words)
    assert shop.spent == before + 1000
    shop.buy(purchase, challenges.evm("1500"))
    assert purchase.payment is not None
    assert purchase.payment.amount == 1500
    assert purchase.payment.reference != first.reference
    assert purchase.rejected_before == [first]
    assert shop.spent == before + 1000 + 1500
    purchase.finish(Outcome("settled", "0x" + "cd" * 32, 200), complete=True)
    shop.now += EVM_WINDOW - 0.001
    assert (shop.spent, shop.states(2)) == (before + 2500, ["superseded", "settled"])
    shop.now += 0.001
    assert (shop.spent, shop.states(2)) == (before + 1500, ["expired", "settled"])


def test_a_window_is_as_long_as_the_signature_s(desk: Any) -> None:
    shop = desk(max_validity="60")
    shop.teach(challenges.evm())
    purchase = shop.ahead()
    assert purchase.payment.window == 60 + CLOCK_SKEW
    shop.teach(challenges.svm(recentBlockhash=OFFERED))
    assert shop.ahead().payment.window == BLOCKHASH_END


def test_there_is_no_third_signature(desk: Any) -> None:
    shop = desk()
    shop.teach(challenges.evm("1000"))
    purchase = shop.ahead()
    assert purchase.rejected("PAYMENT_UNDERPAID", 402)
    shop.buy(purchase, challenges.evm("1500"))
    assert not purchase.rejected("PAYMENT_UNDERPAID", 402)
    assert shop.states(2) == ["superseded", "rejected"]


@pytest.mark.parametrize("code", ["PAYMENT_UNDERPAID", "PAYMENT_BLOCKHASH_STALE"])
@pytest.mark.parametrize("over", [False, True])
def test_nor_is_there_a_third_for_its_retries(desk: Any, code: str, over: bool) -> None:
    """Replacing what was sent ahead counts toward x402_repurchase, also where the replacement was refused first."""
    shop = desk()
    shop.teach(challenges.evm("1000"))
    before = len(shop.states(99))
    purchase = shop.ahead()
    assert purchase.rejected(code, 402)
    if over:
        with pytest.raises(Refused):
            shop.buy(purchase, challenges.evm("100000000"))
    else:
        shop.buy(purchase, challenges.evm("1000"))
        assert not purchase.rejected(code, 402)
    purchase.finish(Outcome("unknown", status=402), complete=False)
    for _ in range(4):
        again = shop.purchase()
        if not again.reuse_retained():
            assert not shop.predict(again)
            try:
                shop.buy(again, challenges.evm("1000"))
            except Refused as refused:
                assert refused.reason == "over_repurchase_limit"  # noqa: PT017 - it may be bought once where over
        if again.payment is not None:
            assert not again.rejected(code, 402)
        again.finish(Outcome("unknown", status=402), complete=False)
    assert len(shop.states(99)) == before + 2


def test_nothing_is_sent_ahead_that_could_not_be_replaced(desk: Any) -> None:
    shop = desk(repurchase="0")
    shop.teach(challenges.evm("1000"))
    assert not shop.predict(shop.purchase())


@pytest.mark.parametrize(
    ("code", "words"), [("PAYMENT_REPLAY", WORDS), ("PAYMENT_INVALID", WORDS), ("", ""), ("", "other words")]
)
def test_without_the_gateway_s_word_there_is_no_second(desk: Any, code: str, words: str) -> None:
    shop = desk()
    shop.teach(challenges.evm("1000"))
    purchase = shop.ahead()
    assert not purchase.rejected(code, 402, lambda: words)
    purchase.answered(402)
    purchase.finish(Outcome("unknown", status=402), complete=False)
    assert shop.states(1) == ["unknown"]
    again = shop.purchase()
    assert again.reuse_retained()
    assert not shop.predict(again)
    assert header(again) == header(purchase)


def test_sent_twice_over_the_wire_it_proves_nothing(desk: Any) -> None:
    shop = desk()
    shop.teach(challenges.evm("1000"))
    purchase = shop.ahead()
    purchase.sending()
    assert purchase.rejected("PAYMENT_UNDERPAID", 402)  # the ordinary rule: one purchase more
    assert (shop.states(1), purchase.rejected_before) == (["unknown"], [])


def test_a_request_like_one_that_failed_is_not_foretold(desk: Any) -> None:
    """Also where its payment has expired: then the gateway is asked first."""
    shop = desk()
    shop.teach(challenges.evm("1000"))
    shop.ahead().finish(Outcome("unknown"), complete=False)
    shop.teach(challenges.evm("1000"))
    shop.now += 301
    shop.teach(challenges.evm("1000"))
    again = shop.purchase()
    assert not again.reuse_retained()
    assert not shop.predict(again)


@pytest.mark.parametrize(
    ("status", "speaks", "goes_on"),
    [
        (200, True, True),
        (204, True, True),
        (200, False, False),
        (400, True, False),
        (500, True, False),
        (302, True, False),
    ],
)
def test_what_an_answer_means_for_the_next(desk: Any, status: int, speaks: bool, goes_on: bool) -> None:
    shop = desk()
    shop.teach(challenges.evm("1000"))
    purchase = shop.ahead()
    purchase.answered(status, lambda: speaks)
    purchase.finish(Outcome("unknown", status=status), complete=False)
    tally = shop.payer.forecast.tally
    assert (tally.sent, tally.right, tally.wrong, tally.unproven) == (1, int(goes_on), 0, int(not goes_on))
    assert shop.payer.forecast.expects(PLACE) == goes_on


def test_a_connection_that_breaks_ends_it(desk: Any) -> None:
    shop = desk()
    shop.teach(challenges.evm("1000"))
    shop.ahead().finish(Outcome("unknown"), complete=False)
    assert not shop.payer.forecast.expects(PLACE)
    assert str(shop.payer.forecast.tally) == "1, 0 right, 0 wrong, 1 not acknowledged"


@pytest.mark.parametrize("options", [{"max_request": "0.000999"}, {"budget": "0.004999"}, {"allow_networks": "base"}])
def test_what_may_not_be_paid_is_not_signed(desk: Any, options: dict[str, str]) -> None:
    shop = desk()
    shop.teach(challenges.evm("1000"))
    other = desk(**options)
    other.payer.forecast = shop.payer.forecast
    assert not other.predict(other.purchase())
    assert other.states(1) == ["settled"]


def test_a_dry_run_foretells_nothing(desk: Any) -> None:
    shop = desk(dry_run="true")
    with pytest.raises(Refused):
        shop.ask(challenges.evm())
    assert not shop.predict(shop.purchase())


def test_a_payment_that_waited_too_long_is_made_anew(desk: Any) -> None:
    """As behind an interception: the first leg goes without it."""
    shop = desk()
    shop.teach(challenges.evm("1000"))
    purchase = shop.purchase()
    assert shop.predict(purchase)
    shop.now += MAX_WAIT
    with pytest.raises(LedgerError, match="lapsed"):
        purchase.sending()
    assert purchase.ahead
    shop.buy(purchase, challenges.evm("1000"))
    assert not purchase.ahead
    assert shop.states(2) == ["released", "sent"]


def test_a_payment_that_never_left_is_given_back(desk: Any) -> None:
    shop = desk()
    shop.teach(challenges.evm("1000"))
    before = shop.spent
    purchase = shop.purchase()
    assert shop.predict(purchase)
    assert shop.spent == before + 1000
    purchase.answered(200)
    purchase.finish(Outcome("unknown", status=200), complete=True)
    assert (shop.spent, shop.states(1)) == (before, ["released"])
    assert shop.payer.forecast.tally.sent == 0


# Solana: on which blockhash.


def signed_on(purchase: Purchase) -> str:
    raw = base64.b64decode(header(purchase)["payload"]["transaction"])
    message: Message | MessageV0 = VersionedTransaction.from_bytes(raw).message
    return str(message.recent_blockhash)


def test_what_a_slow_chain_can_still_take_is_sent_again_until_it_is_stale(desk: Any) -> None:
    shop = desk()
    purchase = shop.purchase()
    shop.buy(purchase, challenges.svm(recentBlockhash=OFFERED))
    first = purchase.payment
    purchase.finish(Outcome("unknown"), complete=False)
    for seconds in (BLOCKHASH_SECONDS, BLOCKHASH_END - BLOCKHASH_SECONDS - 1):
        shop.now += seconds
        again = shop.purchase()
        assert again.reuse_retained()
        assert again.payment == first
        again.sending()
        again.finish(Outcome("unknown"), complete=False)
    again = shop.purchase()
    assert again.reuse_retained()
    again.sending()
    assert again.rejected("PAYMENT_BLOCKHASH_STALE", 402)
    shop.buy(again, challenges.svm(recentBlockhash=BLOCKHASH))
    assert signed_on(again) == BLOCKHASH
    again.finish(Outcome("unknown"), complete=False)
    shop.now += BLOCKHASH_END
    with pytest.raises(Refused, match="x402_repurchase"):
        shop.buy(shop_again(shop), challenges.svm(recentBlockhash=OFFERED))


def shop_again(shop: Any) -> Any:
    """The same request once more, with what is remembered of it and no payment that is alive."""
    purchase = shop.purchase()
    assert not purchase.reuse_retained()
    return purchase


def test_the_challenge_s_blockhash_serves_while_it_is_young(desk: Any) -> None:
    shop = desk()
    shop.teach(challenges.svm(recentBlockhash=OFFERED, lastValidBlockHeight="7"))
    shop.now += BLOCKHASH_SECONDS - 0.1
    purchase = shop.ahead()
    assert signed_on(purchase) == OFFERED
    assert header(purchase)["accepted"]["extra"]["lastValidBlockHeight"] == "7"
    shop.now += 0.1
    before = shop.states(100)
    assert not shop.predict(shop.purchase())  # the RPC cannot be reached, and nobody waits for it
    assert shop.states(100) == before


@pytest.mark.parametrize("announced", [True, False])
def test_the_rpc_is_asked_in_the_background(desk: Any, announced: bool) -> None:
    with GatedRpc() as rpc:
        shop = desk(solana_rpc=rpc.url)
        extra = {"recentBlockhash": OFFERED, "lastValidBlockHeight": "7"} if announced else {}
        if announced:
            shop.teach(challenges.svm(**extra))
            shop.ahead()
            shop.now += REFRESH_SECONDS + 1
            assert signed_on(shop.ahead()) == OFFERED  # and has another one fetched
        else:
            rpc.release()
            shop.teach(challenges.svm())
            rpc.wait_until_asked()
            shop.now += CACHE_SECONDS + 1
            assert signed_on(shop.ahead()) == BLOCKHASH
        shop.loop.run_until_complete(until(rpc))
        shop.now += BLOCKHASH_SECONDS - FINALIZED_SECONDS - 1
        purchase = shop.ahead()
        assert signed_on(purchase) == BLOCKHASH
        told = {"recentBlockhash": BLOCKHASH, "lastValidBlockHeight": "1000"} if announced else {}
        assert header(purchase)["accepted"] == challenges.svm(**told)["accepts"][0]


async def until(rpc: GatedRpc) -> None:
    """Let one question be answered, and the answer be read."""
    rpc.release()
    asked = asyncio.get_running_loop().run_in_executor(None, rpc.wait_until_asked)
    await asked
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        await task


def test_it_is_not_asked_without_traffic_nor_over_and_over(desk: Any) -> None:
    with GatedRpc() as rpc:
        shop = desk(solana_rpc=rpc.url)
        shop.teach(challenges.svm(recentBlockhash=OFFERED))
        shop.now += REFRESH_SECONDS + 1
        for _ in range(5):
            shop.ahead()
        shop.loop.run_until_complete(until(rpc))
        for _ in range(5):
            assert signed_on(shop.ahead()) == BLOCKHASH
        assert not rpc.asked.acquire(blocking=False)
        assert len(rpc.requests) == 1
