"""Limits, budgets and allow lists at the running proxy: what the client is told, and that nothing was signed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support import changer, effort
from support.changer import set_options
from support.ledger.ledgers import locked
from support.place import Place, place
from support.proxy import EVM_ADDRESS, EVM_KEY, Proxy
from support.wire import free_port

BODY = {"model": "sandbox-1", "messages": [{"role": "user", "content": "hello"}]}


def refusal(shop: Place, body: Any = BODY, path: str = "/v1/chat/completions") -> tuple[str, str]:
    """Code and message; and the client was told not to repeat, and the gateway saw no payment."""
    before = len(shop.sandbox.payments)
    answer = shop.post(body, path=path)
    assert answer.status_code == 400
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    assert error["type"] == "x402_refused"
    assert len(shop.sandbox.payments) == before
    return error["code"], error["message"]


@pytest.fixture(scope="module")
def cost() -> int:
    """What BODY costs, in millionths of a dollar, when it is as long as `Place.post` makes it."""
    with Sandbox(SandboxConfig()).run_in_thread() as sandbox:
        challenge = httpx.post(f"{sandbox.url}/v1/chat/completions", content=json.dumps(BODY).encode(), timeout=30)
    return int(challenge.json()["accepts"][0]["amount"])


def usd(micro: int) -> str:
    return f"{micro / 1e6:.6f}"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A proxy that never pays, since each test sets an option that forbids it."""
    home = tmp_path_factory.mktemp("home")
    with place(home, *changer.script(home)) as shop:
        yield shop


FREE = "/v1/models"


@pytest.mark.parametrize(
    ("option", "code"),
    [
        ("x402_max_request=0.000001", "over_request_limit"),
        ("x402_allow_pay_to=0x00000000000000000000000000000000000000aa", "pay_to_not_allowed"),
        ("x402_allow_networks=base", "network_not_allowed"),
        ("x402_allow_assets=EURC", "asset_not_allowed"),
        ("x402_allow_hosts=sol.blockrun.ai", "upstream_not_allowed"),
        ("x402_budget=0", "over_budget"),
        ("x402_dry_run=true", "dry_run"),
    ],
)
def test_refuses_and_names_the_option(strict: Place, option: str, code: str) -> None:
    name = option.partition("=")[0]
    assert set_options(strict.proxy, option, path=FREE) == "taken"
    try:
        seen = len(strict.sandbox.requests)
        found, message = refusal(strict)
        assert found == code
        assert name in message
        assert "Nothing was" in message
        assert strict.rows() == []
        client = openai.OpenAI(base_url=f"{strict.proxy.url}/v1", api_key="any")
        with client, pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**BODY)  # type: ignore[call-overload]
        assert caught.value.code == code
        assert [r.get("payment-signature") for r in strict.sandbox.requests[seen:]] == [None, None]
    finally:
        assert set_options(strict.proxy, f"{name}=", path=FREE) == "taken"


def test_a_dry_run_needs_no_wallet_and_says_what_would_be_paid(home: Path) -> None:
    with Sandbox(SandboxConfig()).run_in_thread() as sandbox:
        with Proxy(sandbox.url, "--set", "x402_dry_run=true", home=home, keys={}) as proxy:
            answer = httpx.post(f"{proxy.url}/v1/chat/completions", json=BODY, timeout=30)
        message = answer.json()["error"]["message"]
        assert "on base-sepolia" in message
        assert sandbox.chain("base-sepolia").pay_to in message
        assert "POST /v1/chat/completions (sandbox-1)" in message


def test_what_is_allowed_is_paid(home: Path) -> None:
    address = Sandbox(SandboxConfig()).chain("base-sepolia").pay_to
    options = (
        f"x402_allow_pay_to={address.upper().replace('0X', '0x')}",
        "x402_allow_networks=eip155:84532",
        "x402_allow_assets=usdc",
        "x402_allow_hosts=127.0.0.1",
    )
    with place(home, *(part for option in options for part in ("--set", option))) as shop:
        assert shop.post(BODY).status_code == 200


def test_a_budget_lets_exactly_so_many_pass(home: Path, cost: int) -> None:
    with place(home, "--set", f"x402_budget={usd(cost * 3 + cost // 2)}/hour, 5/month") as shop:
        with ThreadPoolExecutor(10) as pool:
            statuses = list(pool.map(lambda _: shop.post(BODY).status_code, range(20)))
        assert sorted(statuses) == [200] * 3 + [400] * 17
        code, message = refusal(shop)
        assert code == "over_budget"
        assert "Raise x402_budget, or wait until 20" in message
        assert "(in 1 h)" in message or "min)" in message
        assert len(shop.sandbox.settled) == 3


