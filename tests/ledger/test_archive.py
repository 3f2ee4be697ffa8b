"""What leaves the ledger is in the file, and counts nowhere; what a budget counts, or has changed, stays."""

from __future__ import annotations

import contextlib
import csv
import gzip
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import date, timezone
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.ledger.archive import archive, back_up
from mitmproxy_x402.ledger.interface import ChainWord, Intent, Ledger, LedgerBusy, LedgerError, Outcome
from mitmproxy_x402.ledger.reading import read_entries
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sums import read_groups
from mitmproxy_x402.limits.limits import Budget
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl
from support.ledger.ledgers import Times, query

DAY = 24 * 3600
FAR = date(2999, 1, 1)


@pytest.fixture
def boot() -> str:
    return ""  # archiving opens the ledger with the machine's own clock


def pay(ledger: Ledger, word: Any = "settled", micro: int = 10, *budgets: Budget) -> int:
    model = "a,\"b'\n\u00e9"
    intent = Intent("POST", "h", "/v1/x", model, Caip2("n"), "a", "b", AtomicUnits(micro), micro)
    row = ledger.reserve(intent, budgets)
    if word == "released":
        ledger.release(row)
    elif word != "reserved":
        ledger.record_sent(row, f"r{row}", 0)
        if word != "sent":
            ledger.finish(row, Outcome(word, "t"))
    return row


