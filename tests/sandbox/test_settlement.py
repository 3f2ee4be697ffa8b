"""When money moves, what the answer says of it, and what a payment is good for when its work failed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support.chains.reference_payer import CHAT, PATH, decoded, encoded
from support.patience import eventually

BASE, SOLANA = "eip155:84532", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
STREAM = {**CHAT, "stream": True}
BOTH = pytest.mark.parametrize("network", [BASE, SOLANA], ids=["base", "solana"])


def receipt(response: httpx.Response) -> str | None:
    """The transaction id in an answer, empty when it says none, None without a receipt."""
    header = response.headers.get("payment-response")
    return None if header is None else decoded(header)["transaction"]


@pytest.mark.parametrize(
    ("network", "settle", "stream", "known"),
    [
        (BASE, "vendor", False, True),
        (BASE, "vendor", True, False),  # the header leaves before the last chunk does
        (SOLANA, "vendor", False, True),
        (SOLANA, "vendor", True, True),
        (BASE, "before", True, True),
        (BASE, "parallel", True, True),
        (SOLANA, "after", True, False),
    ],
)
def test_the_id_is_there_when_money_moved_before_the_headers(
    start: Any, network: str, settle: str, stream: bool, known: bool
) -> None:
    sandbox, shopper = start(network, settle=settle)
    response = shopper.buy(STREAM if stream else CHAT)
    [payment] = sandbox.settled
    assert receipt(response) == (payment.transaction if known else "")
    assert payment.transaction


@BOTH
@pytest.mark.parametrize("fault", ["error", "rate-limit", "html", "drop", "redirect"])
def test_work_that_failed_before_settlement_is_free_and_its_payment_still_good(
    start: Any, network: str, fault: str
) -> None:
    sandbox, shopper = start(network, settle="after")
    payment = shopper.payment_for()
    if fault == "drop":
        with pytest.raises(httpx.RemoteProtocolError):
            shopper.ask(payment=payment, fault=fault)
    else:
        assert receipt(shopper.ask(payment=payment, fault=fault)) is None
    assert [seen.state for seen in sandbox.payments] == ["released"]
    assert shopper.ask(payment=payment).status_code == 200
    assert [(seen.state, seen.attempts) for seen in sandbox.payments] == [("settled", 2)]


@BOTH
@pytest.mark.parametrize("settle", ["parallel", "before"])
def test_work_that_failed_after_settlement_is_charged_and_its_payment_a_replay(
    start: Any, network: str, settle: str
) -> None:
    sandbox, shopper = start(network, settle=settle)
    payment = shopper.payment_for()
    failed = shopper.ask(payment=payment, fault="error;status=503")
    assert failed.status_code == 503
    assert receipt(failed) == (sandbox.payments[0].transaction if settle == "before" else None)
    again = shopper.ask(payment=payment)
    assert again.status_code == 402
    assert again.json()["code"] == "PAYMENT_REPLAY"
    assert [(seen.state, seen.attempts) for seen in sandbox.payments] == [("settled", 1)]


def test_a_fault_can_decide_about_the_money_itself(start: Any) -> None:
    sandbox, shopper = start(settle="after")
    shopper.buy(fault="error;settle=yes")
    assert sandbox.payments[-1].state == "settled"
    sandbox, shopper = start(settle="before")
    shopper.buy(fault="error;settle=no")
    assert sandbox.payments[-1].state == "released"


def test_upfront_money_stays_when_the_work_fails(start: Any) -> None:
    sandbox, shopper = start(payment_flow="upfront")
    assert receipt(shopper.buy(fault="error")) == sandbox.settled[0].transaction


@BOTH
def test_a_503_twice_then_one_charge(start: Any, network: str) -> None:
    sandbox, shopper = start(network, settle="after")
    payment = shopper.payment_for()
    reordered = dict(reversed(CHAT.items()))
    asked = (CHAT, reordered, CHAT)
    statuses = [shopper.ask(body, payment=payment, fault="error;status=503;n=2").status_code for body in asked]
    assert statuses == [503, 503, 200]
    assert len(sandbox.settled) == 1


@BOTH
def test_a_settled_payment_is_a_replay_for_ever(start: Any, network: str) -> None:
    sandbox, shopper = start(network)
    payment = shopper.payment_for()
    assert shopper.ask(payment=payment).status_code == 200
    for _ in range(2):
        assert shopper.ask(payment=payment).json()["code"] == "PAYMENT_REPLAY"
    assert len(sandbox.payments) == 1


def test_a_cut_stream_is_charged_unless_told_otherwise(start: Any) -> None:
    sandbox, shopper = start()
    for fault, state in (("cut", "settled"), ("cut;settle=no", "released")):
        payment = shopper.payment_for(STREAM)
        with pytest.raises(httpx.RemoteProtocolError):
            shopper.ask(STREAM, payment=payment, fault=fault)
        assert sandbox.payments[-1].state == state


@BOTH
def test_one_payment_sent_four_times_at_once_is_charged_once(start: Any, network: str) -> None:
    sandbox, shopper = start(network, settle="after")
    payment = shopper.payment_for()
    together = threading.Barrier(4)

    def send(_: int) -> int:
        together.wait()
        return int(shopper.ask(payment=payment, fault="slow-head;seconds=0.2").status_code)

    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(send, range(4)))
    assert statuses == [200, 402, 402, 402]
    assert len(sandbox.settled) == 1


@BOTH
def test_a_failed_attempt_that_ends_late_leaves_the_next_one_alone(start: Any, network: str) -> None:
    """The first answer is still being sent while the same payment is already used again."""
    sandbox, shopper = start(network, settle="after")
    payment = shopper.payment_for(STREAM)
    failing = {**encoded(payment), "x-sandbox-fault": "error, stall-after;after=0"}
    with shopper.http.stream("POST", PATH, json=STREAM, headers=failing) as failed:
        assert failed.status_code == 500
        going = {**encoded(payment), "x-sandbox-fault": "stall-after;after=1"}
        with shopper.http.stream("POST", PATH, json=STREAM, headers=going) as second:
            assert second.status_code == 200
            failed.close()
            assert sandbox.payments[0].state == "held"
            assert shopper.ask(STREAM, payment=payment).json()["code"] == "PAYMENT_REPLAY"
    eventually(lambda: sandbox.payments[0].state == "settled")
    assert sandbox.payments[0].attempts == 2


@BOTH
def test_money_that_is_gone_at_settlement_fails_it(start: Any, network: str) -> None:
    """Two payments were verified while there was money for one."""
    sandbox, shopper = start(network, settle="after")
    slow, quick = shopper.payment_for(STREAM), shopper.payment_for(STREAM)
    sandbox.fund(network, shopper.address, int(slow["accepted"]["amount"]))
    headers = {**encoded(slow), "x-sandbox-fault": "stall-after;after=1"}
    with shopper.http.stream("POST", PATH, json=STREAM, headers=headers) as stalled:
        assert stalled.status_code == 200
        assert shopper.ask(STREAM, payment=quick).status_code == 200
    eventually(lambda: [payment.state for payment in sandbox.payments] == ["failed", "settled"])
    assert sandbox.balance(network, shopper.address) == 0


def test_a_client_that_leaves_a_stream_pays_for_it(start: Any) -> None:
    sandbox, shopper = start()
    headers = {**encoded(shopper.payment_for(STREAM)), "x-sandbox-fault": "stall-after;after=1"}
    with shopper.http.stream("POST", PATH, json=STREAM, headers=headers):
        assert sandbox.payments[0].state == "held"
    eventually(lambda: sandbox.payments[0].state == "settled")
    assert not next(reversed(sandbox.sent.values())).complete
