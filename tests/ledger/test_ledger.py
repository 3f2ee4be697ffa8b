"""The ledger: its states, its budgets, its clock, its file. Both kinds of ledger pass the same tests."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mitmproxy_x402.ledger import interface as rules
from mitmproxy_x402.ledger.interface import (
    CHAIN_TRANSITIONS,
    FREE,
    LAPSE_SECONDS,
    TRANSITIONS,
    ChainWord,
    Intent,
    JobPaid,
    Ledger,
    LedgerError,
    Outcome,
    OverBudget,
    State,
    Validity,
)
from mitmproxy_x402.ledger.reading import read_unproven
from mitmproxy_x402.ledger.sqlite import schema, statements
from mitmproxy_x402.ledger.sqlite.schema import MIGRATIONS
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.limits.limits import Budget, Period, Scope
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl
from support.ledgers import MachineTimes, Times, open_with, query, state_of

DAY = 24 * 3600
MUCH = 10**6
"""Of a budget that forgives all that has expired."""


class InFile:
    """For tests of what only the file has."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "state" / "ledger.sqlite3"


def intent(micro: int = 10, model: str | None = "m-1", path: str = "/v1/x", **more: Any) -> Intent:
    return Intent("POST", "h", path, model, Caip2("eip155:8453"), "0xa", "0xb", AtomicUnits(micro), micro, **more)


def budget(micro: int, period: Period = "day", model: str = "", path: str = "") -> Budget:
    return Budget(micro, period, Scope(model, path))


def pay(ledger: Ledger, *budgets: Budget) -> None:
    ledger.record_sent(ledger.reserve(intent(), budgets), "nonce", 0)


def in_state(ledger: Ledger, state: State) -> int:
    row = ledger.reserve(intent(), [])
    if state == "released":
        ledger.release(row)
    elif state != "reserved":
        ledger.record_sent(row, "nonce", 0)
        if state == "settled":
            ledger.finish(row, Outcome("settled", "0xt"))
        elif state == "rejected":
            ledger.finish(row, Outcome("rejected"))
        elif state == "unknown":
            ledger.finish(row, Outcome("unknown"))
        elif state in ("superseded", "expired"):
            ledger.finish(row, Outcome("superseded", counts_for=600 if state == "superseded" else 0))
        if state == "expired":
            ledger.release(ledger.reserve(intent(), []))  # the next reservation moves it
    return row


STEPS: dict[State, Callable[[Ledger, int], object]] = {
    "sent": lambda ledger, row: ledger.record_sent(row, "nonce", 0),
    "released": lambda ledger, row: ledger.release(row),
    "settled": lambda ledger, row: ledger.finish(row, Outcome("settled", "0xt")),
    "rejected": lambda ledger, row: ledger.finish(row, Outcome("rejected")),
    "unknown": lambda ledger, row: ledger.finish(row, Outcome("unknown")),
    "superseded": lambda ledger, row: ledger.finish(row, Outcome("superseded", counts_for=600)),
}


@pytest.mark.parametrize("target", STEPS)
@pytest.mark.parametrize("state", TRANSITIONS)
def test_moves_along_the_table_and_nowhere_else(ledger: Ledger, path: LedgerPlace, state: State, target: State) -> None:
    row = in_state(ledger, state)
    assert state_of(path, row) == state
    try:
        STEPS[target](ledger, row)
    except LedgerError:
        assert target == "sent"
    expected = target if target in TRANSITIONS[state] else state
    assert state_of(path, row) == expected


@pytest.mark.parametrize("state", TRANSITIONS)
def test_sending_again_makes_the_first_outcome_unknown(ledger: Ledger, path: LedgerPlace, state: State) -> None:
    row = in_state(ledger, state)
    if state not in ("sent", "unknown", "settled"):
        with pytest.raises(LedgerError, match="was not sent"):
            ledger.record_resent(row)
        return
    ledger.record_resent(row)
    assert state_of(path, row) == ("settled" if state == "settled" else "unknown")
    ledger.finish(row, Outcome("rejected"))
    assert state_of(path, row) != "rejected"


