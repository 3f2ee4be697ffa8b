"""What writes recordings, without a proxy: files that stay bounded, folders that survive trouble, the waiting line."""

from __future__ import annotations

import functools
import gzip
import hashlib
import logging
import resource
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from mitmproxy_x402.recording import thread as recorder_thread
from mitmproxy_x402.recording.files import MAX_CHUNKS, Folder, OpenFiles, replace_file
from mitmproxy_x402.recording.format import read_recording, read_recordings
from mitmproxy_x402.recording.names import extension, folder_name, rfc3339
from mitmproxy_x402.recording.redact import Redactor
from mitmproxy_x402.recording.snapshot import Snapshot
from mitmproxy_x402.recording.thread import Begin, End, Job, Outputs, Response, Writer
from support.patience import eventually

WHEN = datetime(2025, 7, 8, 9, 15, 0, 123_999, timezone.utc).timestamp()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk does: a file can be written up to here, and no further."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


SSE = "text/event-stream"


def plain(coding: str = "", state: str = "open", *, answered: bool = True) -> Snapshot:
    flow = tflow.tflow()
    if answered:
        flow.response = http.Response.make(200, b"", {"Content-Type": SSE, "X-Key": "k-1"})
        flow.response.timestamp_start = flow.request.timestamp_start + 0.5
        if coding:
            flow.response.headers["Content-Encoding"] = coding
    found = Snapshot(flow, REDACTOR)
    found.state = state
    return found


REDACTOR = Redactor("a-token")


def known(coding: str = "", **more: Any) -> Callable[[], Snapshot]:
    return functools.partial(plain, coding, **more)


class TestNames:
    @pytest.mark.parametrize(
        ("content_type", "expected"),
        [
            ("text/event-stream; charset=utf-8", "sse"),
            ("APPLICATION/JSON", "json"),
            ("application/problem+json", "json"),
            ("audio/mpeg", "mp3"),
            ("text/html", "html"),
            ("text/x-unknown", "txt"),
            ("application/atom+xml", "xml"),
            ("application/octet-stream", "bin"),
            ("", "bin"),
            ("../../etc/passwd", "bin"),
            ("text/../x", "txt"),
        ],
    )
    def test_extensions(self, content_type: str, expected: str) -> None:
        assert extension(content_type) == expected

    @pytest.mark.parametrize(
        ("method", "path", "expected"),
        [
            ("POST", "/v1/chat/completions?a=b", "POST-v1-chat-completions"),
            ("GET", "/", "GET"),
            ("GET", "", "GET"),
            ("OPTIONS", "*", "OPTIONS"),
            ("GET", "/../../etc/passwd", "GET-etc-passwd"),
            ("GET", "/..//./...x/..", "GET-x"),
            ("GET", "/" + "a/" * 3000, "GET-" + "-".join("a" * 30)),
            ("GET", "/\xe4\xf6\u20ac/\0\n\x1b[2J", "GET-2J"),
            ("GET/../../x", "/y", "GET-.-.-x-y"),
            ("M" * 300, "/", "M" * 16),
            ("GET", "/v1beta/models/gemini-2.5:generate", "GET-v1beta-models-gemini-2.5-generate"),
        ],
    )
    def test_folders(self, method: str, path: str, expected: str) -> None:
        name = folder_name(rfc3339(WHEN), 7, method, path)
        assert name == f"20250708T091500.123Z-000007-{expected}"
        assert len(name) <= 110
        assert Path("/x", name).resolve().parent == Path("/x")


