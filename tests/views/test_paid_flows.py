"""What mitmweb shows of payments: comment, mark and filters, of real flows with a sandbox."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.sandbox.answers import EMPTY, FREE
from support.proxy import ROOT
from support.showing.mitmweb import Web, length
from support.showing.viewers import USAGE, ask


@pytest.fixture(scope="module")
def one_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A screen before a sandbox whose streams say what was settled."""
    with Sandbox(SandboxConfig(settle="before")).run_in_thread() as sandbox:
        with Web(sandbox.url, home=tmp_path_factory.mktemp("home")) as proxy:
            yield proxy
            assert "Traceback" not in proxy.log


@pytest.fixture
def shop(one_shop: Web) -> Web:
    one_shop.clear()
    return one_shop


def test_a_paid_stream(shop: Web) -> None:
    assert ask(shop, USAGE).status_code == 200
    flow = shop.wait_for_flow(lambda flow: "tok" in flow["comment"])
    assert re.fullmatch(
        r"paid 0\.001\d* USDC base-sepolia 0x[0-9a-f]{6}… · 1 tool call · \d+ tok · first byte (\d+ ms|[\d.]+ s)",
        flow["comment"],
    )
    assert flow["marked"] == "🟢"
    assert "tool call 1: forecast" in shop.view(flow)
    assert "paid\nto 0x" in shop.view(flow)
    assert "umbrella" in shop.view(flow, message="request")
    assert "-> exact on base-sepolia: 0.001" in shop.view(flow, "x402")
    assert shop.view(flow, "raw").count("data: ") > 10


def test_while_it_streams(shop: Web) -> None:
    """The comment has what is known, the view what has come; both get complete by themselves."""
    started: list[httpx.Response] = []
    client = threading.Thread(target=lambda: started.append(ask(shop, USAGE, "slow-chunks;seconds=0.07")))
    client.start()
    flow = shop.wait_for_flow(lambda flow: flow["comment"].startswith("sent 0.0014 USDC base-sepolia · first byte"))
    assert flow["marked"] == ""
    shop.wait_for_flow(lambda flow: length(flow) and "not finished" in shop.view(flow))
    client.join()
    flow = shop.wait_for_flow(lambda flow: "paid" in flow["comment"] and "tool call" in flow["comment"])
    assert shop.content(flow) == started[0].content


@pytest.mark.parametrize(
    ("more", "fault", "comment", "mark"),
    [
        ({}, "receipt", r"sent 0\.001\d* USDC base-sepolia, not confirmed yet · 1 tool call · \d+ tok · .*", "🟡"),
        ({"max_tokens": 500_000}, "", r"refused over_request_limit: asked 2\.50\d* USDC on base-sepolia", "⛔"),
        ({}, "reject;code=PAYMENT_UNDERPAID", r"rejected 0\.001\d* USDC base-sepolia.*", "🟠"),
        ({"model": FREE}, "", r"free · 1 tool call · \d+ tok · first byte .*", ""),
        ({"stream": False}, "gzip", r"paid 0\.001\d* USDC .* · 1 tool call · \d+ tok · .*", "🟢"),
        ({}, "gzip", r"paid 0\.001\d* USDC .* · 1 tool call · \d+ tok · .*", "🟢"),
        ({}, "cut", r"paid 0\.001\d* USDC base-sepolia .* · first byte .* · interrupted", "🟢"),
        ({}, "cut;after=6", r"paid .* · 1 tool call, 1 broken · first byte .* · interrupted", "🟢"),
        ({"model": EMPTY}, "", r"paid .* · 1 tool call, 1 broken · \d+ tok · first byte .*", "🟢"),
    ],
)  # fmt: skip
def test_what_became_of_it(shop: Web, more: dict[str, Any], fault: str, comment: str, mark: str) -> None:
    with contextlib.suppress(httpx.RemoteProtocolError):
        ask(shop, {**USAGE, **more, "user": fault}, fault)
    flow = shop.wait_for_flow(lambda flow: re.fullmatch(comment, flow["comment"]), f"as {comment}")
    assert flow["marked"] == mark


def test_a_refusal_shows_the_handshake(shop: Web) -> None:
    ask(shop, {**USAGE, "max_tokens": 600_000})
    flow = shop.wait_for_flow(lambda flow: flow["comment"].startswith("refused over_request_limit: asked 3"))
    text = shop.view(flow)
    assert text.startswith("refused over_request_limit: asked 3.0")
    assert "The client got 400:" in text
    assert "exact on base-sepolia: 3.0" in text


def test_what_the_guard_refuses(shop: Web) -> None:
    answer = httpx.post(
        shop.url + "/v1/chat/completions", json=USAGE, headers={"origin": "https://evil.example"}, timeout=30
    )
    flow = shop.wait_for_flow(lambda flow: flow["comment"] == "refused origin_not_allowed")
    assert flow["marked"] == "⛔"
    assert " ".join(answer.json()["error"]["message"].split()) in " ".join(shop.view(flow).split())


def test_what_a_user_writes_stays(shop: Web) -> None:
    client = threading.Thread(target=lambda: ask(shop, {**USAGE, "user": "two"}, "slow-chunks;seconds=0.07"))
    client.start()
    flow = shop.wait_for_flow(lambda flow: flow["comment"].startswith("sent "))
    shop.api(f"flows/{flow['id']}", "PUT", {"comment": "mine", "marked": ":cat:"})
    client.join()
    ask(shop, {**USAGE, "user": "three"})
    shop.wait_for_flow(lambda flow: "tool call" in flow["comment"])  # read after the other one was
    (after,) = [each for each in shop.flows() if each["id"] == flow["id"]]
    assert (after["comment"], after["marked"]) == ("mine", "🐱")


FILTERS = {
    "~comment ^sent": 1,
    "~comment ^refused": 1,
    "~comment ^free": 2,
    "~comment tool.call": 3,
    "~comment broken": 1,
    "~marked & ! ~comment ^refused & ! ~c 200": 1,
    "~bs forecast": 3,
    "~marked": 3,
    "~marker green_circle": 1,
    "~meta x402.state:.unknown": 1,
    "~meta x402.refused:.over": 1,
    "~meta x402.transaction & ! ~c 200": 1,
    "! ~meta x402.state": 2,
}


def test_filters(shop: Web) -> None:
    ask(shop, {**USAGE, "user": "a"}, "error")
    ask(shop, {**USAGE, "user": "b"}, "receipt")
    ask(shop, {**USAGE, "max_tokens": 700_000})
    ask(shop, {**USAGE, "model": FREE})
    ask(shop, {**USAGE, "model": FREE}, "fail-after;after=6")
    shop.wait_for_flow(lambda flow: "1 tool call, 1 broken" in flow["comment"])
    assert {expression: len(shop.matching(expression)) for expression in FILTERS} == FILTERS
    table = re.findall(r"^\| `(~.*?)` \|", (ROOT / "docs" / "mitmweb.md").read_text(), re.MULTILINE)
    assert table == list(FILTERS)[:6]
