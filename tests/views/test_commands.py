"""The commands, as the console and mitmweb give them, and the last lines of a run."""

from __future__ import annotations

import asyncio
import re
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import exceptions

from mitmproxy_x402.forecast.forecast import Tally
from mitmproxy_x402.ledger.interface import Intent, Outcome
from mitmproxy_x402.ledger.opening import open_ledger
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.settings.ledger_place import PostgresUrl
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.views import summary
from mitmproxy_x402.views.commands import Commands
from mitmproxy_x402.views.summary import closing_lines
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from support.ledger.ledgers import KINDS, place_of
from support.patience import eventually
from support.place import place
from support.proxy import EVM_ADDRESS, EVM_KEY
from support.showing.console import CommandManager, taddons
from support.showing.mitmweb import Web

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what mitmproxy imports, see support.console
TOML = """
budget = ["10/day", "50/month"]
[[limit]]
model = "gpt-*"
max_request = "0.5"
budget = "1/hour"
"""


@pytest.fixture(params=KINDS)
def paying(request: pytest.FixtureRequest, home: Path) -> Iterator[Payer]:
    (home / "x402.toml").write_text(TOML)
    place = place_of(request.param, home, request)
    environ = {"X402_LEDGER": place.url if isinstance(place, PostgresUrl) else str(place)}
    settings = read_settings({}, environ, cwd=home, home=home)
    wallets = load_wallets(WalletSources(environ={"BLOCKRUN_WALLET_KEY": EVM_KEY}, home=home))
    with closing(open_ledger(settings.ledger)) as ledger:
        yield Payer(settings, wallets, ledger)


def pay(payer: Payer, micro_usd: int, state: str = "settled", model: str = "gpt-5") -> None:
    amount = AtomicUnits(micro_usd)
    intent = Intent("POST", "h", "/v1/x", model, Caip2("eip155:8453"), "a", "b", amount, micro_usd)
    row = payer.ledger.reserve(intent, ())
    payer.ledger.record_sent(row, f"ref{row}", 0)
    if state != "sent":
        payer.ledger.finish(row, Outcome(state, f"tx{row}" if state == "settled" else ""))  # type: ignore[arg-type]


def ask(payer: Payer | None, question: Callable[[CommandManager], Any]) -> Any:
    """What `question` finds out from mitmproxy's commands, with ours among them."""

    async def run() -> Any:
        with taddons.context(Commands(lambda: payer)) as context:
            return question(context.master.commands)

    return asyncio.run(run())


def call(payer: Payer | None, *words: str) -> str:
    answer = ask(payer, lambda commands: commands.execute(" ".join(words)))
    assert isinstance(answer, str)
    return answer


