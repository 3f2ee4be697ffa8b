"""The books against the wallet: what agrees, what does not, and what explains it."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.chain.movements import Movements
from mitmproxy_x402.check import books
from mitmproxy_x402.check.line import Line
from mitmproxy_x402.ledger.reading import Entry
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.settings.settings import read_settings
from support.ledger.payments import intent

BASE = BUILT_IN.get("base")
assert BASE is not None
NOW = time.time()


def entry(number: int, amount: int, **more: Any) -> Entry:
    fields: dict[str, Any] = {
        **{"row": number, "time": int((NOW - 5000 + number) * 1000), "fate": "settled", "micro_usd": amount},
        **{"model": None, "method": "POST", "host": "h", "path": "/p", "network": "eip155:8453", "asset": "0xa"},
        **{"pay_to": "0xb", "amount": str(amount), "sends": 1, "reference": "", "transaction": f"0xT{number}"},
        **{"status": 200, "code": "", "request_id": "", "first_byte_ms": 1, "total_ms": 1, "size": 1},
        **{"replaces": None, "counts": amount},
    }
    return Entry(**{**fields, **more})


def judge(moved: Movements, *entries: Entry) -> Line:
    return books.judge(BASE, BASE.assets[0], entries, moved, NOW - 6000)  # type: ignore[union-attr,arg-type]


def test_without_an_rpc_nothing_is_called_in_order(tmp_path: Path) -> None:
    assert BASE is not None
    asset, place = BASE.assets[0], tmp_path / "ledger.sqlite3"
    with closing(SqliteLedger(place)) as ledger:
        mine = replace(intent(wallet="0xme"), asset=asset.address)
        ledger.record_sent(ledger.reserve(mine, []), "0xnonce", 0)
    settings = read_settings({"x402_ledger": str(place)}, {}, cwd=tmp_path, home=tmp_path)
    line = asyncio.run(books.compare(BASE, asset, "0xme", [], settings))
    assert str(line).startswith("-")
    assert "could not be compared with the chain (no RPC is known)" in str(line)


def test_they_agree() -> None:
    moved = Movements(9_700_000, 1_000_000, {"0xt1": 100_000, "0xt2": 200_000})
    line = judge(moved, entry(1, 100_000), entry(2, 200_000))
    assert line.good
    assert "opening 9 + deposits 1 - confirmed 0.3 = 9.7 USDC, which is what the wallet has" in line.text


def test_another_program_pays_from_the_wallet() -> None:
    line = judge(Movements(9_000_000, 0, {"0xt1": 100_000, "0xother": 5}), entry(1, 100_000))
    assert not line.good
    assert "0.000005 left in 1 transfer that this ledger does not know (the first: 0xother)" in line.text


def test_what_is_not_confirmed_explains_it() -> None:
    still = entry(2, 50_000, fate="unknown", transaction="")
    line = judge(Movements(9_000_000, 0, {"0xt1": 100_000, "0xt2": 50_000}), entry(1, 100_000), still)
    assert str(line).startswith("-")
    assert "0.05 USDC in 1 payment not confirmed yet; mitmproxy-x402 reconcile asks the chain" in line.text
    waiting = judge(Movements(9_000_000, 0, {"0xt1": 100_000}), entry(1, 100_000), still)
    assert waiting.good


@pytest.mark.parametrize("left", [{"0xt2": 50_001}, {"0xt2": 40_000, "0xt3": 10_000}])
def test_what_is_not_confirmed_does_not_explain_more(left: dict[str, int]) -> None:
    still = entry(2, 50_000, fate="unknown", transaction="")
    assert not judge(Movements(9_000_000, 0, {"0xt1": 100_000, **left}), entry(1, 100_000), still).good


def test_a_receipt_for_nothing() -> None:
    line = judge(Movements(9_000_000, 0, {"0xt1": 100_000}), entry(1, 100_000), entry(2, 50_000))
    assert not line.good
    assert "0.05 of 1 payment is not among what left the wallet" in line.text


def test_what_the_chain_says_moved_is_what_is_booked() -> None:
    line = judge(
        Movements(9_000_000, 0, {"0xchain": 686}), entry(1, 17_686, chain_transaction="0xchain", chain_amount="686")
    )
    assert line.good
