"""What only a ledger in a file has: clocks and boots, and rows of older versions that free themselves."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.interface import Ledger, Outcome, OverBudget, Validity
from mitmproxy_x402.ledger.sqlite import schema, statements
from mitmproxy_x402.ledger.sqlite.schema import MIGRATIONS
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.protocol.messages import AtomicUnits
from support.ledger.ledgers import MachineTimes, state_of
from support.ledger.payments import DAY, MUCH, budget, in_state, intent, pay


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite3"


class TestFastClock:
    """Signatures that were made while the wall clock was fast are valid by the right time later than was meant."""

    HOUR = budget(15, "hour")

    def pay_three_hours(self, ledger: Ledger, times: MachineTimes) -> None:
        """One payment in each of three hours, by a clock that is fast by three, with three outcomes."""
        times.wall = 1.8e9 + 3 * 3600
        charged = Outcome("settled", "0xt", charged=AtomicUnits(0), charged_micro_usd=0)
        for outcome in (Outcome("unknown"), Outcome("rejected", counts_for=360), charged):
            row = ledger.reserve(intent(), [self.HOUR])
            ledger.record_sent(row, "nonce", 0, Validity(int(times.wall) + 300, dies_in=360))
            ledger.finish(row, outcome)
            times.pass_by(3605)

    @pytest.mark.parametrize("restart", [False, True])
    def test_they_count_for_as_long_as_they_are_valid_by_the_right_time(
        self, ledger: SqliteLedger, path: Path, times: MachineTimes, restart: bool
    ) -> None:
        self.pay_three_hours(ledger, times)
        assert ledger.spent(self.HOUR) == 0
        times.wall -= 3 * 3600
        with closing(SqliteLedger(path, times.clock)) as other:
            after = other if restart else ledger
            for _ in range(2):
                with pytest.raises(OverBudget):
                    after.reserve(intent(), [self.HOUR])
            assert [after.spent(self.HOUR), after.spent(budget(MUCH))] == [30, 30]
            times.pass_by(3 * 3600 + 300 + 3600 + 120)
            after.reserve(intent(), [self.HOUR])

    @pytest.mark.parametrize("restart", [False, True])
    def test_what_is_signed_again_by_a_fast_clock_counts_as_long(
        self, ledger: SqliteLedger, path: Path, times: MachineTimes, restart: bool
    ) -> None:
        times.wall = 1.8e9
        row = ledger.reserve(intent(), [self.HOUR])
        ledger.record_sent(row, "nonce", 0, Validity(int(times.wall) + 300, dies_in=360))
        ledger.finish(row, Outcome("settled", "0xt"))
        times.pass_by(100)
        times.wall += 3 * 3600
        ledger.renew(row, 360, [self.HOUR])
        ledger.record_resent(row, Validity(int(times.wall) + 300, dies_in=360))
        times.wall -= 3 * 3600
        times.pass_by(3700)
        with closing(SqliteLedger(path, times.clock)) as other:
            after = other if restart else ledger
            assert after.spent(self.HOUR) == 10
            with pytest.raises(OverBudget):
                after.reserve(intent(), [self.HOUR])
            times.pass_by(3 * 3600 + 300)
            after.reserve(intent(), [self.HOUR])

    def test_what_was_reserved_before_the_clock_was_set_is_signed_again_as_usual(
        self, ledger: SqliteLedger, times: MachineTimes
    ) -> None:
        times.wall = 3600
        row = ledger.reserve(intent(), [self.HOUR])
        ledger.record_sent(row, "nonce", 0, Validity(3900, dies_in=360))
        times.wall = 1.8e9
        ledger.renew(row, 360, [self.HOUR])
        ledger.record_resent(row, Validity(int(times.wall) + 300, dies_in=360))
        times.pass_by(3700)
        assert ledger.spent(self.HOUR) == 0

    @pytest.mark.parametrize("fast", [30, 5 * 366 * 24 * 3600])
    def test_a_moment_and_a_clock_that_was_never_set_change_nothing(
        self, ledger: SqliteLedger, times: MachineTimes, fast: float
    ) -> None:
        times.wall = 1.8e9
        pay(ledger, self.HOUR)
        times.pass_by(3601)
        times.wall -= fast
        pay(ledger, self.HOUR)
        assert ledger.spent(self.HOUR) == 10


class TestSupersededInFile:
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
            (statements.LAPSED_ELSEWHERE, {lapsed}),
            (statements.END, {due}),
            (statements.LAST, {lapsed, due}),
        ):
            with closing(sqlite3.connect(path)) as db:
                values = (0,) * statement.count("?")
                plan = [row[-1] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            assert {step.partition(" INDEX ")[2] for step in plan if step.startswith("SEARCH")} == indexes, plan
            # Only the last row is looked for without one, from the table's own end.
            assert [step for step in plan if step.startswith("SCAN payment")] == ["SCAN payment"] * (len(indexes) - 1)


class TestClock:
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
