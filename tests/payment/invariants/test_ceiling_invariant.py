"""Random lives of payments of all schemes: what may still be taken is counted, and is there to be taken.

A wallet pays by exact prices, exact prices over Permit2, ceilings and Circle Gateway, side by side. The gateway settles
what it wants of a ceiling, when it wants, tells the truth about it or nothing, says that it charged nothing and settles
later, or refuses. At every moment:

    what was taken, and what live signatures may yet take, is counted against the budget, and within it, or was forgiven
    once, as what a gateway takes after it has said that it took nothing;
    the ceilings that may yet be taken fit what the balance and the allowance were when they were signed, together with
    all that was signed before them (an exact price asks nobody, and may be signed after them);
    at most one payment with a permit is under way.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.errors import X402Error
from mitmproxy_x402.ledger.clock import Clock
from mitmproxy_x402.ledger.interface import Outcome
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support import effort
from support.chains.token_rpc import TokenRpc
from support.ledger.ledgers import query
from support.paying.ceilings import FACILITATOR, PAY_TO, PURPOSE, USDC, challenge
from support.proxy import EVM_KEY

STEPS = 120
SKEW = 600
"""Seconds by which our window for a signature is longer than the signature itself."""


def entry(method: str, amount: int) -> dict[str, Any]:
    extra: dict[str, Any] = {"name": "USD Coin", "version": "2"}
    if method == "upto":
        extra["facilitatorAddress"] = FACILITATOR
    elif method == "permit2":
        extra["assetTransferMethod"] = "permit2"
    elif method == "gateway":
        contract = "0x77777777Dcc4d5A8B6E418Fd04D8997ef11000eE"
        extra = {"name": "GatewayWalletBatched", "version": "1", "verifyingContract": contract}
    return {
        **{"scheme": "upto" if method == "upto" else "exact", "network": "eip155:8453", "amount": str(amount)},
        **{"asset": USDC, "payTo": PAY_TO, "maxTimeoutSeconds": 300, "extra": extra},
    }


@dataclass
class Note:
    """One payment as the gateway knows it."""

    payment: Payment
    permit: int
    """The allowance that goes with it, 0: none."""
    since: float
    dies: float
    charged: int = 0
    settled: bool = False
    told: bool = False


class World:
    def __init__(self, seed: int, home: Path, rpc: TokenRpc) -> None:
        self.random, self.rpc = random.Random(seed), rpc
        self.now = 1_800_000_000.0
        settings = read_settings(
            {
                **{"x402_schemes": "upto", "x402_gateway": "true", "x402_evm_rpc": f"base={rpc.url}"},
                **{"x402_budget": "0.3/hour", "x402_max_request": "0.2"},
            },
            {},
            cwd=home,
            home=home,
        )
        self.budget = settings.budgets[0]
        self.ledger = SqliteLedger(home / f"{seed}.sqlite3", Clock(lambda: self.now, lambda: self.now, "boot"))
        wallets = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, home))
        self.payer = Payer(settings, wallets, self.ledger, clock=lambda: self.now)
        self.notes: list[Note] = []

    def buy(self) -> None:
        methods = self.random.sample(["exact", "permit2", "upto", "gateway"], self.random.randint(1, 3))
        offered = [entry(each, self.random.choice((900, 5_000, 30_000, 80_000))) for each in methods]
        required = challenge(*offered, sponsored=self.random.random() < 0.7)
        with suppress(X402Error):
            payment = asyncio.run(self.payer.pay(required, PURPOSE))
            if self.random.random() < 0.1:
                self.payer.release(payment.row)
                return
            self.ledger.record_sent(payment.row, payment.reference, payment.valid_until, payment.validity)
            said = json.loads(base64.b64decode(payment.header[1]))
            info = (said.get("extensions") or {}).get("eip2612GasSponsoring", {}).get("info", {})
            assert payment.validity.valid_before is not None
            self.notes.append(Note(payment, int(info.get("amount", 0)), self.now, payment.validity.valid_before))

    def settle(self, note: Note, charge: int) -> None:
        """As the contracts would."""
        offer = note.payment.offer
        if note.settled or self.now >= note.dies or charge < 1:
            return
        if offer.method != "gateway":
            if self.rpc.balance < charge:
                assert not _over(note) or self.exact_since_ceilings(), "a promise that the wallet cannot keep"
                return
            self.rpc.balance -= charge
        if offer.method in ("permit2", "upto"):
            if note.permit:
                self.rpc.allowance = note.permit
                self.rpc.nonce = (self.rpc.nonce or 0) + 1
            assert self.rpc.allowance >= charge, "a promise that Permit2 cannot keep"
            self.rpc.allowance -= charge
        note.settled, note.charged = True, charge

    def alive(self) -> list[Note]:
        return [note for note in self.notes if not note.settled and self.now < note.dies]

    def exact_since_ceilings(self) -> bool:
        """Whether an exact price was signed after a ceiling that may yet be taken."""
        methods = [note.payment.offer.method for note in self.notes]
        first = next((n for n, note in enumerate(self.notes) if note in self.alive() and _over(note)), len(methods))
        return "exact" in methods[first:]

    def answer(self, note: Note) -> None:
        if note.told:
            return
        ceiling, offer = note.payment.amount, note.payment.offer
        chance = self.random.random()
        outcome = Outcome("unknown", status=200)
        if chance < 0.15 and not note.settled:
            outcome = Outcome("rejected", status=402, code="permit2_allowance_required")
        elif chance < 0.3 and offer.is_ceiling and not note.settled:  # and it may settle later all the same
            outcome = Outcome("rejected", status=200, charged_micro_usd=0)
        elif chance < 0.8:
            self.settle(note, self.random.randint(1, ceiling) if offer.is_ceiling else ceiling)
            if note.settled and self.random.random() < 0.8:
                charged = note.charged if offer.is_ceiling else None
                outcome = Outcome("settled", transaction="0x" + "ab" * 32, charged_micro_usd=charged)
        note.told = True
        self.ledger.finish(note.payment.row, outcome)

    def any_step(self) -> None:
        chance = self.random.random()
        if chance < 0.45:
            self.buy()
        elif self.notes and chance < 0.8:
            self.answer(self.random.choice(self.notes))
        elif self.notes and chance < 0.86:  # what was sent long ago, whatever was said of it
            note = self.random.choice(self.notes)
            ceiling = note.payment.amount
            self.settle(note, self.random.randint(1, ceiling) if note.payment.offer.is_ceiling else ceiling)
        elif chance < 0.9:
            self.rpc.balance += self.random.choice((0, 50_000, 400_000))
        elif chance < 0.93 and not any(note.permit for note in self.alive()):  # which would set it anew
            self.rpc.allowance = max(self.rpc.allowance, self.random.choice((0, 60_000)))
        else:
            self.now += self.random.choice((1, 60, 400, 1000))

    def check(self) -> None:
        alive = self.alive()
        recent = self.now - (self.budget.seconds or 0)
        may_be = sum(note.payment.amount for note in alive if note.since > recent)
        taken = sum(note.charged for note in self.notes if note.settled and note.since > recent)
        spent = self.ledger.spent(self.budget)
        rows = [str(note.payment.row) for note in self.notes if note.since > recent]
        given_back = "CASE state WHEN 'expired' THEN micro_usd ELSE uncounted END"
        ((forgiven,),) = query(self.ledger.path, f"COALESCE(SUM({given_back}), 0)", f"WHERE id IN ({','.join(rows)})")
        # No chain tells of what was taken after a rejection; that is forgiven once.
        assert taken + may_be <= spent + min(forgiven, self.budget.micro_usd)
        assert spent <= self.budget.micro_usd
        ceilings = [note for note in alive if _over(note)]
        if not self.exact_since_ceilings():
            assert sum(note.payment.amount for note in ceilings) <= self.rpc.balance
        with_permit = [note for note in ceilings if note.permit]
        assert len(with_permit) <= 1
        if not with_permit:
            assert sum(note.payment.amount for note in ceilings) <= self.rpc.allowance


def _over(note: Note) -> bool:
    return note.payment.offer.method in ("permit2", "upto")


@pytest.mark.parametrize("seed", effort.chosen(range(24), *range(6)))
def test_what_may_be_taken_is_counted_and_is_there(seed: int, tmp_path: Path) -> None:
    with TokenRpc(8453, balance=200_000, allowance=0, nonce=0) as rpc:
        world = World(seed, tmp_path, rpc)
        for _ in range(STEPS):
            world.any_step()
            world.check()
        assert {note.payment.offer.method for note in world.notes} >= {"exact"}
        world.ledger.close()


def test_the_worlds_see_all_schemes(tmp_path: Path) -> None:
    with TokenRpc(8453, balance=10**7, allowance=10**6, nonce=0) as rpc:
        world = World(1, tmp_path, rpc)
        for _ in range(STEPS):
            world.any_step()
        assert {note.payment.offer.method for note in world.notes} == {"exact", "permit2", "upto", "gateway"}
        world.ledger.close()
