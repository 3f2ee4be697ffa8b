"""Jobs: what a 202 promises, which request is a poll, and what may be signed for one. With real ledgers and wallets."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow
from solders.pubkey import Pubkey
from solders.signature import Signature

from mitmproxy_x402.errors import Refused, X402Error
from mitmproxy_x402.gateways import blockrun
from mitmproxy_x402.hooks.answers import watch_for_job
from mitmproxy_x402.ledger.interface import Clock, LedgerError, Outcome, Submitted
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment import jobs
from mitmproxy_x402.payment.jobs import JOB_SECONDS, MAX_ADDRESS, MAX_JOBS, MAX_PROMISE, Job, Jobs, Promise
from mitmproxy_x402.payment.payer import Payer, Payment
from mitmproxy_x402.payment.policy import Purpose
from mitmproxy_x402.payment.polls import Poll, poll_of
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.payment.signing.signer import BLOCKHASH_END
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2, PaymentRequired
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from support import challenges
from support.ledgers import query
from support.memory import held
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


class TestPromise:
    @pytest.mark.parametrize(
        ("said", "where"),
        [
            ({"poll_url": POLL, "id": "other"}, WHERE),
            ({"poll_url": f"https://gateway.blockrun.ai{POLL}"}, WHERE),
            ({"poll_url": f"https://Gateway.BlockRun.ai:443{POLL}"}, WHERE),
            ({"polling_url": POLL}, WHERE),
            ({"poll_url": 7, "polling_url": None, "id": "vid/1"}, WHERE),
            ({"id": "vid/1"}, WHERE),
            ({"poll_url": "generations/vid%2F1"}, WHERE),
            ({"poll_url": "/status?job=1"}, "https://gateway.blockrun.ai:443 /status"),
            ({"poll_url": f"http://gateway.blockrun.ai{POLL}"}, None),
            ({"poll_url": f"https://evil.test{POLL}"}, None),
            ({"poll_url": f"//evil.test{POLL}"}, None),
            ({"poll_url": f"https://gateway.blockrun.ai:8443{POLL}"}, None),
            ({"poll_url": "https://gateway.blockrun.ai:x/"}, None),
            ({"poll_url": "https://[/"}, None),
            ({"poll_url": "data:text/plain,1"}, None),
            ({"poll_url": "/" + "x" * MAX_ADDRESS}, None),
            ({"poll_url": ""}, None),
            ({"id": 7}, None),
            ({"id": ""}, None),
            ({}, None),
            ([POLL], None),
            (POLL, None),
        ],
    )
    def test_what_a_body_names(self, said: Any, where: str | None) -> None:
        assert jobs.promised(request(SUBMIT, "POST"), None, json.dumps(said).encode()) == where

    def test_a_location_is_next_to_the_body(self) -> None:
        submit = request(SUBMIT, "POST")
        assert jobs.promised(submit, POLL, b"") == WHERE
        assert jobs.promised(submit, POLL, b'{"id": "2"}') == WHERE
        assert jobs.promised(submit, "/other", json.dumps({"poll_url": POLL}).encode()) == WHERE
        assert jobs.promised(submit, "https://evil.test/", b"") is None

    @pytest.mark.parametrize("framed", [True, False])
    def test_it_is_whole_however_it_is_cut(self, framed: bool) -> None:
        chance = random.Random(7)
        for size in (0, 1, 50, 3000, MAX_PROMISE):
            body, done = chance.randbytes(size), list[bytes]()
            promise = Promise(str(size) if framed else None, done.append)
            rest = body
            while rest:
                cut = chance.randint(1, len(rest))
                promise(rest[:cut])
                rest = rest[cut:]
                if framed and not rest:
                    assert done == [body]  # with its last byte, before its end
            promise(b"")
            promise(b"")
            assert done == [body]

    def test_a_long_one_is_left_alone(self) -> None:
        done: list[bytes] = []
        for length in (None, str(MAX_PROMISE + 1), "x"):
            promise = Promise(length, done.append)
            for _ in range(3):
                promise(b"x" * MAX_PROMISE)
            promise(b"")
            assert held(promise) <= 3 * MAX_PROMISE
        assert done == []


class TestAddress:
    def test_aliases_and_quoting_are_one_place(self) -> None:
        for path in (POLL, f"{SUBMIT}/vid%2F1", f"{SUBMIT}/vid/1", f"/api{SUBMIT}/%76id%2f1?x"):
            assert jobs.address(request(), path) == WHERE
        for path in (f"{SUBMIT}/vid/2", f"/apis{SUBMIT}/vid/1", f"/api/v2{SUBMIT}/vid/1"):
            assert jobs.address(request(), path) != WHERE

    @pytest.mark.parametrize(
        ("path", "found"),
        [
            (POLL, ("video", "vid/1")),
            ("/v1/audio/generations/mus_1", ("audio", "mus_1")),
            ("/api/v1/images/edits/img%3A1", ("image", "img:1")),
            (SUBMIT, None),
            ("/v1/audio/voices", None),
            ("/v1/videos/generations/a/b", None),
            ("/v2/videos/generations/a", None),
            ("/v1/music/generations/a", None),
            ("/x/v1/videos/generations/a", None),
        ],
    )
    def test_kind_and_id(self, path: str, found: object) -> None:
        assert blockrun.GATEWAY.polled(path) == found

    def test_a_proof_is_what_the_gateway_wants(self, tmp_path: Path) -> None:
        wallet = load_wallets(WalletSources({"SOLANA_WALLET_KEY": svm_key()}, tmp_path)).svm
        assert wallet is not None
        headers = {
            name.decode(): value.decode()
            for name, value in blockrun.GATEWAY.proof(
                wallet.sign_message, wallet.address, ("audio", "mus/1"), 1_700_000_000
            )
        }
        assert headers["x-poll-wallet"] == wallet.address
        assert headers["x-poll-timestamp"] == "1700000000"
        signature, key = Signature.from_string(headers["x-poll-signature"]), Pubkey.from_string(wallet.address)
        assert signature.verify(key, b"blockrun-poll:v1:audio:mus/1:1700000000")
        assert not signature.verify(key, b"blockrun-poll:v1:audio:mus/1:1700000001")


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


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.payer.ledger.close()


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


class TestMemory:
    def test_it_is_bounded(self) -> None:
        live = Jobs(lambda: 0)
        for number in range(MAX_JOBS + 10):
            live.add(Job(f"https://gateway.blockrun.ai:443 /jobs/{number}", "evm", SUBMITTED), "ledger")
        polled = [live.polled(request(f"/jobs/{number}"), "ledger") for number in range(MAX_JOBS + 10)]
        assert sum(address is not None for address in polled) == MAX_JOBS
        assert live.polled(request("/jobs/9"), "ledger") is None
        assert live.polled(request("/jobs/10?x"), "ledger") == "https://gateway.blockrun.ai:443 /jobs/10"

    def test_only_polls_are_looked_up(self, gateway: Gateway) -> None:
        gateway.payer.ledger.close()  # whoever asks it now is found out
        for found in (request("/v1/models"), request(POLL, "POST"), request(POLL, "HEAD"), request("/jobs/1")):
            assert poll_of(found, gateway.payer, gateway.jobs) is None
        assert refused(gateway.poll(), challenges.evm()) == "job_unknown"

    def test_a_job_of_another_ledger_is_unknown(self, gateway: Gateway) -> None:
        gateway.jobs.add(Job(WHERE, "evm", SUBMITTED), "elsewhere")
        assert refused(gateway.poll(), challenges.evm()) == "job_unknown"

    def test_it_ends_after_a_day(self, gateway: Gateway) -> None:
        gateway.submit(challenges.evm())
        gateway.now += JOB_SECONDS - 1
        buy(gateway.poll(), challenges.evm())
        gateway.now += 2
        assert refused(gateway.poll(), challenges.evm()) == "job_unknown"
        gateway.start()
        assert refused(gateway.poll(), challenges.evm()) == "job_unknown"

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "identity", "br"])
    def test_the_202_may_be_compressed(self, gateway: Gateway, coding: str) -> None:
        body = json.dumps({"poll_url": POLL}).encode()
        packed = zlib.compress(body, wbits=31 if coding == "gzip" else 15) if coding in ("gzip", "deflate") else body
        if coding == "br":
            packed = b"\x8b" + bytes([len(body) - 1 >> 1 & 0xFF])  # broken
        gateway.submit(challenges.evm(), packed, **{"content-encoding": coding, "content-length": str(len(packed))})
        if coding == "br":
            assert refused(gateway.poll(), challenges.evm()) == "job_unknown"
        else:
            buy(gateway.poll(), challenges.evm())

    def test_what_is_no_paid_202_is_no_job(self, gateway: Gateway) -> None:
        for body in (
            b"",
            b"{}",
            b"<html>",
            json.dumps({"poll_url": f"https://evil.test{POLL}"}).encode(),
            b"x" * 99999,
        ):
            gateway.submit(challenges.evm(), body)
        assert not any(has_job for *_, has_job in gateway.rows())
        flow = tflow.tflow(req=request(SUBMIT, "POST"), resp=http.Response.make(202))
        unpaid = Purchase(
            gateway.payer, gateway.retained, Purpose("POST", "127.0.0.1", "/"), RequestIdentity(("", "", ""))
        )
        for purchase in (unpaid, gateway.poll()):
            assert flow.response is not None
            flow.response.stream = True
            watch_for_job(flow, purchase, gateway.jobs)
            assert flow.response.stream is True

    def test_a_ledger_that_fails_costs_the_restart_only(self, gateway: Gateway, monkeypatch: Any) -> None:
        def fail(*_: object) -> None:
            raise LedgerError("The disk is full.")

        monkeypatch.setattr(gateway.payer.ledger, "record_job", fail)
        payment = gateway.submit(challenges.evm())
        poll = gateway.poll()
        assert poll.reuse_retained()
        assert poll.payment is payment


class TestOnEvm:
    def test_polls_carry_the_jobs_payment(self, gateway: Gateway) -> None:
        payment = gateway.submit(challenges.evm())
        for turn in range(1, 4):
            poll = gateway.poll()
            assert poll.reuse_retained()
            assert poll.headers() == tuple((name.encode(), value.encode()) for name, value in payment.headers)
            poll.sending()
            poll.finish(Outcome("unknown", status=202))
            assert gateway.rows() == [("unknown", 1 + turn, None, 1)]
        poll = gateway.poll()
        poll.reuse_retained()
        poll.sending()
        poll.finish(Outcome("settled", TRANSACTION, 200))
        assert gateway.rows() == [("settled", 5, None, 1)]
        assert (poll.state, poll.transaction) == ("settled", TRANSACTION)

    def test_a_402_is_answered_with_another_signature_of_the_same_payment(self, gateway: Gateway) -> None:
        payment = gateway.submit(challenges.evm())
        gateway.now += 400
        poll = gateway.poll()
        assert not poll.reuse_retained()  # the first one has expired
        renewed = buy(poll, challenges.evm(maxTimeoutSeconds=200))
        first, second = authorization(payment), authorization(renewed)
        assert {key: second[key] for key in ("from", "to", "value", "nonce")} == {
            key: first[key] for key in ("from", "to", "value", "nonce")
        }
        assert int(second["validBefore"]) == gateway.now + 200
        poll.sending()
        assert gateway.rows() == [("unknown", 2, None, 1)]
        assert gateway.payer.ledger.spent(gateway.payer.settings.budgets[0]) == 13081
        assert gateway.poll().reuse_retained()

    def test_so_after_a_restart(self, gateway: Gateway) -> None:
        payment = gateway.submit(challenges.evm())
        gateway.start()
        poll = gateway.poll()
        assert not poll.reuse_retained()
        assert authorization(buy(poll, challenges.evm()))["nonce"] == authorization(payment)["nonce"]
        poll.sending()
        poll.finish(Outcome("settled", TRANSACTION, 200))
        assert gateway.rows() == [("settled", 2, None, 1)]

    def test_for_less_but_never_for_more_or_for_others(self, gateway: Gateway) -> None:
        gateway.submit(challenges.evm())
        poll = gateway.poll()
        for other in (
            {"amount": "13082"},
            {"payTo": OTHER},
            {"network": "eip155:8453", "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "extra": {}},
            {"network": "eip155:1"},
            {"asset": OTHER},
        ):
            assert refused(poll, challenges.evm(**{"amount": "13081", **other})) == "job_not_payable"
        both = challenges.evm("1")
        both["accepts"] = [challenges.evm("99999")["accepts"][0], *both["accepts"]]
        assert authorization(buy(poll, both))["value"] == "1"
        assert gateway.rows() == [("unknown", 1, None, 1)]

    def test_the_limits_of_today_bind(self, gateway: Gateway) -> None:
        gateway.submit(challenges.evm())
        for option, code in (
            ({"max_request": "0.01"}, "over_request_limit"),
            ({"allow_pay_to": OTHER}, "pay_to_not_allowed"),
            ({"allow_hosts": "other.test"}, "upstream_not_allowed"),
            ({"dry_run": "true"}, "dry_run"),
        ):
            gateway.start(**option)
            assert refused(gateway.poll(), challenges.evm()) == code

    def test_another_wallet_pays_nothing(self, gateway: Gateway) -> None:
        gateway.submit(challenges.evm())
        other = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": "0x" + "22" * 32}, gateway.home))
        for wallets in (other, Wallets()):
            gateway.start(wallets)
            assert refused(gateway.poll(), challenges.evm()) == "no_wallet"

    @pytest.mark.parametrize("code", ["", "PAYMENT_INVALID", "PAYMENT_UNDERPAID", "SETTLEMENT_FAILED"])
    def test_a_rejection_is_signed_anew_once(self, gateway: Gateway, code: str) -> None:
        payment = gateway.submit(challenges.evm())
        poll = gateway.poll()
        poll.reuse_retained()
        poll.sending()
        assert poll.rejected(code, 402)
        assert authorization(buy(poll, challenges.evm()))["nonce"] == authorization(payment)["nonce"]
        poll.sending()
        assert not poll.rejected(code, 402)
        poll.finish(Outcome("unknown", status=402))
        assert gateway.rows() == [("unknown", 3, None, 1)]

    def test_a_spent_one_is_not(self, gateway: Gateway) -> None:
        gateway.submit(challenges.evm())
        poll = gateway.poll()
        poll.reuse_retained()
        poll.sending()
        assert not poll.rejected("PAYMENT_REPLAY", 402)

    def test_what_does_not_count_is_not_sent(self, gateway: Gateway) -> None:
        payment = gateway.submit(challenges.evm())
        with closing(sqlite3.connect(gateway.payer.ledger.name)) as file, file:
            file.execute("UPDATE payment SET state = 'rejected'")
        poll = gateway.poll()
        poll.reuse_retained()
        with pytest.raises(LedgerError):
            poll.sending()
        assert payment.row == 1


class TestOnSolana:
    def send(self, poll: Poll, **outcome: Any) -> None:
        poll.sending()
        poll.finish(Outcome(**{"state": "unknown", "status": 200, **outcome}))

    def bill(self, gateway: Gateway) -> Poll:
        """A poll whose proof was answered by a 402."""
        poll = gateway.poll()
        assert poll.reuse_retained()
        poll.sending()
        assert poll.rejected("", 402)
        return poll

    def test_polls_carry_a_fresh_proof_and_no_payment(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        seen = set()
        for _ in range(3):
            gateway.now += 10
            poll = gateway.poll()
            assert poll.reuse_retained()
            headers = dict(poll.headers())
            assert headers[b"x-poll-timestamp"] == b"%d" % gateway.now
            seen.add(headers[b"x-poll-signature"])
            self.send(poll)
            assert not poll.sent
        assert len(seen) == 3
        assert gateway.rows() == [("unknown", 1, None, 1)]

    def test_so_after_a_restart(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.start()
        assert gateway.poll().reuse_retained()

    def test_nobody_elses_proof(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        assert gateway.poll(**{"x-poll-signature": "the client's own"}).headers() == ()
        for wallets in (
            Wallets(),
            load_wallets(WalletSources({"SOLANA_WALLET_KEY": "[" + "3," * 31 + "3]"}, gateway.home)),
        ):
            gateway.start(wallets)
            poll = gateway.poll()
            assert not poll.reuse_retained()
            assert refused(poll, svm()) == "no_wallet"

    def test_a_bill_is_answered_with_the_payment_itself_until_that_is_dead(self, gateway: Gateway) -> None:
        payment = gateway.submit(svm())
        gateway.now += DEAD - 1
        for turn in range(2):
            poll = self.bill(gateway)
            assert buy(poll, svm()) is payment
            assert poll.headers()[0][1] == payment.header[1].encode()
            poll.sending()
            poll.finish(Outcome("unknown") if turn == 0 else Outcome("settled", "5" * 88, 200))
        assert gateway.rows() == [("settled", 3, None, 1)]

    def test_then_with_one_new_payment_and_no_third(self, gateway: Gateway) -> None:
        first = gateway.submit(svm())
        gateway.now += DEAD
        poll = self.bill(gateway)
        second = buy(poll, svm())
        assert second.reference != first.reference
        self.send(poll, state="unknown", status=500)
        assert gateway.rows() == [("unknown", 1, None, 1), ("unknown", 1, 1, 1)]
        assert gateway.payer.ledger.spent(gateway.payer.settings.budgets[0]) == 2000
        again = self.bill(gateway)
        assert buy(again, svm()) is second
        again.sending()
        again.break_off(Outcome("unknown"))
        gateway.now += DEAD
        assert refused(self.bill(gateway), svm()) == "job_already_paid"
        gateway.start()
        assert refused(self.bill(gateway), svm()) == "job_already_paid"
        told = gateway.poll()
        told.reuse_retained()
        self.send(told, state="settled", transaction="5" * 88)
        assert gateway.rows() == [("unknown", 1, None, 1), ("settled", 2, 1, 1)]

    def test_a_payment_that_the_gateway_calls_dead_is_replaced_at_once(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        poll = self.bill(gateway)
        buy(poll, svm())
        poll.sending()
        assert poll.rejected("PAYMENT_BLOCKHASH_STALE", 402)
        buy(poll, svm())
        poll.sending()
        assert gateway.rows() == [("unknown", 2, None, 1), ("sent", 1, 1, 1)]
        poll.break_off(Outcome("unknown"))
        again = self.bill(gateway)
        buy(again, svm())
        again.sending()
        assert again.rejected("PAYMENT_BLOCKHASH_STALE", 402)
        assert refused(again, svm()) == "job_already_paid"

    def test_after_a_restart_not_before_the_first_is_dead(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.start()
        gateway.now += DEAD - 1
        assert refused(self.bill(gateway), svm()) == "job_payment_pending"
        gateway.now += 1
        buy(self.bill(gateway), svm())
        assert [state for state, *_ in gateway.rows()] == ["unknown", "reserved"]

    def test_a_paid_job_gets_no_more(self, gateway: Gateway) -> None:
        payment = gateway.submit(svm())
        gateway.payer.ledger.finish(payment.row, Outcome("settled", "5" * 88))
        for _ in range(2):
            gateway.now += DEAD
            assert refused(self.bill(gateway), svm()) == "job_already_paid"

    def test_what_was_never_broadcast_is_signed_anew_once(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.now += DEAD
        poll = self.bill(gateway)
        buy(poll, svm())
        poll.sending()
        assert poll.rejected("PAYMENT_BLOCKHASH_STALE", 402)
        buy(poll, svm())
        poll.sending()
        assert not poll.rejected("PAYMENT_BLOCKHASH_STALE", 402)
        assert [state for state, *_ in gateway.rows()] == ["unknown", "rejected", "rejected"]
        buy(self.bill(gateway), svm())

    def test_a_rejection_of_the_first_payment_proves_nothing(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        poll = self.bill(gateway)
        buy(poll, svm())
        poll.sending()
        assert not poll.rejected("PAYMENT_UNDERPAID", 402)
        poll.finish(Outcome("unknown", status=402))
        assert gateway.rows() == [("unknown", 2, None, 1)]

    def test_terms_limits_and_budgets_bind(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.now += DEAD
        assert refused(self.bill(gateway), svm("1001")) == "job_not_payable"
        assert (
            refused(self.bill(gateway), svm(payTo="93syNmtT1tTd5ZtPwHqzGf6CM7fKhMmArpv4AM4FtyNX")) == "job_not_payable"
        )
        assert refused(self.bill(gateway), challenges.evm("1000")) == "job_not_payable"
        for option, code in (("budget", "over_budget"), ("max_request", "over_request_limit")):
            gateway.start(**{option: "0.0015" if option == "budget" else "0.0005"})
            assert refused(self.bill(gateway), svm()) == code
        assert gateway.rows() == [("unknown", 1, None, 1)]

    def test_polls_side_by_side_pay_once(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.now += DEAD
        polls = [self.bill(gateway) for _ in range(3)]

        async def together() -> list[Payment]:
            return await asyncio.gather(*(poll.buy(required(svm())) for poll in polls))

        payments = asyncio.run(together())
        assert len({payment.reference for payment in payments}) == 1
        for poll in polls:
            poll.sending()
        assert gateway.rows() == [("unknown", 1, None, 1), ("unknown", 3, 1, 1)]

    def test_what_was_not_sent_is_given_back(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.now += DEAD
        poll = self.bill(gateway)
        buy(poll, svm())
        poll.break_off(Outcome("unknown"))
        assert [state for state, *_ in gateway.rows()] == ["unknown", "released"]
        buy(self.bill(gateway), svm())

    def test_a_402_without_a_bill_is_the_gateways_last_word(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        poll = self.bill(gateway)
        assert not poll.rejected("", 402)
        other = gateway.poll()
        other.reuse_retained()
        assert not other.rejected("PAYMENT_INVALID", 401)


def test_limits_for_the_jobs_model_and_path_bind(tmp_path: Path) -> None:
    (tmp_path / "x402.toml").write_text(f'[[limit]]\npath = "{SUBMIT}"\nmodel = "m"\nmax_request = "0.000999"\n')
    gateway = Gateway(tmp_path)
    with pytest.raises(X402Error, match="for model m and path"):
        gateway.submit(svm())
    (tmp_path / "x402.toml").unlink()
    gateway.start()
    gateway.submit(svm())
    (tmp_path / "x402.toml").write_text(f'[[limit]]\npath = "{SUBMIT}"\nmodel = "m"\nmax_request = "0.000999"\n')
    gateway.start()
    gateway.now += DEAD
    assert refused(gateway.poll(), svm()) == "over_request_limit"
    gateway.payer.ledger.close()
