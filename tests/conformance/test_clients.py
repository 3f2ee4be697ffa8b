"""The vendors' own SDKs, each in a process of its own, through the real proxy: they get what the gateway meant.

Client, byte tap, proxy and sandbox stand in a row. What an SDK assembled is compared with what the sandbox meant, what
the tap saw with what the sandbox sent, what was paid with what was quoted.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from clients.tap import Tap

from mitmproxy_x402.sandbox import ReceivedRequest, Sandbox, SandboxConfig, Sent
from mitmproxy_x402.sandbox.answers import Meaning, meaning
from support.proxy import EVM_KEY, Proxy, svm_key
from support.wire import Message, free_port

CALLS = Path(__file__).parent / "clients" / "calls.py"
BASE, SOLANA = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
KEYS: dict[str, Callable[[], dict[str, str]]] = {
    BASE: lambda: {"BLOCKRUN_WALLET_KEY": EVM_KEY},
    SOLANA: lambda: {"SOLANA_WALLET_KEY": svm_key()},
}
ONE, TWO, MIXED, FREE = "sandbox-1", "sandbox-parallel", "sandbox-interleaved", "sandbox-free"
GZIP, CUT_UP = {"x-sandbox-fault": "gzip"}, {"x-sandbox-fault": "split;bytes=7"}


def call(name: str, kind: str, model: str = ONE, tools: int = 0, *, stream: bool = False, **more: Any) -> Any:
    return {"name": name, "kind": kind, "model": model, "tools": tools, "stream": stream, **more}


def dialect(kind: str) -> list[Any]:
    """What every vendor's SDK is asked to do, in one of its dialects."""
    return [
        call(f"{kind}, text", kind),
        call(f"{kind}, tool", kind, tools=1),
        call(f"{kind}, two tools", kind, TWO, 2),
        call(f"{kind}, streamed text", kind, stream=True),
        call(f"{kind}, streamed tool", kind, tools=1, stream=True),
        call(f"{kind}, two streamed tools", kind, TWO, 2, stream=True),
        call(f"{kind}, gzip", kind, headers=GZIP),
        call(f"{kind}, streamed gzip", kind, TWO, 2, stream=True, headers=GZIP),
        call(f"{kind}, cut up", kind, TWO, 2, stream=True, headers=CUT_UP),
        call(f"{kind}, free", kind, FREE, 1, stream=True),
        call(f"{kind}, async text", kind, together=True),
        call(f"{kind}, async two tools", kind, TWO, 2, together=True),
        call(f"{kind}, async stream", kind, stream=True, together=True),
        call(f"{kind}, async streamed tools", kind, TWO, 2, stream=True, together=True),
    ]


ASKED: dict[str, list[Any]] = {
    "openai": [
        *dialect("chat"),
        call("chat, put together by hand", "chat", TWO, 2, stream=True, raw=True),
        # By hand only: the SDK's own stream helper takes the next index for the end of a call.
        call("chat, mixed tools", "chat", MIXED, 2, stream=True, raw=True),
        *dialect("responses"),
    ],
    "anthropic": dialect("messages"),
    "google": [call("text", "gemini"), call("two streamed tools", "gemini", TWO, 2, stream=True)],
}
for _vendor, _calls in ASKED.items():
    for _number, _call in enumerate(_calls, 1):
        _call["text"] = f"This is the call {_vendor}/{_call['name']}."
        _call["max_tokens"] = 1000 * _number + len(_vendor)  # so that no two calls cost the same