def test_two_proxies_with_one_ledger_pay_for_exactly_so_many(home: Path, cost: int) -> None:
    many = 10
    budget = ("--set", f"x402_budget={usd(cost * many)}")
    with Sandbox(SandboxConfig()).run_in_thread() as sandbox:
        with Proxy(sandbox.url, *budget, home=home) as one, Proxy(sandbox.url, *budget, home=home) as two:
            urls = [f"{proxy.url}/v1/chat/completions" for proxy in (one, two)] * (5 * many)
            with ThreadPoolExecutor(40) as pool:
                statuses = list(pool.map(lambda url: httpx.post(url, json=BODY, timeout=30).status_code, urls))
        assert len(sandbox.settled) == many
        assert sorted(statuses) == [200] * many + [400] * (9 * many)


def test_limits_for_a_model_and_a_path(home: Path, cost: int) -> None:
    (home / "x402.toml").write_text(
        f"""
        [[limit]]
        model = "sandbox-*"
        budget = "{usd(cost * 2)}/day"
        [[limit]]
        path = "/v1/echo"
        max_request = "0.000001"
        """
    )
    other = {**BODY, "model": "box-12345"}
    with place(home) as shop:
        assert [shop.post(BODY).status_code for _ in range(3)] == [200, 200, 400]
        assert "for model sandbox-*" in refusal(shop)[1]
        assert shop.post(other).status_code == 200
        assert refusal(shop, BODY, "/api/v1/echo")[0] == "over_request_limit"


@pytest.mark.parametrize("network", ["base-sepolia", "solana-devnet"])
def test_a_ledger_that_cannot_be_written_stops_all_payments(home: Path, network: str) -> None:
    with place(home, network=network) as shop:
        assert shop.post(BODY).status_code == 200
        with locked(shop.proxy.ledger):
            code, message = refusal(shop)
            assert code == "ledger_unavailable"
            assert "x402_ledger" in message
        assert shop.post(BODY).status_code == 200


def test_a_ledger_that_cannot_be_opened_stops_the_start(home: Path) -> None:
    with Proxy("http://127.0.0.1:9", "--set", "x402_ledger=/dev/null/x", home=home, expect_listen=False) as proxy:
        proxy.wait_for("The ledger /dev/null/x cannot be used")
        assert proxy.wait_for_end() != 0


def test_a_killed_proxy_leaves_its_payments_counted(home: Path, cost: int) -> None:
    """Killed while the gateway is at work on three payments, which it then settles."""
    with Sandbox(SandboxConfig(settle="before")).run_in_thread() as sandbox:
        with Proxy(sandbox.url, home=home) as proxy:
            shop = Place(home, sandbox, proxy)
            with ThreadPoolExecutor(3) as pool:
                waiting = [pool.submit(shop.post, BODY, "stall") for _ in range(3)]
                shop.wait_for_payments(3)
                os.kill(proxy.process.pid, signal.SIGKILL)
                assert all(isinstance(future.exception(20), httpx.TransportError) for future in waiting)
        assert shop.rows() == [("sent", 1)] * 3
        with Proxy(sandbox.url, "--set", f"x402_budget={usd(cost * 4)}", home=home) as proxy:
            again = Place(home, sandbox, proxy)
            assert again.rows() == [("unknown", 1)] * 3
            assert [again.post({**BODY, "n": n}).status_code for n in range(2)][1] == 400


def test_a_row_has_what_an_account_needs(home: Path) -> None:
    with place(home) as shop:
        answer = shop.post(BODY, path="/api/v1/chat/completions?secret=yes")
        columns = "method, host, path, model, network, pay_to, status, transaction_id, request_id, bytes, amount, state"
        shop.expect(0, [("settled", 1)])
        row = shop.rows(columns)[0]
        payment = shop.sandbox.settled[0]
        assert row == (
            *("POST", "127.0.0.1", "/api/v1/chat/completions", "sandbox-1", payment.network, payment.pay_to, 200),
            *(payment.transaction, answer.headers["x-request-id"], len(answer.content), str(payment.amount), "settled"),
        )
        ((first, total),) = shop.rows("first_byte_ms, total_ms")
        assert 0 <= first <= total
        line = shop.proxy.wait_for("x402: payment of")
        for part in ("base-sepolia", "(sandbox-1): paid", payment.transaction, "left: ", "of 10/day"):
            assert part in line


