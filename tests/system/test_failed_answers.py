"""What one call of a client costs where the gateway takes the money and answers in a way that makes clients repeat."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brotli
import pytest

from support import challenges, effort
from support.attacker import CLAUDE_TRIES, Stage, http, stage
from support.endings import COMPLETE, INCOMPLETE
from support.recording.zstd import compress as zstd
from support.wire import request as raw_request


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("home"), "--set", "x402_budget=1000") as the_stage:
        yield the_stage


PATHS = {
    "/v1/chat/completions": "[DONE]",
    "/v1/responses": "response.completed",
    "/api/v1/messages": "message_stop",
    "/v1beta/models/g:streamGenerateContent": "finishReason",
}

numbers = itertools.count()


def fresh(**more: Any) -> bytes:
    return json.dumps({"n": next(numbers), **more}).encode()


@pytest.mark.parametrize("name", INCOMPLETE)
def test_an_answer_that_fails_is_paid_once(shop: Stage, name: str) -> None:
    assert shop.call(INCOMPLETE[name], "/v1/any", fresh()) == 1


@pytest.mark.parametrize("name", COMPLETE)
def test_each_complete_answer_is_a_purchase(shop: Stage, name: str) -> None:
    assert shop.call(COMPLETE[name], "/v1/any", fresh(), tries=3) == 3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("end", PATHS.values())
def test_a_client_needs_the_end_of_its_own_dialect(shop: Stage, path: str, end: str) -> None:
    assert shop.call(COMPLETE[end], path, fresh(), tries=3) == (3 if PATHS[path] == end else 1)


def test_what_a_client_cannot_take_is_no_answer(shop: Stage) -> None:
    streamed = {"content-type": "application/json"}
    whole = http(200, b'{"output": []}')
    assert shop.call(whole, "/v1/responses", fresh(stream=True), **streamed) == 1
    assert shop.call(COMPLETE["Ollama's lines"], "/api/chat", fresh(stream=True), tries=2, **streamed) == 2
    assert shop.call(whole, "/v1/responses", fresh(), accept="text/event-stream") == 1
    assert shop.call(whole, "/v1/responses", fresh(), tries=2, accept="application/json, text/event-stream") == 2
    assert shop.call(whole, "/v1/responses", fresh(text='"stream": true'), tries=2, **streamed) == 2
    assert shop.call(http(200, b"<p>", content_type="text/html"), "/v1/responses", fresh(), **streamed) == 1
    assert shop.call(http(200, b"<p>", content_type="text/html"), "/page", b"", method="GET", tries=2) == 2
    assert shop.call(http(200, b'{"output": ['), "/v1/responses", fresh(), **streamed) == 1


def test_what_may_be_cut_off_is_no_complete_answer(shop: Stage) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} "
    assert shop.call(answer, "/v1/lengths", fresh(), tries=3) == 1
    assert len(shop.attacker.payments["/v1/lengths"]) == 3


@pytest.mark.parametrize("size", [10, 2 << 20])
@pytest.mark.parametrize("terms", [True, False])
def test_a_payment_outlives_a_402_of_any_length(shop: Stage, size: int, *, terms: bool) -> None:
    """It is passed on, and the payment stays to be sent again, until it is answered."""
    page = b'{"error": "%b"}' % (b"p" * size)
    refusal = challenges.answer(None, page) if terms else http(402, page)
    path, body, seen = "/v1/long", fresh(), []
    told = lambda n: http(500) if n == 0 else refusal if n < 3 else http(200, b"{}")  # noqa: E731
    assert (
        shop.call(told, path, body, tries=4, done=lambda each: bool(seen.append((each.status_code, each.content)))) == 1
    )
    assert seen == [(500, b""), (402, page), (402, page), (200, b"{}")]
    assert len(shop.attacker.payments[path]) == 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_chain_of_redirects_is_paid_once(shop: Stage, status: int) -> None:
    """Each hop has an address of its own."""
    headers: set[str] = set()
    for hop in range(12):
        location = http(status, b"", f"Location: /hop{status}/{hop + 1}?n={hop}")
        shop.attacker.answers[f"/hop{status}/{hop}"] = lambda _, location=location: location
        shop.attacker.payments.clear()
    shop.attacker.answers[f"/hop{status}/12"] = lambda _: http(200, b"{}")
    first = shop.attacker.answers[f"/hop{status}/0"](0)
    assert first is not None
    assert shop.call(first, f"/hop{status}/0", fresh(), tries=1, follow=True) == 1
    for path in list(shop.attacker.payments):
        headers |= shop.attacker.references(path)
    assert len(shop.attacker.payments) == 13
    assert len(headers) == 1


def test_a_client_that_follows_redirects_pays_once(shop: Stage) -> None:
    for status in (307, 308):
        answer = http(status, b"", "Location: /v1/messages")
        assert shop.call(answer, "/v1/messages", fresh(), tries=CLAUDE_TRIES, follow=True) == 1


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_compressed_request_is_known_again(shop: Stage, coding: str) -> None:
    """Also where it is compressed anew, or the other way round: what counts is what it says."""
    compress = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd}[coding]
    body = fresh(text="t" * 1000)
    answers = {"content-encoding": coding, "content-type": "application/json"}
    assert shop.call(http(500), "/v1/responses", compress(body), **answers) == 1
    reordered = json.dumps(dict(reversed(json.loads(body).items()))).encode()
    before = shop.attacker.references("/v1/responses")
    shop.call(http(500), "/v1/responses", compress(reordered), tries=1, **answers)
    assert shop.attacker.references("/v1/responses") == before


def test_what_cannot_be_decoded_is_compared_as_it_came(shop: Stage) -> None:
    assert shop.call(http(500), "/v1/responses", b"no zstd %d" % next(numbers), **{"content-encoding": "zstd"}) == 1
    assert shop.call(http(500), "/v1/responses", b"no such %d" % next(numbers), **{"content-encoding": "other"}) == 1
    bomb = gzip.compress(bytes(200 << 20))
    assert shop.call(http(500), "/v1/responses", bomb, tries=2, **{"content-encoding": "gzip"}) == 1


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PROPFIND"])
def test_what_delivers_nothing_is_never_paid(shop: Stage, method: str) -> None:
    assert shop.call(http(200), "/v1/any", b"", method=method, tries=1) == 0


def test_a_websocket_handshake_is_never_paid(shop: Stage) -> None:
    shop.attacker.answers["/v1/socket"] = lambda _: http(400)
    fields = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: " + "A" * 24,
    )
    for _ in range(8):
        with shop.proxy.client() as client:
            client.send(raw_request("GET", "/v1/socket", b"", *fields))
            assert client.until(b"\r\n").split()[1] == b"402"
    assert not shop.attacker.payments["/v1/socket"]


CHANGERS = {
    "modify_body": ("--modify-body", "/~q/t/changed"),
    "modify_headers": ("--modify-headers", "/~q/x-request-id/other"),
    "map_remote": ("--map-remote", "|/v1/alias|/v1/responses"),
}
LATER = """
import itertools
number = itertools.count()

