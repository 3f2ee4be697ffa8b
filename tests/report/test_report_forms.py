"""The report as a table, JSON, CSV and a page, in which no text of an outsider's does anything."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import date, timedelta
from html.parser import HTMLParser

import pytest

from mitmproxy_x402.report import chart as report_chart
from mitmproxy_x402.report import html as report_html
from mitmproxy_x402.report import sums as report
from mitmproxy_x402.report import text as report_text
from support.showing.reports import NOON, SOLANA, entry, make


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
