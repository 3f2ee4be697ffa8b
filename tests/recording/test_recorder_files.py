"""What writes recordings, without a proxy: names, files that stay bounded, and folders that survive trouble."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest

from mitmproxy_x402.recording.format import read_recording
from mitmproxy_x402.recording.names import extension, folder_name, rfc3339
from mitmproxy_x402.recording.writing.files import Folder, OpenFiles, replace_file
from support.recording.heads import head

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
        folder = Folder(str(tmp_path / "rec"), "one", OpenFiles())
        folder.make()
        folder.write_request("json", b"{}")
        folder.flush(head(answered=False))
        early = read_recording(folder.path)
        assert (early.complete, early.response, early.request_body()) == (False, None, b"{}")
        folder.begin_response("sse", "")
        folder.add((0.5, 0.6), (7, 2), b"data: 1\n\n")
        folder.flush(head())
        begun = (folder.path / "flow.json").stat()
        folder.add((0.7,), (9,), b"data: 2\n\n")
        folder.flush(None)
        # There was nothing to say that it does not say.
        assert (folder.path / "flow.json").stat().st_ino == begun.st_ino
        growing = read_recording(folder.path)
        assert growing.response is not None
        assert (growing.state, growing.response.sha256) == ("incomplete", None)
        assert growing.body() == (folder.path / "response.sse").read_bytes() == b"data: 1\n\ndata: 2\n\n"
        folder.close()
        folder.end(head(state="complete"))
        found = read_recording(folder.path)
        assert found.complete
        assert [piece for _, piece in found.pieces()] == [b"data: 1", b"\n\n", b"data: 2\n\n"]
        assert found.response is not None
        assert found.response.sha256 == hashlib.sha256(found.body()).hexdigest()
        assert {file.stat().st_mode & 0o777 for file in folder.path.iterdir()} == {0o600}
        assert {path.stat().st_mode & 0o777 for path in (folder.path, tmp_path / "rec")} == {0o700}

    def test_the_head_tells_of_the_first_chunk(self, tmp_path: Path) -> None:
        folder = Folder(str(tmp_path), "one", OpenFiles())
        folder.make()
        folder.begin_response("sse", "")
        folder.flush(head())
        assert read_recording(folder.path).body() == b""
        folder.add((0.5,), (9,), b"data: 1\n\n")
        folder.flush(None)
        assert read_recording(folder.path).body() == b"data: 1\n\n"

    def test_of_one_name_there_may_be_several(self, tmp_path: Path) -> None:
        for _ in range(3):
            Folder(str(tmp_path), "one", OpenFiles()).make()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "one-2", "one-3"]

    def test_removed_without_a_trace_but_not_what_others_put_there(self, tmp_path: Path) -> None:
        for foreign in (False, True):
            folder = Folder(str(tmp_path), "one", OpenFiles())
            folder.make()
            folder.write_request("json", b"{}")
            folder.begin_response("sse", "deflate")
            folder.add((0.1,), (9,), bytes.fromhex("789c4b04000062 0062"))
            assert (folder.path / "response.decoded.sse").read_bytes() == b"a"
            folder.close()
            folder.end(head())
            if foreign:
                (folder.path / "mine").touch()
                with pytest.raises(OSError, match="not empty"):
                    folder.remove()
            else:
                folder.remove()
        assert [path.name for path in tmp_path.rglob("*")] == ["one", "mine"]

    def test_a_coding_that_is_not_known(self, tmp_path: Path) -> None:
        folder = Folder(str(tmp_path), "one", OpenFiles())
        folder.make()
        folder.begin_response("sse", "snappy")
        folder.add((0.1,), (3,), b"xyz")
        folder.close()
        folder.end(head("snappy", state="complete"))
        ended = read_recording(folder.path)
        assert ended.notes == ("not decoded: the coding 'snappy' is not known here",)
        assert ended.decoded_body() == ended.body() == b"xyz"
