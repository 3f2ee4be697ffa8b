"""What only a ledger in a database has: other machines, a network in between, a server that goes and comes again."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
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
from mitmproxy_x402.ledger.postgres.schema import MIGRATIONS
from mitmproxy_x402.ledger.postgres.session import ANSWER_SECONDS
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.ledger.reading import is_there, read_entries
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.limits.limits import Budget, Period, Scope
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.postgres import SharedRetainedPayments
from mitmproxy_x402.payment.retained.store import Memory
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.settings.ledger_place import PostgresUrl
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support.ledgers import DatabaseTimes, MachineTimes, query, state_of
from support.postgres import PASSWORD, Postgres
from support.proxy import EVM_KEY
from support.wire import free_port

PATIENCE = 20
SCALE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"


def intent(micro: int = 10, model: str | None = "m-1", path: str = "/v1/x") -> Intent:
    return Intent("POST", "h", path, model, Caip2("eip155:8453"), "0xa", "0xb", AtomicUnits(micro), micro)


@pytest.fixture
def url(postgres: Postgres) -> PostgresUrl:
    return postgres.empty()


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


class TestMakingTables:
    def test_many_at_once_where_there_are_none(self, postgres: Postgres) -> None:
        fresh = postgres.fresh()
        with ThreadPoolExecutor(6) as pool:
            ledgers = [future.result() for future in [pool.submit(PostgresLedger, fresh) for _ in range(6)]]
        rows = [ledger.reserve(intent(), []) for ledger in ledgers]
        assert sorted(rows) == [1, 2, 3, 4, 5, 6]
        assert postgres.execute("SELECT version FROM x402_ledger", url=fresh) == [(len(MIGRATIONS),)]
        for ledger in ledgers:
            ledger.close()

    def test_ledgers_of_two_schemas_know_nothing_of_each_other(
        self, postgres: Postgres, ledger: PostgresLedger
    ) -> None:
        with closing(PostgresLedger(postgres.fresh())) as another:
            ledger.reserve(intent(), [])
            assert another.spent(Budget(1, "")) == 0
            assert another.name != ledger.name

    def test_a_newer_schema_is_refused(self, postgres: Postgres) -> None:
        fresh = postgres.fresh()
        PostgresLedger(fresh).close()
        postgres.execute("UPDATE x402_ledger SET version = 99", url=fresh)
        for read in (PostgresLedger, read_entries):
            with pytest.raises(LedgerError, match="written by a newer version"):
                read(fresh)

    def test_an_encoding_that_cannot_keep_every_text_is_refused(self, postgres: Postgres) -> None:
        postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        with pytest.raises(LedgerError, match="UTF8"):
            PostgresLedger(PostgresUrl(postgres.url().url.replace("/postgres?", "/latin?")))


class TestContention:
    BUDGETS = (Budget(997, "day"), Budget(5000, "", Scope("m-*", "/v1/*")))

    @pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
    def test_exact_to_the_unit(self, postgres: Postgres, isolation: str) -> None:
        """Whatever the user's default is: who waited for the lock must see what was written meanwhile."""
        postgres.execute(f"ALTER ROLE x402 SET default_transaction_isolation = '{isolation}'")
        url = postgres.empty()

        def spend(number: int) -> int:
            reserved = 0
            with closing(PostgresLedger(url)) as ledger:
                for step in range(1000):
                    amount = 1 + (number + step) % 7
                    try:
                        row = ledger.reserve(intent(amount), self.BUDGETS)
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
                assert sum(pool.map(spend, range(6))) == 997
        finally:
            postgres.execute("ALTER ROLE x402 RESET default_transaction_isolation")
        counted = query(url, "micro_usd", "WHERE state <> 'released'")
        assert sum(micro for (micro,) in counted) == 997

    def test_a_lock_that_is_held_too_long_is_a_clear_error(self, url: PostgresUrl, ledger: PostgresLedger) -> None:
        with psycopg.connect(url.url) as db:
            db.execute("SELECT pg_advisory_xact_lock(lock_key, 0) FROM x402_ledger")
            with pytest.raises(LedgerError, match="held its lock"):
                ledger.reserve(intent(), [])
        ledger.reserve(intent(), [])


class TestServer:
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


