"""What the verbs do where standard input and output are closed, full, or read by nobody."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.running.sessions import command, environment
from support.wire import free_port

RECORDING = Path(__file__).parents[1] / "recordings" / "chat-text"
GATEWAY = "mitmproxy_x402.sandbox"
VERBS: dict[str, tuple[Sequence[str], int]] = {
    "show": (["fixtures", "show", str(RECORDING)], 0),
    "show --json": (["fixtures", "show", "--json", str(RECORDING.parent)], 0),
    "diff": (["fixtures", "diff", str(RECORDING), str(RECORDING.parent / "chat-tool")], 1),
    "serve fixtures": (["fixtures", "serve", str(RECORDING.parent), "--port", "0"], 0),
    "sandbox": (["sandbox", "-p"], 0),
    "gateway": ([GATEWAY, "--port", "0"], 0),
    "report": (["report"], 0),
    "reconcile": (["reconcile"], 0),
    "wallet": (["wallet"], 1),
    "path": (["path"], 0),
    "help": (["--help"], 0),
    "version": (["--version"], 0),
}


def shell(redirected: str, arguments: Sequence[str], home: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a verb, as a shell runs it with what is `redirected`."""
    line = f"trap '' PIPE; \"$@\" {redirected}"
    program = command(*arguments) if arguments[0] != GATEWAY else [*command()[:-1], *arguments]
    answer = subprocess.run(
        ["bash", "-c", line, "bash", *program],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, answer.stdout, answer.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_output_that_cannot_be_written_is_said_once(verb: str, tmp_path: Path) -> None:
    arguments, _ = VERBS[verb]
    arguments = [*arguments, str(free_port())] if verb == "sandbox" else arguments
    for redirected, why in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
        code, _, errors = shell(redirected, arguments, tmp_path)
        assert code == (2 if verb == "diff" else 1)
        *others, said = errors.splitlines()
        assert said.endswith(f": the output cannot be written: {why}")
        assert not any("listen" in line for line in others)
        assert "Traceback" not in errors
        assert errors.count("cannot be written") == 1


@pytest.mark.parametrize("verb", ["show --json", "diff", "report"])
def test_a_reader_that_goes_away_ends_a_verb_quietly(verb: str, tmp_path: Path) -> None:
    arguments, _ = VERBS[verb]
    code, _, errors = shell("| true; exit ${PIPESTATUS[0]}", arguments, tmp_path)
    assert (code in (141, VERBS[verb][1]), errors) == (True, "")  # 141 unless all was in the pipe before `true` ended


def test_closed_input_is_empty(tmp_path: Path) -> None:
    code, out, errors = shell("<&-", ["fixtures", "show", "-"], tmp_path)
    assert (code, errors) == (0, "")
    assert "0 bytes" in out


def test_closed_errors_are_lost_and_nothing_else_is(tmp_path: Path) -> None:
    assert shell("2>&-", ["path"], tmp_path)[:2] == shell("", ["path"], tmp_path)[:2]
    assert shell(">&- 2>&- <&-", ["path"], tmp_path) == (1, "", "")


def test_a_file_never_takes_the_number_of_a_closed_output(tmp_path: Path) -> None:
    """What is printed, also by a child or a library in C, would be written into the ledger."""
    script = "import os, sys; from mitmproxy_x402.machine.standard_streams import run_with_output as run; "
    script += f"run(lambda: os.open({str(tmp_path / 'ledger')!r}, os.O_CREAT) < 3 and os.abort() or 0, print)"
    python, addon = command("path")[0], str(Path(__file__).parents[2] / "addon")
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        answer = subprocess.run(
            ["bash", "-c", f'"$@" {closed}', "bash", python, "-c", script],
            env={**environment(tmp_path), "PYTHONPATH": addon},
            check=False,
        )
        assert answer.returncode in (0, 1)
