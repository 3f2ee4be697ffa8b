"""What only a ledger in a database has: other machines, a network in between, a server that goes and comes again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mitmproxy_x402.ledger.interface import Intent, Ledger, LedgerError, Outcome, OverBudget
from mitmproxy_x402.ledger.opening import open_ledger
from mitmproxy_x402.ledger.postgres.session import ANSWER_SECONDS
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.ledger.reading import read_entries
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.limits.limits import Budget, Period, Scope
from mitmproxy_x402.settings.ledger_place import PostgresUrl
from support import effort
from support.ledger.ledgers import DatabaseTimes, MachineTimes, query, state_of
from support.ledger.payments import intent
from support.ledger.postgres import Postgres

PATIENCE = 20


@pytest.fixture
def ledger(url: PostgresUrl) -> Iterator[PostgresLedger]:
    with closing(PostgresLedger(url)) as one:
        yield one


@pytest.fixture
def other(url: PostgresUrl) -> Iterator[PostgresLedger]:
    """That of another proxy."""
    with closing(PostgresLedger(url)) as one:
        yield one


def soon(action: Callable[[], Any]) -> Any:
    """What `action` gives, once it no longer raises LedgerError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(LedgerError):
            return action()
        time.sleep(0.02)
    return action()


def backend(ledger: PostgresLedger) -> int:
    """Process id of the server's half of the ledger's session."""
    return int(ledger.link.ask("SELECT pg_backend_pid()")[0][0])


class TestContention:
    ISOLATIONS = ("read committed", "repeatable read", "serializable")

    @pytest.mark.parametrize("size", effort.chosen((997, 331), 331))
    @pytest.mark.parametrize("isolation", ISOLATIONS)
    def test_exact_to_the_unit(self, postgres: Postgres, isolation: str, size: int) -> None:
        """Whatever the user's default is: who waited for the lock must see what was written meanwhile."""
        postgres.execute(f"ALTER ROLE x402 SET default_transaction_isolation = '{isolation}'")
        url = postgres.empty()
        budgets = (Budget(size, "day"), Budget(5 * size, "", Scope("m-*", "/v1/*")))

        def spend(number: int) -> int:
            reserved = 0
            with closing(PostgresLedger(url)) as ledger:
                for step in range(1000):
                    amount = 1 + (number + step) % 7
                    try:
                        row = ledger.reserve(intent(amount), budgets)
                    except OverBudget:
                        if amount == 1:
                            return reserved
                        continue
                    if step % 3 == 0:
                        ledger.release(row)
                    else:
                        ledger.record_sent(row, "n", 0)
                        reserved += amount
            raise AssertionError

        try:
            with ThreadPoolExecutor(6) as pool:
                assert sum(pool.map(spend, range(6))) == size
        finally:
            postgres.execute("ALTER ROLE x402 RESET default_transaction_isolation")
        counted = query(url, "micro_usd", "WHERE state <> 'released'")
        assert sum(micro for (micro,) in counted) == size

    def test_a_lock_that_is_held_too_long_is_a_clear_error(self, url: PostgresUrl, ledger: PostgresLedger) -> None:
        with psycopg.connect(url.url) as db:
            db.execute("SELECT pg_advisory_xact_lock(lock_key, 0) FROM x402_ledger")
            with pytest.raises(LedgerError, match="held its lock"):
                ledger.reserve(intent(), [])
        ledger.reserve(intent(), [])


