"""What pages of origins that the user allows may do: ask, read the answers, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mitmproxy.test import tutils

from mitmproxy_x402.hooks import guard
from mitmproxy_x402.hooks.guard import Caller
from support.paying.spenders import TOKEN, caller, error_of, sell, settings
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Message, Peer, Upstream, request


def test_an_origin_that_the_user_trusts_may_spend() -> None:
    asked = tutils.treq(headers=((b"origin", b"http://LOCALHOST:3000"),))
    trusting = settings(allow_origins="http://localhost:3000")
    assert guard.examine(asked, caller(), trusting) is None
    asked.headers["origin"] = "http://localhost:3001"
    assert guard.examine(asked, caller(), trusting) is not None


ORIGIN = "http://localhost:3000"


@pytest.fixture(scope="module", params=["", "token"])
def open_rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    token = ("--set", f"x402_client_token={TOKEN}") if request.param else ()
    home = tmp_path_factory.mktemp("open")
    with Upstream(sell) as upstream:
        with Proxy(upstream.url, "--set", f"x402_allow_origins={ORIGIN}", *token, home=home) as proxy:
            yield Rig(proxy, upstream, request.param)


def test_an_allowed_page_may_ask_and_read(open_rig: Rig) -> None:
    open_rig.script(sell)
    with open_rig.client() as client:
        client.send(
            request(
                *("OPTIONS", "/v1/x", b"", f"Origin: {ORIGIN}", "Access-Control-Request-Method: POST"),
                *("Access-Control-Request-Headers: authorization,content-type", "Sec-Fetch-Site: same-site"),
            )
        )
        preflight = Message(client.until(b"\r\n\r\n"))  # a 204 has neither a length nor a body
        assert preflight.status == 204
        assert preflight.get(b"access-control-allow-origin") == ORIGIN.encode()
        assert preflight.get(b"access-control-allow-methods") == b"POST"
        assert preflight.get(b"access-control-allow-headers") == b"authorization,content-type"
        assert open_rig.upstream.requests == []
        answer = client.ask(
            request("POST", "/v1/x", b"{}", f"Origin: {ORIGIN}", "Sec-Fetch-Site: same-site", f"x-api-key: {TOKEN}")
        )
    assert answer.body == b"ok"
    assert answer.get(b"access-control-allow-origin") == ORIGIN.encode()
    assert b"PAYMENT-RESPONSE" in (answer.get(b"access-control-expose-headers") or b"")


def test_an_allowed_page_may_read_why_it_was_refused(open_rig: Rig) -> None:
    def hang_up(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)

    for script, status, host in ((hang_up, 502, "127.0.0.1"), (sell, 403, "rebound.example")):
        if open_rig.mode and status == 403:
            continue  # whoever has the token may use any name
        open_rig.script(script)
        data = request("POST", "/v1/x", b"{}", f"Origin: {ORIGIN}", f"x-api-key: {TOKEN}")
        with open_rig.client() as client:
            answer = client.ask(data.replace(b"Host: 127.0.0.1", f"Host: {host}".encode()))
        assert answer.status == status
        assert answer.get(b"access-control-allow-origin") == ORIGIN.encode()


def test_what_the_upstream_says_of_pages_stays(open_rig: Rig) -> None:
    def free(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(
            b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: X-Own\r\n"
            b"Content-Length: 2\r\n\r\nok"
        )

    open_rig.script(free)
    with open_rig.client() as client:
        answer = client.ask(request("GET", "/v1/x", b"", f"Origin: {ORIGIN}", f"x-api-key: {TOKEN}"))
    assert [value for name, value in answer.fields if name.lower().startswith(b"access-control-expose")] == [b"X-Own"]


def test_an_image_of_an_allowed_page_spends_nothing(open_rig: Rig) -> None:
    open_rig.script(sell)
    with open_rig.client() as client:
        answer = client.ask(
            request("GET", "/v1/x", b"", "Sec-Fetch-Site: same-site", f"Referer: {ORIGIN}/", f"x-api-key: {TOKEN}")
        )
    assert (answer.status, error_of(answer)) == (403, "origin_not_allowed")
    assert open_rig.upstream.requests == []


@pytest.mark.parametrize(
    ("mode", "destination", "spends"),
    [
        ("cors", "empty", True),
        ("same-origin", "empty", True),
        ("navigate", "document", False),
        ("navigate", "iframe", False),
        ("no-cors", "empty", False),
        ("cors", "image", False),
        ("cors", "script", False),
    ],
)
def test_of_an_allowed_page_only_scripts_spend(mode: str, destination: str, spends: bool) -> None:
    """Forms, beacons and tags, which HTML without a script can hold, do not, though they may name their origin."""
    asked = tutils.treq(headers=[(b"Host", b"127.0.0.1:8402"), (b"Origin", b"http://a.example")])
    asked.headers["sec-fetch-mode"] = mode
    asked.headers["sec-fetch-dest"] = destination
    denial = guard.examine(
        asked, Caller("127.0.0.1", "127.0.0.1:8402", 8402), settings(allow_origins="http://a.example")
    )
    assert (denial is None) is spends
    assert denial is None or "with fetch()" in denial.message


def test_an_allowed_page_may_read_with_credentials_what_is_open_to_all(open_rig: Rig) -> None:
    """`*` opens an answer to no fetch() with credentials (Fetch, section 3.3.5)."""

    def open_to_all(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nok")

    open_rig.script(open_to_all)
    with open_rig.client() as client:
        answer = client.ask(request("POST", "/v1/x", b"{}", f"Origin: {ORIGIN}", f"x-api-key: {TOKEN}"))
    assert answer.body == b"ok"
    assert answer.get(b"access-control-allow-origin") == ORIGIN.encode()
    assert answer.get(b"access-control-allow-credentials") == b"true"


@pytest.mark.parametrize(("path", "status"), [("/x402/health", 200), ("/v1/x?" + "a&" * 1001, 431)])
def test_an_allowed_page_may_read_what_is_answered_before_the_guard(open_rig: Rig, path: str, status: int) -> None:
    with open_rig.client() as client:
        answer = client.ask(request("GET", path, b"", f"Origin: {ORIGIN}", "Sec-Fetch-Site: same-site"))
        other = client.ask(request("GET", path, b"", "Origin: http://evil.example"))
    assert answer.status == status
    assert answer.get(b"access-control-allow-origin") == ORIGIN.encode()
    assert answer.get(b"access-control-allow-credentials") == b"true"
    assert other.get(b"access-control-allow-origin") is None
