"""The line and the mark of a flow in the list."""

from __future__ import annotations

from typing import Any

import pytest
from mitmproxy.utils import emoji

from mitmproxy_x402.llm import Broken, Misfit, Reading, Text, ToolCall, Usage
from mitmproxy_x402.views import comment

SETTLED = {
    "x402.state": "settled",
    "x402.amount": "0.013081",
    "x402.network": "base",
    "x402.pay_to": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
    "x402.transaction": "0xabcdef0123456789",
    "x402.legs": "2",
}
CALLS = tuple(ToolCall(f"call_{number}", "forecast", "{}") for number in range(3))
BROKEN = ToolCall("call_9", "forecast", "{", broken=Broken("Expecting property name", 1))


def of(**facts: str) -> dict[str, Any]:
    return {f"x402.{key}": value for key, value in facts.items()}


def test_everything_at_once() -> None:
    reading = Reading("openai-chat", items=(Text("a"), *CALLS), usage=Usage(500, 312, total=812), complete=True)
    assert comment.line(SETTLED, reading=reading, first_byte=0.94) == (
        "paid 0.0131 USDC base 0xabcdef… · 3 tool calls · 812 tok · first byte 0.9 s"
    )


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, ""),
        (SETTLED, "paid 0.0131 USDC base 0xabcdef…"),
        ({**SETTLED, "x402.chain": "moved"}, "confirmed 0.0131 USDC base 0xabcdef…"),
        (of(state="sent", amount="2.5", network="solana"), "sent 2.5 USDC solana"),
        (of(state="unknown", amount="2.5", network="solana"), "sent 2.5 USDC solana, not confirmed yet"),
        (of(state="rejected", amount="2.5", network="solana"), "rejected 2.5 USDC solana"),
        (of(state="rejected", amount="1", network="base", reason="UNFUNDED"), "rejected 1 USDC base: UNFUNDED"),
        (of(state="expired", amount="1", network="base"), "not taken 1 USDC base"),
        (of(state="settled", amount="1", network="base", transaction="5KtP"), "paid 1 USDC base 5KtP"),
        (of(state="refused", refused="over_request_limit", asked="2.5 USDC on base"),
         "refused over_request_limit: asked 2.5 USDC on base"),
        (of(state="refused", refused="no_wallet"), "refused no_wallet"),
        (of(state="unknown"), "sent, not confirmed yet"),
        ({"x402.state": b"settled", "x402.amount": 3, "other": "value"}, ""),
        (of(state="unknown", amount="1", network="base", refused="over_repurchase_limit"),
         "sent 1 USDC base, not confirmed yet, then refused over_repurchase_limit"),
        (of(amount="1", network="base"), ""),
    ],
)  # fmt: skip
def test_the_payment(facts: dict[str, Any], text: str) -> None:
    assert comment.payment(facts) == text


@pytest.mark.parametrize(
    ("reading", "text"),
    [
        (Reading("openai-chat"), "free · first byte 4 ms"),
        (Reading("openai-chat", items=CALLS[:1]), "free · 1 tool call · first byte 4 ms"),
        (Reading("openai-chat", items=(BROKEN, *CALLS[:1]), irregular=("its arguments are not JSON",)),
         "free · 2 tool calls, 1 broken · first byte 4 ms"),
        (Reading("openai-chat", items=(BROKEN, *CALLS[:2]), misfits=(Misfit(2, "forecast", "", "is not declared"),)),
         "free · 3 tool calls, 2 broken · first byte 4 ms"),
        (Reading("openai-chat", irregular=("the stream ends early",)), "free · irregular · first byte 4 ms"),
        (Reading("openai-chat", irregular=("only the first 8 MB are read",), partly=True), "free · first byte 4 ms"),
        (Reading("openai-chat", irregular=("odd",), error="overloaded"),
         "free · error in the answer · first byte 4 ms"),
        (Reading("gemini", usage=Usage(input=5, output=7)), "free · 12 tok · first byte 4 ms"),
        (Reading("gemini", usage=Usage(output=0)), "free · 0 tok · first byte 4 ms"),
        (Reading("unknown", error="overloaded\x1b[2J"), "free · error in the answer · first byte 4 ms"),
    ],
)  # fmt: skip
def test_the_answer(reading: Reading, text: str) -> None:
    assert comment.line({}, reading=reading, first_byte=0.004) == text


def test_what_went_wrong_comes_last() -> None:
    line = comment.line(of(cut="cut at 4 MB of 12 MB"), first_byte=0.004, broken=True)
    assert line == "free · first byte 4 ms · interrupted · body cut at 4 MB of 12 MB"


def test_of_an_answer_that_was_cut_off_no_irregularity_is_said() -> None:
    reading = Reading("openai-chat", irregular=("the answer is not complete",))
    assert comment.line({}, reading=reading, first_byte=0.004, broken=True) == "free · first byte 4 ms · interrupted"


def test_without_an_answer() -> None:
    assert comment.line({}) == ""
    assert comment.line({}, broken=True) == "no answer"
    assert comment.line(of(state="unknown", amount="1"), broken=True) == "sent 1 USDC, not confirmed yet · no answer"


def test_a_refusal_says_nothing_of_our_own_answer() -> None:
    assert comment.line(of(state="refused", refused="over_budget"), first_byte=0.004) == "refused over_budget"


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0.013081", "0.0131"), ("0.000001", "0.000001"), ("0.9999", "1"), ("0", "0"), ("0.1", "0.1"), ("1", "1"),
     ("2.5", "2.5"), ("12.3456", "12.35"), ("100", "100"), ("999999.999999", "1000000"), ("NaN", "NaN"), ("x", "x")],
)  # fmt: skip
def test_amounts_are_short(amount: str, shown: str) -> None:
    assert comment.short(amount) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(-1.0, "0 ms"), (0.0004, "0 ms"), (0.0996, "100 ms"), (0.94, "0.9 s"), (12.4, "12 s")]
)
def test_seconds(count: float, shown: str) -> None:
    assert comment.seconds(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KB"), (1536, "1.5 KB"), (4 << 20, "4 MB"), (10 << 40, "10240 GB")],
)  # fmt: skip
def test_sizes(count: int, shown: str) -> None:
    assert comment.size(count) == shown


def test_each_state_has_a_mark_of_its_own_that_both_screens_can_show() -> None:
    marks = [comment.mark(of(state=state)) for state in ("settled", "unknown", "rejected", "expired", "refused")]
    assert len(set(marks)) == 5
    for mark in marks:
        assert len(emoji.emoji[mark]) == 1  # mitmproxy's console shows a dot for longer ones
        assert emoji.emoji[mark] != "🔴"  # what mitmweb shows for a mark of the user's own
    assert comment.mark(of(state="sent")) == comment.mark({}) == ""
