"""The documentation says what the program does: every option, verb and refusal, and the program's own texts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli

from bench.outcome import report, results
from mitmproxy_x402.cli import main as cli
from mitmproxy_x402.fixtures import usage
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.settings.options import OPTIONS
from mitmproxy_x402.settings.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "addon" / "mitmproxy_x402"
README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
FIXTURES = ROOT / "docs" / "fixtures.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

NEVER_SENT = {
    *("x402_error", "settings_invalid", "wallet_invalid", "payment_header_invalid", "demo_failed", "recording_invalid"),
}
"""Codes of errors that end a start, or are caught on the way: no client sees them."""
_MAKERS = {"Objection": 1, "Refused": 0, "_not_allowed": 0, "Denial": 1, "refusal": 1, "error_body": 1}
"""What makes an answer for clients, and which of its arguments is the code."""
_CODE = re.compile(r"[a-z0-9]+(_[a-z0-9]+)+")


def options_in_full() -> str:
    parts = []
    for option in OPTIONS:
        variable = f"\n\nAlso in the environment: `{option.variable}`." if option.variable else ""
        parts.append(f"### {option.name}\n\n{option.help}{variable}")
    return "\n\n".join(parts)


GENERATED = {
    "help": (README, lambda: f"```\n{cli.HELP.format(prog='./run.sh').rstrip()}\n```"),
    "fixtures-help": (FIXTURES, lambda: f"```\n{usage.HELP.format(prog='./run.sh fixtures').rstrip()}\n```"),
    "options-in-full": (CONFIGURATION, options_in_full),
    "speed": (README, lambda: report.in_few_words(results.read(ROOT / "docs" / "benchmark" / "results.json"))),
}


def between(mark: str, page: str) -> re.Match[str]:
    found = re.search(rf"(?<=<!-- {mark} -->\n)(.*?)(?=<!-- /{mark} -->)", page, re.DOTALL)
    assert found is not None, mark
    return found


def write() -> None:
    for mark, (file, make) in GENERATED.items():
        page = file.read_text()
        found = between(mark, page)
        file.write_text(f"{page[: found.start()]}\n{make()}\n\n{page[found.end() :]}")


def called(node: ast.AST) -> str:
    """The name of what is called, without its module; empty where nothing is."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def codes() -> Iterator[str]:
    """Every code that a client can get, read from the source."""
    for file in PACKAGE.rglob("*.py"):
        if file.relative_to(PACKAGE).parts[0] in ("sandbox", "fixtures"):  # they have codes of their own
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            places: list[ast.AST] = []
            maker = called(node)
            if isinstance(node, ast.Call) and maker in _MAKERS:
                places = [*node.args[_MAKERS[maker] : _MAKERS[maker] + 1]]
            elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
                places = [node.value.elts[0]]
            elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "code" for t in node.targets):
                places = [node.value]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "code":
                places = [node.value] if node.value is not None else []
            for place in places:
                for part in ast.walk(place):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str) and _CODE.fullmatch(part.value):
                        yield part.value


@pytest.mark.parametrize("mark", GENERATED)
def test_what_the_program_says_of_itself(mark: str) -> None:
    file, make = GENERATED[mark]
    assert between(mark, file.read_text())[0].strip() == make(), "run: python tests/test_docs.py"


def test_every_code_is_explained() -> None:
    found = set(codes())
    assert {"no_wallet", "over_request_limit", "network_not_allowed", "client_token_missing"} <= found
    assert {"over_budget", "pay_to_not_allowed", "ledger_unavailable", "x402_not_ready"} <= found
    explained = set(re.findall(r"`([a-z0-9_]+)`", TROUBLESHOOTING.read_text()))
    assert found - NEVER_SENT - explained == set()


def test_no_code_is_explained_that_does_not_exist() -> None:
    explained = re.findall(r"^\| `([a-z0-9_]+)` \|", TROUBLESHOOTING.read_text(), re.MULTILINE)
    assert len(explained) == len(set(explained))
    assert set(explained) - set(codes()) == set()


def test_every_variable_is_named() -> None:
    source = "\n".join(file.read_text() for file in PACKAGE.rglob("*.py"))
    names = set(re.findall(r'"((?:X402|SOLANA|BLOCKRUN|BASE_CHAIN)_[A-Z_]+)"', source)) - {"X402_PROGRAM"}
    assert {"X402_UPSTREAM", "SOLANA_WALLET_KEY", "X402_KEYSTORE_PASSWORD"} <= names
    text = CONFIGURATION.read_text()
    assert {name for name in names if name not in text} == set()


def test_every_built_in_network_is_named() -> None:
    text = CONFIGURATION.read_text()
    assert [network.name for network in (*BUILT_IN, *BUILT_IN.waiting) if f"`{network.name}`" not in text] == []


def test_the_example_files_are_good(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", CONFIGURATION.read_text(), re.DOTALL)
    (tmp_path / "x402.toml").write_text("\n".join(examples))
    (tmp_path / "client.token").write_text("a-client-token\n")
    (tmp_path / "client.token").chmod(0o600)
    settings = read_settings({}, {}, cwd=tmp_path, home=tmp_path)
    assert settings.max_request == 250_000
    assert settings.client_token == "a-client-token"
    assert settings.networks.get("optimism") is not None
    assert [str(budget) for budget in settings.budgets] == ["2/hour", "10/day", "50/month"]
    assert [str(limit.scope) for limit in settings.limits] == ["model openai/*", "path /v1/images/*"]


def test_the_codex_set_up_is_toml() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    assert tomli.loads(text)["model_providers"]["x402"]["wire_api"] == "responses"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_changelog_knows_this_version() -> None:
    assert f"\n## {cli.__version__} " in (ROOT / "CHANGELOG.md").read_text()


if __name__ == "__main__":
    write()
