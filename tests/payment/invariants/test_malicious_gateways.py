"""The budget holds whatever gateways say, judged by the signatures that have reached them and not by our own ledger.

Each sequence is a small world of one gateway that says anything in any order, takes any signature to the chain whenever
it likes, whatever it has said of it, and two proxies with one ledger, which end and start anew at any time and then
remember nothing. After every step, what has moved and what can still be moved with the signatures that have left is
added up and compared with each budget. The chain is one that knows a signature's own terms and nothing else.

In one half of the worlds somebody looks payments up when they are dead, as `x402_reconcile` does. In the other half
nobody does, and then what a gateway has said it did not take, and took all the same, counts until the signature is
dead, and is forgiven up to the size of each budget.

`pytest --sequences 50000` runs more of them; a failure names its seed.
"""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.errors import X402Error
from mitmproxy_x402.ledger.clock import Clock
from mitmproxy_x402.ledger.interface import ChainWord, Outcome
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.messages import PaymentRequired
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import Settings, read_settings
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from support import challenges, effort
from support.ledger.ledgers import put_empty_ledger, query
from support.proxy import EVM_KEY, svm_key

STEPS = 40
BATCH = 50
BLOCKHASH = "EkSnNWid2cvwEVnVx9aBqawnmiCNiDgp3gUdkDPTKN1N"
LONGEST_BLOCKHASH = 150
"""Seconds that one lives on a slow day."""
CODES = (
    *("PAYMENT_REPLAY", "PAYMENT_BLOCKHASH_STALE", "PAYMENT_UNDERPAID", "PAYMENT_UNFUNDED", "PAYMENT_INVALID", ""),
    *("SETTLEMENT_FAILED", "insufficient_funds", "invalid_exact_evm_insufficient_balance", "duplicate_settlement"),
)
REJECTIONS = (400, 401, 402, 412)
STATUSES = (200, 200, 200, 202, 204, 206, 300, 304, 307, 400, 401, 403, 404, 413, 422, 426, 429, 500, 502, 503, 529)
TRANSACTION = "0x" + "ab" * 32
REQUESTS = 3


def challenge(amount: int, *, svm: bool) -> PaymentRequired:
    said = challenges.svm(recentBlockhash=BLOCKHASH) if svm else challenges.evm()
    said["accepts"][0]["amount"] = str(amount)
    required = read_payment_required(None, json.dumps(said).encode())
    assert required is not None
    return required


@dataclass
class Signature:
    """One that has reached the gateway: all that the chain goes by."""

    amount: int
    since: float
    """When it was reserved: by that the periods of budgets roll."""
    dies: float
    row: int
    """Of our ledger, for whoever looks it up there."""
    moved: bool = False
    looked_up: bool = False


