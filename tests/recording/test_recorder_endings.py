"""What is recorded of answers that end early: by the client, the upstream, or the proxy."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from mitmproxy_x402.recording.format import Recording, read_recordings
from support import challenges
from support.recording.recorders import EVENT, STREAM, Recorded, begin, chunk, recording_proxy
from support.wire import TIMEOUT, Peer, Upstream, request


def streaming(peer: Peer, upstream: Upstream) -> None:
    """A stream that has begun, and then waits for its end."""
    upstream.read(peer)
    peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
    peer.rest()


def expect_what_came(found: Recording, error: str) -> None:
    assert found.state == "incomplete"
    assert error in (found.error or "")
    assert found.body() == b"".join(piece for _, piece in found.pieces()) == EVENT * 3


def test_a_client_that_leaves(rig: Recorded) -> None:
    rig.fresh(streaming)
    with rig.client() as client:
        begin(rig, client)
        client.close(reset=True)
    expect_what_came(rig.one(), "lient disconnected")


def test_an_upstream_that_breaks_off(rig: Recorded) -> None:
    ended = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
        assert ended.wait(TIMEOUT)
        peer.close(reset=True)

    rig.fresh(script)
    with rig.client() as client:
        begin(rig, client)
        ended.set()
        client.rest()
    expect_what_came(rig.one(), "")


def test_an_upstream_that_never_answers(rig: Recorded) -> None:
    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)

    rig.fresh(script)
    with rig.client() as client:
        assert client.ask(request(body=b"question")).status == 502
    found = rig.one()
    assert (found.state, found.response, found.request_body()) == ("incomplete", None, b"question")
    assert found.error


def test_a_proxy_that_is_killed(home: Path) -> None:
    with recording_proxy(home, script=streaming) as rig:
        with rig.client() as client:
            begin(rig, client)
            rig.proxy.process.kill()
            rig.proxy.wait_for_end()
        (found,) = read_recordings(rig.folder)
    expect_what_came(found, "interrupted")


def test_a_proxy_that_is_stopped(home: Path) -> None:
    def sell(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer())
        streaming(peer, upstream)

    now = ("--set", "x402_drain=0")
    with recording_proxy(home, "--set", "x402_dump_format=har,native,mitm", *now, script=sell) as rig:
        with rig.client() as client:
            begin(rig, client)
            rig.proxy.process.send_signal(signal.SIGTERM)
            rig.proxy.wait_for_end()
        (found,) = read_recordings(rig.folder)
        assert len(list(rig.folder.glob("*.har"))) == len(list(rig.folder.glob("*.mitm"))) == 1
    expect_what_came(found, "the proxy was stopped")
    assert found.end is not None
    assert found.payment is not None
    assert (found.payment.state, found.legs) == ("unknown", 2)
