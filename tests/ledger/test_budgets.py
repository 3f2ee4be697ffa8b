"""What counts against a budget, and until when. Both kinds of ledger pass the same tests."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from mitmproxy_x402.ledger.interface import TRANSITIONS, ChainWord, Ledger, Outcome, OverBudget, State, Validity
from mitmproxy_x402.ledger.reading import read_unproven
from mitmproxy_x402.limits.limits import Budget
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.settings.ledger_place import LedgerPlace
from support.ledger.ledgers import Times, open_with, query, state_of
from support.ledger.payments import DAY, MUCH, budget, in_state, intent, pay


@pytest.mark.parametrize("state", TRANSITIONS)
def test_what_counts(ledger: Ledger, state: State) -> None:
    in_state(ledger, state)
    free = state in ("released", "expired")
    assert ledger.spent(budget(MUCH)) == (0 if free else 10)
    assert ledger.spent(budget(MUCH, model="m-*")) == (0 if free else 10)


def test_every_budget_must_have_room(ledger: Ledger) -> None:
    both = [budget(20, "hour"), budget(1000)]
    ledger.reserve(intent(), both)
    ledger.reserve(intent(), both)
    with pytest.raises(OverBudget) as caught:
        ledger.reserve(intent(1), both)
    assert (caught.value.budget, caught.value.spent) == (both[0], 20)
    assert caught.value.returns_in == 3600


def test_room_returns_as_the_period_rolls(ledger: Ledger, times: Times) -> None:
    day = [budget(30)]
    for _ in range(3):
        pay(ledger, *day)
        times.pass_by(3600)
    ledger.release(ledger.reserve(intent(), []))
    with pytest.raises(OverBudget) as caught:
        ledger.reserve(intent(15), day)
    assert caught.value.returns_in == pytest.approx(22 * 3600)  # when the second has left, too
    times.pass_by(22 * 3600)
    ledger.reserve(intent(15), day)


def test_a_signature_that_lives_longer_than_the_period_counts_as_long(ledger: Ledger, times: Times) -> None:
    """Up to 24 hours by x402_max_validity, against an hourly budget."""
    hour = [budget(15, "hour")]
    row = ledger.reserve(intent(), hour)
    ledger.record_sent(row, "nonce", 0, Validity(dies_in=DAY))
    with pytest.raises(OverBudget) as at_once:
        ledger.reserve(intent(), hour)
    assert at_once.value.returns_in == pytest.approx(DAY + 3600)
    for passed, state in ((3601, "sent"), (3600, "unknown"), (3600, "settled")):
        times.pass_by(passed)
        assert ledger.spent(hour[0]) == ledger.spent(budget(15, "hour", model="m-*")) == 10, state
        with pytest.raises(OverBudget) as caught:
            ledger.reserve(intent(), hour)
        if state != "settled":
            ledger.finish(row, Outcome("settled" if state == "unknown" else "unknown", "0xt"))
    assert caught.value.returns_in == pytest.approx(DAY - 3 * 3600 - 1 + 3600)
    times.pass_by(caught.value.returns_in)
    ledger.reserve(intent(), hour)


def test_a_signature_that_is_made_again_counts_from_its_last(ledger: Ledger, times: Times) -> None:
    """As a job's polls make it, an hour and more after the payment was reserved."""
    hour = budget(15, "hour")
    row = ledger.reserve(intent(), [hour])
    ledger.record_sent(row, "nonce", 0, Validity(dies_in=900))
    for _ in range(5):
        times.pass_by(3000)
        ledger.record_resent(row, Validity(dies_in=900))
        assert ledger.spent(hour) == 10
        with pytest.raises(OverBudget):
            ledger.reserve(intent(), [hour])
    times.pass_by(3000)
    assert ledger.spent(hour) == 10
    times.pass_by(1500)
    ledger.reserve(intent(), [hour])


