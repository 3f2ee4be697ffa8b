"""One request, one payment: the official SDKs and their own retries, through the proxy, against the sandbox."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from support.patience import eventually
from support.place import Place, place
from support.wire import request as raw_request

pytestmark = pytest.mark.usefixtures("started_anew")

FAULTS = {
    "500": "error;n=2",
    "500, settled": "error;n=2;settle=yes",
    "429": "rate-limit;after=0;n=2",
    "dropped": "drop;n=2",
    "dropped, settled": "drop;n=1;settle=yes",
    "reset": "drop;how=reset;n=2",
    "html": "html;n=1",
}


@pytest.fixture(scope="module", params=["base-sepolia", "solana-devnet"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("home"), network=request.param) as the_place:
        yield the_place


def ask_openai(url: str, fault: str, content: str, *, stream: bool) -> str:
    headers = {"x-sandbox-fault": fault}
    messages: Any = [{"role": "user", "content": content}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=2, default_headers=headers) as client:
        answer: Any = client.chat.completions.create(model="sandbox-1", messages=messages, stream=stream)
        if stream:
            return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
        return str(answer.choices[0].message.content)


def ask_anthropic(url: str, fault: str, content: str, *, stream: bool) -> str:
    headers = {"x-sandbox-fault": fault}
    messages: Any = [{"role": "user", "content": content}]
    with anthropic.Anthropic(base_url=url, api_key="any", max_retries=2, default_headers=headers) as client:
        if stream:
            with client.messages.stream(model="sandbox-1", max_tokens=100, messages=messages) as events:
                return "".join(events.text_stream)
        answer: Any = client.messages.create(model="sandbox-1", max_tokens=100, messages=messages)
        return str(answer.content[0].text)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDKs wait half a second and more before they repeat."""
    for sdk in (openai, anthropic):
        monkeypatch.setattr(sdk._base_client.SyncAPIClient, "_calculate_retry_timeout", lambda *_, **__: 0.01)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("ask", [ask_openai, ask_anthropic])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_sdk_that_repeats_is_charged_once(shop: Place, ask: Any, fault: str, stream: bool) -> None:
    """Also where the gateway had settled before it failed: then a second purchase is what gets an answer."""
    before, rows = len(shop.sandbox.settled), len(shop.rows())
    text = ask(shop.proxy.url, FAULTS[fault], f"{ask.__name__} {fault} {stream}", stream=stream)
    assert text
    charged_failures = "settled" in fault or shop.sandbox.config.networks == ("solana-devnet",)
    purchases = 2 if charged_failures else 1
    shop.expect_settled(before, purchases)
    assert len(shop.rows()) - rows == purchases


def chat(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "sandbox-1", "messages": [{"role": "user", "content": content}], **more}


numbers = itertools.count()


@pytest.fixture
def fresh() -> str:
    """A text that no other test asks with."""
    return f"question {next(numbers)}"


def settled(shop: Place) -> int:
    return len(shop.sandbox.settled)


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_stream_that_was_cut_is_paid_once(shop: Place, fresh: str, how: str) -> None:
    before, rows = settled(shop), len(shop.rows())
    body = chat(fresh, stream=True)
    with pytest.raises(httpx.RemoteProtocolError):
        shop.post(body, f"cut;how={how};n=1;settle=no")
    assert "[DONE]" in shop.post(body, f"cut;how={how};n=1;settle=no").text
    assert settled(shop) - before == 1
    shop.expect(rows, [(2,)], "sends")


def test_reordered_keys_are_the_same_request(shop: Place, fresh: str) -> None:
    """Codex reorders the keys when it repeats a request; a proxy that compares bytes would pay for each try."""
    before, rows = settled(shop), len(shop.rows())
    body = chat(fresh, temperature=0.5, top_p=1)
    for turn in range(6):
        shuffled = dict(sorted(body.items(), key=lambda item: hash((item[0], turn))))
        answer = shop.post(json.dumps(shuffled).encode(), "error;n=5;settle=no")
        assert answer.status_code == (500 if turn < 5 else 200)
    assert settled(shop) - before == 1
    shop.expect(rows, [(6,)], "sends")


def test_bodies_that_are_no_json_are_compared_byte_for_byte(shop: Place, fresh: str) -> None:
    rows = len(shop.rows())
    first, other = fresh.encode() + b"\0\xff", fresh.encode() + b"\0\xfe"
    assert shop.post(first, "error;settle=no", "/v1/echo").status_code == 500
    assert shop.post(other, "", "/v1/echo").status_code == 200
    assert shop.post(first, "", "/v1/echo").status_code == 200
    shop.expect(rows, [(2,), (1,)], "sends")


def test_a_gateway_that_settles_and_fails_for_ever_costs_two_payments(shop: Place, fresh: str) -> None:
    before, rows = settled(shop), len(shop.rows())
    answers = [shop.post(chat(fresh), "error;settle=yes") for _ in range(30)]
    assert settled(shop) - before == 2
    assert len(shop.rows()) - rows == 2
    first, second = shop.rows("id, replaces")[rows:]
    assert second[1] == first[0]
    assert {answer.status_code for answer in answers[:2]} == {500}
    assert {answer.status_code for answer in answers[2:]} <= {400, 402}
    refusals = [answer for answer in answers if answer.status_code == 400]
    assert "x402_repurchase" in refusals[0].json()["error"]["message"]
    assert refusals[0].headers["x-should-retry"] == "false"


