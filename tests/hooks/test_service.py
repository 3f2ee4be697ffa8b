"""Under a supervisor: the health check, and a stop that loses no answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
from mitmproxy.test import tflow

from mitmproxy_x402.hooks.service import Service
from mitmproxy_x402.proxy.exchange import EXCHANGE, Exchange
from support import challenges
from support.patience import eventually
from support.proxy import DOOR, Proxy
from support.wire import Client, Peer, Upstream, free_port, read_message, request

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = "a-token-of-the-test"


def never(peer: Peer, upstream: Upstream) -> None:
    raise AssertionError("the upstream was asked")


class Gate:
    """An upstream whose paid answer goes on when the test says so."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(HEAD + b"5\r\nfirst\r\n")
        self.begun.set()
        assert self.go_on.wait(20)
        peer.send(b"4\r\nlast\r\n0\r\n\r\n")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_answered_here(home: Path, method: str) -> None:
    with Upstream(never) as upstream, Proxy(upstream.url, home=home) as proxy:
        answer = httpx.request(method, f"{proxy.url}/x402/health?probe=1", timeout=30)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert answer.text == ("" if method == "HEAD" else json.dumps({"status": "ok"}))
        assert upstream.connections == 0


def test_health_needs_no_token_and_gives_nothing_else_away(home: Path) -> None:
    keys = {"BLOCKRUN_WALLET_KEY": "0x" + "11" * 32, "X402_CLIENT_TOKEN": TOKEN}
    with Upstream(never) as upstream, Proxy(upstream.url, home=home, keys=keys) as proxy:
        assert httpx.get(f"{proxy.url}/x402/health", timeout=30).json() == {"status": "ok"}
        assert httpx.get(f"{proxy.url}/x402/healthy", timeout=30).status_code == 401
        assert httpx.post(f"{proxy.url}/x402/health", timeout=30).status_code == 401
        assert upstream.connections == 0


SLOW = """
import asyncio
came = asyncio.Event()
class Slow:
    async def running(self):
        await came.wait()
        await asyncio.sleep(0.5)
    def client_connected(self, _):
        came.set()
addons = [Slow()]
"""
"""An addon that is not ready before a client has come, and half a second more; nor are those behind it."""


@pytest.mark.parametrize("own", [False, True])
def test_clients_that_come_during_the_start_wait_for_it(home: Path, own: bool) -> None:
    script = home / "slow.py"
    script.write_text(SLOW)
    gate = Gate()
    gate.go_on.set()
    with Upstream(gate) as upstream, Proxy(upstream.url, "-s", str(script), home=home, own=own) as proxy:
        with proxy.client() as leaves:
            leaves.send(request()[:20])
        with proxy.client() as resets:
            resets.send(request())
            resets.close(reset=True)
        with proxy.client() as client:
            assert client.ask(request()).body == b"firstlast"
        assert httpx.get(f"{proxy.url}/x402/health", timeout=30).json() == {"status": "ok"}
        assert "Traceback" not in proxy.log


def test_a_stop_with_nothing_under_way_is_at_once(home: Path) -> None:
    with Upstream(never) as upstream, Proxy(upstream.url, "--set", "x402_drain=600", home=home) as proxy:
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.wait_for_end() == 0


def test_a_stop_waits_for_the_running_answer_and_takes_nothing_new(home: Path) -> None:
    gate = Gate()
    with Upstream(gate) as upstream, Proxy(upstream.url, "--set", "x402_drain=600", home=home) as proxy:
        with proxy.client() as client:
            client.send(request())
            assert gate.begun.wait(20)
            client.until(b"\r\n\r\n")
            proxy.process.send_signal(signal.SIGTERM)
            proxy.wait_for("stopping when the running answer is over, after 600 s at most")
            asked = len(upstream.requests)
            late = httpx.post(f"{proxy.url}/v1/chat/completions", content=b"{}", timeout=30)
            assert late.status_code == 503
            assert late.json()["error"]["code"] == "shutting_down"
            assert "retry-after" in late.headers
            assert "x-should-retry" not in late.headers
            unwell = httpx.get(f"{proxy.url}/x402/health", timeout=30)
            assert (unwell.status_code, unwell.json()) == (503, {"status": "draining"})
            assert len(upstream.requests) == asked
            gate.go_on.set()
            assert [client.chunk(), client.chunk(), client.chunk()] == [b"first", b"last", b""]
        assert proxy.wait_for_end() == 0
        proxy.wait_for("payment of 0.013081 USDC.*: sent, not confirmed yet")
        proxy.wait_for("paid 0.013081 USDC in 1 payment: 0 confirmed, 0.013081 not confirmed yet")


