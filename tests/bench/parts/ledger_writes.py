"""What the ledger's writes cost, beside SQLite's own smallest durable write: medians in milliseconds."""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from mitmproxy_x402.ledger.interface import Intent, Outcome
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.limits.limits import Budget
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2

ROUNDS = 2000
FILLED = 100_000
INTENT = Intent("POST", "gateway", "/v1/x", "model", Caip2("eip155:8453"), "0xUSDC", "0xSeller", AtomicUnits(1), 1)
BUDGETS = (Budget(10**12, "day"), Budget(10**12, "month"))


def median(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Milliseconds."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def bare(folder: Path) -> float:
    """One INSERT of one number, in WAL mode with the ledger's own durability."""
    db = sqlite3.connect(folder / "bare.sqlite3", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE t (x INTEGER)")
    return median(lambda: db.execute("INSERT INTO t VALUES (1)"))


def writes(ledger: SqliteLedger) -> dict[str, float]:
    """The three writes of a payment's life, each on rows of its own."""
    rows: list[int] = []
    found = {"reserve, two budgets": median(lambda: rows.append(ledger.reserve(INTENT, BUDGETS)))}
    waiting = iter(rows)
    found["record sent"] = median(lambda: ledger.record_sent(next(waiting), "0x00", time.time() + 300))
    waiting = iter(rows)
    outcome = Outcome("settled", "0x" + "ab" * 32, 200)
    found["record the outcome"] = median(lambda: ledger.finish(next(waiting), outcome))
    return found


def ledger_writes(folder: Path) -> list[tuple[str, float, float]]:
    """What is written, and milliseconds with few rows in the ledger and with FILLED; first a bare INSERT."""
    floor = bare(folder)
    ledger = SqliteLedger(folder / "ledger.sqlite3")
    empty = writes(ledger)
    for _ in range(FILLED - ROUNDS):
        ledger.reserve(INTENT, ())
    full = writes(ledger)
    ledger.close()
    return [("a bare INSERT", floor, floor), *((what, empty[what], full[what]) for what in empty)]
