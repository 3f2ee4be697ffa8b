"""The verb `report`: which ledger it reads, what it writes where, and mistakes in one message."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mitmproxy_x402.cli import main as cli
from mitmproxy_x402.ledger.reading import read_entries
from support.showing.reports import Written

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
