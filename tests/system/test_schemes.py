"""The proxy before the sandbox's till: ceilings, Permit2 and Circle Gateway, and what becomes of the money."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.chains.token_rpc import TokenRpc
from support.ledger.ledgers import query
from support.proxy import EVM_ADDRESS, EVM_KEY, Proxy
from support.running import warm
from support.wire import request

NETWORK = "base-sepolia"
COLUMNS = (
    *("scheme", "state", "micro_usd", "charged_micro_usd", "uncounted", "chain_state", "chain_amount"),
    *("transaction_id", "counted_at", "dead_at", "free_at"),
)
BODY: dict[str, Any] = {"model": "sandbox-1", "max_tokens": 2000, "messages": [{"role": "user", "content": "Hello"}]}


@contextmanager
def shop(
    home: Path, *options: str, rpc: str = "", pays: str = "upto", **config: Any
) -> Iterator[tuple[Sandbox, Proxy]]:
    with Sandbox(SandboxConfig(**{"networks": (NETWORK,), "decoys": False} | config)).run_in_thread() as sandbox:
        url = rpc or f"{sandbox.url}/v1/rpc/{NETWORK}"
        given = (f"x402_schemes={pays}", f"x402_evm_rpc={NETWORK}={url}", *options)
        with Proxy(sandbox.url, *(part for one in given for part in ("--set", one)), home=home) as proxy:
            yield sandbox, proxy


def ask(proxy: Proxy, *headers: str, stream: bool = False, **more: Any) -> Any:
    with proxy.client() as client:
        body = json.dumps(BODY | {"stream": stream} | more).encode()
        return client.ask(request("POST", "/v1/chat/completions", body, "Content-Type: application/json", *headers))


def rows(proxy: Proxy) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in query(proxy.ledger, ", ".join(COLUMNS))]


def settled_rows(proxy: Proxy, states: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The rows, once they are in `states`: outcomes are written a moment after the answer."""
    deadline = time.monotonic() + 30
    while [(row["scheme"], row["state"]) for row in rows(proxy)] != states and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [(row["scheme"], row["state"]) for row in rows(proxy)] == states
    return rows(proxy)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def test_a_ceiling_is_reserved_and_its_charge_is_booked(home: Path) -> None:
    with shop(home, schemes=("upto", "exact")) as (sandbox, proxy):
        assert ask(proxy).status == 200
        proxy.wait_for(r"upto: charged 0\.\d+ of at most 0\.\d+ \(exact: 0\.\d+\)")
        (payment,) = sandbox.payments
        assert (payment.scheme, payment.state) == ("upto", "settled")
        assert payment.charged is not None
        assert 0 < payment.charged < payment.amount
        (row,) = settled_rows(proxy, [("upto", "settled")])
        assert row["micro_usd"] == payment.amount
        assert row["charged_micro_usd"] == payment.charged
        assert row["uncounted"] == 0, "the ceiling counts until the signature is dead"


def test_a_stream_s_charge_comes_from_the_chain(home: Path) -> None:
    with shop(home, schemes=("upto", "exact")) as (sandbox, proxy):
        assert ask(proxy, stream=True).status == 200
        proxy.wait_for("not confirmed yet")
        (row,) = settled_rows(proxy, [("upto", "unknown")])
        assert row["charged_micro_usd"] is None
        (payment,) = sandbox.payments
        assert payment.state == "settled"
        rpc = f"x402_evm_rpc={NETWORK}={sandbox.url}/v1/rpc/{NETWORK}"
        verb = (*warm.VERB, "reconcile", "--ledger", getattr(proxy.ledger, "url", str(proxy.ledger)), "--set", rpc)
        deadline = time.monotonic() + 60
        while rows(proxy)[0]["chain_state"] is None and time.monotonic() < deadline:  # a block has to be deep enough
            done = warm.run(verb, {"HOME": str(home)}, home)
            assert done.returncode == 0, done.stdout + done.stderr
        (row,) = settled_rows(proxy, [("upto", "settled")])
        assert (row["chain_state"], row["chain_amount"]) == ("moved", str(payment.charged))
        assert payment.charged is not None
        assert row["uncounted"] == payment.amount - payment.charged, "what was not taken is free at once"


def test_a_seller_that_refuses_the_permit_is_paid_exactly_once(home: Path) -> None:
    with TokenRpc(84532, balance=10**9, allowance=10**9) as rpc:  # which says what is not so
        with shop(home, schemes=("upto", "exact"), official=True, rpc=rpc.url, sponsored=False) as (sandbox, proxy):
            assert ask(proxy).status == 200
            settled_rows(proxy, [("upto", "rejected"), ("exact", "settled")])
            assert [payment.scheme for payment in sandbox.payments] == ["exact"]
            assert ask(proxy, max_tokens=1999).status == 200
            assert [row["scheme"] for row in rows(proxy)] == ["upto", "exact", "exact"], "exact for a while"


