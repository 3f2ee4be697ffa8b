"""The database fails over to its standby while four proxies pay: no payment is forgotten, none is made beyond the
budget, and every proxy finds the new primary by itself.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_scale import BODY, PATH, Farm, farm, price

from mitmproxy_x402.settings.ledger_place import PostgresUrl
from support.ledger.postgres import FORGETFUL, Postgres

FREE = ("rejected", "released", "expired")
FOUR = {0, 1, 2, 3}
PATIENCE = 60


@pytest.fixture
def pair() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary, and a standby that every commit waits for."""
    servers = [Postgres((*FORGETFUL, "wal_keep_size=64MB")) for _ in range(2)]
    primary, standby = servers
    try:
        primary.make()
        primary.start()
        standby.follow(primary)
        standby.start()
        primary.replicate("*")
        wait_until(lambda: primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        yield primary, standby
    finally:
        for server in servers:
            server.close()


def wait_until(is_so: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def both(pair: tuple[Postgres, Postgres]) -> PostgresUrl:
    first, second = pair
    one = first.url(over="loopback").url
    return PostgresUrl(one.replace(f":{first.port}/", f":{first.port},127.0.0.1:{second.port}/"))


class Buyers:
    """Clients that ask on and on, at each of the proxies in turn."""

    def __init__(self, four: Farm, count: int) -> None:
        self.ends: list[tuple[int, int, str]] = []
        """Of each answer: which proxy gave it, its status, and the code of a refusal."""
        self._four = four
        self._ends = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._running = [self._pool.submit(self._buy, number) for number in range(count)]

    def _buy(self, number: int) -> None:
        url = self._four.proxies[number % 4].url + PATH
        with httpx.Client(verify=False, timeout=30) as client:
            while not self._ends.is_set():
                answer = client.post(url, json={**BODY, "n": f"{number} {time.monotonic()}"})
                code = "" if answer.status_code == 200 else answer.json()["error"]["code"]
                self.ends.append((number % 4, answer.status_code, code))

    def paid(self) -> int:
        return sum(status == 200 for _, status, _ in list(self.ends))

    def __enter__(self) -> Buyers:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._pool.shutdown()

    def check(self) -> None:
        """Raises what one of them has raised."""
        for one in self._running:
            one.result()


def counted(four: Farm, url: PostgresUrl) -> int:
    """What counts, in millionths; every payment that came to the gateway is in it."""
    rows = Farm(four.sandbox, url, []).rows("reference, state, sends, micro_usd")
    known = {reference: state for reference, state, sends, _ in rows if sends}
    for payment in four.sandbox.payments:
        assert known.get(payment.reference, "not in the ledger") not in (*FREE, "not in the ledger")
    return sum(micro for _, state, _, micro in rows if state not in FREE)


@pytest.mark.thorough
def test_a_primary_that_is_killed(tmp_path: Path, pair: tuple[Postgres, Postgres]) -> None:
    primary, standby = pair
    many, cost = 120, price()
    with farm(tmp_path, both(pair), 4, "--set", f"x402_budget={cost * many / 1e6:.6f}") as four:
        with Buyers(four, 8) as buyers:
            wait_until(lambda: buyers.paid() > many // 3)
            primary.stop(signal.SIGKILL)
            standby.replicate("")
            standby.promote()
            # Each comes to the new primary, where it says how much is left; one that asked for nothing in the meantime
            # has not even noticed.
            since = len(buyers.ends)
            wait_until(lambda: {proxy for proxy, _, code in buyers.ends[since:] if code in ("", "over_budget")} == FOUR)
            wait_until(lambda: any(code == "over_budget" for _, _, code in buyers.ends[since:]))
        buyers.check()
        seen = {(200, ""), (400, "ledger_unavailable"), (502, "payment_outcome_unknown"), (400, "over_budget")}
        assert {(status, code) for _, status, code in buyers.ends} <= seen
        settled = len(four.sandbox.settled)
        assert settled * cost <= counted(four, standby.url(over="loopback")) <= many * cost
        assert many - 8 <= settled  # what each client had under way may count without having been paid


def test_without_the_standby_nothing_is_paid(tmp_path: Path, pair: tuple[Postgres, Postgres]) -> None:
    """A commit that waits for the standby in vain is one that a failover would forget, also where it says success."""
    _, standby = pair
    with farm(tmp_path, both(pair), 1) as one:
        assert one.post(0).status_code == 200
        standby.stop(signal.SIGKILL)
        refused = [one.post(0) for _ in range(5)]
        assert {(a.status_code, a.json()["error"]["code"]) for a in refused} == {(400, "ledger_unavailable")}
        assert len(one.sandbox.payments) == 1
        assert "can be used again" not in one.proxies[0].log  # it would stand still for each payment
        standby.start()
        one.proxies[0].wait_for("can be used again")
        assert one.post(0).status_code == 200
        assert len(one.sandbox.settled) == 2
