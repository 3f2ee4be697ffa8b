"""All that the gateway sells, through the real proxy: jobs and their polls, forms, bytes, batches, what is free."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.sandbox.media import speech
from support import challenges
from support.ledger.ledgers import age
from support.place import Place, place
from support.proxy import Proxy, svm_key
from support.wire import Peer, Upstream

ROOMS = ("videos", "audio", "images")
CLIENTS_OWN = "bm9uZQ=="
SECRETS = ("payment-signature", "x-poll-signature", "x-poll-wallet")
numbers = itertools.count()


@pytest.fixture(scope="module", params=["base-sepolia", "solana-devnet"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for all; at the end, nothing secret of any request is in what mitmproxy has kept."""
    home = tmp_path_factory.mktemp("home")
    kept = ("-w", str(home / "flows"), "--set", f"hardump={home / 'har'}")
    with place(home, *kept, network=request.param) as the_place:
        yield the_place
    seen = (home / "flows").read_bytes() + (home / "har").read_bytes() + the_place.proxy.log.encode()
    assert all(one.target.partition("?")[0].encode() in seen for one in the_place.sandbox.requests)
    for one in the_place.sandbox.requests:
        values = [one.get(name) for name in ("payment-signature", "x-poll-signature")]
        assert not any(value and value.encode() in seen for value in values if value != CLIENTS_OWN)


def on_base(shop: Place) -> bool:
    return next(iter(shop.sandbox.chains)).startswith("eip155:")


def submit(shop: Place, room: str, fault: str = "", **more: Any) -> dict[str, Any]:
    body = {"model": "m", "prompt": f"a cat, the {next(numbers)}th", **more}
    answer = shop.post(body, fault, f"/v1/{room}/generations")
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def poll(shop: Place, job: dict[str, Any], fault: str = "", **headers: str) -> httpx.Response:
    given = {**headers, **({"x-sandbox-fault": fault} if fault else {})}
    return httpx.get(shop.proxy.url + job["poll_url"], headers=given, timeout=20)


class TestJobs:
    @pytest.mark.parametrize("room", ROOMS)
    def test_a_job_is_paid_once_and_arrives(self, shop: Place, room: str) -> None:
        rows, settled, asked = len(shop.rows()), len(shop.sandbox.settled), len(shop.sandbox.requests)
        job = submit(shop, room)
        answers = [poll(shop, job) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [202, 202, 200, 200]
        assert [answer.json()["status"] for answer in answers] == ["queued", "in_progress", "completed", "completed"]
        for answer in answers:
            assert answer.content == shop.sandbox.sent[answer.headers["x-request-id"]].body
        billed = not on_base(shop) and room == "videos"
        shop.expect(rows, [("settled", 5 if on_base(shop) else 2 if billed else 1)])
        assert len(shop.sandbox.settled) - settled == 1
        assert len(shop.sandbox.requests) - asked == 2 + 4 + billed
        assert httpx.get(answers[2].json()["data"][0]["url"], timeout=30).status_code == 200

    def test_polls_carry_what_they_should(self, shop: Place) -> None:
        before = len(shop.sandbox.requests)
        poll(shop, submit(shop, "audio"))
        paid, polled = shop.sandbox.requests[before + 1], shop.sandbox.requests[before + 2]
        if on_base(shop):
            assert polled.get("payment-signature") == paid.get("payment-signature")
            assert polled.get("x-poll-signature") is None
        else:
            assert polled.get("payment-signature") is None
            assert polled.get("x-poll-signature") is not None

    @pytest.mark.parametrize("fault", ["gzip", "split;bytes=7", "gzip, split;bytes=1", "close", "trailers"])
    def test_a_202_is_understood_however_it_comes(self, shop: Place, fault: str) -> None:
        job = submit(shop, "images", fault)
        assert poll(shop, job).status_code == 202

    @pytest.mark.parametrize("fault", ["error;status=503", "drop", "error;status=500;settle=yes", "drop;settle=yes"])
    def test_a_poll_that_fails_is_polled_again(self, shop: Place, fault: str) -> None:
        """Where the money moved with the poll that failed, too: then the same payment gets the result."""
        rows, settled = len(shop.rows()), len(shop.sandbox.settled)
        job = submit(shop, "videos")
        leg = "" if on_base(shop) else ";leg=unpaid"
        for _ in range(2):
            assert poll(shop, job, f"{fault}{leg}").status_code in (502, 503, 500)
        while (answer := poll(shop, job)).status_code == 202:
            pass
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
        assert (len(shop.rows()) - rows, len(shop.sandbox.settled) - settled) == (1, 1)

    def test_a_job_that_fails_says_so_and_its_payment_stays_counted(self, shop: Place) -> None:
        rows = len(shop.rows())
        job = submit(shop, "videos", model="sandbox-failing")
        answers = [poll(shop, job) for _ in range(3)]
        assert answers[2].json()["payment_status"] == "not_charged"
        shop.expect(rows, [("unknown",)], "state")

    def test_clients_that_poll_by_themselves_are_left_alone(self, shop: Place) -> None:
        job = submit(shop, "images")
        before = len(shop.sandbox.requests)
        poll(shop, job, **{"payment-signature": CLIENTS_OWN})
        assert [request.get("x-poll-signature") for request in shop.sandbox.requests[before:]] == [None]
        assert shop.sandbox.requests[before].get("payment-signature") == CLIENTS_OWN


def restarted(home: Path, sandbox: Sandbox, network: str) -> Proxy:
    return Proxy(sandbox.url, home=home, keys={"SOLANA_WALLET_KEY": svm_key()} if "solana" in network else None)


@pytest.mark.parametrize("network", ["base-sepolia", "solana-devnet"])
def test_a_restart_in_the_middle_pays_nothing_twice(home: Path, network: str) -> None:
    with Sandbox(SandboxConfig(networks=(network,))).run_in_thread() as sandbox:
        with restarted(home, sandbox, network) as proxy:
            shop = Place(home, sandbox, proxy)
            jobs = {room: submit(shop, room) for room in ROOMS}
        with restarted(home, sandbox, network) as proxy:
            shop = Place(home, sandbox, proxy)
            answers = {room: [poll(shop, job) for _ in range(3)] for room, job in jobs.items()}
            billed = answers["videos"]
            if network == "solana-devnet":
                assert billed[2].json()["error"]["code"] == "job_payment_pending"
                age(shop.proxy.ledger, 400)
                billed[2] = poll(shop, jobs["videos"])
                shop.expect(0, [("unknown", 1, None), *[("settled", 1, None)] * 2, ("settled", 1, 1)], STATES)
            else:
                shop.expect(0, [("settled", 4, None)] * 3, STATES)
            for room in ROOMS:
                assert [answer.status_code for answer in answers[room]] == [202, 202, 200]
            assert len(sandbox.settled) == 3
            assert len({payment.reference for payment in sandbox.payments}) == len(shop.rows())


STATES = "state, sends, replaces"


def test_a_job_of_another_ledger_is_refused_where_it_asks_for_money(shop: Place, home: Path) -> None:
    if not on_base(shop):
        return  # there a stranger's poll is told that there is no such job
    job = submit(shop, "videos")
    with Proxy(shop.sandbox.url, home=home) as proxy:
        other = Place(home, shop.sandbox, proxy)
        answer = poll(other, job)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "job_unknown")
        assert answer.headers["x-should-retry"] == "false"
        assert other.rows() == []