def test_several_outcomes_are_written_as_each_would_be(ledger: Ledger, path: LedgerPlace) -> None:
    rows = [in_state(ledger, state) for state in ("sent", "settled", "unknown", "sent")]
    every: list[State] = ["settled", "settled", "unknown", "rejected"]
    outcomes = [Outcome("settled", "0xt"), Outcome("unknown"), Outcome("rejected"), Outcome("rejected", code="C")]
    assert ledger.finish_all(list(zip(rows, outcomes, strict=True))) == every
    assert [state_of(path, row) for row in rows] == every
    assert ledger.finish_all([]) == []


def test_the_words_of_the_module_and_its_table_agree() -> None:
    assert rules.__doc__ is not None
    for state in TRANSITIONS:
        assert state in rules.__doc__


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


class TestChain:
    """What the chain says beats what the gateway said, and is kept beside it."""

    @pytest.mark.parametrize("verdict", ["moved", "dead"])
    @pytest.mark.parametrize("state", CHAIN_TRANSITIONS)
    def test_moves_along_its_table_and_nowhere_else(
        self, ledger: Ledger, path: LedgerPlace, state: State, verdict: Any
    ) -> None:
        row = in_state(ledger, state)
        target: State = "settled" if verdict == "moved" else "expired"
        expected = target if target in CHAIN_TRANSITIONS[state] else state
        assert ledger.record_chain([ChainWord(row, verdict)]) == [expected]
        ((found, said),) = query(path, "state, chain_state", f"WHERE id = {row}")
        assert (found, said) == (expected, verdict if target in CHAIN_TRANSITIONS[state] else None)
        assert ledger.spent(budget(MUCH)) == (0 if expected in FREE else 10)

    def test_what_it_says_stands_beside_the_gateways_word(self, ledger: Ledger, path: LedgerPlace) -> None:
        row = in_state(ledger, "settled")
        ledger.record_chain([ChainWord(row, "moved", "0xc", 1_700_000_123, AtomicUnits(9), 9, "other_transaction")])
        columns = "transaction_id, chain_transaction, chain_time, chain_amount, finding, uncounted"
        assert query(path, columns) == [("0xt", "0xc", 1_700_000_123, "9", "other_transaction", 1)]
        assert ledger.spent(budget(MUCH)) == 9

    def test_what_has_moved_is_never_dead(self, ledger: Ledger) -> None:
        row = in_state(ledger, "unknown")
        assert ledger.record_chain([ChainWord(row, "moved")]) == ["settled"]
        assert ledger.record_chain([ChainWord(row, "dead", finding="not_settled")]) == ["settled"]

    def test_what_was_dead_and_has_moved_counts_again(self, ledger: Ledger) -> None:
        row = in_state(ledger, "unknown")
        assert ledger.record_chain([ChainWord(row, "dead")]) == ["expired"]
        assert ledger.spent(budget(MUCH)) == 0
        assert ledger.record_chain([ChainWord(row, "moved", micro_usd=10)]) == ["settled"]
        assert ledger.spent(budget(MUCH)) == 10

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("said", [{"state": "rejected"}, {"state": "settled", "charged_micro_usd": 0}])
    def test_a_used_nonce_of_which_nothing_more_is_known_counts_in_whole(
        self, ledger: Ledger, times: Times, said: Any, when: str
    ) -> None:
        """Before its signature has expired or after it was forgiven."""
        row = ledger.reserve(intent(scheme="upto"), [])
        ledger.record_sent(row, "nonce", 0, Validity(dies_in=600))
        ledger.finish(row, Outcome(**{"transaction": "0xt", **said}))
        if when == "after":
            times.pass_by(601)
            ledger.release(ledger.reserve(intent(), []))
            assert ledger.spent(budget(MUCH)) == 0
        ledger.record_chain([ChainWord(row, "used")])
        times.pass_by(601)
        ledger.release(ledger.reserve(intent(), []))
        assert ledger.spent(budget(MUCH)) == 10
        assert [entry.row for entry in read_unproven(ledger.place)] == [row], "the transfer is still looked for"
        ledger.record_chain([ChainWord(row, "moved", "0xt", 1, AtomicUnits(4), 4)])
        assert ledger.spent(budget(MUCH)) == 4

    @pytest.mark.parametrize("state", ["reserved", "released", "unknown", "dead"])
    def test_a_used_nonce_changes_nothing_else(self, ledger: Ledger, path: LedgerPlace, state: Any) -> None:
        row = in_state(ledger, "unknown" if state == "dead" else state)
        if state == "dead":
            ledger.record_chain([ChainWord(row, "dead")])
        before = query(path, "*", f"WHERE id = {row}")
        ledger.record_chain([ChainWord(row, "used")])
        assert query(path, "*", f"WHERE id = {row}") == before

    def test_a_gateway_cannot_revive_what_the_chain_calls_dead(self, ledger: Ledger) -> None:
        row = in_state(ledger, "unknown")
        ledger.record_chain([ChainWord(row, "dead")])
        with pytest.raises(LedgerError, match="was not sent"):
            ledger.record_resent(row)
        assert ledger.finish(row, Outcome("settled", "0xt")) == "expired"

    def test_what_a_look_up_needs_is_there_and_what_is_proven_is_left_out(self, ledger: Ledger) -> None:
        evm = {"wallet": "0xw", "nonce": "0xn"}
        rows = {state: ledger.reserve(intent(**evm), []) for state in ("unknown", "rejected", "superseded", "settled")}
        for state, row in rows.items():
            ledger.record_sent(row, "0xn", 1_700_000_290, Validity(1_700_000_296, "hash", 77, 900))
            ledger.finish(row, Outcome(state))  # type: ignore[arg-type]
        sent, expired = in_state(ledger, "sent"), in_state(ledger, "expired")
        in_state(ledger, "released")
        ledger.record_chain([ChainWord(rows["superseded"], "dead")])
        found = read_unproven(ledger.place)
        assert [entry.row for entry in found] == [rows["unknown"], rows["rejected"], sent, expired]
        one = found[0]
        assert (one.scheme, one.wallet, one.nonce, one.reference) == ("exact", "0xw", "0xn", "0xn")
        assert (one.valid_before, one.blockhash, one.last_height) == (1_700_000_296, "hash", 77)
        assert [entry.row for entry in read_unproven(ledger.place, rows["unknown"], 1)] == [rows["rejected"]]


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