class TestOpenFiles:
    def test_few_stay_open(self, tmp_path: Path) -> None:
        files, before = OpenFiles(3), descriptors()
        for round_ in range(3):
            for number in range(10):
                files.write(str(tmp_path / str(number)), b"ab", round_ * 2)
        assert descriptors() == before + 3
        assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"ababab"}
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
        files.close(*map(str, tmp_path.iterdir()))
        assert descriptors() == before

    def test_nothing_half_is_left_where_the_disk_is_full(self, tmp_path: Path) -> None:
        files = OpenFiles()
        files.write(str(tmp_path / "x"), b"a" * 900, 0)
        with files_of_at_most(1000), pytest.raises(OSError, match="too large"):
            files.write(str(tmp_path / "x"), b"b" * 200, 900)
        assert (tmp_path / "x").read_bytes() == b"a" * 900
        files.write(str(tmp_path / "x"), b"b" * 200, 900)
        assert (tmp_path / "x").read_bytes() == b"a" * 900 + b"b" * 200
        files.close(str(tmp_path / "x"))

    def test_never_through_a_link_never_over_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("precious")
        (tmp_path / "link").symlink_to("target")
        for name in ("link", "target"):
            with pytest.raises(OSError, match="exists"):
                OpenFiles().write(str(tmp_path / name), b"x", 0)
        with pytest.raises(OSError, match=r"symbolic|loop"):
            OpenFiles().write(str(tmp_path / "link"), b"x", 5)
        assert (tmp_path / "target").read_text() == "precious"

    def test_what_has_vanished_is_not_made_again(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            OpenFiles().write(str(tmp_path / "x"), b"more", 100)
        assert list(tmp_path.iterdir()) == []

    def test_a_file_is_replaced_whole_or_not_at_all(self, tmp_path: Path) -> None:
        replace_file(str(tmp_path / "x"), b"old")
        assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
        with files_of_at_most(1000), pytest.raises(OSError, match="too large"):
            replace_file(str(tmp_path / "x"), b"b" * 2000)
        assert [file.name for file in tmp_path.iterdir()] == ["x"]
        assert (tmp_path / "x").read_bytes() == b"old"


class TestFolder:
    def test_a_whole_life(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path / "rec", "one", OpenFiles())
        folder.begin(known(answered=False), "application/json", b"{}")
        folder.flush()
        early = read_recording(folder.path)
        assert (early.complete, early.response, early.request_body()) == (False, None, b"{}")
        folder.begin_response(plain, SSE, "")
        folder.add([(0.5, b"data: 1"), (0.6, b"\n\n")])
        folder.flush()
        begun = (folder.path / "flow.json").stat()
        folder.add([(0.7, b"data: 2\n\n")])
        folder.flush()
        # There was nothing to say that it does not say.
        assert (folder.path / "flow.json").stat().st_ino == begun.st_ino
        growing = read_recording(folder.path)
        assert (growing.state, growing.body()) == ("incomplete", b"data: 1\n\ndata: 2\n\n")
        assert (folder.path / "response.sse").read_bytes() == b"data: 1\n\ndata: 2\n\n"
        folder.close()
        whole = plain(state="complete")
        ended = whole.recording(folder.end(whole))
        found = read_recording(folder.path)
        assert found == ended
        assert [piece for _, piece in found.pieces()] == [b"data: 1", b"\n\n", b"data: 2\n\n"]
        assert found.response is not None
        assert found.response.sha256 == hashlib.sha256(found.body()).hexdigest()
        assert {file.stat().st_mode & 0o777 for file in folder.path.iterdir()} == {0o600}
        assert {path.stat().st_mode & 0o777 for path in (folder.path, tmp_path / "rec")} == {0o700}

    def test_of_one_name_there_may_be_several(self, tmp_path: Path) -> None:
        for _ in range(3):
            Folder(tmp_path, "one", OpenFiles()).begin(plain, "", None)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "one-2", "one-3"]

    def test_removed_without_a_trace_but_not_what_others_put_there(self, tmp_path: Path) -> None:
        for foreign in (False, True):
            folder = Folder(tmp_path, "one", OpenFiles())
            folder.begin(known("deflate"), "application/json", b"{}")
            folder.begin_response(known("deflate"), SSE, "deflate")
            folder.add([(0.1, bytes.fromhex("789c4b04000062 0062"))])
            assert (folder.path / "response.decoded.sse").read_bytes() == b"a"
            folder.close()
            folder.end(plain())
            if foreign:
                (folder.path / "mine").touch()
                with pytest.raises(OSError, match="not empty"):
                    folder.remove()
            else:
                folder.remove()
        assert [path.name for path in tmp_path.rglob("*")] == ["one", "mine"]

    def test_a_coding_that_is_not_known(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path, "one", OpenFiles())
        folder.begin(plain, "", None)
        folder.begin_response(known("snappy"), SSE, "snappy")
        folder.add([(0.1, b"xyz")])
        folder.close()
        whole = plain(coding="snappy", state="complete")
        ended = whole.recording(folder.end(whole))
        assert ended.notes == ("not decoded: the coding 'snappy' is not known here",)
        assert ended.decoded_body() == ended.body() == b"xyz"


