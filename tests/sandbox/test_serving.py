"""HTTP as such: what is free, what is echoed, TLS, big bodies, the RPC, the records, the program."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.sandbox import FAULTS, Sandbox, SandboxConfig
from mitmproxy_x402.sandbox.work import blob
from support.chains.reference_payer import CHAT, PATH, Shopper
from support.running.certs import make

SOLANA = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
FREE = {**CHAT, "model": "sandbox-free"}


@pytest.fixture(scope="module")
def http(sandbox: Sandbox) -> Any:
    with httpx.Client(base_url=sandbox.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/api/v1/models", "/v1beta/models", "/api/v1/health"])
def test_free_paths(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


def test_free_models_say_that_they_are(http: httpx.Client) -> None:
    response = http.post(PATH, json=FREE)
    assert response.headers["x-free-model"] == "true"
    assert "x-free-model" not in http.get("/v1/models").headers
    assert "payment-response" not in response.headers


@pytest.mark.parametrize("path", ["/", "/v2/chat", "/api"])
def test_elsewhere_is_nothing(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404


def test_any_other_path_is_an_echo_for_money(start: Any) -> None:
    _, shopper = start()
    assert shopper.http.get("/v1/exa/search").status_code == 402
    echo = shopper.buy({"q": "café"}, path="/api/v1/exa/search").json()
    assert (echo["method"], echo["path"]) == ("POST", "/api/v1/exa/search")
    assert json.loads(base64.b64decode(echo["body"])) == {"q": "café"}


def test_the_echo_has_headers_as_they_came(sandbox: Sandbox) -> None:
    head = b"PUT /v1/free/echo?a=%20b&c HTTP/1.1\r\nHost: x\r\nX-B: 2\r\nx-a: 1\r\nX-B:  3 \r\nContent-Length: 3\r\n"
    with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(head + b"Connection: close\r\n\r\n\x00\xff\n")
        raw = b"".join(iter(lambda: connection.recv(65536), b""))
    answer, _, body = raw.partition(b"\r\n\r\n")
    echo = json.loads(body)
    assert echo["headers"][:4] == [["Host", "x"], ["X-B", "2"], ["x-a", "1"], ["X-B", "3"]]
    assert (echo["method"], echo["path"], echo["query"]) == ("PUT", "/v1/free/echo", "a=%20b&c")
    assert echo["sha256"] == hashlib.sha256(b"\x00\xff\n").hexdigest()
    assert b"\r\nX-Echo: one\r\nx-ECHO: two\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in answer


def test_big_bodies_both_ways(sandbox: Sandbox, http: httpx.Client) -> None:
    body = b"x" * 20_000_000
    echo = http.post("/v1/free/echo", content=body).json()
    assert (echo["length"], echo["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    response = http.get("/v1/free/blob?bytes=10000001")
    assert response.content == b"".join(blob(10_000_001))
    sent = sandbox.sent[response.headers["x-request-id"]]
    assert sent.sha256 == hashlib.sha256(response.content).hexdigest()
    with pytest.raises(ValueError, match="bytes are kept"):
        _ = sent.body
    assert http.get("/v1/free/blob?bytes=9&whole=1").headers["content-length"] == "9"
    assert http.get("/v1/free/blob?bytes=x").status_code == 400


@pytest.mark.parametrize("path", [PATH, "/v1/messages", "/api/v1/responses", "/v1beta/models/m:generateContent"])
def test_a_body_that_is_no_json_is_a_400_and_never_quoted(http: httpx.Client, path: str) -> None:
    for body in (b"", b"{", b"[]", b"{}", b"null"):
        assert http.post(path, content=body).status_code == 400


def test_methods_decide(http: httpx.Client) -> None:
    assert http.post("/v1/models").status_code == 402
    assert http.get(PATH).status_code == 402
    head = http.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")


def test_one_connection_serves_many_requests(start: Any) -> None:
    sandbox, shopper = start()
    shopper.buy()
    shopper.buy({**CHAT, "stream": True})
    assert sandbox.connections == 1
    assert [request.connection for request in sandbox.requests] == [1, 1, 1, 1]
    assert [request.get("x-payment") for request in sandbox.requests] == [None] * 4
    assert [request.get("payment-signature") is not None for request in sandbox.requests] == [False, True] * 2


def test_records_are_bounded() -> None:
    with (
        Sandbox(SandboxConfig(keep=3)).run_in_thread() as sandbox,
        httpx.Client(base_url=sandbox.url, timeout=30) as http,
    ):
        for _ in range(5):
            http.get("/health")
        assert [request.request_id[-1] for request in sandbox.requests] == ["3", "4", "5"]
        assert [request_id[-1] for request_id in sandbox.sent] == ["3", "4", "5"]


def test_the_solana_rpc(http: httpx.Client, sandbox: Sandbox) -> None:
    def call(method: str, *params: Any) -> Any:
        asked = {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}
        said = http.post("/api/v1/solana/rpc", json=asked).json()
        assert said["id"] == 7
        return said.get("result", said.get("error"))

    latest = call("getLatestBlockhash")["value"]["blockhash"]
    assert call("isBlockhashValid", latest)["value"] is True
    assert call("isBlockhashValid", "1" * 32)["value"] is False
    assert call("getHealth") == "ok"
    assert call("getGenesisHash") == SOLANA.partition(":")[2]
    mint = call("getAccountInfo", "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU", {"encoding": "base64"})["value"]
    assert len(base64.b64decode(mint["data"][0])) == 82
    assert call("getSignatureStatuses", ["1" * 64])["value"] == [None]
    assert call("nothing")["code"] == -32601
    assert call("isBlockhashValid")["code"] == -32602
    pay_to = sandbox.chain("solana-devnet").pay_to
    owned = call("getTokenAccountsByOwner", pay_to, {"mint": "x"}, {"encoding": "jsonParsed"})["value"][0]
    assert owned["account"]["data"]["parsed"]["info"]["tokenAmount"]["amount"] == "0"
    batch = http.post("/v1/solana/rpc", json=[{"id": 1, "method": "getSlot"}, 5]).json()
    assert [one["id"] for one in batch] == [1, None]
    assert http.post("/v1/solana/rpc", content=b"{").json()["error"]["code"] == -32700


def test_a_settled_transaction_has_a_status(start: Any) -> None:
    sandbox, shopper = start(SOLANA)
    shopper.buy()
    asked = {"id": 1, "method": "getSignatureStatuses", "params": [[sandbox.payments[0].transaction]]}
    statuses = shopper.http.post("/v1/solana/rpc", json=asked).json()["result"]["value"]
    assert statuses[0]["err"] is None


def test_tls(tmp_path: Path) -> None:
    pem = make(tmp_path)
    trusted = ssl.create_default_context(cafile=str(pem))
    with Sandbox(SandboxConfig(certfile=pem, keyfile=pem)).run_in_thread() as sandbox:
        assert sandbox.url.startswith("https://127.0.0.1:")
        with httpx.Client(base_url=sandbox.url, verify=trusted, timeout=30) as http:
            assert http.get("/health").status_code == 200
            challenge = http.post(PATH, json=CHAT).json()
            assert challenge["resource"]["url"] == sandbox.url + PATH


def test_it_runs_on_the_loop_of_its_caller() -> None:
    async def both() -> int:
        sandbox = Sandbox()
        with pytest.raises(SettingsError, match="not started"):
            _ = sandbox.url
        async with sandbox, httpx.AsyncClient(base_url=sandbox.url, timeout=30) as http:
            return (await http.get("/health")).status_code

    assert asyncio.run(both()) == 200


def test_a_taken_port_is_an_error_where_it_was_started(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rpartition(":")[2])
    second = Sandbox(SandboxConfig(port=port))
    with pytest.raises(OSError, match="in use"), second.run_in_thread():
        pass


def test_a_network_that_is_off_has_no_balance(sandbox: Sandbox) -> None:
    with pytest.raises(SettingsError, match="is not offered"):
        sandbox.balance("base", "0x" + "0" * 40)


def test_it_loads_solders_only_for_solana_and_nothing_of_the_payer_ever() -> None:
    code = (
        "import sys, mitmproxy_x402.sandbox as s; s.Sandbox(); print('solders' in sys.modules);"
        "s.Sandbox(s.SandboxConfig(networks=('solana-devnet',))); print('solders' in sys.modules);"
        "print(*sorted({m.split('.')[1] for m in sys.modules if m.startswith('mitmproxy_x402.')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:3] == ["False", "True", "errors protocol quick_init sandbox"]


def test_stopping_in_the_middle_of_a_stream_leaves_nothing_behind() -> None:
    before = threading.enumerate()
    sandbox = Sandbox(SandboxConfig(fault="stall-after;after=1"))
    with sandbox.run_in_thread(), httpx.Client(base_url=sandbox.url, timeout=30) as http:
        stalled = http.send(http.build_request("POST", PATH, json={**FREE, "stream": True}), stream=True)
        assert stalled.status_code == 200
    stalled.close()
    assert threading.enumerate() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_prints_its_url_and_ends_cleanly(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "mitmproxy_x402.sandbox", "--port", "0", "--json", "--networks", "base-sepolia"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        said = json.loads(program.stdout.readline())
        with Shopper(said["url"]) as shopper:
            assert shopper.buy().status_code == 200
        program.send_signal(number)
        out, err = program.communicate(timeout=20)
        assert (program.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--networks", "tron"], "'tron' is unknown"),
        (["--host", "0.0.0.0"], "loopback"),
        (["--fault", "explode"], "'explode' is unknown"),
        (["--balance", "much"], "--balance"),
        (["--certfile", "/nowhere", "--keyfile", "/nowhere", "--port", "0"], "cannot listen"),
    ],
)
def test_the_program_says_in_one_line_what_is_wrong(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "mitmproxy_x402.sandbox", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_the_help_lists_every_fault() -> None:
    command = [sys.executable, "-m", "mitmproxy_x402.sandbox", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert all(f"  {name}" in done.stdout for name in FAULTS)
