"""Who may use a ledger in a database, with which rights, and that no password is shown."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mitmproxy_x402.ledger.interface import LedgerError, Outcome
from mitmproxy_x402.ledger.postgres.schema import MIGRATIONS
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.ledger.reading import is_there, read_entries
from mitmproxy_x402.limits.limits import Budget, Scope
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.postgres import SharedRetainedPayments
from mitmproxy_x402.payment.retained.store import Memory
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.settings.ledger_place import PostgresUrl
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support.ledger.ledgers import DatabaseTimes, query
from support.ledger.payments import intent
from support.ledger.postgres import PASSWORD, Postgres
from support.proxy import EVM_KEY
from support.wire import free_port

SCALE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"


@pytest.fixture
def ledger(url: PostgresUrl) -> Iterator[PostgresLedger]:
    with closing(PostgresLedger(url)) as one:
        yield one


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
