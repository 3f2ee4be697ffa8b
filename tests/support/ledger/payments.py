"""Payments as tests write them into a ledger: intents, budgets, and a row in each state."""

from __future__ import annotations

from typing import Any

from mitmproxy_x402.ledger.interface import Intent, Ledger, Outcome, State
from mitmproxy_x402.limits.limits import Budget, Period, Scope
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2

DAY = 24 * 3600
MUCH = 10**6
"""Of a budget that forgives all that has expired."""


def intent(micro: int = 10, model: str | None = "m-1", path: str = "/v1/x", **more: Any) -> Intent:
    return Intent("POST", "h", path, model, Caip2("eip155:8453"), "0xa", "0xb", AtomicUnits(micro), micro, **more)


def budget(micro: int, period: Period = "day", model: str = "", path: str = "") -> Budget:
    return Budget(micro, period, Scope(model, path))


def pay(ledger: Ledger, *budgets: Budget) -> None:
    ledger.record_sent(ledger.reserve(intent(), budgets), "nonce", 0)


def in_state(ledger: Ledger, state: State) -> int:
    row = ledger.reserve(intent(), [])
    if state == "released":
        ledger.release(row)
    elif state != "reserved":
        ledger.record_sent(row, "nonce", 0)
        if state == "settled":
            ledger.finish(row, Outcome("settled", "0xt"))
        elif state == "rejected":
            ledger.finish(row, Outcome("rejected"))
        elif state == "unknown":
            ledger.finish(row, Outcome("unknown"))
        elif state in ("superseded", "expired"):
            ledger.finish(row, Outcome("superseded", counts_for=600 if state == "superseded" else 0))
        if state == "expired":
            ledger.release(ledger.reserve(intent(), []))  # the next reservation moves it
    return row
