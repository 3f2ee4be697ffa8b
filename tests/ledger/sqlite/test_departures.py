"""Payments that have left before the table says so: what others see, what a kill leaves, and that nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.interface import (
    LAPSE_SECONDS,
    ChainWord,
    Intent,
    LedgerError,
    Outcome,
    Validity,
)
from mitmproxy_x402.ledger.reading import each_entry, find_missing, read_entries
from mitmproxy_x402.ledger.sqlite.departures import LATEST_MS, SLOTS
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sums import read_groups
from mitmproxy_x402.limits.limits import Budget
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from support.ledger.ledgers import MachineTimes, query, state_of

DAY = Budget(10**6, "day")
UNTIL = 1_700_000_300
VALIDITY = Validity(UNTIL, "hash", 77, 310)


def intent(nonce: str = "0xnonce") -> Intent:
    network = Caip2("eip155:8453")
    return Intent("POST", "h", "/v1/x", "m", network, "0xa", "0xb", AtomicUnits(10), 10, nonce=nonce)


@pytest.fixture
def times() -> MachineTimes:
    return MachineTimes()


@pytest.fixture
def ledger(path: Path, times: MachineTimes) -> Iterator[SqliteLedger]:
    with closing(SqliteLedger(path, times.clock)) as one:
        yield one


def departed(ledger: SqliteLedger) -> int:
    """The row of a payment that has left, of which the table does not know."""
    row = ledger.reserve(intent(), [DAY])
    ledger.record_departure(row, "0xnonce", UNTIL, VALIDITY)
    assert state_of(ledger.path, row) == "reserved"
    return row


def in_loop(steps: Callable[[], None]) -> None:
    async def run() -> None:
        steps()

    asyncio.run(run())


async def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


OUTCOMES = (
    Outcome("settled", "0xt", 200, first_byte=0.1, total=0.2, size=7, request_id="r"),
    Outcome("settled", "0xt", charged=AtomicUnits(3), charged_micro_usd=3),
    Outcome("rejected", code="C", status=402, counts_for=400),
    Outcome("superseded", counts_for=60),
    Outcome("unknown", status=502),
)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.state)
def test_an_outcome_is_written_as_after_a_transaction(ledger: SqliteLedger, path: Path, outcome: Outcome) -> None:
    def steps() -> None:
        first = ledger.reserve(intent(), [DAY])
        ledger.record_sent(first, "0xnonce", UNTIL, VALIDITY)
        assert ledger.finish(first, outcome) == ledger.finish(departed(ledger), outcome) == outcome.state

    in_loop(steps)
    with closing(sqlite3.connect(path)) as db:
        columns = [column[1] for column in db.execute("PRAGMA table_info(payment)")]
    rows = query(path, ", ".join(name for name in columns if name not in ("id", "cumulative")))
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert ledger.spent(DAY) == 20


def test_the_table_catches_up_by_itself(ledger: SqliteLedger, path: Path) -> None:
    async def run() -> None:
        rows = [departed(ledger), departed(ledger)]
        await until(lambda: [state_of(path, row) for row in rows] == ["sent", "sent"])

    asyncio.run(run())
    assert (
        query(path, "sends, reference, valid_until, valid_before, blockhash, last_height")
        == [(1, "0xnonce", UNTIL, UNTIL, "hash", 77)] * 2
    )


def test_a_file_that_is_locked_keeps_no_payment_from_leaving(ledger: SqliteLedger, path: Path) -> None:
    def steps() -> None:
        row = ledger.reserve(intent(), [DAY])
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            ledger.record_departure(row, "0xnonce", UNTIL, VALIDITY)
            with pytest.raises(LedgerError):
                ledger.finish(row, Outcome("settled", "0xt"))
            other.rollback()
        ledger.finish_all([])
        assert query(path, "state, reference, transaction_id") == [("settled", "0xnonce", "0xt")]

    in_loop(steps)


LATER: dict[str, Callable[[SqliteLedger, int], object]] = {
    "released": lambda ledger, row: ledger.release(row),
    "resent": lambda ledger, row: ledger.record_resent(row),
    "dead": lambda ledger, row: ledger.record_chain([ChainWord(row, "dead")]),
    "job": lambda ledger, row: ledger.record_job(row, "j", "0xw"),
    "closed": lambda ledger, _: ledger.close(),
}


@pytest.mark.parametrize("then", LATER)
def test_whatever_comes_next_knows_that_it_has_left(ledger: SqliteLedger, path: Path, then: str) -> None:
    expected = {"released": "reserved", "resent": "unknown", "dead": "expired"}

    def steps() -> None:
        row = departed(ledger)
        LATER[then](ledger, row)
        assert state_of(path, row) == expected.get(then, "sent")
        if then == "released":
            assert ledger.finish(row, Outcome("settled", "0xt")) == "settled"

    in_loop(steps)


def test_there_are_never_more_notes_than_have_room(ledger: SqliteLedger, path: Path) -> None:
    def steps() -> None:
        rows = [departed(ledger) for _ in range(SLOTS)]
        last = ledger.reserve(intent(), [])
        ledger.record_departure(last, "0xnonce", UNTIL)
        assert state_of(path, last) == "sent"
        assert {state_of(path, row) for row in rows} == {"sent"}  # and all have room again
        ledger.finish(rows[5], Outcome("unknown"))
        for _ in range(SLOTS):
            departed(ledger)

    in_loop(steps)


def test_what_was_reserved_long_ago_leaves_by_a_transaction_or_not_at_all(
    ledger: SqliteLedger, path: Path, times: MachineTimes
) -> None:
    def steps() -> None:
        old, older = ledger.reserve(intent(), []), ledger.reserve(intent(), [])
        times.pass_by(LATEST_MS / 1000)
        ledger.record_departure(old, "0xnonce", UNTIL)
        assert state_of(path, old) == "sent"
        times.pass_by(LAPSE_SECONDS)
        with pytest.raises(LedgerError, match="lapsed"):
            ledger.record_departure(older, "0xnonce", UNTIL)

    in_loop(steps)


CHILD = """if True:
    import asyncio, contextlib, pathlib, sqlite3, sys
    from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
    from mitmproxy_x402.ledger.interface import Validity
    from support.ledger.payments import budget, intent
    async def run():
        ledger = SqliteLedger(pathlib.Path(sys.argv[1]))
        ledger.reserve(intent(nonce="0xkept"), [])
        row = ledger.reserve(intent(nonce="0xnonce"), [budget(10**6)])
        ledger.record_departure(row, "0xnonce", 1_700_000_300, Validity(1_700_000_300, "hash", 77, 310))
        with contextlib.closing(sqlite3.connect(ledger.path)) as table:
            assert table.execute("SELECT state FROM payment WHERE id = ?", (row,)).fetchone() == ("reserved",)
        print("ready", flush=True)
        sys.stdin.read()  # on the loop, so that the table does not catch up
    asyncio.run(run())
