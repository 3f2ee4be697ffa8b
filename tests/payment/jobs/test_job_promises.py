"""What a 202 promises, which request is a poll, and for how long a job is remembered."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow
from solders.pubkey import Pubkey
from solders.signature import Signature

from mitmproxy_x402.gateways import blockrun
from mitmproxy_x402.hooks.answers import watch_for_job
from mitmproxy_x402.ledger.interface import LedgerError
from mitmproxy_x402.payment import jobs
from mitmproxy_x402.payment.jobs import JOB_SECONDS, MAX_ADDRESS, MAX_JOBS, MAX_PROMISE, Job, Jobs, Promise
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.polls import poll_of
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support import challenges
from support.paying.jobs import POLL, SUBMIT, SUBMITTED, WHERE, Gateway, buy, refused, request
from support.proxy import svm_key
from support.running.memory import held


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