class TestSupersededInFile(InFile):
    """What only the file has."""

    def test_setting_the_wall_clock_frees_nothing(self, ledger: SqliteLedger, times: MachineTimes) -> None:
        in_state(ledger, "superseded")
        times.wall += 30 * DAY
        assert ledger.spent(budget(MUCH)) == 10
        times.wall -= 60 * DAY
        times.pass_by(600)
        assert ledger.spent(budget(MUCH)) == 0

    def test_another_process_opens_the_ledger_and_frees_nothing_early(
        self, ledger: SqliteLedger, path: Path, times: MachineTimes
    ) -> None:
        in_state(ledger, "superseded")
        with closing(SqliteLedger(path, times.clock)) as other:
            assert other.spent(budget(MUCH)) == 10
            times.pass_by(600)
            assert (other.spent(budget(MUCH)), ledger.spent(budget(MUCH))) == (0, 0)

    def test_a_ledger_of_the_first_version_learns_it(self, path: Path, times: MachineTimes) -> None:
        path.parent.mkdir()
        with closing(sqlite3.connect(path)) as db:
            for statement in MIGRATIONS[0].split(";"):
                db.execute(statement)
            db.execute("PRAGMA user_version = 1")
        with closing(SqliteLedger(path, times.clock)) as ledger:
            row = in_state(ledger, "superseded")
            assert (ledger.spent(budget(MUCH)), state_of(path, row)) == (10, "superseded")

    def test_rejections_of_a_ledger_of_the_version_before_count_while_they_live(
        self, path: Path, times: MachineTimes
    ) -> None:
        """In its sums, too, which triggers keep."""
        path.parent.mkdir()
        with closing(sqlite3.connect(path)) as db:
            for script in MIGRATIONS[:4]:
                for statement in schema.statements(script):
                    db.execute(statement)
            db.execute("PRAGMA user_version = 4")
            db.execute("INSERT INTO scope VALUES (1, '', '', 0)")
            now = round(times.wall * 1000)
            for row, age in ((1, 5 * 3600_000), (2, 0)):
                values = (row, now - age, now - age, (now - age) // 1000 + 300)
                db.execute(
                    "INSERT INTO payment (id, time, counted_at, process, method, host, path, network, asset, pay_to, "
                    "amount, micro_usd, cumulative, state, sends, valid_until) VALUES "
                    "(?, ?, ?, 'p', 'POST', 'h', '/', 'eip155:8453', 'a', 'b', '10', 10, 10, 'sent', 1, ?)",
                    values,
                )
            db.execute("UPDATE payment SET state = 'rejected'")
            assert db.execute("SELECT SUM(micro_usd) FROM spending WHERE level = 10").fetchone() == (0,)
            db.commit()
        with closing(SqliteLedger(path, times.clock)) as ledger:
            assert [ledger.spent(budget(MUCH)), ledger.spent(budget(MUCH, path="/"))] == [10, 10]
            assert [state_of(path, row) for row in (1, 2)] == ["expired", "superseded"]
            times.pass_by(300 + 3601)
            assert [ledger.spent(budget(MUCH)), ledger.spent(budget(MUCH, path="/"))] == [0, 0]

    @pytest.mark.usefixtures("ledger")
    def test_what_counts_is_looked_up_in_an_index(self, path: Path) -> None:
        lapsed, due = "payment_open (state=? AND counted_at<?)", "payment_ending (free_at<?)"
        for statement, indexes in (
            (statements.LAPSE, {lapsed}),
            (statements.END, {due}),
            (statements.LAST, {lapsed, due}),
        ):
            with closing(sqlite3.connect(path)) as db:
                plan = [row[-1] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", (0,))]
            assert {step.partition(" INDEX ")[2] for step in plan if step.startswith("SEARCH")} == indexes, plan
            # Only the last row is looked for without one, from the table's own end.
            assert [step for step in plan if step.startswith("SCAN payment")] == ["SCAN payment"] * (len(indexes) - 1)


class TestClock(InFile):
    def test_setting_the_clock_forward_frees_nothing(self, ledger: Ledger, times: MachineTimes) -> None:
        pay(ledger)
        times.wall += 30 * DAY
        assert ledger.spent(budget(MUCH)) == 10

    def test_setting_it_back_frees_nothing_and_stops_nothing(self, ledger: Ledger, times: MachineTimes) -> None:
        pay(ledger)
        times.wall -= 30 * DAY
        assert ledger.spent(budget(MUCH)) == 10
        times.pass_by(DAY + 1)
        assert ledger.spent(budget(MUCH)) == 0

    def test_after_a_boot_time_goes_on_and_never_back(self, path: Path) -> None:
        times = MachineTimes()
        for boot, wall, expected in (("a", 0.0, 10), ("b", -2.0, 20), ("c", 0.9, 30), ("d", 1.1, 20)):
            now = MachineTimes(times.wall + wall * DAY, 5, boot)
            with closing(SqliteLedger(path, now.clock)) as ledger:
                ledger.record_sent(ledger.reserve(intent(), []), "nonce", 0, Validity(dies_in=600))
                assert ledger.spent(budget(MUCH)) == expected

    def test_an_uptime_that_runs_backwards_is_not_believed(self, ledger: Ledger, times: MachineTimes) -> None:
        ledger.reserve(intent(), [])
        times.uptime -= 500
        ledger.reserve(intent(), [])
        assert ledger.spent(budget(MUCH)) == 20

    def test_the_real_clock(self, path: Path) -> None:
        with closing(SqliteLedger(path)) as ledger:
            ledger.reserve(intent(), [budget(10)])
            assert ledger.spent(budget(MUCH)) == 10


class TestCrash:
    def test_a_dead_process_leaves_what_was_sent_counted(self, path: LedgerPlace) -> None:
        code = """if True:
            import os, sys, pathlib
            from mitmproxy_x402.ledger.opening import open_ledger
            from mitmproxy_x402.settings.ledger_place import PostgresUrl
            from test_ledger import intent
            place = os.environ["PLACE"]
            ledger = open_ledger(PostgresUrl(place) if "://" in place else pathlib.Path(place))
            ledger.reserve(intent(1), [])
            ledger.record_sent(ledger.reserve(intent(10), []), "nonce", 0)
            os.kill(os.getpid(), 9)
        """
        place = path.url if isinstance(path, PostgresUrl) else str(path)
        environ = {
            **os.environ,
            "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{Path(__file__).parents[1]}",
            "PLACE": place,
        }
        subprocess.run([sys.executable, "-c", code], check=False, env=environ)
        deadline = time.monotonic() + 10
        found: list[State] = []
        while found != ["released", "unknown"] and time.monotonic() < deadline:  # a server hears of it a moment later
            with closing(open_with(path)) as ledger:
                assert ledger.spent(budget(MUCH)) in (10, 11)
            found = [state_of(path, row) for row in (1, 2)]
        assert found == ["released", "unknown"]
        with closing(open_with(path)) as ledger:
            assert ledger.spent(budget(MUCH)) == 10

    def test_a_living_process_keeps_its_rows(self, ledger: Ledger, path: LedgerPlace, times: Times) -> None:
        row = ledger.reserve(intent(), [])
        open_with(path, times).close()
        ledger.record_sent(row, "nonce", 0)
        open_with(path, times).close()
        assert state_of(path, row) == "sent"

    def test_reservations_lapse(self, ledger: Ledger, times: Times) -> None:
        row = ledger.reserve(intent(), [])
        times.pass_by(LAPSE_SECONDS + 1)
        ledger.reserve(intent(), [budget(10)])
        with pytest.raises(LedgerError, match="lapsed"):
            ledger.record_sent(row, "nonce", 0)


class TestJob:
    """The payments of one job: that of its request, and at most one more that counts."""

    JOB = "https://h:443 /v1/videos/generations/1"

    def submitted(self, ledger: Ledger, payer: str = "0xp") -> int:
        row = ledger.reserve(intent(25, "v-1", "/v1/videos/generations"), [])
        ledger.record_sent(row, "0xnonce", 1_700_000_300)
        ledger.record_job(row, self.JOB, payer)
        return row

    def follow(self, ledger: Ledger, row: int) -> int:
        return ledger.reserve(intent(20, replaces=row, job=self.JOB), [])

    def test_a_job_is_found_with_its_terms(self, ledger: Ledger, times: Times) -> None:
        assert ledger.find_job(self.JOB) is None
        row = self.submitted(ledger)
        times.pass_by(60)
        found = ledger.find_job(self.JOB)
        assert found is not None
        assert (found.row, found.last_row, found.state, found.age) == (row, row, "sent", 60)
        assert (found.method, found.path, found.model) == ("POST", "/v1/videos/generations", "v-1")
        assert (found.network, found.asset, found.pay_to, found.amount) == ("eip155:8453", "0xa", "0xb", 25)
        assert (found.reference, found.payer, found.valid_until) == ("0xnonce", "0xp", 1_700_000_300)
        assert ledger.find_job(self.JOB + "0") is None

    def test_one_payment_may_follow(self, ledger: Ledger) -> None:
        row = self.submitted(ledger)
        following = self.follow(ledger, row)
        for state in ("reserved", "sent", "unknown", "settled"):
            if state in STEPS:
                STEPS[state](ledger, following)
            with pytest.raises(JobPaid):
                self.follow(ledger, row)
            found = ledger.find_job(self.JOB)
            assert found is not None
            assert (found.row, found.last_row, found.payer) == (row, following, "0xp")
        assert ledger.spent(budget(MUCH)) == 45

    @pytest.mark.parametrize("ending", ["released", "rejected"])
    def test_another_may_follow_what_was_not_taken(self, ledger: Ledger, ending: State) -> None:
        """Both count while the first one lives."""
        row = self.submitted(ledger)
        following = self.follow(ledger, row)
        if ending == "rejected":
            STEPS["sent"](ledger, following)
        STEPS[ending](ledger, following)
        found = ledger.find_job(self.JOB)
        assert found is not None
        assert found.last_row == row
        self.follow(ledger, row)
        assert ledger.spent(budget(MUCH)) == (45 if ending == "released" else 65)

    def test_a_budget_binds_what_follows(self, ledger: Ledger) -> None:
        row = self.submitted(ledger)
        with pytest.raises(OverBudget):
            ledger.reserve(intent(20, replaces=row, job=self.JOB), [budget(44)])
        self.follow(ledger, row)

    def test_the_last_request_for_a_job_counts(self, ledger: Ledger) -> None:
        """A gateway may answer two requests with one job."""
        first, second = self.submitted(ledger), self.submitted(ledger, "0xq")
        self.follow(ledger, first)
        found = ledger.find_job(self.JOB)
        assert found is not None
        assert (found.row, found.last_row, found.payer) == (second, second, "0xq")
        self.follow(ledger, second)


class TestWhatMayStillBeTaken:
    OURS: ClassVar[dict[str, Any]] = {"wallet": "0xw", "scheme": "upto"}

    def send(self, ledger: Ledger, micro: int, **more: Any) -> int:
        row = ledger.reserve(intent(micro, **self.OURS | more), ())
        ledger.record_sent(row, f"0x{row}", 1_700_000_300, Validity(1_700_000_300, dies_in=900))
        return row

    def pending(self, ledger: Ledger, without: int = 0) -> tuple[int, int]:
        found = ledger.pending("0xw", Caip2("eip155:8453"), "0xa", without)
        return found.all, found.permit2

    def test_of_one_wallet_and_token(self, ledger: Ledger) -> None:
        assert self.pending(ledger) == (0, 0)
        first = self.send(ledger, 100)
        self.send(ledger, 20, scheme="permit2")
        self.send(ledger, 3, scheme="exact")
        self.send(ledger, 1000, scheme="gateway")
        self.send(ledger, 2000, wallet="0xother")
        ledger.reserve(intent(4, **self.OURS), ())
        assert self.pending(ledger) == (127, 124)
        assert self.pending(ledger, first) == (27, 24)

    def test_until_it_is_taken_or_dead(self, ledger: Ledger, times: Times) -> None:
        rows = [self.send(ledger, 100) for _ in range(4)]
        ledger.finish(rows[0], Outcome("settled", "0x" + "ab" * 32, charged=AtomicUnits(7), charged_micro_usd=7))
        ledger.finish(rows[1], Outcome("rejected", charged_micro_usd=0))
        ledger.finish(rows[2], Outcome("unknown"))
        assert self.pending(ledger) == (300, 300)
        ledger.record_chain([ChainWord(rows[2], "moved", amount=AtomicUnits(5), micro_usd=5)])
        assert self.pending(ledger) == (200, 200)
        times.pass_by(901)
        assert self.pending(ledger) == (0, 0)

    def test_charges_are_those_of_one_path_and_model_by_the_chain_s_word_first(
        self, ledger: Ledger, times: Times
    ) -> None:
        assert ledger.charges("/v1/x", "m-1") == []
        rows = [self.send(ledger, 100) for _ in range(3)]
        for charged, row in enumerate(rows):
            ledger.finish(row, Outcome("settled", "0x" + "ab" * 32, charged_micro_usd=charged))
        ledger.record_chain([ChainWord(rows[1], "moved", amount=AtomicUnits(50), micro_usd=50)])
        self.send(ledger, 100)  # of which nothing is known
        ledger.finish(self.send(ledger, 100, model=None), Outcome("settled", "0x" + "ab" * 32, charged_micro_usd=9))
        found = [(charge.ceiling, charge.charged) for charge in ledger.charges("/v1/x", "m-1")]
        assert found == [(100, 2), (100, 50), (100, 0)]
        assert [charge.charged for charge in ledger.charges("/v1/x", None)] == [9]
        assert ledger.charges("/v1/y", "m-1") == []
        times.pass_by(DAY)
        assert len(ledger.charges("/v1/x", "m-1")) == 3, "a day since the newest row"
        self.send(ledger, 100)
        assert ledger.charges("/v1/x", "m-1") == []
