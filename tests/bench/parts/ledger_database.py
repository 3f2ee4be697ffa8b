"""`python -m tests.bench.parts.ledger_database`: what the ledger costs in PostgreSQL, and how much of it there can be.

Starts a server of its own, which waits for the disk as a real one does, and prints Markdown: milliseconds of each call
as the proxy's event loop feels them, beside a bare round trip and a bare INSERT; payments a second that so many
proxies together can write down; and what budgets cost with so many payments in their period.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for `support`, as pytest has it

from mitmproxy_x402.ledger.interface import Intent, Outcome
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.limits.limits import Budget, Scope
from mitmproxy_x402.payment.outcomes import MOST
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.settings.ledger_place import PostgresUrl
from support.ledger.postgres import Postgres

INTENT = Intent("POST", "gateway", "/v1/x", "model", Caip2("eip155:8453"), "0xUSDC", "0xSeller", AtomicUnits(1), 1)
BUDGETS = (Budget(10**12, "day"), Budget(10**12, "month"))
SCOPED = Budget(10**12, "day", Scope("mod*"))
OUTCOME = Outcome("settled", "0x" + "ab" * 32, 200)
ROUNDS = 500
CLIENTS = (1, 4, 8)
SECONDS = 5
FILL = """
    INSERT INTO x402_payment (time, counted_at, session, process, method, host, path, model, network, asset, pay_to,
                              amount, micro_usd, cumulative, state, sends)
    SELECT t, t, 0, 'bench', 'POST', 'gateway', '/v1/x', 'model-' || n % 20, 'eip155:8453', '0xUSDC', '0xSeller',
           '1000', 1000, n::bigint * 1000, CASE WHEN n % 1000 = 0 THEN 'rejected' ELSE 'settled' END, 1
    FROM (SELECT n, x402_now() - 86400000 + n::bigint * 86000000 / %s AS t FROM generate_series(1, %s) AS n) AS rows"""

SUM = """
    INSERT INTO x402_sum (width, bucket, key, model, path, counted, freed)
    SELECT width, counted_at / width, sha256(convert_to('+' || model || E'\\n' || path, 'UTF8')), model, path,
           sum(CASE WHEN state = 'rejected' THEN 0 ELSE micro_usd END),
           sum(CASE WHEN state = 'rejected' THEN micro_usd ELSE 0 END)
    FROM x402_payment, (VALUES (60000), (3600000)) AS widths (width) GROUP BY 1, 2, 3, 4, 5"""
"""Fills the sums as the trigger would have done, row by row."""


def measured(action: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        action()
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times), sorted(times)[int(rounds * 0.99)]


def calls(ledger: PostgresLedger) -> dict[str, tuple[float, float]]:
    """Each call that a payment makes on the event loop."""
    rows: list[int] = []
    found = {"a bare round trip": measured(lambda: ledger.link.ask("SELECT 1"))}
    ledger.link.ask("CREATE TABLE IF NOT EXISTS bare_on_disk (x integer)")
    found["a bare INSERT, on the disk"] = measured(lambda: ledger.link.ask("INSERT INTO bare_on_disk VALUES (1)"))
    held = "SELECT 1 FROM x402_held WHERE route = %s AND forget_at > x402_now() LIMIT 1"
    found["is a payment held for it?"] = measured(lambda: ledger.link.ask(held, (b"0" * 32,)))
    found["reserve, two budgets"] = measured(lambda: rows.append(ledger.reserve(INTENT, BUDGETS)))
    waiting = iter(rows)
    found["record sent, on the disk"] = measured(lambda: ledger.record_sent(next(waiting), "0x00", time.time() + 300))
    waiting = iter(rows)
    found["record the outcome"] = measured(lambda: ledger.finish(next(waiting), OUTCOME), ROUNDS // 4)
    several = f"record {MOST} outcomes at once"
    found[several] = measured(lambda: ledger.finish_all([(next(waiting), OUTCOME) for _ in range(MOST)]), ROUNDS // 16)
    found["what is left, two budgets"] = measured(lambda: ledger.spent_of(BUDGETS))
    return found


def client(url: PostgresUrl, whole: bool, done: Any) -> None:
    """Reserves for SECONDS; `whole`: and does all else that a payment asks of the ledger."""
    count, times = 0, []
    waiting: list[tuple[int, Outcome]] = []
    with closing(PostgresLedger(url)) as ledger:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            begun = time.perf_counter()
            row = ledger.reserve(INTENT, BUDGETS)
            times.append(time.perf_counter() - begun)
            if whole:
                ledger.record_sent(row, "0x00", 0)
                waiting.append((row, OUTCOME))
                if len(waiting) == MOST:
                    ledger.finish_all(waiting)
                    ledger.spent_of(BUDGETS)
                    waiting.clear()
            count += 1
    done.put((count, sorted(times)[int(len(times) * 0.99)] * 1000))


def together(server: Postgres, clients: int, *, whole: bool) -> tuple[float, float]:
    """What all `clients` get done in a second, and the 99th percentile of reserving in milliseconds."""
    url = server.fresh()
    PostgresLedger(url).close()
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    processes = [context.Process(target=client, args=(url, whole, done)) for _ in range(clients)]
    for process in processes:
        process.start()
    found = [done.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(count for count, _ in found) / SECONDS, max(worst for _, worst in found)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="payments of one day, for the last table")
    most = parser.parse_args().rows
    server = Postgres(("shared_buffers=256MB", "max_wal_size=4GB"))
    try:
        server.make()
        server.start()
        url = server.fresh()
        with closing(PostgresLedger(url)) as ledger:
            rows = [[what, f"{median:.2f}", f"{worst:.2f}"] for what, (median, worst) in calls(ledger).items()]
        print(table(["call", "median, ms", "99 %, ms"], rows))
        rows = []
        for clients in CLIENTS:
            reserving, worst = together(server, clients, whole=False)
            whole, _ = together(server, clients, whole=True)
            rows.append([str(clients), f"{reserving:.0f}", f"{worst:.1f}", f"{whole:.0f}"])
        print(table(["proxies", "reservations a second", "99 % of one, ms", "whole payments a second"], rows))
        print(table(["payments in the day", "reserve, ms", "with a [[limit]] budget, ms"], filled(server, most)))
    finally:
        server.close()


def filled(server: Postgres, most: int) -> list[list[str]]:
    """What budgets cost with more and more payments in their period, one in a thousand of them rejected."""
    rows = []
    for count in (10_000, 100_000, most):
        url = server.fresh()
        with closing(PostgresLedger(url)) as ledger:
            for statement in (
                "ALTER TABLE x402_payment DISABLE TRIGGER USER",
                FILL.replace("%s", str(count)),
                SUM,
                "ALTER TABLE x402_payment ENABLE TRIGGER USER",
                "ANALYZE x402_payment, x402_sum",
            ):
                server.execute(statement, url=url)
            plain, _ = measured(lambda ledger=ledger: ledger.reserve(INTENT, BUDGETS), 200)  # type: ignore[misc]
            scoped, _ = measured(lambda ledger=ledger: ledger.reserve(INTENT, (*BUDGETS, SCOPED)), 200)  # type: ignore[misc]
        rows.append([f"{count:,}", f"{plain:.2f}", f"{scoped:.1f}"])
    return rows


if __name__ == "__main__":
    main()
