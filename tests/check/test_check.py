"""`check` before a real sandbox: every line is ok or says what to do, nothing is paid, and no secret is printed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.chain import json_rpc as check_net
from mitmproxy_x402.check import gateway as check_gateway
from mitmproxy_x402.ledger.interface import Intent
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.chains.json_rpc import HUSH, Answer, Rpc, evm
from support.proxy import EVM_ADDRESS, EVM_KEY, Proxy, svm_key
from support.running import certs
from support.running.checking import Machine, free_port


class TestAllIsOk:
    def test_on_evm(self, machine: Machine, sandbox: Sandbox) -> None:
        machine.environ("BLOCKRUN_WALLET_KEY", EVM_KEY)
        with Rpc(evm(2_500_000)) as rpc:
            machine.environ("X402_EVM_RPC", f"base-sepolia={rpc.url}")
            status, lines, out = machine.check("--upstream", sandbox.url)
        assert (status, out.splitlines()[-1]) == (0, "All is ok."), out
        assert list(lines) == [
            *(
                "versions",
                "authorities",
                "signing",
                "settings",
                "wallet",
                "key files",
                "ledger",
                "port",
                "gateway",
                "clock",
                "quote",
                "agent",
                "balance",
            )
        ]
        assert EVM_ADDRESS in lines["wallet"]
        assert "USDC on base-sepolia, paid to 0x" in lines["quote"]
        assert "your limits allow it" in lines["quote"]
        assert "85 kB of prompt" in lines["agent"]
        assert lines["agent"].endswith(" USDC on base-sepolia")
        assert lines["balance"].startswith("ok: 2.5 USDC on base-sepolia, enough for ")
        address = EVM_ADDRESS[2:].lower()
        call = {"to": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "data": f"0x70a08231{address:0>64}"}
        code = ("eth_getCode", [EVM_ADDRESS, "latest"])
        assert rpc.asked == [("eth_chainId", []), ("eth_call", [call, "latest"]), code]

    def test_on_solana_with_the_gateways_own_rpc(self, machine: Machine, sandbox: Sandbox) -> None:
        machine.environ("SOLANA_WALLET_KEY", svm_key())
        machine.environ("SOLANA_RPC_URL", f"{sandbox.url}/api/v1/solana/rpc?key={HUSH}")
        code, lines, _ = machine.check(f"--upstream={sandbox.url}")
        assert code == 0
        assert lines["balance"].startswith("ok: 1000 USDC on solana-devnet, enough for ")

    def test_nothing_is_paid_and_nothing_made(self, machine: Machine, sandbox: Sandbox) -> None:
        machine.environ("SOLANA_WALLET_KEY", svm_key())
        machine.environ("SOLANA_RPC_URL", f"{sandbox.url}/api/v1/solana/rpc")
        before = len(sandbox.requests)
        assert machine.check("--upstream", sandbox.url)[0] == 0
        assert len(sandbox.payments) == 0
        asked = list(sandbox.requests)[before:]
        assert {request.path for request in asked} == {"/v1/models", "/v1/chat/completions", "/api/v1/solana/rpc"}
        assert not [name for request in asked for name in request.headers if "payment" in str(name).lower()]
        assert list(machine.home.iterdir()) == []

    def test_the_address_of_mode_and_a_dry_run_without_a_wallet(self, machine: Machine, sandbox: Sandbox) -> None:
        _, lines, _ = machine.check("--mode", f"reverse:{sandbox.url}", "--set", "x402_dry_run=true")
        assert lines["wallet"].startswith("TO DO: none was found: make one with mitmproxy-x402 wallet new")
        assert lines["quote"].endswith("not paid, dry run")
        assert "balance" not in lines


class TestGateway:
    def test_unreachable(self, machine: Machine) -> None:
        _, lines, _ = machine.check("--upstream", f"http://127.0.0.1:{free_port()}")
        assert "connection refused" in lines["gateway"]
        assert lines["quote"].startswith("-: not checked")

    def test_it_hangs_up(self, machine: Machine) -> None:
        with _server(b"") as url:
            assert "closed the connection without an answer" in machine.check("--upstream", url)[1]["gateway"]

    def test_it_never_answers(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(check_gateway, "SECONDS", 0.2)
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            _, lines, _ = machine.check("--upstream", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "no answer within 0.2 s" in lines["gateway"]

    def test_tls(self, machine: Machine, tmp_path: Path) -> None:
        pem = certs.make(tmp_path)
        config = SandboxConfig(certfile=pem, keyfile=pem)
        with Sandbox(config).run_in_thread() as sandbox:
            _, lines, _ = machine.check("--upstream", sandbox.url)
            assert "its certificate is not valid" in lines["gateway"]
            trusted = certs.trust(pem)
            _, lines, _ = machine.check("--upstream", sandbox.url, *trusted)
            assert lines["gateway"].endswith("answers (TLS verified)")
            assert "remove it" in machine.check("--upstream", sandbox.url, "--set", "ssl_insecure=true")[2]
            _, lines, _ = machine.check("--upstream", sandbox.url, "--set", "ssl_verify_upstream_trusted_ca=/none")
            assert "cannot be loaded" in lines["gateway"]

    @pytest.mark.parametrize(
        ("ahead", "text"),
        [(0, "ok: differs"), (3700, "TO DO: is 3"), (-3700, "TO DO: is 3"), (None, "-: not checked: the gateway")],
    )
    def test_the_clock(self, machine: Machine, ahead: int | None, text: str) -> None:
        head = ""
        if ahead is not None:
            moment = datetime.now(timezone.utc) - timedelta(seconds=ahead)
            head = f"Date: {format_datetime(moment, usegmt=True)}\r\n"
        content = f"HTTP/1.1 404 Not Found\r\n{head}Content-Length: 0\r\n\r\n".encode()
        with _server(content) as url:
            _, lines, _ = machine.check("--upstream", url)
        assert lines["clock"].startswith(text)
        assert ("ahead of" in lines["clock"]) == (ahead == 3700)
        assert ("behind" in lines["clock"]) == (ahead == -3700)
        assert lines["quote"].startswith("TO DO: /v1/chat/completions: no model is known to ask for")

    def test_a_free_model_has_no_price(self, machine: Machine, sandbox: Sandbox) -> None:
        _, lines, _ = machine.check("--upstream", sandbox.url, "--model", "sandbox-free")
        assert lines["quote"].startswith("ok: POST /v1/chat/completions (sandbox-free) is free")
        assert "--model NAME" in lines["quote"]

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (("x402_max_request=0.0001",), "Raise x402_max_request"),
            (("x402_allow_pay_to=0x" + "1" * 40,), "x402_allow_pay_to"),
            (("x402_allow_hosts=a.example",), "x402_allow_hosts"),
            (("x402_allow_networks=solana-devnet",), "x402_allow_networks"),
            (("x402_budget=0.0001/day",), "only 0.0001 of 0.0001/day is left: wait, or raise x402_budget"),
        ],
    )
    def test_limits(self, machine: Machine, sandbox: Sandbox, options: tuple[str, ...], reason: str) -> None:
        machine.environ("BLOCKRUN_WALLET_KEY", EVM_KEY)
        with Rpc(evm(1)) as rpc:
            machine.environ("X402_EVM_RPC", f"base-sepolia={rpc.url}")
            settings = [part for option in options for part in ("--set", option)]
            _, lines, _ = machine.check("--upstream", sandbox.url, *settings)
        assert lines["quote"].startswith("TO DO")
        assert reason in lines["quote"]

    def test_a_budget_that_is_spent(self, machine: Machine, sandbox: Sandbox) -> None:
        with closing(SqliteLedger(machine.ledger)) as ledger:
            amount = AtomicUnits(9_999_999)
            ledger.reserve(Intent("POST", "h", "/p", "m", Caip2("n"), "a", "b", amount, amount), ())
            _, lines, _ = machine.check("--upstream", sandbox.url, "--set", "x402_dry_run=true")
        assert "only 0.000001 of 10/day is left" in lines["quote"]

    def test_without_a_wallet(self, machine: Machine, sandbox: Sandbox) -> None:
        lines = machine.check("--upstream", sandbox.url)[1]
        assert lines["wallet"].startswith("TO DO")
        assert lines["quote"].startswith("-: POST /v1/chat/completions (sandbox-1) costs something; ")


class TestKey:
    @pytest.mark.parametrize("reached", [True, False], ids=["gateway", "no gateway"])
    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("0xef0100" + "63" * 20, f"is delegated (EIP-7702) to 0x{'63' * 20}"),
            ("0x6001", "holds the code of a contract"),
        ],
        ids=["delegated", "contract"],
    )
    def test_that_sellers_refuse(
        self, machine: Machine, sandbox: Sandbox, code: str, words: str, reached: bool
    ) -> None:
        machine.environ("BLOCKRUN_WALLET_KEY", EVM_KEY)
        with Rpc(lambda method, of: code if method == "eth_getCode" else evm(2_500_000)(method, of)) as rpc:
            machine.environ("X402_EVM_RPC", f"base-sepolia={rpc.url}")
            upstream = sandbox.url if reached else f"http://127.0.0.1:{free_port()}"
            said = machine.check("--upstream", upstream)[1]["key"]
        assert said.startswith(f"TO DO: The key of {EVM_ADDRESS} {words} on base-sepolia: sellers will refuse")
        assert "Use another key, or end the delegation" in said

    def test_the_proxy_says_it_at_its_start(self, tmp_path: Path) -> None:
        code = "0xef0100" + "63" * 20
        with Rpc(lambda method, of: code if method == "eth_getCode" else evm(2_500_000)(method, of)) as rpc:
            option = f"x402_evm_rpc=base-sepolia={rpc.url}"
            with Proxy("http://127.0.0.1:1", "--set", option, home=tmp_path) as proxy:
                proxy.wait_for(rf"is delegated \(EIP-7702\) to 0x{'63' * 20} on base-sepolia: sellers will refuse")


class TestBalance:
    @pytest.fixture(autouse=True)
    def _wallet(self, machine: Machine) -> None:
        machine.environ("BLOCKRUN_WALLET_KEY", EVM_KEY)

    def said(self, machine: Machine, sandbox: Sandbox, answer: Answer) -> str:
        with Rpc(answer) as rpc:
            machine.environ("X402_EVM_RPC", f"base-sepolia={rpc.url}")
            return machine.check("--upstream", sandbox.url)[1]["balance"]

    def test_too_little(self, machine: Machine, sandbox: Sandbox) -> None:
        said = self.said(machine, sandbox, evm(1))
        assert said.startswith("TO DO: 0.000001 USDC on base-sepolia, less than the small request of the quote costs")
        assert said.endswith(f"send USDC to {EVM_ADDRESS} (mitmproxy-x402 wallet fund).")

    def test_another_chain(self, machine: Machine, sandbox: Sandbox) -> None:
        said = self.said(machine, sandbox, evm(10**9, chain=1))
        assert said.startswith("TO DO")
        assert "it serves the chain 1, not 84532" in said

    @pytest.mark.parametrize("said", [None, 5, "0x", "0x" + "f" * 65, "12", {"value": 1}, HUSH])
    def test_answers_that_are_no_number(self, machine: Machine, sandbox: Sandbox, said: Any) -> None:
        answer = self.said(machine, sandbox, lambda method, _: "0x14a34" if method == "eth_chainId" else said)
        assert "its answer is not a number" in answer
        assert "set X402_EVM_RPC" in answer

    def test_an_error(self, machine: Machine, sandbox: Sandbox) -> None:
        def answer(method: str, parameters: list[Any]) -> Any:
            raise LookupError(-32005)

        assert "eth_chainId gives error -32005" in self.said(machine, sandbox, answer)

    def test_the_next_rpc_is_asked(self, machine: Machine, sandbox: Sandbox) -> None:
        dead = f"base-sepolia=http://127.0.0.1:{free_port()}/{HUSH}"
        with Rpc(evm(10**6)) as rpc:
            machine.environ("X402_EVM_RPC", f"{dead},base-sepolia={rpc.url}")
            assert machine.check("--upstream", sandbox.url)[1]["balance"].startswith("ok: 1 USDC")
        machine.environ("X402_EVM_RPC", dead)
        assert "connection refused" in machine.check("--upstream", sandbox.url)[1]["balance"]

    def test_solana_of_another_cluster(self, machine: Machine, sandbox: Sandbox) -> None:
        machine.environ("SOLANA_WALLET_KEY", svm_key())
        with Rpc(lambda _method, _: "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d") as rpc:
            machine.environ("SOLANA_RPC_URL", rpc.url)
            _, lines, _ = machine.check("--upstream", sandbox.url, "--set", "x402_networks=solana-devnet")
        assert "it serves another cluster" in lines["balance"]
        assert "SOLANA_RPC_URL" in lines["balance"]

    @pytest.mark.parametrize(
        ("amounts", "text"), [([], "0 USDC"), (["1500000", "500000"], "2 USDC"), (["x"], "no token"), ([1], "no token")]
    )
    def test_solana_accounts(self, machine: Machine, sandbox: Sandbox, amounts: list[Any], text: str) -> None:
        def answer(method: str, parameters: list[Any]) -> Any:
            if method == "getGenesisHash":
                raise LookupError(-32601)  # many gateways serve a few methods only
            infos = [{"tokenAmount": {"amount": amount}} for amount in amounts]
            return {"value": [{"account": {"data": {"parsed": {"info": info}}}} for info in infos]}

        machine.environ("SOLANA_WALLET_KEY", svm_key())
        with Rpc(answer) as rpc:
            machine.environ("SOLANA_RPC_URL", rpc.url)
            _, lines, _ = machine.check("--upstream", sandbox.url, "--set", "x402_networks=solana-devnet")
        assert text in lines["balance"]


def test_an_address_is_shown_without_its_secrets() -> None:
    assert check_net.origin(f"https://{HUSH}:{HUSH}@[::1]:8/{HUSH}?{HUSH}#{HUSH}") == "https://[::1]:8"
    assert check_net.origin("https://[") == "an unreadable URL"


@contextmanager
def _server(content: bytes) -> Iterator[str]:
    """Answers everything with the same bytes, then hangs up."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    peer.sendall(content)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


