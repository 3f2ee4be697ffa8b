"""What `serve` and `web` hand to mitmproxy, which upstreams they accept, how they start and end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from http.client import HTTPConnection
from pathlib import Path

import pytest

from mitmproxy_x402.cli import launch
from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.wallet.evm import EvmWallet
from mitmproxy_x402.wallet.sources import Wallets
from mitmproxy_x402.wallet.svm import SvmWallet
from support import effort
from support.proxy import EVM_KEY
from support.running.sessions import SECONDS, command, environment, run, session
from support.running.versions import IS_12
from support.wire import free_port

EVM = EvmWallet("0x0", "test", lambda digest: digest)

SVM = SvmWallet("1", "test", lambda message: message)


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
        if not IS_12:
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
