"""The report: sums right to the last millionth, unknown payments apart, and no text of an outsider's does anything."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.cli import main as cli
from mitmproxy_x402.ledger.interface import Clock, Intent, LedgerError, Outcome
from mitmproxy_x402.ledger.reading import Entry, Fate, read_entries
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sums import Ceilings, Group
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.report import chart as report_chart
from mitmproxy_x402.report import html as report_html
from mitmproxy_x402.report import sums as report
from mitmproxy_x402.report import text as report_text

BASE, SOLANA = "eip155:8453", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def entry(fate: Fate = "settled", micro_usd: int = 1000, ago: timedelta = timedelta(), **more: object) -> Entry:
    entry.row += 1  # type: ignore[attr-defined]
    fields: dict[str, object] = {
        **{"row": entry.row, "time": int((NOON - ago).timestamp()) * 1000, "fate": fate, "micro_usd": micro_usd},  # type: ignore[attr-defined]
        **{"model": "gpt-5", "method": "POST", "host": "sol.blockrun.ai", "path": "/v1/chat/completions"},
        **{
            "network": BASE,
            "asset": "0xa",
            "pay_to": "0xb",
            "amount": str(micro_usd),
            "sends": 1,
            "reference": "0xref",
        },
        **{"transaction": "0xtx", "status": 200, "code": "", "request_id": "r", "first_byte_ms": 1, "total_ms": 2},
        **{"size": 3, "replaces": None, "counts": 0 if fate in ("expired", "released") else micro_usd},
    }
    return Entry(**{**fields, **more})  # type: ignore[arg-type]


entry.row = 0  # type: ignore[attr-defined]


def make(*entries: Entry, since: date | None = None) -> report.Report:
    return report.make(sorted(entries, key=lambda e: e.time), NOON, ledger="/l", since=since, zone=timezone.utc)


class Written:
    """A ledger that is written as the proxy does it, at times of the test's choosing."""

    opened: ClassVar[list[SqliteLedger]] = []

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOON.timestamp()
        self.open()

    def open(self) -> None:
        self.ledger = SqliteLedger(self.path, Clock(wall=lambda: self.now, uptime=lambda: self.now, boot="test"))
        self.opened.append(self.ledger)

    def close(self) -> None:
        self.opened.remove(self.ledger)
        self.ledger.close()

    def pay(self, micro_usd: int, state: str = "settled", model: str | None = "gpt-5", network: str = BASE) -> int:
        amount = AtomicUnits(micro_usd)
        row = self.ledger.reserve(Intent("POST", "h", "/v1/x", model, Caip2(network), "a", "b", amount, micro_usd), ())
        if state == "released":
            self.ledger.release(row)
        if state in ("released", "reserved"):
            return row
        self.ledger.record_sent(row, f"ref{row}", self.now + 60)
        if state != "sent":
            transaction = f"tx{row}" if state == "settled" else ""
            code, lives = ("C", 300) if state == "rejected" else ("", 0)
            self.ledger.finish(row, Outcome(state, transaction, 200, code, counts_for=lives))  # type: ignore[arg-type]
        return row


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while Written.opened:
        Written.opened.pop().close()


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path / "ledger.sqlite3")


class TestReading:
    def test_every_fate(self, written: Written) -> None:
        for state in ("settled", "unknown", "rejected", "released", "sent", "reserved", "superseded"):
            written.pay(7, state)
        assert [e.fate for e in read_entries(written.path)][4:6] == ["under way", "under way"]
        written.close()  # what a process that is no more had under way is what the ledger will say of it
        fates = [e.fate for e in read_entries(written.path)]
        assert fates == ["settled", "unknown", "rejected", "released", "unknown", "released", "rejected"]
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


class TestTable:
    def test_it_fits_80_columns(self) -> None:
        entries = [entry(model="m" * 300, micro_usd=10**12 + 1, ago=timedelta(days=n)) for n in range(40)]
        entries += [entry("unknown", reference="r" * 60), entry("rejected"), entry("released"), entry("under way")]
        text = report_text.table(make(*entries))
        assert max(map(len, text.splitlines())) <= 80
        assert "\x1b" not in text
        assert " 43 40000000.00304" in text
        assert "20 earlier days" in text
        for part in (
            "Sent, not confirmed yet: 1 payment, 0.001 USD",
            "Under way: 1 payment",
            "Rejected by the gateway: 1 payment, 0.001 USD.",
            "1 never sent",
        ):
            assert part in text

    def test_points_are_in_one_column(self) -> None:
        text = report_text.table(make(entry(micro_usd=12_340_000), entry(micro_usd=13_081, model="x")))
        points = {line.index(".") for line in text.splitlines() if re.search(r"\d\.\d", line)}
        assert len(points) == 1

    def test_colour_changes_nothing_else(self) -> None:
        made = make(entry(), entry("unknown"))
        coloured = report_text.table(made, colour=True)
        assert "\x1b[1m" in coloured
        assert re.sub(r"\x1b\[\d+m", "", coloured) == report_text.table(made)

    def test_without_block_characters(self) -> None:
        report_text.table(make(entry(), entry(micro_usd=1, model="x")), blocks=False).encode("ascii")

    @pytest.mark.parametrize("evil", ["\x1b[2J", "a\nb", "a\rb", "\u202e", "\x9b31m"])
    def test_no_text_can_steer_the_terminal(self, evil: str) -> None:
        text = report_text.table(make(entry(model=evil), entry("unknown", model=evil, reference=evil)))
        assert not set(evil) & set(text) - set("ab[2Jm31\n")
        assert "?" in text

    def test_nothing_paid(self) -> None:
        assert report_text.table(make()).startswith("Nothing was paid yet.")
        assert report_text.table(make(since=date(2026, 1, 1))).startswith("Nothing was paid since 2026-01-01.")


