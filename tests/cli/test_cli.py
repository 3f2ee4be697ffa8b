"""The verbs, as a user types them: help, errors in one message, the proxy, the demo, and Ctrl-C."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from mitmproxy import version

from mitmproxy_x402.cli import launch
from mitmproxy_x402.cli import main as cli
from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.wallet.evm import EvmWallet
from mitmproxy_x402.wallet.sources import Wallets
from mitmproxy_x402.wallet.svm import SvmWallet
from support import effort

EVM_KEY = "0x" + "11" * 32
ADDON = Path(cli.__file__).resolve().parents[2]
EVM = EvmWallet("0x0", "test", lambda digest: digest)
SVM = SvmWallet("1", "test", lambda message: message)
SECONDS = 120
"""For what must happen; nothing waits this long unless it fails."""


WITHOUT_LOGIN = version.VERSION.startswith("11.")
"""Whether this mitmweb has no login: then it is not started beside a wallet."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-I", "-m", "mitmproxy_x402", *arguments]


def environment(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **more}


def run(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    answer = subprocess.run(
        command(*arguments),
        env=environment(home, **more),
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "Traceback" not in answer.stderr
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Session:
    """A program in a process group of its own, as a terminal would start it, and what it says."""

    def __init__(self, home: Path, *arguments: str, **more: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            env=environment(home, **more),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self.process.stdout.close()
        self._lines.put(None)

    def await_line(self, part: str) -> str:
        while True:
            line = self._lines.get(timeout=SECONDS)
            assert line is not None, f"ended without saying {part!r}:\n{''.join(self.said)}"
            self.said.append(line)
            if part in line:
                return line

    def end(self) -> tuple[int, str]:
        """Its exit code and everything it said, once it and all that it started have closed their output."""
        while (line := self._lines.get(timeout=SECONDS)) is not None:
            self.said.append(line)
        return self.process.wait(SECONDS), "".join(self.said)

    def has_orphans(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@contextmanager
def session(home: Path, *arguments: str, **more: str) -> Iterator[Session]:
    started = Session(home, *arguments, **more)
    try:
        yield started
    finally:
        if started.has_orphans():
            os.killpg(started.process.pid, signal.SIGKILL)
        started.process.wait()


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
            assert (answer.returncode, answer.stderr) == (1, "")
        os.close(write)

    def test_a_reader_that_goes_away(self, tmp_path: Path) -> None:
        """As in `./run.sh --help | head -1`."""
        read, write = os.pipe()
        os.close(read)
        answer = subprocess.run(
            command("--help"), env=environment(tmp_path), stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(write)
        assert (answer.returncode, answer.stderr) == (1, "")


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


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "name", "value"),
        [
            (["-p", "1"], "listen_port", "1"),
            (["-p1"], "listen_port", "1"),
            (["--listen-port", "1"], "listen_port", "1"),
            (["--listen-port=1"], "listen_port", "1"),
            (["--listen-p", "1"], "listen_port", "1"),
            (["--set", "listen_port=1"], "listen_port", "1"),
            (["--set=listen_port=1"], "listen_port", "1"),
            (["-m", "upstream:http://a"], "mode", "upstream:http://a"),
            (["--mode", "regular"], "mode", "regular"),
            (["--listen-host", "0.0.0.0"], "listen_host", "0.0.0.0"),
            (["--set", "x402_max_request=0.5"], "x402_max_request", "0.5"),
            (["--set", "x402_solana_rpc=https://a/?b=c"], "x402_solana_rpc", "https://a/?b=c"),
        ],
    )
    def test_what_the_user_sets_is_seen(self, arguments: list[str], name: str, value: str) -> None:
        given = launch.read_arguments(arguments)
        assert given.options == {name: value}
        assert given.passed_on == tuple(arguments)

    @pytest.mark.parametrize("arguments", [["-s", "mine.py"], ["--setup"], ["~u /v1"], ["-v"], ["--", "x"], []])
    def test_others_are_left_alone(self, arguments: list[str]) -> None:
        given = launch.read_arguments(arguments)
        assert given.options == {}
        assert given.passed_on == tuple(arguments)

    @pytest.mark.parametrize("arguments", [["--upstream", "u", "-v"], ["-v", "--upstream=u"]])
    def test_the_upstream_is_ours(self, arguments: list[str]) -> None:
        given = launch.read_arguments(arguments)
        assert (given.upstreams, given.passed_on) == (("u",), ("-v",))

    def test_an_upstream_must_follow(self) -> None:
        with pytest.raises(SettingsError, match="a URL must follow"):
            launch.read_arguments(["--upstream"])

    def test_ours_are_added_where_the_user_says_nothing(self) -> None:
        def built(*arguments: str, **configured: str) -> list[str]:
            given = launch.read_arguments(arguments)
            upstreams = [] if "mode" in given.options else ["https://a"]
            return launch.mitmproxy_arguments(Path("/door"), upstreams, given, configured)

        door, mode = ["-s", "/door"], ["--mode", "reverse:https://a"]
        port, host = ["--listen-port", "4402"], ["--listen-host", "127.0.0.1"]
        assert built() == [*door, *mode, *port, *host]
        assert built("-p", "1", "-w", "f") == [*door, *mode, *host, "-p", "1", "-w", "f"]
        assert built("--listen-host", "::") == [*door, *mode, *port, "--listen-host", "::"]
        assert built(listen_host="0.0.0.0") == [*door, *mode, *port]
        assert built("-m", "regular") == [*door, *port, *host, "-m", "regular"]

    def test_each_of_several_upstreams_has_a_port_of_its_own(self) -> None:
        given = launch.read_arguments(["--upstream", "https://a", "--upstream=https://b", "-p", "5000"])
        built = launch.mitmproxy_arguments(Path("/door"), given.upstreams, given, {})
        assert built[2:6] == ["--mode", "reverse:https://a@5000", "--mode", "reverse:https://b@5001"]


class TestUpstream:
    def test_by_the_wallets(self) -> None:
        assert launch.gateway_for(Wallets(EVM, SVM)) == "https://sol.blockrun.ai"
        assert launch.gateway_for(Wallets(None, SVM)) == "https://sol.blockrun.ai"
        assert launch.gateway_for(Wallets(EVM, None)) == "https://blockrun.ai"

    @pytest.mark.parametrize(
        "url", ["https://a.example", "https://a.example:8443", "http://127.0.0.1:1", "http://[::1]:1"]
    )
    def test_safe_ones(self, url: str) -> None:
        assert launch.check_upstream(url) == url
        assert launch.check_upstream(f"{url}/") == url

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("http://a.example", "is not encrypted"),
            ("http://192.168.1.2:80", "is not encrypted"),
            ("http://127.0.0.1.a.example", "is not encrypted"),
            ("a.example", "is not a gateway's URL"),
            ("ftp://a.example", "is not a gateway's URL"),
            ("https://", "is not a gateway's URL"),
            ("https://a.example/v1", "A path belongs in the client's base URL"),
            ("https://a.example?x=1", "is not a gateway's URL"),
            ("https://a.example:port", "is not a gateway's URL"),
            ("https://[", "is not a gateway's URL"),
            ("https://me:secret@a.example", "must not hold a user name"),
            ("https://me:secret@[", "must not hold a user name"),
            ("me:secret@a.example/v1", "must not hold a user name"),
        ],
    )
    def test_others_are_refused_with_the_reason(self, url: str, reason: str) -> None:
        with pytest.raises(SettingsError, match=reason) as caught:
            launch.check_upstream(url)
        assert "secret" not in str(caught.value)


class TestServe:
    def test_without_a_wallet_it_starts_and_says_what_to_do(self, tmp_path: Path) -> None:
        port = free_port()
        serving = subprocess.Popen(
            command("serve", "-p", str(port)), env=environment(tmp_path), stdout=subprocess.PIPE, text=True
        )
        try:
            assert serving.stdout is not None
            assert any("no wallet" in line and "wallet new" in line for line in serving.stdout)
        finally:
            serving.terminate()
            serving.communicate(timeout=30)

    def test_an_unsafe_upstream_is_said_before_anything_else(self, tmp_path: Path) -> None:
        answer = run(tmp_path, X402_UPSTREAM="http://a.example")
        assert answer.returncode == 1
        assert "'http://a.example' is not encrypted" in answer.stderr

    def test_a_bad_option_is_one_line(self, tmp_path: Path) -> None:
        answer = run(tmp_path, "serve", "--set", "x402_max_request=lots", BLOCKRUN_WALLET_KEY=EVM_KEY)
        assert answer.returncode == 1
        assert answer.stderr.startswith("mitmproxy-x402: x402_max_request = 'lots': expected dollars")
        assert len(answer.stderr.splitlines()) == 1

    def test_a_bad_key_is_one_line_without_the_key(self, tmp_path: Path) -> None:
        answer = run(tmp_path, BLOCKRUN_WALLET_KEY="0xdeadbeef")
        assert answer.returncode == 1
        assert "BLOCKRUN_WALLET_KEY" in answer.stderr
        assert "deadbeef" not in answer.stderr
        assert len(answer.stderr.splitlines()) == 1

    def test_an_upstream_beside_a_mode(self, tmp_path: Path) -> None:
        answer = run(tmp_path, "--upstream", "https://a.example", "--mode", "regular", BLOCKRUN_WALLET_KEY=EVM_KEY)
        assert (answer.returncode, "leave one of them out" in answer.stderr) == (1, True)

    def test_a_taken_port(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            answer = run(tmp_path, "-p", str(port), BLOCKRUN_WALLET_KEY=EVM_KEY)
        assert answer.returncode == 1
        assert f"port {port} on 127.0.0.1 is in use" in answer.stderr
        assert f"-p {port + 1}" in answer.stderr

    @pytest.mark.parametrize("where", ["option", "file"])
    def test_a_taken_port_of_mitmwebs_page(self, tmp_path: Path, where: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            arguments = ["--web-port", str(port)]
            if where == "file":
                (tmp_path / ".mitmproxy").mkdir()
                (tmp_path / ".mitmproxy/config.yaml").write_text(f"web_port: {port}\n")
                arguments = []
            answer = run(tmp_path, "web", "-p", str(free_port()), *arguments, BLOCKRUN_WALLET_KEY=EVM_KEY)
        assert answer.returncode == 1
        if WITHOUT_LOGIN:
            assert "has no login" in answer.stderr
            return
        assert f"port {port} on 127.0.0.1, for mitmweb's page, is in use" in answer.stderr
        assert f"web --web-port {port + 1}" in answer.stderr
        assert "Traceback" not in answer.stderr

    def test_a_wallet_that_mitmproxys_own_file_names(self, tmp_path: Path) -> None:
        """It is found: what stops the start is the port."""
        key = tmp_path / "evm.key"
        key.write_text(EVM_KEY)
        key.chmod(0o600)
        (tmp_path / ".mitmproxy").mkdir()
        (tmp_path / ".mitmproxy/config.yaml").write_text(f"x402_evm_key_file: {key}\n")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            answer = run(tmp_path, "-p", str(taken.getsockname()[1]))
        assert "is in use" in answer.stderr

    def test_the_options_are_listed_without_a_wallet(self, tmp_path: Path) -> None:
        answer = run(tmp_path, "--options")
        assert answer.returncode == 0
        assert answer.stdout.count("x402_max_request: ''") == 1
        assert "\nlisten_host: " in answer.stdout

    @pytest.mark.parametrize("number", effort.chosen([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
    def test_it_pays_listens_on_loopback_only_and_ends_when_told(self, tmp_path: Path, number: signal.Signals) -> None:
        port = free_port()
        with Sandbox(SandboxConfig()).run_in_thread() as gateway:
            arguments = ("serve", "--upstream", gateway.url, "-p", str(port))
            with session(tmp_path, *arguments, BLOCKRUN_WALLET_KEY=EVM_KEY) as proxy:
                assert f"listening at 127.0.0.1:{port}" in proxy.await_line("listening at")
                connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
                connection.request("POST", "/v1/chat/completions", b'{"model": "sandbox-1", "messages": []}')
                answer = connection.getresponse()
                assert (answer.status, len(answer.read()) > 0) == (200, True)
                os.killpg(proxy.process.pid, number)  # the client is still connected
                code, said = proxy.end()
                connection.close()
            assert [payment.state for payment in gateway.payments] == ["settled"]
        assert code == 0
        assert "Traceback" not in said
        assert EVM_KEY[2:] not in said


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

    def test_a_taken_port(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            answer = run(tmp_path, "sandbox", "--once", "-p", str(taken.getsockname()[1]))
        assert answer.returncode == 1
        assert "this port is in use" in answer.stderr

    def test_in_mitmweb(self, tmp_path: Path) -> None:
        port, web = str(free_port()), str(free_port())
        arguments = ("sandbox", "--web", "-p", port, "--web-port", web, "--no-web-open-browser")
        if WITHOUT_LOGIN:
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

    @pytest.mark.parametrize("arguments", [("--network", "base"), ("--network",), ("-p", "x")])
    def test_wrong_arguments(self, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        answer = run(tmp_path, "sandbox", *arguments)
        assert answer.returncode == 1
        assert "expected" in answer.stderr