class TestWhatIsNotKnown:
    def test_a_model_that_the_gateway_does_not_list(self, machine: Machine, sandbox: Sandbox) -> None:
        machine.environ("BLOCKRUN_WALLET_KEY", EVM_KEY)
        machine.environ("X402_EVM_RPC", f"base-sepolia={sandbox.url}/v1/rpc/base-sepolia")
        code, lines, _ = machine.check("--upstream", sandbox.url, "--model", "sandbox-2")
        assert code == 1
        assert lines["model"].startswith("TO DO: ")
        assert "'sandbox-2' is none of them (did you mean sandbox-1?)" in lines["model"]
        code, lines, _ = machine.check("--upstream", sandbox.url, "--model", "sandbox-1")
        assert code == 0
        assert lines["model"].startswith("ok: sandbox-1 is one of the ")

    def test_a_gateway_that_is_down(self, machine: Machine, sandbox: Sandbox) -> None:
        machine.environ("BLOCKRUN_WALLET_KEY", EVM_KEY)
        machine.environ("X402_EVM_RPC", f"base-sepolia={sandbox.url}/v1/rpc/base-sepolia")
        options = ("--upstream", "http://127.0.0.1:1", "--set", "x402_networks=base-sepolia")
        code, lines, _ = machine.check(*options)
        assert code == 1
        assert lines["gateway"].startswith("TO DO: ")
        assert lines["balance"] == "ok: 1000 USDC on base-sepolia"
        assert lines["clock"].startswith("-: not checked")
        assert lines["quote"].startswith("-: not checked")