def test_a_gateway_that_asks_more_for_a_poll_gets_nothing(home: Path) -> None:
    asked: dict[str, Any] = {}

    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            message = upstream.read(peer)
            paid = message.get(b"payment-signature") is not None
            if message.start.startswith(b"GET"):
                peer.send(challenges.answer(challenges.evm(**{"amount": "13081", **asked})))
            elif paid:
                body = b'{"id": "1", "poll_url": "/v1/videos/generations/1"}'
                peer.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            else:
                peer.send(challenges.answer())

    with Upstream(script) as upstream, Proxy(upstream.url, home=home) as proxy:
        assert httpx.post(f"{proxy.url}/v1/videos/generations", json={}, timeout=30).status_code == 202
        for more in ({"amount": "13082"}, {"payTo": "0x" + "77" * 20}, {"network": "eip155:1"}):
            asked = more
            answer = httpx.get(f"{proxy.url}/v1/videos/generations/1", timeout=20)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "job_not_payable")
        sent = {message.get(b"payment-signature") for message in upstream.requests}
        assert len(sent - {None}) == 1


class TestKinds:
    """Every kind of endpoint: paid once, two requests, the bytes as they came."""

    def expect_one_purchase(self, shop: Place, before: tuple[int, int, int]) -> None:
        settled, rows, asked = before
        assert len(shop.sandbox.settled) - settled == 1
        shop.expect(rows, [(1,)], "sends")
        assert len(shop.sandbox.requests) - asked == 2

    @pytest.fixture
    def before(self, shop: Place) -> tuple[int, int, int]:
        return len(shop.sandbox.settled), len(shop.rows()), len(shop.sandbox.requests)

    def test_counting_tokens(self, shop: Place, before: Any) -> None:
        with anthropic.Anthropic(base_url=shop.proxy.url, api_key="any") as client:
            counted = client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "How many?"}])
        assert counted.input_tokens > 0
        self.expect_one_purchase(shop, before)

    @pytest.mark.parametrize("query", ["?alt=sse", "", "?alt=sse&key=any"])
    def test_gemini_streams(self, shop: Place, before: Any, query: str) -> None:
        path = f"/v1beta/models/gemini-2.5-pro:streamGenerateContent{query}"
        answer = shop.post({"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}, path=path)
        assert answer.content == shop.sandbox.sent[answer.headers["x-request-id"]].body
        events = answer.text.split("\r\n\r\n" if "\r\n\r\n" in answer.text else "\n\n")
        parts = json.loads(answer.text) if "alt" not in query else [json.loads(e[6:]) for e in events if e.strip()]
        assert parts[-1]["candidates"][0]["finishReason"] == "STOP"
        self.expect_one_purchase(shop, before)
        assert shop.rows("model")[-1] == ("gemini-2.5-pro",)

    def test_an_image_is_edited(self, shop: Place, before: Any) -> None:
        image = bytes(range(256)) * 400
        with openai.OpenAI(base_url=f"{shop.proxy.url}/v1", api_key="any") as client:
            edited = client.images.edit(model="gpt-image-1", image=("cat.png", image), prompt="größer ☕")
        assert edited.data is not None
        assert edited.data[0].b64_json is not None
        digests = json.loads(base64.b64decode(edited.data[0].b64_json))
        assert digests["image"] == hashlib.sha256(image).hexdigest()
        assert digests["prompt"] == hashlib.sha256("größer ☕".encode()).hexdigest()
        self.expect_one_purchase(shop, before)
        assert shop.rows("model")[-1] == ("gpt-image-1",)

    def test_speech_is_bytes(self, shop: Place, before: Any) -> None:
        text = f"Say it {next(numbers)} times."
        with openai.OpenAI(base_url=f"{shop.proxy.url}/v1", api_key="any") as client:
            with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input=text) as answer:
                heard = b"".join(answer.iter_bytes())
                assert answer.headers["content-type"] == "audio/mpeg"
        assert heard == b"".join(speech(text))
        self.expect_one_purchase(shop, before)

    @pytest.mark.parametrize("path", ["/v1/search?q=caf%C3%A9&n=3", "/api/v1/surf/market/price?symbol=BTC"])
    def test_what_is_got_costs_too(self, shop: Place, before: Any, path: str) -> None:
        answer = httpx.get(shop.proxy.url + path, timeout=20)
        assert answer.content == shop.sandbox.sent[answer.headers["x-request-id"]].body
        assert (answer.json()["method"], answer.json()["query"]) == ("GET", path.partition("?")[2])
        self.expect_one_purchase(shop, before)
        assert httpx.get(shop.proxy.url + path, timeout=20).status_code == 200
        assert len(shop.sandbox.settled) - before[0] == 2

    def test_a_batch_of_calls(self, shop: Place, before: Any) -> None:
        calls = [{"jsonrpc": "2.0", "id": n, "method": "eth_blockNumber", "params": []} for n in (3, 1, 2)]
        answer = shop.post(calls, path="/v1/rpc/base")
        assert [one["id"] for one in answer.json()] == [3, 1, 2]
        assert answer.content == shop.sandbox.sent[answer.headers["x-request-id"]].body
        self.expect_one_purchase(shop, before)


class TestForms:
    def edit(self, shop: Place, image: bytes, boundary: str, fault: str = "") -> httpx.Response:
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        if fault:
            headers["x-sandbox-fault"] = fault
        form, files = {"model": "gpt-image-1", "prompt": "larger"}, {"image": ("cat.png", image, "image/png")}
        return httpx.post(f"{shop.proxy.url}/v1/images/edits", data=form, files=files, headers=headers, timeout=20)

    def test_a_form_repeated_with_another_boundary_is_the_same_request(self, shop: Place) -> None:
        """As SDKs do, which draw a boundary for each try."""
        rows, settled, image = len(shop.rows()), len(shop.sandbox.settled), b"image %d" % next(numbers)
        assert self.edit(shop, image, "first", "error;settle=no").status_code == 500
        assert self.edit(shop, image + b"!", "other").status_code == 200
        assert self.edit(shop, image, "third").status_code == 200
        shop.expect(rows, [(2,), (1,)], "sends")
        assert len(shop.sandbox.settled) - settled == 2

    def test_limits_by_model_bind_forms(self, home: Path) -> None:
        limit = '[[limit]]\nmodel = "gpt-image-*"\nmax_request = "0.0001"\n'
        (home / "x402.toml").write_text(limit)
        with place(home) as shop:
            refused = self.edit(shop, b"image", "one")
            assert refused.json()["error"]["code"] == "over_request_limit"
            assert "model gpt-image-*" in refused.json()["error"]["message"]
            assert (shop.rows(), shop.sandbox.payments) == ([], [])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("GET", "/api/v1/models", None),
        ("GET", "/v1beta/models", None),
        ("GET", "/health", None),
        ("GET", "/api/v1/health", None),
        ("POST", "/v1/chat/completions", {"model": "sandbox-free", "messages": []}),
        ("POST", "/v1/chat/completions", {"model": "sandbox-free", "messages": [], "stream": True}),
        ("GET", "/v1/free/blob?bytes=100000", None),
        ("GET", "/v1/videos/generations/nothing", None),
        ("POST", "/v1/messages", "no JSON"),
    ],
)
def test_what_is_free_costs_no_signature_and_no_round_trip(shop: Place, method: str, path: str, body: Any) -> None:
    asked, rows, payments = len(shop.sandbox.requests), len(shop.rows()), len(shop.sandbox.payments)
    answer = httpx.request(method, shop.proxy.url + path, json=body, timeout=20)
    assert answer.content == shop.sandbox.sent[answer.headers["x-request-id"]].body
    (request,) = shop.sandbox.requests[asked:]
    assert [request.get(name) for name in SECRETS] == [None] * 3
    assert (len(shop.rows()), len(shop.sandbox.payments)) == (rows, payments)
