"""`fixtures serve` as a user types it: one line when it listens, one line for each mistake, Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mitmproxy_x402.cli import main as cli
from mitmproxy_x402.fixtures.__main__ import main
from support.recording.recordings import JSON, write_recording

PATH = "/v1/chat/completions"


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    write_recording(folder / "one", {"n": 1}, [(0, b"[1]")], headers=JSON)
    write_recording(folder / "two", {"n": 2}, [(0, b"[2]")], headers=JSON)
    return folder


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The program, its first line, and the URL in it."""
    command = [sys.executable, "-I", "-m", "mitmproxy_x402", "fixtures", "serve", *arguments]
    process = subprocess.Popen(
        command,
        env={"PATH": os.environ["PATH"], "X402_PROGRAM": "./run.sh"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, line, line.partition(" on ")[2].partition(". ")[0]
        finally:
            process.kill()


def test_it_says_where_serves_and_ends_when_told(recordings: Path) -> None:
    with serving(str(recordings), "--port", "0") as (process, line, url):
        assert line == f"Serving 2 recordings on {url}. Ctrl-C ends it.\n"
        with httpx.Client(base_url=url, timeout=30) as client:
            assert [client.post(PATH, json={"n": n}).json() for n in (1, 2)] == [[1], [2]]
            assert client.post(PATH, json={"n": 3}).status_code == 404
            process.send_signal(signal.SIGINT)  # the client is still connected
            out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert errors == f"No recording matches POST {PATH}. The nearest is one: n: asked 3, recorded 1.\n"


def test_options_of_a_recording_alone_and_the_end_by_kill(recordings: Path) -> None:
    arguments = ("--port", "0", "--match", "order", "--speed", "10", "--host", "localhost")
    with serving(str(recordings / "two"), *arguments) as (process, line, url):
        assert line.startswith("Serving 1 recording on http://")
        assert httpx.post(url + PATH, json={"n": 7}, timeout=30).json() == [2]
        process.terminate()
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 143


def test_a_second_instance_on_the_same_port(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(recordings), "--port", port]) == 1
    error = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 is taken, perhaps by another instance; choose another with --port" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere",), 1, "nowhere: cannot be read: No such file or directory"),
        (("empty",), 1, "no recordings here: expected folders with a flow.json"),
        (("damaged",), 1, "flow.json: not valid JSON"),
        ((), 2, "serve: the following arguments are required: DIR"),
        (("a", "b"), 2, "serve: unrecognized arguments: b"),
        (("a", "--port", "x"), 2, "--port 'x': expected a port up to 65535, or 0"),
        (("a", "--port", "65536"), 2, "--port '65536'"),
        (("a", "--speed", "fast"), 2, "--speed 'fast': expected 0, or how many times as fast"),
        (("a", "--speed", "-1"), 2, "--speed"),
        (("a", "--speed", "nan"), 2, "--speed 'nan'"),
        (("a", "--match", "digest"), 2, "--match 'digest': expected one of body, path, order"),
    ],
)
def test_mistakes_are_one_line(  # noqa: PLR0917  (fixtures and parameters)
    arguments: tuple[str, ...],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged" / "flow.json").write_text("{")
    assert main(["serve", *arguments]) == code
    answer = capsys.readouterr()
    assert said in answer.err
    assert (len(answer.err.splitlines()), answer.out) == (1, "")
    assert answer.err.startswith("python -m mitmproxy_x402.fixtures: ")


class TestHelp:
    @pytest.mark.parametrize("arguments", [["-h"], ["help"], ["serve", "--help"], ["diff", "x", "-h"]])
    def test_it_is_found_everywhere(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == 0
        module = capsys.readouterr().out
        assert module.startswith("usage: python -m mitmproxy_x402.fixtures serve DIR")
        assert cli.main(["fixtures", *arguments]) == 0
        assert capsys.readouterr().out == module.replace("python -m mitmproxy_x402.fixtures", "mitmproxy-x402 fixtures")
        assert max(map(len, module.splitlines())) <= 120

    def test_no_verb_and_an_unknown_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 2
        assert "a verb must follow; known are serve" in capsys.readouterr().err
        assert cli.main(["fixtures", "replay"]) == 2
        assert "there is no verb 'replay'; known are serve" in capsys.readouterr().err
