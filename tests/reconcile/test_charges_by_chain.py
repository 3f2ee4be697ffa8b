"""Of a ceiling the chain says what was charged: that is what is spent, and the rest is given back."""

from __future__ import annotations

import json
from pathlib import Path

from mitmproxy_x402.protocol.amounts import format_usd
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.ledger.ledgers import query
from support.patience import eventually
from support.place import Place
from support.proxy import Proxy
from support.running.verbs import Ahead, run

BODY = {"model": "sandbox-1", "max_tokens": 2000, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}


def test_the_charge_of_a_stream(home: Path) -> None:
    clock = Ahead()
    config = SandboxConfig(schemes=("upto", "exact"), decoys=False, clock=clock)
    with Sandbox(config).run_in_thread() as sandbox:
        rpc = f"base-sepolia={sandbox.url}/v1/rpc/base-sepolia"
        options = ("--set", "x402_schemes=upto", "--set", f"x402_evm_rpc={rpc}", "--set", "x402_reconcile=off")
        with Proxy(sandbox.url, *options, home=home) as proxy:
            place = Place(home, sandbox, proxy)
            for number in range(3):
                assert place.post({**BODY, "max_tokens": 2000 + number}).status_code == 200
            assert place.outcomes(0).count("unknown") == 3
            eventually(lambda: len(sandbox.settled) == 3)
            environ = {"X402_LEDGER": getattr(proxy.ledger, "url", None) or str(proxy.ledger), "X402_EVM_RPC": rpc}
            charged = sum(payment.charged or 0 for payment in sandbox.payments)
            ceilings = sum(payment.amount for payment in sandbox.payments)
            before = json.loads(run(home, environ, "report", "--json")[1])["total"]
            assert before["micro_usd"] == ceilings > charged > 0
            clock.seconds = 60
            code, said, _ = run(home, environ, "reconcile")
            assert (code, said) == (0, f"Confirmed: 3 payments, {format_usd(charged)} USD moved.\n")
            after = json.loads(run(home, environ, "report", "--json")[1])["total"]
            assert after["usd"] == after["confirmed_usd"] == format_usd(charged)
            assert sandbox.balance("base-sepolia", sandbox.payments[0].payer) == config.opening_balance - charged
            rows = [
                row for row in query(proxy.ledger, "state, micro_usd - uncounted, chain_amount") if row[0] != "released"
            ]
            assert rows == [("settled", payment.charged, str(payment.charged)) for payment in sandbox.payments]