class World:
    codes = CODES

    def __init__(self, seed: int, place: Path, settings: Settings, wallets: Wallets, *, looks: bool) -> None:
        self.random = random.Random(seed)
        self.place, self.settings, self.wallets, self.looks = place, settings, wallets, looks
        self.now = 1_700_000_000.0
        self.signatures: dict[str, Signature] = {}
        self.reserved: dict[int, float] = {}
        self.seen: Counter[str] = Counter()
        self.running: list[tuple[int, Purchase]] = []
        put_empty_ledger(place, (self.now, self.now, "boot"))
        self.proxies = [self.start(), self.start()]

    def start(self) -> tuple[Payer, RetainedPayments]:
        ledger = SqliteLedger(self.place, Clock(lambda: self.now, lambda: self.now, "boot"))
        payer = Payer(self.settings, self.wallets, ledger, clock=lambda: self.now, entropy=self.random.randbytes)
        return payer, RetainedPayments(lambda: self.now)

    def restart(self) -> None:
        """One proxy ends in the middle of everything, and comes back without a memory."""
        number = self.random.randrange(2)
        self.running = [each for each in self.running if each[0] != number]
        self.proxies[number][0].ledger.close()
        self.proxies[number] = self.start()

    # The clients.

    def ask(self) -> None:
        number = self.random.randrange(2)
        payer, retained = self.proxies[number]
        identity = RequestIdentity(("POST", "http://127.0.0.1:1", "/v1/x"), b"%d" % self.random.randrange(REQUESTS))
        purchase = Purchase(payer, retained, Purpose("POST", "127.0.0.1", "/v1/x"), identity)
        self.running.append((number, purchase))
        if not (retained.expects(identity.route) and purchase.reuse_retained()):
            self.buy(number, purchase)

    def buy(self, number: int, purchase: Purchase) -> None:
        try:
            payment = self.run(purchase.buy(self.required()))
        except X402Error as error:
            self.seen[getattr(error, "reason", "")] += 1
            self.running.remove((number, purchase))
            purchase.finish(Outcome("unknown", status=400), complete=False)
        else:
            self.reserved[payment.row] = self.now

    def run(self, buying: Coroutine[Any, Any, Payment]) -> Payment:
        """To its end: nothing is waited for."""
        try:
            buying.send(None)
        except StopIteration as made:
            return made.value  # type: ignore[no-any-return]
        raise AssertionError("it waited")

    def required(self) -> PaymentRequired:
        return challenge(self.random.choice((1, 10, 25, 60, 100)), svm=self.random.random() < 0.4)

    def send(self, number: int, purchase: Purchase) -> None:
        try:
            purchase.sending()
        except X402Error:
            self.running.remove((number, purchase))
            purchase.finish(Outcome("unknown", status=400), complete=False)
            return
        assert purchase.payment is not None
        self.note(purchase.payment)

    def note(self, payment: Payment) -> None:
        """What the gateway has in hand now."""
        said: Any = json.loads(base64.b64decode(payment.header[1]))["payload"]
        authorization = said.get("authorization")
        reference = authorization["nonce"] if authorization else said["transaction"]
        amount = int(authorization["value"]) if authorization else int(payment.amount)
        dies = int(authorization["validBefore"]) if authorization else self.now + LONGEST_BLOCKHASH
        known = self.signatures.setdefault(reference, Signature(amount, self.reserved[payment.row], dies, payment.row))
        self.seen["evm" if authorization else "svm"] += 1
        assert known.dies >= dies or not authorization

    # The gateway.

    def answer(self, number: int, purchase: Purchase) -> None:
        chance = self.random.random()
        if chance < 0.45:
            self.reject(number, purchase)
            return
        self.running.remove((number, purchase))
        if chance < 0.55:
            purchase.finish(Outcome("unknown"), complete=False)
            return
        status = self.random.choice(STATUSES)
        purchase.answered(status)
        claims = self.random.random() < 0.4
        outcome = Outcome("settled", TRANSACTION, status) if claims else Outcome("unknown", status=status)
        purchase.finish(outcome, complete=200 <= status < 300 and self.random.random() < 0.6)

    def reject(self, number: int, purchase: Purchase) -> None:
        code, status = self.random.choice(self.codes), self.random.choice(REJECTIONS)
        self.seen[code] += 1
        try:
            again = purchase.rejected(code, status)
        except X402Error as error:
            self.seen[getattr(error, "reason", "")] += 1
            again = False
        if again:
            self.buy(number, purchase)
            return
        purchase.answered(status)
        self.running.remove((number, purchase))
        purchase.finish(Outcome("unknown", status=status), complete=False)

    def submit(self) -> None:
        for signature in self.signatures.values():
            if self.now < signature.dies and self.random.random() < 0.5:
                signature.moved = True

    def look_up(self) -> None:
        """The chain has the last word on each signature that is dead."""
        for signature in self.signatures.values():
            if not signature.looked_up and self.now >= signature.dies:
                signature.looked_up = True
                self.proxies[0][0].ledger.record_chain(
                    [ChainWord(signature.row, "moved" if signature.moved else "dead", TRANSACTION)]
                )

    # What must hold.

    def check(self) -> None:
        states = {} if self.looks else self.states()
        for budget in self.settings.budgets:
            begin = float("-inf") if budget.seconds is None else self.now - budget.seconds
            may_be_gone = forgiven = 0
            for signature in self.signatures.values():
                if signature.since > begin and (self.now < signature.dies or signature.moved):
                    may_be_gone += signature.amount
                    forgiven += signature.amount if states.get(signature.row) == "expired" else 0
            assert may_be_gone - forgiven <= budget.micro_usd
            assert forgiven <= budget.micro_usd

    def states(self) -> dict[int, str]:
        ledger = self.proxies[0][0].ledger
        assert isinstance(ledger, SqliteLedger)
        ledger.spent_of(self.settings.budgets)
        return dict(query(ledger.path, "id, state"))

    def step(self) -> None:
        chance = self.random.random()
        if chance < 0.35 or not self.running:
            self.ask()
        elif chance < 0.85:
            number, purchase = self.random.choice(self.running)
            if purchase.sent and (purchase.payment is None or self.random.random() < 0.9):
                self.answer(number, purchase)
            else:
                self.send(number, purchase)
        elif chance < 0.88:
            self.restart()
        elif chance < 0.94:
            self.submit()
        else:
            self.now += self.random.choice((1, 20, 100, 290, 700, 1000, 3700))

    def play(self) -> None:
        for _ in range(STEPS):
            self.step()
            if self.looks:
                self.look_up()
            self.check()

    def close(self) -> None:
        for payer, _ in self.proxies:
            payer.ledger.close()
        for file in self.place.parent.glob(f"{self.place.name}*"):
            file.unlink()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "batch" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--sequences")
        metafunc.parametrize("batch", effort.batches(asked, 2000, BATCH, quick=1))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    options = {"x402_budget": "0.000200/hour, 0.000900", "x402_repurchase": "1", "x402_ledger_sync": "false"}
    return read_settings(options, {}, cwd=home, home=home)


@pytest.fixture(scope="module")
def wallets(tmp_path_factory: pytest.TempPathFactory) -> Wallets:
    keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, "SOLANA_WALLET_KEY": svm_key()}
    return load_wallets(WalletSources(keys, tmp_path_factory.mktemp("keys")))


@pytest.mark.parametrize("looks", [True, False], ids=["looked up", "never looked up"])
def test_no_budget_is_exceeded(batch: int, tmp_path: Path, settings: Settings, wallets: Wallets, looks: bool) -> None:
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        with closing(World(seed, tmp_path / f"{seed}.sqlite3", settings, wallets, looks=looks)) as world:
            try:
                world.play()
            except BaseException as error:
                raise AssertionError(f"seed {seed}") from error


def test_the_worlds_see_all_of_it(tmp_path: Path, settings: Settings, wallets: Wallets) -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        with closing(World(seed, tmp_path / f"{seed}.sqlite3", settings, wallets, looks=bool(seed % 2))) as world:
            world.play()
            seen += world.seen
            seen["moved"] += sum(each.moved for each in world.signatures.values())
            seen["several"] += len(world.signatures) > 3
    for what in (*CODES, "evm", "svm", "moved", "several", "over_budget", "over_repurchase_limit", "wallet_unfunded"):
        assert seen[what], what