def test_a_complete_answer_lends_nothing(shop: Place, fresh: str) -> None:
    before, rows = settled(shop), len(shop.rows())
    for _ in range(3):
        assert shop.post(chat(fresh)).status_code == 200
    assert settled(shop) - before == 3
    shop.expect(rows, [(1,), (1,), (1,)], "sends")


def test_requests_side_by_side_are_purchases_of_their_own(shop: Place, fresh: str) -> None:
    before = settled(shop)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.post(chat(fresh), "slow-head;seconds=0.3").status_code, range(8)))
    assert answers == [200] * 8
    assert settled(shop) - before == 8
    references = shop.rows("reference")[-8:]
    assert len(set(references)) == 8


def test_one_request_at_a_time_uses_a_held_payment(shop: Place, fresh: str) -> None:
    before, rows = settled(shop), len(shop.rows())
    assert shop.post(chat(fresh), "error;n=1;settle=no").status_code == 500
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: shop.post(chat(fresh), "error;n=1;settle=no").status_code, range(3)))
    assert answers == [200] * 3
    assert settled(shop) - before == 3
    eventually(lambda: sorted(sends for _, sends in shop.rows()[rows:]) == [1, 1, 2], shop.rows)


def test_a_client_that_left_comes_back(shop: Place, fresh: str) -> None:
    before, rows, asked = settled(shop), len(shop.rows()), len(shop.sandbox.requests)
    body = json.dumps(chat(fresh)).encode()
    fault = "x-sandbox-fault: stall;n=1;settle=no"
    client = shop.proxy.client()
    client.send(raw_request("POST", "/v1/chat/completions", body, fault, "content-type: application/json"))
    shop.wait_for_payments(rows + 1)
    eventually(lambda: any(one.get("payment-signature") for one in list(shop.sandbox.requests)[asked:]))
    client.close()
    shop.proxy.wait_for(f"payment of .*not confirmed yet, {shop.rows('reference')[-1][0]}")
    with shop.proxy.client() as again:
        answer = again.ask(raw_request("POST", "/v1/chat/completions", body, fault, "content-type: application/json"))
    # The sandbox has not noticed that the first one left, so to it the payment is in use.
    assert answer.status in (200, 402)
    assert settled(shop) - before <= 1


@pytest.mark.parametrize("code", ["PAYMENT_BLOCKHASH_STALE", "PAYMENT_UNDERPAID"])
@pytest.mark.parametrize("status", [402, 401, 400])
@pytest.mark.parametrize("challenge", ["auto", "no"])
def test_what_was_never_broadcast_is_signed_anew_once(
    shop: Place, fresh: str, code: str, status: int, challenge: str
) -> None:
    rows = len(shop.rows())
    fault = f"reject;code={code};status={status};challenge={challenge}"
    assert shop.post(chat(fresh), f"{fault};n=1").status_code == 200
    shop.expect(rows, [("rejected", 1), ("settled", 1)])
    rejected = shop.post(chat(fresh), fault)
    assert rejected.status_code == status
    assert rejected.json()["code"] == code
    shop.expect(rows + 2, [("rejected", 1), ("rejected", 1)])


@pytest.mark.parametrize("code", ["PAYMENT_INVALID", "SETTLEMENT_FAILED", "PAYMENT_REPLAY", "OTHER"])
def test_other_rejections_reach_the_client_as_they_are(shop: Place, fresh: str, code: str) -> None:
    """They prove nothing: the payment stays counted, and the next try sends the very same one."""
    rows = len(shop.rows())
    answer = shop.post(chat(fresh), f"reject;code={code};n=1")
    assert answer.status_code == 402
    assert answer.json()["code"] == code
    shop.expect(rows, [("unknown", 1)])
    assert shop.post(chat(fresh), f"reject;code={code};n=1").status_code == 200
    shop.expect(rows, [("settled", 2)])


def test_a_plain_error_after_a_payment_is_no_rejection(shop: Place, fresh: str) -> None:
    for status in (400, 401):
        answer = shop.post(chat(fresh), f"error;status={status};settle=yes")
        assert answer.status_code == status
        assert "The sandbox was told to fail." in answer.text


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_request_that_was_paid_often_enough_is_refused_in_our_words(home: Path, allowed: int) -> None:
    """From the try on that finds its payment spent: the gateway's own error for that would help nobody."""
    with place(home, "--set", f"x402_repurchase={allowed}") as shop:
        for _ in range(1 + allowed):
            assert shop.post(chat("a"), "error;settle=yes").status_code == 500
        for _ in range(2):
            refused = shop.post(chat("a"), "error;settle=yes")
            assert (refused.status_code, refused.headers["x-should-retry"]) == (400, "false")
            assert refused.json()["error"]["code"] == "over_repurchase_limit"
            message = refused.json()["error"]["message"]
            assert f"was paid {['once', '2 times'][allowed]} within" in message
            assert f"x402_repurchase allows {allowed} beyond the first" in message
        assert settled(shop) == 1 + allowed
        assert shop.post(chat("b")).status_code == 200


def test_a_purchase_again_stays_within_the_budget(home: Path) -> None:
    with place(home, "--set", "x402_budget=0.02") as shop:
        assert shop.post(chat("a"), "error;settle=yes").status_code == 500
        price = shop.rows("micro_usd")[0][0]
    with place(home, "--set", f"x402_budget={(2 * price + price // 2) / 1e6:.6f}") as shop:
        assert shop.post(chat("a"), "error;settle=yes").status_code == 500
        over = shop.post(chat("a"), "error;settle=yes")
        assert over.json()["error"]["code"] == "over_budget"
        assert "Before that, this request was paid" in over.json()["error"]["message"]
        assert settled(shop) == 1
