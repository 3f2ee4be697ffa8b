"""A small world of two proxies with one ledger, a gateway, and clients, in which anything may happen in any order."""

from __future__ import annotations

import base64
import json
import random
import sqlite3
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mitmproxy_x402.errors import X402Error
from mitmproxy_x402.forecast.forecast import TRUST
from mitmproxy_x402.forecast.quote import Question
from mitmproxy_x402.ledger.clock import Clock
from mitmproxy_x402.ledger.interface import LAPSE_SECONDS, Ledger, Outcome
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.postgres import SharedRetainedPayments
from mitmproxy_x402.payment.retained.store import Retained, RetainedPayments
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.messages import PaymentRequired
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl
from mitmproxy_x402.settings.settings import Settings
from mitmproxy_x402.wallet.sources import Wallets
from support import challenges
from support.ledger.ledgers import DatabaseTimes, put_empty_ledger

STEPS = 30
NOT_TAKEN = ("PAYMENT_UNDERPAID", "PAYMENT_BLOCKHASH_STALE")
PRICES = (10, 25, 60)
CONTENTS = 3
"""Different requests."""
TRANSACTION = "0x" + "ab" * 32
PLACE = ("POST", "http://h:1", "/v1/x")
WORDS = "what an unpaid request is told"


def challenge(amount: int) -> PaymentRequired:
    required = read_payment_required(None, json.dumps(challenges.evm(str(amount))).encode())
    assert required is not None
    return required


def question(content: int) -> Question:
    return Question(PLACE, "m", 100 + content, 100 + content, None)