def lines_of(made: report.Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(report_text.as_csv(made, made.entries)))))


class TestJsonAndCsv:
    def test_json(self) -> None:
        said = json.loads(report_text.as_json(make(entry(micro_usd=13_081), entry("unknown", 7), entry("rejected", 9))))
        spent = {
            **{"payments": 3, "usd": "0.013097", "micro_usd": 13097},
            **{"confirmed_usd": "0.013081", "not_confirmed_usd": "0.000016"},
        }
        assert said["today"] == said["this_month"] == said["total"] == spent
        assert said["by_model"] == [{"model": "gpt-5", **spent}]
        assert said["by_network"] == [{"network": "base", **spent}]
        assert said["by_day"] == [{"day": "2026-11-22", **spent}]
        assert (said["unknown"]["usd"], said["rejected"]["payments"], said["never_sent"]["payments"]) == (
            "0.000007",
            1,
            0,
        )
        assert said["unknown"]["list"][0]["reference"] == "0xref"

    def test_csv_has_every_payment(self) -> None:
        rows = lines_of(make(entry(), entry("rejected", code="C")))
        assert [(row["state"], row["usd"], row["code"]) for row in rows] == [
            ("settled", "0.001", ""),
            ("rejected", "0.001", "C"),
        ]
        assert list(rows[0]) == list(report_text.COLUMNS)
        assert rows[0]["time"] == "2026-11-22T12:00:00+00:00"

    @pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@SUM(A1)"])
    def test_no_formulas(self, evil: str) -> None:
        (row,) = lines_of(make(entry(model=evil)))
        assert row["model"] == f"'{evil}"

    def test_one_line_each(self) -> None:
        (row,) = lines_of(make(entry(model="\t=1\r\n2")))
        assert row["model"] == "?=1??2"


