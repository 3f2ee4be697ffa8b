"""The recorder with much to write, with disks that are full or gone, and with options that change."""

from __future__ import annotations

import json
import random
import resource
import shutil
import threading
from pathlib import Path

from mitmproxy_x402.recording.format import read_recording, read_recordings
from support.changer import set_options
from support.proxy import Proxy
from support.recording.recorders import EVENT, STREAM, Recorded, answering, begin, chunk, until
from support.running.memory import peak
from support.wire import TIMEOUT, Peer, Upstream, request


def test_100_mb_pass_in_little_memory(rig: Recorded) -> None:
    """Recorded whole: the upstream waits for the disk, which a real one does not have to."""
    block = random.Random(3).randbytes(1 << 20)
    written = threading.Semaphore(8)

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 << 20))
        for _ in range(100):
            assert written.acquire(timeout=TIMEOUT)
            peer.send(block)

    rig.fresh(script)
    (writer,) = rig.writers()
    before, before_writer = peak(rig.proxy.process.pid), peak(writer)
    with rig.client() as client:
        client.send(request())
        client.until(b"\r\n\r\n")
        for number in range(100):
            assert client.exactly(1 << 20) == block
            until(lambda: size_of(rig) >= (number - 4) << 20)  # noqa: B023
            written.release()
    found = rig.one()
    assert found.complete
    assert found.response is not None
    assert found.response.size == 100 << 20
    assert found.body() == block * 100
    assert peak(rig.proxy.process.pid) - before < 40_000_000
    assert peak(writer) - before_writer < 20_000_000


def size_of(rig: Recorded) -> int:
    return sum(file.stat().st_size for folder in rig.folders() for file in folder.glob("response.*"))


def test_many_at_once(rig: Recorded) -> None:
    """More than there are files kept open; each gets what is its own."""

    def script(peer: Peer, upstream: Upstream) -> None:
        name = upstream.read(peer).body
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(20):
            peer.send(chunk(b"%s %d\n" % (name, number)))
        peer.send(b"0\r\n\r\n")

    def expected(name: bytes) -> bytes:
        return b"".join(b"%s %d\n" % (name, number) for number in range(20))

    def ask(name: bytes) -> None:
        with rig.client() as client:
            if client.ask(request(body=name)).body != expected(name):
                wrong.append(name)

    rig.fresh(script)
    wrong: list[bytes] = []
    names = [b"client %d" % number for number in range(80)]
    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not wrong
    found = rig.wait(lambda found: len(found) == 80 and all(one.complete for one in found))
    assert sorted(one.request_body() for one in found) == sorted(names)
    for one in found:
        assert one.body() == expected(one.request_body())


def limit_files(rig: Recorded, size: int) -> None:
    (writer,) = rig.writers()
    for pid in (rig.proxy.process.pid, writer):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def test_a_full_disk_harms_nothing_and_recording_resumes(rig: Recorded) -> None:
    body = b"x" * 300_000
    rig.fresh(answering(body))
    lines = rig.proxy.log.count("cannot record")
    limit_files(rig, 100_000)
    try:
        for _ in range(3):
            with rig.client() as client:
                assert client.ask(request()).body == body
        broken = rig.wait(lambda found: len(found) == 3 and all(one.end is not None for one in found))
    finally:
        limit_files(rig, resource.RLIM_INFINITY)
    for one in broken:
        assert (one.state, one.error) == ("incomplete", "the recording broke off: File too large")
        assert one.body() == body[: len(one.body())]
    with rig.client() as client:
        assert client.ask(request()).body == body
    found = rig.wait(lambda found: sum(one.complete for one in found) == 1)
    assert next(one for one in found if one.complete).body() == body
    rig.proxy.wait_for("cannot record into .*: File too large")
    assert rig.proxy.log.count("cannot record") == lines + 1


