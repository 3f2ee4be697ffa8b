"""Reading the ledger for the report, and its sums, right to the last millionth, with unknown payments apart."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.ledger.interface import Intent, LedgerError
from mitmproxy_x402.ledger.reading import Fate, read_entries
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sums import Ceilings, Group
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.report import chart as report_chart
from mitmproxy_x402.report import html as report_html
from mitmproxy_x402.report import sums as report
from mitmproxy_x402.report import text as report_text
from support.showing.reports import BASE, NOON, Written, entry, make


class TestReading:
    def test_every_fate(self, written: Written) -> None:
        for state in ("settled", "unknown", "rejected", "released", "sent", "reserved", "superseded"):
            written.pay(7, state)
        assert [e.fate for e in read_entries(written.path)][4:6] == ["under way", "under way"]
        written.close()  # what a process that is no more had under way is what the ledger will say of it
        fates = [e.fate for e in read_entries(written.path)]
        # To who reads it here, the one that was only reserved is of an earlier boot: a power cut may have lost more.
        assert fates == ["settled", "unknown", "rejected", "released", "unknown", "unknown", "rejected"]
        written.open()
        written.pay(7)  # by now nobody can submit the last one any more
        assert [e.fate for e in read_entries(written.path)][-2:] == ["expired", "settled"]

    def test_what_is_under_way(self, tmp_path: Path) -> None:
        with closing(SqliteLedger(tmp_path / "l")) as ledger:
            ledger.reserve(Intent("POST", "h", "/p", None, Caip2(BASE), "a", "b", AtomicUnits(1), 1), ())
            (one,) = read_entries(tmp_path / "l")
        assert (one.fate, one.what, one.reference, one.transaction) == ("under way", "/p", "", "")

    def test_since_and_last_and_process(self, written: Written) -> None:
        for amount in (1, 2, 3):
            written.pay(amount)
            written.now += 10
        since = int((NOON.timestamp() + 5) * 1000)
        assert [e.micro_usd for e in read_entries(written.path, since)] == [2, 3]
        assert [e.micro_usd for e in read_entries(written.path, last=1)] == [3]
        assert [e.micro_usd for e in read_entries(written.path, process=written.ledger.process)] == [1, 2, 3]
        assert read_entries(written.path, process="test 0") == []

    def test_it_changes_nothing(self, written: Written) -> None:
        written.pay(1)
        written.ledger.close()
        before = written.path.read_bytes()
        read_entries(written.path)
        assert written.path.read_bytes() == before

    @pytest.mark.parametrize("beside", [read_entries, lambda path: SqliteLedger(path).close()])
    def test_it_leaves_the_proxys_locks_alone(self, written: Written, beside: Callable[[Path], object]) -> None:
        """Otherwise a program that looks into the ledger, and leaves, takes the log away to which the proxy writes."""
        written.pay(1)
        beside(written.path)
        look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM payment').fetchall()"
        subprocess.run([sys.executable, "-I", "-c", look, str(written.path)], check=True)
        written.pay(2)
        count = look.replace("*", "COUNT(*)").replace("sqlite3.connect", "print(sqlite3.connect") + ")"
        said = subprocess.run([sys.executable, "-I", "-c", count, str(written.path)], check=True, capture_output=True)
        assert said.stdout == b"[(2,)]\n"

    def test_odd_names_of_files(self, tmp_path: Path) -> None:
        path = tmp_path / "a?mode=rwc#b%41 c"
        Written(path).pay(1)
        assert len(read_entries(path)) == 1

    def test_one_that_is_just_being_made_is_empty(self, tmp_path: Path) -> None:
        (tmp_path / "l").touch()
        assert read_entries(tmp_path / "l") == []

    def test_a_missing_one_is_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(LedgerError, match="There is no ledger at"):
            read_entries(tmp_path / "l")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("statements", "reason"),
        [
            ("CREATE TABLE bookmark (id)", "database of another program"),
            ("CREATE TABLE payment (id, amount)", "database of another program"),
            ("PRAGMA user_version = 99", "database of another program"),
            ("CREATE TABLE payment (id); PRAGMA user_version = 99", "newer version"),
        ],
    )
    def test_other_databases(self, tmp_path: Path, statements: str, reason: str) -> None:
        with closing(sqlite3.connect(tmp_path / "l")) as db:
            db.executescript(statements)
        with pytest.raises(LedgerError, match=reason):
            read_entries(tmp_path / "l")

    def test_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "l").write_text("This is no database. " * 100)
        with pytest.raises(LedgerError, match="not a SQLite database"):
            read_entries(tmp_path / "l")
        with pytest.raises(LedgerError, match="is a folder"):
            read_entries(tmp_path)


class TestSums:
    def test_spent_is_what_counts_and_says_what_of_it_is_open(self) -> None:
        fates: tuple[Fate, ...] = ("unknown", "under way", "rejected", "released", "expired")
        made = make(entry(micro_usd=5, client="codex"), *(entry(fate, 100) for fate in fates))
        spent = report.Sum(4, 305, 3, 300)
        assert (made.today, made.month, made.total) == (spent, spent, spent)
        assert made.by_day == {"2026-11-22": spent}
        assert made.by_model == {"gpt-5": spent}
        assert made.by_network == {"base": spent}
        assert made.by_path == {"/v1/chat/completions": spent}
        assert made.by_client == {"unnamed": report.Sum(3, 300, 3, 300), "codex": report.Sum(1, 5)}
        assert (spent.confirmed, spent.open) == (report.Sum(1, 5), report.Sum(3, 300, 3, 300))
        assert made.of("expired") == report.Sum(1, 100)

    def test_of_a_ceiling_only_what_counts_is_spent(self) -> None:
        assert make(entry(micro_usd=17_686, counts=686)).total == report.Sum(1, 686)

    def test_a_day_on_which_nothing_is_confirmed_is_no_zero(self) -> None:
        text = report_text.table(make(*(entry("unknown", 5140) for _ in range(150))))
        assert re.search(r"Today +150 +0\.771$", text, re.MULTILINE)
        assert re.search(r"sent, not confirmed yet +150 +0\.771$", text, re.MULTILINE)
        assert re.search(r"2026-11-22 +150 +0\.771 +░+$", text, re.MULTILINE)

    def test_where_the_chain_contradicts(self) -> None:
        made = make(entry(finding="other_amount", chain_transaction="0xchain"), entry())
        for text in (report_text.table(made), report_html.page(made)):
            assert "The chain contradicts the gateway" in text
            assert "other_amount" in text
            assert "0xchain" in text
        assert json.loads(report_text.as_json(made))["findings"][0]["finding"] == "other_amount"

    def test_days_and_months_are_the_calendars(self) -> None:
        hour = timedelta(hours=1)
        made = make(entry(ago=12 * hour), entry(ago=12 * hour + timedelta(seconds=1)), entry(ago=22 * 24 * hour))
        assert (made.today.payments, made.month.payments, made.total.payments) == (1, 2, 3)
        assert list(made.by_day) == ["2026-10-31", "2026-11-21", "2026-11-22"]

    def test_days_are_those_of_the_zone(self) -> None:
        zone = timezone(timedelta(hours=-13))
        assert list(report.make([entry()], NOON, zone=zone).by_day) == ["2026-11-21"]

    def test_summer_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        try:
            # 22:30 UTC is half past midnight in summer, and half past eleven in winter.
            summer = entry(ago=NOON - datetime(2026, 7, 1, 22, 30, tzinfo=timezone.utc))
            winter = entry(ago=NOON - datetime(2026, 11, 1, 22, 30, tzinfo=timezone.utc))
            made = report.make([summer, winter], NOON)
            assert list(made.by_day) == ["2026-07-02", "2026-11-01"]
            assert f"{made.moment(summer):%Y-%m-%d %H:%M}" == "2026-07-02 00:30"
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_a_period_leaves_today_and_this_month_whole(self) -> None:
        entries = [entry(), entry("unknown"), entry(ago=timedelta(days=3)), entry("unknown", ago=timedelta(days=3))]
        made = make(*entries, since=date(2026, 11, 22))
        assert (made.month.payments, made.total.payments, made.of("unknown").payments) == (4, 2, 1)

    def test_without_a_model_the_path_names_it(self) -> None:
        made = make(entry(model=None, path="/v1/search"), entry(micro_usd=2000, network="eip155:1"))
        assert list(made.by_model) == ["gpt-5", "/v1/search"]
        assert list(made.by_network) == ["eip155:1", "base"]

    @given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 10**12), st.integers(0, 400))))
    def test_every_cut_adds_up(self, rows: list[tuple[str, int, int]]) -> None:
        made = make(*(entry(model=m, micro_usd=usd, ago=timedelta(days=days)) for m, usd, days in rows))
        for sums in (made.by_day, made.by_model, made.by_network, made.by_path, made.by_client):
            assert (
                sum(each.micro_usd for each in sums.values()) == made.total.micro_usd == sum(usd for _, usd, _ in rows)
            )
        drawn = report_chart.column_heights(made, report_chart.slots(made), ["a", "b"], lambda e: e.what)
        assert sum(sum(column.values()) for column in drawn) == made.total.micro_usd


@pytest.mark.parametrize(
    ("its", "said"),
    [
        (Ceilings(), []),
        (
            Ceilings(1, 126_900, 7_000, 1, 7_000, 16_300),
            ["Ceilings (upto): 1 payment, charged 0.007 of at most 0.1269 (exact: 0.0163) USD."],
        ),
        (
            Ceilings(3, 300, 30, 2, 20, 90, 1, 100),
            [
                "Ceilings (upto): 3 payments, charged 0.00003 of at most 0.0003 "
                "(2 of them 0.00002; exact: 0.00009) USD.",
                "1 payment more, at most 0.0001 USD: what was charged of it is not known yet.",
            ],
        ),
        (
            Ceilings(2, 80_000, 0, unproven=2),
            [
                "Ceilings (upto): 2 payments, charged 0 of at most 0.08 USD.",
                "Their charges (0 USD) are what the gateway says: the chain has not confirmed them.",
            ],
        ),
        (
            Ceilings(3, 300, 30, unproven=1, unproven_charged=10),
            [
                "Ceilings (upto): 3 payments, charged 0.00003 of at most 0.0003 USD.",
                "The charges of 1 of them (0.00001 USD) are what the gateway says: the chain has not confirmed them.",
            ],
        ),
        (
            Ceilings(unknown=2, unknown_most=200),
            ["Ceilings (upto): 2 payments, at most 0.0002 USD: what was charged of them is not known yet."],
        ),
    ],
)
def test_what_ceilings_came_to(its: Ceilings, said: list[str]) -> None:
    made = report.make_of((group(),), NOON, ceilings=its)
    assert report_text.ceilings(its) == said
    table, page = report_text.table(made), report_html.page(made)
    for sentence in said:
        assert sentence in table
        assert sentence in page
    found = json.loads(report_text.as_json(made))["ceilings"]
    assert (found["payments"], found["not_known"], found["compared"]) == (its.payments, its.unknown, its.compared)


def group() -> Group:
    return Group("2026-11-22", "settled", BASE, "m", "/v1/x", "", 1, 10, 10)