class TestRights:
    @pytest.fixture
    def role(self, postgres: Postgres, url: PostgresUrl) -> Iterator[Callable[[str], PostgresUrl]]:
        """Makes a user with these rights on the ledger, and gives the URL to be that user."""
        schema = url.parameters["options"].partition("=")[2]

        def make(*grants: str) -> PostgresUrl:
            postgres.execute("CREATE ROLE clerk LOGIN PASSWORD 'p'", url=url)
            for grant in (f"USAGE ON SCHEMA {schema}", *grants):
                postgres.execute(f"GRANT {grant} TO clerk", url=url)
            return postgres.url(schema, user="clerk")

        yield make
        postgres.execute("DROP OWNED BY clerk", url=url)
        postgres.execute("DROP ROLE clerk")

    def test_those_of_the_documentation_are_enough(self, role: Any) -> None:
        url = role(*re.findall(r"^GRANT (.*) TO proxy;", SCALE.read_text(), re.MULTILINE))
        with closing(PostgresLedger(url)) as ledger:
            row = ledger.reserve(intent(), [Budget(10, "day")])
            ledger.record_sent(row, "n", 0)
            assert ledger.finish(row, Outcome("settled", "0xt")) == "settled"
            ledger.release(ledger.reserve(intent(), []))
            wallets = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, Path("/nowhere")))
            held = SharedRetainedPayments(ledger, wallets, BUILT_IN, time.time)
            held.remember(RequestIdentity(("", "", "")), Memory(None, 1, 1, row, ""))
            assert held.take(RequestIdentity(("", "", ""))) is not None

    def test_reading_needs_less(self, role: Any, ledger: PostgresLedger) -> None:
        ledger.reserve(intent(), [])
        url = role(*re.findall(r"^GRANT (.*) TO reader;", SCALE.read_text(), re.MULTILINE))
        assert is_there(url)
        assert [entry.fate for entry in read_entries(url)] == ["under way"]
        with pytest.raises(LedgerError, match="permission denied"):
            PostgresLedger(url)

    def test_a_user_who_may_make_no_tables(self, postgres: Postgres, role: Any) -> None:
        fresh = postgres.fresh()
        empty = fresh.parameters["options"].partition("=")[2]
        role(f"USAGE ON SCHEMA {empty}")
        assert not is_there(fresh)
        with pytest.raises(LedgerError, match="permission denied"):
            PostgresLedger(postgres.url(empty, user="clerk"))
        with pytest.raises(LedgerError, match=r"There is no ledger in postgresql://.* yet"):
            read_entries(fresh)

    def test_a_server_that_only_reads(self, postgres: Postgres, url: PostgresUrl) -> None:
        postgres.execute("ALTER ROLE x402 SET default_transaction_read_only = on")
        try:
            with pytest.raises(LedgerError, match="read-only"):
                PostgresLedger(url)
        finally:
            with psycopg.connect(url.url, autocommit=True) as db:
                db.execute("SET default_transaction_read_only = off")
                db.execute("ALTER ROLE x402 RESET default_transaction_read_only")


class TestSecrets:
    def test_a_password_opens_and_is_shown_nowhere(self, postgres: Postgres) -> None:
        url = postgres.fresh(over="loopback")
        with closing(PostgresLedger(url)) as ledger:
            ledger.reserve(intent(), [])
            shown = f"{url} {url!r} {ledger.name} {ledger.place!r} {vars(ledger)}"
        assert "127.0.0.1" in shown
        assert PASSWORD not in shown
        assert url.secrets[0] not in shown

    @pytest.mark.parametrize(
        "wrong",
        [
            "postgresql://x402:the-s3cret@127.0.0.1:{port}/postgres",
            "postgresql://x402@127.0.0.1:{port}/postgres?password=the-s3cret",
            "postgresql://nobody:the-s3cret@127.0.0.1:{port}/postgres",
            "postgresql://x402:the-s3cret@127.0.0.1:{port}/none",
            "postgresql://x402:the-s3cret@127.0.0.1:{free}/postgres",
            "postgresql://x402:the-s3cret@127.0.0.1:{port}/postgres?sslmode=the-s3cret",
            "postgresql://x402:the-s3cret@127.0.0.1:{port}/postgres?sslmode=require",
            "postgresql://x402:the-s3cret@127.0.0.1:{port}/postgres?no_such_thing=1",
            "postgresql://x402:the-s3cret@127.0.0.1:99999/postgres",
        ],
    )
    def test_errors_say_what_was_wrong_without_it(self, postgres: Postgres, wrong: str) -> None:
        url = PostgresUrl(wrong.format(port=postgres.port, free=free_port()))
        for read in (PostgresLedger, read_entries, is_there):
            with pytest.raises(LedgerError, match=r"cannot be used: .*x402_ledger") as caught:
                read(url)
            assert "s3cret" not in str(caught.value)
            assert caught.value.__cause__ is None

    def test_no_driver_is_said_with_what_to_install(self) -> None:
        code = (
            "import sys; sys.modules['psycopg'] = None\n"
            "from mitmproxy_x402.ledger.opening import open_ledger\n"
            "from mitmproxy_x402.settings.ledger_place import PostgresUrl\n"
            "try: open_ledger(PostgresUrl('postgresql://u:p@h/d'))\n"
            "except Exception as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("The ledger postgresql://u@h/d needs psycopg")
        assert f"run {sys.executable} -m pip install" in done.stdout


@pytest.mark.parametrize("seed", range(2))
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
                assert found[0] == found[1]
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


def outcome(ledger: Ledger, what: Intent, budgets: list[Budget]) -> object:
    """The row, or everything that a refusal says."""
    try:
        return ledger.reserve(what, budgets)
    except OverBudget as over:
        return str(over.budget), over.spent, over.returns_in and round(over.returns_in, 3)


def test_old_payments_may_be_deleted_as_the_documentation_has_it(url: PostgresUrl) -> None:
    (deletion,) = re.findall(r"^DELETE FROM .*?;", SCALE.read_text(), re.MULTILINE | re.DOTALL)
    budgets = [Budget(1, period, scope) for period in ("", "hour", "month") for scope in (Scope(), Scope("m-*"))]  # type: ignore[arg-type]
    with closing(DatabaseTimes(url, time.time() - 200 * 86_400)) as times, closing(PostgresLedger(url)) as ledger:
        for days in (150, 30, 20):
            for end in ("sent", "released"):
                row = ledger.reserve(intent(), [])
                if end == "released":
                    ledger.release(row)
                else:
                    ledger.record_sent(row, "n", 0)
            times.pass_by(days * 86_400)
        before = ledger.spent_of(budgets)
        assert before == [30, 30, 0, 0, 10, 10]
        ledger.link.ask(deletion)
        assert [row for (row,) in query(url, "id")] == [3, 4, 5, 6]
        assert ledger.spent_of(budgets) == before
        ledger.link.ask(deletion.replace("90 days", "0 days"))
        assert [row for (row,) in query(url, "id")] == [6]
        assert ledger.spent_of(budgets)[:4] == before[:4]


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