class _Page(HTMLParser):
    """What of a page a browser would act on."""

    void = frozenset({"meta", "input", "rect", "line", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


class TestPage:
    entries = (
        entry(),
        entry("unknown"),
        entry("rejected"),
        entry(ago=timedelta(days=9), network=SOLANA),
        entry("released"),
    )

    def test_it_is_well_formed_and_loads_nothing(self) -> None:
        text = report_html.page(make(*self.entries))
        page = _Page(text)
        assert page.open == []
        assert not page.tags & {"script", "link", "img", "iframe", "object", "base", "form"}
        assert not page.attributes & {"src", "href", "onload", "onclick", "action"}
        assert not re.search(r"https?://|@import|url\(", text)
        assert "default-src 'none'" in text
        assert "prefers-color-scheme: dark" in text

    def test_it_says_what_the_table_says(self) -> None:
        text = report_html.page(make(*self.entries))
        for part in (
            "solana",
            "gpt-5",
            "2026-11-13",
            "Sent, not confirmed yet",
            "0xref",
            "0xtx",
            "rejected",
            "never sent",
            "0.004",
        ):
            assert part in text
        assert text.count('<g class="bar">') == 4  # two days in two charts

    def test_nothing_paid(self) -> None:
        text = report_html.page(make())
        assert _Page(text).open == []
        assert "Nothing was paid yet" in text

    def test_only_unknown(self) -> None:
        text = report_html.page(make(entry("unknown")))
        assert _Page(text).open == []
        assert "Spent per day" in text
        assert "0 confirmed, 0.001 not confirmed yet" in text

    @pytest.mark.parametrize(
        "evil", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "</title><b>", "&lt;", "'-'"]
    )
    def test_nothing_from_outside_is_markup(self, evil: str) -> None:
        usual = _Page(report_html.page(make(entry(), entry("unknown"))))
        more = {"path": evil, "reference": evil, "transaction": evil, "code": evil, "network": evil}
        page = _Page(report_html.page(make(entry(model=evil, **more), entry("unknown", model=None, **more))))
        assert page.open == []
        assert (page.tags, page.attributes) == (usual.tags, usual.attributes)

    @pytest.mark.parametrize(
        ("days", "unit"), [(1, "day"), (62, "day"), (63, "week"), (370, "week"), (371, "month"), (2000, "month")]
    )
    def test_bars_are_never_too_many(self, days: int, unit: str) -> None:
        made = make(entry(), entry(ago=timedelta(days=days - 1)))
        slots = report_chart.slots(made)
        assert 9 <= len(slots) <= 70
        assert f"Spent per {unit}" in report_html.page(made)
        assert slots[0].first <= NOON.date() - timedelta(days=days - 1)

    def test_more_names_than_colours(self) -> None:
        made = make(*(entry(model=f"m{n}", micro_usd=1000 - n) for n in range(20)))
        names = report_chart.ranking(made.by_model)
        assert names == (*(f"m{n}" for n in range(7)), "others")
        assert "c8" not in report_html.page(made)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in [name for name in os.environ if name.startswith(("X402_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["report", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


class TestVerb:
    def test_before_the_first_payment(self, run: Run) -> None:
        code, out, _ = run()
        assert code == 0
        assert out.startswith("Nothing was paid yet.")
        assert json.loads(run("--json")[1])["total"]["payments"] == 0

    def test_the_ledger_of_the_settings(self, run: Run, home: Path) -> None:
        path = home / ".local" / "state" / "mitmproxy-x402" / "ledger.sqlite3"
        ledger = Written(path)
        ledger.now = datetime.now().timestamp()
        ledger.pay(13_081)
        code, out, _ = run()
        assert code == 0
        assert re.search(r"Today +1 +0\.013081", out)

    @pytest.mark.parametrize("how", [("--ledger", "l"), ("--ledger=l",), ("--set", "x402_ledger=l")])
    def test_another_ledger(self, run: Run, home: Path, how: tuple[str, ...]) -> None:
        Written(home / "l").pay(5)
        assert json.loads(run("--json", *how)[1])["total"]["micro_usd"] == 5
        assert run("--csv", *how)[1].count("\n") == 2

    def test_the_ledger_of_mitmproxys_own_file(self, run: Run, home: Path) -> None:
        """The proxy reads it, so the report must."""
        Written(home / "l").pay(5)
        (home / ".mitmproxy").mkdir(exist_ok=True)
        (home / ".mitmproxy" / "config.yaml").write_text(f"x402_ledger: {home / 'l'}\nlisten_port: 4000\n")
        assert json.loads(run("--json")[1])["total"]["micro_usd"] == 5
        (home / ".mitmproxy").rename(home / "other")
        assert json.loads(run("--json", "--set", "confdir=other")[1])["total"]["micro_usd"] == 5
        assert json.loads(run("--json")[1])["total"]["payments"] == 0

    def test_a_named_one_must_be_there(self, run: Run) -> None:
        for how in (("--ledger", "l"), ("--set", "x402_ledger=l")):
            code, out, err = run(*how)
            assert (code, out) == (1, "")
            assert "There is no ledger at" in err

    def test_a_page(self, run: Run, home: Path) -> None:
        Written(home / "l").pay(5)
        code, out, _ = run("--ledger", "l", "--html")
        page = home / "x402-report.html"
        assert (code, out) == (0, f"{page}\n")
        assert page.read_text().startswith("<!doctype html>")
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        assert run("--ledger", "l", "--html", "-")[1].startswith("<!doctype html>")

    def test_the_ledger_is_never_overwritten(self, run: Run, home: Path) -> None:
        Written(home / "l").pay(5)
        code, _, err = run("--ledger", "l", "--html", "./l")
        assert code == 1
        assert "is the ledger itself" in err
        assert len(read_entries(home / "l")) == 1

    def test_a_page_that_cannot_be_written(self, run: Run, home: Path) -> None:
        assert "is a folder" in run("--html", str(home))[2]
        assert "cannot be written" in run("--html", "no/such/folder.html")[2]

    def test_a_period(self, run: Run, home: Path) -> None:
        ledger = Written(home / "l")
        for days in (40, 2, 0):
            ledger.now = (datetime.now() - timedelta(days=days)).timestamp()
            ledger.pay(1)
        for how, payments in ((("--days", "1"), 1), (("--days", "3"), 2), (("--since", "2000-01-01"), 3)):
            assert json.loads(run("--ledger", "l", "--json", *how)[1])["total"]["payments"] == payments

    @pytest.mark.parametrize(
        "arguments",
        [
            *(
                ["--days", "0"],
                ["--days", "x"],
                ["--since", "yesterday"],
                ["--json", "--csv"],
                ["--days", "1", "--since"],
            ),
            *(["nonsense"], ["--jso"], ["--set", "listen_port=1"]),
        ],
    )
    def test_mistakes(self, run: Run, arguments: list[str]) -> None:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("mitmproxy-x402: report: ")
        assert len(err.splitlines()) == 1

    def test_wrong_settings(self, run: Run) -> None:
        code, _, err = run("--set", "x402_max_request=lots")
        assert code == 1
        assert "x402_max_request" in err


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