@pytest.mark.parametrize("code", ["PAYMENT_REPLAY", "SETTLEMENT_FAILED", "permit2_invalid_nonce"])
def test_after_anything_but_a_definite_refusal_nothing_else_is_paid(home: Path, code: str) -> None:
    with shop(home, schemes=("upto", "exact")) as (sandbox, proxy):
        assert ask(proxy, f"x-sandbox-fault: reject;code={code}").status == 402
        settled_rows(proxy, [("upto", "unknown")])
        assert not sandbox.settled


def test_charged_nothing_counts_until_the_signature_is_dead(home: Path) -> None:
    with shop(home, schemes=("upto",)) as (sandbox, proxy):
        assert ask(proxy, "x-sandbox-fault: charge;units=0").status == 200
        proxy.wait_for("charged_nothing")
        (row,) = settled_rows(proxy, [("upto", "rejected")])
        assert (row["charged_micro_usd"], row["uncounted"]) == (0, 0)
        assert row["free_at"] == row["dead_at"]
        assert sandbox.payments[0].transaction == ""


def test_more_than_the_ceiling_is_not_taken(home: Path) -> None:
    with shop(home, schemes=("upto",)) as (sandbox, proxy):
        assert ask(proxy, "x-sandbox-fault: charge;units=99999999").status == 402
        assert not sandbox.settled
        assert sandbox.balance(NETWORK, EVM_ADDRESS) == sandbox.config.opening_balance


def test_a_standing_allowance_serves_without_permits(home: Path) -> None:
    with shop(home, schemes=("upto",), sponsored=False, allowance=10**8) as (sandbox, proxy):
        for number in range(3):
            assert ask(proxy, max_tokens=100 + number).status == 200
        assert [payment.state for payment in sandbox.payments] == ["settled"] * 3


def test_exact_over_permit2(home: Path) -> None:
    with shop(home, schemes=("permit2",)) as (sandbox, proxy):
        assert ask(proxy).status == 200
        assert [(payment.scheme, payment.state) for payment in sandbox.payments] == [("permit2", "settled")]
        assert rows(proxy)[0]["scheme"] == "permit2"


def test_circle_gateway(home: Path) -> None:
    with shop(home, "x402_gateway=true", schemes=("gateway",)) as (sandbox, proxy):
        assert ask(proxy).status == 200
        proxy.wait_for(r"x402: payment of .*: paid ")
        (row,) = settled_rows(proxy, [("gateway", "settled")])
        assert row["transaction_id"].count("-") == 4
        assert row["dead_at"] - row["counted_at"] > 7 * 24 * 3600 * 1000
        assert sandbox.balance(NETWORK, EVM_ADDRESS) == sandbox.config.opening_balance, "not out of the wallet"


def test_an_unusable_entry_and_terms_in_the_body_alone(home: Path) -> None:
    with shop(home, pays="exact", unusable=True, challenge_in="body", official=True) as (sandbox, proxy):
        assert ask(proxy).status == 200
        assert [payment.state for payment in sandbox.payments] == ["settled"]
        paid = sandbox.requests[-1]
        assert paid.get("PAYMENT-SIGNATURE") == paid.get("X-PAYMENT")


@pytest.mark.parametrize(
    ("deposit", "said"), [(10**7, "ok     Circle      Gateway holds 10 USDC"), (0, "Deposit some")]
)
def test_check_says_what_lies_with_circle_and_what_permit2_may_take(home: Path, deposit: int, said: str) -> None:
    config = SandboxConfig(networks=(NETWORK,), schemes=("gateway",), allowance=2_500_000, opening_balance=deposit)
    with Sandbox(config).run_in_thread() as sandbox:
        options = ("x402_gateway=true", "x402_schemes=auto", f"x402_evm_rpc={NETWORK}={sandbox.url}/v1/rpc/{NETWORK}")
        given = [part for one in options for part in ("--set", one)]
        verb = (*warm.VERB, "check", "--upstream", sandbox.url, *given)
        environ = {"HOME": str(home), "BLOCKRUN_WALLET_KEY": EVM_KEY}
        done = warm.run(verb, environ, home)
    assert said in done.stdout
    assert "ok     Permit2     may take 2.5 USDC of the wallet on base-sepolia" in done.stdout
