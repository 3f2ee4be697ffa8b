"""What `check` says of this machine: versions, settings, wallet, ledger, port."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.sandbox import Sandbox
from support.chains.json_rpc import HUSH, Rpc, evm
from support.proxy import EVM_KEY, Proxy
from support.running.checking import Machine, free_port


class TestThisMachine:
    @pytest.fixture(autouse=True)
    def _nowhere(self, machine: Machine) -> None:
        machine.environ("X402_UPSTREAM", f"http://127.0.0.1:{free_port()}")

    def test_settings(self, machine: Machine) -> None:
        _, lines, out = machine.check("--set", "x402_max_request=lots")
        assert lines["settings"].startswith("TO DO: x402_max_request = 'lots'")
        assert list(lines) == ["versions", "authorities", "signing", "settings"]
        assert out.endswith("1 to do.\n")
        assert "did you mean x402_budget" in machine.check("--set", "x402_budgt=1")[1]["settings"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (
                ("--modle", "x"),
                "'--modle' is not an argument of check or serve; did you mean --model? See mitmproxy-x402 check",
            ),
            (("--wait",), "'--wait' is not an argument"),
            (("gpt-5",), "'gpt-5' is not an argument of check or serve."),
            (("--listen-host",), "expected one argument"),
            (("--set", "x402_budget"), "--set x402_budget: a value must follow"),
        ],
    )
    def test_arguments_that_serve_would_not_take(self, machine: Machine, arguments: tuple[str, ...], said: str) -> None:
        code, lines, out = machine.check(*arguments)
        assert (code, lines) == (1, {})
        assert said in out

    def test_arguments_that_serve_takes(self, machine: Machine) -> None:
        """mitmdump's, and mitmweb's, whose values are no arguments by themselves."""
        more = ("--no-web-open-browser", "-s", "other.py", "--set", "option_of_other=1", "-w", "flows", "~u chat")
        assert machine.check(*more)[1]["settings"].startswith("ok")

    @pytest.mark.parametrize(
        ("name", "meant"),
        [("budget", "x402_budget"), ("max_requests", "x402_max_request"), ("dryrun", "x402_dry_run"), ("whatever", "")],
    )
    def test_options_that_nobody_has(self, machine: Machine, name: str, meant: str) -> None:
        line = machine.check("--set", f"{name}=1")[1]["settings"]
        assert line.startswith(f"TO DO: There is no option '{name}'; ")
        assert (f"did you mean {meant}?" in line) == bool(meant)

    def test_options_of_mitmproxys_file(self, machine: Machine) -> None:
        folder = machine.home / ".mitmproxy"
        folder.mkdir()
        (folder / "config.yaml").write_text("option_of_another_script: '1'\n")
        assert machine.check()[1]["settings"].startswith("ok")
        (folder / "config.yaml").write_text("budget: 0.01/day\n")
        assert "did you mean x402_budget?" in machine.check()[1]["settings"]

    def test_key_files(self, machine: Machine) -> None:
        key = machine.home / "key"
        key.write_text(EVM_KEY)
        key.chmod(0o644)
        _, lines, _ = machine.check("--set", f"x402_evm_key_file={key}")
        assert lines["wallet"].startswith("TO DO")
        assert f"chmod 600 {key}" in lines["wallet"]
        key.chmod(0o600)
        assert machine.check("--set", f"x402_evm_key_file={key}")[1]["wallet"].startswith("ok")

    def test_a_key_that_is_none(self, machine: Machine) -> None:
        machine.environ("BLOCKRUN_WALLET_KEY", HUSH)
        assert machine.check()[1]["wallet"].startswith("TO DO: BLOCKRUN_WALLET_KEY holds no EVM private key")

    def test_the_ledger(self, machine: Machine) -> None:
        SqliteLedger(machine.ledger).close()
        assert machine.check()[1]["ledger"] == f"ok: {machine.ledger} is writable and holds 0 payments"
        machine.ledger.write_text("no ledger " * 1000)
        assert "not a SQLite database" in machine.check()[1]["ledger"]
        _, lines, _ = machine.check("--set", f"x402_ledger={machine.ledger}/below/a/file")
        assert "cannot be created" in lines["ledger"]

    def test_the_port(self, machine: Machine) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as taken, Rpc(evm(0)) as other:
            number = taken.getsockname()[1]
            assert machine.check("-p", str(other.origin.rpartition(":")[2]))[1]["port"].startswith("TO DO")
            taken.close()
            assert machine.check("-p", str(number))[1]["port"] == f"ok: {number} on 127.0.0.1 is free"
        assert "invalid int value: 'x'" in machine.check("-p", "x")[2]
        assert machine.check("-p", "70000")[1]["port"].startswith("TO DO")

    def test_the_port_where_we_run_already(self, machine: Machine, sandbox: Sandbox, tmp_path: Path) -> None:
        with Proxy(sandbox.url, home=tmp_path) as proxy:
            _, lines, _ = machine.check("-p", str(proxy.port))
            assert "origin_not_allowed" not in proxy.log
        assert lines["port"].endswith("is in use by a proxy of this kind")

    def test_mistakes(self, machine: Machine) -> None:
        assert machine.check("--model")[0] == 1
        assert "payments are made with --mode reverse:URL only" in machine.check("-m", "regular")[1]["gateway"]
        assert "is not encrypted" in machine.check("--upstream", "http://a.example")[1]["gateway"]
