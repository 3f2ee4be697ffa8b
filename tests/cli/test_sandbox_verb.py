"""The verb `sandbox`: one paid request to watch, then a gateway and a proxy until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
from http.client import HTTPConnection
from pathlib import Path

import pytest

from first_steps import FILE, ROOT
from mitmproxy_x402.cli import sandbox
from support import effort
from support.running.sessions import SECONDS, command, environment, run, session
from support.running.versions import IS_12
from support.wire import free_port

ALL_ARE_THERE = """
until [ "$(cat recordings/*/flow.json | grep -c '^ "state": "complete"')" = 3 ]; do sleep 0.05; done
echo '$ ./run.sh fixtures show recordings'"""
"""A recording is written a moment after its answer; that of the answer that was cut comes before two others."""


def _timeless(shown: str) -> str:
    """`shown` without what differs from run to run."""
    return re.sub(r" +", " ", re.sub(r"call_\w+|\d+", "0", re.sub(" +longest pause.*", "", shown)))


class TestSandbox:
    @pytest.mark.parametrize("network", effort.chosen(["base-sepolia", "solana-devnet", "both"], "both"))
    def test_one_request_is_paid_and_shown(self, tmp_path: Path, network: str) -> None:
        """With settings and keys about that would spoil it, were they looked at."""
        (tmp_path / "x402.toml").write_text('max_request = "0"\nclient_token = "never-to-be-asked"')
        (tmp_path / ".mitmproxy").mkdir()
        (tmp_path / ".mitmproxy/config.yaml").write_text("x402_max_request: '0'\n")
        arguments = ("sandbox", "--once", "--network", network, "-p", str(free_port()))
        answer = run(tmp_path, *arguments, BLOCKRUN_WALLET_KEY="not to be read", X402_CLIENT_TOKEN="nor-this-one")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert 'tool call  forecast({"city": "Oslo", "days": 7, "unit": "celsius"})' in answer.stdout
        assert "data: [DONE]" in answer.stdout
        assert "settled, transaction " in answer.stdout
        assert "\x1b" not in answer.stdout
        assert sorted(path.name for path in tmp_path.iterdir()) == [".mitmproxy", "x402.toml"]

    @pytest.mark.parametrize("number", effort.chosen([signal.SIGINT, signal.SIGTERM], signal.SIGINT))
    def test_it_serves_until_told_to_end_and_leaves_nothing(self, tmp_path: Path, number: signal.Signals) -> None:
        port = free_port()
        with session(tmp_path, "sandbox", "-p", str(port)) as demo:
            demo.await_line("It runs until Ctrl-C")
            demo.await_line("curl -N")
            demo.await_line("report --ledger /")
            demo.await_line("X402_UPSTREAM=http://127.0.0.1:")
            connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
            connection.request("GET", "/v1/models")
            models = json.loads(connection.getresponse().read())
            connection.close()
            assert "sandbox-1" in [model["id"] for model in models["data"]]
            if number == signal.SIGINT:
                os.killpg(demo.process.pid, number)  # as a terminal does: to everything in it
            else:
                demo.process.send_signal(number)  # as `kill` does: to the one
            code, said = demo.end()
            assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
            assert not demo.has_orphans()
        assert "Traceback" not in said

    def test_the_broken_answers_that_the_docs_have_it_give(self, tmp_path: Path) -> None:
        (shown,) = re.findall(r"```console\n(\$ ask\(.*?)```", (ROOT / "docs/fixtures.md").read_text(), re.DOTALL)
        commands = re.findall(r"^\$ (.*)$", shown, re.MULTILINE)
        port = str(free_port())
        (tmp_path / "tool-call.json").write_text(FILE)
        (tmp_path / "run.sh").write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
        (tmp_path / "run.sh").chmod(0o755)
        with session(tmp_path, "sandbox", "-p", port, "--set", "x402_dump=recordings") as demo:
            demo.await_line("X402_UPSTREAM=http://127.0.0.1:")
            script = "\n".join(f"echo {shlex.quote(f'$ {each}')}\n{each}" for each in commands)
            script = script.replace("\necho '$ ./run.sh fixtures show recordings'", ALL_ARE_THERE, 1)
            said = subprocess.run(
                ["sh"], input=script.replace(":4402/", f":{port}/"), env=environment(tmp_path), cwd=tmp_path,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            demo.process.send_signal(signal.SIGTERM)
            demo.end()
        assert said.stderr == ""
        assert _timeless(said.stdout.replace(f":{port}/", ":4402/")) == _timeless(shown)

    def test_it_ends_with_a_proxy_that_was_told_to_end(self, tmp_path: Path) -> None:
        """As in the background of a script, whose programs ignore Ctrl-C; mitmproxy does not."""
        port, before = free_port(), signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with session(tmp_path, "sandbox", "-p", str(port)) as demo:
                demo.await_line("X402_UPSTREAM=http://127.0.0.1:")
                os.killpg(demo.process.pid, signal.SIGINT)
                code, said = demo.end()
                assert not demo.has_orphans()
        finally:
            signal.signal(signal.SIGINT, before)
        assert (code, "by itself" in said) == (0, False)
        assert "the proxy was told to end" in said

    def test_a_port_that_a_stranger_takes_meanwhile_gets_no_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sandbox, "port_is_free", lambda *_: True)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            stranger.setblocking(False)
            try:
                with pytest.raises(sandbox.DemoError, match="did not start"):
                    sandbox.run(["--once", "-p", str(stranger.getsockname()[1])])
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection = stranger.accept()[0]
                    connection.settimeout(20)
                    assert connection.recv(1) == b""

    def test_a_taken_port(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            answer = run(tmp_path, "sandbox", "--once", "-p", str(taken.getsockname()[1]))
        assert answer.returncode == 1
        assert "this port is in use" in answer.stderr

    def test_in_mitmweb(self, tmp_path: Path) -> None:
        port, web = str(free_port()), str(free_port())
        arguments = ("sandbox", "--web", "-p", port, "--web-port", web, "--no-web-open-browser")
        if not IS_12:
            answer = run(tmp_path, *arguments)
            assert "has no login" in answer.stdout + answer.stderr
            return
        with session(tmp_path, *arguments) as demo:
            demo.await_line(f"Web server listening at http://127.0.0.1:{web}/")
            demo.await_line("settled, transaction ")
            demo.await_line("It runs until Ctrl-C")
            demo.process.send_signal(signal.SIGTERM)
            assert demo.end()[0] == 143
            assert not demo.has_orphans()

    def test_a_proxy_that_cannot_start_ends_it(self, tmp_path: Path) -> None:
        answer = run(tmp_path, "sandbox", "--once", "-p", str(free_port()), "--set", "x402_max_request=lots")
        assert answer.returncode == 1
        assert "x402_max_request = 'lots'" in answer.stdout
        assert "the proxy did not start, exit code 1" in answer.stderr

    def test_an_option_that_does_not_exist_ends_it(self, tmp_path: Path) -> None:
        answer = run(tmp_path, "sandbox", "-p", str(free_port()), "--set", "x402_bugdet=1")
        assert answer.returncode == 1
        assert "did you mean x402_budget?" in answer.stdout
        assert answer.stderr.endswith("its reason is above\n")

    @pytest.mark.parametrize("arguments", [("--network", "base"), ("--network",), ("-p", "x")])
    def test_wrong_arguments(self, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        answer = run(tmp_path, "sandbox", *arguments)
        assert answer.returncode == 1
        assert "expected" in answer.stderr
