"""The proxy looks payments up by itself: the flow list says `confirmed`, the log and the ledger too; nothing waits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mitmproxy_x402.hooks import reconciling
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.mitmweb import Web
from support.patience import eventually
from support.place import Place
from support.proxy import Proxy

BODY = {"model": "sandbox-1", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
SOON = "import mitmproxy_x402.hooks.reconciling as r\nr.PAUSE, r.RIPE_SECONDS = 0.2, 0\n"


@pytest.mark.parametrize("how", ["background", "off"])
def test_it_becomes_confirmed(home: Path, how: str) -> None:
    (home / "soon.py").write_text(SOON)
    with Sandbox(SandboxConfig(settle_late=1)).run_in_thread() as sandbox:
        rpc = f"base-sepolia={sandbox.url}/v1/rpc/base-sepolia"
        options = ("--set", f"x402_evm_rpc={rpc}", "--set", f"x402_reconcile={how}")
        proxy = Proxy(sandbox.url, *options, home=home)
        proxy.load_first(home / "soon.py")
        with proxy:
            place = Place(home, sandbox, proxy)
            assert place.post(BODY).status_code == 200
            proxy.wait_for("sent, not confirmed yet, 0x")
            if how == "off":
                assert "confirmed 0x" not in proxy.log
                return
            proxy.wait_for("payment of .* USD for POST /v1/chat/completions .*: confirmed 0x")
            place.expect(0, [("settled", "moved")], "state, chain_state")
        assert sandbox.balance("base-sepolia", sandbox.payments[0].payer) < sandbox.config.opening_balance


def test_the_flow_list_says_so(home: Path) -> None:
    (home / "soon.py").write_text(SOON)
    with Sandbox(SandboxConfig(settle_late=1)).run_in_thread() as sandbox:
        rpc = f"base-sepolia={sandbox.url}/v1/rpc/base-sepolia"
        with Web(sandbox.url, "--set", f"x402_evm_rpc={rpc}", "-s", str(home / "soon.py"), home=home) as web:
            assert Place(home, sandbox, web).post(BODY).status_code == 200
            flow = web.wait_for_flow(lambda flow: flow["comment"].startswith("confirmed 0.00"))
            assert " · first byte " in flow["comment"], "what else was said stays"
            assert flow["marked"] == "🟢"


@pytest.mark.parametrize("pause", [1, 60, 300, 7200])
def test_what_stays_open_is_asked_in_each_round_and_then_hourly(pause: int) -> None:
    """Nothing is remembered of it, so nothing grows with what stays open."""
    made, valid = 1_790_000_000, 300
    row: Any = SimpleNamespace(time=made * 1000, valid_until=made + valid, valid_before=made + valid)
    rounds = [made - pause + number * pause + 7 for number in range(36_000 // pause)]
    asked = [now for before, now in pairwise(rounds) if reconciling.is_due(row, now, before)]
    final = made + valid + reconciling.SETTLING_SECONDS
    assert [now for now in asked if now <= final] == [now for now in rounds[1:] if now <= final]
    assert all(later - earlier <= max(3600, pause) + pause for earlier, later in pairwise(asked))
    assert len([now for now in asked if now > final + pause]) <= 10
    assert reconciling.is_due(row, rounds[-1], None)


def test_nothing_is_asked_without_an_rpc_of_the_users(home: Path) -> None:
    with Sandbox(SandboxConfig()).run_in_thread() as sandbox, Proxy(sandbox.url, home=home) as proxy:
        place = Place(home, sandbox, proxy)
        assert place.post(BODY).status_code == 200
        place.expect(0, [("unknown", None)], "state, chain_state")
        eventually(lambda: not any("/rpc" in request.path for request in sandbox.requests))