class TestCommands:
    def test_before_the_first_payment(self, paying: Payer) -> None:
        status = call(paying, "x402.status")
        assert f"pays from   {EVM_ADDRESS}" in status
        assert "today       0 USD, 0 payments" in status
        assert "left        10 of 10/day" in status
        assert call(paying, "x402.payments") == "Nothing was paid yet."
        assert call(paying, "x402.report").startswith("Nothing was paid since")

    def test_status(self, paying: Payer) -> None:
        pay(paying, 13_081)
        pay(paying, 2_000_000, "unknown")
        status = call(paying, "x402.status").splitlines()
        assert "today       2.013081 USD, 2 payments" in status
        assert "this month  2.013081 USD, 2 payments" in status
        assert "open        2 USD of it, 1 payment not confirmed" in status
        assert "left        7.986919 of 10/day" in status

    def test_status_of_payments_ahead(self, paying: Payer) -> None:
        assert "sent ahead" not in call(paying, "x402.status")
        ahead = Payer(replace(paying.settings, preauthorize=True), paying.wallets, paying.ledger)
        assert "sent ahead  0" in call(ahead, "x402.status").splitlines()
        assert ahead.forecast is not None
        ahead.forecast.tally = Tally(7, 4, 2, 1)
        assert "sent ahead  7, 4 right, 2 wrong, 1 not acknowledged" in call(ahead, "x402.status").splitlines()

    def test_payments(self, paying: Payer) -> None:
        for amount in (1, 2, 3):
            pay(paying, amount)
        pay(paying, 4, "sent", "evil\x1b[2J")
        newest, second, empty, summary = call(paying, "x402.payments", "2").splitlines()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  0\.000004 +base +under way +evil\?\[2J", newest)
        assert second.endswith("tx3")
        assert empty == ""
        assert summary == (
            "paid 0.000007 USDC in 2 payments: 0.000003 confirmed, 0.000004 not confirmed yet; "
            "1 payment of 0.000004 USDC of it under way"
        )
        assert call(paying, "x402.payments").count("\n") == 5

    @pytest.mark.parametrize("count", ["0", "-1", "1001", "x"])
    def test_how_many_payments(self, paying: Payer, count: str) -> None:
        with pytest.raises(exceptions.CommandError):
            call(paying, "x402.payments", count)

    def test_budget(self, paying: Payer) -> None:
        pay(paying, 250_000)
        text = re.sub(" +", " ", call(paying, "x402.budget"))
        assert text.splitlines() == [
            "10/day 0.25 spent 9.75 left",
            "50/month 0.25 spent 49.75 left",
            "1/hour for model gpt-* 0.25 spent 0.75 left",
            "1 a request at most",
            "0.5 a request at most for model gpt-*",
        ]

    def test_report(self, paying: Payer) -> None:
        pay(paying, 250_000)
        assert re.search(r"gpt-5 +1 +0\.25", call(paying, "x402.report"))

    def test_both_names_and_their_help(self, paying: Payer) -> None:
        helps = ask(paying, lambda commands: {name: command.help for name, command in commands.commands.items()})
        for name in ("status", "payments", "budget", "report"):
            assert helps[f"x402.{name}"]
            assert helps[f"pay.{name}"] == helps[f"x402.{name}"]

    def test_when_nothing_is_configured(self) -> None:
        with pytest.raises(exceptions.CommandError, match="not configured"):
            call(None, "x402.status")

    def test_a_ledger_that_went_bad(self, paying: Payer) -> None:
        paying.ledger.close()
        place = paying.settings.ledger
        if isinstance(place, PostgresUrl):
            place = PostgresUrl(f"{place.url}%20-c%20bad%3Dbad")
        else:
            for file in place.parent.iterdir():
                file.write_bytes(b"bad " * 1000)
        bad = Payer(replace(paying.settings, ledger=place), paying.wallets, paying.ledger)
        with pytest.raises(exceptions.CommandError, match=r"not a ledger|cannot be used"):
            call(bad, "x402.report")

    def test_without_a_wallet(self, paying: Payer) -> None:
        bare = Payer(paying.settings, Wallets(), paying.ledger)
        assert "pays from   no wallet" in call(bare, "x402.status")

    def test_more_than_the_proxy_should_stop_for(self, paying: Payer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(summary, "TOO_MANY", 2)
        for _ in range(3):
            pay(paying, 1)
        assert "this month  0.000003 USD, 3 payments" in call(paying, "x402.status")
        assert closing_lines(paying.settings, paying.ledger, 0)[0].startswith("more than 2 payments")


class TestSummary:
    def test_nothing(self, paying: Payer) -> None:
        assert closing_lines(paying.settings, paying.ledger, 0) == ["paid nothing"]

    def test_everything(self, paying: Payer) -> None:
        for amount, state in ((1, "settled"), (2, "settled"), (4, "unknown"), (8, "rejected"), (16, "sent")):
            pay(paying, amount, state)
        assert closing_lines(paying.settings, paying.ledger, 0) == [
            "paid 0.000031 USDC in 5 payments: 0.000003 confirmed, 0.000028 not confirmed yet; "
            "1 payment of 0.000008 USDC of it rejected; 1 payment of 0.000016 USDC of it under way",
            "left: 9.999969 of 10/day, 49.999969 of 50/month",
        ]

    def test_payments_ahead(self, paying: Payer) -> None:
        lines = closing_lines(paying.settings, paying.ledger, 0, Tally(3, 2, 1))
        assert lines == ["paid nothing", "payments sent ahead: 3, 2 right, 1 wrong"]
        assert closing_lines(paying.settings, paying.ledger, 0, Tally()) == ["paid nothing"]

    def test_only_this_run(self, paying: Payer) -> None:
        pay(paying, 1)
        if isinstance(paying.ledger.place, PostgresUrl):  # which has a name for each run
            with closing(open_ledger(paying.ledger.place)) as another:
                assert closing_lines(paying.settings, another, 0) == ["paid nothing"]
        else:
            assert closing_lines(paying.settings, paying.ledger, 2**40) == ["paid nothing"]

    def test_it_never_raises(self, tmp_path: Path, paying: Payer) -> None:
        with closing(open_ledger(tmp_path / "gone")) as gone:
            (tmp_path / "gone").unlink()
            (line,) = closing_lines(paying.settings, gone, 0)
        assert line.startswith("what was paid is not known: There is no ledger")


CONSOLE = '''
"""Gives every command when the client asks for /ask, as the console would."""
import logging
from mitmproxy import ctx

def request(flow):
    for name in ("status", "payments", "budget", "report"):
        logging.info("ANSWER " + repr(ctx.master.commands.execute("x402." + name)))
'''


def test_in_a_running_proxy(home: Path) -> None:
    (home / "console.py").write_text(CONSOLE)
    with place(home, "-s", str(home / "console.py")) as running:
        for number in (1, 2):
            body = {"model": "sandbox-1", "messages": [{"role": "user", "content": str(number)}]}
            assert running.post(body).status_code == 200
            running.expect(0, [("settled", 1)] * number)
        eventually(lambda: running.proxy.log.count("ANSWER ") == 8, lambda: running.proxy.log)
        answers = re.findall(r"ANSWER (.*)", running.proxy.log)
        assert "No such command" not in running.proxy.log
        assert "this month" in answers[4]
        assert re.search(r"base-sepolia +confirmed +sandbox-1", answers[5])
        assert "spent" in answers[6]
        assert "By model" in answers[7]
        running.proxy.process.terminate()
        running.proxy.wait_for(r"x402: paid [0-9.]+ USDC in 2 payments$")
        running.proxy.wait_for(r"x402: left: [0-9.]+ of 10/day$")


def test_in_mitmweb(home: Path) -> None:
    """Its command bar posts here; a name with a digit never gets through."""
    with Web("http://127.0.0.1:1", home=home) as web:
        answer = web.api("commands/pay.status", "POST", {"arguments": []})
        assert answer["value"].startswith(f"pays from {EVM_ADDRESS} | today 0 USD, 0 payments | ")
        web.wait_for("today +0 USD, 0 payments")
        with pytest.raises(urllib.error.HTTPError) as refused:
            web.api("commands/x402.status", "POST", {"arguments": []})
        refused.value.close()