class TestWriter:
    def job(self, parent: Path, name: str = "one") -> Job:
        return Job(parent, name, Outputs(native=True))

    def test_in_order_and_all_of_it(self, tmp_path: Path) -> None:
        writer = Writer()
        jobs = [self.job(tmp_path, str(number)) for number in range(20)]
        for job in jobs:
            writer.put(Begin(job, plain, "application/json", b"{}"))
            writer.put(Response(job, plain, SSE, ""))
        for number in range(100):
            for job in jobs:
                writer.put((job, number / 100, b"%s %d\n" % (job.name.encode(), number)))
        for job in jobs:
            writer.put(End(job, plain(state="complete")))
        assert writer.close(20)
        found = read_recordings(tmp_path)
        assert len(found) == 20
        for one in found:
            name = one.folder.name.encode()
            assert [piece for _, piece in one.pieces()] == [b"%s %d\n" % (name, number) for number in range(100)]
            assert one.complete
        assert writer.has_room(recorder_thread.MAX_WAITING)

    @pytest.mark.parametrize("coding", ["", "deflate"])
    def test_what_is_over_at_once_has_its_chunks_in_the_head(self, tmp_path: Path, coding: str) -> None:
        writer, job = Writer(), self.job(tmp_path)
        pieces = [b"data: 1\n\n", b"data: 2\n\n"]
        data = zlib.compress(b"".join(pieces)) if coding else b"".join(pieces)
        writer.put(Begin(job, plain, "application/json", b"{}"))
        writer.put(Response(job, known(coding), SSE, coding))
        writer.put((job, 0.1, data[:9]))
        writer.put((job, 0.2000004, data[9:]))
        writer.put(End(job, plain(coding, state="complete")))
        assert writer.close(20)
        found = read_recording(tmp_path / "one")
        assert [chunk.seconds for chunk in found.chunks()] == [0.1, 0.2]
        assert (found.body(), found.decoded_body(), found.complete) == (data, b"".join(pieces), True)
        assert found.response is not None
        assert found.response.sha256 == hashlib.sha256(data).hexdigest()
        names = {"flow.json", "request.json", "response.sse", *(["response.decoded.sse"] if coding else [])}
        assert {file.name for file in (tmp_path / "one").iterdir()} == names
        assert {file.stat().st_mode & 0o777 for file in (tmp_path / "one").iterdir()} == {0o600}

    @pytest.mark.parametrize(("change", "said"), [(-4, "the coding ends early"), (4, "something follows its end")])
    def test_how_a_coding_ends_is_told(self, tmp_path: Path, change: int, said: str) -> None:
        writer, job = Writer(), self.job(tmp_path)
        data = gzip.compress(b"data: 1\n\n")
        data = data[:change] if change < 0 else data + b"\0" * change
        writer.put(Begin(job, plain, "", None))
        writer.put(Response(job, known("gzip"), SSE, "gzip"))
        writer.put((job, 0.1, data))
        writer.put(End(job, plain("gzip", state="complete")))
        assert writer.close(20)
        found = read_recording(tmp_path / "one")
        assert (found.notes, found.body()) == ((f"decoded to 9 bytes: {said}",), data)

    def test_many_chunks_have_a_file(self, tmp_path: Path) -> None:
        writer, job = Writer(), self.job(tmp_path)
        writer.put(Begin(job, plain, "", None))
        writer.put(Response(job, plain, SSE, ""))
        for number in range(MAX_CHUNKS + 1):
            writer.put((job, number, b"x"))
        writer.put(End(job, plain(state="complete")))
        assert writer.close(20)
        assert len((tmp_path / "one" / "chunks.jsonl").read_text().splitlines()) == MAX_CHUNKS + 1
        assert len(read_recording(tmp_path / "one").chunks()) == MAX_CHUNKS + 1

    def test_what_goes_on_is_there_before_its_end(self, tmp_path: Path) -> None:
        writer, job = Writer(), self.job(tmp_path)
        writer.put(Begin(job, plain, "application/json", b"{}"))
        eventually((tmp_path / "one" / "flow.json").exists)
        writer.put(Response(job, plain, SSE, ""))
        writer.put((job, 0.1, b"data: 1\n\n"))
        eventually((tmp_path / "one" / "response.sse").exists)
        writer.put((job, 0.2, b"data: 2\n\n"))
        writer.put(End(job, plain(state="complete")))
        assert writer.close(20)
        found = read_recording(tmp_path / "one")
        assert list(found.pieces()) == [(0.1, b"data: 1\n\n"), (0.2, b"data: 2\n\n")]
        assert (found.complete, found.in_head) == (True, None)
        assert writer.has_room(recorder_thread.MAX_WAITING)

    def test_what_waits_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorder_thread, "MAX_WAITING", 100_000)
        job = self.job(tmp_path)
        writer = Writer()
        writer.put(Begin(job, plain, "", None))
        reached = threading.Event()
        stuck = End(self.job(tmp_path, "two"), plain(), {}, lambda *_: reached.wait(20) and False)
        writer.put(Begin(stuck.job, plain, "", None))
        writer.put(stuck)
        writer.put(End(self.job(tmp_path, "three"), plain(), {}, None, 90_000))
        assert not writer.has_room(50_000)
        reached.set()
        assert writer.close(20)
        assert writer.has_room(50_000)
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["one"]

    def test_trouble_ends_one_recording_and_is_told_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer = Writer()
        bad = tmp_path / "bad"
        bad.touch()  # no folder
        jobs = [self.job(bad, str(number)) for number in range(5)] + [self.job(tmp_path / "good")]
        with caplog.at_level(logging.ERROR):
            for job in jobs:
                writer.put(Begin(job, plain, "application/json", b"{}"))
                writer.put(Response(job, plain, SSE, ""))
                writer.put((job, 0.1, b"abc"))
                writer.put(End(job, plain(state="complete")))
            assert writer.close(20)
        (found,) = read_recordings(tmp_path / "good")
        assert (found.body(), found.complete) == (b"abc", True)
        (line,) = caplog.messages
        assert f"cannot record into {bad}: Not a directory" in line
        assert "\n" not in line

    def test_a_full_disk_leaves_what_came_before(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        writer, job = Writer(), self.job(tmp_path)
        with files_of_at_most(3000), caplog.at_level(logging.ERROR):
            writer.put(Begin(job, plain, "application/json", b"{}"))
            writer.put(Response(job, plain, SSE, ""))
            for number in range(10):
                writer.put((job, number, b"x" * 999))
            writer.put(End(job, plain(state="complete")))
            assert writer.close(20)
        found = read_recording(tmp_path / "one")
        assert (found.state, found.error) == ("incomplete", "the recording broke off: File too large")
        assert set(found.body()) <= {ord("x")}
        assert len(found.body()) == sum(chunk.size for chunk in found.chunks()) <= 3000
        assert len(caplog.messages) == 1

    @pytest.mark.parametrize("fault", ["RuntimeError", "RecursionError"])
    def test_a_fault_ends_no_more_than_its_recording(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
    ) -> None:
        def fail(*_: Any) -> bool:
            raise {"RuntimeError": RuntimeError, "RecursionError": RecursionError}[fault]("with a secret")

        writer = Writer()
        for name, wanted in (("one", fail), ("two", None)):
            job = self.job(tmp_path, name)
            writer.put(Begin(job, plain, "application/json", b"{}"))
            writer.put(End(job, plain(state="complete"), {}, wanted))
        assert writer.close(20)
        assert [found.complete for found in read_recordings(tmp_path)] == [True, True]
        (line,) = caplog.messages
        assert fault in line
        assert "secret" not in line
