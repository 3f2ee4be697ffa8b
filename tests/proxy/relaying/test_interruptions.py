"""What happens while we sign: signatures are held back by an RPC that answers when the test says so."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Event

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from support import challenges
from support.chains.rpc import GatedRpc
from support.proxy import Proxy, svm_key
from support.rig import Rig
from support.running import certs
from support.showing.mitmweb import Web
from support.wire import Client, Peer, Upstream, request


@contextmanager
def slow_signer(home: Path, *arguments: str, kind: Callable[..., Proxy] = Proxy) -> Iterator[tuple[Rig, GatedRpc]]:
    with GatedRpc() as rpc, Upstream(sell) as upstream:
        options = ("--set", f"x402_solana_rpc={rpc.url}", "--set", "x402_rpc_timeout=20", *arguments)
        with kind(upstream.url, *options, home=home, keys={"SOLANA_WALLET_KEY": svm_key()}) as proxy:
            yield Rig(proxy, upstream), rpc


def sell(peer: Peer, upstream: Upstream) -> None:
    while True:
        if upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer(challenges.svm()))
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npaid")


def test_upstream_closes_while_we_sign(home: Path) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        if upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer(challenges.svm()))
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npaid")

    with slow_signer(home) as (rig, rpc), rig.client() as client:
        rig.script(script)
        client.send(request(body=b"abc"))
        rpc.wait_until_asked()
        rig.proxy.wait_for("server disconnect")
        rpc.release()
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        assert client.exactly(4) == b"paid"
        assert [r.body for r in rig.upstream.requests] == [b"abc", b"abc"]
        assert rig.upstream.connections == 2


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "a moment later"])
def test_an_upstream_that_closes_behind_its_challenge(home: Path, at_once: bool) -> None:
    """Without a word of it in the head; the payment waits for the disk meanwhile."""

    def script(peer: Peer, upstream: Upstream) -> None:
        if upstream.read(peer).get(b"payment-signature") is not None:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npaid")
            return
        peer.send(challenges.answer())
        if not at_once:
            time.sleep(random.random() / 200)

    with Upstream(script) as upstream, Proxy(upstream.url, home=home) as proxy:
        for number in range(20):
            with proxy.client() as client:
                answer = client.ask(request(body=b"%d" % number))
            assert (answer.status, answer.body) == (200, b"paid")
    assert len(upstream.requests) == 40


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
def test_a_client_that_leaves_while_we_sign_is_not_paid_for(home: Path, reset: bool) -> None:
    with slow_signer(home) as (rig, rpc):
        client = rig.client()
        client.send(request())
        rpc.wait_until_asked()
        client.close(reset=reset)
        rig.proxy.wait_for("client disconnect|Client disconnected")
        rpc.release()
        with rig.client() as second:  # its blockhash is known by now, so once it is served the first is decided too
            second.send(request())
            assert second.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        paid = [r for r in rig.upstream.requests if r.get(b"payment-signature")]
        assert len(paid) == 1
        assert len(rig.upstream.requests) == 3


def test_other_requests_go_on_while_one_signs(home: Path) -> None:
    """Nothing is held for the length of a signature, on either side of the proxy."""

    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            message = upstream.read(peer)
            if message.start.startswith(b"GET /free") or message.get(b"payment-signature"):
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
            else:
                peer.send(challenges.answer(challenges.svm()))

    with slow_signer(home) as (rig, rpc), rig.client() as slow, rig.client() as quick:
        rig.script(script)
        slow.send(request())
        rpc.wait_until_asked()
        assert quick.ask(request("GET", "/free", b"")).body == b"fine"
        rpc.release()
        assert slow.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_a_flow_killed_while_we_sign_is_not_paid_for(home: Path) -> None:
    """By an addon of the user's, in the same hook: it runs after ours, so the payment is ready and is not sent."""
    script = home / "killer.py"
    script.write_text("def x402_challenge(flow):\n    flow.kill()\n")
    with slow_signer(home, "-s", str(script)) as (rig, rpc), rig.client() as client:
        client.send(request())
        rpc.wait_until_asked()
        rpc.release()
        assert client.rest() == b""
        assert len(rig.upstream.requests) == 1


def test_an_addon_that_intercepts_the_challenge_holds_the_payment_back(home: Path) -> None:
    script = home / "holder.py"
    script.write_text(
        "import asyncio, logging, pathlib\n"
        "def x402_challenge(flow):\n"
        "    flow.intercept()\n"
        "    logging.warning('held')\n"
        "    asyncio.get_running_loop().create_task(resume(flow))\n"
        "async def resume(flow):\n"
        "    while not pathlib.Path('go').exists():\n"
        "        await asyncio.sleep(0.01)\n"
        "    flow.resume()\n"
    )
    with slow_signer(home, "-s", str(script)) as (rig, rpc), rig.client() as client:
        client.send(request())
        rpc.wait_until_asked()
        rpc.release()
        rig.proxy.wait_for("held")
        assert len(rig.upstream.requests) == 1
        (home / "go").touch()
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        assert len(rig.upstream.requests) == 2


@pytest.mark.parametrize("action", ["resume", "kill"])
def test_a_flow_intercepted_in_mitmweb(home: Path, action: str) -> None:
    with slow_signer(home, "--intercept", "~u /held", kind=Web) as (rig, rpc), rig.client() as client:
        web = rig.proxy
        assert isinstance(web, Web)
        client.send(request("POST", "/held"))
        flow = web.wait_for_flow(lambda flow: flow["intercepted"], "that it is intercepted")["id"]
        assert rig.upstream.requests == []
        web.api(f"flows/{flow}/{action}", "POST")
        if action == "kill":
            assert "killed" in web.flows()[0]["error"]["msg"]
            assert rig.upstream.requests == []
            return  # mitmproxy leaves the client of such a flow waiting
        rpc.wait_until_asked()
        rpc.release()
        # `--intercept ~u` stops the answer as well, after its last byte was streamed
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
        assert client.exactly(4) == b"paid"
        assert len(rig.upstream.requests) == 2
        stored = json.dumps(web.flows())
        for paid in rig.upstream.requests[1:]:
            header = paid.get(b"payment-signature")
            assert header is not None
            assert header.decode() not in stored


@pytest.mark.parametrize("at_once", [True, False], ids=["in one segment", "then"])
def test_what_is_cancelled_and_repeated_over_http2_is_paid_once(home: Path, at_once: bool) -> None:
    payments: Queue[bytes] = Queue()
    over = Event()

    def answer_nobody(peer: Peer, upstream: Upstream) -> None:
        while (payment := upstream.read(peer).get(b"payment-signature")) is None:
            peer.send(challenges.answer())
        payments.put(payment)
        over.wait(60)

    with Upstream(answer_nobody) as upstream, Proxy(upstream.url, "--set", "x402_repurchase=0", home=home) as proxy:
        connection = H2Connection()
        connection.initiate_connection()
        head = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", f"127.0.0.1:{proxy.port}"),
            (":path", "/v1/x"),
        ]
        seen = set()
        with Client("127.0.0.1", proxy.port, tls=certs.blind_client_context("h2")) as client:
            for stream in (1, 3, 5, 7):
                connection.send_headers(stream, head)
                connection.send_data(stream, b"{}", end_stream=True)
                client.send(connection.data_to_send())
                seen.add(payments.get(timeout=30))
                connection.reset_stream(stream, ErrorCodes.CANCEL)
                if not at_once:
                    client.send(connection.data_to_send())
        over.set()
        assert len(seen) == 1