def in_file(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", newline="") as text:
        return list(csv.DictReader(text))


def once_written(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Calls `then` when the file has been written, just after its folder was synced."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            then()

    monkeypatch.setattr(os, "fsync", fsync)


WORDS = ("settled", "unknown", "released", "rejected", "superseded", "reserved", "sent")


def test_what_no_budget_counts_leaves(ledger: Ledger, path: LedgerPlace, times: Times, tmp_path: Path) -> None:
    month = Budget(10**6, "month")
    for word in WORDS:
        pay(ledger, word, 10, month)
    times.pass_by(32 * DAY)
    young = pay(ledger, "settled", 7, month)
    last = pay(ledger, "settled", 7, month)
    before = ledger.spent(month)
    done = archive(path, FAR, tmp_path / "old.csv.gz", for_ever=False)
    # Two were under way: the reservation has lapsed, and what was sent is not at its end.
    rows = in_file(done.file)
    assert [row["state"] for row in rows] == ["settled", "unknown", "released", "rejected", "superseded", "released"]
    assert rows[0]["model"] == "a,\"b'\n\u00e9"
    assert (done.rows, done.removed, done.micro_usd) == (6, 6, 40)
    assert stat.S_IMODE(done.file.stat().st_mode) == 0o600
    assert [entry.row for entry in read_entries(path)] == [7, young, last]
    assert ledger.spent(month) == before == 14
    assert sum(group.payments for group in read_groups(path)) == 3
    pay(ledger, "settled", 1, month)
    assert archive(path, FAR, tmp_path / "again", for_ever=False).rows == 0
    assert not (tmp_path / "again").exists()


def test_a_budget_for_ever_keeps_what_it_counts(
    ledger: Ledger, path: LedgerPlace, times: Times, tmp_path: Path
) -> None:
    for_ever = Budget(10**6, "")
    pay(ledger, "settled", 10, for_ever)
    pay(ledger, "released", 10, for_ever)
    times.pass_by(40 * DAY)
    pay(ledger, "settled", 1, for_ever)
    assert archive(path, FAR, tmp_path / "free", for_ever=True).rows == 1
    archive(path, FAR, tmp_path / "some", for_ever=False)
    assert ledger.spent(for_ever) == 11
    if not isinstance(path, PostgresUrl):  # there the sums of all that has left stay for good
        assert [entry.row for entry in read_entries(path)] == [1, 3]


def test_before_a_date(ledger: Ledger, path: LedgerPlace, times: Times, tmp_path: Path) -> None:
    for _ in range(4):
        pay(ledger)
        times.pass_by(DAY)
    times.pass_by(40 * DAY)
    pay(ledger)
    (third,) = query(path, "time", "WHERE id = 3")[0]
    day = date.fromtimestamp(third // 1000)
    done = archive(path, day, tmp_path / "old", for_ever=False, zone=timezone.utc)
    assert [row["id"] for row in in_file(done.file)] == ["1", "2"]


def test_what_changes_meanwhile_stays(
    ledger: Ledger, path: LedgerPlace, times: Times, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [pay(ledger, "unknown") for _ in range(3)]
    times.pass_by(40 * DAY)
    pay(ledger)
    once_written(monkeypatch, lambda: ledger.record_chain([ChainWord(rows[1], "moved", "0xt")]))
    done = archive(path, FAR, tmp_path / "old", for_ever=False)
    assert (done.rows, done.removed) == (3, 2)
    assert [(entry.row, entry.fate) for entry in read_entries(path)] == [(2, "settled"), (4, "settled")]


@pytest.mark.parametrize("fault", ["there", "damaged", "gone", "folder"])
def test_without_a_good_file_nothing_leaves(  # noqa: PLR0917
    ledger: Ledger, path: LedgerPlace, times: Times, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    pay(ledger)
    times.pass_by(40 * DAY)
    pay(ledger)
    file = tmp_path / "old"

    def spoil() -> None:
        if fault == "gone":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-9])

    if fault == "there":
        file.write_text("a diary")
    elif fault == "folder":
        file = tmp_path / "no" / "old"
    else:
        once_written(monkeypatch, spoil)
    with pytest.raises(LedgerError, match="Nothing was taken out of the ledger"):
        archive(path, FAR, file, for_ever=False)
    assert len(read_entries(path)) == 2
    assert fault != "there" or file.read_text() == "a diary"


def test_while_proxies_pay(ledger: Ledger, path: LedgerPlace, times: Times, tmp_path: Path) -> None:
    month = Budget(10**9, "month")
    for _ in range(300):
        pay(ledger, "settled", 1, month)
    times.pass_by(40 * DAY)
    pay(ledger, "settled", 1, month)
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(archive(path, FAR, tmp_path / "old", for_ever=False)))
    thread.start()
    rows = [301]
    while thread.is_alive() or len(rows) < 20:
        with contextlib.suppress(LedgerBusy):  # a payment tries again, and an outcome is written with the next one
            rows.append(pay(ledger, "settled", 1, month))
    thread.join()
    ledger.finish_all([])
    assert (done[0].rows, done[0].removed) == (300, 300)
    settled = [entry.row for entry in read_entries(path) if entry.fate == "settled"]
    assert set(rows) <= set(settled)
    assert min(settled) == 301


class TestBackup:
    def test_the_copy_is_whole_and_one_file(self, tmp_path: Path) -> None:
        place = tmp_path / "state" / "l"
        with closing(SqliteLedger(place)) as ledger:
            for _ in range(3):
                pay(ledger)
            assert back_up(place, tmp_path / "copy") == 3
            pay(ledger)
        assert [file.name for file in tmp_path.iterdir() if file.name.startswith("copy")] == ["copy"]
        assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
        assert len(read_entries(tmp_path / "copy")) == 3
        with closing(SqliteLedger(tmp_path / "copy")) as copy:
            assert copy.spent(Budget(1, "day")) == 30

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        SqliteLedger(tmp_path / "l").close()
        (tmp_path / "copy").write_text("a diary")
        with pytest.raises(LedgerError, match="is there already"):
            back_up(tmp_path / "l", tmp_path / "copy")
        with pytest.raises(LedgerError, match="is there already"):
            back_up(tmp_path / "l", tmp_path / "l")
        assert (tmp_path / "copy").read_text() == "a diary"

    def test_what_is_no_ledger_is_not_copied(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "l")) as db:
            db.execute("CREATE TABLE t (x)")
        with pytest.raises(LedgerError, match="another program"):
            back_up(tmp_path / "l", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
        with pytest.raises(LedgerError, match="pg_dump"):
            back_up(PostgresUrl("postgresql://h/d"), tmp_path / "copy")