"""


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a reservation (row 1) and a payment that has left (row 2), which does nothing any more."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_after_a_kill_only_what_has_left_counts(path: Path, other: subprocess.Popen[bytes]) -> None:
    assert [entry.fate for entry in read_entries(path)] == ["under way", "under way"]
    kill(other)
    for entries in (read_entries(path), list(each_entry(path))):
        assert [(entry.fate, entry.counts) for entry in entries] == [("released", 0), ("unknown", 10)]
    assert sorted((group.fate, group.counts) for group in read_groups(path)) == [("released", 0), ("unknown", 10)]
    with closing(SqliteLedger(path)) as after:
        assert query(path, "state, reference") == [("released", None), ("unknown", "0xnonce")]
        assert after.spent(DAY) == 10
        assert len(list(path.parent.glob("*-proxy-*"))) == 1


def test_what_a_report_says_of_it_is_what_the_next_proxy_will_find(path: Path, other: subprocess.Popen[bytes]) -> None:
    kill(other)
    before = read_entries(path)[1]
    SqliteLedger(path).close()
    after = read_entries(path)[1]
    assert (before.fate, before.sends, before.reference) == (after.fate, after.sends, after.reference)
    assert before.reference == "0xnonce"


@pytest.mark.parametrize("is_lost", [False, True])
def test_after_a_kill_only_a_log_that_was_lost_is_said_to_be(
    path: Path, other: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture, is_lost: bool
) -> None:
    """Another SQLite program that closes the file last puts the log into it, and deletes the log."""
    kill(other)
    log = Path(f"{path}-wal")
    if is_lost:
        log.unlink()
    else:
        with closing(sqlite3.connect(path)) as browser:
            assert browser.execute("SELECT COUNT(*) FROM payment").fetchone() == (2,)
    assert not log.exists()
    said = "has lost its log ledger.sqlite3-wal, so its last payments are missing" if is_lost else ""
    for missing in (find_missing(path), _warning_at_the_start(path, caplog)):
        assert said in missing
        assert bool(missing) == is_lost


def _warning_at_the_start(path: Path, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.WARNING):
        SqliteLedger(path).close()
    return caplog.text


def test_reservations_of_others_lapse_when_they_have_ended(path: Path, other: subprocess.Popen[bytes]) -> None:
    """Until then they may be about to send them, however long they were held up."""
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    with closing(SqliteLedger(path)) as own:
        boot = own.process.rpartition(" ")[2]
    times = MachineTimes(time.time(), uptime, boot)
    with closing(SqliteLedger(path, times.clock)) as beside:
        times.pass_by(LAPSE_SECONDS + 60)
        beside.reserve(intent(), [DAY])
        assert [state_of(path, row) for row in (1, 2)] == ["reserved", "reserved"]
        kill(other)
        times.pass_by(60)
        beside.reserve(intent(), [DAY])
        assert [state_of(path, row) for row in (1, 2)] == ["released", "unknown"]
        assert beside.spent(DAY) == 30


def test_in_a_copy_of_the_file_whatever_was_reserved_may_have_been_sent(
    ledger: SqliteLedger, path: Path, tmp_path: Path, times: MachineTimes
) -> None:
    ledger.reserve(intent("0xkept"), [])

    def steps() -> None:
        departed(ledger)

    in_loop(steps)
    copy = tmp_path / "copy.sqlite3"
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(copy)) as to:
        db.backup(to)
    assert [entry.fate for entry in read_entries(copy)] == ["unknown", "unknown"]
    with closing(SqliteLedger(copy, times.clock)) as restored:
        assert restored.spent(DAY) == 20


def test_a_power_cut_takes_the_note_and_nothing_else(path: Path) -> None:
    times = MachineTimes()

    def steps() -> None:
        with closing(SqliteLedger(path, times.clock)) as ledger:
            departed(ledger)
            for name in ("ledger.sqlite3", "ledger.sqlite3-wal"):
                (path.parent.parent / name).write_bytes((path.parent / name).read_bytes())

    in_loop(steps)
    times.boot, times.uptime = "second", 10
    with closing(SqliteLedger(path.parent.parent / path.name, times.clock)) as ledger:
        assert ledger.spent(DAY) == 10
        assert state_of(path.parent.parent / path.name, 1) == "unknown"


def _as_long(file: Path) -> bytes:
    return b"\0" * file.stat().st_size


def _link(file: Path) -> None:
    file.symlink_to(file.replace(file.with_name("elsewhere")))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: os.truncate(file, 0),
    "short": lambda file: os.truncate(file, 16),
    "long": lambda file: os.truncate(file, 1 << 30),
    "zeros": lambda file: file.write_bytes(_as_long(file)),
    "rubbish": lambda file: file.write_bytes(random.Random(1).randbytes(file.stat().st_size)),
    "a link": _link,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_where_the_notes_are_damaged_all_that_was_reserved_counts(
    path: Path, other: subprocess.Popen[bytes], damage: str
) -> None:
    kill(other)
    (file,) = path.parent.glob("*-proxy-*")
    DAMAGE[damage](file)
    assert [entry.fate for entry in read_entries(path)] == ["unknown", "unknown"]
    with closing(SqliteLedger(path)) as after:
        assert after.spent(DAY) == 20


def _replace_by_a_copy(folder: Path) -> None:
    """Of its notes from before anything left: a user's `cp` then, and `mv` now."""
    (file,) = folder.glob("*-proxy-*")
    copy = folder.parent / "copy"
    first, *notes = struct.iter_unpack("16s", file.read_bytes())
    copy.write_bytes(b"".join(first) + struct.pack("=qq", 0, ~0) * len(notes))
    copy.replace(file)


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "alive"])
def test_notes_that_were_replaced_by_a_copy_say_nothing(
    path: Path, other: subprocess.Popen[bytes], is_killed: bool
) -> None:
    """Those of a process that lives, too: others take it for ended, since nobody locks the copy."""
    _replace_by_a_copy(path.parent)
    if is_killed:
        kill(other)
    assert [entry.fate for entry in read_entries(path)] == ["unknown", "unknown"]
    with closing(SqliteLedger(path)) as after:
        assert after.spent(DAY) == 20


def test_what_leaves_after_its_notes_were_replaced_counts(
    ledger: SqliteLedger, path: Path, times: MachineTimes
) -> None:
    def steps() -> None:
        row = ledger.reserve(intent(), [DAY])
        _replace_by_a_copy(path.parent)
        with closing(SqliteLedger(path, times.clock)) as beside:
            ledger.record_departure(row, "0xnonce", UNTIL, VALIDITY)
            assert beside.spent(DAY) == 10
            ledger.finish(row, Outcome("unknown"))
            assert beside.spent(DAY) == 10

    in_loop(steps)