def test_what_is_signed_again_needs_room_in_the_budgets_of_now(ledger: Ledger, times: Times) -> None:
    """Payments of many hours could otherwise move their money within one."""
    hour, month = budget(15, "hour"), budget(MUCH, "month")
    rows = []
    for _ in range(3):
        rows.append(ledger.reserve(intent(), [hour]))
        ledger.record_sent(rows[-1], "nonce", 0, Validity(dies_in=900))
        times.pass_by(4000)
    ledger.renew(rows[0], 900, [month, hour])
    assert ledger.spent(hour) == 10
    ledger.renew(rows[0], 900, [month, hour])
    before = query(ledger.place, "*")
    with pytest.raises(OverBudget) as refused:
        ledger.renew(rows[1], 900, [month, hour])
    assert (refused.value.budget, refused.value.spent) == (hour, 10)
    assert refused.value.returns_in == pytest.approx(900 + 3600, abs=1)
    assert query(ledger.place, "*") == before
    times.pass_by(900 + 3601)
    ledger.renew(rows[1], 900, [month, hour])
    for lowered in (budget(5, "hour"), budget(0)):
        with pytest.raises(OverBudget):
            ledger.renew(rows[1], 900, [lowered])
    assert ledger.spent(hour) == 10


def test_a_signature_of_two_weeks_counts_for_two_weeks(ledger: Ledger, times: Times) -> None:
    day = budget(15)
    row = ledger.reserve(intent(scheme="gateway"), [day])
    ledger.record_sent(row, "nonce", 0, Validity(dies_in=14 * DAY))
    for _ in range(14):
        times.pass_by(DAY)
        assert ledger.spent(day) == 10
    times.pass_by(DAY + 1)
    assert ledger.spent(day) == 0


def test_a_long_signature_counts_until_a_period_after_the_chain_says_it_moved(ledger: Ledger, times: Times) -> None:
    hour = budget(15, "hour")
    row = ledger.reserve(intent(), [hour])
    ledger.record_sent(row, "nonce", 0, Validity(dies_in=DAY))
    times.pass_by(7200)
    now = int(times.wall)  # type: ignore[attr-defined]
    ledger.record_chain([ChainWord(row, "moved", "0xt", now - 600, AtomicUnits(10), 10)])
    assert ledger.spent(hour) == 10
    times.pass_by(2999)
    assert ledger.spent(hour) == 10
    times.pass_by(2)
    assert ledger.spent(hour) == 0


def test_what_circle_gateway_is_said_to_have_settled_counts_as_long_as_it_lives(ledger: Ledger, times: Times) -> None:
    """Its signatures live for seven days, and no chain says what became of one."""
    for outcome, then in (("settled", 10), ("unknown", 20)):
        row = ledger.reserve(intent(scheme="gateway"), [])
        ledger.record_sent(row, "nonce", 0, Validity(dies_in=7 * DAY))
        ledger.finish(row, Outcome(outcome, "0xt" if outcome == "settled" else ""))  # type: ignore[arg-type]
        times.pass_by(DAY + 1)
        assert ledger.spent(budget(MUCH)) == then


def test_more_than_the_whole_budget_never_fits(ledger: Ledger) -> None:
    for period in ("", "day"):
        with pytest.raises(OverBudget) as caught:
            ledger.reserve(intent(11), [budget(10, period)])  # type: ignore[arg-type]
        assert caught.value.returns_in is None


def test_a_budget_for_ever(ledger: Ledger, times: Times) -> None:
    pay(ledger, budget(10, ""))
    times.pass_by(400 * DAY)
    with pytest.raises(OverBudget) as caught:
        ledger.reserve(intent(1), [budget(10, "")])
    assert caught.value.returns_in is None


def test_scopes_count_their_own_requests(ledger: Ledger) -> None:
    ledger.reserve(intent(1, "gpt-5", "/api/v1/chat"), [])
    ledger.reserve(intent(10, "gpt-5-mini", "/v1/chat"), [])
    ledger.reserve(intent(100, None, "/v1/images/x"), [])
    assert ledger.spent(budget(MUCH, model="gpt-5*")) == 11
    assert ledger.spent(budget(MUCH, model="gpt-?")) == 1
    assert ledger.spent(budget(MUCH, path="/v1/chat")) == 11
    assert ledger.spent(budget(MUCH, path="/api/v1/chat")) == 11
    assert ledger.spent(budget(MUCH, path="/v1/*")) == 111
    assert ledger.spent(budget(MUCH, model="gpt*", path="/v1/images/*")) == 0


