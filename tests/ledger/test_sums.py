"""Sums that the database makes: they are those of the rows, whatever happens to these, in any time zone."""

from __future__ import annotations

import random
from collections import Counter
from datetime import date, datetime, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mitmproxy_x402.ledger.interface import ChainWord, Intent, Ledger, LedgerError, Outcome, Validity
from mitmproxy_x402.ledger.reading import read_entries
from mitmproxy_x402.ledger.sums import Ceilings, read_ceilings, read_groups
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl
from support.ledger.ledgers import Times

ZONES = (timezone.utc, ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kathmandu"), ZoneInfo("America/St_Johns"), None)


def of_rows(place: LedgerPlace, since: date | None, zone: tzinfo | None) -> list[tuple[Any, ...]]:
    sums: dict[tuple[Any, ...], Counter[str]] = {}
    for entry in read_entries(place):
        day = datetime.fromtimestamp(entry.time // 1000, timezone.utc).astimezone(zone).date()
        if since is not None and day < since:
            continue
        key = (day.isoformat(), entry.fate, entry.network, entry.model or "", entry.path, entry.client)
        its = sums.setdefault(key, Counter())
        its.update(payments=1, micro_usd=entry.micro_usd, counts=entry.counts)
    return sorted((*key, its["payments"], its["micro_usd"], its["counts"]) for key, its in sums.items())


def live(ledger: Ledger, chance: random.Random, times: Times) -> None:
    """Some payments, each as far as it goes."""
    for _ in range(60):
        times.pass_by(chance.choice((1, 60, 7000, 40_000)))
        micro = chance.randrange(1, 99)
        model, client = chance.choice((None, "m-1", "m-2")), chance.choice(("", "curl/8"))
        network = Caip2(chance.choice(("eip155:8453", "solana:5")))
        place = chance.choice(("/v1/x", "/v1/y"))
        intent = Intent("POST", "h", place, model, network, "a", "b", AtomicUnits(micro), micro, client=client)
        row = ledger.reserve(intent, [])
        if chance.random() < 0.1:
            ledger.release(row)
        if chance.random() < 0.1:
            continue
        try:
            ledger.record_sent(row, f"r{row}", 0, Validity(dies_in=300))
        except LedgerError:
            continue
        if chance.random() < 0.1:
            continue
        word = chance.choice(("settled", "settled", "unknown", "rejected", "superseded"))
        charged = AtomicUnits(micro // 2) if word == "settled" and chance.random() < 0.3 else None
        ledger.finish(row, Outcome(word, "t", charged=charged, charged_micro_usd=charged))
        if chance.random() < 0.3:
            ledger.record_chain([ChainWord(row, chance.choice(("moved", "dead")), micro_usd=micro - 1)])


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_the_rows(ledger: Ledger, path: LedgerPlace, times: Times, seed: int) -> None:
    live(ledger, random.Random(seed), times)
    for zone in ZONES:
        everything = [tuple(vars(group).values()) for group in read_groups(path, zone=zone)]
        assert everything == of_rows(path, None, zone)
        assert everything
        since = date.fromisoformat(everything[len(everything) // 2][0])
        some = [tuple(vars(group).values()) for group in read_groups(path, since, zone)]
        assert some == of_rows(path, since, zone)
        assert 0 < len(some) < len(everything)


def test_of_nothing_there_are_none(ledger: Ledger, path: LedgerPlace) -> None:
    assert read_groups(path) == []
    assert read_groups(path, date(2020, 1, 1), timezone.utc) == []


def test_what_the_dead_had_under_way(ledger: Ledger, path: LedgerPlace, times: Times) -> None:
    for _ in range(2):
        intent = Intent("POST", "h", "/p", None, Caip2("n"), "a", "b", AtomicUnits(1), 1)
        row = ledger.reserve(intent, [])
    ledger.record_sent(row, "r", 0)
    assert [(group.fate, group.payments, group.counts) for group in read_groups(path)] == [("under way", 2, 2)]
    ledger.close()
    if not isinstance(path, PostgresUrl):  # a server hears of it a moment later
        found = [(group.fate, group.counts) for group in read_groups(path)]
        assert found == [("unknown", 2)]  # of another boot than this one: after a power cut, what was reserved counts


def test_what_ceilings_came_to(ledger: Ledger, path: LedgerPlace) -> None:
    assert read_ceilings(path) == Ceilings()

    def pay(most: int, outcome: Outcome | None, exact: int | None = None, scheme: str = "upto") -> int:
        fixed = (Caip2("n"), "a", "b", AtomicUnits(most), most)
        row = ledger.reserve(Intent("POST", "h", "/", None, *fixed, scheme=scheme, exact_micro_usd=exact), [])
        if outcome is not None:
            ledger.record_sent(row, "r", 0, Validity(dies_in=100))
            ledger.finish(row, outcome)
        return row

    def charged(units: int) -> Outcome:
        return Outcome("settled", "0xt", charged=AtomicUnits(units), charged_micro_usd=units)

    pay(100, charged(7), exact=20)
    pay(100, Outcome("rejected", charged=AtomicUnits(0), charged_micro_usd=0), exact=21)
    pay(100, charged(9))
    by_chain = pay(100, Outcome("unknown"), exact=22)
    ledger.record_chain([ChainWord(by_chain, "moved", "0xt", 1, AtomicUnits(40), 40)])
    dead = pay(100, charged(50), exact=23)
    ledger.record_chain([ChainWord(dead, "dead")])
    pay(1000, Outcome("unknown"), exact=24)
    pay(5000, charged(1), scheme="exact")
    ledger.release(pay(7000, None))
    assert read_ceilings(path) == Ceilings(5, 500, 56, 4, 47, 86, 1, 1000, 3, 16)
    assert read_ceilings(path, date(2100, 1, 1)) == Ceilings()
    assert {entry.exact_micro_usd for entry in read_entries(path)} == {None, 20, 21, 22, 23, 24}
