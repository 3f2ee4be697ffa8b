"""Writes the comment and the mark in mitmproxy's list of flows: what was paid, and what the answer was. Pure.

    sent 0.0131 USDC base, not confirmed yet · 3 tool calls · 812 tok · first byte 0.9 s
    paid 0.0131 USDC base 0x5d1ae3… · 3 tool calls, 1 broken · 812 tok · first byte 0.9 s
    confirmed 0.0131 USDC base 0x5d1ae3… · 3 tool calls · 812 tok · first byte 0.9 s
    refused over_request_limit: asked 2.5 USDC on base
    free · 95 tok · first byte 0.2 s

The state comes first, because the column is narrow. It becomes `confirmed` when the chain has the payment.

`facts` is `flow.metadata` as `flow_metadata` fills it; other keys in it are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from ..llm.reading import Reading

if TYPE_CHECKING:  # importing it takes half a second, which showing a file does not need
    from mitmproxy import http

MARKS: Mapping[str, str] = {
    "settled": ":green_circle:",
    "unknown": ":yellow_circle:",
    "rejected": ":orange_circle:",
    "expired": ":white_circle:",
    "refused": ":no_entry:",
}
"""Marks by state, in mitmproxy's names for emoji. Each is a single character, as its console requires. Red is left to
mitmproxy's default mark."""
WORDS: Mapping[str, tuple[str, str]] = {
    "sent": ("sent", ""),
    "settled": ("paid", ""),
    "unknown": ("sent", ", not confirmed yet"),
    "rejected": ("rejected", ""),
    "superseded": ("not taken", ""),
    "expired": ("not taken", ""),
}
"""Text before and after the amount, by state."""
SHOWN = 8
"""Leading characters of a transaction's id that are shown."""
_DECIMALS = 2
"""Decimals of an amount of a dollar or more."""
_THREE_DIGITS = Context(prec=3)
"""Precision of a smaller amount."""


def mark(facts: Mapping[str, Any]) -> str:
    """The mark for the payment's state; empty while it is open, or if nothing was paid."""
    return MARKS.get(_text(facts, "state"), "")


def payment(facts: Mapping[str, Any]) -> str:
    """The payment and its state in a few words; empty if no payment was asked for."""
    state, code = _text(facts, "state"), _text(facts, "refused")
    if state == "refused":
        asked = _text(facts, "asked")
        return f"refused {code or 'payment'}" + (f": asked {asked}" if asked else "")
    word, after = WORDS.get(state, (state, ""))
    if _text(facts, "chain") == "moved":
        word = "confirmed"
    amount, transaction = _text(facts, "amount"), _text(facts, "transaction")
    parts = [word, f"{short(amount)} USDC" if amount and state else "", _text(facts, "network") if state else ""]
    if transaction:
        parts.append(f"{transaction[:SHOWN]}…" if len(transaction) > SHOWN else transaction)
    line = " ".join(part for part in parts if part) + after
    reason = _text(facts, "reason")
    if reason and state in ("rejected", "unknown"):
        line += f": {reason}"
    return f"{line}, then refused {code}" if state and code else line


def state_word(state: str) -> str:
    """A word for a state, on its own."""
    return "".join(WORDS.get(state, (state, "")))


def of(flow: http.HTTPFlow, *, reading: Reading | None = None, broken: bool = False) -> str:
    """The comment for `flow`, with what its answer was (`reading`) and whether it broke off (`broken`)."""
    begun, response = flow.request.timestamp_start, flow.response
    first = None if response is None or not response.timestamp_start else response.timestamp_start - begun
    return line(flow.metadata, reading=reading, first_byte=first, broken=broken)


def line(
    facts: Mapping[str, Any], *, reading: Reading | None = None, first_byte: float | None = None, broken: bool = False
) -> str:
    """The comment from metadata. `first_byte` is in seconds after the request began; None: there was no answer."""
    paid, cut = payment(facts), _text(facts, "cut")
    if _text(facts, "state") == "refused":
        return paid  # the answer is our own
    if first_byte is None:
        return " · ".join(filter(None, [paid, "no answer" if broken else ""]))
    parts = [paid or "free"]
    if reading is not None:
        parts += _answer(reading, whole=not (broken or cut))
    parts.append(f"first byte {seconds(first_byte)}")
    if broken:
        parts.append("interrupted")
    if cut:
        parts.append(f"body {cut}")
    return " · ".join(parts)


def _answer(reading: Reading, *, whole: bool) -> list[str]:
    calls, tokens = len(reading.tool_calls), total_tokens(reading)
    misfits = {misfit.call for misfit in reading.misfits}
    broken = sum(bool(call.broken) or n in misfits for n, call in enumerate(reading.tool_calls, 1))
    parts = []
    if calls:
        parts.append(f"{calls} tool call{'' if calls == 1 else 's'}{f', {broken} broken' if broken else ''}")
    if tokens is not None:
        parts.append(f"{tokens} tok")
    if reading.error is not None:
        parts.append("error in the answer")
    elif reading.irregular and whole and not (broken or reading.partly):
        parts.append("irregular")
    return parts


def total_tokens(reading: Reading) -> int | None:
    """Tokens of input and output together, as far as the answer states them; None: it states none."""
    usage = reading.usage
    if usage.total is not None:
        return usage.total
    said = [count for count in (usage.input, usage.output) if count is not None]
    return sum(said) if said else None


def short(amount: str) -> str:
    """A decimal amount for a narrow column: `0.0131` for `0.013081`, `12.35` for `12.3456`. Never 0 for more than 0."""
    try:
        exact = Decimal(amount)
        text = f"{round(exact, _DECIMALS) if exact >= 1 else _THREE_DIGITS.plus(exact):f}"
    except (InvalidOperation, ValueError, OverflowError):
        return amount
    return text.rstrip("0").rstrip(".") if "." in text else text


def seconds(count: float) -> str:
    """A duration as text: `40 ms`, `0.9 s`, `12 s`."""
    if count < 0.1:
        return f"{max(count, 0) * 1000:.0f} ms"
    return f"{count:.{1 if count < 10 else 0}f} s"


def size(count: int) -> str:
    """A number of bytes as text: `312 B`, `12 KB`, `4 MB`, `4.5 MB`."""
    amount, unit = float(count), "B"
    for larger in ("KB", "MB", "GB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.{1 if amount < 10 and unit != 'B' else 0}f} {unit}".replace(".0 ", " ")


def _text(facts: Mapping[str, Any], key: str) -> str:
    value = facts.get(f"x402.{key}")
    return value if isinstance(value, str) else ""