RunClients = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run_clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunClients]:
    """Has jobs done by the SDKs, in one process for all, since their imports take it some seconds."""
    home = tmp_path_factory.mktemp("clients")
    with subprocess.Popen(
        [sys.executable, str(CALLS)],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def run(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            print(json.dumps(jobs), file=requests, flush=True)
            line = answers.readline()
            assert line, "the clients have ended; their errors are above"
            return list(json.loads(line))

        yield run
        requests.close()
        assert process.wait(60) == 0


class Row:
    """Client, tap, proxy and sandbox, after every call has been made."""

    def __init__(self, network: str, sandbox: Sandbox, tap: Tap, run_clients: RunClients) -> None:
        self.network, self.sandbox = network, sandbox
        vendors = [vendor for vendor in ASKED if vendor != "google" or network == BASE]
        jobs = [{"vendor": vendor, "url": tap.url, "retries": 2, "calls": ASKED[vendor]} for vendor in vendors]
        self.got = dict(zip(vendors, run_clients(jobs), strict=True))
        self._answered = {message.get(b"x-request-id"): message for message in tap.answered}

    def requests(self, text: str) -> list[ReceivedRequest]:
        return [request for request in self.sandbox.requests if text.encode() in request.body]

    def sent(self, request: ReceivedRequest) -> Sent:
        return self.sandbox.sent[request.request_id]

    def answered(self, request: ReceivedRequest) -> Message:
        """What the client got for `request`."""
        return self._answered[request.request_id.encode()]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, run_clients: RunClients) -> Callable[[str], Row]:
    """The row for a network, set up when the first test asks for it."""
    made: dict[str, Row] = {}

    def make(network: str) -> Row:
        home = tmp_path_factory.mktemp("home")
        config = SandboxConfig(networks=("base-sepolia", "solana-devnet"), shuffle=1)
        with (
            Sandbox(config).run_in_thread() as sandbox,
            Proxy(sandbox.url, home=home, keys=KEYS[network]()) as proxy,
            Tap(proxy.port) as tap,
        ):
            return Row(network, sandbox, tap, run_clients)

    def get(network: str) -> Row:
        if network not in made:
            made[network] = make(network)
        return made[network]

    return get


def each(*, free: bool) -> Any:
    """Every call on both chains; Google's on one."""
    found = [
        pytest.param(network, vendor, one, id=f"{network.partition(':')[0]}-{vendor}-{one['name']}")
        for network in (BASE, SOLANA)
        for vendor, calls in ASKED.items()
        for one in calls
        if (vendor != "google" or network == BASE) and (free or one["model"] != FREE)
    ]
    return pytest.mark.parametrize(("network", "vendor", "one"), found)


@each(free=True)
def test_the_sdk_assembles_what_the_sandbox_meant(rows: Any, network: str, vendor: str, one: Any) -> None:
    row: Row = rows(network)
    request = row.requests(one["text"])[-1]
    assert row.got[vendor][one["name"]] == expected(one, request)


def expected(one: Any, request: ReceivedRequest) -> dict[str, Any]:
    kind = one["kind"]
    model = unquote(request.path.rpartition("/")[2].partition(":")[0]) if kind == "gemini" else ""
    said = meaning(request.json, model)
    assert len(said.tool_calls) == one["tools"], "the sandbox meant to say something else than this test wants to hear"
    head, end = {
        "chat": ("chatcmpl-", "tool_calls" if one["tools"] else "stop"),
        "responses": ("resp_", "completed"),
        "messages": ("msg_", "tool_use" if one["tools"] else "end_turn"),
        "gemini": ("", "STOP"),
    }[kind]
    return {
        "id": head + said.seed,
        "model": one["model"],
        "text": said.text,
        "calls": expected_calls(kind, said),
        "end": end,
        "used": None if one.get("raw") else [said.input_tokens, said.output_tokens],
    }


def expected_calls(kind: str, said: Meaning) -> list[Any]:
    if kind == "gemini":
        return [[one.name, one.parsed()] for one in said.tool_calls]
    if kind == "messages":
        return [[one.id("toolu_"), one.name, one.parsed()] for one in said.tool_calls]
    return [[one.id("call_"), one.name, one.arguments] for one in said.tool_calls]


@each(free=True)
def test_the_client_gets_the_bytes_that_the_sandbox_sent(rows: Any, network: str, vendor: str, one: Any) -> None:
    row: Row = rows(network)
    request = row.requests(one["text"])[-1]
    sent, got = row.sent(request), row.answered(request)
    assert (got.status, got.body) == (sent.status, sent.body)
    assert sent.complete
    framing = (b"transfer-encoding", b"connection")
    headers = [(name.decode(), value.decode()) for name, value in got.fields if name.lower() not in framing]
    assert headers == list(sent.headers)
    if got.chunks:
        # No chunk was held back or put together with the next; where a read ends inside of one, it may come in two.
        # After two thousand tiny ones that arrive at once, the rest may be joined (`proxy.http1.Chunks`).
        assert ends(sent.chunks[:2000]) <= ends(got.chunks)


def ends(chunks: list[bytes]) -> set[int]:
    return set(accumulate(map(len, chunks)))


@each(free=False)
def test_each_call_is_paid_once_at_the_quoted_price(rows: Any, network: str, vendor: str, one: Any) -> None:
    row: Row = rows(network)
    unpaid, paid = row.requests(one["text"])
    assert (unpaid.target, unpaid.body) == (paid.target, paid.body)
    added = ("payment-signature",)
    assert [(name, value) for name, value in paid.headers if name.lower() not in added] == list(unpaid.headers)
    assert not {"authorization", "x-api-key", "x-goog-api-key"} & {name.lower() for name, _ in paid.headers}
    quoted = quote(row.sent(unpaid), network)
    payment, *more = [payment for payment in row.sandbox.payments if payment.amount == quoted]
    assert not more
    assert (payment.network, payment.state, payment.attempts) == (network, "settled", 1)


def quote(sent: Sent, network: str) -> int:
    """What the challenge asked for an `exact` payment on `network`."""
    assert sent.status == 402
    header = next(value for name, value in sent.headers if name == "PAYMENT-REQUIRED")
    accepts = json.loads(base64.b64decode(header))["accepts"]
    (amount,) = [entry["amount"] for entry in accepts if (entry["scheme"], entry["network"]) == ("exact", network)]
    return int(amount)


@pytest.mark.parametrize("network", [BASE, SOLANA], ids=["eip155", "solana"])
def test_the_books_add_up(rows: Any, network: str) -> None:
    row: Row = rows(network)
    calls = [one for vendor in row.got for one in ASKED[vendor]]
    free = sum(one["model"] == FREE for one in calls)
    assert len(row.sandbox.requests) == 2 * (len(calls) - free) + free
    payments = row.sandbox.payments
    assert len(payments) == len(row.sandbox.settled) == len(calls) - free
    (payer,) = {payment.payer for payment in payments}
    spent = sum(payment.amount for payment in payments)
    assert row.sandbox.balance(network, payer) == row.sandbox.config.opening_balance - spent
    assert len({payment.reference for payment in payments}) == len(payments)


# What goes wrong.


class Case:
    """One way to fail, and what the client has to learn of it: the SDK's exception, its status, its words."""

    def __init__(
        self,
        error: str,
        status: int,
        *says: str,
        sent_up: int,
        asks: int = 1,
        retries: int = 2,
        fault: str = "",
        **proxy: Any,
    ) -> None:
        self.error, self.status, self.says, self.sent_up = error, status, says, sent_up
        self.asks, self.retries, self.fault = asks, retries, fault
        self.options: tuple[str, ...] = proxy.get("options", ())
        self.keys: dict[str, str] | None = proxy.get("keys")
        self.reachable: bool = proxy.get("reachable", True)


CASES = {
    "over the limit": Case(
        "BadRequestError",
        400,
        "x402_max_request",
        "0.0001 USDC",
        "Nothing was paid",
        sent_up=1,
        options=("--set", "x402_max_request=0.0001"),
    ),
    "no wallet": Case(
        "BadRequestError",
        400,
        "BLOCKRUN_WALLET_KEY",
        "SOLANA_WALLET_KEY",
        "base-sepolia",
        "solana-devnet",
        "Nothing was paid",
        sent_up=1,
        keys={},
    ),
    "unreachable": Case(
        "InternalServerError",
        502,
        "The upstream 127.0.0.1:",
        "could not be reached: connection refused",
        "Nothing was paid",
        sent_up=0,
        retries=0,
        reachable=False,
    ),
    # The gateway's own answer, which passes as it is: what a vendor's SDK makes of a 402 is its own affair.
    "rejected": Case("", 402, sent_up=2, fault="reject"),
    # Unpaid, paid, and the same payment once more; then, each time that the SDK asks again, that same payment.
    "outcome unknown": Case(
        "InternalServerError", 502, "after a payment of 0.001", "is unknown", sent_up=5, asks=3, fault="drop"
    ),
}
FAILING = {
    "openai": [
        call("chat", "chat", ONE, 1),
        call("chat stream", "chat", ONE, 1, stream=True),
        call("responses", "responses"),
        call("async chat", "chat", stream=True, together=True),
    ],
    "anthropic": [
        call("messages", "messages", ONE, 1),
        call("messages stream", "messages", ONE, 1, stream=True),
        call("async messages", "messages", together=True),
    ],
}


class Failures:
    def __init__(self) -> None:
        self.got: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: dict[str, list[Message]] = {}
        self.sandboxes: dict[str, Sandbox] = {}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory, run_clients: RunClients) -> Failures:
    """Every case with every call, already over: a sandbox, a proxy and a tap for each case."""
    home = tmp_path_factory.mktemp("home")
    found, taps, jobs = Failures(), {}, []
    with ExitStack() as running:
        for name, case in CASES.items():
            sandbox = Sandbox(SandboxConfig(networks=("base-sepolia", "solana-devnet")))
            found.sandboxes[name] = running.enter_context(sandbox.run_in_thread())
            upstream = sandbox.url if case.reachable else f"http://127.0.0.1:{free_port()}"
            proxy = running.enter_context(Proxy(upstream, *case.options, home=home, keys=case.keys))
            taps[name] = running.enter_context(Tap(proxy.port))
            for vendor, calls in FAILING.items():
                more = {"headers": {"x-sandbox-fault": case.fault} if case.fault else {}, "max_tokens": 100}
                asked = [{**one, **more, "text": f"This is {vendor}/{one['name']}."} for one in calls]
                jobs.append({"vendor": vendor, "url": taps[name].url, "retries": case.retries, "calls": asked})
        answers = iter(run_clients(jobs))
        for name in CASES:
            for vendor in FAILING:
                found.got[name, vendor] = next(answers)
    found.asked = {name: tap.asked for name, tap in taps.items()}
    return found


