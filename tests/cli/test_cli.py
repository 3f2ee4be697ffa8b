"""The verbs, as a user types them: help, the path of the script, mistyped verbs and arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mitmproxy_x402.cli import main as cli
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from support.running.sessions import command, environment

ADDON = Path(cli.__file__).resolve().parents[2]


class TestHelp:
    def test_every_verb_is_in_the_help_and_has_its_own(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["--help"]) == 0
        text = capsys.readouterr().out
        for verb in cli.VERBS:
            assert f"\n  {verb} " in text
            assert cli.main([verb, "--help"]) == 0
            assert f"usage: mitmproxy-x402 {verb}" in capsys.readouterr().out

    @pytest.mark.parametrize("arguments", [["-h"], ["help"], ["-h", "x"], ["web", "-p", "1", "-h"]])
    def test_it_is_found_everywhere(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out.startswith("usage: mitmproxy-x402")

    def test_lines_fit_a_terminal(self) -> None:
        texts = [cli.HELP, cli.SERVE_HELP, cli.SANDBOX_HELP, cli.TEST_HELP, cli.PATH_HELP]
        assert max(len(line) for text in texts for line in text.splitlines()) <= 120

    def test_the_name_is_the_one_that_was_typed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("X402_PROGRAM", "./run.sh")
        cli.main(["--help"])
        assert capsys.readouterr().out.startswith("usage: ./run.sh [VERB]")

    @pytest.mark.parametrize("verb", cli.VERBS)
    def test_of_a_verb_in_both_ways(self, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["help", verb]) == 0
        said = capsys.readouterr().out
        assert cli.main([verb, "--help"]) == 0
        assert said == capsys.readouterr().out
        assert said.startswith(f"usage: mitmproxy-x402 {verb}")

    def test_of_a_mistyped_verb(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["help", "walet"]) == 2
        assert "did you mean wallet?" in capsys.readouterr().err

    def test_nothing_beyond_the_standard_library_is_needed(self, tmp_path: Path) -> None:
        code = (
            f"import sys; sys.path.append({str(ADDON)!r}); from mitmproxy_x402.cli.main import main; sys.exit(main())"
        )
        bare = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, "--help"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert (bare.returncode, bare.stderr) == (0, "")

    def test_recordings_are_played_without_what_the_proxy_needs(self) -> None:
        """So `pip install --no-deps` is enough for a project that only plays recordings to its tests, as docs say."""
        root = Path(__file__).resolve().parents[2]
        code = (
            "import importlib.metadata, sys, h11, pytest; before = set(sys.modules); sys.path.append(sys.argv[1]);"
            "from mitmproxy_x402.fixtures import plugin, server;"
            "from mitmproxy_x402.fixtures.show import showing, comparing;"
            "tops = {name.partition('.')[0] for name in set(sys.modules) - before};"
            "print(*sorted(tops & set(importlib.metadata.packages_distributions())))"
        )
        answer = subprocess.run(
            [sys.executable, "-I", "-c", code, str(root / "addon")], capture_output=True, text=True, check=True
        )
        assert answer.stdout == "\n"

    def test_a_mistyped_verb(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["sandobx"]) == 2
        assert "there is no verb 'sandobx'; did you mean sandbox?" in capsys.readouterr().err

    def test_a_word_that_is_like_no_verb(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["blah"]) == 2
        assert "did you mean" not in capsys.readouterr().err

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ValueError])
    def test_ctrl_c_that_python_turns_into_another_error(
        self, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As `threading.Event.wait` does, interrupted where it takes its lock again, and `asyncio.run` at its end."""

        def interrupted(*_: object) -> int:
            try:
                raise KeyboardInterrupt
            finally:
                raise error

        monkeypatch.setitem(cli.VERBS, "path", interrupted)
        assert cli.main(["path"]) == 130
        assert capsys.readouterr().err == ""

    def test_a_reader_that_goes_away_before_a_verb_is_done(self, tmp_path: Path) -> None:
        read, write = os.pipe()
        os.close(read)
        SqliteLedger(tmp_path / "ledger.sqlite3").close()
        for arguments in (["--csv"], ["--json"], []):
            answer = subprocess.run(
                command("report", "--ledger", str(tmp_path / "ledger.sqlite3"), *arguments),
                env=environment(tmp_path),
                stdout=write,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert (answer.returncode, answer.stderr) == (141, "")
        os.close(write)

    def test_a_reader_that_goes_away(self, tmp_path: Path) -> None:
        """As in `./run.sh --help | head -1`."""
        read, write = os.pipe()
        os.close(read)
        answer = subprocess.run(
            command("--help"), env=environment(tmp_path), stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(write)
        assert (answer.returncode, answer.stderr) == (141, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["archive", "--before", "2026-08-01", "FILE"],
        ["archive", "FILE", "--before", "2026-08-01"],
        ["--ledger", "LEDGER", "archive", "--before=2026-08-01", "FILE"],
        ["backup", "--ledger", "LEDGER", "FILE"],
    ],
)
def test_options_stand_anywhere_among_the_arguments_of_ledger(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [str(tmp_path / "ledger.sqlite3") if argument == "LEDGER" else argument for argument in arguments]
    if "--ledger" not in named:
        named += ["--set", f"x402_ledger={tmp_path / 'ledger.sqlite3'}"]
    assert cli.main(["ledger", *named]) == 2
    assert "there is no ledger at" in capsys.readouterr().err


class TestPath:
    def test_of_a_checkout(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["path"]) == 0
        printed = Path(capsys.readouterr().out.rstrip("\n"))
        assert printed == ADDON / "x402.py"
        assert "addons = " in printed.read_text()

    def test_of_an_installed_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        door = tmp_path / "mitmproxy_x402" / "door" / "x402.py"
        door.parent.mkdir(parents=True)
        door.touch()
        monkeypatch.setattr(cli, "__file__", str(tmp_path / "mitmproxy_x402" / "cli" / "main.py"))
        assert cli.script_path() == door

    def test_it_takes_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["path", "x"]) == 2
        assert "path takes no arguments" in capsys.readouterr().err

    def test_the_tests_are_in_a_checkout_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "mitmproxy_x402" / "cli" / "main.py"))
        assert cli.main(["test"]) == 1
        assert "they run in a checkout" in capsys.readouterr().err
