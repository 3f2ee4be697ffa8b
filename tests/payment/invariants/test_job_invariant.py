"""A job is paid by one payment: the same small world as in test_money_invariant, where some requests become jobs.

Its gateway asks for money again when a job is polled, by whichever proxy, at any time, and settles any signature that
it was sent. All signatures of one job share a nonce, so the chain takes one; and what it takes was counted.
"""

from __future__ import annotations

import base64
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http

from mitmproxy_x402.errors import X402Error
from mitmproxy_x402.ledger.interface import Outcome
from mitmproxy_x402.payment.jobs import Jobs
from mitmproxy_x402.payment.polls import Poll, poll_of, remember
from mitmproxy_x402.settings.settings import Settings
from mitmproxy_x402.wallet.sources import Wallets
from support import effort
from support.paying.money_world import CHALLENGES, PRICES, Process, Running, World, run

SEQUENCES = 100
BATCH = 50


class JobWorld(World):
    def __init__(self, *arguments: Any) -> None:
        self.live: dict[int, Jobs] = {}
        self.jobs: dict[str, str] = {}
        """The reference of the payment, by the path where the job is polled."""
        self.polled = 0
        super().__init__(*arguments)

    def start(self, pid: int) -> Process:
        self.live[pid] = Jobs(self.wall)  # memory: a process that ends loses it
        return super().start(pid)

    def gateway(self, process: Process, running: Running) -> None:
        purchase = running.purchase
        super().gateway(process, running)
        payment = purchase.payment
        if (
            running.status == 200
            and not isinstance(purchase, Poll)
            and payment is not None
            and self.random.random() < 0.8
        ):
            path = f"/v1/videos/generations/{len(self.jobs)}"
            remember(f"http://127.0.0.1:80 {path}", purchase, payment, self.live[process.pid])
            self.jobs[path] = payment.reference
            running.status = 202

    def any_step(self) -> None:
        if self.jobs and self.random.random() < 0.4:
            self.poll(self.random.choice(self.processes), self.random.choice(list(self.jobs)))
        else:
            super().any_step()

    def poll(self, process: Process, path: str) -> None:
        request = http.Request.make("GET", f"http://127.0.0.1{path}")
        poll = poll_of(request, process.payer, self.live[process.pid])
        assert poll is not None
        running = Running(poll, -1)
        process.running.append(running)
        if not poll.reuse_retained():
            self.buy(process, running)
        if poll.payment is not None:
            self.polled += 1
            assert poll.payment.reference == self.jobs[path]

    def buy(self, process: Process, running: Running) -> None:
        if not isinstance(running.purchase, Poll):
            super().buy(process, running)
            return
        try:
            run(running.purchase.buy(CHALLENGES[self.random.choice(PRICES)]))
        except X402Error:
            running.purchase.finish(Outcome("unknown", status=400))
            process.running.remove(running)

    def send(self, process: Process, running: Running, payment: Any) -> None:
        super().send(process, running, payment)
        if running.sent and isinstance(running.purchase, Poll):
            until = json.loads(base64.b64decode(payment.header[1]))["payload"]["authorization"]["validBefore"]
            note = self.notes[payment.reference]
            note.valid_until, note.refused = max(note.valid_until, int(until) - self.offset), False


@pytest.mark.parametrize("batch", effort.chosen(range(SEQUENCES // BATCH), 0))
def test_one_payment_for_each_job(batch: int, tmp_path: Path, settings: Settings, wallets: Wallets) -> None:
    polled = 0
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        with closing(JobWorld(seed, tmp_path / f"{seed}.sqlite3", settings, wallets)) as world:
            try:
                world.play()
            except BaseException:
                print(f"seed {seed}")
                raise
            polled += world.polled
    assert polled > BATCH
