"""The ledger's states, the chain's word, jobs, and proxies that die. Both kinds of ledger pass the same tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
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
    JobPaid,
    Ledger,
    LedgerError,
    Outcome,
    OverBudget,
    State,
    Validity,
)
from mitmproxy_x402.ledger.reading import read_unproven
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl
from support.ledger.ledgers import Times, open_with, query, state_of
from support.ledger.payments import DAY, MUCH, budget, in_state, intent

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

    def test_what_was_signed_again_since_the_chain_was_asked_is_not_dead(self, ledger: Ledger) -> None:
        row = in_state(ledger, "settled")
        asked = ChainWord(row, "dead", sends=1)
        ledger.record_resent(row, Validity(dies_in=600))
        assert ledger.record_chain([asked]) == ["settled"]
        assert ledger.spent(budget(MUCH)) == 10
        assert ledger.record_chain([ChainWord(row, "dead", sends=2)]) == ["expired"]

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