class TestServer:
    @pytest.mark.thorough
    def test_a_restart_between_two_payments_goes_unnoticed(self, postgres: Postgres, ledger: PostgresLedger) -> None:
        ledger.record_sent(ledger.reserve(intent(), []), "n", 0)
        postgres.stop()
        postgres.start()
        ledger.reserve(intent(), [])
        assert ledger.spent(Budget(1, "")) == 20

    def test_what_was_reserved_before_is_not_sent(
        self, postgres: Postgres, url: PostgresUrl, ledger: PostgresLedger
    ) -> None:
        row, sent = ledger.reserve(intent(), []), ledger.reserve(intent(), [])
        ledger.record_sent(sent, "n", 0)
        postgres.stop(signal.SIGQUIT)
        postgres.start()
        with pytest.raises(LedgerError, match="lapsed"):
            ledger.record_sent(row, "n", 0)
        assert [state_of(url, each) for each in (row, sent)] == ["released", "unknown"]
        assert ledger.finish(sent, Outcome("settled", "0xt")) == "settled"

    def test_a_number_that_a_crash_gives_again_is_not_taken_for_the_first(
        self, postgres: Postgres, url: PostgresUrl, ledger: PostgresLedger, other: PostgresLedger
    ) -> None:
        """A reservation is not waited for until it is on the disk."""
        lost = ledger.reserve(intent(), [])
        postgres.execute("DELETE FROM x402_payment", url=url)
        postgres.execute("ALTER TABLE x402_payment ALTER COLUMN id RESTART", url=url)
        assert other.reserve(intent(500), []) == lost
        with pytest.raises(LedgerError, match="lapsed"):
            ledger.record_sent(lost, "n", 0)
        ledger.release(lost)
        assert query(url, "state, micro_usd") == [("reserved", 500)]

    @pytest.mark.parametrize("resent", [False, True])
    def test_an_outcome_is_not_written_to_whoever_got_the_number(
        self, url: PostgresUrl, ledger: PostgresLedger, other: PostgresLedger, postgres: Postgres, resent: bool
    ) -> None:
        """A standby that takes over and was behind has lost rows, and gives their numbers to other payments."""
        row = ledger.reserve(intent(), [])
        ledger.record_sent(row, "mine", 0)
        teller = other if resent else ledger
        if resent:
            other.record_resent(row)
        postgres.execute("UPDATE x402_payment SET reference = 'another''s', state = 'sent'", url=url)
        with pytest.raises(LedgerError, match="no payment number"):
            teller.finish(row, Outcome("rejected"))
        assert postgres.execute("SELECT state FROM x402_payment", url=url) == [("sent",)]

    def test_down_is_an_error_at_once_and_up_again_is_found(self, postgres: Postgres, ledger: PostgresLedger) -> None:
        postgres.stop()
        try:
            for _ in range(20):
                with pytest.raises(LedgerError, match="Without it nothing is paid"):
                    ledger.reserve(intent(), [])
        finally:
            postgres.start()
        soon(lambda: ledger.reserve(intent(), []))

    def test_what_came_out_meanwhile_is_written_down_later(
        self, postgres: Postgres, url: PostgresUrl, ledger: PostgresLedger
    ) -> None:
        rows = [ledger.reserve(intent(), []) for _ in range(3)]
        for row in rows:
            ledger.record_sent(row, "n", 0)
        postgres.stop()
        try:
            with pytest.raises(LedgerError):
                ledger.finish(rows[0], Outcome("unknown", status=500))
            with pytest.raises(LedgerError):
                ledger.finish_all([(rows[0], Outcome("settled", "0xt")), (rows[1], Outcome("rejected", code="C"))])
        finally:
            postgres.start()
        soon(lambda: ledger.reserve(intent(), []))
        found = query(url, "state, transaction_id, code")
        assert found[:3] == [("settled", "0xt", None), ("rejected", None, "C"), ("unknown", None, None)]
        assert ledger.finish(rows[2], Outcome("settled", "0xu")) == "settled"

    def test_silence_has_an_end(self, ledger: PostgresLedger) -> None:
        """A server that is there, and does not answer."""
        stopped = backend(ledger)
        os.kill(stopped, signal.SIGSTOP)
        try:
            with pytest.raises(LedgerError, match=f"did not answer within {ANSWER_SECONDS:g} s"):
                ledger.reserve(intent(), [])
            soon(lambda: ledger.reserve(intent(), []))
            assert backend(ledger) != stopped
        finally:
            os.kill(stopped, signal.SIGCONT)

    def test_a_session_that_the_server_ends_in_the_midst(self, ledger: PostgresLedger, other: PostgresLedger) -> None:
        ender = threading.Timer(0.2, lambda: other.link.ask("SELECT pg_terminate_backend(%s)", (victim,)))
        victim = backend(ledger)
        ender.start()
        with pytest.raises(LedgerError, match="cannot be used"):
            ledger.link.ask("SELECT pg_sleep(0.9)")
        ender.join()
        soon(lambda: ledger.reserve(intent(), []))

    def test_a_session_that_is_gone_is_a_proxy_that_is_gone(
        self, url: PostgresUrl, ledger: PostgresLedger, other: PostgresLedger
    ) -> None:
        row, sent = ledger.reserve(intent(), []), ledger.reserve(intent(), [])
        ledger.record_sent(sent, "n", 0)
        other.reserve(intent(), [])
        assert [entry.fate for entry in read_entries(url)] == ["under way"] * 3
        os.kill(backend(ledger), signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while [entry.fate for entry in read_entries(url)] != ["released", "unknown", "under way"]:
            assert time.monotonic() < deadline
        PostgresLedger(url).close()
        assert [state for (state,) in query(url, "state")] == ["released", "unknown", "reserved"]
        with pytest.raises(LedgerError, match="lapsed"):
            ledger.record_sent(row, "n", 0)

    def test_closed_is_closed(self, url: PostgresUrl) -> None:
        ledger = PostgresLedger(url)
        ledger.close()
        ledger.close()
        with pytest.raises(LedgerError, match="is closed"):
            ledger.reserve(intent(), [])

    def test_no_thread_is_left_behind(self, postgres: Postgres, url: PostgresUrl) -> None:
        ledger = PostgresLedger(url)
        postgres.stop()
        try:
            with pytest.raises(LedgerError):
                ledger.reserve(intent(), [])
            assert any(thread.name == "x402 ledger" for thread in threading.enumerate())
            ledger.close()
            for thread in threading.enumerate():
                if thread.name == "x402 ledger":
                    thread.join(PATIENCE)
                    assert not thread.is_alive()
        finally:
            postgres.start()


@pytest.mark.parametrize("seed", effort.chosen(range(2), 0))
def test_it_counts_as_a_file_does(url: PostgresUrl, tmp_path: Path, seed: int) -> None:
    """A file adds up every row, a database the sums of minutes and hours: the same to the unit, at every moment."""
    chance = random.Random(seed)
    scopes = (Scope(), Scope("gpt-*"), Scope("", "/v1/chat*"), Scope("*-5", "/v1/images"), Scope("none"))
    periods: tuple[Period, ...] = ("", "hour", "day", "month")
    budgets = [Budget(10**9, period, scope) for period in periods for scope in scopes]
    machine = MachineTimes()
    with closing(DatabaseTimes(url)) as database, closing(SqliteLedger(tmp_path / "l", machine.clock)) as file:
        with closing(PostgresLedger(url)) as ledger:
            rows: list[int] = []
            for step in range(300):
                passed = chance.choice(
                    (0, 0.125, 1, 59.875, 60, 61, 3600, 3599.5, 86_400, chance.randrange(80_000) / 8)
                )
                machine.pass_by(passed if step % 3 else 0)
                database.wall = machine.wall
                model = chance.choice((None, "", "gpt-5", "gpt-4", "claude-5"))
                what = intent(
                    chance.randrange(1, 100), model, chance.choice(("/v1/chat/x", "/api/v1/chat/y", "/v1/images"))
                )
                limit = [Budget(chance.choice((500, 3000)), chance.choice(periods), chance.choice(scopes))]
                found = [outcome(each, what, limit) for each in (file, ledger)]
                assert same(*found)
                if not isinstance(found[0], int):  # a refusal by a file takes back with it what has lapsed
                    found = [outcome(each, what, []) for each in (file, ledger)]
                assert isinstance(found[0], int)
                rows.append(found[0])
                if rows and chance.random() < 0.5:
                    row, end = chance.choice(rows[-20:]), chance.choice(("release", "rejected", "unknown"))
                    for each in (file, ledger):
                        with contextlib.suppress(LedgerError):
                            if end == "release":
                                each.release(row)
                            else:
                                each.record_sent(row, "n", 0)
                                each.finish(row, Outcome(end))  # type: ignore[arg-type]
                if step % 10 == 0:
                    assert file.spent_of(budgets) == ledger.spent_of(budgets)


def outcome(ledger: Ledger, what: Intent, budgets: list[Budget]) -> int | OverBudget:
    """The row, or the refusal."""
    try:
        return ledger.reserve(what, budgets)
    except OverBudget as over:
        return over


def same(file: int | OverBudget, database: int | OverBudget) -> bool:
    """Whether both say the same. When there is room again a file knows exactly, a database at the earliest."""
    if isinstance(file, int) or isinstance(database, int):
        return file == database
    if file.returns_in is None or database.returns_in is None:
        is_later = file.returns_in is database.returns_in
    else:
        is_later = database.returns_in - 0.001 <= file.returns_in
    return is_later and (file.budget, file.spent) == (database.budget, database.spent)


def test_texts_that_no_database_can_keep(ledger: PostgresLedger, url: PostgresUrl) -> None:
    """A client wrote them; the limits that bind them bind them still."""
    row = ledger.reserve(intent(10, "gpt\0-\ud800%_", "/v1/\0"), [])
    assert ledger.spent(Budget(1, "", Scope("gpt?-???"))) == 10
    assert ledger.spent(Budget(1, "", Scope("gpt?-??_", "/v1/?"))) == 10
    assert ledger.spent(Budget(1, "", Scope("gpt?-??%", "/v1/?"))) == 0
    ledger.record_sent(row, "n", 0)
    assert ledger.finish(row, Outcome("unknown", code="\0", request_id="\udfff")) == "unknown"


def test_time_never_falls_from_row_to_row(postgres: Postgres, url: PostgresUrl, ledger: PostgresLedger) -> None:
    """Nor does a clock that was set back free anything."""
    ledger.reserve(intent(), [])
    (real,) = postgres.execute("SELECT pg_get_functiondef('x402_now'::regproc)", url=url)[0]
    back = real.replace("floor(", "- 7200000 + floor(")
    assert back != real
    postgres.execute(back, url=url)
    try:
        ledger.reserve(intent(), [])
        assert ledger.spent(Budget(1, "hour")) == 20
        (first, second) = query(url, "counted_at, time")
        assert first[0] == second[0]
        assert second[1] < first[1]
    finally:
        postgres.execute(real, url=url)


def test_that_it_was_sent_is_on_the_disk_whatever_the_default(postgres: Postgres, url: PostgresUrl) -> None:
    postgres.execute("ALTER ROLE x402 SET synchronous_commit = off")
    try:
        with closing(PostgresLedger(url)) as ledger:
            row = ledger.reserve(intent(), [])
            assert ledger.link.ask("SHOW synchronous_commit") == [("on",)]
            ledger.record_sent(row, "n", 0)
            ledger.finish(row, Outcome("unknown"))
            assert ledger.link.ask("SHOW synchronous_commit") == [("on",)]
    finally:
        postgres.execute("ALTER ROLE x402 RESET synchronous_commit")


def test_opened_by_its_place(url: PostgresUrl) -> None:
    with contextlib.closing(open_ledger(url)) as ledger:
        assert ledger.place == url
        with pytest.raises(LedgerError, match="no payment number 7"):
            ledger.finish(7, Outcome("unknown"))