def test_nothing_secret_stays_behind(home: Path) -> None:
    """Logs, the ledger, mitmproxy's saved flows: no key, no payment header, no token, no query."""
    token = "a-client-token-that-is-secret"
    saved = home / "flows.mitm"
    options = ("-w", str(saved), "--set", f"x402_client_token={token}", "--flow-detail", "4")
    with place(home, *options) as shop:
        for fault in ("gzip", "error;n=1;settle=no", "drop;n=1", "reject;code=PAYMENT_UNDERPAID;n=1", "cut;settle=yes"):
            for _ in range(2):
                headers = {"authorization": f"Bearer {token}", "x-sandbox-fault": fault}
                url = f"{shop.proxy.url}/v1/chat/completions?key={token}"
                with contextlib.suppress(httpx.TransportError):
                    httpx.post(url, json={**BODY, "user": fault}, headers=headers, timeout=30)
        shop.proxy.process.send_signal(signal.SIGTERM)
        shop.proxy.process.wait(10)
        log = shop.proxy.log
        sent = {r.get("payment-signature") for r in shop.sandbox.requests} - {None}
        left = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    assert len(sent) >= 5
    assert saved in left
    everything = b"".join(left.values()) + log.encode()
    assert EVM_ADDRESS.encode() in everything
    for header in sent:
        assert header is not None
        assert header.encode() not in everything
        signature = json.loads(base64.b64decode(header))["payload"]["signature"]
        assert signature[2:].encode() not in everything.lower()
    assert EVM_KEY[2:].encode() not in everything.replace(b" ", b"")
    assert token.encode() not in everything


def test_the_file_is_closed_in_an_orderly_end(home: Path) -> None:
    ledger = home / "ledger" / "ledger.sqlite3"
    with place(home, "--set", f"x402_ledger={ledger}") as shop:
        assert shop.post(BODY).status_code == 200
    assert [file.name for file in ledger.parent.iterdir()] == ["ledger.sqlite3"]
    assert (
        subprocess.run(["stat", "-c", "%a", str(ledger)], capture_output=True, text=True, check=True).stdout == "600\n"
    )


@pytest.mark.parametrize("seed", effort.chosen(range(4), 0))
def test_killed_at_any_moment_nothing_settled_is_missing(home: Path, seed: int) -> None:
    """Two proxies with one ledger are killed, one after the other, in the midst of requests that go all ways."""
    chance = random.Random(seed)
    faults = ["", "error;settle=yes", "drop;settle=yes", "stall;settle=yes", "slow-head;seconds=0.1", "cut;settle=yes"]

    def one(url: str) -> None:
        for number in range(30):
            headers = {"x-sandbox-fault": fault} if (fault := chance.choice(faults)) else {}
            with contextlib.suppress(httpx.TransportError):
                httpx.post(url, json={**BODY, "n": number % 5}, headers=headers, timeout=0.5)

    with Sandbox(SandboxConfig()).run_in_thread() as sandbox:
        with Proxy(sandbox.url, home=home) as first, Proxy(sandbox.url, home=home) as second:
            with ThreadPoolExecutor(6) as pool:
                for _ in range(3):
                    for proxy in (first, second):
                        pool.submit(one, f"{proxy.url}/v1/chat/completions")
                for proxy in (first, second):
                    threading.Event().wait(chance.uniform(0.05, 1.5))
                    os.kill(proxy.process.pid, signal.SIGKILL)
        with Proxy(sandbox.url, home=home) as proxy:
            rows = dict(Place(home, sandbox, proxy).rows("reference, state"))
    assert {payment.reference for payment in sandbox.payments} <= set(rows)
    assert {rows[payment.reference] for payment in sandbox.settled} <= {"settled", "unknown"}
    assert "reserved" not in rows.values()
    assert "sent" not in rows.values()


def test_the_start_does_not_ask_a_dry_run_for_a_wallet(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    for name in ("BLOCKRUN_WALLET_KEY", "BASE_CHAIN_WALLET_KEY", "SOLANA_WALLET_KEY"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "mitmproxy_x402", "serve", "-p", str(free_port())]
    with Sandbox(SandboxConfig()).run_in_thread() as sandbox:
        command += ["--upstream", sandbox.url, "--set", "x402_dry_run=true"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            assert any("x402: dry run: nothing is signed" in line for line in lines)
            process.terminate()
            process.stdout.read()
