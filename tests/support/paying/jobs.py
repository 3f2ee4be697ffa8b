"""Jobs at a gateway that a test plays: what was submitted, its polls, and their bills."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from mitmproxy_x402.errors import Refused
from mitmproxy_x402.hooks.answers import watch_for_job
from mitmproxy_x402.ledger.clock import Clock
from mitmproxy_x402.ledger.interface import Outcome, Submitted
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.jobs import Jobs
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.polls import Poll, poll_of
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.payment.signing.signer import BLOCKHASH_END
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2, PaymentRequired
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from support import challenges
from support.ledger.ledgers import query
from support.proxy import EVM_ADDRESS, EVM_KEY, svm_key

DEAD = BLOCKHASH_END
SUBMIT = "/v1/videos/generations"
POLL = f"/api{SUBMIT}/vid%2F1?duration=8&sig=x"
WHERE = f"https://gateway.blockrun.ai:443 {SUBMIT}/vid/1"
TERMS = (Caip2("eip155:84532"), "0xa", "0xb", AtomicUnits(7))
SUBMITTED = Submitted(1, 1, "POST", SUBMIT, "m", *TERMS, "unknown", "0xn", EVM_ADDRESS)
TRANSACTION = "0x" + "ab" * 32
OTHER = "0x" + "77" * 20


def request(path: str = POLL, method: str = "GET", **headers: str) -> http.Request:
    made = http.Request.make(method, f"https://gateway.blockrun.ai{path}", headers=dict(headers))
    made.path = path  # as it came
    return made


class Gateway:
    """One proxy's rooms below the hooks, with a clock to be set; a restart makes new ones on the same ledger."""

    def __init__(self, home: Path, **options: str) -> None:
        self.home, self.now = home, 1_700_000_000.0
        self.options = {"x402_ledger": str(home / "ledger.sqlite3")} | {f"x402_{k}": v for k, v in options.items()}
        self.wallets = load_wallets(
            WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY, "SOLANA_WALLET_KEY": svm_key()}, home)
        )
        self.start()

    def start(self, wallets: Wallets | None = None, **options: str) -> None:
        if hasattr(self, "payer"):
            self.payer.ledger.close()
        given = self.options | {f"x402_{k}": v for k, v in options.items()}
        settings = read_settings(given, {}, cwd=self.home, home=self.home)
        ledger = SqliteLedger(self.home / "ledger.sqlite3", Clock(self.clock, self.clock, "one"))
        self.payer = Payer(settings, wallets or self.wallets, ledger, clock=self.clock)
        self.jobs, self.retained = Jobs(self.clock), RetainedPayments(self.clock)

    def clock(self) -> float:
        return self.now

    def submit(self, challenge: dict[str, Any], body: bytes | None = None, **headers: str) -> Payment:
        """A request that was paid for and answered 202."""
        flow = tflow.tflow(req=request(SUBMIT, "POST"), resp=http.Response.make(202, b"", dict(headers)))
        assert flow.response is not None
        flow.response.stream = True
        purchase = Purchase(
            self.payer,
            self.retained,
            Purpose("POST", "gateway.blockrun.ai", SUBMIT, "m"),
            RequestIdentity(("", "", "")),
        )
        payment = asyncio.run(purchase.buy(required(challenge)))
        purchase.sending()
        watch_for_job(flow, purchase, self.jobs)
        assert callable(flow.response.stream)
        for chunk in (json.dumps({"poll_url": POLL}).encode() if body is None else body, b""):
            assert flow.response.stream(chunk) == chunk
        purchase.finish(Outcome("unknown", status=202), complete=True)
        return payment

    def poll(self, path: str = POLL, **headers: str) -> Poll:
        poll = poll_of(request(path, **headers), self.payer, self.jobs)
        assert poll is not None
        return poll

    def rows(self) -> list[Any]:
        return query(self.payer.ledger.place, "state, sends, replaces, job IS NOT NULL")


def required(challenge: dict[str, Any]) -> PaymentRequired:
    found = read_payment_required(None, json.dumps(challenge).encode())
    assert found is not None
    return found


def svm(amount: str = "1000", **more: Any) -> dict[str, Any]:
    challenge = challenges.svm(recentBlockhash="4vJ9JU1bJJE96FWSJKvHsmmFADCg4gpZQff4P3bkLKi")
    challenge["accepts"][0] |= {"amount": amount, **more}
    return challenge


def buy(poll: Poll, challenge: dict[str, Any]) -> Payment:
    return asyncio.run(poll.buy(required(challenge)))


def refused(poll: Poll, challenge: dict[str, Any]) -> str:
    with pytest.raises(Refused) as caught:
        buy(poll, challenge)
    return caught.value.reason


def authorization(payment: Payment) -> dict[str, str]:
    return dict(json.loads(base64.b64decode(payment.header[1]))["payload"]["authorization"])
