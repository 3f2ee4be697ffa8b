"""One call of a client that follows redirects is one payment, whatever addresses the gateway writes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests

from support import challenges, effort
from support.attacker import http, reference
from support.proxy import Proxy
from support.wire import Peer, Upstream

HOPS = 6
SPELLINGS: dict[str, str] = {
    "plain": "/hop/{n}",
    "a query": "/hop?n={n}&x=a b",
    "only a query": "?n={n}",
    "blank": "",
    "blanks": "  /hop/{n} ",
    "relative": "hop/{n}",
    "upwards": "../../hop/./x/../{n}",
    "encoded dots": "/a/%2e%2E/hop/%2e/{n}",
    "lower hex": "/hop/%c3%a4/{n}",
    "needless escapes": "/%68op/%7E{n}",
    "raw UTF-8": "/höp/ä{n}?ü",
    "a space": "/hop a/{n}",
    "odd characters": '/hop/{n}|<>^`{{}}\\"[]',
    "a backslash": "\\hop\\{n}",
    "doubled slashes": "/hop//{n}//",
    "a fragment": "/hop/{n}#a#b",
    "a tab": "/ho\tp/{n}",
    "absolute": "http://127.0.0.1:{port}/hop/{n}",
    "another name of this machine": "http://localhost:{port}/hop/{n}",
    "without a scheme": "//127.0.0.1:{port}/hop/{n}",
    "a user": "http://user:word@127.0.0.1:{port}/hop/{n}",
}
STATUSES = (300, 301, 302, 303, 307, 308)


class Redirector:
    """Takes each payment, and sends who made it on; from the last hop on it answers."""

    def __init__(self) -> None:
        self.status, self.spelling, self.port = 307, "", 0
        self.payments: set[str] = set()
        self.hops = self.sent = 0
        self.free: set[str] = set()

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            message = upstream.read(peer)
            header = message.get(b"payment-signature")
            if message.start.split()[1].decode() in self.free:
                peer.send(http(200, b"free"))
                continue
            if header is None:
                peer.send(challenges.answer())
                continue
            self.sent += 1
            self.payments.add(reference(header.decode()))
            self.hops += 1
            if self.hops > HOPS:
                peer.send(http(200, b'{"ok": true}'))
                continue
            where = self.spelling.format(n=self.hops, port=self.port)
            lines = f"HTTP/1.1 {self.status} X\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n"
            peer.send(lines.encode())


Ask = Callable[[str, str, bytes], None]


def by_httpx(method: str, url: str, body: bytes) -> None:
    with httpx.Client(follow_redirects=True, timeout=20, trust_env=False, verify=False) as client:
        client.request(method, url, content=body)


def by_requests(method: str, url: str, body: bytes) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.request(method, url, data=body, timeout=20)


def by_aiohttp(method: str, url: str, body: bytes) -> None:
    async def ask() -> None:
        async with aiohttp.ClientSession() as session, session.request(method, url, data=body) as answer:
            await answer.read()

    asyncio.run(ask())


def by_curl(*options: str) -> Ask:
    def ask(method: str, url: str, body: bytes) -> None:
        given = ["--data-binary", "@-"] if body else []
        method_option = ["-X", method] if "-X" in options or method not in ("GET", "POST") else []
        others = [option for option in options if option != "-X"]
        command = ["curl", "-sS", "-L", "--noproxy", "*", "-m", "20", *others, *method_option, *given, url]
        subprocess.run(command, input=body, check=False, capture_output=True, timeout=60)

    return ask


ASK = """
require("readline").createInterface({input: process.stdin}).on("line", async line => {
    const [method, url, body] = JSON.parse(line);
    await fetch(url, {method, body: body || undefined}).then(answer => answer.text()).catch(() => 0);
    console.log("over");
});
"""


@functools.cache
def node() -> subprocess.Popen[str]:
    """A program that stays, since its start takes longer than all that it does."""
    return subprocess.Popen(["node", "-e", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def by_fetch(method: str, url: str, body: bytes) -> None:
    asked, over = node().stdin, node().stdout
    assert asked is not None
    assert over is not None
    print(json.dumps([method, url, body.decode()]), file=asked, flush=True)
    assert over.readline() == "over\n"


@pytest.fixture(autouse=True, scope="module")
def _no_node_stays() -> Iterator[None]:
    yield
    if node.cache_info().currsize:
        node().communicate(timeout=60)
        node.cache_clear()


CLIENTS: dict[str, Ask] = {
    "httpx": by_httpx,
    "requests": by_requests,
    "aiohttp": by_aiohttp,
    "curl": by_curl(),
    "curl that keeps the method": by_curl("-X"),
    "curl that keeps all": by_curl("--post301", "--post302", "--post303"),
    "fetch": by_fetch,
}
CANNOT_FOLLOW = (httpx.HTTPError, httpx.InvalidURL, requests.RequestException, aiohttp.ClientError, ValueError)
numbers = itertools.count()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Redirector, Proxy]]:
    redirector = Redirector()
    options = ("--set", "x402_budget=1000")
    with Upstream(redirector) as upstream, Proxy(upstream.url, *options, home=tmp_path_factory.mktemp("home")) as proxy:
        redirector.port = proxy.port
        yield redirector, proxy
        assert "Traceback" not in proxy.log
        assert "internal_error" not in proxy.log


def cost(stage: tuple[Redirector, Proxy], ask: Ask, method: str, path: str, body: bytes) -> int:
    """The signatures that one call of a client has made."""
    redirector, proxy = stage
    before, redirector.hops = len(redirector.payments), 0
    with contextlib.suppress(*CANNOT_FOLLOW):
        ask(method, proxy.url + path, body)
    return len(redirector.payments) - before


@pytest.mark.parametrize("client", effort.chosen(CLIENTS, "httpx", "curl", "fetch"))
def test_one_call_is_one_payment(stage: tuple[Redirector, Proxy], client: str) -> None:
    """Each way of spelling an address with two of all statuses and methods, which go round."""
    redirector, _ = stage
    ways = itertools.cycle(itertools.product(("POST", "PUT", "GET", "DELETE", "POST"), STATUSES))
    costs = {}
    for spelling, (method, status) in zip([*SPELLINGS] * 2, ways, strict=False):
        redirector.spelling, redirector.status = SPELLINGS[spelling], status
        body = b"" if method in ("GET", "DELETE") else json.dumps({"n": next(numbers)}).encode()
        costs[spelling, method, status] = cost(stage, CLIENTS[client], method, f"/v1/x/{next(numbers)}", body)
    assert {way: payments for way, payments in costs.items() if payments > 1} == {}
    assert 1 in costs.values()


def test_what_is_free_leaves_the_payment_to_who_is_asked_for_it(stage: tuple[Redirector, Proxy]) -> None:
    redirector, proxy = stage
    redirector.spelling, redirector.status, redirector.free = "/hop/{n}", 303, {"/free"}
    with httpx.Client(trust_env=False, verify=False) as client:
        before = len(redirector.payments)
        redirector.hops = 0
        assert client.post(f"{proxy.url}/v1/x/{next(numbers)}", content=b"{}").status_code == 303
        sent = redirector.sent
        assert client.get(f"{proxy.url}/free").text == "free"
        assert redirector.sent == sent
        assert client.get(f"{proxy.url}/hop/1").status_code == 303
        assert redirector.sent == sent + 1
    assert len(redirector.payments) == before + 1


LIMITS = """
[[limit]]
path = "/dear/*"
max_request = "0.5"

[[limit]]
model = "dear-*"
budget = "0.5/day"
"""


@pytest.mark.parametrize(
    "target", effort.chosen(["/dear", "/dear/x", "/%64ear/x", "/models/dear-1:ask"], "/%64ear/x", "/models/dear-1:ask")
)
def test_a_payment_is_not_taken_where_other_limits_are(target: str, tmp_path: Path) -> None:
    (tmp_path / ".config/mitmproxy-x402").mkdir(parents=True)
    (tmp_path / ".config/mitmproxy-x402/x402.toml").write_text(LIMITS)
    redirector = Redirector()
    with Upstream(redirector) as upstream, Proxy(upstream.url, home=tmp_path) as proxy:
        redirector.spelling, redirector.status = target, 307
        with httpx.Client(follow_redirects=True, trust_env=False, verify=False) as client:
            for _ in range(2):
                told = client.post(f"{proxy.url}/v1/x", content=b"{}")
                assert (told.status_code, told.json()["error"]["code"]) == (400, "other_limit")
                assert "dear" in told.json()["error"]["message"]
        assert len(redirector.payments) == 1
        assert redirector.sent == 2  # of the request itself, which was asked twice
