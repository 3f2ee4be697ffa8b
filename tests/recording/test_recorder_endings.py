"""What is recorded of answers that end early: by the client, the upstream, or the proxy."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from mitmproxy_x402.recording.format import Recording, read_recordings
from mitmproxy_x402.recording.outbox import TOO_SLOW
from support import challenges
from support.patience import eventually
from support.proxy import DOOR, Proxy
from support.recording.recorders import EVENT, STREAM, Recorded, answering, begin, chunk, recording_proxy
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
            (writer,) = rig.writers()
            rig.proxy.process.kill()
            rig.proxy.wait_for_end()
        (found,) = read_recordings(rig.folder)
        eventually(lambda: not command_of(writer))
    expect_what_came(found, "interrupted")


def command_of(pid: int) -> bytes:
    """Nothing for a process that has ended and is not reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_proxy_that_is_interrupted_in_a_terminal(home: Path) -> None:
    """What is over, and has not been handed over, is written; the signal goes to all processes of the terminal."""
    with recording_proxy(home, script=answering(b"ok")) as rig:
        with rig.client() as client:
            rig.catch_up()
            (writer,) = rig.writers()
            for _ in range(5):
                assert client.ask(request()).body == b"ok"
            os.kill(writer, signal.SIGINT)
            rig.proxy.process.send_signal(signal.SIGINT)
        rig.proxy.wait_for_end()
        assert [one.complete for one in read_recordings(rig.folder)] == [True] * 6
        assert not command_of(writer)
        assert "not all was recorded" not in rig.proxy.log


def test_a_writer_that_is_killed(home: Path) -> None:
    """The client gets everything, what was begun stays readable, and later flows are recorded."""
    go = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
        assert go.wait(TIMEOUT)
        peer.send(chunk(EVENT) + b"0\r\n\r\n")

    with recording_proxy(home, script=script) as rig:
        with rig.client() as client:
            begin(rig, client)
            (writer,) = rig.writers()
            os.kill(writer, signal.SIGKILL)
            rig.proxy.wait_for(r"the process that writes recordings has ended \(signal 9\)")
            go.set()
            assert client.chunk() == EVENT
            assert client.chunk() == b""
        rig.script(answering(b"ok"))
        with rig.client() as client:
            assert client.ask(request()).body == b"ok"
        first, second = rig.wait(lambda found: len(found) == 2 and found[1].end is not None)
        assert not rig.writers()
    expect_what_came(first, "interrupted")
    assert second.body() == b"ok"


@pytest.mark.parametrize(("form", "megabytes"), [("native", 65), ("native,har,mitm", 65), ("native,har,mitm", 40)])
def test_the_beginning_of_a_request_that_is_too_large_to_wait_is_recorded(
    home: Path, form: str, megabytes: int
) -> None:
    """And the next request, at once. In the other formats, the whole flow waits once more."""
    body = bytes(range(256)) * (megabytes << 12)
    with recording_proxy(home, "--set", f"x402_dump_format={form}", script=answering(b"ok")) as rig:
        with rig.client() as client:
            assert client.ask(request(body=body)).body == b"ok"
            rig.proxy.wait_for("of a request that does not fit in the 64 MB that may wait, only the beginning")
            assert client.ask(request()).body == b"ok"
        first, second = rig.wait(lambda found: len(found) == 2 and all(one.end is not None for one in found))
    assert (first.complete, first.body(), second.complete) == (True, b"ok", True)
    assert 16 << 20 < first.request.size < len(body)
    assert first.request_body() == body[: first.request.size]
    assert first.notes == (
        f"of the request's {len(body):,} bytes only the first {first.request.size:,} are recorded: more found no room",
    )


def test_recordings_go_on_while_the_script_is_loaded_again(home: Path) -> None:
    door, go = home / "again.py", threading.Event()
    door.write_text(DOOR.read_text())

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
        assert go.wait(TIMEOUT)
        peer.send(chunk(EVENT) + b"0\r\n\r\n")

    with Upstream(script) as upstream:
        proxy = Proxy(upstream.url, "--set", "x402_dump=rec", home=home, own=False)
        proxy.command[proxy.command.index(str(DOOR))] = str(door)
        with proxy:
            rig = Recorded(proxy, upstream)
            with rig.client() as client:
                begin(rig, client)
                door.write_text(f"{DOOR.read_text()}\nimport logging\nlogging.error('it is there again')\n")
                proxy.wait_for("it is there again")
                go.set()
                assert client.chunk() == EVENT
                assert client.chunk() == b""
            found = rig.one()
    assert (found.complete, found.body()) == (True, EVENT * 4)


def test_a_writer_that_is_stuck_holds_nobody_up(home: Path) -> None:
    body = b"x" * (1 << 20)
    with recording_proxy(home, script=answering(body)) as rig:
        rig.catch_up()
        (writer,) = rig.writers()
        os.kill(writer, signal.SIGSTOP)
        with rig.client() as client:
            for _ in range(80):
                assert client.ask(request()).body == body
            assert client.ask(request("POST", "/late", b"y" * 100_000)).body == body
        rig.proxy.wait_for("cannot record into .*: more came than the disk has taken so far: 64 MB were waiting")
        os.kill(writer, signal.SIGCONT)
        rig.script(answering(b"ok"))
        rig.wait(lambda found: sum(one.end is not None for one in found) > 20)
        rig.catch_up()
        found = read_recordings(rig.folder)
    assert {one.body() for one in found if one.complete and one.request.path == "/v1/chat/completions"} == {body}
    broken = [one.error for one in found if not one.complete]
    assert set(broken) == {f"the recording broke off: {TOO_SLOW}"}
    assert len([one for one in found if one.request.path == "/v1/chat/completions"]) == 80
    (late,) = [one for one in found if one.request.path == "/late"]
    assert (late.request.body, late.request.size, late.body()) == (None, 0, b"")
    assert late.notes == ("of the request's 100,000 bytes only the first 0 are recorded: more found no room",)


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