def test_a_full_disk_leaves_no_empty_folders(rig: Recorded) -> None:
    rig.fresh(answering(b"ok"))
    lines = rig.proxy.log.count("cannot record")
    limit_files(rig, 0)
    try:
        with rig.client() as client:
            assert client.ask(request()).body == b"ok"
        until(lambda: rig.folder.exists() and not rig.folders(), rig.folders)
    finally:
        limit_files(rig, resource.RLIM_INFINITY)
    assert rig.proxy.log.count("cannot record") <= lines + 1


def test_a_folder_that_vanishes(rig: Recorded) -> None:
    go = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
        assert go.wait(TIMEOUT)
        peer.send(chunk(EVENT) * 3 + b"0\r\n\r\n")

    rig.fresh(script)
    with rig.client() as client:
        begin(rig, client)
        shutil.rmtree(rig.folder)
        go.set()
        for _ in range(3):
            assert client.chunk() == EVENT
        assert client.chunk() == b""
    rig.script(answering(b"ok"))
    with rig.client() as client:
        assert client.ask(request()).body == b"ok"
    assert rig.one().body() == b"ok"  # into a new folder
    assert rig.folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_to(rig: Recorded) -> None:
    rig.fresh(answering(b"ok"))
    rig.folder.touch()  # a file in its place: root may write anywhere else
    try:
        with rig.client() as client:
            assert client.ask(request()).body == b"ok"
        rig.proxy.wait_for("cannot record into .*: Not a directory")
    finally:
        rig.folder.unlink()
    with rig.client() as client:
        assert client.ask(request()).body == b"ok"
    assert rig.one().body() == b"ok"


def test_a_too_long_path_ends_the_start(home: Path) -> None:
    with Proxy("http://127.0.0.1:1", "--set", "x402_dump=" + "x" * 300, home=home, expect_listen=False) as proxy:
        line = proxy.wait_for("x402_dump")
        assert "cannot record there: File name too long; expected a folder" in line
        assert proxy.wait_for_end() == 1


def test_changes_at_run_time(rig: Recorded) -> None:
    go = threading.Event()

    def script(peer: Peer, upstream: Upstream) -> None:
        asked = upstream.read(peer)
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT) * 3)
        if b"/set" not in asked.start:
            assert go.wait(TIMEOUT)
        peer.send(b"0\r\n\r\n")

    other = rig.proxy.home / "other"
    rig.fresh(script)
    try:
        with rig.client() as client:
            begun = begin(rig, client)
            assert "cannot record there" in set_options(rig.proxy, "x402_dump=nowhere/deep")
            assert "filter expression" in set_options(rig.proxy, "x402_dump_filter=~nonsense (")
            assert set_options(rig.proxy, "x402_dump=other", "x402_dump_filter=~u /set") == "taken"
            go.set()
            assert client.chunk() == b""
        until(lambda: read_recording(begun.folder).complete)  # what was under way goes on where it was
        assert set_options(rig.proxy) == ""
        until(lambda: any(read_recording(head.parent).complete for head in other.glob("*/flow.json")))
        count = len(rig.folders())
        assert set_options(rig.proxy, "x402_dump=") == "taken"
        assert set_options(rig.proxy) == ""
        assert len(rig.folders()) == count
    finally:
        assert set_options(rig.proxy, "x402_dump=rec", "x402_dump_filter=") == "taken"
    assert not (rig.proxy.home / "nowhere").exists()


def test_without_native_the_folder_goes(rig: Recorded) -> None:
    rig.fresh(answering(b"x" * 1000))
    assert set_options(rig.proxy, "x402_dump_format=har,mitm") == "taken"
    try:
        with rig.client() as client:
            assert client.ask(request("GET", "/one")).status == 200
    finally:
        assert set_options(rig.proxy, "x402_dump_format=native") == "taken"
    rig.catch_up_with_all()
    assert {one.request.path.partition("/last")[0] for one in read_recordings(rig.folder)} == {"/set", ""}
    (har,), (mitm,) = rig.folder.glob("*.har"), rig.folder.glob("*.mitm")
    entry, _ = json.loads(har.read_bytes())["log"]["entries"]
    assert (entry["request"]["url"], entry["response"]["bodySize"]) == (f"{rig.upstream.url}/one", 1000)
    assert b"x" * 1000 in mitm.read_bytes()
