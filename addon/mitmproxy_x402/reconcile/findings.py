"""Finds contradictions between the chain and what a gateway said about a payment."""

from __future__ import annotations

from collections.abc import Mapping

from ..chain.verdict import Verdict
from ..ledger.reading import Entry

SENTENCES: Mapping[str, str] = {
    "not_settled": "the gateway said settled, the chain does not: nothing moved, and nothing can any more",
    "other_transaction": "the gateway named another transaction than the one that moved the money",
    "other_amount": "another amount moved than the payment was for",
    "elsewhere": "the money went to another address than the payment was for",
    "taken": "the gateway said rejected, and took the money",
}
"""A sentence for each code of a finding."""
_REFUSED = ("rejected", "superseded", "expired")


def finding(entry: Entry, verdict: Verdict) -> str:
    """The code of the contradiction about `entry`; empty: chain and gateway agree."""
    if verdict.kind == "dead":
        return "not_settled" if entry.state == "settled" else ""
    if verdict.kind != "moved":
        return ""
    if verdict.pay_to.lower() != entry.pay_to.lower():
        return "elsewhere"
    if not _is_due(entry, verdict.amount):
        return "other_amount"
    if entry.state in _REFUSED:
        return "taken"
    if entry.transaction and entry.transaction.lower() != verdict.transaction.lower():
        return "other_transaction"
    return ""


def _is_due(entry: Entry, amount: int) -> bool:
    """Whether `amount` can be what `entry` was for; a payment that was signed again is for the same or less."""
    if entry.charged:
        return amount == int(entry.charged)
    if entry.scheme == "upto" or entry.sends > 1:
        return 0 < amount <= int(entry.amount)
    return amount == int(entry.amount)
