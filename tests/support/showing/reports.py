"""Payments for reports, made up or written into a ledger."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import ClassVar

from mitmproxy_x402.ledger.clock import Clock
from mitmproxy_x402.ledger.interface import Intent, Outcome
from mitmproxy_x402.ledger.reading import Entry, Fate
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.report import sums as report

BASE = "eip155:8453"
SOLANA = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def entry(fate: Fate = "settled", micro_usd: int = 1000, ago: timedelta = timedelta(), **more: object) -> Entry:
    entry.row += 1  # type: ignore[attr-defined]
    fields: dict[str, object] = {
        **{"row": entry.row, "time": int((NOON - ago).timestamp()) * 1000, "fate": fate, "micro_usd": micro_usd},  # type: ignore[attr-defined]
        **{"model": "gpt-5", "method": "POST", "host": "sol.blockrun.ai", "path": "/v1/chat/completions"},
        **{
            "network": BASE,
            "asset": "0xa",
            "pay_to": "0xb",
            "amount": str(micro_usd),
            "sends": 1,
            "reference": "0xref",
        },
        **{"transaction": "0xtx", "status": 200, "code": "", "request_id": "r", "first_byte_ms": 1, "total_ms": 2},
        **{"size": 3, "replaces": None, "counts": 0 if fate in ("expired", "released") else micro_usd},
    }
    return Entry(**{**fields, **more})  # type: ignore[arg-type]


entry.row = 0  # type: ignore[attr-defined]


def make(*entries: Entry, since: date | None = None) -> report.Report:
    return report.make(sorted(entries, key=lambda e: e.time), NOON, ledger="/l", since=since, zone=timezone.utc)


class Written:
    """A ledger that is written as the proxy does it, at times of the test's choosing."""

    opened: ClassVar[list[SqliteLedger]] = []

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOON.timestamp()
        self.open()

    def open(self) -> None:
        self.ledger = SqliteLedger(self.path, Clock(wall=lambda: self.now, uptime=lambda: self.now, boot="test"))
        self.opened.append(self.ledger)

    def close(self) -> None:
        self.opened.remove(self.ledger)
        self.ledger.close()

    def pay(self, micro_usd: int, state: str = "settled", model: str | None = "gpt-5", network: str = BASE) -> int:
        amount = AtomicUnits(micro_usd)
        row = self.ledger.reserve(Intent("POST", "h", "/v1/x", model, Caip2(network), "a", "b", amount, micro_usd), ())
        if state == "released":
            self.ledger.release(row)
        if state in ("released", "reserved"):
            return row
        self.ledger.record_sent(row, f"ref{row}", self.now + 60)
        if state != "sent":
            transaction = f"tx{row}" if state == "settled" else ""
            code, lives = ("C", 300) if state == "rejected" else ("", 0)
            self.ledger.finish(row, Outcome(state, transaction, 200, code, counts_for=lives))  # type: ignore[arg-type]
        return row