@pytest.mark.parametrize("vendor", FAILING)
@pytest.mark.parametrize("name", CASES)
def test_the_sdk_raises_its_own_error_with_our_words(failures: Failures, name: str, vendor: str) -> None:
    case = CASES[name]
    for one in FAILING[vendor]:
        got = failures.got[name, vendor][one["name"]]
        assert (case.error or got["error"], case.status) == (got["error"], got["status"]), got
        assert got["module"].partition(".")[0] == vendor
        assert [words for words in case.says if words not in got["message"]] == [], got["message"]


@pytest.mark.parametrize("name", CASES)
def test_an_sdk_asks_again_only_where_that_costs_nothing(failures: Failures, name: str) -> None:
    calls = sum(map(len, FAILING.values()))
    sandbox = failures.sandboxes[name]
    assert len(failures.asked[name]) == CASES[name].asks * calls
    assert len(sandbox.requests) == CASES[name].sent_up * calls


def test_a_payment_whose_outcome_is_unknown_is_the_only_one(failures: Failures) -> None:
    calls = sum(map(len, FAILING.values()))
    sandbox = failures.sandboxes["outcome unknown"]
    assert len(sandbox.payments) == calls
    signatures = [value for request in sandbox.requests if (value := request.get("payment-signature"))]
    assert (len(signatures), len(set(signatures))) == (4 * calls, calls)
    assert len(sandbox.settled) <= calls


@pytest.mark.parametrize("name", ["over the limit", "no wallet", "unreachable", "rejected"])
def test_nothing_is_paid_where_the_message_says_so(failures: Failures, name: str) -> None:
    assert not failures.sandboxes[name].payments
