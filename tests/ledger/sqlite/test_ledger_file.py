"""The ledger's file: whose it is, who else has it open, what a crash or a power cut leaves, and who waits for it."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.ledger.interface import Intent, Ledger, LedgerBusy, LedgerError, Outcome
from mitmproxy_x402.ledger.opening import open_ledger
from mitmproxy_x402.ledger.reading import find_missing, read_entries
from mitmproxy_x402.ledger.sqlite import statements
from mitmproxy_x402.ledger.sqlite.liveness import is_alive
from mitmproxy_x402.ledger.sqlite.schema import MIGRATIONS, migrate
from mitmproxy_x402.ledger.sqlite.store import CHECKPOINT_PAYMENTS, COLLISION_MS, SqliteLedger
from mitmproxy_x402.limits.limits import Budget
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from support.ledger.ledgers import MachineTimes, query, state_of
from support.ledger.payments import intent
from support.patience import eventually
from support.running.verbs import run as run_verb


@pytest.fixture
def ledger(path: Path) -> Iterator[SqliteLedger]:
    with closing(SqliteLedger(path)) as one:
        yield one


class TestFile:
    def test_nobody_else_can_read_it(self, ledger: Ledger, path: Path) -> None:
        ledger.reserve(intent(), [])
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        files = list(path.parent.iterdir())
        assert len(files) == 4
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}

    def test_a_file_that_others_could_read_is_closed_to_them(self, path: Path) -> None:
        path.parent.mkdir()
        path.touch(0o644)
        SqliteLedger(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_one_that_another_proxy_makes_at_this_moment(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        path.parent.mkdir(mode=0o700)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode = WAL")
            assert path.stat().st_size
            made = []

            def make(_: float) -> None:
                other.execute("BEGIN IMMEDIATE")
                migrate(other, 0)
                other.execute("COMMIT")
                made.append(path)

            monkeypatch.setattr(time, "sleep", make)
            with closing(SqliteLedger(path)) as ledger:
                ledger.reserve(intent(), [])
        assert made
        assert caplog.text == ""

    def test_its_schema_has_a_version(self, path: Path) -> None:
        SqliteLedger(path).close()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def test_no_payment_builds_a_table_of_its_own(self, path: Path) -> None:
        """SQLite does for a list of more than two values, and for a subquery: a fifth of what a payment costs it."""
        SqliteLedger(path).close()
        named = dict.fromkeys(re.findall(r":(\w+)", statements.SENT_AND_SETTLED + statements.FINISH["settled"]), 1)
        made = {statements.INSERT: [1] * 22, statements.SENT_AND_SETTLED: named, statements.FINISH["settled"]: named}
        with closing(sqlite3.connect(path)) as db:
            for statement, values in made.items():
                steps = [step[1] for step in db.execute(f"EXPLAIN {statement}", values)]
                assert "Program" in steps, "a trigger sums it up"
                assert "OpenEphemeral" not in steps

    def test_a_newer_schema_is_refused(self, path: Path) -> None:
        SqliteLedger(path).close()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
        with pytest.raises(LedgerError, match="newer version"):
            SqliteLedger(path)

    def test_what_is_no_ledger_is_refused(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_text("This is a diary. " * 100)
        with pytest.raises(LedgerError, match="is not a ledger: it is not a SQLite database"):
            SqliteLedger(path)

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(LedgerError, match="x402_ledger"):
            SqliteLedger(tmp_path / "file" / "ledger.sqlite3")

    def test_a_lock_that_is_held_too_long_is_a_clear_error(self, ledger: Ledger, path: Path) -> None:
        row = ledger.reserve(intent(), [])
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            for action in (
                lambda: ledger.reserve(intent(), []),
                lambda: ledger.record_sent(row, "nonce", 0),
                lambda: ledger.release(row),
            ):
                with pytest.raises(LedgerBusy, match="locked by another program"):
                    action()
            db.execute("ROLLBACK")
        ledger.record_sent(row, "nonce", 0)

    def test_amounts_beyond_64_bits_are_kept(self, ledger: Ledger, path: Path) -> None:
        """An asset may have 18 decimals."""
        amount = AtomicUnits(10**30)
        ledger.reserve(Intent("POST", "h", "/", None, Caip2("eip155:1"), "0xa", "0xb", amount, 1), [])
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT amount FROM payment").fetchone() == (str(amount),)


STEPS = ("reserve", "durable", "sent", "resent", "settled", "unknown", "rejected")
CHILD = """if True:
    import asyncio, os, pathlib, sys
    from mitmproxy_x402.ledger.interface import Outcome, Validity
    from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
    from support.ledger.payments import intent
    ledger, last = SqliteLedger(pathlib.Path(sys.argv[1])), sys.argv[2]
    async def durable():
        await ledger.durable_soon()
    steps = {
        "durable": lambda: asyncio.run(durable()),
        "sent": lambda: ledger.record_sent(row, "0xnonce", 0, Validity(dies_in=300)),
        "resent": lambda: ledger.record_resent(row),
        "settled": lambda: ledger.finish(row, Outcome("settled", "0xt")),
        "unknown": lambda: ledger.finish(row, Outcome("unknown")),
        "rejected": lambda: ledger.finish(row, Outcome("rejected", code="C")),
    }
    row = ledger.reserve(intent(), [])
    order = {"reserve": (), "durable": ("durable",), "sent": ("durable", "sent")}
    for name in order.get(last, ("durable", "sent", last)):
        steps[name]()
    print("ready", flush=True)
    sys.stdin.read()
