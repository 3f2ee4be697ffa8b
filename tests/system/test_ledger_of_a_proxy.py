"""The ledger's file at the running proxy: locked by others, without a sync, in the hands of the dead, and in doubt."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx

from mitmproxy_x402.ledger.reading import read_entries
from mitmproxy_x402.protocol.amounts import format_usd
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.ledger.ledgers import locked
from support.patience import eventually
from support.place import place
from support.proxy import Proxy


def in_file(home: Path) -> tuple[str, str]:
    """Where the ledger is in any case."""
    return "--set", f"x402_ledger={home / '.local' / 'state' / 'mitmproxy-x402' / 'ledger.sqlite3'}"


BODY = {"model": "sandbox-1", "messages": [{"role": "user", "content": "hello"}]}


def test_a_locked_file_stops_nobody_but_who_pays(home: Path) -> None:
    """Free requests go on beside twelve paid ones, which are told what is wrong, and are paid when it is over."""
    with place(home, *in_file(home)) as shop:
        assert shop.post(BODY).status_code == 200
        free = shop.proxy.url + "/v1/models"
        with httpx.Client(verify=False, timeout=30) as client:
            client.get(free)
            with ThreadPoolExecutor(12) as pool, locked(shop.proxy.ledger):
                paid = [pool.submit(shop.post, BODY) for _ in range(12)]
                served = 0
                while not all(one.done() for one in paid):
                    assert client.get(free).status_code == 200
                    served += 1
                answers = [one.result() for one in paid]
        assert served > 5
        assert {answer.json()["error"]["code"] for answer in answers} == {"ledger_unavailable"}
        assert "locked by another program" in answers[0].json()["error"]["message"]
        assert shop.post(BODY).status_code == 200
        assert len(shop.sandbox.payments) == 2


def test_a_start_says_where_it_records_and_whether_that_is_new(home: Path) -> None:
    file = home / "mistyped" / "ledger.sqlite3"
    new = "a new ledger, without payments so far: "
    for left, said in (("", new), (", left: 10 of 10/day", "")):
        with Proxy("http://127.0.0.1:9", "--set", f"x402_ledger={file}", home=home) as proxy:
            line = proxy.wait_for(r"payments are recorded in .*")
        assert f"at most 10 USDC a day (x402_budget){left}; payments are recorded in {said}{file}" in line


def test_a_start_says_what_is_left_of_the_budgets(home: Path) -> None:
    budgets = ("--set", "x402_budget=1/hour,10/day")
    with place(home, *in_file(home), *budgets) as shop:
        assert shop.post(BODY).status_code == 200
        [payment] = shop.sandbox.payments
    rest = [format_usd(most * 1_000_000 - payment.amount) for most in (1, 10)]
    with Proxy("http://127.0.0.1:9", *in_file(home), *budgets, home=home) as proxy:
        proxy.wait_for(rf"\(x402_budget\), left: {rest[0]} of 1/hour, {rest[1]} of 10/day; payments are recorded in /")


def test_a_lock_of_a_moment_is_waited_for(home: Path) -> None:
    with place(home, *in_file(home)) as shop:
        assert shop.post(BODY).status_code == 200
        with closing(sqlite3.connect(shop.proxy.ledger, isolation_level=None, check_same_thread=False)) as db:
            db.execute("BEGIN IMMEDIATE")
            threading.Timer(0.05, lambda: db.execute("ROLLBACK")).start()
            assert shop.post(BODY).status_code == 200
            eventually(lambda: not db.in_transaction)


def test_the_rows_of_a_killed_proxy_are_known_to_be_of_the_dead(home: Path) -> None:
    with Sandbox(SandboxConfig()).run_in_thread() as sandbox:
        with Proxy(sandbox.url, *in_file(home), home=home) as proxy, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(_post, proxy, "stall")
            eventually(lambda: any(entry.sends for entry in read_entries(proxy.ledger)) if proxy.ledger.exists() else 0)
            assert [entry.fate for entry in read_entries(proxy.ledger)] == ["under way"]
            os.kill(proxy.process.pid, signal.SIGKILL)
            proxy.process.wait()
            waiting.exception()
        (entry,) = read_entries(proxy.ledger)
        assert (entry.fate, entry.counts > 0) == ("unknown", True)
        with Proxy(sandbox.url, *in_file(home), home=home) as after:
            (entry,) = read_entries(after.ledger)
            assert (entry.state, entry.fate) == ("unknown", "unknown")
        assert list(after.ledger.parent.glob("*-proxy-*")) == []


def _post(proxy: Proxy, fault: str) -> int:
    headers = {"x-sandbox-fault": fault}
    return httpx.post(f"{proxy.url}/v1/chat/completions", json=BODY, headers=headers, timeout=60).status_code


def test_a_limit_holds_for_large_requests_and_doubled_keys_and_says_why(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "x402.toml"
    config.write_text('[[limit]]\nmodel = "dear-*"\nmax_request = "0.000001"\n')
    with place(home, *in_file(home), "--set", f"x402_config={config}") as shop:
        long = {"messages": [{"role": "user", "content": "x" * 1000}] * 3400, "model": "dear-1"}
        for body, said in (
            (json.dumps(long).encode(), "for model dear-* may cost"),
            (b'{"model": "dear-1", "messages": [], "model": "cheap"}', "for model dear-* may cost"),
            (json.dumps({**long, "model": "x" * 2000}).encode(), "since its model's name is too long"),
        ):
            with httpx.Client(verify=False, timeout=30) as client:
                answer = client.post(shop.proxy.url + "/v1/chat/completions", content=body)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert (error["code"], said in error["message"]) == ("over_request_limit", True), error["message"]
        assert shop.sandbox.payments == []
        assert shop.post({**BODY, "model": "cheap"}).status_code == 200


def test_the_sync_can_be_traded_away(home: Path) -> None:
    with place(home, *in_file(home), "--set", "x402_ledger_sync=false") as shop:
        assert shop.post(BODY).status_code == 200
