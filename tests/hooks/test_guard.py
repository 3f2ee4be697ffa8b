"""Who may spend, asked of the real proxy with a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy.test import tutils

from mitmproxy_x402.hooks import guard
from mitmproxy_x402.settings.settings import Settings, read_settings
from support import challenges
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Message, Peer, Upstream, request

TOKEN = "client-token-of-the-test"


def sell(peer: Peer, upstream: Upstream) -> None:
    while True:
        message = upstream.read(peer)
        if message.get(b"payment-signature") is None and message.get(b"x-payment") is None:
            peer.send(challenges.answer())
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture(scope="module", params=["", "token", "forward"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    arguments = {
        "": (),
        "token": ("--set", f"x402_client_token={TOKEN}"),
        "forward": ("--set", f"x402_client_token={TOKEN}", "--set", "x402_forward_auth=true"),
    }[request.param]
    with Upstream(sell) as upstream, Proxy(upstream.url, *arguments, home=tmp_path_factory.mktemp("home")) as proxy:
        rig = Rig(proxy, upstream)
        rig.mode = request.param
        yield rig


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    if "rig" in request.fixturenames:
        request.getfixturevalue("rig").script(sell)


def ask(rig: Rig, *headers: str, path: str = "/v1/x", token: bool = True) -> Message:
    mine = [f"Authorization: Bearer {TOKEN}"] if token and rig.mode else []
    with rig.client() as client:
        return client.ask(request("POST", path, b"{}", *mine, *headers))


def error_of(answer: Message) -> str:
    body = json.loads(answer.body)
    assert body["type"] == "error"
    assert body["error"]["message"]
    assert answer.get(b"x-should-retry") == b"false"
    return str(body["error"]["code"])


def test_the_clients_credentials_stay_here(rig: Rig) -> None:
    answer = ask(
        rig,
        *("x-api-key: sk-1", "X-Goog-Api-Key: sk-2", "Cookie: a=b", "Proxy-Authorization: Basic x", "X-Other: stays"),
        path="/v1/x?alt=sse&key=sk-3&b=%20",
    )
    assert answer.body == b"ok"
    for sent in rig.upstream.requests:
        names = {name.lower() for name, _ in sent.fields}
        assert b"authorization" not in names  # without forward_auth, or because it is our own token
        assert TOKEN.encode() not in sent.head
        if rig.mode == "forward":
            assert sent.start == b"POST /v1/x?alt=sse&key=sk-3&b=%20 HTTP/1.1"
            assert {b"x-api-key", b"x-goog-api-key", b"cookie", b"x-other"} <= names
        else:
            assert sent.start == b"POST /v1/x?alt=sse&b=%20 HTTP/1.1"
            assert not names & {b"x-api-key", b"x-goog-api-key", b"cookie", b"proxy-authorization"}
            assert sent.get(b"x-other") == b"stays"
            assert b"sk-" not in sent.head


def test_a_payment_of_the_clients_own_passes_and_nothing_is_paid_on_top(rig: Rig) -> None:
    for header in ("PAYMENT-SIGNATURE: mine", "X-PAYMENT: mine"):
        rig.script(sell)
        assert ask(rig, header).body == b"ok"
        (sent,) = rig.upstream.requests
        assert header.encode() in sent.head
        assert sent.head.count(b"mine") == 1


def test_a_rejected_payment_of_the_clients_own_is_not_paid_for_it(rig: Rig) -> None:
    def reject(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer())

    rig.script(reject)
    assert ask(rig, "PAYMENT-SIGNATURE: mine").status == 402
    assert len(rig.upstream.requests) == 1


@pytest.mark.parametrize(
    "header",
    ["Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"],
    ids=["other", "null", "fetch"],
)
def test_web_pages_cannot_spend(rig: Rig, header: str) -> None:
    answer = ask(rig, header)
    assert (answer.status, error_of(answer)) == (403, "origin_not_allowed")
    assert rig.upstream.requests == []


def test_nodes_own_fetch_can_spend(rig: Rig) -> None:
    assert ask(rig, "Sec-Fetch-Mode: cors").body == b"ok"


@pytest.mark.parametrize(("host", "good"), [("localhost:1", True), ("[::1]:80", True), ("rebound.example", False)])
def test_the_host_header(rig: Rig, host: str, good: bool) -> None:
    mine = f"Authorization: Bearer {TOKEN}\r\n" if rig.mode else ""
    with rig.client() as client:
        answer = client.ask(f"POST / HTTP/1.1\r\nHost: {host}\r\n{mine}Content-Length: 0\r\n\r\n".encode())
    if good or rig.mode:  # whoever knows the token is no rebinding page
        assert answer.body == b"ok"
    else:
        assert (answer.status, error_of(answer)) == (403, "host_not_allowed")


@pytest.mark.parametrize("where", ["Authorization: Bearer {}", "x-api-key: {}", "x-goog-api-key: {}", "?key={}"])
def test_the_client_token(rig: Rig, where: str) -> None:
    if not rig.mode:
        assert ask(rig, token=False).body == b"ok"  # none is set, so none is asked for
        return

    def present(token: str) -> Message:
        if where.startswith("?"):
            return ask(rig, path="/v1/x" + where.format(token), token=False)
        return ask(rig, where.format(token), token=False)

    assert present(TOKEN).body == b"ok"
    assert all(TOKEN.encode() not in sent.head for sent in rig.upstream.requests)
    rig.script(sell)
    wrong = present(TOKEN + "x")
    assert (wrong.status, error_of(wrong)) == (401, "client_token_invalid")
    missing = ask(rig, token=False)
    assert (missing.status, error_of(missing)) == (401, "client_token_missing")
    assert rig.upstream.requests == []
    assert TOKEN not in rig.proxy.log.replace(f"x402_client_token={TOKEN}", "")


def settings(**options: str) -> Settings:
    named = {f"x402_{key}": value for key, value in options.items()}
    return read_settings(named, {}, cwd=Path("/nonexistent"), home=Path("/nonexistent"))


@pytest.mark.parametrize("peer", ["192.168.1.7", "10.0.0.1", "fe80::1", ""])
def test_other_machines_need_a_token(peer: str) -> None:
    asked = tutils.treq(headers=((b"host", b"10.0.0.2"),))
    denial = guard.examine(asked, peer, "10.0.0.2", settings())
    assert denial is not None
    assert (denial.status, denial.code) == (403, "client_token_required")
    assert "X402_CLIENT_TOKEN" in denial.message
    asked.headers["authorization"] = f"Bearer {TOKEN}"
    assert guard.examine(asked, peer, "10.0.0.2", settings(client_token=TOKEN)) is None


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_needs_none(peer: str) -> None:
    assert guard.examine(tutils.treq(), peer, "127.0.0.1:4402", settings()) is None


def test_an_origin_that_the_user_trusts_may_spend() -> None:
    asked = tutils.treq(headers=((b"origin", b"http://LOCALHOST:3000"),))
    trusting = settings(allow_origins="http://localhost:3000")
    assert guard.examine(asked, "127.0.0.1", "localhost", trusting) is None
    asked.headers["origin"] = "http://localhost:3001"
    assert guard.examine(asked, "127.0.0.1", "localhost", trusting) is not None


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("LOCALHOST:4402", True),
        ("api.localhost:4402", True),
        ("127.0.0.1:4402", True),
        ("192.168.1.2", True),
        ("[::1]:4402", True),
        ("[::1]", True),
        ("", False),
        (None, False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("evil.example:127", False),
    ],
)
def test_names_that_nobody_else_can_point_here(host: str | None, own: bool) -> None:
    denial = guard.examine(tutils.treq(headers=()), "127.0.0.1", host, settings())
    assert (denial is None) is own


def test_without_query_keys_a_path_stays_as_it_is() -> None:
    for path in (b"/a?b=c&monkey=1&=%zz", b"/a?", b"/a", b"/a?&&", b"/?keys=1"):
        asked = tutils.treq(path=path, headers=())
        guard.strip_credentials(asked, settings())
        assert asked.data.path == path


@pytest.mark.parametrize(
    "header", [b"Origin: http://\xff", b"Authorization: Bearer \xff", b"X-Api-Key: \xff", b"Host: \xff.example"]
)
def test_bytes_that_are_no_text_get_a_refusal_and_not_past_it(rig: Rig, header: bytes) -> None:
    name = header.partition(b":")[0]
    data = request().replace(b"Host: 127.0.0.1\r\n", b"" if name == b"Host" else b"Host: 127.0.0.1\r\n")
    with rig.client() as client:
        answer = client.ask(data.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\n" + header + b"\r\n", 1))
    if not rig.mode and name in (b"Authorization", b"X-Api-Key"):
        assert answer.body == b"ok"  # without a token nobody asks for these
        return
    refusals = (
        ("client_token_invalid", "client_token_missing") if rig.mode else ("origin_not_allowed", "host_not_allowed")
    )
    assert error_of(answer) in refusals
    assert not rig.upstream.requests
