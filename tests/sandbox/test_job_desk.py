"""Slow work: jobs, their polls, and when their money moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from solders.keypair import Keypair

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.chains.reference_payer import Message, Shopper, challenge_of, encoded

BASE, SOLANA = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
Start = Callable[..., tuple[Sandbox, Shopper]]
ROOMS = {"videos": "video", "audio": "audio", "images": "image"}
WORK = {"model": "m", "prompt": "a cat on the moon"}
DAY = 24 * 3600


def submit(shopper: Shopper, room: str, **more: Any) -> tuple[httpx.Response, Message]:
    """The answer to a paid request for slow work, and its payment."""
    body, path = {**WORK, **more}, f"/v1/{room}/generations"
    payment = shopper.payment_for(body, path=path)
    return shopper.ask(body, path=path, payment=payment), payment


def poll(shopper: Shopper, job: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> httpx.Response:
    return shopper.http.get(job["poll_url"], headers=headers)


def proof(key: Keypair, room: str, job: Mapping[str, Any], when: float | None = None, **other: str) -> dict[str, str]:
    moment = str(int(time.time() if when is None else when))
    job_id = unquote(job["poll_url"].partition("?")[0].rpartition("/")[2])
    signed = key.sign_message(f"blockrun-poll:v1:{ROOMS[room]}:{job_id}:{moment}".encode())
    return {"x-poll-wallet": str(key.pubkey()), "x-poll-timestamp": moment, "x-poll-signature": str(signed), **other}


@pytest.mark.parametrize("room", ROOMS)
def test_on_base_money_moves_with_the_poll_that_finds_it_done(start: Start, room: str) -> None:
    sandbox, shopper = start()
    answer, payment = submit(shopper, room)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert "payment-response" not in answer.headers
    answers = [poll(shopper, answer.json(), encoded(payment)) for _ in range(4)]
    assert [one.status_code for one in answers] == [202, 202, 200, 200]
    assert [one.json()["status"] for one in answers] == ["queued", "in_progress", "completed", "completed"]
    assert ["payment-response" in one.headers for one in answers] == [False, False, True, False]
    assert len(sandbox.settled) == 1
    assert answers[3].json()["payment"]["tx_hash"] == sandbox.settled[0].transaction
    assert len(httpx.get(answers[2].json()["data"][0]["url"], timeout=30).content) == 4097


@pytest.mark.parametrize("room", ROOMS)
def test_on_solana_a_proof_shows_the_job(start: Start, room: str) -> None:
    sandbox, shopper = start(SOLANA)
    answer, _ = submit(shopper, room)
    at_once = room != "videos"
    assert ("payment-response" in answer.headers, len(sandbox.settled)) == (at_once, at_once)
    job = answer.json()
    headers = proof(shopper.payer.svm, room, job)
    assert [poll(shopper, job, headers).status_code for _ in range(2)] == [202, 202]
    done = poll(shopper, job, headers)
    assert done.status_code == (200 if at_once else 402)
    assert done.json()["status"] == "completed"
    if not at_once:
        bill = shopper.payer.payment(challenge_of(done), SOLANA)
        paid = poll(shopper, job, encoded(bill))
        assert paid.status_code == 200
        assert "payment-response" in paid.headers
    assert poll(shopper, job, headers).json()["payment"]["status"] == "already_settled"
    assert len(sandbox.settled) == 1


@pytest.mark.parametrize("room", ROOMS)
def test_a_proof_that_is_none_meets_no_job(start: Start, room: str) -> None:
    _, shopper = start(SOLANA)
    job = submit(shopper, room)[0].json()
    key = shopper.payer.svm
    good = proof(key, room, job)
    other = next(name for name in ROOMS if name != room)
    for bad in (
        proof(Keypair(), room, job),
        proof(key, other, job),
        proof(key, room, {"poll_url": "/x/another"}),
        proof(key, room, job, time.time() - 301),
        proof(key, room, job, time.time() + 310),
        {**good, "x-poll-wallet": str(Keypair().pubkey())},
        {**good, "x-poll-signature": "1" * 88},
        {**good, "x-poll-timestamp": "now"},
        {"x-poll-signature": good["x-poll-signature"]},
    ):
        answer = poll(shopper, job, bad)
        unknown = shopper.http.get(f"/v1/{room}/generations/nothing")
        assert (answer.status_code, answer.json()) == (unknown.status_code, unknown.json())
        assert answer.status_code == (400 if room == "videos" else 404)
    assert poll(shopper, job, good).status_code == 202


def test_a_bare_poll_is_asked_for_money(start: Start) -> None:
    _, shopper = start()
    answer, payment = submit(shopper, "images")
    asked = challenge_of(poll(shopper, answer.json()))
    assert [entry["amount"] for entry in asked["accepts"] if entry["scheme"] == "exact"] == [
        payment["accepted"]["amount"]
    ] * 2
    assert asked["resource"]["url"].endswith(answer.json()["poll_url"])


def test_only_who_paid_may_poll(start: Start) -> None:
    sandbox, shopper = start()
    job = submit(shopper, "audio")[0].json()
    with Shopper(sandbox.url) as other:
        payment = other.payer.payment(challenge_of(poll(other, job)), BASE)
        assert poll(other, job, encoded(payment)).status_code == 404
    assert sandbox.settled == []
    assert {record.state for record in sandbox.payments} == {"released"}


def test_another_signature_of_the_payer_is_as_good_and_pays_once(start: Start) -> None:
    sandbox, shopper = start()
    job = submit(shopper, "videos")[0].json()
    payments = [shopper.payer.payment(challenge_of(poll(shopper, job)), BASE) for _ in range(4)]
    assert [poll(shopper, job, encoded(payment)).status_code for payment in payments] == [202, 202, 200, 200]
    assert len(sandbox.settled) == 1


def test_a_job_that_fails_costs_nothing_after_success(start: Start) -> None:
    sandbox, shopper = start(job_polls=0)
    answer, payment = submit(shopper, "videos", model="sandbox-failing")
    failed = poll(shopper, answer.json(), encoded(payment))
    assert (failed.status_code, failed.json()["status"]) == (200, "failed")
    assert failed.json()["payment_status"] == "not_charged"
    assert sandbox.settled == []


def test_the_same_payment_again_is_the_same_job(start: Start) -> None:
    """As when the first answer was lost on its way."""
    sandbox, shopper = start()
    first, payment = submit(shopper, "images")
    path = "/v1/images/generations"
    again = shopper.ask(WORK, path=path, payment=payment)
    assert again.json()["id"] == first.json()["id"]
    other = shopper.ask({**WORK, "prompt": "a dog on the moon"}, path=path, payment=payment)
    assert (other.status_code, other.json()["code"]) == (402, "PAYMENT_REPLAY")
    assert len(sandbox.payments) == 1


@pytest.mark.parametrize(("settle", "at_once"), [("before", True), ("after", False), ("parallel", True)])
@pytest.mark.parametrize("network", [BASE, SOLANA])
def test_money_moves_when_the_configuration_says(start: Start, network: str, settle: str, at_once: bool) -> None:
    sandbox, shopper = start(network, settle=settle, job_polls=0)
    answer, payment = submit(shopper, "videos")
    assert len(sandbox.settled) == at_once
    if not at_once:
        assert poll(shopper, answer.json(), encoded(payment)).status_code == 200
    assert len(sandbox.settled) == 1


def test_jobs_are_forgotten() -> None:
    now = time.time()
    sandbox = Sandbox(SandboxConfig(free=True, clock=lambda: now))
    with sandbox.run_in_thread(), httpx.Client(base_url=sandbox.url, timeout=30) as http:
        job = http.post("/v1/audio/generations", json=WORK).json()
        assert [http.get(job["poll_url"]).status_code for _ in range(3)] == [202, 202, 200]
        now += DAY
        assert http.get(job["poll_url"]).status_code == 404


def test_faults_happen_to_polls_too(start: Start) -> None:
    sandbox, shopper = start(SOLANA, job_polls=0)
    job = submit(shopper, "images")[0].json()
    headers = proof(shopper.payer.svm, "images", job)
    assert poll(shopper, job, {**headers, "x-sandbox-fault": "error;status=503;leg=unpaid"}).status_code == 503
    with pytest.raises(httpx.RemoteProtocolError):
        poll(shopper, job, {**headers, "x-sandbox-fault": "drop;leg=unpaid"})
    assert poll(shopper, job, headers).json()["status"] == "completed"
    base, buyer = start(job_polls=0)
    answer, payment = submit(buyer, "videos")
    rejected = poll(buyer, answer.json(), {**encoded(payment), "x-sandbox-fault": "reject;code=SETTLEMENT_FAILED"})
    assert (rejected.status_code, rejected.json()["code"]) == (402, "SETTLEMENT_FAILED")
    assert (base.settled, len(sandbox.settled)) == ([], 1)