CHALLENGES = {price: challenge(price) for price in PRICES}


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """To its end: signing for EVM waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


@dataclass
class Note:
    """One payment as the gateway knows it."""

    amount: int
    since: float
    """True time of its reservation."""
    valid_until: float
    busy: bool = False
    settled: bool = False
    refused: bool = False
    superseded: bool = False
    """The gateway asked anew; whoever saw the header may still submit it, though the gateway will not."""


@dataclass
class Running:
    """A request under way in one of the proxies."""

    purchase: Purchase
    content: int
    sent: bool = False
    status: int = 0


@dataclass
class Process:
    """One proxy; all of it is lost in a crash."""

    pid: int
    ledger: Ledger
    payer: Payer
    retained: Retained
    running: list[Running] = field(default_factory=list)
    late: list[Callable[[], object]] = field(default_factory=list)
    """What it does later on."""

    def catch_up(self) -> None:
        while self.late:
            self.late.pop()()


class World:
    def __init__(
        self, seed: int, place: LedgerPlace, settings: Settings, wallets: Wallets, *, ahead: bool = False
    ) -> None:
        self.random = random.Random(seed)
        self.ahead = ahead
        self.prices = [self.random.choice(PRICES) for _ in range(CONTENTS)]
        self.sent_ahead = 0
        self.place = place
        self.settings, self.wallets = replace(settings, preauthorize=ahead), wallets
        self.now = 1_700_000_000.0
        self.offset, self.booted, self.boot = 0.0, self.now - 100, 0
        self.slowest = 0.0
        self.notes: dict[str, Note] = {}
        self.reserved: dict[str, float] = {}
        if isinstance(place, Path):
            put_empty_ledger(place, (self.wall(), self.now - self.booted, f"boot-{self.boot}"))
        self.processes = [self.start(pid) for pid in (1, 2)]
        self.raw = sqlite3.connect(place) if isinstance(place, Path) else None

    # The machine.

    def start(self, pid: int) -> Process:
        ledger = self.open()
        late: list[Callable[[], object]] = []
        payer = Payer(
            self.settings,
            self.wallets,
            ledger,
            clock=self.wall,
            entropy=self.random.randbytes,
            later=lambda _, call: late.append(call),
        )
        self.teach(payer)
        return Process(pid, ledger, payer, self.hold(ledger), late=late)

    def wall(self) -> float:
        return self.now + self.offset

    def open(self) -> Ledger:
        assert isinstance(self.place, Path)
        return SqliteLedger(self.place, Clock(self.wall, lambda: self.now - self.booted, f"boot-{self.boot}"))

    def hold(self, _: Ledger) -> Retained:
        return RetainedPayments(self.wall, lambda: self.now - self.booted)

    def teach(self, payer: Payer) -> None:
        """As many challenges as it takes; that they were paid is left out."""
        for content, price in enumerate(self.prices):
            required = CHALLENGES[price]
            for _ in range((TRUST + 1) * (payer.forecast is not None)):
                assert payer.forecast is not None
                payer.forecast.learn(question(content), required, required.accepts[0], WORDS, payer.clock())
                payer.forecast.acknowledged(question(content), True)

    def crash(self, process: Process) -> None:
        self.kill(process)
        self.processes[self.processes.index(process)] = self.start(process.pid)

    def kill(self, process: Process) -> None:
        process.ledger.close()  # which lets go of the lock by which others know that a process lives

    def query(self, columns: str, rest: str) -> list[tuple[Any, ...]]:
        assert self.raw is not None
        return self.raw.execute(f"SELECT {columns} FROM payment {rest}").fetchall()

    def reboot(self) -> None:
        self.boot += 1
        self.now += self.random.choice((60, 3600))
        self.booted = self.now
        # Nothing but the wall clock tells how long a machine was off, so there it may have lost time, not gained some.
        self.offset = self.slowest = min(self.slowest, self.random.choice((0, 0, -3600, -40 * 86400)))
        for process in self.processes:
            self.kill(process)
        self.processes = [self.start(process.pid) for process in self.processes]

    # The clients.

    def ask(self, process: Process) -> None:
        content = self.random.randrange(CONTENTS)
        identity = RequestIdentity(PLACE, b'{"n": %d}' % content)
        purpose = Purpose("POST", "127.0.0.1", "/v1/x", "m")
        running = Running(Purchase(process.payer, process.retained, purpose, identity, question(content)), content)
        process.running.append(running)
        if process.retained.expects(identity.route) and running.purchase.reuse_retained():
            return
        if (
            running.purchase.is_new
            and process.retained.may_be_retained_elsewhere(identity.route)
            and running.purchase.reuse_retained()
        ):
            return
        if running.purchase.predict():
            assert running.purchase.payment is not None
            self.reserved[running.purchase.payment.reference] = self.now
        else:
            self.buy(process, running)

    def buy(self, process: Process, running: Running) -> None:
        try:
            price = self.prices[running.content] if self.ahead else self.random.choice(PRICES)
            payment: Payment = run(running.purchase.buy(CHALLENGES[price], lambda: WORDS))
            self.reserved[payment.reference] = self.now
        except X402Error:
            running.purchase.finish(Outcome("unknown", status=400), complete=False)
            process.running.remove(running)

    def step(self, process: Process, running: Running) -> None:
        purchase = running.purchase
        if self.random.random() < 0.15:
            self.end(process, running, 0)
        elif running.status:
            self.end(process, running, running.status)
        elif running.sent:
            self.gateway(process, running)
        elif purchase.payment is not None:
            self.send(process, running, purchase.payment)

    def send(self, process: Process, running: Running, payment: Payment) -> None:
        try:
            running.purchase.sending()
        except X402Error:
            if running.purchase.ahead:  # the first leg goes without it, and is asked for one
                self.buy(process, running)
            else:
                self.end(process, running, 400)
            return
        running.sent = True
        self.sent_ahead += running.purchase.ahead
        if payment.reference not in self.notes:
            authorization = json.loads(base64.b64decode(payment.header[1]))["payload"]["authorization"]
            self.notes[payment.reference] = Note(
                int(authorization["value"]),
                self.reserved[payment.reference],
                int(authorization["validBefore"]) - self.offset,
            )
        if self.random.random() < 0.1:  # mitmproxy's connection was closed: the same payment on another one
            running.purchase.sending()

    def end(self, process: Process, running: Running, status: int) -> None:
        process.running.remove(running)
        if status and self.random.random() < 0.9:
            told = status == 200 and running.sent and self.note(running).settled and self.random.random() < 0.7
            outcome = Outcome("settled", TRANSACTION, status) if told else Outcome("unknown", status=status)
            running.purchase.finish(outcome, complete=status == 200 and self.random.random() < 0.8)
        else:
            running.purchase.finish(Outcome("unknown"), complete=False)

    # The gateway.

    def note(self, running: Running) -> Note:
        assert running.purchase.payment is not None
        return self.notes[running.purchase.payment.reference]

    def settle(self, note: Note) -> None:
        if not note.refused and self.now < note.valid_until:
            note.settled = True

    def gateway(self, process: Process, running: Running) -> None:
        note = self.note(running)
        if note.settled or (note.busy and self.random.random() < 0.5):
            self.reject(process, running, "PAYMENT_REPLAY")
            return
        note.busy = True
        chance = self.random.random()
        misfit = running.purchase.ahead and note.amount != self.prices[running.content]
        if chance < 0.15 or (misfit and chance < 0.95):
            code = self.random.choice([*NOT_TAKEN, "PAYMENT_INVALID", ""])
            note.refused = note.refused or code in (*NOT_TAKEN, "")
            self.reject(process, running, code)
        else:
            if chance < 0.7:
                self.settle(note)
            running.status = self.random.choice((200, 200, 200, 500, 429, 400))
            running.purchase.answered(running.status, lambda: self.random.random() < 0.9)

    def reject(self, process: Process, running: Running, code: str) -> None:
        note = self.note(running)
        try:
            again = running.purchase.rejected(code, 402, lambda: self.random.choice((WORDS, "other words")))
        except X402Error:  # it was paid often enough
            self.end(process, running, 400)
            return
        if again:
            note.superseded = running.purchase.state == "superseded"
            running.sent = False
            self.buy(process, running)
        else:
            running.purchase.answered(402)
            self.end(process, running, 402)

    # What must hold.

    def any_step(self) -> None:
        process = self.random.choice(self.processes)
        if self.ahead and self.random.random() < 0.1:
            self.prices[self.random.randrange(CONTENTS)] = self.random.choice(PRICES)
            if self.random.random() < 0.5:
                self.teach(process.payer)
        if self.random.random() < 0.5:
            process.catch_up()
        chance = self.random.random()
        if chance < 0.3:
            self.ask(process)
        elif chance < 0.86:
            if process.running:
                self.step(process, self.random.choice(process.running))
        elif chance < 0.89:
            self.crash(process)
        elif chance < 0.9:
            self.reboot()
        elif chance < 0.94:
            self.offset = self.random.choice((0, 7200, -7200, 40 * 86400, -40 * 86400))
            self.slowest = min(self.slowest, self.offset)
        elif chance < 0.98:
            self.now += self.random.choice((1, 60, 900, 3600, 43200))
        else:  # the gateway settles what it was sent long ago
            for note in self.notes.values():
                self.settle(note)

    def check(self) -> None:
        ledger = self.processes[0].ledger
        states: dict[str, str] = dict(self.query("reference, state", "WHERE sends > 0"))
        for reference, note in self.notes.items():
            if note.settled:
                assert states[reference] in ("sent", "unknown", "settled")
        for budget in self.settings.budgets:
            begin = 0 if budget.seconds is None else self.now - budget.seconds
            may_be = [n for n in self.notes.values() if n.settled or (n.superseded and self.now < n.valid_until)]
            assert sum(n.amount for n in may_be if n.since > begin) <= ledger.spent(budget) <= budget.micro_usd
        reserved = len(self.query("id", "WHERE state = 'reserved'"))
        waiting = [r for p in self.processes for r in p.running if r.purchase.payment is not None and not r.sent]
        assert reserved <= len(waiting)

    def play(self) -> None:
        for _ in range(STEPS):
            self.any_step()
            self.check()
        for process in self.processes:
            for running in list(process.running):
                self.end(process, running, 0)
            process.catch_up()
        self.now += LAPSE_SECONDS + 1
        self.check()
        assert not self.query("id", "WHERE state IN ('reserved', 'sent')")

    def close(self) -> None:
        for process in self.processes:
            process.ledger.close()
        if self.raw is not None and isinstance(self.place, Path):
            self.raw.close()
            for file in self.place.parent.glob(f"{self.place.name}*"):
                file.unlink()


class SharedWorld(World):
    """The ledger is in a database, whose clock may lose time, too; what a proxy holds outlives it."""

    def __init__(self, seed: int, place: PostgresUrl, settings: Settings, wallets: Wallets) -> None:
        with closing(DatabaseTimes(place)) as self.times:
            super().__init__(seed, place, settings, wallets, ahead=bool(seed % 2))
            self.play()
            self.close()

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, seconds: float) -> None:
        self._now = seconds
        self.times.wall = seconds + getattr(self, "slowest", 0)

    def open(self) -> Ledger:
        assert isinstance(self.place, PostgresUrl)
        return PostgresLedger(self.place)

    def hold(self, ledger: Ledger) -> Retained:
        assert isinstance(ledger, PostgresLedger)
        return SharedRetainedPayments(ledger, self.wallets, self.settings.networks, self.wall)

    def query(self, columns: str, rest: str) -> list[tuple[Any, ...]]:
        return self.times.ask(f"SELECT {columns} FROM x402_payment {rest}")

    def kill(self, process: Process) -> None:
        assert isinstance(process.ledger, PostgresLedger)
        ((session,),) = process.ledger.link.ask("SELECT current_setting('x402.session')::integer")
        process.ledger.close()
        while (session,) in self.times.ask("SELECT x402_alive()"):
            time.sleep(0.001)