def test_scopes_count_whatever_the_spelling(ledger: Ledger) -> None:
    ledger.reserve(intent(1, "GPT-5", "/V1//chat", normal_path="/v1/chat"), [])
    ledger.reserve(intent(10, "gpt-5", "/v1/Chat"), [])
    assert ledger.spent(budget(MUCH, model="Gpt-5*", path="/v1/CHAT/")) == 11


def test_what_is_unclear_counts_in_every_scope(ledger: Ledger, times: Times) -> None:
    """Else a budget for one model had room for as many requests as hide theirs."""
    scopes = [budget(50, model="dear-*"), budget(50, path="/v1/images/*"), budget(50, model="x", path="/v1/x")]
    for micro, unclear in ((1, {"is_model_unclear": True}), (10, {"is_path_unclear": True}), (20, {})):
        ledger.record_sent(ledger.reserve(intent(micro, None, "/v1/x", **unclear), scopes), "nonce", 0)
    assert [ledger.spent(scope) for scope in scopes] == [1, 10, 1]
    times.pass_by(2 * 3600)  # by minute and by hour
    ledger.reserve(intent(9, "dear-1", "/v1/images/2", is_model_unclear=True, is_path_unclear=True), scopes)
    assert [ledger.spent(scope) for scope in scopes] == [10, 19, 10]
    with pytest.raises(OverBudget):
        ledger.reserve(intent(45, None, "/", is_model_unclear=True), scopes[:1])


class TestSuperseded:
    """A payment that a gateway did not take, by its word, counts until nobody can submit it any longer."""

    @pytest.mark.parametrize("word", ["superseded", "rejected"])
    @pytest.mark.parametrize("counts", [budget(30), budget(30, ""), budget(30, model="m-*")], ids=str)
    def test_it_frees_itself_to_the_millisecond(
        self, ledger: Ledger, path: LedgerPlace, times: Times, counts: Budget, word: Any
    ) -> None:
        row = ledger.reserve(intent(), [])
        ledger.record_sent(row, "nonce", 0)
        assert ledger.finish(row, Outcome(word, status=402, code="C", counts_for=300.0005)) == word
        ledger.record_sent(ledger.reserve(intent(20, replaces=row), [counts]), "nonce", 0)
        times.pass_by(300)
        with pytest.raises(OverBudget):
            ledger.reserve(intent(1), [counts])
        assert (ledger.spent(counts), state_of(path, row)) == (30, word)
        times.pass_by(0.001)
        assert ledger.spent(counts) == 20
        ledger.reserve(intent(10), [counts])
        assert state_of(path, row) == "expired"

    def test_the_next_reservation_frees_it_too(self, ledger: Ledger, times: Times) -> None:
        self_freed = in_state(ledger, "superseded")
        times.pass_by(600)
        assert ledger.reserve(intent(30), [budget(30)]) == self_freed + 1

    @pytest.mark.parametrize("word", ["superseded", "rejected"])
    def test_it_lives_as_long_as_its_signature(self, ledger: Ledger, times: Times, word: Any) -> None:
        """Whatever whoever writes down its end says: the later of the two, and for ever where neither is known."""
        rows = [ledger.reserve(intent(), []) for _ in range(3)]
        for row, dies_in in zip(rows, (600, 60, None), strict=True):
            ledger.record_sent(row, "nonce", 0, Validity(dies_in=dies_in))
        ends: tuple[float | None, ...] = (1, 300, None)
        for row, counts_for in zip(rows, ends, strict=True):
            ledger.finish(row, Outcome(word, counts_for=counts_for))
        for seconds, counts in ((299, 30), (1, 20), (299, 20), (1, 10), (9 * DAY, 10)):
            times.pass_by(seconds)
            assert ledger.spent(budget(MUCH, "month")) == counts

    def test_a_new_signature_over_the_same_nonce_makes_it_live_longer(self, ledger: Ledger) -> None:
        row = ledger.reserve(intent(), [])
        ledger.record_sent(row, "nonce", 0, Validity(1000, dies_in=60))
        ledger.record_resent(row, Validity(1600, dies_in=600))
        ledger.record_resent(row)
        assert query(ledger.place, "valid_before, dead_at - counted_at") == [(1600, 600_000)]

    def test_a_transaction_id_still_wins(self, ledger: Ledger, path: LedgerPlace, times: Times) -> None:
        row = in_state(ledger, "superseded")
        ledger.finish(row, Outcome("settled", "0xt"))
        times.pass_by(700)
        assert (ledger.spent(budget(MUCH)), state_of(path, row)) == (10, "settled")