@pytest.mark.parametrize("own", [False, True])
def test_a_terminal_that_goes_away_takes_no_answer_along(home: Path, own: bool) -> None:
    import pty  # noqa: PLC0415

    gate = Gate()
    with Upstream(gate) as upstream:
        proxy = Proxy(upstream.url, "--listen-port", str(port := free_port()), home=home, own=own)
        terminal, inside = pty.openpty()
        process = subprocess.Popen(
            proxy.command,
            env=proxy.environ,
            cwd=home,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        try:
            seen = b""
            while b"listening at 127.0.0.1" not in seen:
                seen += os.read(terminal, 65536)
            with Client("127.0.0.1", port) as client:
                client.send(request())
                client.until(b"first\r\n")
                os.close(terminal)
                process.send_signal(signal.SIGHUP)
                eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/x402/health").json()["status"] == "draining")
                gate.go_on.set()
                assert client.rest() == b"4\r\nlast\r\n0\r\n\r\n"
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


def test_a_stop_does_not_wait_for_a_client_that_has_left() -> None:
    """mitmproxy does not always tell that a flow has ended whose client was reset (seen in a soak)."""
    service = Service(lambda: None)
    flows = [tflow.tflow(), tflow.tflow()]
    for flow in flows:
        flow.client_conn.timestamp_end = None
        vars(flow)[EXCHANGE] = Exchange()
        service.requestheaders(flow)
    assert service.under_way() == 2
    flows[0].client_conn.timestamp_end = 1.0
    assert service.under_way() == 1


def test_a_stop_does_not_wait_for_ever(home: Path) -> None:
    gate = Gate()
    with Upstream(gate) as upstream, Proxy(upstream.url, "--set", "x402_drain=0.3", home=home) as proxy:
        with proxy.client() as client:
            client.send(request())
            assert gate.begun.wait(20)
            proxy.process.send_signal(signal.SIGTERM)
            assert proxy.wait_for_end() == 0
        gate.go_on.set()
        proxy.wait_for("stopped with 1 answers? still running")
        assert "not confirmed yet" in proxy.log


def test_a_second_sigterm_stops_at_once(home: Path) -> None:
    gate = Gate()
    with Upstream(gate) as upstream, Proxy(upstream.url, "--set", "x402_drain=600", home=home) as proxy:
        with proxy.client() as client:
            client.send(request())
            assert gate.begun.wait(20)
            proxy.process.send_signal(signal.SIGTERM)
            proxy.wait_for("stopping when the running answer is over")
            proxy.process.send_signal(signal.SIGTERM)
            assert proxy.wait_for_end() == 0
        gate.go_on.set()


def test_a_stop_waits_for_a_client_that_reads_slowly(home: Path) -> None:
    size = 8 << 20

    def floods(peer: Peer, upstream: Upstream) -> None:
        while upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    with Upstream(floods) as upstream, Proxy(upstream.url, "--set", "x402_drain=600", home=home) as proxy:
        with proxy.client() as client:
            client.send(request())
            client.until(b"\r\n\r\n")
            proxy.process.send_signal(signal.SIGTERM)
            proxy.wait_for("stopping when")
            assert client.exactly(size) == bytes(size)
        assert proxy.wait_for_end() == 0


LINGER = """
import asyncio, pathlib
class Linger:
    async def done(self):
        print("lingering", flush=True)
        while not pathlib.Path("over").exists():
            await asyncio.sleep(0.01)
addons = [Linger()]
"""
"""An addon that takes its time at the end, while mitmproxy still serves."""


class Late:
    """An upstream that answers only when the test says so: what is paid, and what was asked at /unpaid."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            asked = upstream.read(peer)
            where = asked.start.split()[1]
            if where == b"/unpaid" or asked.get(b"payment-signature") is not None:
                self.begun.release()
                assert self.go_on.wait(20)
                if where == b"/cut":
                    return
            peer.send(challenges.answer(None, b'{"code": "PAYMENT_INVALID"}' if where == b"/rejected" else None))

    def be_asked(self, **clients: Client) -> None:
        """By each client, at its name, until all that can be answered waits."""
        for where, client in clients.items():
            client.send(request("POST", f"/{where}"))
            assert self.begun.acquire(timeout=20)

    def answer(self, *, rejected: Client, cut: Client) -> None:
        """Go on: one who has paid hears from the gateway, the other one that nobody knows."""
        self.go_on.set()
        answer = read_message(rejected)
        assert (answer.status, answer.body) == (402, b'{"code": "PAYMENT_INVALID"}')
        answer = read_message(cut)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (502, "payment_outcome_unknown")


@pytest.mark.parametrize("own", [False, True])
def test_what_clients_are_told_after_the_end_is_true(home: Path, own: bool) -> None:
    script, late = home / "linger.py", Late()
    script.write_text(LINGER)
    with (
        Upstream(late) as upstream,
        Proxy(upstream.url, "-s", str(script), home=home, own=own) as proxy,
        proxy.client() as rejected,
        proxy.client() as cut,
        proxy.client() as unpaid,
        proxy.client() as after,
    ):
        late.be_asked(rejected=rejected, cut=cut, unpaid=unpaid)
        proxy.process.send_signal(signal.SIGINT)
        proxy.wait_for("lingering")
        late.answer(rejected=rejected, cut=cut)
        for answer in (read_message(unpaid), after.ask(request())):
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "shutting_down")
        (home / "over").touch()
        assert proxy.wait_for_end() == 0
        assert len(upstream.requests) == 5  # two of them twice
        assert proxy.log.count(": sent, not confirmed yet, 0x") == 2
        assert "fault" not in proxy.log


def test_a_payment_that_was_sent_before_the_script_was_loaded_again(home: Path) -> None:
    door, late = home / "door.py", Late()
    door.write_bytes(DOOR.read_bytes())
    with Upstream(late) as upstream:
        proxy = Proxy(upstream.url, home=home, own=False)
        proxy.command[proxy.command.index(str(DOOR))] = str(door)
        proxy.environ["PYTHONPATH"] = str(DOOR.parent)
        with proxy, proxy.client() as rejected, proxy.client() as cut:
            late.be_asked(rejected=rejected, cut=cut)
            os.utime(door, (2**31, 2**31))
            proxy.wait_for(": sent, not confirmed yet, 0x")
            late.answer(rejected=rejected, cut=cut)
            assert httpx.get(f"{proxy.url}/x402/health", timeout=30).json() == {"status": "ok"}
            assert "fault" not in proxy.log


UNFINISHED = """
import asyncio
async def stubborn():
    loop = asyncio.get_running_loop()
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        loop.create_task(asyncio.sleep(600))
        raise
def running():
    global kept
    kept = asyncio.get_running_loop().create_task(stubborn())
"""
"""An addon that begins something while everything is cancelled, as mitmproxy does for its connections."""


def test_the_end_says_nothing_of_what_it_cuts_off(home: Path) -> None:
    script = home / "unfinished.py"
    script.write_text(UNFINISHED)
    with Proxy("http://127.0.0.1:1", "-s", str(script), home=home, own=True) as proxy:
        proxy.process.send_signal(signal.SIGINT)
        assert proxy.wait_for_end() == 0
        assert proxy.wait_for("paid nothing")
        assert proxy.log.rstrip().endswith("x402: paid nothing")