"""


def other_process(path: Path, last: str) -> subprocess.Popen[bytes]:
    """A process that has gone with a payment as far as to `last`, and lives."""
    command = [sys.executable, "-c", CHILD, str(path), last]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


class TestLiveness:
    @pytest.mark.parametrize("last", STEPS)
    def test_killed_after_each_step(self, path: Path, last: str) -> None:
        expected = {"reserve": "released", "durable": "released", "sent": "unknown", "resent": "unknown"}
        process = other_process(path, last)
        try:
            before = state_of(path, 1)
            with closing(SqliteLedger(path)) as beside:
                assert (state_of(path, 1), beside.spent(Budget(10**6, "day"))) == (before, 10)
            assert read_entries(path)[0].fate in ("under way", "unknown", "settled", "rejected")
        finally:
            end(process)
        with closing(SqliteLedger(path)) as after:
            assert state_of(path, 1) == expected.get(last, last)
            assert after.spent(Budget(10**6, "day")) == (0 if last in ("reserve", "durable") else 10)
            assert len(list(path.parent.glob("*-proxy-*"))) == 1
        assert list(path.parent.glob("*-proxy-*")) == []

    def test_a_process_number_that_is_given_again_revives_nobody(self, path: Path) -> None:
        """As in containers, where each proxy is number 1."""
        end(other_process(path, "sent"))
        mine = f" {os.getpid()} "
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE payment SET process = substr(process, 1, 21) || ? || substr(process, -36)", (mine,))
            db.commit()
        assert read_entries(path)[0].fate == "unknown"
        with closing(SqliteLedger(path)):
            assert state_of(path, 1) == "unknown"

    def test_a_row_of_the_version_before_with_our_own_number_is_of_the_dead(self, path: Path) -> None:
        times = MachineTimes()
        with closing(SqliteLedger(path, times.clock)) as ledger:
            ledger.record_sent(ledger.reserve(intent(), []), "0xnonce", 0)
            ledger.record_sent(ledger.reserve(intent(), []), "0xnonce", 0)
            with closing(sqlite3.connect(path)) as db:
                db.execute("UPDATE payment SET process = ? WHERE id = 1", (f"first {os.getpid()}",))
                db.execute("UPDATE payment SET process = ? WHERE id = 2", (f"first {os.getppid()}",))
                db.commit()
            SqliteLedger(path, times.clock).close()
            assert [state_of(path, row) for row in (1, 2)] == ["unknown", "sent"]

    def test_names_that_are_none_of_ours_are_dead_and_lead_nowhere(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "x").touch()
        for name in ("", "lock:../../x 1 b", "lock:0123456789abcdef", "first x", f"other {os.getppid()}"):
            assert not is_alive(path, name, "first")

    def test_whoever_looks_takes_nothing_away(self, ledger: SqliteLedger, path: Path) -> None:
        for _ in range(3):
            assert is_alive(path, ledger.process, "")
        (file,) = path.parent.glob("*-proxy-*")
        with file.open() as held, pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_odd_names_of_files(self, tmp_path: Path) -> None:
        path = tmp_path / "a[1]*?%41 c"
        end(other_process(path, "sent"))
        with closing(SqliteLedger(path)) as ledger:
            assert [file.name for file in tmp_path.glob("*-proxy-*")] == [f"{path.name}-proxy-{ledger.process[5:21]}"]

    @pytest.mark.parametrize("what", ["text", "link", "pipe", "database"])
    def test_what_only_has_the_name_of_a_lock_file_stays(self, path: Path, what: str) -> None:
        path.parent.mkdir()
        file = path.with_name(f"{path.name}-proxy-0123456789abcdef")
        if what == "link":
            file.symlink_to(path.parent)
        elif what == "pipe":
            os.mkfifo(file)
        elif what == "database":
            with closing(sqlite3.connect(file)) as db:
                db.execute("CREATE TABLE t (x)")
            assert file.stat().st_size == 8192
        else:
            file.write_text("Mine. " * 100)
        SqliteLedger(path).close()
        assert {each.name for each in path.parent.iterdir()} == {path.name, file.name}


class TestPowerCut:
    def test_what_was_only_reserved_counts_as_sent(self, path: Path) -> None:
        """That it was sent may not have been on the disk."""
        times = MachineTimes()
        with closing(SqliteLedger(path, times.clock)) as ledger:
            ledger.reserve(intent(nonce="0xnonce"), [])
        times.boot, times.uptime = "second", 10
        with closing(SqliteLedger(path, times.clock)) as ledger:
            assert ledger.spent(Budget(10**6, "day")) == 10
            assert query(path, "state, sends, reference") == [("unknown", 1, "0xnonce")]
            assert ledger.finish(1, Outcome("settled", "0xt")) == "settled"


def test_the_log_is_brought_into_the_file_beside_other_work(ledger: SqliteLedger, path: Path) -> None:
    before = path.stat().st_size
    for _ in range(CHECKPOINT_PAYMENTS):
        ledger.reserve(intent(), [])
    eventually(lambda: path.stat().st_size > before)


class TestLocked:
    """A file that another program has locked stops nobody but who pays."""

    def test_only_the_first_write_waits(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[sqlite3.Connection] = []

        def connect(*args: Any, **more: Any) -> sqlite3.Connection:
            made.append(real(*args, **more))
            return made[-1]

        real = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", connect)
        with closing(SqliteLedger(path)) as ledger, closing(real(path, isolation_level=None)) as other:
            (its_own,) = made
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerBusy):
                ledger.reserve(intent(), [])
            assert its_own.execute("PRAGMA busy_timeout").fetchone() == (0,)
            other.execute("ROLLBACK")
            ledger.reserve(intent(), [])
            assert its_own.execute("PRAGMA busy_timeout").fetchone() == (COLLISION_MS,)

    def test_outcomes_wait_for_the_end_of_it(self, ledger: SqliteLedger, path: Path) -> None:
        row = ledger.reserve(intent(), [])
        ledger.record_sent(row, "0xnonce", 0)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerBusy):
                ledger.finish(row, Outcome("settled", "0xt"))
            db.execute("ROLLBACK")
        ledger.finish_all([])
        assert state_of(path, row) == "settled"


class TestWhatIsNotOurs:
    @pytest.mark.parametrize("content", ["diary", "database", "newer"])
    def test_is_not_touched(self, path: Path, content: str) -> None:
        path.parent.mkdir()
        if content == "diary":
            path.write_text("This is a diary. " * 100)
        else:
            with closing(sqlite3.connect(path)) as db:
                db.execute("CREATE TABLE payment (id INTEGER)" if content == "database" else "CREATE TABLE t (x)")
                if content == "newer":
                    db.execute("DROP TABLE t")
                    for script in MIGRATIONS[:1]:
                        db.executescript(script)
                    db.execute("PRAGMA user_version = 99")
        path.chmod(0o644)
        before = path.read_bytes()
        with pytest.raises(LedgerError, match=r"not a ledger|another program|newer version"):
            SqliteLedger(path)
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (before, 0o644)
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_nor_what_is_no_file(self, path: Path) -> None:
        path.parent.mkdir()
        os.mkfifo(path, 0o644)
        with pytest.raises(LedgerError, match="not a file that can hold"):
            SqliteLedger(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


class TestMissingLog:
    def test_a_file_whose_payments_were_all_in_its_log(self, tmp_path: Path) -> None:
        """As it was made by older versions, and by a proxy that is killed at its start."""
        with closing(sqlite3.connect(tmp_path / "l")) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE t (x)")
            shutil.copy(tmp_path / "l", tmp_path / "copy")
        for opened in (SqliteLedger, read_entries):
            with pytest.raises(LedgerError, match="its log copy-wal, in which its payments were, is missing"):
                opened(tmp_path / "copy")  # type: ignore[operator]

    def test_a_copy_without_its_log_is_said_to_be_one(
        self, ledger: SqliteLedger, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        ledger.reserve(intent(), [])
        shutil.copy(path, tmp_path / "copy")
        with caplog.at_level(logging.WARNING):
            SqliteLedger(tmp_path / "copy").close()
        assert "has no log copy-wal, though a proxy had it open" in caplog.text
        assert "If it was copied or moved without that log, its last payments are missing" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            SqliteLedger(tmp_path / "copy").close()
        assert caplog.text == ""

    def test_what_a_tool_finds_is_said_until_a_proxy_has_said_it(
        self, ledger: SqliteLedger, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        ledger.reserve(intent(), [])
        copy = tmp_path / "copy"
        shutil.copy(ledger.path, copy)
        for _ in range(2):
            open_ledger(copy, is_tool=True).close()
            assert "its last payments are missing" in find_missing(copy)
        caplog.clear()
        SqliteLedger(copy).close()
        assert "its last payments are missing" in caplog.text
        assert find_missing(copy) == ""
        caplog.clear()
        SqliteLedger(copy).close()
        assert caplog.text == ""

    @pytest.mark.parametrize("verb", ["check", "reconcile"])
    def test_a_verb_leaves_the_warning_to_the_proxy(self, home: Path, ledger: SqliteLedger, verb: str) -> None:
        ledger.reserve(intent(), [])
        copy = home / "copy"
        shutil.copy(ledger.path, copy)
        run_verb(home, {}, verb, "--set", f"x402_ledger={copy}")
        assert "its last payments are missing" in find_missing(copy)

    def test_of_what_was_closed_or_killed_nothing_is_missing(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        SqliteLedger(path).close()
        SqliteLedger(path).close()
        end(other_process(path, "sent"))
        SqliteLedger(path).close()
        assert caplog.text == ""


def test_a_process_that_ends_without_a_word_has_closed_it(tmp_path: Path) -> None:
    """As where a port cannot be opened: the next start must not take the file for one whose log is missing."""
    path = tmp_path / "ledger.sqlite3"
    code = (
        "import sys, pathlib; from mitmproxy_x402.ledger.sqlite.store import SqliteLedger;"
        "kept = SqliteLedger(pathlib.Path(sys.argv[1])); sys.exit(1)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert not list(tmp_path.glob("*-proxy-*"))
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT COUNT(*) FROM opened").fetchone() == (0,)