CEILING = Outcome("settled", "0xt", 200, charged=AtomicUnits(3), charged_micro_usd=3)


class TestCeiling:
    """What is charged of a ceiling, scheme `upto`."""

    @pytest.mark.parametrize("counts", [budget(MUCH), budget(MUCH, ""), budget(MUCH, model="m-*")], ids=str)
    def test_it_counts_until_its_signature_is_dead_whatever_the_answer_says(
        self, ledger: Ledger, path: LedgerPlace, times: Times, counts: Budget
    ) -> None:
        row = ledger.reserve(intent(10, scheme="upto"), [])
        ledger.record_sent(row, "nonce", 0, Validity(dies_in=300))
        ledger.finish(row, CEILING)
        assert query(path, "scheme, amount, charged, charged_micro_usd") == [("upto", "10", "3", 3)]
        times.pass_by(299.999)
        assert ledger.spent(counts) == 10
        times.pass_by(0.001)
        assert ledger.spent(counts) == 3
        pay(ledger, budget(13))
        assert (ledger.spent(counts), state_of(path, row)) == (13, "settled")
        times.pass_by(DAY)
        assert ledger.spent(budget(MUCH, "day")) == 0
        assert ledger.spent(budget(MUCH, "month")) == 13

    @pytest.mark.parametrize("period", ["day", ""])
    def test_what_a_gateway_says_it_left_is_forgiven_up_to_the_size_of_the_budget(
        self, ledger: Ledger, times: Times, period: str
    ) -> None:
        """It may have taken the whole: see `ledger.interface`."""
        counts = budget(20, period)
        rows = []
        for _ in range(2):
            for _ in range(2):
                rows.append(ledger.reserve(intent(10, scheme="upto"), [counts]))
                ledger.record_sent(rows[-1], "nonce", 0, Validity(dies_in=300))
                ledger.finish(rows[-1], Outcome("settled", "0xt", charged=AtomicUnits(0), charged_micro_usd=0))
            times.pass_by(300)
        assert ledger.spent(counts) == 20, "40 may be gone, and 20 of it are forgiven"
        with pytest.raises(OverBudget):
            ledger.reserve(intent(1), [counts])
        assert [entry.row for entry in read_unproven(ledger.place)] == rows, "the chain is asked about them"
        ledger.record_chain([ChainWord(row, "moved", "0xt", 1, AtomicUnits(1), 1) for row in rows])
        assert ledger.spent(counts) == 4
        assert read_unproven(ledger.place) == []

    @pytest.mark.parametrize("said", [{"state": "rejected"}, {"state": "settled", "charged_micro_usd": 0}])
    @pytest.mark.parametrize("nothing", [{}, {"scheme": "gateway"}, {"wallet": ""}, {"network": "eip155:1"}])
    def test_where_the_chain_is_asked_nothing_is_forgiven_without_its_word(
        self, path: LedgerPlace, ledger: Ledger, times: Times, said: Any, nothing: dict[str, Any]
    ) -> None:
        """Also what has expired while no proxy ran. The chain cannot say anything about the last three."""
        counts = budget(20)
        paid = replace(intent(10, scheme="upto", wallet="0xw"), **nothing)
        row = ledger.reserve(paid, [counts])
        ledger.record_sent(row, "nonce", 0, Validity(dies_in=300))
        ledger.finish(row, Outcome(**{"transaction": "0xt", **said}))
        ledger.close()
        times.pass_by(301)
        with closing(open_with(path, times)) as other:
            assert other.spent(counts) == 0, "a proxy that has no RPC forgives"
            other.watch([Caip2("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"), Caip2("eip155:8453")])
            if nothing:
                assert other.spent(counts) == 0
                return
            assert other.spent(counts) == 10
            with pytest.raises(OverBudget) as refused:
                other.reserve(intent(11), [counts])
            assert (refused.value.spent, refused.value.awaited) == (10, 10)
            assert read_unproven(path)[0].row == row
            other.record_chain([ChainWord(row, "dead")])
            assert other.spent(counts) == 0
            other.reserve(intent(20), [counts])

    def test_of_unknown_life_it_counts_for_ever(self, ledger: Ledger, times: Times) -> None:
        row = ledger.reserve(intent(10), [])
        ledger.record_sent(row, "nonce", 0)
        ledger.finish(row, CEILING)
        times.pass_by(20 * DAY)
        assert ledger.spent(budget(MUCH, "month")) == 10

    def test_more_than_the_ceiling_is_believed_of_nobody(self, ledger: Ledger, times: Times) -> None:
        row = ledger.reserve(intent(10), [])
        ledger.record_sent(row, "nonce", 0, Validity(dies_in=1))
        ledger.finish(row, Outcome("settled", "0xt", charged=AtomicUnits(11), charged_micro_usd=11))
        times.pass_by(2)
        assert ledger.spent(budget(MUCH)) == 10

    def test_what_the_chain_says_counts_at_once(self, ledger: Ledger, times: Times) -> None:
        row = ledger.reserve(intent(10), [])
        ledger.record_sent(row, "nonce", 0, Validity(dies_in=300))
        ledger.finish(row, CEILING)
        ledger.record_chain([ChainWord(row, "moved", "0xt", 1_700_000_000, AtomicUnits(4), 4, "other_amount")])
        assert ledger.spent(budget(MUCH)) == 4
        times.pass_by(600)
        assert ledger.spent(budget(MUCH)) == 4


