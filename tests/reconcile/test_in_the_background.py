"""The proxy looks payments up by itself: the flow list says `confirmed`, the log and the ledger too; nothing waits."""

from __future__ import annotations

import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mitmproxy_x402.hooks import reconciling
from mitmproxy_x402.ledger.interface import Intent, Outcome, Validity
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.patience import eventually
from support.place import Place
from support.proxy import EVM_ADDRESS, Proxy
from support.showing.mitmweb import Web
from support.wire import free_port

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


@pytest.mark.parametrize("answers", [False, True])
def test_what_expired_while_no_proxy_ran_counts_until_the_chain_was_asked(home: Path, answers: bool) -> None:
    """The gateway may have taken it, whatever it said."""
    (home / "soon.py").write_text(SOON)
    with Sandbox(SandboxConfig()).run_in_thread() as sandbox:
        url = f"{sandbox.url}/v1/rpc/base-sepolia" if answers else f"http://127.0.0.1:{free_port()}"
        options = ("--set", f"x402_evm_rpc=base-sepolia={url}", "--set", "x402_budget=1/day")
        proxy = Proxy(sandbox.url, *options, home=home)
        proxy.load_first(home / "soon.py")
        with closing(SqliteLedger(proxy.ledger)) as ledger:
            row = ledger.reserve(_rejected(), [])
            ledger.record_sent(row, NONCE, 0, Validity(valid_before=int(time.time()) - 1000, dies_in=0))
            ledger.finish(row, Outcome("rejected"))
        with proxy:
            place = Place(home, sandbox, proxy)
            if answers:
                eventually(lambda: place.post(BODY).status_code == 200)
                assert place.rows("state, chain_state")[0] == ("expired", "dead")
                return
            answer = place.post(BODY)
            assert answer.status_code == 400
            assert " 1 USD of what is spent counts until your RPC says, as the gateway does, that it was" in answer.text
            assert sandbox.payments == []


NONCE = f"0x{7:064x}"


def _rejected() -> Intent:
    """A payment of a dollar on the sandbox's network, which it never saw."""
    its = "0x036CbD53842c5426634e7929541eC2318f3dCF7e", EVM_ADDRESS, AtomicUnits(10**6), 10**6
    where = "POST", "127.0.0.1", "/v1/chat/completions", None, Caip2("eip155:84532")
    return Intent(*where, *its, wallet=EVM_ADDRESS, nonce=NONCE)


def test_nothing_is_asked_without_an_rpc_of_the_users(home: Path) -> None:
    with Sandbox(SandboxConfig()).run_in_thread() as sandbox, Proxy(sandbox.url, home=home) as proxy:
        place = Place(home, sandbox, proxy)
        assert place.post(BODY).status_code == 200
        place.expect(0, [("unknown", None)], "state, chain_state")
        eventually(lambda: not any("/rpc" in request.path for request in sandbox.requests))