def request(flow):
    flow.request.headers["x-attempt"] = str(next(number))
    flow.request.text = flow.request.text.replace("}", f', "time": {next(number)}}}')
"""


@pytest.mark.parametrize("name", [*CHANGERS, "a later script", "an earlier script"])
def test_what_changes_requests_makes_no_other_of_them(home: Path, name: str) -> None:
    script = home / "later.py"
    script.write_text(LATER)
    arguments = ("-s", str(script)) if name == "a later script" else CHANGERS.get(name, ())
    path = "/v1/alias" if name == "map_remote" else "/v1/responses"
    with stage(home, *arguments, first=script if name == "an earlier script" else None) as shop:
        shop.attacker.answers["/v1/responses"] = lambda _: http(500)
        if name == "map_remote":
            shop.call(http(500), path, fresh(text="t"))
            assert len(shop.attacker.references("/v1/responses")) == 1
        else:
            assert shop.call(http(500), path, fresh(text="t")) == 1


ANSWERS_ITSELF = """
from mitmproxy import http

def request(flow):
    if "x-answer" in flow.request.headers:
        flow.response = http.Response.make(200, b"from a script")
"""


def test_a_payment_is_retained_through_an_answer_of_another_addon(home: Path) -> None:
    script = home / "answers.py"
    script.write_text(ANSWERS_ITSELF)
    with stage(home, "-s", str(script)) as shop:
        body = fresh()
        assert shop.call(http(500), "/v1/x", body, tries=1) == 1
        first = shop.attacker.references("/v1/x")
        shop.call(http(500), "/v1/x", body, tries=1, **{"x-answer": "1"})
        assert shop.attacker.references("/v1/x") == set()
        shop.call(http(500), "/v1/x", body, tries=2)
        assert shop.attacker.references("/v1/x") == first


@pytest.mark.parametrize("coding", effort.chosen(["identity", "gzip"], "gzip"))
def test_a_large_body_holds_nobody_up(home: Path, coding: str) -> None:
    """Its digest takes its time in a thread; the client's repetitions are known all the same."""
    messages = [{"role": "user", "content": "t" * 2000, "n": number} for number in range(12_000)]
    bodies = [fresh(messages=messages), fresh(messages=messages)]
    if coding == "gzip":
        bodies = [gzip.compress(body, 1) for body in bodies]
    with stage(home) as shop:
        for body in bodies:
            assert shop.call(http(500), "/v1/x", body, tries=3, **{"content-encoding": coding}) == 1
