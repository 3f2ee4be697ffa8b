"""Budgets, allow lists and limits as a user writes them, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.limits.limits import Asked, Budget, Limit, Scope, for_request
from mitmproxy_x402.settings.settings import Settings, read_settings

ADDRESS = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"


def read(folder: Path, toml: str = "", environ: Any = None, **options: str) -> Settings:
    if toml:
        (folder / "x402.toml").write_text(toml)
    given = {f"x402_{key}": value for key, value in options.items()}
    return read_settings(given, environ or {}, cwd=folder, home=folder / "home")


def refusal(folder: Path, toml: str = "", **options: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(folder, toml, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("", [(10_000_000, "day")]),
        ("5", [(5_000_000, "")]),
        ("5/hour", [(5_000_000, "hour")]),
        ("0.000001/day", [(1, "day")]),
        (" 50 / month , 5/day,100 ", [(50_000_000, "month"), (5_000_000, "day"), (100_000_000, "")]),
        ("0", [(0, "")]),
    ],
)
def test_budgets(tmp_path: Path, text: str, budgets: list[Any]) -> None:
    expected = tuple(Budget(micro, period) for micro, period in budgets)
    assert read(tmp_path, budget=text).budgets == expected
    if text:
        assert read(tmp_path, f'budget = "{text}"').budgets == expected


def test_budgets_in_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, "budget = 5").budgets == (Budget(5_000_000, ""),)
    assert read(tmp_path, 'budget = ["1/hour", 5]').budgets == (Budget(1_000_000, "hour"), Budget(5_000_000, ""))


@pytest.mark.parametrize(
    "text", ["5/week", "5/", "/day", "-1/day", "1e3", "five", "5/day/2", "5 USDC", "5/Day", ",", "0.0000001"]
)
def test_budgets_that_are_none(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, budget=text)
    assert message.startswith("x402_budget = ")
    assert "5/hour" in message


def test_a_period_stands_once(tmp_path: Path) -> None:
    assert "twice" in refusal(tmp_path, budget="5/day, 6/day")


def test_a_bare_decimal_is_refused_as_toml_would_round_it(tmp_path: Path) -> None:
    assert "quotes" in refusal(tmp_path, "budget = 0.5")


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(10_000_000, "day"), "10/day"),
        (Budget(500_000, ""), "0.5 in all"),
        (Budget(1, "hour", Scope("gpt*", "/v1/x")), "0.000001/hour for model gpt* and path /v1/x"),
    ],
)
def test_budgets_for_people(budget: Budget, text: str) -> None:
    assert str(budget) == text


def test_allow_lists(tmp_path: Path) -> None:
    given = {"allow_pay_to": f"{ADDRESS}, AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA", "allow_networks": "base"}
    settings = read(tmp_path, **given, allow_assets=f"usdc,{ADDRESS}", allow_hosts="SOL.blockrun.ai, ::1")
    assert settings.allow_pay_to == (ADDRESS.lower(), "AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA")
    assert settings.allow_networks == ("eip155:8453",)
    assert settings.allow_assets == ("USDC", ADDRESS.lower())
    assert settings.allow_hosts == ("sol.blockrun.ai", "::1")
    empty = read(tmp_path)
    assert (empty.allow_pay_to, empty.allow_networks, empty.allow_assets, empty.allow_hosts) == ((), (), (), ())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allow_pay_to", "0x12"),
        ("allow_pay_to", "bob"),
        ("allow_networks", "bas"),
        ("allow_assets", "US DC"),
        ("allow_hosts", "https://sol.blockrun.ai"),
        ("allow_hosts", "sol.blockrun.ai:443"),
        ("dry_run", "maybe"),
        ("repurchase", "11"),
        ("repurchase", "-1"),
    ],
)
def test_mistakes_name_the_option_and_what_is_expected(tmp_path: Path, key: str, value: str) -> None:
    message = refusal(tmp_path, **{key: value})
    assert message.startswith(f"x402_{key} = {value!r}")
    assert "expected" in message


def test_where_the_ledger_is(tmp_path: Path) -> None:
    end = Path("mitmproxy-x402") / "ledger.sqlite3"
    assert read(tmp_path).ledger == tmp_path / "home/.local/state" / end
    assert read(tmp_path, environ={"XDG_STATE_HOME": "/var/x"}).ledger == Path("/var/x") / end
    assert read(tmp_path, environ={"XDG_STATE_HOME": "x"}).ledger == tmp_path / "home/.local/state" / end
    assert read(tmp_path, ledger="l.db").ledger == tmp_path / "l.db"


class TestLimits:
    def test_all_of_one(self, tmp_path: Path) -> None:
        toml = '[[limit]]\nmodel = "gpt-*"\npath = "/v1/*"\nmax_request = "0.5"\nbudget = "1/hour, 5/day"'
        scope = Scope("gpt-*", "/v1/*")
        budgets = (Budget(1_000_000, "hour", scope), Budget(5_000_000, "day", scope))
        assert read(tmp_path, toml).limits == (Limit(scope, 500_000, budgets),)

    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ('max_request = "1"', "names no model or path"),
            ('model = "x"', "limits nothing"),
            ('modell = "x"\nbudget = 1', "did you mean model?"),
            ('model = "a[b]"\nbudget = 1', "without spaces or brackets"),
            ('model = ""\nbudget = 1', "expected a name"),
            ("path = 3\nbudget = 1", "expected a name"),
            ('path = "/x"\nbudget = "1/week"', "number 1: budget"),
            ('path = "/x"\nmax_request = 0.5', "quotes"),
        ],
    )
    def test_mistakes_say_which_table(self, tmp_path: Path, table: str, words: str) -> None:
        message = refusal(tmp_path, f"[[limit]]\n{table}")
        assert "[[limit]] number 1" in message
        assert words in message

    def test_a_single_table_is_no_list(self, tmp_path: Path) -> None:
        assert "[[limit]]" in refusal(tmp_path, '[limit]\nmodel = "x"\nbudget = 1')

    @pytest.mark.parametrize(
        ("scope", "model", "path", "covered"),
        [
            (Scope("gpt-5*"), "gpt-5-mini", "/v1/x", True),
            (Scope("gpt-5"), "gpt-5-mini", "/v1/x", False),
            (Scope("*"), None, "/v1/x", False),
            (Scope("GPT"), "gpt", "/v1/x", True),
            (Scope("gpt"), "GPT", "/v1/x", True),
            (Scope("", "/V1/images/"), None, "/v1/images", True),
            (Scope("", "/v1/images/*"), None, "/api/v1/images/edits", True),
            (Scope("", "/api/v1/images/*"), None, "/v1/images/edits", True),
            (Scope("", "/v1/images"), None, "/v1/images/edits", False),
            (Scope("", "/v1/images/*"), None, "/v1/images", True),
            (Scope("", "/v1/images/*"), None, "/api/v1/images", True),
            (Scope("", "/v1/images/*"), None, "/v1/images-2", False),
            (Scope("a", "/v1/?"), "a", "/v1/x", True),
            (Scope("a", "/v1/?"), "b", "/v1/x", False),
        ],
    )
    def test_what_a_limit_covers(self, scope: Scope, model: str | None, path: str, covered: bool) -> None:
        limit = Limit(scope, 1, ())
        asked = Asked(() if model is None else (model,), path)
        assert for_request([limit], asked) == ([limit] if covered else [])
