"""What both kinds of writers do with the parts of recordings, in a process and in threads."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import resource
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import brotli
import pytest

from mitmproxy_x402.recording.format import read_recording, read_recordings
from mitmproxy_x402.recording.writing.files import MAX_CHUNKS
from mitmproxy_x402.recording.writing.parts import Part
from mitmproxy_x402.recording.writing.process import TOGETHER, ProcessWriter
from mitmproxy_x402.recording.writing.store import Complaints
from mitmproxy_x402.recording.writing.thread import ThreadWriter
from support.recording import zstd
from support.recording.heads import head

KINDS = ("process", "thread")
both = pytest.mark.parametrize("kind", KINDS)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk does, to this process and those that it starts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(kind: str, *rounds: Sequence[Part]) -> list[str]:
    """Have `rounds` written one after the other. Returns what was complained of."""
    told: list[str] = []

    def tell(folder: str, cause: str) -> None:
        told.append(f"{folder}: {cause}")

    async def run() -> None:
        if kind == "thread":
            writer = ThreadWriter(tell)
            for parts in rounds:
                writer.write(parts, 100)
            assert writer.close(20) is None
            assert writer.waiting == 0
            return
        process = ProcessWriter(asyncio.get_running_loop(), tell, lambda: None)
        process.wait_until_ready(20)
        for parts in rounds:
            process.write(parts)
        assert process.close(20) is None

    asyncio.run(run())
    return told


def begun(parent: Path, number: int = 1, name: str = "one", body: bytes = b"{}", coding: str = "") -> Part:
    place = os.fsencode(parent), name
    return Part(number, place, "json", body, answer=("sse", coding), head=head(coding))


def whole(parent: Path, chunks: Sequence[tuple[float, bytes]], **more: object) -> Part:
    coding = str(more.get("coding", ""))
    return added(begun(parent, **more), chunks)._replace(head=head(coding, state="complete"), is_over=True)  # type: ignore[arg-type]


def added(part: Part, chunks: Sequence[tuple[float, bytes]]) -> Part:
    data = [data for _, data in chunks]
    return part._replace(times=tuple(seconds for seconds, _ in chunks), sizes=tuple(map(len, data)), data=data)


def over(number: int = 1) -> Part:
    return Part(number, head=head(state="complete"), is_over=True)


@both
class TestBoth:
    def test_in_order_and_all_of_it(self, tmp_path: Path, kind: str) -> None:
        numbers = range(20)
        rounds = [[begun(tmp_path, number, str(number)) for number in numbers]]
        steps = range(100)
        rounds += [[added(Part(n), [(step / 100, b"%d %d\n" % (n, step))]) for n in numbers] for step in steps]
        rounds.append([over(number) for number in numbers])
        assert not write(kind, *rounds)
        found = read_recordings(tmp_path)
        assert len(found) == 20
        for one in found:
            name = one.folder.name.encode()
            assert [piece for _, piece in one.pieces()] == [b"%s %d\n" % (name, number) for number in range(100)]
            assert one.response is not None
            assert one.response.sha256 == hashlib.sha256(one.body()).hexdigest()
            assert one.complete

    def test_large_bodies(self, tmp_path: Path, kind: str) -> None:
        blocks = [bytes([number]) * (TOGETHER + number) for number in range(70)]
        one = begun(tmp_path, body=b"asked" * TOGETHER)
        other = whole(tmp_path, [(0.1, b"small")], number=2, name="two")
        assert not write(kind, [added(one, [(0.1, block) for block in blocks]), other], [over()])
        found, small = read_recordings(tmp_path)
        assert found.request_body() == b"asked" * TOGETHER
        assert [piece for _, piece in found.pieces()] == blocks
        assert small.body() == b"small"

    @pytest.mark.parametrize("coding", ["", "deflate"])
    def test_what_is_over_at_once_has_its_chunks_in_the_head(self, tmp_path: Path, kind: str, coding: str) -> None:
        pieces = [b"data: 1\n\n", b"data: 2\n\n"]
        data = zlib.compress(b"".join(pieces)) if coding else b"".join(pieces)
        write(kind, [whole(tmp_path, [(0.1, data[:9]), (0.2000004, data[9:])], coding=coding)])
        found = read_recording(tmp_path / "one")
        assert [chunk.seconds for chunk in found.chunks()] == [0.1, 0.2]
        assert (found.body(), found.decoded_body(), found.complete) == (data, b"".join(pieces), True)
        assert found.response is not None
        assert found.response.sha256 == hashlib.sha256(data).hexdigest()
        names = {"flow.json", "request.json", "response.sse", *(["response.decoded.sse"] if coding else [])}
        assert {file.name for file in (tmp_path / "one").iterdir()} == names
        assert {file.stat().st_mode & 0o777 for file in (tmp_path / "one").iterdir()} == {0o600}

    @pytest.mark.parametrize(("change", "said"), [(-4, "the coding ends early"), (4, "something follows its end")])
    def test_how_a_coding_ends_is_told(self, tmp_path: Path, kind: str, change: int, said: str) -> None:
        data = gzip.compress(b"data: 1\n\n")
        data = data[:change] if change < 0 else data + b"\0" * change
        write(kind, [whole(tmp_path, [(0.1, data)], coding="gzip")])
        found = read_recording(tmp_path / "one")
        assert (found.notes, found.body()) == ((f"decoded to 9 bytes: {said}",), data)

    @pytest.mark.parametrize("coding", ["br", "zstd"])
    def test_codings_of_other_packages(self, tmp_path: Path, kind: str, coding: str) -> None:
        data = brotli.compress(b"data: 1\n\n") if coding == "br" else zstd.compress(b"data: 1\n\n")
        write(kind, [whole(tmp_path, [(0.1, data)], coding=coding)])
        found = read_recording(tmp_path / "one")
        assert (found.notes, found.decoded_body()) == ((), b"data: 1\n\n")

    def test_many_chunks_have_a_file(self, tmp_path: Path, kind: str) -> None:
        write(kind, [whole(tmp_path, [(number, b"x") for number in range(MAX_CHUNKS + 1)])])
        assert len((tmp_path / "one" / "chunks.jsonl").read_text().splitlines()) == MAX_CHUNKS + 1
        assert len(read_recording(tmp_path / "one").chunks()) == MAX_CHUNKS + 1

    def test_a_request_that_has_changed(self, tmp_path: Path, kind: str) -> None:
        write(kind, [begun(tmp_path)], [Part(1, request="txt", body=b"other", head=head())], [over()])
        found = read_recording(tmp_path / "one")
        assert (found.request.body, found.request_body()) == ("request.json", b"other")

    def test_trouble_ends_one_recording_and_is_told_once(self, tmp_path: Path, kind: str) -> None:
        bad = tmp_path / "b\xe4d \udcff"
        bad.touch()  # no folder
        parts = [whole(bad, [(0.1, b"abc")], number=number, name=str(number)) for number in range(5)]
        told = write(kind, [*parts, whole(tmp_path, [(0.1, b"abc")], number=9)])
        (found,) = read_recordings(tmp_path)
        assert (found.body(), found.complete) == (b"abc", True)
        assert told == [f"{bad}: Not a directory"]

    def test_a_full_disk_leaves_what_came_before(self, tmp_path: Path, kind: str) -> None:
        blocks = [[added(Part(1), [(number, b"x" * 999)])] for number in range(10)]
        with files_of_at_most(3000):
            told = write(kind, [begun(tmp_path)], *blocks, [over()])
        found = read_recording(tmp_path / "one")
        assert (found.state, found.error) == ("incomplete", "the recording broke off: File too large")
        assert found.body() == b"x" * 2997
        assert len(found.body()) == sum(chunk.size for chunk in found.chunks())
        assert found.response is not None
        assert found.response.sha256 == hashlib.sha256(found.body()).hexdigest()
        assert told == [f"{tmp_path}: File too large"]

    def test_a_full_disk_that_takes_no_request(self, tmp_path: Path, kind: str) -> None:
        with files_of_at_most(3000):
            write(kind, [begun(tmp_path, body=b"x" * 5000)], [added(Part(1), [(0.1, b"abc")])], [over()])
        found = read_recording(tmp_path / "one")
        assert (found.state, found.error) == ("incomplete", "the recording broke off: File too large")
        assert (found.request.body, found.request.size, found.request_body()) == (None, 0, b"")
        assert found.notes == ("the request's body of 5,000 bytes could not be written: File too large",)

    def test_what_nobody_ends_stays_open_and_is_forgotten(self, tmp_path: Path, kind: str) -> None:
        write(kind, [added(begun(tmp_path), [(0.1, b"abc")])], [Part(1, is_over=True)], [over()])
        found = read_recording(tmp_path / "one")
        assert (found.error, found.body()) == ("the recording was interrupted", b"abc")


def test_the_same_trouble_is_told_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    complaints = Complaints(lambda folder, cause: told.append(f"{folder} {cause}"))
    for now in (1000.0, 1001.0, 1059.0, 1061.0, 1062.0):
        complaints.add("x", "full")
        complaints.add("x", f"other {now}")
    assert told.count("x full") == 2