class TestForgiven:
    """That a payment was not taken is the gateway's word: it may take each while its signature lives, unheard."""

    @pytest.mark.parametrize("its", [budget(30), budget(30, model="m-*"), budget(30, "month", path="/v1/x")], ids=str)
    def test_a_gateway_that_lies_gets_no_more_than_twice_a_budget(
        self, ledger: Ledger, times: Times, its: Budget
    ) -> None:
        left = 0
        for _ in range(40):
            try:
                row = ledger.reserve(intent(), [its])
            except OverBudget:
                times.pass_by(300)
                continue
            ledger.record_sent(row, "nonce", 0, Validity(dies_in=300))
            ledger.finish(row, Outcome("rejected", code="PAYMENT_UNDERPAID"))
            left += 10
        assert left == 60
        assert ledger.spent(its) == 30

    def test_the_chains_word_frees_all_of_it(self, ledger: Ledger, times: Times) -> None:
        its = budget(30)
        rows = []
        for _ in range(6):
            rows.append(ledger.reserve(intent(), [its]))
            ledger.record_sent(rows[-1], "nonce", 0, Validity(dies_in=1))
            ledger.finish(rows[-1], Outcome("rejected"))
            times.pass_by(1)
        assert ledger.spent(its) == 30
        ledger.record_chain([ChainWord(row, "dead") for row in rows])
        assert ledger.spent(its) == 0
        times.pass_by(DAY)
        ledger.reserve(intent(30), [its])

    def test_it_is_over_with_the_period(self, ledger: Ledger, times: Times) -> None:
        its = budget(10)
        for _ in range(2):
            row = ledger.reserve(intent(), [its])
            ledger.record_sent(row, "nonce", 0, Validity(dies_in=1))
            ledger.finish(row, Outcome("rejected"))
            times.pass_by(1)
        with pytest.raises(OverBudget):
            ledger.reserve(intent(), [its])
        times.pass_by(DAY)
        ledger.reserve(intent(), [its])
