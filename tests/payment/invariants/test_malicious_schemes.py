"""The budget holds whatever gateways say and take, with all schemes in one sequence.

The worlds of `test_malicious_gateways`, whose gateway offers exact prices on both kinds of chains, exact prices over
Permit2, ceilings and Circle Gateway, with and without a sponsored permit. It takes any part of a ceiling, says that it
took another or nothing, and takes it later. It is judged by the signatures that have reached it: of one nonce one can
move, never more than it was signed for, and Circle's live for a week and are looked up by nobody.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import test_malicious_gateways as malicious
from test_ceiling_invariant import entry

from mitmproxy_x402.errors import X402Error
from mitmproxy_x402.ledger.interface import ChainWord, Outcome
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequired
from mitmproxy_x402.settings.settings import Settings, read_settings
from mitmproxy_x402.wallet.sources import Wallets
from support import challenges, effort
from support.chains.token_rpc import TokenRpc
from support.ledger.ledgers import query
from support.paying.ceilings import PURPOSE, challenge

METHODS = ("exact", "permit2", "upto", "gateway", "svm")
AMOUNTS = (1, 10, 25, 60, 100)
SEQUENCES = 40


@dataclass
class Signature(malicious.Signature):
    """`amount` is the most that can move, all of it where it is no ceiling."""

    nonce: str = ""
    method: str = "exact"
    taken: int = 0


class World(malicious.World):
    """Of one seed; `rpc` is the chain that the wallet's balance and allowance are asked of."""

    rpc: TokenRpc
    loop: asyncio.AbstractEventLoop

    codes = (*malicious.CODES, "permit2_allowance_required", "permit2_invalid_nonce")

    def run(self, buying: Coroutine[Any, Any, Payment]) -> Payment:
        return self.loop.run_until_complete(buying)

    def required(self) -> PaymentRequired:
        if self.random.random() < 0.2:
            self.rpc.allowance = self.random.choice((0, 50, 10**6))
        offered = [self.entry(method) for method in self.random.sample(METHODS, self.random.randint(1, 4))]
        return challenge(*offered, sponsored=self.random.random() < 0.5)

    def entry(self, method: str) -> dict[str, Any]:
        amount = self.random.choice(AMOUNTS)
        if method != "svm":
            return entry(method, amount)
        offered: dict[str, Any] = challenges.svm(recentBlockhash=malicious.BLOCKHASH)["accepts"][0]
        return offered | {"amount": str(amount)}

    def note(self, payment: Payment) -> None:
        message: Any = json.loads(base64.b64decode(payment.header[1]))
        said = message["payload"]
        if "permit2Authorization" in said:
            signed = said["permit2Authorization"]
            nonce, amount, dies = signed["nonce"], int(signed["permitted"]["amount"]), int(signed["deadline"])
            self.seen["permit"] += "amount" in message["extensions"].get("eip2612GasSponsoring", {}).get("info", {})
        elif "authorization" in said:
            signed = said["authorization"]
            nonce, amount, dies = signed["nonce"], int(signed["value"]), int(signed["validBefore"])
        else:
            nonce, amount = said["transaction"], int(payment.amount)
            dies = int(self.now) + malicious.LONGEST_BLOCKHASH
        method = payment.offer.method
        self.seen[method if nonce != said.get("transaction") else "svm"] += 1
        since = self.reserved[payment.row]
        known = Signature(amount, since, dies, payment.row, nonce=nonce, method=method)
        self.signatures.setdefault(f"{nonce} {payment.row}", known)

    def answer(self, number: int, purchase: Purchase) -> None:
        payment, chance = purchase.payment, self.random.random()
        if payment is None or not payment.offer.is_ceiling or chance < 0.5:
            super().answer(number, purchase)
            return
        self.running.remove((number, purchase))
        purchase.answered(200)
        charged = self.random.choice((0, 1, payment.amount // 2, payment.amount, payment.amount + 1))
        state, transaction = ("settled", malicious.TRANSACTION) if charged else ("rejected", "")
        self.seen["charged"] += 1
        outcome = Outcome(state, transaction, 200, charged=AtomicUnits(charged), charged_micro_usd=charged)  # type: ignore[arg-type]
        purchase.finish(outcome, complete=self.random.random() < 0.8)

    def moved(self) -> set[str]:
        """The nonces that are spent."""
        return {str(each.nonce) for each in self.signatures.values() if isinstance(each, Signature) and each.moved}

    def submit(self) -> None:
        for each in self.signatures.values():
            assert isinstance(each, Signature)
            if self.now < each.dies and each.nonce not in self.moved() and self.random.random() < 0.5:
                each.moved = True
                each.taken = self.random.randint(1, each.amount) if each.method == "upto" else each.amount
                self.seen["a part"] += each.taken < each.amount

    def look_up(self) -> None:
        taken = {each.nonce: each.taken for each in self.of_all() if each.moved}
        for each in self.of_all():
            if not each.looked_up and self.now >= each.dies and each.method != "gateway":
                each.looked_up = True
                amount = taken.get(each.nonce)
                word = ChainWord(each.row, "dead")
                if amount is not None:
                    word = ChainWord(each.row, "moved", malicious.TRANSACTION, 1, AtomicUnits(amount), amount)
                self.proxies[0][0].ledger.record_chain([word])

    def of_all(self) -> list[Signature]:
        return [each for each in self.signatures.values() if isinstance(each, Signature)]

    def check(self) -> None:
        counts, moved = self.counts(), self.moved()
        for budget in self.settings.budgets:
            begin = float("-inf") if budget.seconds is None else self.now - budget.seconds
            gone: dict[str, int] = {}
            forgiven = 0
            for each in self.of_all():
                if each.since <= begin:
                    continue
                alive = self.now < each.dies and each.nonce not in moved
                may_be_gone = each.taken if each.moved else each.amount if alive else 0
                gone[each.nonce] = max(gone.get(each.nonce, 0), may_be_gone)
                lied_about = max(may_be_gone - counts[each.row], 0)
                assert not (lied_about and self.looks and each.method != "gateway"), "the chain has said so"
                forgiven += lied_about
            assert sum(gone.values()) - forgiven <= budget.micro_usd
            assert forgiven <= budget.micro_usd

    def counts(self) -> dict[int, int]:
        """What each payment counts for."""
        ledger = self.proxies[0][0].ledger
        assert isinstance(ledger, SqliteLedger)
        ledger.spent_of(self.settings.budgets)
        free = "state IN ('released', 'expired')"
        return dict(query(ledger.path, f"id, CASE WHEN {free} THEN 0 ELSE micro_usd - uncounted END"))


@pytest.fixture(scope="module")
def rpc() -> Iterator[TokenRpc]:
    with TokenRpc(8453, balance=10**9, allowance=0, nonce=0) as node:
        yield node


@pytest.fixture(scope="module", params=["upto", "auto"])
def settings(tmp_path_factory: pytest.TempPathFactory, rpc: TokenRpc, request: pytest.FixtureRequest) -> Settings:
    home = tmp_path_factory.mktemp("home")
    options = {
        **{"x402_budget": "0.000200/hour, 0.000900", "x402_repurchase": "1", "x402_ledger_sync": "false"},
        **{"x402_schemes": request.param, "x402_gateway": "true", "x402_evm_rpc": f"base={rpc.url}"},
    }
    return read_settings(options, {}, cwd=home, home=home)


wallets = malicious.wallets


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture(autouse=True)
def _chain(monkeypatch: pytest.MonkeyPatch, rpc: TokenRpc, loop: asyncio.AbstractEventLoop) -> None:
    monkeypatch.setattr(World, "rpc", rpc, raising=False)
    monkeypatch.setattr(World, "loop", loop, raising=False)


@pytest.mark.more
@pytest.mark.parametrize("looks", [True, False], ids=["looked up", "never looked up"])
def test_no_budget_is_exceeded(tmp_path: Path, settings: Settings, wallets: Wallets, looks: bool) -> None:
    seen: Counter[str] = Counter()
    for seed in range(effort.examples(SEQUENCES)):
        with closing(World(seed, tmp_path / f"{seed}.sqlite3", settings, wallets, looks=looks)) as world:
            try:
                world.play()
            except BaseException as error:
                raise AssertionError(f"seed {seed}") from error
            seen += world.seen
    for what in (*METHODS, "permit", "charged", "a part", "over_budget", "permit2_allowance_required"):
        assert seen[what], what


LIES = {
    "charged little": Outcome("settled", malicious.TRANSACTION, 200, charged=AtomicUnits(1), charged_micro_usd=1),
    "charged nothing": Outcome("rejected", "", 200, charged=AtomicUnits(0), charged_micro_usd=0),
    "no payment": Outcome("rejected", status=402, code="permit2_allowance_required"),
    "nothing": Outcome("unknown"),
}


@pytest.mark.parametrize("settings", ["upto"], indirect=True)
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("method", ["upto", "permit2"])
def test_a_gateway_that_takes_all_and_always_says_the_same_gets_twice_a_budget_at_most(
    tmp_path: Path, settings: Settings, wallets: Wallets, method: str, lie: str
) -> None:
    with closing(World(1, tmp_path / "ledger.sqlite3", settings, wallets, looks=False)) as world:
        payer, _ = world.proxies[0]
        world.rpc.allowance, taken = 10**9, 0
        hour, total = settings.budgets
        assert hour.seconds is not None
        since: list[tuple[float, int]] = []
        for _ in range(120):
            required = challenge(entry(method, 100))
            try:
                payment = world.loop.run_until_complete(payer.pay(required, PURPOSE))
            except X402Error:
                world.now += 500
                continue
            payer.ledger.record_sent(payment.row, payment.reference, payment.valid_until, payment.validity)
            payer.ledger.finish(payment.row, LIES[lie])
            since.append((world.now, payment.amount))
            taken += payment.amount
            assert sum(amount for at, amount in since if at > world.now - hour.seconds) <= 2 * hour.micro_usd
        assert 0 < taken <= 2 * total.micro_usd
